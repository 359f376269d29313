//! From an update to what it comes to.

use std::collections::{HashMap, VecDeque};

use frankenstein::{
    types::{ChatType, Message, MessageEntity, MessageEntityType, MessageOrigin, User},
    updates::{Update, UpdateContent},
};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, json, value::RawValue};

use super::{
    access::{Access, Admitted, Direct, Who},
    media::{self, Media},
};
use crate::channels::{
    InboundMessage, Peer, PeerKind, Route,
    driver::{Arrival, Outcome, Pending},
};

/// Commands that are handled without a model; in groups they need no mention.
const CONTROL: &[&str] = &["help", "new", "node", "nodes", "reset", "status", "stop"];

/// Groups whose talk is remembered; the talk of more is forgotten.
const MAX_GROUPS: usize = 200;

/// Albums for the assistant that are remembered, so that their captions are no
/// context. Parts of an album come within seconds.
const MAX_ALBUMS: usize = 100;

/// Characters of a message kept as context.
const MAX_CONTEXT_CHARS: usize = 2000;

/// Who the bot is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Me {
    /// Its id.
    pub(super) id: i64,
    /// Its handle.
    #[serde(default)]
    pub(super) username: String,
}

/// What is needed to read updates.
pub(super) struct Reader<'a> {
    pub(super) account: &'a str,
    pub(super) me: &'a Me,
    pub(super) access: Access<'a>,
    /// Patterns that count as a mention.
    pub(super) mentions: &'a [Regex],
    /// Groups and topics whose conversation says itself whether the bot must be
    /// meant; that goes before the configuration.
    pub(super) activation: &'a HashMap<String, Activation>,
    /// How many messages of a group are kept as context.
    pub(super) history_limit: usize,
}

/// When a group is answered, as its conversation was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// When the bot is meant.
    Mention,
    /// Whoever is meant.
    Always,
}

/// An update, and the message in it.
pub(super) struct Unpacked {
    update_id: i64,
    message: Option<Box<Message>>,
}

/// What was said in groups since the assistant's last answer.
#[derive(Debug, Default)]
pub(super) struct History {
    groups: HashMap<String, VecDeque<Line>>,
    /// The latest albums with a part for the assistant: what is said in their
    /// other parts comes with that one.
    albums: VecDeque<String>,
}

#[derive(Debug)]
struct Line {
    /// The line as `name: text`.
    text: String,
    /// Who said it.
    author: String,
    /// The album it belongs to, if any.
    album: Option<String>,
}

#[derive(Deserialize)]
struct Numbered {
    update_id: i64,
}

impl Unpacked {
    /// Reads an update. One that cannot be read comes to nothing, so that it
    /// never stands in the way of the next; one without a number is not an
    /// update at all.
    pub(super) fn of(raw: &RawValue) -> Option<Self> {
        let update_id = match serde_json::from_str::<Numbered>(raw.get()) {
            Ok(Numbered { update_id }) => update_id,
            Err(error) => {
                tracing::warn!(%error, "an update without a number was skipped");
                return None;
            }
        };
        let message = match serde_json::from_str::<Update>(raw.get()) {
            Ok(Update { content: UpdateContent::Message(message), .. }) => Some(message),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(update_id, %error, "an update could not be read and was ignored");
                None
            }
        };
        Some(Self { update_id, message })
    }

    /// Returns the id of the group or topic that it is from.
    pub(super) fn group(&self) -> Option<String> {
        let message = self.message.as_deref().filter(|message| is_group(message))?;
        Some(group_id(message, thread(message)))
    }
}

impl Activation {
    /// Reads the word of `sessions.patch`.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "mention" => Some(Self::Mention),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

impl Reader<'_> {
    /// Says what updates come to.
    pub(super) fn read(&self, updates: &[Unpacked], history: &mut History) -> Vec<Arrival> {
        let read = |update: &Unpacked| {
            let message = update.message.as_deref();
            let outcome = message.map(|message| self.message(message, history));
            Arrival { update_id: update.update_id, outcome: outcome.unwrap_or(Outcome::Ignored) }
        };
        updates.iter().map(read).collect()
    }

    fn message(&self, message: &Message, history: &mut History) -> Outcome {
        let Some(sender) = sender(message) else { return Outcome::Ignored };
        if sender.id == self.me.id.to_string() {
            return Outcome::Ignored;
        }
        match message.chat.type_field {
            ChatType::Private => self.direct(message, sender),
            ChatType::Group | ChatType::Supergroup => self.group(message, sender, history),
            ChatType::Channel => Outcome::Ignored,
        }
    }

