//! What `tailscale serve status --json` shows, and whose it is.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The only port that Serve and Funnel both have by default.
pub(super) const HTTPS_PORT: u16 = 443;

/// `ipn.ServeConfig`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ServeConfig {
    #[serde(rename = "TCP")]
    tcp: BTreeMap<String, Value>,
    web: BTreeMap<String, Web>,
    allow_funnel: BTreeMap<String, bool>,
    foreground: BTreeMap<String, Self>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Web {
    handlers: BTreeMap<String, Handler>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Handler {
    proxy: Option<String>,
    path: Option<String>,
}

/// Who has the port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// It is free.
    Nobody,
    /// This gateway.
    Us {
        /// Whether the internet reaches it.
        funnel: bool,
    },
    /// Something else: what it is.
    Other(String),
}

impl ServeConfig {
    /// Returns who has the port of this host's name.
    pub(super) fn holder(&self, name: &str, target: &str) -> Holder {
        let port = HTTPS_PORT.to_string();
        if let Some(session) = self.foreground.values().find(|it| it.tcp.contains_key(&port)) {
            return Holder::Other(format!("{} (in a terminal)", session.described()));
        }
        if !self.tcp.contains_key(&port) {
            return Holder::Nobody;
        }
        let place = format!("{name}:{port}");
        let handlers = self.web.get(&place).map(|web| &web.handlers);
        let ours = handlers.is_some_and(|handlers| {
            handlers.len() == 1 && handlers.get("/").is_some_and(|handler| handler.is_for(target))
        });
        if ours {
            let funnel = self.allow_funnel.get(&place).copied().unwrap_or_default();
            return Holder::Us { funnel };
        }
        Holder::Other(self.described())
    }

    fn described(&self) -> String {
        let port = HTTPS_PORT.to_string();
        let suffix = format!(":{port}");
        let web = self.web.iter().filter(|(place, _)| place.ends_with(&suffix));
        let routes: Vec<String> = web
            .flat_map(|(place, web)| {
                let host = place.trim_end_matches(&suffix);
                web.handlers
                    .iter()
                    .map(move |(mount, it)| format!("{host}{mount} → {}", it.described()))
            })
            .collect();
        match self.tcp.get(&port).and_then(|tcp| tcp.get("TCPForward")?.as_str()) {
            Some(forward) => format!("TCP → {forward}"),
            None if routes.is_empty() => "something that cannot be told".into(),
            None => routes.join(", "),
        }
    }
}

impl Handler {
    fn is_for(&self, target: &str) -> bool {
        let plain = |url: &str| url.trim_end_matches('/').replace("//localhost:", "//127.0.0.1:");
        self.proxy.as_deref().is_some_and(|proxy| plain(proxy) == plain(target))
    }

    fn described(&self) -> &str {
        self.proxy.as_deref().or(self.path.as_deref()).unwrap_or("a text")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holder(config: Value) -> Holder {
        let config: ServeConfig = serde_json::from_value(config).unwrap();
        config.holder("box.tail1234.ts.net", "http://127.0.0.1:18789")
    }

    fn web(handlers: Value) -> Value {
        json!({
            "TCP": { "443": { "HTTPS": true } },
            "Web": { "box.tail1234.ts.net:443": { "Handlers": handlers } },
        })
    }

    #[test]
    fn only_a_free_port_and_our_own_are_touched() {
        let ours = json!({ "/": { "Proxy": "http://127.0.0.1:18789" } });
        assert_eq!(holder(json!({})), Holder::Nobody);
        let elsewhere = json!({ "TCP": { "8443": { "HTTPS": true } } });
        assert_eq!(holder(elsewhere), Holder::Nobody);
        assert_eq!(holder(web(ours.clone())), Holder::Us { funnel: false });
        let mut public = web(ours.clone());
        public["AllowFunnel"] = json!({ "box.tail1234.ts.net:443": true });
        assert_eq!(holder(public), Holder::Us { funnel: true });
        for (foreign, told) in [
            (web(json!({ "/": { "Proxy": "http://127.0.0.1:3000" } })), "127.0.0.1:3000"),
            (web(json!({ "/": { "Path": "/srv/www" } })), "/srv/www"),
            (
                web(json!({ "/": ours["/"], "/mine": { "Proxy": "http://127.0.0.1:1" } })),
                "/mine → http://127.0.0.1:1",
            ),
            (json!({ "TCP": { "443": { "TCPForward": "127.0.0.1:22" } } }), "127.0.0.1:22"),
            (json!({ "Foreground": { "s": web(ours.clone()) } }), "in a terminal"),
        ] {
            let Holder::Other(what) = holder(foreign.clone()) else { panic!("{foreign}") };
            assert!(what.contains(told), "{what}");
        }
    }
}
