//! Finds the gateway a command talks to: one resolver for every command.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    address::{Address, WebAddress},
    config::LocalConfig,
    environment::Environment,
    files,
    paths::{self, Paths},
    running::Running,
    target::{Candidate, Credentials, DEFAULT_PORT, Flags, Secret, Source, Target},
};

/// Everything the resolver looks at.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The command line.
    pub flags: &'a Flags,
    /// The environment.
    pub environment: &'a Environment,
    /// The configuration file.
    pub config: &'a LocalConfig,
    /// The profile's places.
    pub paths: &'a Paths,
}

impl Surroundings<'_> {
    /// Returns every place a gateway might be, in order of precedence. The first
    /// available one wins.
    ///
    /// # Errors
    /// When an address or a secret is named but cannot be used.
    pub fn candidates(&self) -> anyhow::Result<Vec<Candidate>> {
        let environment = self.environment.named("GATEWAY_URL");
        let (name, url) = environment.unwrap_or(("MOLTBOT_GATEWAY_URL".into(), ""));
        let url = Some(url).filter(|url| !url.is_empty());
        let found = [
            (Source::Flag, self.explicit(Source::Flag, self.flags.url.as_deref(), "--url")),
            (Source::Environment, self.explicit(Source::Environment, url, &name)),
            (Source::ConfigRemote, self.remote()),
            (Source::ControlSocket, Ok(self.control_socket())),
            (Source::Loopback, self.loopback()),
        ];
        let mut candidates: Vec<Candidate> = Vec::new();
        for (source, result) in found {
            let decided = candidates.iter().any(|candidate| candidate.available);
            let optional = decided || (source == Source::ConfigRemote && !self.is_remote());
            candidates.push(match result {
                Ok(candidate) => candidate,
                // A mistake in what is not used must not keep anybody from the gateway.
                Err(error) if optional => unavailable(source, format!("{error:#}")),
                Err(error) => return Err(error),
            });
        }
        Ok(candidates)
    }

    fn is_remote(&self) -> bool {
        self.config.at("gateway.mode").and_then(Value::as_str) == Some("remote")
    }

    fn explicit(&self, source: Source, url: Option<&str>, name: &str) -> anyhow::Result<Candidate> {
        let Some(url) = url else {
            return Ok(unavailable(source, format!("{name} is not given")));
        };
        let address: Address = url.parse().with_context(|| format!("cannot use {name}"))?;
        let (credentials, withheld) = self.credentials_for(&address)?;
        let tls_fingerprint = self.pin_for(&address)?;
        Ok(Candidate {
            source,
            target: Some(Target { address, credentials, tls_fingerprint }),
            available: true,
            reason: format!("{name} is given"),
            withheld,
        })
    }

    fn remote(&self) -> anyhow::Result<Candidate> {
        let active = self.is_remote();
        let Some(address) = self.remote_address()? else {
            if active {
                bail!(
                    "gateway.mode is remote, but gateway.remote.url is not set in {}",
                    self.config.path.display()
                );
            }
            return Ok(unavailable(Source::ConfigRemote, "gateway.remote.url is not set"));
        };
        let credentials = self.flagged_alone().map_or_else(|| self.remote_credentials(), Ok)?;
        let tls_fingerprint = self.pin_for(&address)?;
        Ok(Candidate {
            source: Source::ConfigRemote,
            target: Some(Target { address, credentials, tls_fingerprint }),
            available: active,
            reason: if active { "gateway.mode is remote" } else { "gateway.mode is not remote" }
                .into(),
            withheld: None,
        })
    }

    fn control_socket(&self) -> Candidate {
        let path = self.paths.control_socket();
        let reason = match fs::metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => "the control socket is there",
            Ok(_) => "the file is not a socket",
            Err(_) => "there is no control socket",
        };
        Candidate {
            source: Source::ControlSocket,
            available: reason == "the control socket is there",
            target: Some(Target {
                address: Address::Unix(path),
                credentials: Credentials::default(),
                tls_fingerprint: None,
            }),
            reason: reason.into(),
            withheld: None,
        }
    }

    fn loopback(&self) -> anyhow::Result<Candidate> {
        let (port, source) = self.port()?;
        let tls = self.config.at("gateway.tls.enabled").and_then(Value::as_bool) == Some(true);
        let credentials = self.flagged_alone().map_or_else(|| self.local_credentials(), Ok)?;
        Ok(Candidate {
            source: Source::Loopback,
            target: Some(Target {
                address: Address::Web(WebAddress::loopback(port, tls)),
                credentials,
                tls_fingerprint: None,
            }),
            available: true,
            reason: format!("the port is {source}"),
            withheld: None,
        })
    }

    fn port(&self) -> anyhow::Result<(u16, String)> {
        if let Some((name, text)) = self.environment.named("GATEWAY_PORT") {
            let port = text.parse().with_context(|| format!("{name}={text:?} is not a port"))?;
            return Ok((port, format!("set by {name}")));
        }
        if let Some(running) = Running::find(self.paths)
            && let Some(port) = running.port()
        {
            return Ok((port, format!("that of the running gateway, pid {}", running.pid)));
        }
        match self.config.at("gateway.port") {
            Some(value) => {
                let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
                let port = port.with_context(|| {
                    format!("{}: gateway.port is not a port", self.config.path.display())
                })?;
                Ok((port, "set by gateway.port".into()))
            }
            None => Ok((DEFAULT_PORT, "the default".into())),
        }
    }

    /// Credentials for an address that was typed: those typed with it, else those
    /// that belong to exactly this address.
    fn credentials_for(&self, address: &Address) -> anyhow::Result<(Credentials, Option<String>)> {
        if let Some(credentials) = self.flagged() {
            return Ok((credentials, None));
        }
        if matches!(address, Address::Unix(_)) {
            return Ok((Credentials::default(), None));
        }
        if self.environment_key() == Some(address.key()) {
            let credentials = self.environment_credentials();
            if !credentials.is_empty() {
                return Ok((credentials, None));
            }
        }
        if self.is_remote_gateway(address) {
            return Ok((self.remote_credentials()?, None));
        }
        let local = self.local_credentials();
        if address.is_loopback() {
            return Ok((local?, None));
        }
        let withheld = local.is_ok_and(|local| !local.is_empty()).then(|| {
            "the credentials of the local gateway are not sent to another host; pass --token, \
             --token-file or --password"
                .to_owned()
        });
        Ok((Credentials::default(), withheld))
    }

    fn flagged(&self) -> Option<Credentials> {
        let credentials =
            Credentials { token: self.flags.token.clone(), password: self.flags.password.clone() };
        (!credentials.is_empty()).then_some(credentials)
    }

    /// Secrets typed together with an address belong to that address.
    fn flagged_alone(&self) -> Option<Credentials> {
        self.flagged().filter(|_| self.flags.url.is_none())
    }

    fn environment_credentials(&self) -> Credentials {
        let secret =
            |suffix| self.environment.named(suffix).map(|(name, value)| Secret::new(value, name));
        Credentials { token: secret("GATEWAY_TOKEN"), password: secret("GATEWAY_PASSWORD") }
    }

    fn environment_key(&self) -> Option<String> {
        let address: Address = self.environment.own("GATEWAY_URL")?.parse().ok()?;
        Some(address.key())
    }

    /// Returns whether an address is exactly that of the remote gateway.
    fn is_remote_gateway(&self, address: &Address) -> bool {
        let remote = self.remote_address().ok().flatten();
        remote.is_some_and(|remote| remote.key() == address.key())
    }

    fn remote_address(&self) -> anyhow::Result<Option<Address>> {
        let url = self.config.text("gateway.remote.url")?;
        url.map(|url| url.parse().context("cannot use gateway.remote.url")).transpose()
    }

    fn remote_credentials(&self) -> anyhow::Result<Credentials> {
        Ok(Credentials {
            token: self.configured_token("gateway.remote")?,
            password: self.configured("gateway.remote.password")?,
        })
    }

    /// The environment beats the file; the token the daemon made for itself comes
    /// last.
    fn local_credentials(&self) -> anyhow::Result<Credentials> {
        let mut credentials = self.environment_credentials();
        if credentials.token.is_none() {
            credentials.token = self.configured_token("gateway.auth")?;
        }
        if credentials.password.is_none() {
            credentials.password = self.configured("gateway.auth.password")?;
        }
        if credentials.is_empty() {
            credentials.token = self.made_token();
        }
        Ok(credentials)
    }

    fn made_token(&self) -> Option<Secret> {
        let path = self.paths.generated_token();
        let text = files::read(&path).ok()??;
        let token = text.trim();
        (!token.is_empty()).then(|| Secret::new(token, path.display().to_string()))
    }

    fn configured_token(&self, section: &str) -> anyhow::Result<Option<Secret>> {
        if let Some(token) = self.configured(&format!("{section}.token"))? {
            return Ok(Some(token));
        }
        let key = format!("{section}.tokenFile");
        let Some(path) = self.config.text(&key)? else { return Ok(None) };
        let home = self.environment.var("HOME").map(Path::new);
        let text = fs::read_to_string(paths::expand(&path, home));
        // Only the daemon's user may be able to read it; the control socket needs no token.
        Ok(text.ok().map(|text| Secret::new(text.trim(), key)))
    }

    fn configured(&self, key: &str) -> anyhow::Result<Option<Secret>> {
        Ok(self.config.text(key)?.map(|value| Secret::new(value, key)))
    }

    /// A pin belongs to the remote gateway of the configuration.
    fn pin_for(&self, address: &Address) -> anyhow::Result<Option<String>> {
        if !self.is_remote_gateway(address) {
            return Ok(None);
        }
        let Some(pin) = self.config.text("gateway.remote.tlsFingerprint")? else { return Ok(None) };
        let Address::Web(WebAddress { tls: true, .. }) = address else {
            bail!("gateway.remote.tlsFingerprint needs a wss:// URL");
        };
        Ok(Some(normal_fingerprint(&pin)))
    }
}

