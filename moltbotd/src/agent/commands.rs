//! Messages that the gateway answers itself: commands, and words that stop.

use std::time::Duration;

use serde_json::Value;

use super::{
    Agent, beginning, ending,
    gate::{self, Asked},
    request::RunRequest,
    runs::Run,
};
use crate::{
    clock::now_ms,
    config::{Config, Session},
    providers::echo,
    sessions::{self, key, message, model},
    store::{Db, NewMessage, RunEnd, RunState, StoreError},
    tools::{Effect, Intent, ToolError, nodes},
};

const STOP_WORDS: [&str; 6] = ["stop", "esc", "abort", "wait", "exit", "interrupt"];
const NODE_TIMEOUT_MS: u64 = 30_000;
/// A node that hangs is given up a little after it should have.
const NODE_LIMIT: Duration = Duration::from_secs(40);
const ANSWER_CHARS: usize = 3500;

/// What starts a conversation anew where nothing else is configured.
const RESET_TRIGGERS: [&str; 2] = ["/new", "/reset"];

/// A command.
#[derive(Clone, Debug, PartialEq)]
enum Command {
    Help,
    Status,
    New,
    Nodes,
    Node(Result<NodeCommand, String>),
}

/// A command for a node.
#[derive(Clone, Debug, PartialEq)]
struct NodeCommand {
    node: String,
    command: String,
    params: Value,
}

/// Returns whether a message is a word that stops what is under way.
#[must_use]
pub(super) fn is_stop(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    STOP_WORDS.contains(&text.as_str())
        || name_and_rest(&text).is_some_and(|(name, rest)| name == "stop" && rest.is_empty())
}

/// Marks a request as a command, or as the first message of a conversation
/// that starts anew, if its text says so.
pub(super) fn mark(request: &mut RunRequest, session: &Session) {
    let Some(rest) = after_trigger(&request.text, session) else {
        request.command = parse(&request.text, session).is_some();
        return;
    };
    match rest.is_empty() {
        true => request.command = true,
        false => {
            request.renew = true;
            request.text = rest;
        }
    }
}

/// Returns what follows the words that start a conversation anew.
fn after_trigger(text: &str, session: &Session) -> Option<String> {
    let text = text.trim();
    // A bot may be named in a command.
    let (head, tail) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let head = head.split('@').next().filter(|_| head.starts_with('/')).unwrap_or(head);
    let text = format!("{head}{tail}");
    triggers(session).find_map(|trigger| after(&text, trigger).map(str::to_owned))
}

/// Returns the words that start a conversation anew.
fn triggers(session: &Session) -> impl Iterator<Item = &str> {
    let set = session.reset_triggers.iter().map(|trigger| trigger.trim());
    let usual = RESET_TRIGGERS.into_iter().filter(|_| session.reset_triggers.is_empty());
    set.filter(|trigger| !trigger.is_empty()).chain(usual)
}

/// Returns what follows words at the start of a text, in any case.
fn after<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    let mut rest = text.chars();
    for wanted in words.chars() {
        if !rest.next()?.to_lowercase().eq(wanted.to_lowercase()) {
            return None;
        }
    }
    let rest = rest.as_str();
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}

impl RunRequest {
    /// Lets the message give commands.
    pub fn allow_commands(&mut self, session: &Session) {
        mark(self, session);
    }

    /// Returns whether the message is a word that stops what is under way.
    #[must_use]
    pub fn is_stop(text: &str) -> bool {
        is_stop(text)
    }
}

impl Agent {
    /// Answers a command. One with an effect that was under way when the
    /// daemon stopped is not done a second time.
    pub(super) async fn run_command(&self, run: &Run, request: &RunRequest, interrupted: bool) {
        // What was a command when it came, and is none any more, started a
        // conversation anew: only those words can be changed.
        let config = self.config();
        let command = parse(&request.text, &config.session).unwrap_or(Command::New);
        let listing = Intent { effect: Effect::Reads, action: "list".to_owned(), stands_for: None };
        let text = match &command {
            Command::Node(Ok(_)) if interrupted => {
                "⚠️ The gateway restarted while this command was under way. Its outcome is unknown."
                    .to_owned()
            }
            Command::Node(Ok(node)) => {
                let intent = nodes::invoking(&node.command);
                match self.may_command(run, request, &intent) {
                    Err(complaint) => complaint,
                    Ok(()) => match self.node_command(run, node).await {
                        Ok(text) => text,
                        Err(error) => return self.lost(run, &error),
                    },
                }
            }
            Command::Node(Err(complaint)) => complaint.clone(),
            Command::Help => match self.help(run, &config).await {
                Ok(text) => text,
                Err(error) => return self.lost(run, &error),
            },
            Command::New => "✨ A new conversation has begun.".to_owned(),
            Command::Nodes => match self.may_command(run, request, &listing) {
                Ok(()) => self.nodes_text().await,
                Err(complaint) => complaint,
            },
            Command::Status => match self.status_text(run).await {
                Ok(text) => text,
                Err(error) => return self.lost(run, &error),
            },
        };
        self.finish_command(run, request, text, command == Command::New).await;
    }

