//! From files to [`Config`], in the reference's order: parse, include, look
//! up variables, check. Whatever a file holds, loading ends with a
//! configuration and a list of what is wrong.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use moltbot_settings::{Path, Step, book::hash};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Config, OTHER_SECTIONS, check,
    document::{Documents, Overlay},
    issue::Issue,
    known, redact, schema,
};
use crate::{environment::Environment, private::Narrowed};

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Whether it was named on the command line, so that its absence is a
    /// mistake.
    pub must_exist: bool,
    /// What `${NAME}` stands for.
    pub environment: Environment,
    /// Reads a channel's section: channels know their own keys.
    pub channel: Option<ChannelCheck>,
    /// Tells which models could not be asked: providers know that.
    pub models: Option<ModelCheck>,
    /// Tells whether the daemon would start with it.
    pub start: Option<StartCheck>,
}

/// Tells why the daemon would refuse to start with a configuration.
#[derive(Clone)]
pub struct StartCheck(pub Arc<Refusal>);

/// Returns the reason, if there is one.
pub type Refusal = dyn Fn(&Config) -> Option<String> + Send + Sync;

impl std::fmt::Debug for StartCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StartCheck")
    }
}

/// Returns what is said about models that could not be asked: the key, and why. That is no reason to
/// keep the daemon from running.
pub type ModelCheck = fn(&Config) -> Vec<(String, String)>;

/// Looks through the section of the channel with the given id.
pub type ChannelCheck = fn(&str, &Value, &mut Findings<'_>);

/// Takes down what is odd about a channel's section. A channel that cannot run
/// is no reason to keep the daemon from running.
#[derive(Debug)]
pub struct Findings<'a> {
    at: Path,
    report: &'a mut Report,
}

impl Findings<'_> {
    /// Reads a value of the section, `below` its top, as a type, and notes
    /// keys that the type does not know.
    pub fn read<T: DeserializeOwned + JsonSchema>(
        &mut self,
        value: &Value,
        below: &[&str],
    ) -> Option<T> {
        let at = below.iter().fold(self.at.clone(), |at, key| at.key(key));
        let before = self.report.unknown.len();
        let found = read(value, &at, &mut self.report.unknown);
        if self.report.unknown.len() > before {
            self.report.names.extend(schema::paths_of::<T>(&at.to_string()));
        }
        found.map_err(|issue| self.report.warnings.push(issue)).ok()
    }

    /// Notes what is odd about the section as a whole.
    pub fn odd(&mut self, text: String) {
        self.report.warnings.push(Issue::at(&self.at, text));
    }
}

/// A configuration with what is known about its file.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The file.
    pub file: PathBuf,
    /// Its text; `None` when there is no file or it cannot be read.
    pub raw: Option<String>,
    /// SHA-256 of the text, of nothing without one, in hex.
    pub hash: String,
    /// The text's own value.
    pub parsed: Value,
    /// The same with what it includes.
    pub written: Value,
    /// The same with variables looked up.
    pub resolved: Value,
    /// What it means; defaults where it is invalid.
    pub config: Config,
    /// Why it is invalid.
    pub issues: Vec<Issue>,
    /// What is odd.
    pub warnings: Vec<Issue>,
    /// Files whose modes were too wide and have been narrowed.
    pub narrowed: Narrowed,
    /// Whether a file was refused because others could have written it.
    pub refused: bool,
    /// Whether a file was not read because this user may not.
    pub unreadable: bool,
    /// Every file that was read, the included ones too.
    pub files: Vec<PathBuf>,
    /// Every file that was looked for, whether it could be read or not.
    pub tried: Vec<PathBuf>,
}

impl Loaded {
    /// Returns every secret in it that can be told from ordinary words.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        redact::secrets(&self.resolved)
    }

    /// Returns whether it can be used.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.issues.is_empty()
    }
}

impl Source {
    /// Reads the file. Modes that are too wide are narrowed.
    #[must_use]
    pub fn load(&self) -> Loaded {
        self.load_through(Documents::default())
    }

    /// Reads the file and changes nothing about it.
    #[must_use]
    pub fn inspect(&self) -> Loaded {
        self.load_through(Documents { leave_modes: true, ..Documents::default() })
    }

