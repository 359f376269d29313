//! Messages on their way out: parts, requests and what failures mean.

use std::{path::PathBuf, time::Duration};

use frankenstein::{
    AsyncTelegramApi as _, ParseMode,
    input_file::FileUpload,
    methods::{
        EditMessageTextParams, SendAnimationParams, SendAudioParams, SendChatActionParams,
        SendDocumentParams, SendMessageParams, SendPhotoParams, SendVideoParams, SendVoiceParams,
    },
    types::{ChatAction, ChatId, LinkPreviewOptions, ReplyParameters},
};
use serde_json::Value;

use super::{
    Telegram,
    api::ApiError,
    chunk::{chunks, units},
    config::ReplyToMode,
    format::spans,
    media::{self, Kind},
};
use crate::channels::{
    OutboundMessage, Peer, PeerKind, Route,
    driver::{Part, SendFailure, Target},
};

/// Telegram's limit is 1024; a part is left for the mark.
const CAPTION_LIMIT: usize = 1024 - 96;

/// Put before a part that may be seen twice.
const MARK: &str = "↻ sent again; you may have seen this";

/// How long to wait for a better token when Telegram does not know this one.
const TOKEN_PAUSE: Duration = Duration::from_secs(30);

impl Telegram {
    pub(super) fn cut(&self, message: &OutboundMessage, draft: bool) -> Vec<Part> {
        let OutboundMessage { text, media, .. } = message;
        let chunks = chunks(&spans(text), self.settings.chunk_limit(), self.settings.chunk_mode);
        let mut texts: Vec<Part> = chunks
            .into_iter()
            .map(|chunk| Part { rich: chunk.html, plain: chunk.plain, media: None, reply: false })
            .collect();
        let mut files: Vec<Part> = media
            .iter()
            .map(|media| Part {
                rich: String::new(),
                plain: String::new(),
                media: Some(media.clone()),
                reply: false,
            })
            .collect();
        let mut parts = match (texts.as_slice(), files.first_mut()) {
            ([only], Some(file)) if !draft && units(&only.rich) <= CAPTION_LIMIT => {
                file.rich.clone_from(&only.rich);
                file.plain.clone_from(&only.plain);
                files
            }
            _ if draft => {
                texts.append(&mut files);
                texts
            }
            _ => {
                files.append(&mut texts);
                files
            }
        };
        let mode = self.settings.reply_to_mode;
        for (index, part) in parts.iter_mut().enumerate() {
            part.reply = mode == ReplyToMode::All || (mode == ReplyToMode::First && index == 0);
        }
        parts
    }

    pub(super) async fn put(
        &self,
        route: &Route,
        part: &Part,
        repeated: bool,
    ) -> Result<String, SendFailure> {
        let place = Place::of(route, part.reply)?;
        let (rich, plain) =
            if repeated { marked(part) } else { (part.rich.clone(), part.plain.clone()) };
        let html = self.request(&place, part.media.as_deref(), rich, Some(ParseMode::Html)).await;
        let result = match html {
            Err(Failure::Api(error)) if is_unreadable(&error) => {
                tracing::warn!(%error, "sending without markup");
                self.request(&place, part.media.as_deref(), plain, None).await
            }
            other => other,
        };
        result.map_err(Failure::into_send)
    }

    pub(super) async fn replace(
        &self,
        route: &Route,
        message_id: &str,
        part: &Part,
    ) -> Result<(), SendFailure> {
        let place = Place::of(route, false)?;
        let Ok(message_id) = message_id.parse() else { return Err(SendFailure::Gone) };
        let mut params = EditMessageTextParams::builder()
            .chat_id(place.chat)
            .message_id(message_id)
            .text(&part.rich)
            .parse_mode(ParseMode::Html)
            .link_preview_options(self.preview())
            .build();
        let mut result = self.edit_text(&params).await;
        if let Err(error) = &result
            && is_unreadable(error)
        {
            params.text = Some(part.plain.clone());
            params.parse_mode = None;
            result = self.edit_text(&params).await;
        }
        match result {
            Ok(()) => Ok(()),
            Err(ApiError::Refused { code: 400, description, .. }) => {
                let description = description.to_lowercase();
                // The text is already as it should be.
                if description.contains("not modified") { Ok(()) } else { Err(SendFailure::Gone) }
            }
            Err(error) => Err(meaning(error)),
        }
    }