    /// Commands about nodes are the tool `nodes` by hand: the same lists and the same people.
    fn may_command(&self, run: &Run, request: &RunRequest, intent: &Intent) -> Result<(), String> {
        let config = self.config();
        let place = gate::whereabouts(&config, &run.session_key, request);
        let asked = Asked { asker: &request.asker, run, place: &place };
        gate::check(&config, &asked, "nodes", intent).map_err(|refusal| format!("⚠️ {refusal}"))
    }

    async fn finish_command(&self, run: &Run, request: &RunRequest, text: String, renew: bool) {
        let now = now_ms();
        let end = RunEnd { state: RunState::Done, result: None, error: None, at_ms: now };
        let config = self.config();
        let last = LastOfCommand {
            reply: ending::reply(&config, request, &text, None),
            config,
            run_id: run.id.clone(),
            key: run.session_key.clone(),
            request: request.clone(),
            text: text.clone(),
            renew,
            end: end.clone(),
        };
        let replies = last.reply.is_some();
        if let Err(error) = self.parts.store.insist(move |db| last.write(db)).await {
            return self.lost(run, &error);
        }
        run.tell_reply(&self.parts.bus, &text);
        if replies {
            self.parts.outbound.wake();
        }
        self.runs.end(run, ending::ended(run, end));
    }

    async fn node_command(&self, run: &Run, command: &NodeCommand) -> Result<String, StoreError> {
        let id = run.id.clone();
        self.parts.store.insist(move |db| db.start_run(&id, None, now_ms())).await?;
        let NodeCommand { node, command, params } = command.clone();
        let invoking = self.parts.nodes.invoke(node, command, params, NODE_TIMEOUT_MS);
        Ok(match tokio::time::timeout(NODE_LIMIT, invoking).await {
            Ok(Ok(payload)) => payload_text(&payload),
            Ok(Err(ToolError(text))) => format!("⚠️ {text}"),
            Err(_) => "⚠️ The node did not answer in time.".to_owned(),
        })
    }

    /// Lists the commands. A tool is called by hand where no model would.
    async fn help(&self, run: &Run, config: &Config) -> Result<String, StoreError> {
        let key = run.session_key.clone();
        let entry = self.parts.store.read(move |db| db.session(&key)).await?;
        let agent = key::owner(config, &run.session_key);
        let candidates = model::candidates(config, &agent, entry.as_ref());
        let tools = self.parts.tools.specs();
        let names = tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(", ");
        let by_hand = candidates.first() == Some(&echo::model()) && !names.is_empty();
        Ok(help(&config.session, by_hand.then_some(&names)))
    }

    async fn nodes_text(&self) -> String {
        let listed = match self.parts.nodes.list().await {
            Ok(listed) => listed,
            Err(ToolError(text)) => return format!("⚠️ {text}"),
        };
        let nodes = listed.as_array().or_else(|| listed["nodes"].as_array());
        let lines: Vec<_> = nodes.into_iter().flatten().map(node_line).collect();
        if lines.is_empty() { "There are no nodes.".to_owned() } else { lines.join("\n") }
    }

    async fn status_text(&self, run: &Run) -> Result<String, StoreError> {
        let config = self.config();
        let key = run.session_key.clone();
        let entry = self.parts.store.read(move |db| db.session(&key)).await?;
        let agent = key::owner(&config, &run.session_key);
        let candidates = model::candidates(&config, &agent, entry.as_ref());
        let models = &self.parts.models;
        let (name, context, thinking) = match candidates.first() {
            Some(model) => (
                model.to_string(),
                model::context_tokens(models, model),
                model::thinking(&config, models, entry.as_ref(), model),
            ),
            None => ("none".to_owned(), 0, "off".to_owned()),
        };
        let filled = entry.as_ref().and_then(|entry| entry.total_tokens).unwrap_or(0);
        let percent = (filled * 100).checked_div(context).unwrap_or(0);
        let age = entry.and_then(|entry| entry.updated_at).map_or_else(
            || "new".to_owned(),
            |at| format!("last message {} s ago", (now_ms() - at).max(0) / 1000),
        );
        Ok(format!(
            "Moltbot {}\nModel: {name} · thinking {thinking}\nContext: {filled} of {context} \
             tokens ({percent} %)\nSession: {} · {age}\nQueue: {} waiting here · {} runs open",
            env!("CARGO_PKG_VERSION"),
            run.session_key,
            self.lanes.waiting(&run.session_key),
            self.open_runs(),
        ))
    }
}

