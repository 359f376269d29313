//! Which server a model is asked at, in which dialect, and with which key.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use genai::{
    ModelIden, ServiceTarget,
    adapter::AdapterKind,
    resolver::{AuthData, Endpoint},
};
use reqwest::Url;
use serde_json::Value;

use crate::{
    config::{Config, Provider, ProviderModel},
    providers::{ModelRef, ProviderError},
};

/// Everything needed to ask one model.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Where and how.
    pub(super) service: ServiceTarget,
    /// Further request headers.
    pub(super) headers: Vec<(String, String)>,
    /// What the configuration says of the model.
    pub(super) settings: Option<ProviderModel>,
    /// What messages about it may say.
    pub(super) names: Names,
}

/// How a server is called in messages, and what they must not contain.
#[derive(Clone)]
pub(super) struct Names {
    /// Name of the provider.
    pub(super) provider: String,
    /// Scheme, host and port.
    pub(super) origin: String,
    /// Where the key came from.
    pub(super) key_source: String,
    /// The key and the values of headers.
    pub(super) secrets: Vec<String>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// A provider that needs no address in the configuration.
struct Known {
    name: &'static str,
    kind: AdapterKind,
    base_url: &'static str,
    variables: &'static [&'static str],
}

const KNOWN: &[Known] = &[
    Known {
        name: "anthropic",
        kind: AdapterKind::Anthropic,
        base_url: "https://api.anthropic.com/v1/",
        variables: &["ANTHROPIC_API_KEY"],
    },
    Known {
        name: "openai",
        kind: AdapterKind::OpenAI,
        base_url: "https://api.openai.com/v1/",
        variables: &["OPENAI_API_KEY"],
    },
    Known {
        name: "google",
        kind: AdapterKind::Gemini,
        base_url: "https://generativelanguage.googleapis.com/v1beta/",
        variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
    },
    Known {
        name: "openrouter",
        kind: AdapterKind::OpenAI,
        base_url: "https://openrouter.ai/api/v1/",
        variables: &["OPENROUTER_API_KEY"],
    },
    Known {
        name: "groq",
        kind: AdapterKind::Groq,
        base_url: "https://api.groq.com/openai/v1/",
        variables: &["GROQ_API_KEY"],
    },
    Known {
        name: "xai",
        kind: AdapterKind::Xai,
        base_url: "https://api.x.ai/v1/",
        variables: &["XAI_API_KEY"],
    },
    Known {
        name: "deepseek",
        kind: AdapterKind::DeepSeek,
        base_url: "https://api.deepseek.com/v1/",
        variables: &["DEEPSEEK_API_KEY"],
    },
    Known {
        name: "mistral",
        kind: AdapterKind::Mistral,
        base_url: "https://api.mistral.ai/v1/",
        variables: &["MISTRAL_API_KEY"],
    },
    Known {
        name: "ollama",
        kind: AdapterKind::Ollama,
        base_url: "http://127.0.0.1:11434/",
        variables: &[],
    },
];

const APIS: &[(&str, AdapterKind)] = &[
    ("openai-completions", AdapterKind::OpenAI),
    ("openai-responses", AdapterKind::OpenAIResp),
    ("anthropic-messages", AdapterKind::Anthropic),
    ("google-generative-ai", AdapterKind::Gemini),
    ("ollama", AdapterKind::Ollama),
];

