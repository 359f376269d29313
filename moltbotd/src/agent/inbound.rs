//! Messages from channels: from the inbox to a run.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    Agent, RunRequest, Source, StartError, StopCause, beginning, commands, conversing, ending,
    prompt, request::Image,
};
use crate::{
    asker::{Asker, AskerKind},
    channels::{Attachment, Inbound, InboundMessage, PeerKind},
    clock::now_ms,
    config::Config,
    sessions::{
        key,
        policy::{self, Place},
    },
    store::StoreError,
};

const QUOTE_CHARS: usize = 500;
/// Largest picture that stays in a conversation, in bytes.
const IMAGE_BYTES: u64 = 5_000_000;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl Agent {
    /// Handles messages until the channels are gone or the daemon stops. While
    /// the store cannot be written nothing is taken from the queue: channels
    /// wait, and what they read is in the inbox.
    pub async fn consume(self: Arc<Self>, mut queue: mpsc::Receiver<Inbound>) {
        let stop = self.parts.stop.clone();
        let handle_all = async {
            while let Some(inbound) = queue.recv().await {
                let mut pause = FIRST_RETRY;
                while let Err(error) = self.handle(&inbound).await {
                    tracing::error!(%error, inbox = inbound.inbox_id, "message waits");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_RETRY);
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = handle_all => {}
        }
    }

    /// Handles a channel's message: a word that stops at once, anything else
    /// as a run.
    pub async fn handle(self: &Arc<Self>, inbound: &Inbound) -> Result<(), StoreError> {
        let message = &inbound.message;
        let config = self.config();
        let key = key::of_peer(&config, &message.route, &message.peer);
        let request = self.request(inbound, key).await;
        if may_command(&config, message) && commands::is_stop(order(message)) {
            return self.stop_by_word(request).await;
        }
        // Its owner can still ask it for its state, and begin it anew.
        if !request.command && self.is_muted(&request).await? {
            let session = request.session_key;
            tracing::debug!(session, "a session's policy keeps a message unanswered");
            let inbox_id = inbound.inbox_id;
            return self.parts.store.write(move |db| db.finish_inbox(inbox_id)).await;
        }
        let slot = Arc::clone(&self.open).acquire_owned().await;
        let slot = slot.map_err(|_| StoreError::Closed)?;
        match self.start_in(slot, request).await {
            Ok(_) => Ok(()),
            Err(StartError::Store(error)) => Err(error),
            // A place was waited for above.
            Err(StartError::Busy) => Err(StoreError::Closed),
        }
    }

    async fn is_muted(&self, request: &RunRequest) -> Result<bool, StoreError> {
        let key = request.session_key.clone();
        let stored = self.parts.store.read(move |db| db.session(&key)).await?;
        let (config, key) = (self.config(), &request.session_key);
        // As the run will find it: one that starts anew, or is over by now,
        // forgets what it was told.
        let entry = beginning::current(&config, key, request, stored, request.renew);
        let Source { channel, chat_type, .. } = &request.source;
        let place = Place { channel: channel.as_deref(), chat_type: chat_type.as_deref() };
        Ok(policy::is_muted(&config, key, Some(&entry), place))
    }

    async fn stop_by_word(&self, request: RunRequest) -> Result<(), StoreError> {
        let stopped = self.abort(&request.session_key, None, StopCause::Word);
        let text = if stopped.is_empty() { "Nothing is under way." } else { "⚙️ Stopped." };
        let reply = ending::reply(&self.config(), &request, text, None);
        // Not to be tried anew from above: there would be nothing to stop then.
        self.parts
            .store
            .insist(move |db| {
                // Nobody is told of a stop that a crash would undo.
                db.stop_runs(&stopped)?;
                if let Some(reply) = &reply {
                    db.queue_message(reply, now_ms())?;
                }
                request.inbox_id.map_or(Ok(()), |inbox_id| db.finish_inbox(inbox_id))
            })
            .await?;
        self.parts.outbound.wake();
        Ok(())
    }

    async fn request(&self, inbound: &Inbound, session_key: String) -> RunRequest {
        let message = &inbound.message;
        let mut request = RunRequest {
            run_id: Uuid::new_v4().to_string(),
            session_key,
            text: message.text.clone(),
            source: source(message),
            asker: asker(&self.config(), message),
            deliver: Some(message.route.clone()),
            inbox_id: Some(inbound.inbox_id),
            ..RunRequest::default()
        };
        let config = self.config();
        if may_command(&config, message) && config.commands.text != Some(false) {
            order(message).clone_into(&mut request.text);
            commands::mark(&mut request, &config.session);
            if !request.command && !request.renew {
                request.text.clone_from(&message.text);
            }
        }

        // A command is the sender's own words and nothing else, whatever it answers.
        if !request.command {
            if !message.forwarded {
                request.own_words.clone_from(&request.text);
            }
            request.asker = request.asker.lowered(authors(&config, message));
            request.text = body(message, &request.text);
            (request.images, request.files) = pictures(&message.attachments).await;
        }
        request
    }
}

/// Returns who wrote a message: somebody who is named as an owner, somebody who was let in, or
/// anybody else.
fn asker(config: &Config, message: &InboundMessage) -> Asker {
    let (channel, sender) = (&message.route.channel, &message.sender.id);
    let kind = if config.commands.is_owner(channel, sender) {
        AskerKind::Owner
    } else if message.authorized {
        AskerKind::Admitted
    } else {
        AskerKind::Stranger
    };
    Asker::new(kind, format!("{channel}:{sender}"))
}

/// Returns whether the words of a message may act. Those that somebody else wrote may not, whoever
/// sends them on.
fn may_command(config: &Config, message: &InboundMessage) -> bool {
    let (channel, sender) = (&message.route.channel, &message.sender.id);
    let is_owner = config.commands.is_owner(channel, sender);
    let is_let_in = config.commands.allows(channel, sender).unwrap_or(message.authorized);
    (is_owner || is_let_in) && !message.forwarded
}

/// Returns whose words a message carries besides the sender's. Those of an owner lower nobody.
fn authors(config: &Config, message: &InboundMessage) -> Vec<String> {
    let channel = &message.route.channel;
    let Some(others) = &message.others else {
        // An earlier version took it in and did not ask.
        let carries = message.quoted.is_some() || !message.context.is_empty();
        return if carries { vec!["somebody unknown".to_owned()] } else { Vec::new() };
    };
    let others = others.iter().filter(|id| !config.commands.is_owner(channel, id));
    others.map(|id| format!("{channel}:{id}")).collect()
}

/// Returns where words that act are looked for in a message.
fn order(message: &InboundMessage) -> &str {
    message.after_name.as_deref().unwrap_or(&message.text)
}

fn source(message: &InboundMessage) -> Source {
    let chat_type = match message.peer.kind {
        PeerKind::Direct => "direct",
        PeerKind::Group => "group",
        PeerKind::Channel => "channel",
    };
    Source {
        channel: Some(message.route.channel.clone()),
        chat_type: Some(chat_type.to_owned()),
        title: message.peer.title.clone(),
        from: Some(message.sender.id.clone()),
        name: Some(message.sender.name.clone()).filter(|name| !name.is_empty()),
        username: message.sender.username.clone(),
    }
}

/// Returns a message as the model reads it: in a group with its sender and
/// what was said before, and with what it answers.
///
/// Words of others stand in blocks of their own whose lines all begin with `> `, so that none of
/// them can be taken for a line of the sender.
fn body(message: &InboundMessage, text: &str) -> String {
    let mut parts = Vec::new();
    if !message.context.is_empty() {
        parts.push("[Said in the group since your last answer]".to_owned());
        parts.extend(message.context.iter().map(|line| block(line)));
        parts.push("[The message to you]".to_owned());
    }
    if let Some(quoted) = &message.quoted {
        let quoted: String = quoted.chars().take(QUOTE_CHARS).collect();
        parts.push(format!("[In answer to]\n{}", block(&quoted)));
    }
    let name = prompt::one_line(&message.sender.name);
    parts.push(match (message.forwarded, message.peer.kind) {
        (true, _) => format!("[Forwarded by {name}]\n{}", block(text)),
        (false, PeerKind::Direct) => text.to_owned(),
        (false, PeerKind::Group | PeerKind::Channel) => format!("{name}: {text}"),
    });
    let files = message.attachments.iter().map(|file| {
        let name = prompt::one_line(file.file_name.as_deref().unwrap_or("unnamed"));
        format!("[File: {name}, {}]", prompt::one_line(&file.mime))
    });
    parts.extend(files);
    parts.join("\n")
}

/// Returns words of others as a block.
fn block(text: &str) -> String {
    let lines = text.trim_end_matches(prompt::is_line_break).split(prompt::is_line_break);
    lines.map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n")
}

/// Takes pictures out of the files: they stay in the conversation, so that
/// later messages can speak of them.
async fn pictures(attachments: &[Attachment]) -> (Vec<Image>, Vec<Attachment>) {
    let (mut images, mut files) = (Vec::new(), Vec::new());
    for file in attachments {
        let is_picture = file.mime.starts_with("image/");
        let size = tokio::fs::metadata(&file.path).await.map(|found| found.len());
        if is_picture
            && size.is_ok_and(|size| size <= IMAGE_BYTES)
            && let Ok(data) = tokio::fs::read(&file.path).await
        {
            images.push(Image { mime: file.mime.clone(), data: conversing::encoded(&data) });
        } else {
            files.push(file.clone());
        }
    }
    (images, files)
}
