//! `channels.telegram`: accounts, their settings and their tokens.
//!
//! An account is read from the channel's section with its own keys laid over
//! it, so that a key it lacks is inherited instead of falling back to its
//! default. Only the token is not inherited: two pollers on one token would
//! take each other's messages.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{
    asker::AskerKind,
    config::{Findings, ToolPolicy},
};

/// Why an account without a token does not run, as `channels.status` says it.
pub(super) const NOT_CONFIGURED: &str = "not configured";

/// Account that stands for the channel's own keys.
pub(super) const DEFAULT_ACCOUNT: &str = "default";

/// Environment variable that holds the default account's token.
pub(super) const TOKEN_VARIABLE: &str = "TELEGRAM_BOT_TOKEN";

/// Settings of one account.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    /// Whether the account runs.
    pub(super) enabled: bool,
    /// Name for people.
    pub(super) name: Option<String>,
    /// Token of the bot.
    pub(super) bot_token: Option<Secret>,
    /// File that holds the token of the bot.
    #[schemars(extend("x-guarded" = true))]
    pub(super) token_file: Option<PathBuf>,
    /// Address of the Bot API server.
    #[schemars(extend("x-guarded" = true))]
    pub(super) api_root: String,
    /// Who may write in direct chats.
    #[schemars(extend("x-guarded" = true))]
    pub(super) dm_policy: DmPolicy,
    /// Ids or usernames that may write; `*` for everybody.
    #[schemars(extend("x-guarded" = true))]
    pub(super) allow_from: Vec<Id>,
    /// Who may write in groups; `allowFrom` when absent.
    #[schemars(extend("x-guarded" = true))]
    pub(super) group_allow_from: Option<Vec<Id>>,
    /// Which senders are heard in groups.
    #[schemars(extend("x-guarded" = true))]
    pub(super) group_policy: Option<GroupPolicy>,
    /// Settings by chat id, `*` for all others. When present, other groups are
    /// not heard.
    pub(super) groups: BTreeMap<String, Group>,
    /// How many messages of a group are kept as context.
    pub(super) history_limit: Option<usize>,
    /// Characters in one message.
    pub(super) text_chunk_limit: usize,
    /// Where a long text is cut.
    pub(super) chunk_mode: ChunkMode,
    /// How an answer is shown while it is written.
    pub(super) stream_mode: StreamMode,
    /// How much is added to a draft at once in block mode.
    pub(super) draft_chunk: DraftChunk,
    /// Which parts of an answer are replies.
    pub(super) reply_to_mode: ReplyToMode,
    /// Largest file taken in or sent, in megabytes.
    pub(super) media_max_mb: f64,
    /// How long a request may take, in seconds.
    pub(super) timeout_seconds: u64,
    /// How long the server may hold a question for new messages, in seconds.
    pub(super) poll_timeout_seconds: u32,
    /// Proxy for the Bot API.
    #[schemars(extend("x-guarded" = true))]
    pub(super) proxy: Option<String>,
    /// Address of a webhook; not served by this program yet.
    #[schemars(extend("x-guarded" = true))]
    pub(super) webhook_url: Option<String>,
    /// Whether links are shown with a preview.
    pub(super) link_preview: bool,
    /// Folders besides the state directory that files may be sent from.
    #[schemars(extend("x-guarded" = true))]
    pub(super) media_roots: Vec<PathBuf>,
    /// Tools of the channel, within those of `tools`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) tools: Option<ToolPolicy>,
    /// For whom a tool may change something, by tool or `*`: `owner`, `admitted`, `schedule`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) act_for: BTreeMap<String, Vec<AskerKind>>,
    /// Tools of direct chats, by the person's id, `*` for all others.
    pub(super) direct: BTreeMap<String, DirectTools>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            name: None,
            bot_token: None,
            token_file: None,
            api_root: "https://api.telegram.org".into(),
            dm_policy: DmPolicy::default(),
            allow_from: Vec::new(),
            group_allow_from: None,
            group_policy: None,
            groups: BTreeMap::new(),
            history_limit: None,
            text_chunk_limit: 4000,
            chunk_mode: ChunkMode::default(),
            stream_mode: StreamMode::default(),
            draft_chunk: DraftChunk::default(),
            reply_to_mode: ReplyToMode::default(),
            media_max_mb: 5.0,
            timeout_seconds: 30,
            poll_timeout_seconds: 30,
            proxy: None,
            webhook_url: None,
            link_preview: true,
            media_roots: Vec::new(),
            tools: None,
            act_for: BTreeMap::new(),
            direct: BTreeMap::new(),
        }
    }
}

