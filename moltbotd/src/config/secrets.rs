//! Which shared secrets clients may prove, and whether they are good enough
//! for the addresses the gateway listens on.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{AuthMode, Bind, Config, TailscaleMode};
use crate::{auth::Secret, environment::Environment, paths::Paths, private};

/// Most that is read of a file that holds a token.
const LONGEST_TOKEN_BYTES: u64 = 4096;
/// What a shared secret must be worth where others can reach the port.
const STRONG_BITS: f64 = 128.0;
/// The same for a password, which people have to remember.
const STRONG_PASSWORD_BITS: f64 = 60.0;
const GENERATED_BYTES: usize = 32;

/// The shared secrets of a gateway.
#[derive(Clone, Debug)]
pub struct AuthSecrets {
    /// Which of them counts.
    pub mode: AuthMode,
    /// The token.
    pub token: Option<Secret>,
    /// Where the token came from.
    pub token_source: Option<Source>,
    /// The password.
    pub password: Option<Secret>,
    /// Where the password came from.
    pub password_source: Option<Source>,
}

/// Where a shared secret came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--token`.
    Flag,
    /// `--token-file`.
    File(PathBuf),
    /// The configuration, at this path.
    Config(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// The service manager.
    Credential(PathBuf),
    /// Made on the first start and kept in this file.
    Generated(PathBuf),
}

/// What the command line says about secrets.
#[derive(Clone, Default)]
pub struct GivenToken {
    /// `--token`.
    pub token: Option<String>,
    /// `--token-file`.
    pub file: Option<PathBuf>,
}

