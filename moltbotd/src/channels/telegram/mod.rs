//! Telegram bots, by long polling.

mod access;
mod api;
mod chunk;
mod config;
mod format;
mod media;
mod poll;
mod send;
mod update;

use std::{
    collections::HashMap,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use frankenstein::{AsyncTelegramApi as _, methods::GetFileParams, response::MethodResponse};
use futures_util::future::BoxFuture;
use regex::Regex;
use schemars::JsonSchema as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use self::{
    api::{Api, ApiError},
    config::{GroupPolicy, NOT_CONFIGURED, Secret, Settings, StreamMode, TOKEN_VARIABLE},
    poll::Poller,
    update::Me,
};
use super::{
    Attachment, OutboundMessage, Route,
    driver::{Account, Driver, Entry, FetchError, FileRef, Part, SendFailure},
    inbox::Desk,
};
use crate::{
    config::{Config, mention},
    paths::Paths,
    private,
};

/// How often a file is asked for before a message goes on without it.
const FETCH_ATTEMPTS: u32 = 3;

/// Messages of a group kept as context when nothing else is configured.
const HISTORY_LIMIT: usize = 50;

/// Telegram in the list of channels.
pub(super) const ENTRY: Entry = Entry {
    id: "telegram",
    label: "Telegram",
    detail_label: "Telegram Bot",
    system_image: "paperplane",
    setup: "get a bot from @BotFather, put its token into a file, and name it: moltbotctl config \
            set channels.telegram.tokenFile FILE (or set channels.telegram.botToken, or \
            TELEGRAM_BOT_TOKEN for the daemon)",
    schema: Settings::json_schema,
    check: config::check,
    target: send::target,
    present,
    accounts,
};

/// One bot.
struct Telegram {
    settings: Settings,
    api: Api,
    /// Agent that owns the conversations of groups.
    agent: String,
    group_policy: GroupPolicy,
    mentions: Vec<Regex>,
    history_limit: usize,
    inbound_media: PathBuf,
    media_roots: Vec<PathBuf>,
    me: Mutex<Option<Me>>,
}

fn present(config: &Config) -> bool {
    config.channels.contains_key(ENTRY.id) || config.variable(TOKEN_VARIABLE).is_some()
}

fn accounts(config: &Config, paths: &Paths) -> Vec<Account> {
    let section = config.channels.get(ENTRY.id).cloned().unwrap_or_default();
    let shared = Shared::of(config, paths);
    let mut owners: HashMap<Secret, String> = HashMap::new();
    config::accounts(&section, config.variable(TOKEN_VARIABLE))
        .into_iter()
        .map(|account| {
            let token = account.token.clone().and_then(|token| {
                match owners.insert(token.clone(), account.id.clone()) {
                    None => Ok(token),
                    Some(owner) => Err(format!(
                        "uses the same bot token as account {owner:?}: give each account its own \
                         bot, or remove one of them"
                    )),
                }
            });
            make(account, token, &shared)
        })
        .collect()
}

/// What accounts take from other sections.
struct Shared {
    agent: String,
    group_policy: GroupPolicy,
    patterns: Vec<String>,
    history_limit: usize,
    inbound_media: PathBuf,
    media_roots: Vec<PathBuf>,
}

impl Shared {
    fn of(config: &Config, paths: &Paths) -> Self {
        let defaults = config.channels.get("defaults").cloned().unwrap_or_default();
        let group_policy = serde_json::from_value(defaults["groupPolicy"].clone());
        let agent = config.agents.default_id();
        Self {
            group_policy: group_policy.unwrap_or_default(),
            patterns: config.mention_patterns(&agent),
            history_limit: config.messages.group_chat.history_limit.unwrap_or(HISTORY_LIMIT),
            inbound_media: paths.inbound_media(),
            media_roots: vec![paths.state_dir.join("media"), paths.state_dir.join("workspace")],
            agent,
        }
    }
}

fn make(account: config::Account, token: Result<Secret, String>, shared: &Shared) -> Account {
    let config::Account { id, settings, source, .. } = account;
    let mut facts = Map::new();
    if let Some(name) = &settings.name {
        facts.insert("name".into(), json!(name));
    }
    facts.insert("tokenSource".into(), json!(source.name()));
    facts.insert("mode".into(), json!("polling"));
    facts.insert("allowUnmentionedGroups".into(), json!(allows_unmentioned(&settings)));
    let seed = json!({
        "settings": format!("{settings:?}"),
        "token": token.as_ref().map(|token| &token.0),
        "agent": shared.agent,
        "groupPolicy": shared.group_policy,
        "patterns": shared.patterns,
        "historyLimit": shared.history_limit,
    });
    let enabled = settings.enabled;
    let lacks = token.as_ref().is_err_and(|reason| reason == NOT_CONFIGURED).then(|| {
        format!(
            "Telegram bot token missing for account {id:?} (set \
             channels.telegram.accounts.{id}.botToken/tokenFile or {TOKEN_VARIABLE} for default)."
        )
    });
    let driver = token
        .and_then(|token| Telegram::new(settings, token, shared))
        .map(|bot| Arc::new(bot) as Arc<dyn Driver>);
    Account { id, enabled, driver, lacks, seed, facts }
}

fn allows_unmentioned(settings: &Settings) -> bool {
    settings.groups.values().any(|group| group.require_mention == Some(false))
}

impl Telegram {
    fn new(settings: Settings, token: Secret, shared: &Shared) -> Result<Self, String> {
        if settings.webhook_url.is_some() {
            return Err("webhooks are not served by this version: remove webhookUrl from the \
                        account, and messages are asked for instead"
                .into());
        }
        let mentions = shared.patterns.iter().filter_map(|pattern| {
            // A pattern that is no expression cannot match anything. Texts are
            // searched without what has no width, which joins signs as well.
            mention(&update::visible(pattern))
                .inspect_err(|error| tracing::warn!(pattern, %error, "unusable mention pattern"))
                .ok()
        });
        let mut media_roots = shared.media_roots.clone();
        media_roots.extend(settings.media_roots.iter().cloned());
        Ok(Self {
            api: Api::new(&settings, token)?,
            agent: shared.agent.clone(),
            group_policy: shared.group_policy,
            mentions: mentions.collect(),
            history_limit: settings.history_limit.unwrap_or(shared.history_limit),
            inbound_media: shared.inbound_media.clone(),
            media_roots,
            me: Mutex::default(),
            settings,
        })
    }

    /// Asks who the bot is, once.
    async fn meet(&self) -> Result<Me, ApiError> {
        if let Some(me) = self.me.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(me);
        }
        let answer = self.get_me(self.settings.timeout()).await?;
        let me = poll::me(&answer)?;
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = Some(me.clone());
        Ok(me)
    }

    async fn get_me(&self, timeout: Duration) -> Result<Value, ApiError> {
        let answer: MethodResponse<Value> = self.api.call("getMe", None::<&()>, timeout).await?;
        Ok(answer.result)
    }

    async fn bring(&self, file: &FileRef) -> Result<Attachment, FetchError> {
        let limit = self.settings.max_media_bytes();
        let mut attempt = 1;
        let bytes = loop {
            match self.bytes(&file.id, limit).await {
                Ok(Some(bytes)) => break bytes,
                Ok(None) => {
                    return Err(FetchError::TooLarge(media::too_large(self.settings.media_max_mb)));
                }
                Err(error @ (ApiError::Refused { code: 400..=404, .. } | ApiError::File(_))) => {
                    return Err(FetchError::Failed(error.to_string()));
                }
                Err(error) if attempt >= FETCH_ATTEMPTS => {
                    return Err(FetchError::Failed(error.to_string()));
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_secs(attempt.into())).await;
                    attempt += 1;
                }
            }
        };
        // The peer's name for the file is shown to people and never used as a
        // path.
        let name = format!("{}.{}", uuid::Uuid::new_v4(), media::extension(&file.mime));
        let path = self.inbound_media.join(name);
        store(path.clone(), bytes).await.map_err(FetchError::Failed)?;
        Ok(Attachment { path, mime: file.mime.clone(), file_name: file.file_name.clone() })
    }

    async fn bytes(&self, id: &str, limit: u64) -> Result<Option<Vec<u8>>, ApiError> {
        let params = GetFileParams::builder().file_id(id).build();
        let file = self.api.get_file(&params).await?.result;
        if file.file_size.is_some_and(|size| size > limit) {
            return Ok(None);
        }
        let path = file
            .file_path
            .ok_or_else(|| ApiError::File("Telegram does not hand the file out".into()))?;
        self.api.download(&path, limit).await
    }

    async fn ask_who(&self, timeout: Duration) -> Value {
        let start = Instant::now();
        let answer = self.get_me(timeout).await;
        let elapsed = start.elapsed().as_millis();
        match answer {
            Ok(me) => json!({
                "ok": true, "status": null, "error": null, "elapsedMs": elapsed,
                "bot": {
                    "id": me.get("id"),
                    "username": me.get("username"),
                    "canJoinGroups": me.get("can_join_groups"),
                    "canReadAllGroupMessages": me.get("can_read_all_group_messages"),
                    "supportsInlineQueries": me.get("supports_inline_queries"),
                },
            }),
            Err(error) => {
                let status = match &error {
                    ApiError::Refused { code, .. } => Some(code),
                    _ => None,
                };
                json!({
                    "ok": false, "status": status, "error": error.to_string(),
                    "elapsedMs": elapsed,
                })
            }
        }
    }
}