/// Finds where a model is asked.
pub(super) fn find(config: &Config, model: &ModelRef) -> Result<Target, ProviderError> {
    let name = model.provider.as_str();
    let settings = config.models.providers.get(name);
    let known = known(name);
    if settings.is_none() && known.is_none() {
        return Err(unknown(name));
    }
    let kind = dialect(name, settings, known, &model.model)?;
    let base_url = base_url(name, settings, known, kind)?;
    let key = key(config, name, settings, known)
        .or_else(|| keyless(&base_url, kind))
        .ok_or_else(|| no_key(config, name, known))?;
    let headers: Vec<(String, String)> =
        settings.into_iter().flat_map(|provider| provider.headers.clone()).collect();
    let secrets = headers.iter().map(|(_, value)| value.clone()).chain([key.value.clone()]);
    Ok(Target {
        names: Names {
            provider: name.to_owned(),
            origin: base_url.origin().ascii_serialization(),
            key_source: key.source,
            secrets: secrets.filter(|secret| secret.len() >= MIN_SECRET).collect(),
        },
        service: ServiceTarget {
            endpoint: Endpoint::from_owned(base_url.as_str()),
            auth: AuthData::from_single(key.value),
            model: ModelIden::new(kind, model.model.as_str()),
        },
        headers,
        settings: settings
            .and_then(|provider| provider.models.iter().find(|entry| entry.id == model.model))
            .cloned(),
    })
}

impl Target {
    /// Returns a number that another server, dialect, key or header would change.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Self { service, headers, .. } = self;
        service.endpoint.base_url().hash(&mut hasher);
        format!("{:?}", service.model.adapter_kind).hash(&mut hasher);
        service.auth.single_key_value().ok().hash(&mut hasher);
        headers.hash(&mut hasher);
        hasher.finish()
    }
}

/// Returns what is wrong with a provider's entry by itself: the key below it, and why.
pub(super) fn oddities(name: &str, provider: &Provider) -> Vec<(&'static str, String)> {
    let known = known(name);
    let mut found = Vec::new();
    if let Err(error) = dialect(name, Some(provider), known, "") {
        found.push(("api", error.to_string()));
    }
    if known.is_none() && provider.base_url.trim().is_empty() {
        found.push(("baseUrl", format!("models.providers.{name}.baseUrl is missing")));
    }
    found
}

/// Shorter values are no secrets, and hiding them would garble messages.
const MIN_SECRET: usize = 6;

/// What servers that ask for no key are sent, because the header must hold
/// something.
const NO_KEY: &str = "none";

struct Key {
    value: String,
    source: String,
}

fn known(name: &str) -> Option<&'static Known> {
    let name = if name == "gemini" { "google" } else { name };
    KNOWN.iter().find(|known| known.name == name)
}

fn dialect(
    name: &str,
    settings: Option<&Provider>,
    known: Option<&Known>,
    model: &str,
) -> Result<AdapterKind, ProviderError> {
    if let Some(api) = settings.and_then(|provider| provider.api.as_deref()) {
        let found = APIS.iter().find(|(known, _)| *known == api);
        return found.map(|&(_, kind)| kind).ok_or_else(|| {
            let apis: Vec<&str> = APIS.iter().map(|&(api, _)| api).collect();
            let apis = apis.join(", ");
            ProviderError::Unknown(format!(
                "models.providers.{name}.api: \"{api}\" is not supported; use one of {apis}"
            ))
        });
    }
    let own_address = settings.is_some_and(|provider| !provider.base_url.trim().is_empty());
    Ok(match known {
        // Ollama also serves the dialect of OpenAI below /v1.
        Some(known) if known.kind == AdapterKind::Ollama && is_v1(settings) => AdapterKind::OpenAI,
        // Some models of OpenAI answer in the newer dialect only.
        Some(known) if known.name == "openai" && !own_address => {
            match AdapterKind::from_model(model) {
                Ok(AdapterKind::OpenAIResp) => AdapterKind::OpenAIResp,
                _ => AdapterKind::OpenAI,
            }
        }
        Some(known) => known.kind,
        None => AdapterKind::OpenAI,
    })
}

fn is_v1(settings: Option<&Provider>) -> bool {
    settings.is_some_and(|provider| provider.base_url.trim_end_matches('/').ends_with("/v1"))
}