impl fmt::Debug for GivenToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenToken").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Why the gateway does not start with these secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// It would not be safe.
    #[error("{0}")]
    Refused(String),
    /// A file that holds a token cannot be used.
    #[error(transparent)]
    File(#[from] private::Error),
    /// A file that holds a token cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl AuthSecrets {
    /// Finds the secrets. Flags beat the configuration, which beats the
    /// environment; without any, a token is made once and kept.
    pub fn resolve(
        given: &GivenToken,
        config: &Config,
        environment: &Environment,
        paths: &Paths,
    ) -> Result<Self, SecretsError> {
        Self::find(given, config, environment, paths, generated)
    }

    /// Returns why a gateway with this configuration would refuse to start.
    /// Makes no token, and what this user may not read is not judged.
    #[must_use]
    pub fn refusal(
        given: &GivenToken,
        bind: Bind,
        config: &Config,
        environment: &Environment,
        paths: &Paths,
    ) -> Option<String> {
        let stand_in = |path: &Path| match Secret::new("made on the first start") {
            Some(secret) => Ok((secret, Source::Generated(path.into()))),
            None => Err(SecretsError::Refused("no token".into())),
        };
        match Self::find(given, config, environment, paths, stand_in) {
            Ok(secrets) => secrets.check(bind, config).err().map(|error| error.to_string()),
            Err(SecretsError::Refused(why)) => Some(why),
            Err(SecretsError::File(_) | SecretsError::Io { .. }) => None,
        }
    }

    fn find(
        given: &GivenToken,
        config: &Config,
        environment: &Environment,
        paths: &Paths,
        generated: impl FnOnce(&Path) -> Result<(Secret, Source), SecretsError>,
    ) -> Result<Self, SecretsError> {
        let token = token(given, config, environment, paths)?;
        let password = password(config, environment, paths)?;
        let token_was_given = matches!(&token, Some((_, Source::Flag | Source::File(_))));
        let mode = config.gateway.auth.mode.unwrap_or(match &password {
            Some(_) if !token_was_given => AuthMode::Password,
            _ => AuthMode::Token,
        });
        let token = match (token, mode) {
            (None, AuthMode::Token) => Some(generated(&paths.generated_token())?),
            (token, _) => token,
        };
        if mode == AuthMode::Password && password.is_none() {
            return Err(SecretsError::Refused(
                "gateway.auth.mode is \"password\", but there is no password; set \
                 gateway.auth.password, the credential gateway-password or \
                 MOLTBOT_GATEWAY_PASSWORD"
                    .into(),
            ));
        }
        let (token, token_source) = token.unzip();
        let (password, password_source) = password.unzip();
        Ok(Self { mode, token, token_source, password, password_source })
    }

    /// Returns the secret that counts, and where it came from.
    #[must_use]
    pub fn active(&self) -> Option<(&Secret, &Source)> {
        match self.mode {
            AuthMode::Token => self.token.as_ref().zip(self.token_source.as_ref()),
            AuthMode::Password => self.password.as_ref().zip(self.password_source.as_ref()),
        }
    }

    /// Refuses what would let strangers in.
    pub fn check(&self, bind: Bind, config: &Config) -> Result<(), SecretsError> {
        self.check_hook_token(config)?;
        self.check_tailscale(config.gateway.tailscale.mode)?;
        if !is_exposed(bind, config.gateway.custom_bind_host.as_deref()) {
            return Ok(());
        }
        let mode = bind.name();
        let key = match self.mode {
            AuthMode::Token => "gateway.auth.token",
            AuthMode::Password => "gateway.auth.password",
        };
        let refused = |why: &str| {
            Err(SecretsError::Refused(format!(
                "refusing to listen on other addresses than this host's (bind {mode}): {why}; \
                 put the output of `openssl rand -hex 32` into {key} or use --bind loopback"
            )))
        };
        match self.active() {
            None => refused("no token or password is set"),
            Some((_, Source::Generated(_))) => {
                refused("the token made on the first start is for this host only")
            }
            Some((secret, _)) if strength_bits(secret) < self.needed_bits() => {
                refused("the shared secret is easy to guess")
            }
            Some(_) => Ok(()),
        }
    }

    fn needed_bits(&self) -> f64 {
        match self.mode {
            AuthMode::Token => STRONG_BITS,
            AuthMode::Password => STRONG_PASSWORD_BITS,
        }
    }

    /// The tailnet's devices, or the whole internet, may try to guess.
    fn check_tailscale(&self, mode: TailscaleMode) -> Result<(), SecretsError> {
        let weak =
            self.active().is_none_or(|(secret, _)| strength_bits(secret) < self.needed_bits());
        let why = match mode {
            TailscaleMode::Off => return Ok(()),
            TailscaleMode::Funnel if self.mode != AuthMode::Password => {
                "tailscale funnel opens the gateway to the internet and requires \
                 gateway.auth.mode \"password\" and gateway.auth.password (or \
                 MOLTBOT_GATEWAY_PASSWORD); or use gateway.tailscale.mode \"serve\""
            }
            _ if weak => {
                "refusing to be reached through tailscale: the shared secret is easy to guess; \
                 take the output of `openssl rand -hex 32`, or set gateway.tailscale.mode to \
                 \"off\""
            }
            _ => return Ok(()),
        };
        Err(SecretsError::Refused(why.into()))
    }

    /// Who may ring the hooks must not get the gateway with it.
    fn check_hook_token(&self, config: &Config) -> Result<(), SecretsError> {
        let hook = config.section("hooks").and_then(|hooks| hooks.get("token")?.as_str());
        let same = |secret: &Secret| hook.is_some_and(|hook| secret.matches(hook));
        if self.token.iter().chain(&self.password).any(same) {
            return Err(SecretsError::Refused(
                "hooks.token is the gateway's own secret, so every hook sender could control \
                 the gateway; give hooks.token another value"
                    .into(),
            ));
        }
        Ok(())
    }
}

impl Source {
    /// Returns a name for people.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Flag => "--token".into(),
            Self::File(path) | Self::Credential(path) => path.display().to_string(),
            Self::Config(path) => (*path).into(),
            Self::Environment(name) => (*name).into(),
            Self::Generated(path) => format!("{} (generated)", path.display()),
        }
    }
}

type Found = Option<(Secret, Source)>;

fn token(
    given: &GivenToken,
    config: &Config,
    environment: &Environment,
    paths: &Paths,
) -> Result<Found, SecretsError> {
    if let Some(token) = &given.token {
        let Some(secret) = Secret::new(token.trim()) else {
            return Err(SecretsError::Refused("--token is empty".into()));
        };
        return Ok(Some((secret, Source::Flag)));
    }
    if let Some(path) = &given.file {
        return Ok(Some((read_token(path)?, Source::File(path.clone()))));
    }
    if let Some(secret) = config.gateway.auth.token.as_deref().and_then(Secret::new) {
        return Ok(Some((secret, Source::Config("gateway.auth.token"))));
    }
    let names = ["MOLTBOT_GATEWAY_TOKEN", "CLAWDBOT_GATEWAY_TOKEN"];
    if let Some(found) = from_environment(environment, &names) {
        return Ok(Some(found));
    }
    credential(paths, "gateway-token")
}