    /// Reads the file as if it, and those it includes, said something else.
    #[must_use]
    pub fn load_over(&self, overlay: Overlay) -> Loaded {
        self.load_through(Documents { overlay, leave_modes: true, ..Documents::default() })
    }

    fn load_through(&self, mut documents: Documents) -> Loaded {
        let exists = match documents.overlaid(&self.file) {
            Some(text) => text.is_some(),
            None => self.must_exist || self.file.symlink_metadata().is_ok(),
        };
        let read = if exists { documents.read(&self.file) } else { None };
        let (parsed, written) = read.unwrap_or_else(empty);
        self.understand(parsed, written, documents)
    }

    /// Takes a value as if it were what the file says.
    #[must_use]
    pub fn take(&self, value: Value) -> Loaded {
        self.understand(value.clone(), value, Documents::default())
    }

    /// Returns what a value that has been checked means.
    pub(super) fn config_of(&self, resolved: &Value) -> Config {
        let mut config = typed(resolved, &mut Report::default());
        config.variables = self.environment.clone().or(&variables(resolved));
        config
    }

    fn understand(&self, parsed: Value, written: Value, mut documents: Documents) -> Loaded {
        let mut resolved = written.clone();
        let mut report =
            Report { issues: std::mem::take(&mut documents.issues), ..Report::default() };
        let environment = self.environment.clone().or(&variables(&resolved));
        substitute(&mut resolved, &Path::default(), &environment, &mut report.issues);
        let mut config = typed(&resolved, &mut report);
        config.variables = environment;
        check::all(&config, &resolved, &mut report.issues);
        if let Some(check) = self.channel {
            for (id, section) in &config.channels {
                let at = Path::default().key("channels").key(id);
                check(id, section, &mut Findings { at, report: &mut report });
            }
        }
        if let Some(check) = self.models {
            for (key, why) in check(&config) {
                let Ok(key) = key.parse::<Path>();
                report.warnings.push(Issue::at(&key, why));
            }
        }
        report.suggest();
        check::odd(&config, &mut report.warnings);
        check::ownership(&config, &mut report.warnings);
        let sections =
            resolved.as_object().map(|root| known::without_effect(&report.unknown, root));
        report.warnings.extend(sections.into_iter().flatten());
        if report.issues.is_empty()
            && let Some(StartCheck(check)) = &self.start
            && let Some(why) = check(&config)
        {
            report.issues.push(Issue::at(&Path::default().key("gateway"), why));
        }
        for issue in report.issues.iter_mut().chain(&mut report.warnings) {
            issue.locate(&documents);
        }
        let files = documents.files.iter().map(|document| document.file.clone()).collect();
        let raw = documents.files.pop().filter(|own| own.file == self.file).map(|own| own.text);
        Loaded {
            file: self.file.clone(),
            hash: hash(raw.as_deref().unwrap_or_default()),
            raw,
            parsed,
            written,
            resolved,
            config,
            issues: report.issues,
            warnings: report.warnings,
            files,
            narrowed: documents.narrowed,
            refused: documents.refused,
            unreadable: documents.unreadable,
            tried: documents.tried,
        }
    }
}

/// What was found while reading.
#[derive(Debug, Default)]
struct Report {
    issues: Vec<Issue>,
    warnings: Vec<Issue>,
    unknown: Vec<Path>,
    /// Names of keys besides those of the typed sections.
    names: Vec<String>,
}

impl Report {
    fn suggest(&mut self) {
        self.warnings.extend(known::warnings(&self.unknown, &self.names));
    }
}

fn empty() -> (Value, Value) {
    (Value::Object(Map::new()), Value::Object(Map::new()))
}