    fn direct(&self, message: &Message, sender: Sender) -> Outcome {
        // In a direct chat the chat has the id of the person.
        let who = Who { id: message.chat.id.to_string(), username: sender.username.as_deref() };
        match self.access.direct(&who) {
            Direct::Dropped => Outcome::Ignored,
            Direct::Stranger if is_service(message) => Outcome::Ignored,
            Direct::Stranger => {
                let mut meta = Map::new();
                meta.insert("name".into(), json!(sender.name));
                if let Some(username) = &sender.username {
                    meta.insert("username".into(), json!(username));
                }
                let id = message.chat.id.to_string();
                Outcome::Stranger { id, meta, route: self.route(message, None) }
            }
            Direct::Admitted { authorized } => {
                let peer =
                    Peer { kind: PeerKind::Direct, id: message.chat.id.to_string(), title: None };
                let thread = message.message_thread_id.filter(|_| is_topic(message));
                let context = Context::default();
                let heard = Heard { peer, thread, authorized, context, meant: true };
                self.admit(message, sender, heard)
            }
        }
    }

    fn group(&self, message: &Message, sender: Sender, history: &mut History) -> Outcome {
        let chat = message.chat.id.to_string();
        let thread = thread(message);
        let topic = thread.map(|thread| thread.to_string());
        let who = Who { id: sender.id.clone(), username: sender.username.as_deref() };
        let admitted = self.access.group(&chat, topic.as_deref(), &who);
        let Some(Admitted { authorized, require_mention }) = admitted else {
            return Outcome::Ignored;
        };
        let body = self.text(message);
        if body.for_another_bot || is_service(message) {
            return Outcome::Ignored;
        }
        let control = is_control(&body.text);
        if control && !authorized {
            return Outcome::Ignored;
        }
        let id = group_id(message, thread);
        let require_mention = match self.activation.get(&id) {
            Some(activation) => *activation == Activation::Mention,
            None => require_mention,
        };
        let meant = !require_mention || control || self.is_mentioned(message);
        let album = message.media_group_id.as_deref();
        let context = if meant {
            history.take(&id, album)
        } else {
            let line = Line::of(&sender, &body.text, album);
            line.into_iter().for_each(|line| history.add(&id, line, self.history_limit));
            Context::default()
        };
        if !meant && message.media_group_id.is_none() {
            return Outcome::Ignored;
        }
        let peer = Peer { kind: PeerKind::Group, id, title: message.chat.title.clone() };
        self.admit(message, sender, Heard { peer, thread, authorized, context, meant })
    }

    fn admit(&self, message: &Message, sender: Sender, heard: Heard) -> Outcome {
        let Heard { peer, thread, authorized, context, meant } = heard;
        let route = self.route(message, thread);
        let mut body = self.text(message);
        let files = match media::of(message, self.access.settings.max_media_bytes()) {
            Media::None => Vec::new(),
            Media::Placeholder(placeholder) => {
                body.begin_with(&placeholder, ' ');
                Vec::new()
            }
            // The other parts of the album are to be answered all the same.
            Media::TooLarge if message.media_group_id.is_some() => {
                body.begin_with(&media::left_out(self.access.settings.media_max_mb), '\n');
                Vec::new()
            }
            Media::TooLarge => {
                let text = media::too_large(self.access.settings.media_max_mb);
                return Outcome::Notice { route, text };
            }
            Media::File { file, placeholder } => {
                if body.text.is_empty() && message.media_group_id.is_none() {
                    body.text = placeholder.into();
                }
                vec![file]
            }
        };
        let Body { text, after_name, .. } = body;
        if text.trim().is_empty() && files.is_empty() {
            return Outcome::Ignored;
        }
        let album = message.media_group_id.clone();
        let forwarded = author_of_text(message);
        let mut others = context.authors;
        others.extend(forwarded.clone());
        others.extend(self.author_of_quote(message));
        others.retain(|author| *author != sender.id);
        let sender_id = sender.id.clone();
        let message = InboundMessage {
            route,
            peer,
            sender: crate::channels::Sender {
                id: sender.id,
                name: sender.name,
                username: sender.username,
            },
            message_id: message.message_id.to_string(),
            text,
            after_name,
            quoted: quoted(message),
            forwarded: forwarded.is_some_and(|author| author != sender_id),
            others: Some(others),
            context: context.lines,
            attachments: Vec::new(),
            authorized,
            sent_at_ms: sent_at_ms(message.date),
        };
        let pending = Box::new(Pending { message, files, album });
        if meant { Outcome::Message(pending) } else { Outcome::Held(pending) }
    }