/// Who may write in direct chats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DmPolicy {
    /// Strangers get a code that the owner approves.
    #[default]
    Pairing,
    /// Only who is listed.
    Allowlist,
    /// Everybody, when `allowFrom` contains `*`.
    Open,
    /// Nobody.
    Disabled,
}

/// Which senders are heard in groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum GroupPolicy {
    /// Everybody.
    Open,
    /// Nobody.
    Disabled,
    /// Only who is listed.
    #[default]
    Allowlist,
}

/// Where a long text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ChunkMode {
    /// As late as the limit allows.
    #[default]
    Length,
    /// At every blank line.
    Newline,
}

/// How an answer is shown while it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StreamMode {
    /// Not at all.
    Off,
    /// As a message that grows.
    #[default]
    Partial,
    /// As a message that grows by larger pieces.
    Block,
}

/// Which parts of an answer are replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReplyToMode {
    /// None.
    Off,
    /// The first.
    #[default]
    First,
    /// All.
    All,
}

/// How much is added to a draft at once in block mode.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DraftChunk {
    /// Characters that must be new.
    pub(super) min_chars: usize,
}

impl Default for DraftChunk {
    fn default() -> Self {
        Self { min_chars: 200 }
    }
}

/// Settings of a group.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Group {
    /// Whether the group is heard.
    pub(super) enabled: Option<bool>,
    /// Whether only messages that mention the bot are answered.
    pub(super) require_mention: Option<bool>,
    /// Who may write, instead of the account's list.
    #[schemars(extend("x-guarded" = true))]
    pub(super) allow_from: Option<Vec<Id>>,
    /// Settings by topic id.
    pub(super) topics: BTreeMap<String, Topic>,
    /// Tools of the group, within those of the channel.
    #[schemars(extend("x-guarded" = true))]
    pub(super) tools: Option<ToolPolicy>,
    /// Tools by sender, instead of those of the group: `id:7`, `username:ann`, `name:Ann`, `*`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) tools_by_sender: BTreeMap<String, ToolPolicy>,
    /// For whom a tool may change something, by tool or `*`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) act_for: BTreeMap<String, Vec<AskerKind>>,
}

/// Tools of a direct chat.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DirectTools {
    /// Tools of the chat, within those of the channel.
    #[schemars(extend("x-guarded" = true))]
    pub(super) tools: Option<ToolPolicy>,
    /// For whom a tool may change something, by tool or `*`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) act_for: BTreeMap<String, Vec<AskerKind>>,
}

/// Settings of a topic.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Topic {
    /// Whether the topic is heard.
    pub(super) enabled: Option<bool>,
    /// Whether only messages that mention the bot are answered.
    pub(super) require_mention: Option<bool>,
    /// Who may write, instead of the group's list.
    #[schemars(extend("x-guarded" = true))]
    pub(super) allow_from: Option<Vec<Id>>,
    /// Tools of the topic, within those of the group.
    #[schemars(extend("x-guarded" = true))]
    pub(super) tools: Option<ToolPolicy>,
    /// For whom a tool may change something, by tool or `*`.
    #[schemars(extend("x-guarded" = true))]
    pub(super) act_for: BTreeMap<String, Vec<AskerKind>>,
}

/// An id or a username, without prefix and `@`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
pub(super) struct Id(pub(super) String);

impl Id {
    pub(super) fn of(text: &str) -> Self {
        let text = text.trim().to_lowercase();
        let text = ["telegram:", "tg:"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(&text)
            .trim();
        Self(text.strip_prefix('@').unwrap_or(text).to_owned())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(i64),
            Text(String),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Number(number) => Self(number.to_string()),
            Form::Text(text) => Self::of(&text),
        })
    }
}

/// A token; prints nothing.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a token came from, as `channels.status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenSource {
    Env,
    TokenFile,
    Config,
    None,
}

impl TokenSource {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::TokenFile => "tokenFile",
            Self::Config => "config",
            Self::None => "none",
        }
    }
}

/// An account of the section.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) settings: Settings,
    pub(super) source: TokenSource,
    /// The token, or what is to be done to have one.
    pub(super) token: Result<Secret, String>,
}