/// Returns the address that paths are appended to. Dialects differ in whether
/// the version belongs to it; both ways of writing it are understood.
fn base_url(
    name: &str,
    settings: Option<&Provider>,
    known: Option<&Known>,
    kind: AdapterKind,
) -> Result<Url, ProviderError> {
    let written = settings.map(|provider| provider.base_url.trim()).filter(|url| !url.is_empty());
    let text = match (written, known) {
        (Some(url), _) => url,
        (None, Some(known)) => known.base_url,
        (None, None) => {
            let text = format!("models.providers.{name}.baseUrl is missing");
            return Err(ProviderError::Unknown(text));
        }
    };
    let text = text.trim_end_matches('/');
    let text = match kind {
        AdapterKind::Anthropic if !text.ends_with("/v1") => format!("{text}/v1/"),
        AdapterKind::Ollama => format!("{}/", text.trim_end_matches("/v1")),
        _ => format!("{text}/"),
    };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        let text = format!("models.providers.{name}.baseUrl is not an http or https address");
        ProviderError::Unknown(text)
    })
}

fn key(
    config: &Config,
    name: &str,
    settings: Option<&Provider>,
    known: Option<&Known>,
) -> Option<Key> {
    let configured = settings.and_then(|provider| provider.api_key.clone());
    if let Some(value) = configured.filter(|key| !key.trim().is_empty()) {
        return Some(Key { value, source: format!("models.providers.{name}.apiKey") });
    }
    variables(name, known).into_iter().find_map(|source| {
        let value = config.variable(&source)?.to_owned();
        (!value.trim().is_empty()).then_some(Key { value, source })
    })
}

/// Names of the environment variables that may hold the key.
fn variables(name: &str, known: Option<&Known>) -> Vec<String> {
    if let Some(known) = known {
        return known.variables.iter().map(|&name| name.to_owned()).collect();
    }
    let upper = name.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    vec![format!("{upper}_API_KEY")]
}

/// Servers that are reached without encryption are the user's own and mostly
/// ask for no key.
fn keyless(base_url: &Url, kind: AdapterKind) -> Option<Key> {
    let own = base_url.scheme() == "http" || kind == AdapterKind::Ollama;
    own.then(|| Key { value: NO_KEY.into(), source: "no key".into() })
}

fn no_key(config: &Config, name: &str, known: Option<&Known>) -> ProviderError {
    let variable = variables(name, known).join(" or ");
    let mut text = format!(
        "no API key for {name}: set models.providers.{name}.apiKey in the configuration, or the \
         environment variable {variable}"
    );
    if signs_in(config, name) {
        text.push_str(" (auth.profiles names a sign-in for it, which this gateway cannot use)");
    }
    ProviderError::NoKey(text)
}

/// Returns whether `auth.profiles` has an entry for the provider that is not a
/// key.
fn signs_in(config: &Config, name: &str) -> bool {
    let profiles = config.auth.get("profiles").and_then(Value::as_object);
    profiles.into_iter().flatten().any(|(_, profile)| {
        let text = |field: &str| profile.get(field).and_then(Value::as_str);
        text("provider") == Some(name) && matches!(text("mode"), Some("oauth" | "token"))
    })
}