    fn route(&self, message: &Message, thread: Option<i32>) -> Route {
        Route {
            channel: "telegram".into(),
            account: self.account.to_owned(),
            to: message.chat.id.to_string(),
            thread: thread.map(|thread| thread.to_string()),
            reply_to: Some(message.message_id.to_string()),
        }
    }

    /// Returns the text without the bot's handle before it or in its command.
    fn text(&self, message: &Message) -> Body {
        let text = self.without_mention(said(message));
        let called = self.called(message, text);
        let text = called.filter(|rest| rest.starts_with('/')).unwrap_or(text);
        let (text, for_another_bot) = self.without_handle(text);
        let after_name = called.filter(|rest| !rest.starts_with('/')).map(str::to_owned);
        Body { text, after_name, for_another_bot }
    }

    /// Returns the text without the bot's handle in its command, and whether the
    /// command is for another bot.
    fn without_handle(&self, text: &str) -> (String, bool) {
        let Some(rest) = text.strip_prefix('/') else { return (text.to_owned(), false) };
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        match word.split_once('@') {
            Some((command, bot)) if bot.eq_ignore_ascii_case(&self.me.username) => {
                (format!("/{command}{tail}"), false)
            }
            Some((_, bot)) => (text.to_owned(), is_bot_name(bot)),
            None => (text.to_owned(), false),
        }
    }

    fn without_mention<'t>(&self, text: &'t str) -> &'t str {
        let text = text.trim_start();
        let name = &self.me.username;
        let after = text.strip_prefix('@').and_then(|rest| {
            let head = rest.get(..name.len())?;
            (!name.is_empty() && head.eq_ignore_ascii_case(name)).then(|| &rest[name.len()..])
        });
        match after {
            Some(rest) if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                rest.trim_start_matches([',', ':']).trim_start()
            }
            _ => text,
        }
    }

    /// Returns what follows the bot's name where a group's message begins with
    /// it.
    fn called<'t>(&self, message: &Message, text: &'t str) -> Option<&'t str> {
        if !is_group(message) {
            return None;
        }
        let text = text.trim_start_matches(is_unseen);
        let shown = visible(text);
        let names = self.mentions.iter().filter_map(|name| name.find(&shown));
        let end = names.filter(|found| found.start() == 0).map(|found| found.end()).max()?;
        let rest = after_visible(text, end).trim_start_matches(is_unseen);
        let rest = rest.trim_start_matches([',', ':']).trim_start_matches(is_unseen);
        (!rest.is_empty()).then_some(rest)
    }

    fn is_mentioned(&self, message: &Message) -> bool {
        let raw = said(message);
        let entities = match &message.text {
            Some(_) => &message.entities,
            None => &message.caption_entities,
        };
        let entities = entities.as_deref().unwrap_or_default();
        let by_name = entities.iter().any(|entity| self.is_me(raw, entity));
        let by_reply = message
            .reply_to_message
            .as_ref()
            .and_then(|replied| replied.from.as_ref())
            .is_some_and(|from| i64::try_from(from.id) == Ok(self.me.id));
        let text = visible(raw);
        by_name || by_reply || self.mentions.iter().any(|pattern| pattern.is_match(&text))
    }

    /// Returns who wrote what a message answers. What the assistant said in this chat is part of
    /// the conversation already and nobody else's words; what it said elsewhere is not.
    fn author_of_quote(&self, message: &Message) -> Option<String> {
        if let Some(reply) = &message.external_reply {
            return Some(author(&reply.origin));
        }
        let Some(replied) = &message.reply_to_message else {
            return message.quote.as_ref().map(|_| "unknown".to_owned());
        };
        quoted(message)?;
        let is_own = |user: &User| i64::try_from(user.id) == Ok(self.me.id);
        if replied.sender_chat.is_none() && replied.from.as_deref().is_some_and(is_own) {
            return None;
        }
        let forwarded = author_of_text(replied);
        Some(forwarded.or_else(|| Some(sender(replied)?.id)).unwrap_or_else(|| "unknown".into()))
    }

    fn is_me(&self, text: &str, entity: &MessageEntity) -> bool {
        let name = || slice_utf16(text, entity.offset, entity.length);
        match entity.type_field {
            MessageEntityType::Mention => {
                let mentioned = name();
                mentioned
                    .strip_prefix('@')
                    .is_some_and(|n| n.eq_ignore_ascii_case(&self.me.username))
            }
            MessageEntityType::BotCommand => {
                let command = name();
                command
                    .split_once('@')
                    .is_some_and(|(_, bot)| bot.eq_ignore_ascii_case(&self.me.username))
            }
            MessageEntityType::TextMention => {
                entity.user.as_ref().is_some_and(|user| i64::try_from(user.id) == Ok(self.me.id))
            }
            _ => false,
        }
    }
}

