//! Keys of the reference that mean nothing here yet, and what a key that
//! nobody knows may have meant.

use moltbot_settings::{Path, Step};
use serde_json::{Map, Value};

use super::{issue::Issue, schema};

/// Sections with a type of their own.
pub(super) const TYPED: [&str; 12] = [
    "gateway",
    "agents",
    "models",
    "tools",
    "commands",
    "session",
    "messages",
    "logging",
    "discovery",
    "channels",
    "auth",
    "env",
];

/// Keys of those sections that are accepted as they are, with all below them.
/// `*` stands for any key or index.
const ACCEPTED: &[&str] = &[
    "agents.defaults.blockStreamingBreak",
    "agents.defaults.blockStreamingChunk",
    "agents.defaults.blockStreamingCoalesce",
    "agents.defaults.blockStreamingDefault",
    "agents.defaults.bootstrapMaxChars",
    "agents.defaults.cliBackends",
    "agents.defaults.compaction",
    "agents.defaults.contextPruning",
    "agents.defaults.contextTokens",
    "agents.defaults.elevatedDefault",
    "agents.defaults.envelopeElapsed",
    "agents.defaults.envelopeTimestamp",
    "agents.defaults.envelopeTimezone",
    "agents.defaults.heartbeat",
    "agents.defaults.humanDelay",
    "agents.defaults.imageModel",
    "agents.defaults.mediaMaxMb",
    "agents.defaults.memorySearch",
    "agents.defaults.models",
    "agents.defaults.repoRoot",
    "agents.defaults.sandbox",
    "agents.defaults.skipBootstrap",
    "agents.defaults.subagents",
    "agents.defaults.timeFormat",
    "agents.defaults.typingIntervalSeconds",
    "agents.defaults.typingMode",
    "agents.defaults.userTimezone",
    "agents.defaults.workspace",
    "agents.list.*.agentDir",
    "agents.list.*.heartbeat",
    "agents.list.*.humanDelay",
    "agents.list.*.identity.avatar",
    "agents.list.*.identity.theme",
    "agents.list.*.memorySearch",
    "agents.list.*.sandbox",
    "agents.list.*.subagents",
    "agents.list.*.tools.agentToAgent",
    "agents.list.*.tools.codeMode",
    "agents.list.*.tools.elevated",
    "agents.list.*.tools.exec",
    "agents.list.*.tools.fs",
    "agents.list.*.tools.loopDetection",
    "agents.list.*.tools.message",
    "agents.list.*.workspace",
    "commands.bash",
    "commands.bashForegroundMs",
    "commands.config",
    "commands.debug",
    "commands.mcp",
    "commands.native",
    "commands.nativeSkills",
    "commands.ownerDisplay",
    "commands.ownerDisplaySecret",
    "commands.plugins",
    "commands.useAccessGroups",
    "discovery.wideArea",
    "gateway.controlUi.basePath",
    "gateway.controlUi.enabled",
    "gateway.http",
    "gateway.nodes.browser",
    "gateway.tls.caPath",
    "logging.consoleLevel",
    "logging.consoleStyle",
    "messages.ackReaction",
    "messages.ackReactionScope",
    "messages.removeAckAfterReply",
    "models.bedrockDiscovery",
    "models.mode",
    "models.providers.*.auth",
    "models.providers.*.authHeader",
    "models.providers.*.models.*.api",
    "models.providers.*.models.*.compat",
    "models.providers.*.models.*.cost",
    "models.providers.*.models.*.headers",
    "session.mainKey",
    "tools.agentToAgent",
    "tools.codeMode",
    "tools.elevated",
    "tools.exec",
    "tools.experimental",
    "tools.fs",
    "tools.links",
    "tools.loopDetection",
    "tools.media",
    "tools.message",
    "tools.sessions",
    "tools.sessions_spawn",
    "tools.subagents",
    "tools.web",
];

/// The same for the section of Telegram and its accounts.
const TELEGRAM: &[&str] = &[
    "actions",
    "blockStreaming",
    "blockStreamingCoalesce",
    "capabilities",
    "commands",
    "configWrites",
    "customCommands",
    "dmHistoryLimit",
    "dms",
    "draftChunk.breakPreference",
    "draftChunk.maxChars",
    "groups.*.skills",
    "groups.*.topics.*.skills",
    "heartbeat",
    "markdown",
    "network",
    "reactionLevel",
    "reactionNotifications",
    "retry",
    "webhookPath",
    "webhookSecret",
];

/// Further accepted keys, which their writers would miss: nothing reads them yet,
/// and that is said. What the reference puts into every configuration on its own
/// is not among them.
const WITHOUT_EFFECT: &[&str] = &[
    "agents.list.*.groupChat.historyLimit",
    "approvals",
    "audio",
    "bindings",
    "broadcast",
    "browser",
    "canvasHost",
    "channels.telegram.accounts.*.groups.*.systemPrompt",
    "channels.telegram.accounts.*.groups.*.topics.*.systemPrompt",
    "channels.telegram.groups.*.systemPrompt",
    "channels.telegram.groups.*.topics.*.systemPrompt",
    "cron",
    "hooks",
    "media",
    "messages.inbound",
    "messages.messagePrefix",
    "messages.queue",
    "messages.tts",
    "session.agentToAgent",
    "session.identityLinks",
    "session.store",
    "session.typingIntervalSeconds",
    "session.typingMode",
    "web",
];

