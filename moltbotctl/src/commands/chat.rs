//! `moltbotctl chat`: a conversation, line by line, with streamed answers.
//!
//! In a terminal the lines come from an editor; from a pipe they are read as they
//! are, so that a conversation can be scripted.

mod editor;

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    sync::broadcast::{Receiver, error::RecvError},
};

use self::editor::{LineEditor, Typed};
use super::{agent::main_session, thinking_levels};
use crate::{
    client::{Client, Pushed},
    context::Context,
    error::{Closed, Error},
    output::{Output, clean},
};

/// How long a conversation waits for a gateway that is gone.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of this program rather than of the gateway.
const OWN_COMMANDS: [&str; 2] = ["/quit", "/exit"];
/// What every gateway of protocol 3 takes, where it does not list its commands.
const COMMON_COMMANDS: [&str; 4] = ["/help", "/new", "/status", "/stop"];

/// Which conversation.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Key of the conversation [default: the gateway's main one]
    #[arg(long, value_name = "KEY")]
    pub session: Option<String>,
    /// How much to think
    #[arg(long, value_name = "LEVEL", ignore_case = true, value_parser = thinking_levels())]
    pub thinking: Option<String>,
}

/// Reads lines until the end of input or `/quit`. In a terminal Ctrl-C clears the
/// line or stops an answer and Ctrl-D leaves; without one, Ctrl-C leaves where
/// there is no answer to stop.
///
/// # Errors
/// When the connection ends, or an answer failed and nobody watches.
pub async fn run(cx: &Context, args: ChatArgs) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let client = connected.client;
    let session = args.session.or_else(|| main_session(&client)).unwrap_or_else(|| "main".into());
    let mut chat = Chat {
        cx,
        out: cx.output,
        events: client.events(),
        input: Input::open(cx)?,
        thinking: args.thinking,
        client,
        session,
        failed: false,
    };
    chat.welcome();
    chat.learn_commands().await;
    while let Some(line) = chat.read().await? {
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            message => chat.exchange(message).await?,
        }
    }
    chat.client.close().await;
    anyhow::ensure!(!chat.failed || chat.out.is_terminal(), "an answer failed");
    Ok(())
}

/// Where the lines come from.
enum Input {
    Terminal(LineEditor),
    Pipe(Lines<BufReader<Stdin>>),
}

impl Input {
    fn open(cx: &Context) -> anyhow::Result<Self> {
        if cx.output.is_terminal() && !cx.output.json && std::io::stdin().is_terminal() {
            let history = cx.paths.client_dir().join("chat-history");
            return Ok(Self::Terminal(LineEditor::start(&history)?));
        }
        Ok(Self::Pipe(BufReader::new(tokio::io::stdin()).lines()))
    }

    /// May be dropped and called again: nothing that was typed is lost.
    async fn next(&mut self) -> anyhow::Result<Typed> {
        match self {
            Self::Terminal(editor) => editor.next().await,
            Self::Pipe(lines) => Ok(lines.next_line().await?.map_or(Typed::End, Typed::Line)),
        }
    }
}

struct Chat<'a> {
    cx: &'a Context,
    out: Output,
    client: Client,
    events: Receiver<Pushed>,
    input: Input,
    session: String,
    thinking: Option<String>,
    failed: bool,
}