/// How a message is heard.
struct Heard {
    peer: Peer,
    thread: Option<i32>,
    authorized: bool,
    context: Context,
    /// Whether it is for the assistant; else another part of its album may be.
    meant: bool,
}

/// What was said in a group before a message.
#[derive(Default)]
struct Context {
    /// Each as `name: text`.
    lines: Vec<String>,
    /// Who said them.
    authors: Vec<String>,
}

struct Body {
    text: String,
    /// What follows the bot's name, unless that is left out of the text.
    after_name: Option<String>,
    for_another_bot: bool,
}

impl Body {
    /// Puts words of the channel before what was said.
    fn begin_with(&mut self, words: &str, border: char) {
        let border = if self.text.is_empty() { String::new() } else { border.to_string() };
        self.text.insert_str(0, &format!("{words}{border}"));
        self.after_name = None;
    }
}

struct Sender {
    id: String,
    name: String,
    username: Option<String>,
}

fn sender(message: &Message) -> Option<Sender> {
    // Anonymous administrators write in the name of a chat.
    if let Some(chat) = &message.sender_chat {
        let name = chat.title.clone().or_else(|| chat.username.clone()).unwrap_or_default();
        return Some(Sender { id: chat.id.to_string(), name, username: chat.username.clone() });
    }
    let User { id, first_name, last_name, username, .. } = message.from.as_deref()?;
    let name = match last_name {
        Some(last) => format!("{first_name} {last}"),
        None => first_name.clone(),
    };
    Some(Sender { id: id.to_string(), name, username: username.clone() })
}

fn said(message: &Message) -> &str {
    message.text.as_deref().or(message.caption.as_deref()).unwrap_or_default()
}

fn quoted(message: &Message) -> Option<String> {
    if let Some(quote) = &message.quote {
        return Some(quote.text.clone());
    }
    let replied = message.reply_to_message.as_ref()?;
    replied.text.clone().or_else(|| replied.caption.clone())
}

/// Returns who wrote a message's text where that is not the one who sent it.
fn author_of_text(message: &Message) -> Option<String> {
    if let Some(origin) = &message.forward_origin {
        return Some(author(origin));
    }
    let bot = message.via_bot.as_ref()?;
    Some(bot.id.to_string())
}

/// Authors who hide their id are told apart from everybody who has one.
fn author(origin: &MessageOrigin) -> String {
    match origin {
        MessageOrigin::User(user) => user.sender_user.id.to_string(),
        MessageOrigin::HiddenUser(user) => format!("hidden user {:?}", user.sender_user_name),
        MessageOrigin::Chat(chat) => chat.sender_chat.id.to_string(),
        MessageOrigin::Channel(channel) => channel.chat.id.to_string(),
    }
}

fn is_group(message: &Message) -> bool {
    matches!(message.chat.type_field, ChatType::Group | ChatType::Supergroup)
}

/// Returns the topic of a group's message.
fn thread(message: &Message) -> Option<i32> {
    let said = message.message_thread_id.filter(|_| is_topic(message));
    // The general topic of a forum has the number 1 and does not say it.
    said.or_else(|| (message.chat.is_forum == Some(true)).then_some(1))
}

/// Returns the id of a conversation in a group.
fn group_id(message: &Message, thread: Option<i32>) -> String {
    let chat = message.chat.id;
    match thread {
        Some(thread) => format!("{chat}:topic:{thread}"),
        None => chat.to_string(),
    }
}

fn is_topic(message: &Message) -> bool {
    message.is_topic_message == Some(true)
}