async fn store(path: PathBuf, bytes: Vec<u8>) -> Result<(), String> {
    let work = move || -> Result<(), String> {
        if let Some(folder) = path.parent() {
            private::folder(folder).map_err(|error| error.to_string())?;
        }
        let write = || {
            let mut file = private::new_file(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(|error| format!("cannot store the file: {error}"))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| "the daemon is stopping".to_owned())?
}

impl Driver for Telegram {
    fn receive<'a>(
        &'a self,
        desk: &'a Desk,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(Poller::new(self, desk, stop).run())
    }

    fn fetch<'a>(&'a self, file: &'a FileRef) -> BoxFuture<'a, Result<Attachment, FetchError>> {
        Box::pin(self.bring(file))
    }

    fn parts(&self, message: &OutboundMessage, draft: bool) -> Vec<Part> {
        self.cut(message, draft)
    }

    fn send<'a>(
        &'a self,
        route: &'a Route,
        part: &'a Part,
        repeated: bool,
    ) -> BoxFuture<'a, Result<String, SendFailure>> {
        Box::pin(self.put(route, part, repeated))
    }

    fn edit<'a>(
        &'a self,
        route: &'a Route,
        message_id: &'a str,
        part: &'a Part,
    ) -> BoxFuture<'a, Result<(), SendFailure>> {
        Box::pin(self.replace(route, message_id, part))
    }

    fn typing<'a>(&'a self, route: &'a Route) -> BoxFuture<'a, ()> {
        Box::pin(self.show_typing(route))
    }

    fn draft_step(&self) -> Option<usize> {
        match self.settings.stream_mode {
            StreamMode::Off => None,
            StreamMode::Partial => Some(1),
            StreamMode::Block => Some(self.settings.draft_chunk.min_chars),
        }
    }

    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Value> {
        Box::pin(self.ask_who(timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bot_hears_to_what_the_agent_of_its_groups_is_called() {
        let mut config = Config::default();
        let agents = json!([
            { "id": "eve", "identity": { "name": "Eve" } },
            {
                "id": "ops", "default": true,
                "identity": { "name": "Ada", "emoji": "\u{1f469}\u{200d}\u{1f680}" },
            },
        ]);
        config.agents.list = serde_json::from_value(agents).unwrap();
        let paths = Paths::below(std::path::Path::new("/nowhere"));
        let bot = || {
            let shared = Shared::of(&config, &paths);
            Telegram::new(Settings::default(), Secret("1:a".into()), &shared).unwrap()
        };
        let hears = |text: &str| {
            let text = update::visible(text);
            bot().mentions.iter().any(|pattern| pattern.is_match(&text))
        };
        assert!(hears("what do you say, ada?") && !hears("eve?"));
        assert!(hears("hi \u{1f469}\u{200d}\u{1f680}") && !hears("\u{1f680}"));
    }
}