impl Chat<'_> {
    fn welcome(&self) {
        if self.out.is_terminal() && !self.out.json {
            let text = format!(
                "Conversation {}. Ctrl-C clears the line or stops an answer; Ctrl-D or /quit leaves.",
                self.session
            );
            self.out.line(self.out.quiet(&clean(&text)));
        }
    }

    /// Asks the gateway for its commands, for Tab. One that does not tell has the
    /// usual ones.
    async fn learn_commands(&self) {
        let Input::Terminal(editor) = &self.input else { return };
        let listed = self.client.call_raw("commands.list", json!({ "scope": "text" })).await;
        let mut commands = listed.as_ref().map(commands_in).unwrap_or_default();
        if commands.is_empty() {
            commands = COMMON_COMMANDS.map(ToOwned::to_owned).to_vec();
        }
        commands.extend(OWN_COMMANDS.map(ToOwned::to_owned));
        commands.sort_unstable();
        commands.dedup();
        editor.complete(commands);
    }

    /// Returns the next line, or `None` when the person leaves.
    async fn read(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            tokio::select! {
                typed = self.input.next() => match typed? {
                    Typed::Line(line) => return Ok(Some(line)),
                    Typed::Cleared => {}
                    Typed::End => return Ok(None),
                },
                _ = tokio::signal::ctrl_c() => return Ok(None),
                event = self.events.recv() => match self.aside(event) {
                    Ok(()) => {}
                    Err(_) => self.connect_again().await?,
                },
                _ = self.client.closed() => self.connect_again().await?,
            }
        }
    }

    /// Prints a remark, above the line that is being typed if there is one.
    fn remark(&self, text: &str) {
        match &self.input {
            Input::Terminal(editor) if editor.is_reading() => editor.print(&clean(text)),
            _ => self.out.remark(text),
        }
    }

    /// Nothing of the conversation is on this side, so it goes on where it was.
    async fn connect_again(&mut self) -> anyhow::Result<()> {
        let error = Error::Closed(self.client.closed().await);
        self.remark(&format!("{error}; connecting again"));
        self.client = self.cx.connect_again(Some(PATIENCE)).await?.client;
        self.events = self.client.events();
        self.remark("connected again");
        Ok(())
    }

    /// What happens between two lines is somebody else's.
    fn aside(&self, event: Result<Pushed, RecvError>) -> Result<(), Error> {
        match event {
            Ok(pushed) if pushed.event == "shutdown" => {
                self.remark("the gateway is shutting down");
                Ok(())
            }
            Err(RecvError::Closed) => Err(Error::Closed(Closed::abnormal(""))),
            _ => Ok(()),
        }
    }

    async fn exchange(&mut self, message: &str) -> anyhow::Result<()> {
        let run = uuid::Uuid::new_v4().to_string();
        let mut params =
            json!({ "sessionKey": self.session, "message": message, "idempotencyKey": run });
        if let Some(level) = &self.thinking {
            params["thinking"] = json!(level);
        }
        let sent = match self.client.call_raw("chat.send", params.clone()).await {
            // Whether it got there is found out by sending it again: the key tells.
            Err(Error::Closed(_)) => {
                self.connect_again().await?;
                self.client.call_raw("chat.send", params.clone()).await
            }
            sent => sent,
        };
        let accepted = match sent {
            Ok(accepted) => accepted,
            Err(Error::Refused(refusal)) => {
                self.fail(&refusal.message);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if accepted["status"] == "started" || accepted["status"] == "in_flight" {
            return self.listen(&run, params).await;
        }
        if accepted["status"] == "ok" {
            self.catch_up("").await?;
        } else if self.out.json {
            self.out.value_line(&accepted);
        } else if accepted.get("aborted").is_some() {
            let stopped = accepted["aborted"] == true;
            self.out.line(if stopped { "Stopped." } else { "Nothing was running." });
        }
        Ok(())
    }

    /// Prints the answer as it grows. A subscriber that fell behind still hears
    /// the end, because later events push out older ones.
    async fn listen(&mut self, run: &str, params: Value) -> anyhow::Result<()> {
        let (mut shown, mut problem) = (String::new(), None);
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(pushed) if pushed.payload["runId"] != run => self.aside(Ok(pushed))?,
                    Ok(pushed) if pushed.event == "agent" => {
                        // The reference ends a failed run without a word in the chat.
                        let error = pushed.payload.pointer("/data/error").and_then(Value::as_str);
                        problem = error.map(ToOwned::to_owned).or(problem);
                    }
                    Ok(pushed) if pushed.event == "chat" => {
                        if self.hear(&pushed.payload, &mut shown, problem.as_deref()) {
                            return Ok(());
                        }
                    }
                    Err(RecvError::Closed) => {
                        if self.resume(&params, &shown).await? {
                            return Ok(());
                        }
                    }
                    other => self.aside(other)?,
                },
                _ = tokio::signal::ctrl_c() => self.abort(run).await?,
                _ = self.client.closed() => {
                    if self.resume(&params, &shown).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes up a run after the connection ended: the same key starts no second
    /// one. Returns whether it has ended meanwhile.
    async fn resume(&mut self, params: &Value, shown: &str) -> anyhow::Result<bool> {
        loop {
            self.connect_again().await?;
            match self.client.call_raw("chat.send", params.clone()).await {
                Ok(sent) if sent["status"] == "ok" => {
                    if self.catch_up(shown).await.is_ok() {
                        return Ok(true);
                    }
                }
                Ok(_) => return Ok(false),
                Err(Error::Refused(refusal)) => {
                    self.fail(&refusal.message);
                    return Ok(true);
                }
                Err(Error::Closed(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints what has been answered while nobody listened.
    async fn catch_up(&mut self, shown: &str) -> Result<(), Error> {
        let params = json!({ "sessionKey": self.session, "limit": 20 });
        let history = self.client.call_raw("chat.history", params).await?;
        let messages = history["messages"].as_array().into_iter().flatten();
        let answer = messages.rev().find(|message| message["role"] == "assistant");
        let Some(message) = answer else { return Ok(()) };
        if self.out.json {
            self.out.value_line(&json!({ "state": "final", "message": message }));
        } else {
            let text = clean(&text_of(message));
            self.out.text(&format!("{}\n", addition(shown, &text)));
        }
        Ok(())
    }

    async fn abort(&self, run: &str) -> Result<(), Error> {
        let params = json!({ "sessionKey": self.session, "runId": run });
        self.client.call_raw("chat.abort", params).await.map(drop)
    }

    /// Returns whether the answer is complete.
    fn hear(&mut self, payload: &Value, shown: &mut String, problem: Option<&str>) -> bool {
        let state = payload["state"].as_str().unwrap_or_default();
        if self.out.json {
            self.out.value_line(payload);
            self.failed |= state == "error";
            return state != "delta";
        }
        let text = clean(&text_of(&payload["message"]));
        match state {
            "delta" => {
                self.out.text(&addition(shown, &text));
                *shown = text;
                return false;
            }
            "final" if text.is_empty() && shown.is_empty() => {
                self.fail(problem.unwrap_or("the assistant gave no answer"));
            }
            "final" => {
                let rest = if text.is_empty() { String::new() } else { addition(shown, &text) };
                self.out.text(&format!("{rest}\n"));
            }
            "aborted" => self.out.text(&format!("\n{}\n", self.out.quiet("(stopped)"))),
            _ => {
                if !shown.is_empty() {
                    self.out.text("\n");
                }
                let message = payload["errorMessage"].as_str().unwrap_or("the answer failed");
                self.fail(message);
            }
        }
        true
    }

    fn fail(&mut self, message: &str) {
        self.failed = true;
        self.out.error(message, None, None);
    }
}

/// Returns the words of a list of commands, each with its `/`.
fn commands_in(listed: &Value) -> Vec<String> {
    let commands = listed["commands"].as_array().into_iter().flatten();
    let aliases = commands.flat_map(|command| command["textAliases"].as_array());
    let words = aliases.flatten().filter_map(Value::as_str);
    // Tab puts them on the line, so what could steer the terminal is left out.
    let harmless = |word: &&str| {
        word.starts_with('/') && word.chars().all(|c| c.is_alphanumeric() || "/-_:".contains(c))
    };
    words.filter(harmless).map(ToOwned::to_owned).collect()
}

/// Returns the text of a message's parts.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => message["text"].as_str().unwrap_or_default().to_owned(),
    }
}

/// Deltas hold all of the text so far; a rewritten one starts on a new line.
fn addition(shown: &str, text: &str) -> String {
    match text.strip_prefix(shown) {
        Some(rest) => rest.to_owned(),
        None => format!("\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_new_part_of_a_growing_answer_is_printed() {
        assert_eq!(addition("", "Hel"), "Hel");
        assert_eq!(addition("Hel", "Hello"), "lo");
        assert_eq!(addition("Hallo", "Hello"), "\nHello");
    }

    #[test]
    fn the_commands_of_a_gateway_are_those_that_are_typed() {
        let listed = json!({ "commands": [
            { "name": "new", "textAliases": ["/new", "/n"] },
            { "name": "odd", "textAliases": ["/o\u{1b}[31m", "plain"] }, { "name": "none" },
        ] });
        assert_eq!(commands_in(&listed), ["/new", "/n"]);
        assert!(commands_in(&Value::Null).is_empty());
    }

    #[test]
    fn the_text_of_a_message_is_found_in_every_shape() {
        let parts = json!({ "content": [{ "type": "text", "text": "a" }, { "type": "image" }] });
        assert_eq!(text_of(&parts), "a");
        assert_eq!(text_of(&json!({ "content": "b" })), "b");
        assert_eq!(text_of(&Value::Null), "");
    }
}