fn password(
    config: &Config,
    environment: &Environment,
    paths: &Paths,
) -> Result<Found, SecretsError> {
    if let Some(secret) = config.gateway.auth.password.as_deref().and_then(Secret::new) {
        return Ok(Some((secret, Source::Config("gateway.auth.password"))));
    }
    let names = ["MOLTBOT_GATEWAY_PASSWORD", "CLAWDBOT_GATEWAY_PASSWORD"];
    if let Some(found) = from_environment(environment, &names) {
        return Ok(Some(found));
    }
    credential(paths, "gateway-password")
}

fn is_blank(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() == 1)
        && fs::read(path).is_ok_and(|bytes| bytes == b"\n")
}

/// Reads a file that the service manager handed over, when it did.
fn credential(paths: &Paths, name: &str) -> Result<Found, SecretsError> {
    let path = paths.credentials_dir.as_ref().map(|dir| dir.join(name));
    match path {
        // The units set a blank one where there is no file, which systemd would report at each start.
        Some(path) if is_blank(&path) => Ok(None),
        Some(path) if path.exists() => Ok(Some((read_token(&path)?, Source::Credential(path)))),
        _ => Ok(None),
    }
}

fn from_environment(environment: &Environment, names: &[&'static str]) -> Found {
    let (name, text) = environment.first(names)?;
    Some((Secret::new(text)?, Source::Environment(name)))
}

fn generated(path: &Path) -> Result<(Secret, Source), SecretsError> {
    let source = Source::Generated(path.into());
    match write_new_token(path) {
        Ok(secret) => Ok((secret, source)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok((read_token(path)?, source))
        }
        Err(source) => Err(SecretsError::Io { path: path.into(), source }),
    }
}

/// Writes beside the file and links it into place: a token is there whole or
/// not at all, and an existing one is never replaced.
fn write_new_token(path: &Path) -> io::Result<Secret> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut bytes = [0; GENERATED_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token = URL_SAFE_NO_PAD.encode(bytes);
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft); // Left by a start that was cut short.
    let mut file = private::new_file(&draft)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    linked?;
    Secret::new(token).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read_token(path: &Path) -> Result<Secret, SecretsError> {
    let io = |source| SecretsError::Io { path: path.into(), source };
    let (file, _) = private::trusted(path)?;
    let mut text = String::new();
    file.take(LONGEST_TOKEN_BYTES).read_to_string(&mut text).map_err(io)?;
    Secret::new(text.trim()).ok_or_else(|| {
        SecretsError::Refused(format!(
            "{} is empty; write a token into it or remove it",
            path.display()
        ))
    })
}

/// Returns whether others than this host can reach an address of this kind.
#[must_use]
pub fn is_exposed(bind: Bind, custom_host: Option<&str>) -> bool {
    match bind {
        Bind::Loopback | Bind::Auto => false,
        Bind::Lan | Bind::Tailnet => true,
        Bind::Custom => !custom_host
            .and_then(|host| host.trim().parse::<IpAddr>().ok())
            .is_some_and(|address| address.to_canonical().is_loopback()),
    }
}

/// Returns at most what the secret would be worth if its characters were drawn
/// at random from the kinds of characters it uses.
fn strength_bits(secret: &Secret) -> f64 {
    let text = secret.reveal();
    let mut distinct: Vec<char> = text.chars().collect();
    let length = distinct.len();
    distinct.sort_unstable();
    distinct.dedup();
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let kinds = [
        (text.bytes().any(|byte| byte.is_ascii_digit()), 10),
        (text.bytes().any(|byte| byte.is_ascii_lowercase()), 26),
        (text.bytes().any(|byte| byte.is_ascii_uppercase()), 26),
        (text.bytes().any(|byte| !byte.is_ascii_alphanumeric()), 32),
    ];
    let alphabet: u32 =
        if hex { 16 } else { kinds.iter().filter(|kind| kind.0).map(|kind| kind.1).sum() };
    // Few different characters make a pattern, however long.
    let per_character =
        f64::from(alphabet).log2().min(f64::from(u32_of(distinct.len())).log2() * 1.6);
    per_character * f64::from(u32_of(length))
}

fn u32_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use serde_json::json;

    use super::*;

    const STRONG: &str = "3f1c9a0b7d5e24861122aa44ccd8e0f97b6a5c3d";

    fn resolve(config: serde_json::Value, environment: Environment, paths: &Paths) -> AuthSecrets {
        let config = serde_json::from_value(config).unwrap();
        AuthSecrets::resolve(&GivenToken::default(), &config, &environment, paths).unwrap()
    }

    #[test]
    fn a_token_is_made_once_and_kept_for_this_host() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let first = resolve(json!({}), Environment::default(), &paths);
        let again = resolve(json!({}), Environment::default(), &paths);
        assert_eq!(first.token, again.token);
        let token = first.token.as_ref().unwrap().reveal();
        assert_eq!(URL_SAFE_NO_PAD.decode(token).unwrap().len(), 32);
        let mode = fs::metadata(paths.generated_token()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(first.check(Bind::Loopback, &Config::default()).is_ok());
        let error = first.check(Bind::Lan, &Config::default()).unwrap_err().to_string();
        assert!(error.contains("gateway.auth.token") && error.contains("bind lan"), "{error}");
    }

    #[test]
    fn the_configuration_beats_the_environment_and_a_flag_beats_both() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let environment = Environment::from([("CLAWDBOT_GATEWAY_TOKEN", "env")]);
        let config = json!({"gateway": {"auth": {"token": "config"}}});
        let token = |secrets: AuthSecrets| secrets.token.unwrap().reveal().to_owned();
        assert_eq!(token(resolve(json!({}), environment.clone(), &paths)), "env");
        assert_eq!(token(resolve(config.clone(), environment.clone(), &paths)), "config");
        let given = GivenToken { token: Some("flag".into()), file: None };
        let config = serde_json::from_value(config).unwrap();
        let secrets = AuthSecrets::resolve(&given, &config, &environment, &paths).unwrap();
        assert_eq!(secrets.token_source, Some(Source::Flag));
        assert!(!paths.generated_token().exists());
    }

    #[test]
    fn the_service_managers_secrets_count_where_nothing_else_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("gateway-token"), "token\n").unwrap();
        let paths =
            Paths { credentials_dir: Some(credentials.clone()), ..Paths::below(dir.path()) };
        let secrets = resolve(json!({}), Environment::default(), &paths);
        assert_eq!(secrets.token.unwrap().reveal(), "token");
        let source = Source::Credential(credentials.join("gateway-token"));
        assert_eq!(secrets.token_source, Some(source));
        fs::write(credentials.join("gateway-password"), "password").unwrap();
        let secrets = resolve(json!({}), Environment::default(), &paths);
        assert_eq!(secrets.mode, AuthMode::Password);
        assert_eq!(secrets.password.unwrap().reveal(), "password");
    }

    #[test]
    fn a_password_alone_means_password_mode() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let secrets = resolve(
            json!({"gateway": {"auth": {"password": "p"}}}),
            Environment::default(),
            &paths,
        );
        assert_eq!((secrets.mode, secrets.token), (AuthMode::Password, None));
        let config =
            serde_json::from_value(json!({"gateway": {"auth": {"mode": "password"}}})).unwrap();
        let error =
            AuthSecrets::resolve(&GivenToken::default(), &config, &Environment::default(), &paths);
        assert!(error.unwrap_err().to_string().contains("gateway.auth.password"));
    }

    #[test]
    fn strangers_need_a_secret_that_is_hard_to_guess() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for (token, fits) in [("testtoken", false), (&*"a".repeat(64), false), (STRONG, true)] {
            let config = json!({"gateway": {"auth": {"token": token}}});
            let secrets = resolve(config, Environment::default(), &paths);
            assert_eq!(secrets.check(Bind::Lan, &Config::default()).is_ok(), fits, "{token}");
            assert!(secrets.check(Bind::Auto, &Config::default()).is_ok());
        }
        assert!(!is_exposed(Bind::Custom, Some("127.0.0.1")));
        assert!(is_exposed(Bind::Custom, Some("0.0.0.0")) && is_exposed(Bind::Custom, None));
    }

    #[test]
    fn a_hook_token_does_not_open_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let value = json!({"gateway": {"auth": {"token": "same"}}, "hooks": {"token": "same"}});
        let secrets = resolve(value.clone(), Environment::default(), &Paths::below(dir.path()));
        let config = serde_json::from_value(value).unwrap();
        let error = secrets.check(Bind::Loopback, &config).unwrap_err().to_string();
        assert!(error.contains("hooks.token"), "{error}");
    }
}