/// What the last transaction of a command writes.
struct LastOfCommand {
    config: std::sync::Arc<Config>,
    run_id: String,
    key: String,
    request: RunRequest,
    text: String,
    renew: bool,
    end: RunEnd,
    reply: Option<NewMessage>,
}

impl LastOfCommand {
    fn write(&self, db: &Db<'_>) -> rusqlite::Result<()> {
        let now = self.end.at_ms;
        let stored = db.session(&self.key)?;
        let mut entry = match stored {
            Some(entry) if self.renew => sessions::restarted(entry),
            stored => beginning::current(&self.config, &self.key, &self.request, stored, false),
        };
        entry.updated_at = Some(now);
        beginning::place(&mut entry, &self.request);
        db.put_session(&self.key, &key::owner(&self.config, &self.key), &entry)?;
        let answer = message::injected(&self.text, now);
        let answer = ending::transcript_message(Some(&self.run_id), answer, now);
        db.append_message(&entry.session_id, &answer)?;
        db.end_run(&self.run_id, &self.end)?;
        if let Some(reply) = &self.reply {
            db.queue_message(reply, now)?;
        }
        match self.request.inbox_id {
            Some(inbox_id) => db.finish_inbox(inbox_id),
            None => Ok(()),
        }
    }
}

fn parse(text: &str, session: &Session) -> Option<Command> {
    if after_trigger(text, session).is_some_and(|rest| rest.is_empty()) {
        return Some(Command::New);
    }
    let (name, rest) = name_and_rest(text)?;
    Some(match (name.as_str(), rest) {
        ("help" | "commands", "") => Command::Help,
        ("status", "") => Command::Status,
        ("nodes", "") => Command::Nodes,
        ("node", rest) => Command::Node(node_command(rest)),
        _ => return None,
    })
}

/// A command as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCommand {
    /// What is typed, each with its `/`; the first is the usual one.
    pub words: Vec<String>,
    /// What follows the word, empty when nothing does.
    pub arguments: &'static str,
    /// What it does.
    pub description: &'static str,
}

/// Returns the commands that every model has, in the order `/help` lists them.
#[must_use]
pub fn listed(session: &Session) -> Vec<ListedCommand> {
    let command = |words: &[&str], arguments, description| ListedCommand {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        arguments,
        description,
    };
    let new: Vec<&str> = triggers(session).collect();
    vec![
        command(&["/status"], "", "model, session and queue"),
        command(&new, "", "start a new conversation; text after it is its first message"),
        command(&["/stop"], "", "stop what is under way"),
        command(&["/nodes"], "", "list the nodes"),
        command(&["/node"], "<id> <command> [json]", "run a command on a node"),
        command(&["/help"], "", "this list"),
    ]
}