    pub(super) async fn show_typing(&self, route: &Route) {
        let Ok(place) = Place::of(route, false) else { return };
        let params = SendChatActionParams::builder()
            .chat_id(place.chat)
            .maybe_message_thread_id(place.thread)
            .action(ChatAction::Typing)
            .build();
        // Without the sign the answer comes all the same.
        if let Err(error) = self.api.send_chat_action(&params).await {
            tracing::debug!(%error, "typing was not shown");
        }
    }

    async fn edit_text(&self, params: &EditMessageTextParams) -> Result<(), ApiError> {
        let _: Value = self.api.request("editMessageText", Some(params)).await?;
        Ok(())
    }

    async fn request(
        &self,
        place: &Place,
        media: Option<&str>,
        text: String,
        parse_mode: Option<ParseMode>,
    ) -> Result<String, Failure> {
        let Some(media) = media else {
            let params = SendMessageParams::builder()
                .chat_id(place.chat.clone())
                .maybe_message_thread_id(place.thread)
                .text(text)
                .maybe_parse_mode(parse_mode)
                .link_preview_options(self.preview())
                .maybe_reply_parameters(place.reply.clone())
                .build();
            return Ok(self.api.post("sendMessage", &params).await?);
        };
        let file = self.source(media)?;
        let caption = Some(text).filter(|text| !text.is_empty());
        // Each method has its own parameters of the same names.
        macro_rules! send {
            ($params:ident, $method:literal, $field:ident) => {{
                let params = $params::builder()
                    .chat_id(place.chat.clone())
                    .maybe_message_thread_id(place.thread)
                    .$field(file.clone())
                    .maybe_caption(caption)
                    .maybe_parse_mode(parse_mode)
                    .maybe_reply_parameters(place.reply.clone())
                    .build();
                match file {
                    FileUpload::InputFile(file) => {
                        self.api.upload($method, &params, stringify!($field), file.path).await
                    }
                    FileUpload::String(_) => self.api.post($method, &params).await,
                }
            }};
        }
        Ok(match media::kind(media) {
            Kind::Photo => send!(SendPhotoParams, "sendPhoto", photo),
            Kind::Animation => send!(SendAnimationParams, "sendAnimation", animation),
            Kind::Video => send!(SendVideoParams, "sendVideo", video),
            Kind::Audio => send!(SendAudioParams, "sendAudio", audio),
            Kind::Voice => send!(SendVoiceParams, "sendVoice", voice),
            Kind::Document => send!(SendDocumentParams, "sendDocument", document),
        }?)
    }

    /// A path is sent by us, an address is fetched by Telegram: this program
    /// never opens addresses that a message names.
    fn source(&self, media: &str) -> Result<FileUpload, Failure> {
        if media.starts_with("https://") || media.starts_with("http://") {
            return Ok(FileUpload::String(media.to_owned()));
        }
        let limit = self.settings.max_media_bytes().max(MIN_UPLOAD_BYTES);
        media::permitted(media, &self.media_roots, limit)
            .map(|path: PathBuf| FileUpload::from(path))
            .map_err(Failure::File)
    }

    fn preview(&self) -> LinkPreviewOptions {
        LinkPreviewOptions::builder().is_disabled(!self.settings.link_preview).build()
    }
}

/// What Telegram takes from a bot; the limit for what comes in may be lower.
const MIN_UPLOAD_BYTES: u64 = 50 * 1024 * 1024;