/// The variables that the `env` section sets where the process has none.
fn variables(root: &Value) -> BTreeMap<String, String> {
    let Some(section) = root.get("env").and_then(Value::as_object) else {
        return BTreeMap::new();
    };
    let vars = section.get("vars").and_then(Value::as_object);
    let direct = section.iter().filter(|(name, _)| *name != "vars");
    vars.into_iter()
        .flatten()
        .chain(direct)
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Replaces `${NAME}` in strings; `$${NAME}` stands for itself without the
/// first sign.
fn substitute(value: &mut Value, at: &Path, environment: &Environment, issues: &mut Vec<Issue>) {
    match value {
        Value::String(text) if text.contains("${") => {
            *text = expand(text, environment, &mut |name| {
                let why = format!("environment variable {name} is not set");
                issues.push(Issue::at(at, why));
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute(item, &at.index(index), environment, issues);
            }
        }
        Value::Object(object) => {
            for (key, item) in object {
                substitute(item, &at.key(key), environment, issues);
            }
        }
        _ => {}
    }
}

pub(super) fn expand(
    text: &str,
    environment: &Environment,
    missing: &mut dyn FnMut(&str),
) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(found) = rest.find("${") {
        let (before, reference) = rest.split_at(found);
        let Some((name, after)) = reference[2..].split_once('}').filter(|it| is_name(it.0)) else {
            expanded += &rest[..found + 2];
            rest = &rest[found + 2..];
            continue;
        };
        if let Some(before) = before.strip_suffix('$') {
            expanded += before;
            expanded += &reference[..name.len() + 3];
        } else {
            expanded += before;
            match environment.get(name) {
                Some(value) => expanded += value,
                None => missing(name),
            }
        }
        rest = after;
    }
    expanded + rest
}

/// Returns whether a string is one reference to a variable and nothing else.
pub(super) fn is_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_uppercase() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn typed(root: &Value, report: &mut Report) -> Config {
    let Some(root) = root.as_object() else {
        report.issues.push(Issue::at(&Path::default(), "must be an object: { … }"));
        return Config::default();
    };
    let config = Config {
        gateway: section(root, "gateway", report),
        agents: section(root, "agents", report),
        models: section(root, "models", report),
        tools: section(root, "tools", report),
        commands: section(root, "commands", report),
        session: section(root, "session", report),
        messages: section(root, "messages", report),
        logging: section(root, "logging", report),
        discovery: section(root, "discovery", report),
        channels: section(root, "channels", report),
        auth: section(root, "auth", report),
        env: section(root, "env", report),
        other: root
            .iter()
            .filter(|(name, _)| OTHER_SECTIONS.iter().any(|(known, ..)| known == name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        variables: Environment::default(),
    };
    let is_typed = |name: &str| known::TYPED.contains(&name) || config.other.contains_key(name);
    let unknown = root.keys().filter(|name| !is_typed(name) && *name != "$schema");
    report.unknown.extend(unknown.map(|name| Path::default().key(name)));
    config
}

fn section<T>(root: &Map<String, Value>, name: &str, report: &mut Report) -> T
where
    T: DeserializeOwned + Default,
{
    let Some(value) = root.get(name) else { return T::default() };
    let at = Path::default().key(name);
    match read(value, &at, &mut report.unknown) {
        Ok(section) => section,
        Err(issue) => {
            report.issues.push(issue);
            T::default()
        }
    }
}

/// Reads a value as a type. Keys that the type does not know are noted.
fn read<T: DeserializeOwned>(
    value: &Value,
    at: &Path,
    unknown: &mut Vec<Path>,
) -> Result<T, Issue> {
    let mut track = serde_path_to_error::Track::new();
    let inner = serde_path_to_error::Deserializer::new(value, &mut track);
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(ignored(at, &path));
    T::deserialize(serde_ignored::Deserializer::new(inner, &mut note)).map_err(|error| {
        let mut path = at.clone();
        path.0.extend(track.path().iter().filter_map(failed_step));
        let why = if redact::is_secret(&path) {
            "is of the wrong kind".into()
        } else {
            plain_words(&error.to_string())
        };
        Issue::at(&path, why)
    })
}

fn ignored(at: &Path, path: &serde_ignored::Path<'_>) -> Path {
    use serde_ignored::Path as Ignored;
    match path {
        Ignored::Root => at.clone(),
        Ignored::Seq { parent, index } => ignored(at, parent).index(*index),
        Ignored::Map { parent, key } => ignored(at, parent).key(key),
        Ignored::Some { parent }
        | Ignored::NewtypeStruct { parent }
        | Ignored::NewtypeVariant { parent } => ignored(at, parent),
    }
}

fn failed_step(segment: &serde_path_to_error::Segment) -> Option<Step> {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Puts the words of `serde` into those of the file.
fn plain_words(text: &str) -> String {
    const WORDS: [(&str, &str); 16] = [
        ("invalid type: ", "is "),
        ("invalid value: ", "is "),
        ("unknown variant ", "is "),
        ("expected one of ", "allowed are "),
        ("expected u8", "allowed is a whole number from 0 to 255"),
        ("expected u16", "allowed is a whole number from 0 to 65535"),
        ("expected u32", "allowed is a whole number from 0"),
        ("expected u64", "allowed is a whole number from 0"),
        ("expected usize", "allowed is a whole number from 0"),
        ("expected a boolean", "allowed are true and false"),
        ("expected a string", "allowed is a string"),
        ("expected a sequence", "allowed is a list"),
        ("expected a map", "allowed is an object"),
        ("map,", "an object,"),
        ("sequence,", "a list,"),
        ("`", "\""),
    ];
    let text = WORDS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    match text.find("expected struct ") {
        Some(at) => format!("{}allowed is an object", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::config::{Bind, LogLevel};

    fn load(text: &str) -> Loaded {
        load_with(text, Environment::default())
    }

    fn load_with(text: &str, environment: Environment) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        fs::write(&file, text).unwrap();
        let mut loaded = Source { file, must_exist: true, environment, ..Source::default() }.load();
        let folder = format!("{}/", dir.path().display());
        for issue in loaded.issues.iter_mut().chain(&mut loaded.warnings) {
            issue.place = issue.place.as_ref().map(|place| place.replace(&folder, ""));
            issue.message = issue.message.replace(&folder, "");
        }
        loaded
    }

    fn shown(issues: &[Issue]) -> Vec<String> {
        issues.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_file_everything_has_its_default() {
        let loaded = Source { file: "/nowhere/moltbot.json".into(), ..Source::default() }.load();
        assert!(loaded.is_valid() && loaded.raw.is_none());
        assert_eq!(loaded.config.gateway.port, 18789);
        assert_eq!(loaded.hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let named = Source { must_exist: true, file: "/nowhere/x".into(), ..Source::default() };
        assert!(shown(&named.load().issues)[0].contains("/nowhere/x"));
    }

    #[test]
    fn json5_is_read() {
        let loaded =
            load("{ gateway: { port: 20001, bind: 'auto', }, logging: {level:'debug'} } // x");
        assert_eq!(shown(&loaded.issues), [""; 0]);
        assert_eq!(loaded.config.gateway.bind, Bind::Auto);
        assert_eq!(loaded.config.logging.level, LogLevel::Debug);
    }

    #[test]
    fn a_wrong_value_names_its_place_and_what_is_allowed() {
        let loaded = load("{\n  gateway: {\n    bind: 'wifi',\n  },\n  agents: 3\n}");
        assert_eq!(
            shown(&loaded.issues),
            [
                "moltbot.json:3:5: gateway.bind: is \"wifi\", allowed are \"loopback\", \
                 \"auto\", \"lan\", \"tailnet\", \"custom\"",
                "moltbot.json:5:3: agents: is integer \"3\", allowed is an object",
            ]
        );
        let loaded = load("{ gateway: { port: 70000 } }");
        let shown = shown(&loaded.issues);
        assert!(shown[0].contains("moltbot.json:1:14: gateway.port"), "{shown:?}");
        assert!(shown[0].contains("from 0 to 65535"), "{shown:?}");
    }

    #[test]
    fn a_secret_of_the_wrong_kind_is_not_repeated() {
        let loaded = load("{ gateway: { auth: { token: 31337313373 } } }");
        assert_eq!(
            shown(&loaded.issues),
            ["moltbot.json:1:22: gateway.auth.token: is of the wrong kind"]
        );
    }

    #[test]
    fn what_is_not_json5_names_line_and_column() {
        let loaded = load("{\n  gateway: {\n    port: }\n}");
        assert_eq!(shown(&loaded.issues), ["moltbot.json:3:11: not JSON5: expected value"]);
        assert_eq!(loaded.parsed, json!({}));
        assert!(!load("[]").is_valid() && !load("").is_valid() && !load("\0").is_valid());
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_a_suggestion() {
        let loaded = load("{ gateway: { prot: 1, auth: { tokn: 'x' } },\n chanels: {}, zzz: 1 }");
        assert!(loaded.is_valid());
        assert_eq!(
            shown(&loaded.warnings),
            [
                "moltbot.json:1:14: gateway.prot: unknown key; did you mean \"port\"?",
                "moltbot.json:1:31: gateway.auth.tokn: unknown key; did you mean \"token\"?",
                "moltbot.json:2:2: chanels: unknown key; did you mean \"channels\"?",
                "moltbot.json:2:15: zzz: unknown key",
            ]
        );
    }

    #[test]
    fn who_is_left_without_an_owner_is_told_what_to_write() {
        let warned = |text: &str| {
            let loaded = load(text);
            assert_eq!(shown(&loaded.issues), [""; 0], "{text}");
            let odd = loaded.warnings.into_iter().filter(|it| it.path == "commands.owners");
            odd.map(|it| it.message).next()
        };
        let command = "moltbotctl config set commands.owners '[\"telegram:7\"]'";
        for alone in ["[7]", "['tg:7']", "['7']"] {
            let text = format!("{{ channels: {{ telegram: {{ allowFrom: {alone} }} }} }}");
            assert!(warned(&text).unwrap().contains(command), "{text}");
        }
        let several = warned("{ channels: { telegram: { allowFrom: [7, 8] } } }").unwrap();
        assert!(several.contains("telegram:YOUR-ID"), "{several}");
        for silent in [
            "{}",
            "{ channels: { telegram: { enabled: false } } }",
            "{ channels: { telegram: {} }, commands: { owners: [] } }",
            "{ channels: { telegram: {} }, commands: { ownerAllowFrom: ['telegram:7', 'discord:ann'] } }",
        ] {
            assert_eq!(warned(silent), None, "{silent}");
        }
        let name = "{ channels: { telegram: {} }, commands: { owners: ['telegram:ann'] } }";
        assert!(warned(name).unwrap().contains("names nobody in Telegram"));
    }

    #[test]
    fn a_restriction_that_cannot_be_honoured_is_an_error() {
        for (text, path, part) in [
            ("{ commands: { owners: ['*'] } }", "commands.owners", "everybody the owner"),
            (
                "{ commands: { ownerAllowFrom: ['telegram:*'] } }",
                "commands.ownerAllowFrom",
                "everybody",
            ),
            (
                "{ tools: { actFor: { nodes: ['stranger'] } } }",
                "tools.actFor.nodes",
                "no tool ever acts",
            ),
            ("{ tools: { profile: 'tiny' } }", "tools.profile", "allowed are"),
            ("{ tools: { deny: 'nodes' } }", "tools.deny", "allowed is a list"),
            (
                "{ agents: { list: [{ id: 'a', tools: { deny: 'nodes' } }] } }",
                "agents.list[0].tools.deny",
                "list",
            ),
            (
                "{ channels: { telegram: { groups: { '-5': { tools: 'none' } } } } }",
                "channels.telegram",
                "cannot be read",
            ),
            (
                "{ agents: { list: [{ id: 'main' }, { id: 'family', tools: { deny: ['nodes'] } }] }, \
                 bindings: [{ agentId: 'family', match: { channel: 'telegram' } }] }",
                "bindings[0]",
                "bindings are not implemented",
            ),
        ] {
            let issues = load(text).issues;
            assert_eq!(issues[0].path, path, "{text}");
            assert!(issues[0].message.contains(part), "{text}: {}", issues[0].message);
        }
        let harmless = "{ agents: { list: [{ id: 'main' }, { id: 'other' }] }, \
                          bindings: [{ agentId: 'other', match: { channel: 'telegram' } }] }";
        assert!(load(harmless).is_valid());
    }

    #[test]
    fn keys_of_the_reference_are_known() {
        let loaded = load(
            r#"{
                "$schema": "x",
                meta: { lastTouchedVersion: "1" },
                gateway: {
                    mode: "local", reload: { mode: "off" }, tailscale: { mode: "off" },
                    tls: { enabled: false }, http: { endpoints: { chatCompletions: { enabled: true } } },
                    controlUi: { enabled: true, basePath: "/x" }, nodes: { browser: { mode: "off" } },
                },
                models: { mode: "merge", providers: { mock: { baseUrl: "http://127.0.0.1:1/v1",
                    apiKey: "k", api: "openai-completions", models: [ { id: "m", name: "M",
                    cost: { input: 0, output: 0 }, contextWindow: 1, maxTokens: 1 } ] } } },
                agents: { defaults: { model: { primary: "mock/m" }, workspace: "/w",
                    skipBootstrap: true, heartbeat: { every: "5m" } },
                    list: [ { id: "main", identity: { name: "M" }, tools: { allow: [] } } ] },
                session: { mainKey: "main", resetTriggers: ["/new"], sendPolicy: { default: "allow" } },
                messages: { ackReaction: "x", queue: { mode: "collect" } },
                logging: { level: "info", consoleLevel: "warn", redactSensitive: "tools" },
                commands: { native: 'auto', owners: [7] }, hooks: {}, cron: {}, discovery: {}, canvasHost: {}, talk: {}, ui: {},
                update: {}, browser: {}, nodeHost: {}, skills: {}, plugins: {}, media: {}, audio: {},
                web: {}, diagnostics: {}, wizard: {}, env: { vars: {} }, tools: {}, approvals: {},
                bindings: [], broadcast: {}, auth: { profiles: {} }, channels: { telegram: { x: 1 } },
            }"#,
        );
        let odd: Vec<_> = loaded.warnings.iter().map(|issue| issue.path.as_str()).collect();
        assert_eq!(odd, ["messages.queue"]);
        assert_eq!(shown(&loaded.issues), [""; 0]);
    }

    #[test]
    fn what_an_agent_is_called_is_read() {
        let loaded = load(
            "{ agents: { list: [{ id: 'main', identity: { name: 'Ada', emoji: '🦞', theme: 'sea' },\n\
             groupChat: { mentionPatterns: ['ada', '['], historyLimit: 9 } }] } }",
        );
        assert!(loaded.is_valid());
        assert_eq!(loaded.config.mention_patterns("main"), ["ada", "["]);
        assert_eq!(
            shown(&loaded.warnings),
            [
                "moltbot.json:2:39: agents.list[0].groupChat.mentionPatterns[1]: is not a regular \
                 expression that can be used, and is ignored",
                "moltbot.json:2:45: agents.list[0].groupChat.historyLimit: is accepted, but has no \
                 effect in this version",
            ]
        );
    }

    #[test]
    fn what_changes_nothing_is_said_once() {
        let loaded = load(
            "{ session: { typingMode: 'never', reset: { mode: 'idle' } },\n\
             commands: { native: 'auto' }, bindings: [], ui: { x: 1 },\n\
             messages: { groupChat: { mentionPatterns: ['ok', '('] } } }",
        );
        assert!(loaded.is_valid());
        assert_eq!(
            shown(&loaded.warnings),
            [
                "moltbot.json:3:50: messages.groupChat.mentionPatterns[1]: is not a regular \
                 expression that can be used, and is ignored",
                "moltbot.json:1:14: session.typingMode: is accepted, but has no effect in this \
                 version",
            ]
        );
    }

    #[test]
    fn rules_of_conversations_are_checked() {
        let resets = load(
            "{ session: { resetByType: { group: { mode: 'idle' }, thread: { atHour: 24 } },\n\
             resetByChannel: { telegram: { idleMinutes: 0 } }, idleMinutes: 0 } }",
        );
        assert_eq!(
            shown(&resets.issues),
            [
                "moltbot.json:2:51: session.idleMinutes: is 0, allowed is 1 or more",
                "moltbot.json:1:64: session.resetByType.thread.atHour: is 24, allowed is 0 to 23",
                "moltbot.json:2:31: session.resetByChannel.telegram.idleMinutes: is 0, allowed is 1 \
                 or more",
            ]
        );
        let said = |section: &str| {
            let loaded = load(&format!("{{ session: {section} }}"));
            assert!(!loaded.is_valid());
            shown(&loaded.issues).join("\n")
        };
        let mode = said("{ resetByType: { group: { mode: 'weekly' } } }");
        assert!(
            mode.ends_with("group.mode: is \"weekly\", expected \"daily\" or \"idle\""),
            "{mode}"
        );
        let default = said("{ sendPolicy: { default: 'maybe' } }");
        assert!(default.ends_with("is \"maybe\", expected \"allow\" or \"deny\""), "{default}");
        let action = said("{ sendPolicy: { rules: [{ match: {} }] } }");
        assert!(action.ends_with("sendPolicy.rules[0]: missing field \"action\""), "{action}");
        let kind =
            said("{ sendPolicy: { rules: [{ action: 'deny', match: { chatType: 'x' } }] } }");
        let ending = "is \"x\", allowed are \"direct\", \"dm\", \"group\", \"channel\"";
        assert!(kind.ends_with(ending), "{kind}");
    }

    #[test]
    fn variables_are_looked_up() {
        let environment = Environment::from([("PORT_NAME", "lan"), ("BOTH", "process")]);
        let loaded = load_with(
            r#"{ env: { vars: { FROM_VARS: "v", BOTH: "file" }, DIRECT: "d" },
                 gateway: { auth: { token: "${FROM_VARS}-${DIRECT}-${BOTH}" } },
                 messages: { responsePrefix: "$${DIRECT} ${lower} $5 ${" } }"#,
            environment,
        );
        assert_eq!(shown(&loaded.issues), [""; 0]);
        assert_eq!(loaded.config.gateway.auth.token.as_deref(), Some("v-d-process"));
        let prefix = loaded.config.messages.response_prefix.as_deref();
        assert_eq!(prefix, Some("${DIRECT} ${lower} $5 ${"));
        assert_eq!(loaded.config.variable("DIRECT"), Some("d"));
        let missing = load("{ ui: { assistant: { name: '${NO_SUCH}' } } }");
        assert_eq!(
            shown(&missing.issues),
            ["moltbot.json:1:22: ui.assistant.name: environment variable NO_SUCH is not set"]
        );
    }

    #[test]
    fn files_are_included_and_merged() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("moltbot.json", "{ $include: ['a.json5', './b.json5'], gateway: { port: 3 } }");
        write("a.json5", "{ gateway: { port: 1, bind: 'lan', trustedProxies: ['10.0.0.1'] } }");
        write("b.json5", "{ gateway: { $include: 'c.json5', port: 2,\n trustedProxies: ['x'] } }");
        write("c.json5", "{ customBindHost: '127.0.0.1' }");
        let file = dir.path().join("moltbot.json");
        let source = Source { file, must_exist: true, ..Source::default() };
        let loaded = source.load();
        let gateway = &loaded.resolved["gateway"];
        assert_eq!(gateway["port"], 3);
        assert_eq!(gateway["bind"], "lan");
        assert_eq!(gateway["customBindHost"], "127.0.0.1");
        assert_eq!(gateway["trustedProxies"], json!(["10.0.0.1", "x"]));
        assert_eq!(loaded.parsed["$include"][0], "a.json5");
        let shown = shown(&loaded.issues);
        assert!(shown[0].contains("gateway.trustedProxies[1]"), "{shown:?}");
        write("b.json5", "{ gateway: { $include: 'moltbot.json' } }");
        let shown = source.load().issues[0].to_string();
        assert!(shown.contains("b.json5:1:14: gateway.$include: circular include: "), "{shown}");
        write("b.json5", "{ gateway: {\n port: }");
        let shown = source.load().issues[0].to_string();
        assert!(shown.contains("b.json5:2:8: not JSON5"), "{shown}");
    }

    #[test]
    fn nothing_panics_on_mutated_files() {
        let seed = r#"{ $include: ["x"], gateway: { port: 1, auth: { token: "${A}" } }, /* ü */
            agents: { list: [ { id: 'main', model: { primary: "a/b" } } ] }, // end
            channels: { telegram: { botToken: "1:2" } }, n: [-0x1, .5, +1e3, NaN, "\u{41}"] }"#;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        let source = Source { file: file.clone(), must_exist: true, ..Source::default() };
        for _ in 0..600 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = b"{}[]\"'\\/*:,$\n\r\xff\0"[random(16)],
                    2 => bytes.insert(at, b"{[\"'\\/"[random(6)]),
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() {
                    bytes.push(b'{');
                }
            }
            fs::write(&file, &bytes).unwrap();
            let loaded = source.load();
            if let Some(raw) = &loaded.raw {
                redact::text(raw, &loaded.parsed);
            }
        }
        fs::write(&file, "[".repeat(1_000_000)).unwrap();
        assert!(shown(&source.load().issues)[0].contains("nested deeper than 64 levels"));
    }
}