/// Looks through the section and those of its accounts.
pub(super) fn check(section: &Value, findings: &mut Findings<'_>) {
    let mut channel = section.clone();
    let accounts = channel.as_object_mut().and_then(|channel| channel.remove("accounts"));
    findings.read::<Settings>(&channel, &[]);
    for (id, account) in accounts.iter().filter_map(Value::as_object).flatten() {
        findings.read::<Settings>(account, &["accounts", id]);
    }
    // A file that is not there is found now, not by the first message that nobody gets.
    for account in self::accounts(section, None) {
        if let (TokenSource::TokenFile, Err(why)) = (account.source, &account.token)
            && account.settings.enabled
        {
            findings.odd(why.clone());
        }
    }
}

/// Reads the accounts of a section. A section that cannot be read makes one
/// account that says why.
pub(super) fn accounts(section: &Value, env_token: Option<&str>) -> Vec<Account> {
    let empty = Map::new();
    let channel = section.as_object().unwrap_or(&empty);
    let named = channel.get("accounts").and_then(Value::as_object).unwrap_or(&empty);
    let own_token = ["botToken", "tokenFile"].iter().any(|key| has_text(channel, key));
    let mut ids: Vec<&str> = named.keys().map(String::as_str).collect();
    if (own_token || ids.is_empty()) && !named.contains_key(DEFAULT_ACCOUNT) {
        ids.insert(0, DEFAULT_ACCOUNT);
    }
    ids.into_iter()
        .map(|id| account(id, channel, named.get(id).and_then(Value::as_object), env_token))
        .collect()
}

fn account(
    id: &str,
    channel: &Map<String, Value>,
    own: Option<&Map<String, Value>>,
    env_token: Option<&str>,
) -> Account {
    let mut merged = channel.clone();
    merged.remove("accounts");
    for key in ["botToken", "tokenFile", "name"] {
        merged.remove(key);
    }
    if channel.get("enabled") == Some(&Value::Bool(false)) {
        merged.insert("enabled".into(), Value::Bool(false));
    }
    for (key, value) in own.into_iter().flatten() {
        // A channel that is switched off stays off for all its accounts.
        if key == "enabled" && merged.get("enabled") == Some(&Value::Bool(false)) {
            continue;
        }
        merged.insert(key.clone(), value.clone());
    }
    let place = match own {
        Some(_) => format!("channels.telegram.accounts.{id}"),
        None => "channels.telegram".to_owned(),
    };
    match serde_path_to_error::deserialize::<_, Settings>(Value::Object(merged)) {
        Ok(settings) => {
            let (source, token) = token(id, &place, &settings, channel, env_token);
            Account { id: id.to_owned(), settings, source, token }
        }
        Err(error) => {
            let problem = format!("{place}.{}: {}", error.path(), error.inner());
            let settings = Settings::default();
            Account { id: id.to_owned(), settings, source: TokenSource::None, token: Err(problem) }
        }
    }
}

/// The first of: the account's file, the account's key, and for the default
/// account the channel's file, the channel's key, the environment.
fn token(
    id: &str,
    place: &str,
    settings: &Settings,
    channel: &Map<String, Value>,
    env_token: Option<&str>,
) -> (TokenSource, Result<Secret, String>) {
    if let Some(path) = &settings.token_file {
        return (TokenSource::TokenFile, read_token(path, place));
    }
    if let Some(token) = settings.bot_token.as_ref().filter(|token| !token.0.trim().is_empty()) {
        return (TokenSource::Config, Ok(Secret(token.0.trim().to_owned())));
    }
    if id == DEFAULT_ACCOUNT {
        if let Some(path) = channel.get("tokenFile").and_then(Value::as_str) {
            return (TokenSource::TokenFile, read_token(path.as_ref(), "channels.telegram"));
        }
        let key = channel.get("botToken").and_then(Value::as_str).map(str::trim);
        if let Some(token) = key.filter(|token| !token.is_empty()) {
            return (TokenSource::Config, Ok(Secret(token.to_owned())));
        }
        if let Some(token) = env_token.map(str::trim).filter(|token| !token.is_empty()) {
            return (TokenSource::Env, Ok(Secret(token.to_owned())));
        }
    }
    (TokenSource::None, Err(NOT_CONFIGURED.into()))
}

fn read_token(path: &std::path::Path, place: &str) -> Result<Secret, String> {
    // A pipe would be waited for.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(format!("{place}.tokenFile is not a regular file; check the path"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {place}.tokenFile: {error}; check the path"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(format!("{place}.tokenFile is empty: put the bot's token into it"));
    }
    Ok(Secret(token.to_owned()))
}