fn unknown(name: &str) -> ProviderError {
    let known: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    let known = known.join(", ");
    ProviderError::Unknown(format!(
        "unknown model provider: {name}; add models.providers.{name}.baseUrl, or use one of {known}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find_in(config: Value, model: &str, key: Option<(&str, &str)>) -> Result<Target, String> {
        let mut config: Config = serde_json::from_value(config).unwrap();
        config.variables = key.map(|key| [key].into()).unwrap_or_default();
        find(&config, &ModelRef::parse(model).unwrap()).map_err(|error| error.to_string())
    }

    fn shown(target: &Target) -> (AdapterKind, String, String) {
        let key = target.service.auth.single_key_value().unwrap();
        (target.service.model.adapter_kind, target.service.endpoint.base_url().to_owned(), key)
    }

    #[test]
    fn known_providers_need_a_key_only() {
        let found =
            find_in(json!({}), "anthropic/claude", Some(("ANTHROPIC_API_KEY", "k"))).unwrap();
        let expected = (AdapterKind::Anthropic, "https://api.anthropic.com/v1/".into(), "k".into());
        assert_eq!(shown(&found), expected);
        assert_eq!(&*found.service.model.model_name, "claude");
        let found = find_in(json!({}), "google/gemini-3", Some(("GOOGLE_API_KEY", "g"))).unwrap();
        assert_eq!(shown(&found).2, "g");
        let config = json!({ "models": { "providers": { "openai": { "apiKey": "c" } } } });
        let found = find_in(config, "openai/gpt-4o", Some(("OPENAI_API_KEY", "e"))).unwrap();
        assert_eq!(shown(&found).2, "c", "the configuration wins");
        assert_eq!(found.names.key_source, "models.providers.openai.apiKey");
    }

    #[test]
    fn a_missing_key_says_where_to_put_it() {
        let error = find_in(json!({}), "openrouter/a/b", None).unwrap_err();
        assert!(error.contains("models.providers.openrouter.apiKey"), "{error}");
        assert!(error.contains("OPENROUTER_API_KEY"), "{error}");
        let auth = json!({ "profiles": { "a:me": { "provider": "anthropic", "mode": "oauth" } } });
        let error = find_in(json!({ "auth": auth }), "anthropic/x", None).unwrap_err();
        assert!(error.contains("sign-in"), "{error}");
    }

    #[test]
    fn addresses_are_understood_with_and_without_version() {
        for (api, url, expected) in [
            ("anthropic-messages", "https://h", "https://h/v1/"),
            ("anthropic-messages", "https://h/v1/", "https://h/v1/"),
            ("openai-completions", "https://h/v1", "https://h/v1/"),
            ("ollama", "http://h:11434/v1", "http://h:11434/"),
            ("ollama", "http://h:11434", "http://h:11434/"),
            ("google-generative-ai", "https://h/v1beta", "https://h/v1beta/"),
        ] {
            let provider = json!({ "baseUrl": url, "api": api, "apiKey": "k" });
            let config = json!({ "models": { "providers": { "mine": provider } } });
            assert_eq!(shown(&find_in(config, "mine/m", None).unwrap()).1, expected, "{api} {url}");
        }
    }

    #[test]
    fn own_servers_on_plain_http_need_no_key() {
        let provider = json!({ "baseUrl": "http://127.0.0.1:1234/v1" });
        let config = json!({ "models": { "providers": { "lm": provider } } });
        assert_eq!(shown(&find_in(config, "lm/x", None).unwrap()).0, AdapterKind::OpenAI);
        assert!(find_in(json!({}), "ollama/llama", None).is_ok());
        let provider = json!({ "baseUrl": "https://example.org/v1" });
        let config = json!({ "models": { "providers": { "my-lm": provider } } });
        let error = find_in(config, "my-lm/x", None).unwrap_err();
        assert!(error.contains("MY_LM_API_KEY"), "{error}");
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        let error = find_in(json!({}), "nobody/x", None).unwrap_err();
        assert!(error.starts_with("unknown model provider: nobody"), "{error}");
        let of = |provider: Value| json!({ "models": { "providers": { "p": provider } } });
        let error = find_in(of(json!({ "apiKey": "k" })), "p/x", None).unwrap_err();
        assert_eq!(error, "models.providers.p.baseUrl is missing");
        let error = find_in(of(json!({ "baseUrl": "ftp://h" })), "p/x", None).unwrap_err();
        assert!(error.contains("not an http or https address"), "{error}");
        let provider = json!({ "baseUrl": "https://h", "api": "bedrock-converse-stream" });
        let error = find_in(of(provider), "p/x", None).unwrap_err();
        assert!(error.contains("is not supported; use one of openai-completions"), "{error}");
    }
}
