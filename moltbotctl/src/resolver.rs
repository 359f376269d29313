//! Finds the gateway a command talks to: one resolver for every command.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    address::{Address, SshAddress, WebAddress},
    config::LocalConfig,
    environment::Environment,
    files,
    paths::{self, Paths},
    running::Running,
    ssh::{Destination, Login},
    target::{Candidate, Credentials, DEFAULT_PORT, Flags, Secret, Source, Target},
    tls::Pins,
    tunnel::note,
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
            (Source::Ssh, self.ssh()),
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
        let mut address: Address = url.parse().with_context(|| format!("cannot use {name}"))?;
        if let (Address::Ssh(ssh), Some(identity)) = (&mut address, self.flags.ssh_identity.clone())
        {
            ssh.login.identity = Some(identity);
        }
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

    /// An ssh server named in the configuration is reached as it says there.
    fn ssh(&self) -> anyhow::Result<Candidate> {
        let Some(destination) = &self.flags.ssh else {
            return Ok(unavailable(Source::Ssh, "--ssh is not given"));
        };
        let configured = match self.remote_address() {
            Ok(Some(Address::Ssh(ssh))) if ssh.login.destination == *destination => Some(ssh),
            _ => None,
        };
        let mut ssh = match configured {
            Some(ssh) => ssh,
            None => self.behind(destination.clone(), None)?,
        };
        // Who names a certificate means TLS.
        ssh.gateway.tls |= self.flags.pins.is_some();
        let address = Address::Ssh(ssh);
        let (credentials, withheld) = self.credentials_for(&address)?;
        let tls_fingerprint = self.pin_for(&address)?;
        Ok(Candidate {
            source: Source::Ssh,
            target: Some(Target { address, credentials, tls_fingerprint }),
            available: true,
            reason: "--ssh is given".into(),
            withheld,
        })
    }

    fn remote(&self) -> anyhow::Result<Candidate> {
        let active = self.is_remote();
        let Some(address) = self.remote_address()? else {
            if active {
                bail!(
                    "gateway.mode is remote, but neither gateway.remote.url nor \
                     gateway.remote.sshTarget is set in {}; set it: moltbotctl remote set --ssh \
                     user@host",
                    self.config.path.display()
                );
            }
            return Ok(unavailable(Source::ConfigRemote, "gateway.remote is not set"));
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
            _ if self.flags.port.is_some() => "--port names a port",
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
        let (credentials, withheld) = match self.flagged_alone() {
            Some(credentials) => (credentials, None),
            None => self.local_at(port)?,
        };
        Ok(Candidate {
            source: Source::Loopback,
            target: Some(Target {
                address: Address::Web(WebAddress::loopback(port, tls)),
                credentials,
                tls_fingerprint: if tls { self.own_pin() } else { None },
            }),
            available: true,
            reason: format!("the port is {source}"),
            withheld,
        })
    }

    fn port(&self) -> anyhow::Result<(u16, String)> {
        if let Some(named) = self.named_port()? {
            return Ok(named);
        }
        if let Some(running) = Running::find(self.paths)
            && let Some(port) = running.port()
        {
            return Ok((port, format!("that of the running gateway, pid {}", running.pid)));
        }
        Ok(match self.configured_port()? {
            Some(port) => (port, "set by gateway.port".into()),
            None => (DEFAULT_PORT, "the default".into()),
        })
    }

    /// What was said for this command goes for the far host as well as for this
    /// one.
    fn named_port(&self) -> anyhow::Result<Option<(u16, String)>> {
        if let Some(port) = self.flags.port {
            return Ok(Some((port, "set by --port".into())));
        }
        let Some((name, text)) = self.environment.named("GATEWAY_PORT") else { return Ok(None) };
        let port = text.parse().with_context(|| format!("{name}={text:?} is not a port"))?;
        Ok(Some((port, format!("set by {name}"))))
    }

    fn configured_port(&self) -> anyhow::Result<Option<u16>> {
        let Some(value) = self.config.at("gateway.port") else { return Ok(None) };
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
        let wrong = || format!("{}: gateway.port is not a port", self.config.path.display());
        port.with_context(wrong).map(Some)
    }

    /// Returns the address of a gateway behind an ssh server. The port of a URL
    /// counts unless it is that of HTTP: there a proxy listens and speaks the TLS,
    /// not the gateway.
    fn behind(
        &self,
        destination: Destination,
        url: Option<&WebAddress>,
    ) -> anyhow::Result<SshAddress> {
        let url = url.filter(|web| !matches!(web.port, 80 | 443));
        let port = match (self.named_port()?, url) {
            (Some((port, _)), _) => port,
            (None, Some(web)) => web.port,
            (None, None) => self.configured_port()?.unwrap_or(DEFAULT_PORT),
        };
        let identity = match &self.flags.ssh_identity {
            Some(file) => Some(file.clone()),
            None => self.config.text("gateway.remote.sshIdentity")?.map(|path| self.expand(&path)),
        };
        let gateway = WebAddress::loopback(port, url.is_some_and(|web| web.tls));
        Ok(SshAddress { login: Login { destination, identity }, gateway })
    }

    fn expand(&self, path: &str) -> std::path::PathBuf {
        paths::expand(path, self.environment.var("HOME").map(Path::new))
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
        match address {
            Address::Web(web) if web.is_loopback() => self.local_at(web.port),
            _ => Ok(self.withheld("another host")),
        }
    }

    /// Credentials for a port of this host. Only one of them is the gateway's:
    /// behind another one there may be anybody's program, or a tunnel.
    fn local_at(&self, port: u16) -> anyhow::Result<(Credentials, Option<String>)> {
        if let Ok(Some(tunnel)) = note::find(self.paths, port) {
            return Ok(self.withheld(&format!("{}, where a tunnel leads", tunnel.url)));
        }
        match self.port() {
            Ok((own, _)) if own == port => Ok((self.local_credentials()?, None)),
            Ok((own, _)) => Ok(self.withheld(&format!("port {port}, because it has port {own}"))),
            Err(error) => Ok(self.withheld(&format!("port {port}, because {error:#}"))),
        }
    }

    fn withheld(&self, place: &str) -> (Credentials, Option<String>) {
        let exist = self.local_credentials().is_ok_and(|local| !local.is_empty());
        let text = format!(
            "the credentials of the local gateway are not sent to {place}; pass --token, \
             --token-file or --password"
        );
        (Credentials::default(), exist.then_some(text))
    }

    fn flagged(&self) -> Option<Credentials> {
        let credentials = Credentials::given(self.flags.token.clone(), self.flags.password.clone());
        (!credentials.is_empty()).then_some(credentials)
    }

    /// Secrets typed together with an address belong to that address.
    fn flagged_alone(&self) -> Option<Credentials> {
        self.flagged().filter(|_| self.flags.url.is_none() && self.flags.ssh.is_none())
    }

    fn environment_credentials(&self) -> Credentials {
        let secret =
            |suffix| self.environment.named(suffix).map(|(name, value)| Secret::new(value, name));
        Credentials::given(secret("GATEWAY_TOKEN"), secret("GATEWAY_PASSWORD"))
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

    /// Without a word about the transport a URL is gone to directly, as the
    /// reference does, and an ssh target alone by ssh.
    fn remote_address(&self) -> anyhow::Result<Option<Address>> {
        let url = self.config.text("gateway.remote.url")?;
        let url: Option<Address> =
            url.map(|url| url.parse().context("cannot use gateway.remote.url")).transpose()?;
        let target = self.config.text("gateway.remote.sshTarget")?;
        match self.config.text("gateway.remote.transport")?.as_deref() {
            Some("direct") => return Ok(url),
            Some("ssh") => {}
            None if url.is_some() || target.is_none() => return Ok(url),
            None => {}
            Some(other) => bail!("gateway.remote.transport is {other:?}; it is ssh or direct"),
        }
        let web = url.as_ref().and_then(Address::web);
        let destination = match (target, web) {
            (Some(target), _) => target,
            (None, Some(web)) if !web.is_loopback() => web.host.clone(),
            _ => bail!(
                "gateway.remote.transport is ssh, but gateway.remote.sshTarget is not set; set it: \
                 moltbotctl remote set --ssh user@host"
            ),
        };
        let destination = destination.parse().context("cannot use gateway.remote.sshTarget")?;
        self.behind(destination, web).map(|ssh| Some(Address::Ssh(ssh)))
    }

    /// Returns the ssh server of the remote gateway, whatever the transport: to
    /// be tried, not to be used.
    ///
    /// # Errors
    /// When it is named but cannot be used.
    pub fn remote_by_ssh(&self) -> anyhow::Result<Option<Target>> {
        let url = self.config.text("gateway.remote.url")?;
        let url = url.and_then(|url| url.parse::<Address>().ok());
        let web = url.as_ref().and_then(Address::web);
        let named = self.config.text("gateway.remote.sshTarget")?;
        let host = || web.filter(|web| !web.is_loopback()).map(|web| web.host.clone());
        let Some(destination) = named.or_else(host) else { return Ok(None) };
        let destination = destination.parse().context("cannot use gateway.remote.sshTarget")?;
        let address = Address::Ssh(self.behind(destination, web)?);
        let credentials = self.remote_credentials()?;
        Ok(Some(Target { tls_fingerprint: self.pin_for(&address)?, address, credentials }))
    }

    fn remote_credentials(&self) -> anyhow::Result<Credentials> {
        let token = self.configured_token("gateway.remote")?;
        Ok(Credentials::given(token, self.configured("gateway.remote.password")?))
    }

    /// The environment beats the file; the token the daemon made for itself comes
    /// last.
    fn local_credentials(&self) -> anyhow::Result<Credentials> {
        let mut credentials = self.environment_credentials();
        let given = credentials.clone();
        if credentials.token.is_none() {
            credentials.token = self.configured_token("gateway.auth")?;
        }
        if credentials.password.is_none() {
            credentials.password = self.configured("gateway.auth.password")?;
        }
        if credentials.is_empty() {
            credentials.token = self.made_token();
        }
        if credentials != given {
            credentials.only_to_own = Some(self.owners());
        }
        Ok(credentials)
    }

    /// Returns who has the gateway's files. Root may look at those of a service,
    /// whose gateway is its user's.
    fn owners(&self) -> Vec<u32> {
        let places = [&self.paths.state_dir, &self.config.path];
        let owner = |place| fs::metadata(place).ok().map(|metadata| metadata.uid());
        let mut owners: Vec<_> = places.into_iter().filter_map(owner).collect();
        owners.dedup();
        owners
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
        let path = self.expand(&path);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Secret::new(text.trim(), key))),
            Err(error) if section == "gateway.remote" => {
                bail!("cannot read {}, which {key} names: {error}", path.display())
            }
            // Only the daemon's user may be able to read it; the control socket needs no token.
            Err(_) => Ok(None),
        }
    }

    fn configured(&self, key: &str) -> anyhow::Result<Option<Secret>> {
        Ok(self.config.text(key)?.map(|value| Secret::new(value, key)))
    }

    /// A pin that was typed belongs to the address typed with it, that of the
    /// configuration to its remote gateway, and the own certificate to the own
    /// port.
    fn pin_for(&self, address: &Address) -> anyhow::Result<Option<Pins>> {
        let web = match address {
            Address::Web(web) if web.tls => web,
            Address::Ssh(ssh) if ssh.gateway.tls => &ssh.gateway,
            _ if self.flags.pins.is_some() => bail!("--tls-fingerprint needs a wss:// URL"),
            _ => return self.configured_pin(address),
        };
        if let Some(pins) = &self.flags.pins {
            return Ok(Some(pins.clone()));
        }
        if let Some(pins) = self.configured_pin(address)? {
            return Ok(Some(pins));
        }
        let own = address.is_loopback() && self.port().is_ok_and(|(port, _)| port == web.port);
        Ok(if own { self.own_pin() } else { None })
    }

    fn configured_pin(&self, address: &Address) -> anyhow::Result<Option<Pins>> {
        const KEY: &str = "gateway.remote.tlsFingerprint";
        if !self.is_remote_gateway(address) {
            return Ok(None);
        }
        let Some(pin) = self.config.text(KEY)? else { return Ok(None) };
        let Some(WebAddress { tls: true, .. }) = address.web() else {
            bail!("{KEY} needs a wss:// URL");
        };
        pin.parse().map(Some).with_context(|| format!("cannot use {KEY}"))
    }

    /// The certificate that the gateway on this host shows, if this user may
    /// read it.
    fn own_pin(&self) -> Option<Pins> {
        if let Some(pins) = &self.flags.pins {
            return Some(pins.clone());
        }
        let home = self.environment.var("HOME").map(Path::new);
        let path = match self.config.text("gateway.tls.certPath").ok()? {
            Some(path) => paths::expand(&path, home),
            None => self.paths.state_dir.join("gateway/tls/gateway-cert.pem"),
        };
        Pins::of_file(&path)
    }
}