/// Reads a recipient: `123`, `-100123`, `@name`, with `telegram:` or `tg:`
/// before it and `:topic:<id>` behind it.
pub(super) fn target(text: &str) -> Result<Target, String> {
    let mut to = text.trim();
    for prefix in ["telegram:", "tg:", "group:"] {
        to = to.strip_prefix(prefix).unwrap_or(to);
    }
    let (to, thread) = match to.split_once(":topic:") {
        Some((to, thread)) => (to, Some(thread.to_owned())),
        None => (to, None),
    };
    let named = to.strip_prefix('@').is_some_and(|name| !name.is_empty());
    let threaded = thread.as_ref().is_none_or(|thread| thread.parse::<i32>().is_ok());
    let number = to.parse::<i64>().ok();
    if !threaded || (!named && number.is_none()) {
        return Err(format!("not a Telegram recipient: {text:?}; use a chat id or @name"));
    }
    // People have positive numbers, groups and channels negative ones.
    let kind = match number {
        Some(number) if number < 0 => PeerKind::Group,
        Some(_) => PeerKind::Direct,
        None => PeerKind::Channel,
    };
    let id = match &thread {
        Some(thread) => format!("{to}:topic:{thread}"),
        None => to.to_owned(),
    };
    Ok(Target { to: to.to_owned(), thread, peer: Peer { kind, id, title: None } })
}

struct Place {
    chat: ChatId,
    thread: Option<i32>,
    reply: Option<ReplyParameters>,
}

impl Place {
    fn of(route: &Route, reply: bool) -> Result<Self, SendFailure> {
        let Target { to, .. } = target(&route.to).map_err(SendFailure::Refused)?;
        let chat = to.parse().map_or_else(|_| ChatId::String(to.clone()), ChatId::Integer);
        // Telegram refuses the number of the general topic.
        let thread = route.thread.as_ref().and_then(|thread| thread.parse().ok());
        let thread = thread.filter(|&thread| thread != 1);
        let answered = route.reply_to.as_ref().filter(|_| reply);
        let reply = answered.and_then(|id| id.parse().ok()).map(|id: i32| {
            ReplyParameters::builder().message_id(id).allow_sending_without_reply(true).build()
        });
        Ok(Self { chat, thread, reply })
    }
}

enum Failure {
    Api(ApiError),
    File(String),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl Failure {
    fn into_send(self) -> SendFailure {
        match self {
            Self::Api(error) => meaning(error),
            Self::File(reason) => SendFailure::Refused(reason),
        }
    }
}

fn meaning(error: ApiError) -> SendFailure {
    match error {
        ApiError::NotSent(_) => SendFailure::Later { reason: error.to_string(), after: None },
        ApiError::Lost(_) => SendFailure::Unknown(error.to_string()),
        ApiError::File(reason) => SendFailure::Refused(reason),
        ApiError::Refused { code: 429, retry_after, .. } => {
            let after = retry_after.map(Duration::from_secs);
            SendFailure::Later { reason: "429: Telegram asks for a pause".into(), after }
        }
        ApiError::Refused { code: 401 | 404, .. } => SendFailure::Later {
            reason: "Telegram does not know this bot token".into(),
            after: Some(TOKEN_PAUSE),
        },
        ApiError::Refused { code, description, .. } => {
            SendFailure::Refused(format!("Telegram refused the message: {code}: {description}"))
        }
    }
}

fn is_unreadable(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { code: 400, description, .. }
        if description.to_lowercase().contains("can't parse entities"))
}

fn marked(part: &Part) -> (String, String) {
    let join = |mark: &str, text: &str| format!("{mark}\n\n{text}").trim_end().to_owned();
    (join(&format!("<i>{MARK}</i>"), &part.rich), join(MARK, &part.plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_read_in_every_form() {
        let read = |text| target(text).map(|target| (target.to, target.thread));
        assert_eq!(read("123"), Ok(("123".into(), None)));
        assert_eq!(read("tg:-100:topic:5"), Ok(("-100".into(), Some("5".into()))));
        assert_eq!(read("telegram:@ann"), Ok(("@ann".into(), None)));
        assert!(read("+4912 3").is_err());
        assert!(read("@").is_err());
        assert!(read("bob").is_err());
    }
}