fn unavailable(source: Source, reason: impl Into<String>) -> Candidate {
    Candidate { source, target: None, available: false, reason: reason.into(), withheld: None }
}

fn normal_fingerprint(pin: &str) -> String {
    let pin = pin.to_ascii_lowercase();
    let pin = pin.strip_prefix("sha256:").unwrap_or(&pin);
    pin.chars().filter(char::is_ascii_hexdigit).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Setup {
        folder: tempfile::TempDir,
        flags: Flags,
        environment: Environment,
        config: String,
    }

    impl Setup {
        fn new(config: &str) -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                flags: Flags::default(),
                environment: Environment::default(),
                config: config.into(),
            }
        }

        fn paths(&self) -> Paths {
            Paths {
                profile: None,
                config_file: self.folder.path().join("moltbot.json"),
                state_dir: self.folder.path().into(),
                runtime_dir: self.folder.path().into(),
                system_runtime_dir: None,
            }
        }

        fn candidates(&self) -> anyhow::Result<Vec<Candidate>> {
            let paths = self.paths();
            fs::write(&paths.config_file, &self.config).unwrap();
            let config = LocalConfig::read(&paths.config_file, &self.environment);
            assert_eq!(config.problem, None);
            Surroundings {
                flags: &self.flags,
                environment: &self.environment,
                config: &config,
                paths: &paths,
            }
            .candidates()
        }

        fn winner(&self) -> Candidate {
            self.candidates().unwrap().into_iter().find(|candidate| candidate.available).unwrap()
        }

        fn url(mut self, url: &str) -> Self {
            self.flags.url = Some(url.into());
            self
        }
    }

    fn token(candidate: &Candidate) -> Option<String> {
        let target = candidate.target.clone().unwrap();
        target.credentials.token.map(|token| token.reveal().to_owned())
    }

    const LOCAL: &str = "{ gateway: { port: 20001, auth: { token: 'local' } } }";
    const REMOTE: &str = "{ gateway: { mode: 'remote', auth: { token: 'local' },
        remote: { url: 'wss://far.example', token: 'far', tlsFingerprint: 'SHA256:AA:BB' } } }";

    #[test]
    fn without_anything_the_loopback_port_of_the_configuration_wins() {
        let winner = Setup::new(LOCAL).winner();
        assert_eq!(winner.source, Source::Loopback);
        assert_eq!(winner.target.as_ref().unwrap().address.key(), "ws://127.0.0.1:20001");
        assert_eq!(token(&winner).as_deref(), Some("local"));
    }

    #[test]
    fn the_control_socket_beats_loopback_and_is_shown_no_secret() {
        let setup = Setup::new(LOCAL);
        let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
        let winner = setup.winner();
        assert_eq!(winner.source, Source::ControlSocket);
        assert_eq!(token(&winner), None);
    }

    #[test]
    fn the_remote_gateway_beats_the_control_socket_and_gets_its_own_secret() {
        let setup = Setup::new(REMOTE);
        let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
        let winner = setup.winner();
        assert_eq!(winner.source, Source::ConfigRemote);
        assert_eq!(token(&winner).as_deref(), Some("far"));
        assert_eq!(winner.target.unwrap().tls_fingerprint.as_deref(), Some("aabb"));
    }

    #[test]
    fn a_typed_url_beats_the_environment_which_beats_the_configuration() {
        let mut setup = Setup::new(REMOTE);
        setup.environment = Environment::from([
            ("CLAWDBOT_GATEWAY_URL", "wss://env.example"),
            ("CLAWDBOT_GATEWAY_TOKEN", "env"),
        ]);
        let winner = setup.winner();
        assert_eq!((winner.source, token(&winner)), (Source::Environment, Some("env".into())));
        let winner = setup.url("wss://typed.example").winner();
        assert_eq!((winner.source, token(&winner)), (Source::Flag, None));
    }

    #[test]
    fn local_secrets_are_not_sent_to_a_typed_foreign_host() {
        for url in ["wss://evil.example", "ws://127.evil.com:18789", "wss://far.example:444"] {
            let winner = Setup::new(REMOTE).url(url).winner();
            assert_eq!(token(&winner), None, "{url}");
            assert!(winner.withheld.unwrap().contains("pass --token"), "{url}");
        }
        let mut setup = Setup::new(LOCAL);
        setup.environment = Environment::from([("MOLTBOT_GATEWAY_TOKEN", "env")]);
        assert_eq!(token(&setup.url("wss://evil.example").winner()), None);
    }

    #[test]
    fn a_typed_url_gets_the_secrets_that_belong_to_it() {
        assert_eq!(token(&Setup::new(LOCAL).url("ws://127.0.0.1:9").winner()).unwrap(), "local");
        assert_eq!(token(&Setup::new(REMOTE).url("wss://far.example").winner()).unwrap(), "far");
        let mut setup = Setup::new(LOCAL).url("wss://evil.example");
        setup.flags.token = Some(Secret::new("typed", "--token"));
        assert_eq!(token(&setup.winner()).unwrap(), "typed");
    }

    #[test]
    fn a_secret_typed_with_a_url_goes_nowhere_else() {
        let mut setup = Setup::new(REMOTE).url("wss://typed.example");
        setup.flags.token = Some(Secret::new("typed", "--token"));
        let candidates = setup.candidates().unwrap();
        let tokens = candidates.iter().filter(|it| it.target.is_some()).map(token);
        let tokens: Vec<_> = tokens.flatten().collect();
        assert_eq!(tokens, ["typed", "far", "local"]);
        setup.flags.url = None;
        assert_eq!(token(&setup.winner()).as_deref(), Some("typed"));
    }

    #[test]
    fn the_token_the_daemon_made_is_used_when_nothing_is_configured() {
        let setup = Setup::new("{}");
        fs::write(setup.paths().generated_token(), "made\n").unwrap();
        assert_eq!(token(&setup.winner()).unwrap(), "made");
    }

    #[test]
    fn remote_mode_without_a_url_is_an_error_that_names_the_key() {
        let setup = Setup::new("{ gateway: { mode: 'remote' } }");
        let error = setup.candidates().unwrap_err().to_string();
        assert!(error.contains("gateway.remote.url is not set"), "{error}");
        assert_eq!(setup.url("ws://127.0.0.1:1").winner().source, Source::Flag);
    }

    #[test]
    fn a_mistake_in_what_is_not_used_does_not_hide_the_gateway() {
        let setup = Setup::new("{ gateway: { port: 'x', remote: { url: '${NOT_SET}' } } }");
        assert!(setup.candidates().unwrap_err().to_string().contains("gateway.port"));
        let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
        let candidates = setup.candidates().unwrap();
        assert!(candidates[2].reason.contains("NOT_SET is not set"));
        assert!(candidates[4].reason.contains("gateway.port is not a port"));
        assert_eq!(setup.winner().source, Source::ControlSocket);
        assert_eq!(setup.url("ws://127.0.0.1:1").winner().source, Source::Flag);
    }

    #[test]
    fn a_report_shows_fingerprints_and_no_secret() {
        let report = Setup::new(LOCAL).winner().report(true).to_string();
        assert!(report.contains("\"sha256\":\"25bf8e1a\""), "{report}");
        assert!(!report.contains("\"local\""), "{report}");
    }
}