/// Someone joined, the title changed and the like.
fn is_service(message: &Message) -> bool {
    message.text.is_none() && message.caption.is_none() && !media::has(message)
}

fn is_control(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default().to_lowercase();
    word.strip_prefix('/').is_some_and(|command| CONTROL.contains(&command))
}

fn is_bot_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// Returns a text without the signs of no width that apps put around names.
pub(super) fn visible(text: &str) -> String {
    text.chars().filter(|char| !has_no_width(*char)).collect()
}

/// Returns what follows the part of a text that makes so many bytes of what is
/// [visible] of it.
fn after_visible(text: &str, bytes: usize) -> &str {
    let mut seen = 0;
    let end = text.char_indices().find(|(_, char)| {
        let is_after = seen >= bytes;
        seen += if has_no_width(*char) { 0 } else { char.len_utf8() };
        is_after
    });
    end.map_or("", |(end, _)| &text[end..])
}

fn has_no_width(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

fn is_unseen(char: char) -> bool {
    char.is_whitespace() || has_no_width(char)
}

fn slice_utf16(text: &str, offset: u16, length: u16) -> String {
    let units: Vec<u16> = text.encode_utf16().skip(offset.into()).take(length.into()).collect();
    String::from_utf16_lossy(&units)
}

/// Seconds on the wire; a value that is no date is taken as it stands.
fn sent_at_ms(date: u64) -> i64 {
    i64::try_from(date).ok().and_then(|date| date.checked_mul(1000)).unwrap_or_default()
}

impl Line {
    fn of(sender: &Sender, text: &str, album: Option<&str>) -> Option<Self> {
        let text: String = text.chars().take(MAX_CONTEXT_CHARS).collect();
        let text = (!text.is_empty()).then(|| format!("{}: {text}", sender.name))?;
        Some(Self { text, author: sender.id.clone(), album: album.map(str::to_owned) })
    }
}

impl History {
    fn add(&mut self, chat: &str, line: Line, limit: usize) {
        if limit == 0 || line.album.as_ref().is_some_and(|album| self.albums.contains(album)) {
            return;
        }
        if !self.groups.contains_key(chat) && self.groups.len() >= MAX_GROUPS {
            let quiet = self.groups.keys().next().cloned();
            quiet.map(|chat| self.groups.remove(&chat));
        }
        let lines = self.groups.entry(chat.to_owned()).or_default();
        lines.push_back(line);
        while lines.len() > limit {
            lines.pop_front();
        }
    }

    /// Returns what is the context of a message, except what comes with it as
    /// parts of its album.
    fn take(&mut self, chat: &str, album: Option<&str>) -> Context {
        if let Some(album) = album {
            self.albums.push_back(album.to_owned());
            if self.albums.len() > MAX_ALBUMS {
                self.albums.pop_front();
            }
        }
        let lines = self.groups.remove(chat).into_iter().flatten();
        let others = lines.filter(|line| album.is_none() || line.album.as_deref() != album);
        let (lines, authors) = others.map(|line| (line.text, line.author)).unzip();
        Context { lines, authors }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::config::GroupPolicy, super::config::Settings, *};

    fn read(section: Value, updates: &[Value]) -> Vec<Outcome> {
        read_batches(section, &[], &[updates.to_vec()])
    }

    fn read_batches(
        section: Value,
        activation: &[(&str, Activation)],
        batches: &[Vec<Value>],
    ) -> Vec<Outcome> {
        let settings: Settings = serde_json::from_value(section).unwrap();
        let me = Me { id: 99, username: "HelperBot".into() };
        let mentions = [Regex::new("(?i)\\bjarvis\\b").unwrap()];
        let access = Access { settings: &settings, group_policy: GroupPolicy::Open, approved: &[] };
        let activation = activation.iter().map(|(group, when)| ((*group).to_owned(), *when));
        let reader = Reader {
            account: "default",
            me: &me,
            access,
            mentions: &mentions,
            activation: &activation.collect(),
            history_limit: 2,
        };
        let mut history = History::default();
        let read = |batch: &Vec<Value>| {
            let unpack = |update| {
                let raw = serde_json::value::to_raw_value(update).unwrap();
                Unpacked::of(&raw).unwrap()
            };
            let batch: Vec<_> = batch.iter().map(unpack).collect();
            reader.read(&batch, &mut history)
        };
        let arrivals = batches.iter().flat_map(read);
        arrivals.map(|arrival| arrival.outcome).collect()
    }

    fn update(more: Value) -> Value {
        let mut message = json!({
            "message_id": 5, "date": 1_700_000_000,
            "from": { "id": 7, "is_bot": false, "first_name": "Ann", "last_name": "Lee" },
            "chat": { "id": -5, "type": "supergroup", "title": "G" },
        });
        for (key, value) in more.as_object().unwrap() {
            message[key] = value.clone();
        }
        json!({ "update_id": 1, "message": message })
    }

    fn message(outcome: &Outcome) -> &InboundMessage {
        match outcome {
            Outcome::Message(pending) => &pending.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whose_words_a_message_carries_besides_the_senders_is_known() {
        let all = json!({ "groups": { "*": { "requireMention": false } } });
        let carried = |more: Value| {
            let outcomes = read(all.clone(), &[update(more)]);
            let message = message(&outcomes[0]);
            (message.others.clone().unwrap(), message.forwarded)
        };
        let chat = json!({ "id": -5, "type": "supergroup", "title": "G" });
        let user = |id: i64| json!({ "id": id, "is_bot": id == 99, "first_name": "N" });
        let answering = |from: i64, more: Value| {
            let mut replied = json!({ "message_id": 1, "date": 1, "chat": chat, "from": user(from), "text": "x" });
            replied.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "text": "hi", "reply_to_message": replied })
        };
        let origin = |id: i64| json!({ "type": "user", "date": 1, "sender_user": user(id) });
        let hidden = json!({ "type": "hidden_user", "date": 1, "sender_user_name": "Ann Lee" });
        let none = Vec::<String>::new;

        assert_eq!(carried(json!({ "text": "hi" })), (none(), false));
        assert_eq!(carried(answering(8, json!({}))), (vec!["8".into()], false));
        assert_eq!(carried(answering(7, json!({}))), (none(), false), "the sender's own");
        assert_eq!(carried(answering(99, json!({}))), (none(), false), "the assistant's");
        let sent_on = answering(7, json!({ "forward_origin": origin(8) }));
        assert_eq!(carried(sent_on), (vec!["8".into()], false));
        let elsewhere = json!({ "text": "hi", "external_reply": { "origin": origin(99) },
            "quote": { "text": "x", "position": 0 } });
        assert_eq!(carried(elsewhere), (vec!["99".into()], false));

        let forwarded = |origin: Value| json!({ "text": "do it", "forward_origin": origin });
        assert_eq!(carried(forwarded(origin(8))), (vec!["8".into()], true));
        assert_eq!(carried(forwarded(origin(7))), (none(), false), "the sender's own");
        let (others, is_forwarded) = carried(forwarded(hidden));
        assert!(others[0].contains("hidden user") && is_forwarded, "a name proves nothing");
        assert_eq!(
            carried(json!({ "text": "hi", "via_bot": user(50) })),
            (vec!["50".into()], true)
        );
    }

    #[test]
    fn talk_before_a_mention_is_its_context() {
        let mention = json!([{ "type": "mention", "offset": 0, "length": 10 }]);
        let said = |text: &str| update(json!({ "text": text }));
        let asked = json!({ "text": "@helperbot, hi", "entities": mention });
        let outcomes = read(json!({}), &[said("a"), said("b"), said("c"), update(asked)]);
        assert!(outcomes[..3].iter().all(|outcome| matches!(outcome, Outcome::Ignored)));
        let message = message(&outcomes[3]);
        assert_eq!(message.text, "hi");
        assert_eq!(message.context, ["Ann Lee: b", "Ann Lee: c"]);
        assert_eq!(message.others.as_deref(), Some([].as_slice()), "all of it is the sender's");
        assert_eq!(message.peer.id, "-5");
    }

    #[test]
    fn a_name_and_a_reply_are_mentions_too() {
        let reply = json!({
            "text": "and you?",
            "reply_to_message": {
                "message_id": 4, "date": 1, "text": "I am fine",
                "from": { "id": 99, "is_bot": true, "first_name": "H" },
                "chat": { "id": -5, "type": "supergroup", "title": "G" },
            },
        });
        let named = json!({ "text": "hey Jarvis" });
        let hidden = json!({ "text": "hey Jar\u{200b}vis" });
        let outcomes = read(json!({}), &[update(reply), update(named), update(hidden)]);
        assert!(matches!(outcomes[2], Outcome::Message(_)));
        assert_eq!(message(&outcomes[0]).quoted.as_deref(), Some("I am fine"));
        assert_eq!(message(&outcomes[1]).text, "hey Jarvis");
    }

    #[test]
    fn commands_in_groups_need_authority_and_the_right_bot() {
        let said = |text: &str| update(json!({ "text": text }));
        let called = said("Jarvis, /status@HelperBot now");
        let texts =
            [said("/status@HelperBot now"), said("/status@OtherBot"), said("/status"), called];
        let named = read(json!({ "allowFrom": [7] }), &texts);
        assert_eq!(message(&named[0]).text, "/status now");
        assert!(message(&named[0]).authorized);
        assert!(matches!(named[1], Outcome::Ignored));
        assert_eq!(message(&named[2]).text, "/status");
        assert_eq!(message(&named[3]).text, "/status now");
        // Any other text keeps the name.
        let tool = read(json!({}), &[said("jarvis: /tool nodes {}"), said("Jarvis, hello")]);
        assert_eq!(message(&tool[0]).text, "/tool nodes {}");
        assert_eq!(message(&tool[1]).text, "Jarvis, hello");
        let hidden = said("\u{2068}Jar\u{200b}vis\u{2069}: /tool \u{200d}");
        assert_eq!(message(&read(json!({}), &[hidden])[0]).text, "/tool \u{200d}");
        let strangers = read(json!({ "groupPolicy": "open" }), &texts);
        assert!(strangers.iter().all(|outcome| matches!(outcome, Outcome::Ignored)));
    }

    #[test]
    fn what_follows_the_name_is_told_apart() {
        let said = |text: &str| update(json!({ "text": text }));
        let rest = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| said(text)).collect();
            let outcomes = read(json!({}), &texts);
            outcomes.iter().map(|it| message(it).after_name.clone()).collect::<Vec<_>>()
        };
        let stop = || Some("stop".to_owned());
        assert_eq!(
            rest(&["Jarvis, stop", "\u{200f}Jar\u{200b}vis\u{2069} stop", "jarvis: esc \u{200d}"]),
            [stop(), stop(), Some("esc \u{200d}".into())]
        );
        let none = ["stop, jarvis", "Jarvis", "jarvis: /tool nodes {}"];
        assert_eq!(rest(&none), [None, None, None]);
        let direct = json!({ "id": 7, "type": "private", "first_name": "Ann" });
        let direct = update(json!({ "text": "Jarvis, stop", "chat": direct }));
        let section = json!({ "dmPolicy": "open", "allowFrom": ["*"] });
        assert_eq!(message(&read(section, &[direct])[0]).after_name, None);
        let large = json!([{
            "file_id": "a", "file_unique_id": "a", "width": 9, "height": 9, "file_size": 9_000_000,
        }]);
        let caption = json!({ "caption": "Jarvis, stop", "media_group_id": "g", "photo": large });
        assert_eq!(message(&read(json!({}), &[update(caption)])[0]).after_name, None);
    }

    #[test]
    fn a_topic_is_a_conversation_of_its_own() {
        let chat = json!({ "id": -5, "type": "supergroup", "title": "G", "is_forum": true });
        let topic = json!({
            "text": "jarvis?", "chat": chat, "is_topic_message": true, "message_thread_id": 33,
        });
        let general = json!({ "text": "jarvis?", "chat": chat });
        let outcomes = read(json!({}), &[update(topic), update(general)]);
        assert_eq!(message(&outcomes[0]).peer.id, "-5:topic:33");
        assert_eq!(message(&outcomes[0]).route.thread.as_deref(), Some("33"));
        assert_eq!(message(&outcomes[1]).peer.id, "-5:topic:1");
    }

    #[test]
    fn a_conversation_says_itself_whether_the_bot_must_be_meant() {
        let chat = json!({ "id": -5, "type": "supergroup", "title": "G", "is_forum": true });
        let said = update(json!({ "text": "lunch?" }));
        let topic = json!({
            "text": "lunch?", "chat": chat, "is_topic_message": true, "message_thread_id": 33,
        });
        let updates = vec![said, update(topic)];
        let heard = |section: Value, activation: &[(&str, Activation)]| {
            read_batches(section, activation, std::slice::from_ref(&updates))
                .iter()
                .map(|outcome| matches!(outcome, Outcome::Message(_)))
                .collect::<Vec<_>>()
        };
        let silent = json!({ "groups": { "-5": { "requireMention": true } } });
        assert_eq!(heard(silent.clone(), &[("-5", Activation::Always)]), [true, false]);
        assert_eq!(heard(silent, &[("-5:topic:33", Activation::Always)]), [false, true]);
        let open = json!({ "groups": { "*": { "requireMention": false } } });
        assert_eq!(heard(open.clone(), &[]), [true, true]);
        assert_eq!(heard(open, &[("-5", Activation::Mention)]), [false, true]);
        let shut = json!({ "groupPolicy": "disabled" });
        assert_eq!(heard(shut, &[("-5", Activation::Always)]), [false, false]);
    }

    #[test]
    fn parts_of_an_album_that_do_not_mean_the_bot_wait_for_one_that_does() {
        let photo = |size: u64| {
            json!([{
                "file_id": "a", "file_unique_id": "a", "width": 9, "height": 9, "file_size": size,
            }])
        };
        let picture = |more: Value| {
            let mut message = json!({ "photo": photo(1), "media_group_id": "g" });
            for (key, value) in more.as_object().unwrap() {
                message[key] = value.clone();
            }
            update(message)
        };
        let updates = [
            picture(json!({})),
            picture(json!({ "caption": "our trip" })),
            picture(json!({ "photo": photo(9_000_000) })),
            picture(json!({ "caption": "Jarvis, which one?" })),
            picture(json!({ "media_group_id": null })),
            picture(json!({ "caption": "the last one" })),
            picture(json!({ "media_group_id": "h", "caption": "lunch?" })),
            picture(json!({ "media_group_id": null, "caption": "Jarvis, and this?" })),
        ];
        let outcomes = read(json!({}), &updates);
        let Outcome::Held(first) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!((first.album.as_deref(), first.files.len()), (Some("g"), 1));
        let Outcome::Held(large) = &outcomes[2] else { panic!("{outcomes:?}") };
        assert!(large.message.text.contains("above 5 MB"), "{}", large.message.text);
        assert_eq!((large.album.as_deref(), large.files.len()), (Some("g"), 0));
        assert!(matches!(outcomes[4], Outcome::Ignored));
        // What waits is said in the message that takes it up, and only there.
        let Outcome::Held(captioned) = &outcomes[1] else { panic!("{outcomes:?}") };
        assert_eq!(captioned.message.text, "our trip");
        assert_eq!(message(&outcomes[3]).context, [""; 0]);
        assert!(matches!(outcomes[5], Outcome::Held(_)), "{outcomes:?}");
        assert_eq!(message(&outcomes[7]).context, ["Ann Lee: lunch?"]);
        let section = json!({ "groupPolicy": "allowlist", "groupAllowFrom": [8] });
        let shut_out = read(section, &updates);
        assert!(shut_out.iter().all(|outcome| matches!(outcome, Outcome::Ignored)));
    }

    #[test]
    fn a_large_file_of_an_album_is_left_out_and_the_rest_of_it_is_not() {
        let large = |more: Value| {
            let mut message = json!({ "document": {
                "file_id": "a", "file_unique_id": "a", "file_size": 30_000_000,
            } });
            for (key, value) in more.as_object().unwrap() {
                message[key] = value.clone();
            }
            update(message)
        };
        let caption = "Jarvis, which one?";
        let alone = large(json!({ "caption": caption }));
        let part = large(json!({ "caption": caption, "media_group_id": "g" }));
        let outcomes = read(json!({}), &[alone, part]);
        assert!(matches!(outcomes[0], Outcome::Notice { .. }), "{outcomes:?}");
        let Outcome::Message(pending) = &outcomes[1] else { panic!("{outcomes:?}") };
        assert_eq!((pending.album.as_deref(), pending.files.len()), (Some("g"), 0));
        let (note, text) = pending.message.text.split_once('\n').unwrap();
        assert!(note.contains("above 5 MB"), "{note}");
        assert_eq!(text, caption);
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        let broken = json!({ "update_id": 1, "message": { "message_id": "x" } });
        let unknown = json!({ "update_id": 2, "news_of_tomorrow": {} });
        let joined = update(json!({ "new_chat_title": "T" }));
        let outcomes = read(json!({}), &[broken, unknown, joined]);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Ignored)));
    }
}