fn unavailable(source: Source, reason: impl Into<String>) -> Candidate {
    Candidate { source, target: None, available: false, reason: reason.into(), withheld: None }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::chown, net::UnixListener};

    use serde_json::json;

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
                client_state_dir: self.folder.path().into(),
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
        remote: { url: 'wss://far.example', token: 'far', tlsFingerprint: 'SHA256:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB' } } }";

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
        let pins = winner.target.unwrap().tls_fingerprint.unwrap();
        assert_eq!(pins.to_string(), format!("sha256:{}", "ab".repeat(32)));
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
        let own = ["ws://127.0.0.1:20001", "ws://localhost:20001", "ws://[::1]:20001"];
        for url in own {
            assert_eq!(token(&Setup::new(LOCAL).url(url).winner()).unwrap(), "local", "{url}");
        }
        assert_eq!(token(&Setup::new(REMOTE).url("wss://far.example").winner()).unwrap(), "far");
        let mut setup = Setup::new(LOCAL).url("wss://evil.example");
        setup.flags.token = Some(Secret::new("typed", "--token"));
        assert_eq!(token(&setup.winner()).unwrap(), "typed");
    }

    #[test]
    fn another_port_of_this_host_is_another_program_and_a_tunnel_another_gateway() {
        let winner = Setup::new(LOCAL).url("ws://127.0.0.1:9").winner();
        assert_eq!(token(&winner), None);
        let withheld = winner.withheld.unwrap();
        assert!(withheld.contains("port 9, because it has port 20001"), "{withheld}");

        let setup = Setup::new(LOCAL);
        let _lock = note::lock(&setup.paths(), 20001).unwrap().unwrap();
        let note = json!({ "pid": 1, "sshPid": 2, "startedAtMs": 0, "url": "ssh://far/18789",
            "localPort": 20001, "state": "up", "detail": null, "upSinceMs": 0, "checkedAtMs": 0,
            "version": null, "reconnects": 0 });
        fs::write(note::file(&setup.paths(), 20001, "json"), note.to_string()).unwrap();
        let winner = setup.winner();
        assert_eq!((winner.source, token(&winner)), (Source::Loopback, None));
        assert!(winner.withheld.unwrap().contains("sent to ssh://far/18789, where"));
    }

    #[test]
    fn a_certificate_named_for_an_ssh_target_means_tls_inside() {
        let mut setup = Setup::new("{}");
        setup.flags.ssh = Some("far".parse().unwrap());
        setup.flags.pins = Some("ab".repeat(32).parse().unwrap());
        let target = setup.winner().target.unwrap();
        assert_eq!(target.address.key(), "ssh+wss://far/18789");
        assert_eq!(target.tls_fingerprint, setup.flags.pins);
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

    fn only_to(setup: &Setup) -> Option<Vec<u32>> {
        setup.winner().target.unwrap().credentials.only_to_own
    }

    #[test]
    fn a_found_secret_is_only_for_the_own_gateway_also_beside_one_that_was_given() {
        let mut setup = Setup::new(LOCAL);
        assert!(only_to(&setup).is_some());
        setup.environment = Environment::from([("MOLTBOT_GATEWAY_PASSWORD", "given")]);
        assert!(only_to(&setup).is_some(), "the token was found");
        setup.environment = Environment::from([
            ("MOLTBOT_GATEWAY_PASSWORD", "given"),
            ("MOLTBOT_GATEWAY_TOKEN", "given"),
        ]);
        assert_eq!(only_to(&setup), None);
        setup.flags.token = Some(Secret::new("typed", "--token"));
        assert_eq!(only_to(&setup), None);
    }

    #[test]
    fn a_found_secret_is_also_for_the_user_whose_files_it_comes_from() {
        let setup = Setup::new("{}");
        fs::write(setup.paths().generated_token(), "made").unwrap();
        fs::write(setup.paths().config_file, "{}").unwrap();
        // Only root can give them away; to others they belong already.
        if nix::unistd::Uid::effective().is_root() {
            chown(setup.folder.path(), Some(4711), None).unwrap();
            chown(setup.paths().config_file, Some(4712), None).unwrap();
        }
        let uid = |path: &Path| fs::metadata(path).unwrap().uid();
        let mut owners = vec![uid(setup.folder.path()), uid(&setup.paths().config_file)];
        owners.dedup();
        assert_eq!(only_to(&setup), Some(owners));
    }

    #[test]
    fn remote_mode_without_an_address_is_an_error_that_names_the_keys() {
        let setup = Setup::new("{ gateway: { mode: 'remote' } }");
        let error = setup.candidates().unwrap_err().to_string();
        assert!(error.contains("neither gateway.remote.url nor"), "{error}");
        assert_eq!(setup.url("ws://127.0.0.1:1").winner().source, Source::Flag);
    }

    #[test]
    fn a_mistake_in_what_is_not_used_does_not_hide_the_gateway() {
        let setup = Setup::new("{ gateway: { port: 'x', remote: { url: '${NOT_SET}' } } }");
        assert!(setup.candidates().unwrap_err().to_string().contains("gateway.port"));
        let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
        let candidates = setup.candidates().unwrap();
        assert!(candidates[3].reason.contains("NOT_SET is not set"));
        assert!(candidates[5].reason.contains("gateway.port is not a port"));
        assert_eq!(setup.winner().source, Source::ControlSocket);
        assert_eq!(setup.url("ws://127.0.0.1:1").winner().source, Source::Flag);
    }

    fn by_ssh(config: &str, ssh: &str) -> Candidate {
        let mut setup = Setup::new(config);
        setup.flags.ssh = Some(ssh.parse().unwrap());
        setup.winner()
    }

    #[test]
    fn an_ssh_target_gets_the_secrets_of_the_remote_gateway_only_when_it_is_that() {
        let config = "{ gateway: { port: 7, auth: { token: 'local' },
            remote: { sshTarget: 'me@far', sshIdentity: '/k', token: 'far' } } }";
        let winner = by_ssh(config, "me@far");
        assert_eq!(token(&winner).as_deref(), Some("far"));
        assert_eq!(winner.target.unwrap().address.key(), "ssh://me@far/7");
        for other in ["far", "me@far:2222", "you@far", "evil"] {
            let winner = by_ssh(config, other);
            assert_eq!(token(&winner), None, "{other}");
            assert!(winner.withheld.is_some(), "{other}");
        }
    }

    #[test]
    fn remote_by_ssh_needs_no_url_and_takes_the_port_of_one() {
        for (remote, key) in [
            ("sshTarget: 'far'", "ssh://far/9"),
            ("sshTarget: 'far', url: 'ws://127.0.0.1:1'", "ws://127.0.0.1:1"),
            ("sshTarget: 'far', url: 'ws://127.0.0.1:1', transport: 'ssh'", "ssh://far/1"),
            ("url: 'wss://gw.example', transport: 'ssh'", "ssh://gw.example/9"),
            ("url: 'wss://gw.example:8', transport: 'ssh'", "ssh+wss://gw.example/8"),
            ("sshTarget: 'far', url: 'ws://127.0.0.1:1', transport: 'direct'", "ws://127.0.0.1:1"),
        ] {
            let config =
                format!("{{ gateway: {{ mode: 'remote', port: 9, remote: {{ {remote} }} }} }}");
            let winner = Setup::new(&config).winner();
            assert_eq!(winner.source, Source::ConfigRemote, "{remote}");
            assert_eq!(winner.target.unwrap().address.key(), key, "{remote}");
        }
    }

    #[test]
    fn a_remote_gateway_that_is_half_described_is_an_error_and_never_the_local_one() {
        for remote in [
            "transport: 'ssh'",
            "transport: 'ssh', url: 'ws://127.0.0.1:1'",
            "transport: 'direct', sshTarget: 'far'",
            "transport: 'pigeon', sshTarget: 'far'",
            "sshTarget: '-oProxyCommand=id'",
            "sshTarget: 'far', tokenFile: '/no/such/file'",
        ] {
            let config = format!("{{ gateway: {{ mode: 'remote', remote: {{ {remote} }} }} }}");
            let setup = Setup::new(&config);
            let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
            assert!(setup.candidates().is_err(), "{remote}");
        }
    }

    #[test]
    fn a_port_that_was_named_counts_here_and_on_the_far_host() {
        let mut setup = Setup::new("{ gateway: { port: 9 } }");
        setup.environment = Environment::from([("CLAWDBOT_GATEWAY_PORT", "10")]);
        setup.flags.ssh = Some("far".parse().unwrap());
        assert_eq!(setup.winner().target.unwrap().address.key(), "ssh://far/10");
        setup.flags.port = Some(11);
        assert_eq!(setup.winner().target.unwrap().address.key(), "ssh://far/11");
        setup.flags.ssh = None;
        let _listener = UnixListener::bind(setup.paths().control_socket()).unwrap();
        assert_eq!(setup.winner().target.unwrap().address.key(), "ws://127.0.0.1:11");
    }

    #[test]
    fn the_token_for_the_remote_gateway_opens_nothing_here() {
        let setup = Setup::new("{ gateway: { remote: { url: 'ws://h:1', token: 'far' } } }");
        let winner = setup.winner();
        assert_eq!((winner.source, token(&winner)), (Source::Loopback, None));
    }

    #[test]
    fn a_report_shows_fingerprints_and_no_secret() {
        let report = Setup::new(LOCAL).winner().report(true).to_string();
        assert!(report.contains("\"sha256\":\"25bf8e1a\""), "{report}");
        assert!(!report.contains("\"local\""), "{report}");
    }
}