fn help(session: &Session, tools: Option<&String>) -> String {
    let lines = listed(session).into_iter().map(|command| {
        let words = command.words.join(" or ");
        let gap = if command.arguments.is_empty() { "" } else { " " };
        let line = format!("{words}{gap}{} – {}", command.arguments, command.description);
        match (command.words.first().map(String::as_str), tools) {
            (Some("/node"), Some(names)) => {
                format!("{line}\n/tool NAME {{json}} – call a tool of the assistant: {names}")
            }
            _ => line,
        }
    });
    format!("Commands:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// Splits `/name@bot rest`.
fn name_and_rest(text: &str) -> Option<(String, &str)> {
    let text = text.trim().strip_prefix('/')?;
    let (head, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let name = head.split('@').next().unwrap_or_default().to_lowercase();
    Some((name, rest.trim()))
}

fn node_command(rest: &str) -> Result<NodeCommand, String> {
    let usage = || "Usage: /node <id> <command> [json]".to_owned();
    let (node, rest) = rest.split_once(char::is_whitespace).ok_or_else(usage)?;
    let rest = rest.trim();
    let (command, json) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let params = match json.trim() {
        "" => Value::Object(serde_json::Map::new()),
        json => serde_json::from_str(json)
            .map_err(|error| format!("The parameters are not JSON: {error}"))?,
    };
    Ok(NodeCommand { node: node.to_owned(), command: command.to_owned(), params })
}

fn node_line(node: &Value) -> String {
    let text = |field: &str| node[field].as_str().filter(|text| !text.is_empty());
    let id = text("nodeId").or_else(|| text("id")).unwrap_or("?");
    let name = text("displayName").unwrap_or(id);
    let state = if node["connected"] == true { "connected" } else { "away" };
    let platform = text("platform").map_or_else(String::new, |platform| format!(" · {platform}"));
    let short: String = id.chars().take(12).collect();
    format!("• {name} ({short}) – {state}{platform}")
}

/// Returns what a node answered: the output of a program as it is, anything
/// else as JSON.
fn payload_text(payload: &Value) -> String {
    let output: String = ["stdout", "stderr"]
        .into_iter()
        .filter_map(|stream| payload[stream].as_str())
        .map(str::trim_end)
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("\n");
    let failed = payload["exitCode"].as_i64().filter(|code| *code != 0);
    let body = if payload["stdout"].is_string() {
        if output.is_empty() { "(no output)".to_owned() } else { output }
    } else {
        serde_json::to_string_pretty(payload).expect("values serialize")
    };
    let body = cut(&body);
    let code = failed.map_or_else(String::new, |code| format!("\nexit code {code}"));
    format!("```\n{body}\n```{code}")
}

fn cut(text: &str) -> String {
    // The marks of a block of code within it would end it.
    let text = text.replace("```", "'''");
    if text.chars().count() <= ANSWER_CHARS {
        return text;
    }
    text.chars().take(ANSWER_CHARS).chain("\n… (cut)".chars()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_that_stop_are_whole_messages() {
        for text in ["/stop", "/stop@bot", " STOP ", "esc", "interrupt"] {
            assert!(is_stop(text), "{text}");
        }
        for text in ["stop it", "/stop now", "please stop", "/stopping"] {
            assert!(!is_stop(text), "{text}");
        }
    }

    #[test]
    fn commands_take_what_they_take_and_nothing_else() {
        let parse = |text| parse(text, &Session::default());
        assert_eq!(parse("/STATUS@bot"), Some(Command::Status));
        assert_eq!(parse("/status now"), None);
        assert_eq!(parse("/tool nodes {}"), None);
        assert_eq!(parse("status"), None);
        assert_eq!(parse("/Reset@bot"), Some(Command::New));
        let Some(Command::Node(Ok(node))) = parse("/node mac  system.run {\"a\": 1}") else {
            panic!("no node command");
        };
        assert_eq!((node.node.as_str(), node.command.as_str()), ("mac", "system.run"));
        assert_eq!(node.params, json!({"a": 1}));
        assert!(matches!(parse("/node mac"), Some(Command::Node(Err(_)))));
    }

    #[test]
    fn text_after_new_is_the_first_message() {
        let request = marked("/new tell me", &[]);
        assert!(request.renew && !request.command);
        assert_eq!(request.text, "tell me");
    }

    #[test]
    fn other_words_may_start_a_conversation_anew() {
        let words = ["Fresh start", "/frisch"];
        for text in ["fresh START", " /frisch@bot "] {
            assert!(marked(text, &words).command, "{text}");
        }
        let asked = marked("/frisch\nWhy?", &words);
        assert_eq!((asked.renew, asked.text.as_str()), (true, "Why?"));
        for text in ["/new", "/reset now", "fresh starter", "a fresh start"] {
            let plain = marked(text, &words);
            assert!(!plain.command && !plain.renew && plain.text == text, "{text}");
        }
        let session =
            Session { reset_triggers: words.map(Into::into).into(), ..Session::default() };
        assert!(help(&session, None).contains("\nFresh start or /frisch – start"));
    }

    fn marked(text: &str, words: &[&str]) -> RunRequest {
        let triggers = words.iter().map(|word| (*word).to_owned()).collect();
        let session = Session { reset_triggers: triggers, ..Session::default() };
        let mut request = RunRequest { text: text.into(), ..RunRequest::default() };
        mark(&mut request, &session);
        request
    }

    #[test]
    fn the_output_of_a_program_is_shown_as_it_is() {
        let shown = payload_text(&json!({"stdout": "a\n", "stderr": "", "exitCode": 3}));
        assert_eq!(shown, "```\na\n```\nexit code 3");
    }
}