fn has_text(section: &Map<String, Value>, key: &str) -> bool {
    section.get(key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
}

impl Settings {
    pub(super) fn max_media_bytes(&self) -> u64 {
        // Whole bytes are exact enough, and a negative limit means none at all.
        (self.media_max_mb.max(0.0) * 1024.0 * 1024.0) as u64
    }

    /// Without a pause the questions would follow one another at full speed;
    /// above 50 s Telegram cuts it anyway.
    pub(super) fn poll_timeout(&self) -> Duration {
        Duration::from_secs(self.poll_timeout_seconds.clamp(1, 50).into())
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.max(1))
    }

    /// Telegram's own limit is 4096; what is above it would be refused.
    pub(super) fn chunk_limit(&self) -> usize {
        self.text_chunk_limit.clamp(1, 4000)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_inherits_what_it_does_not_say() {
        let section = json!({
            "botToken": "1:a", "textChunkLimit": 100, "dmPolicy": "open", "allowFrom": ["*"],
            "accounts": { "work": { "botToken": "2:b", "dmPolicy": "allowlist" } },
        });
        let accounts = accounts(&section, None);
        assert_eq!(
            accounts.iter().map(|account| account.id.as_str()).collect::<Vec<_>>(),
            ["default", "work"]
        );
        assert_eq!(accounts[1].settings.text_chunk_limit, 100);
        assert_eq!(accounts[1].settings.dm_policy, DmPolicy::Allowlist);
        assert_eq!(accounts[1].token, Ok(Secret("2:b".into())));
    }

    #[test]
    fn a_token_is_not_inherited_by_a_second_account() {
        let section = json!({ "botToken": "1:a", "accounts": { "work": {} } });
        let accounts = accounts(&section, Some("3:c"));
        assert_eq!(accounts[0].source, TokenSource::Config);
        assert_eq!(accounts[1].source, TokenSource::None);
        assert!(accounts[1].token.is_err());
    }

    #[test]
    fn the_environment_serves_the_default_account_only() {
        let accounts = accounts(&json!({ "accounts": { "default": {}, "b": {} } }), Some("3:c"));
        let sources: Vec<_> = accounts.iter().map(|account| account.source).collect();
        assert_eq!(sources, [TokenSource::Env, TokenSource::None]);
    }

    #[test]
    fn a_token_file_wins_and_says_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let section = json!({ "tokenFile": path, "botToken": "1:a" });
        let broken = &accounts(&section, None)[0];
        assert_eq!(broken.source, TokenSource::TokenFile);
        assert!(broken.token.as_ref().unwrap_err().starts_with("cannot read channels.telegram"));
        std::fs::write(&path, "9:z\n").unwrap();
        assert_eq!(accounts(&section, None)[0].token, Ok(Secret("9:z".into())));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        let accounts = accounts(&json!({ "dmPolicy": "sometimes" }), Some("3:c"));
        let problem = accounts[0].token.as_ref().unwrap_err();
        assert!(problem.starts_with("channels.telegram.dmPolicy: unknown variant"), "{problem}");
    }

    #[test]
    fn ids_lose_prefix_at_sign_and_case() {
        for text in ["tg:@Alice", "telegram:alice", "@ALICE", " alice "] {
            assert_eq!(Id::of(text).0, "alice");
        }
    }

    #[test]
    fn odd_keys_and_wrong_values_of_the_section_are_found_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        let text = "{ channels: { telegram: { dmPolcy: 'open', retry: {},\n\
                    accounts: { a: { dmPolicy: 'all' } } } },\n commands: { owners: [] } }";
        std::fs::write(&file, text).unwrap();
        let source = crate::config::Source {
            file: file.clone(),
            channel: Some(|_, section, findings| check(section, findings)),
            ..Default::default()
        };
        let loaded = source.load();
        assert!(loaded.is_valid());
        let shown: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        let place = |rest: &str| format!("{}:{rest}", file.display());
        assert_eq!(
            shown,
            [
                place(
                    "2:18: channels.telegram.accounts.a.dmPolicy: is \"all\", allowed are \
                     \"pairing\", \"allowlist\", \"open\", \"disabled\""
                ),
                place("1:27: channels.telegram.dmPolcy: unknown key; did you mean \"dmPolicy\"?"),
            ]
        );
    }
}