/// Older keys, and where their content belongs now.
const MOVED: &[(&str, &str)] = &[
    ("agent", "agents.defaults"),
    ("gateway.token", "gateway.auth.token"),
    ("identity", "agents.list[].identity"),
    ("routing", "agents, bindings and messages"),
    ("telegram", "channels.telegram"),
    ("whatsapp", "channels.whatsapp"),
    ("discord", "channels.discord"),
    ("slack", "channels.slack"),
    ("signal", "channels.signal"),
    ("imessage", "channels.imessage"),
];

/// What is said of a key that nobody knows.
pub(super) const UNKNOWN: &str = "unknown key";

/// Smallest likeness of a suggestion, from 0 to 1.
const ALIKE: f64 = 0.8;

/// Returns a warning for each key that is really unknown.
pub(super) fn warnings(unknown: &[Path], further: &[String]) -> Vec<Issue> {
    let accepted = accepted();
    let is_accepted = |path: &Path| accepted.iter().any(|pattern| is_below(path, pattern));
    let unknown: Vec<_> = unknown.iter().filter(|path| !is_accepted(path)).collect();
    if unknown.is_empty() {
        return Vec::new();
    }
    let mut known = names();
    known.extend_from_slice(further);
    unknown.into_iter().map(|path| Issue::at(path, describe(path, &known))).collect()
}

/// Returns a warning for each key that is accepted and changes nothing.
/// `sections` are those without a type, `unread` what the types do not know.
pub(super) fn without_effect(unread: &[Path], sections: &Map<String, Value>) -> Vec<Issue> {
    let is_off = |key: &str, value: &Value| key == "enabled" && *value == Value::Bool(false);
    let says_something = |value: &Value| match value {
        // What is switched off is off here, too.
        Value::Object(section) => section.iter().any(|(key, value)| !is_off(key, value)),
        Value::Array(items) => !items.is_empty(),
        value => !value.is_null(),
    };
    let sections = sections.iter().filter(|(_, value)| says_something(value));
    let sections = sections.map(|(name, _)| Path::default().key(name));
    let paths = unread.iter().cloned().chain(sections);
    paths
        .filter(|path| WITHOUT_EFFECT.iter().any(|pattern| is_below(path, pattern)))
        .map(|path| {
            let text = "is accepted, but has no effect in this version";
            Issue::at(&path, text)
        })
        .collect()
}

/// Returns whether an older name was used, and where its content belongs now.
pub(super) fn moved_to(path: &str) -> Option<&'static str> {
    MOVED.iter().find(|(from, _)| *from == path).map(|(_, to)| *to)
}

fn describe(path: &Path, known: &[String]) -> String {
    if let Some(to) = moved_to(&path.to_string()) {
        return format!("is not read any more; use {to}");
    }
    let Some((Step::Key(key), around)) = path.0.split_last() else { return UNKNOWN.into() };
    let around = pattern(around);
    let alike = known
        .iter()
        .filter_map(|name| siblings(name, &around))
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match alike {
        Some((_, name)) => format!("{UNKNOWN}; did you mean {name:?}?"),
        None => UNKNOWN.into(),
    }
}

/// Returns the last part of a dotted name if the parts before it are `around`.
fn siblings<'a>(name: &'a str, around: &str) -> Option<&'a str> {
    let (before, last) = name.rsplit_once('.').unwrap_or(("", name));
    (before == around).then_some(last)
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = schema::paths();
    for accepted in ACCEPTED.iter().chain(WITHOUT_EFFECT) {
        names.push((*accepted).into());
    }
    names
}

fn pattern(steps: &[Step]) -> String {
    let part = |step: &Step| match step {
        Step::Key(key) => key.clone(),
        Step::Index(_) => "*".into(),
    };
    steps.iter().map(part).collect::<Vec<_>>().join(".")
}

fn accepted() -> Vec<String> {
    let telegram = TELEGRAM.iter().flat_map(|key| {
        [format!("channels.telegram.{key}"), format!("channels.telegram.accounts.*.{key}")]
    });
    let accepted = ACCEPTED.iter().chain(WITHOUT_EFFECT).map(|accepted| (*accepted).to_owned());
    accepted.chain(telegram).collect()
}

/// Returns whether a path is that of a pattern or below it.
fn is_below(path: &Path, pattern: &str) -> bool {
    let mut steps = path.0.iter();
    pattern.split('.').all(|part| match steps.next() {
        Some(Step::Key(key)) => part == "*" || part == key,
        Some(Step::Index(_)) => part == "*",
        None => false,
    })
}
