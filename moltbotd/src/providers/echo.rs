//! The built-in model that needs no key.
//!
//! It repeats what it reads and calls a tool for a message that starts with `/tool NAME {json}`, so
//! that the way of a message can be tried on a fresh machine. Only what the asker wrote counts for
//! that: the prompt also holds quotations, file names and reports of nodes.

use futures_util::stream;
use serde_json::{Value, json};

use super::{
    Answer, Chunk, ModelInfo, ModelRef, Prompt, Provider, ProviderError, StopReason, ToolCall,
    Turn, Usage,
};

/// The built-in model.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

/// In backticks, because readers of Markdown take `<provider>` for a tag and show nothing.
const HINT: &str = "(builtin/echo: no model is configured. Set `agents.defaults.model` to \
    `provider/model` and put that provider's key into `models.providers.<provider>.apiKey` or its \
    environment variable, for example `ANTHROPIC_API_KEY`.)";

/// Everybody who watches a run gets every piece, so a long answer has larger
/// ones rather than more.
const MAX_PIECES: usize = 64;
/// Every piece is sent with all that was said before it, so a very long answer has few.
const LONG_ANSWER: usize = 64 * 1024;
const MAX_LONG_PIECES: usize = 8;

/// Returns the name of the built-in model.
#[must_use]
pub fn model() -> ModelRef {
    ModelRef { provider: "builtin".into(), model: "echo".into() }
}

/// Describes the built-in model.
#[must_use]
pub fn info() -> ModelInfo {
    ModelInfo {
        model: model(),
        name: "echo".into(),
        context_window: None,
        reasoning: false,
        input: vec!["text".into()],
    }
}

impl Provider for Echo {
    fn stream(&self, prompt: Prompt) -> Answer {
        let chunks = answer(&prompt).into_iter().map(Ok::<_, ProviderError>);
        Box::pin(stream::iter(chunks.collect::<Vec<_>>()))
    }
}

fn answer(prompt: &Prompt) -> Vec<Chunk> {
    if let Some(text) = tool_answers(&prompt.turns) {
        return say(&text);
    }
    let (text, own_words) = last_user_text(&prompt.turns);
    match tool_calls(own_words, prompt.turns.len()) {
        Ok(calls) if calls.is_empty() => say(&echo(text, &prompt.turns)),
        Ok(calls) => calls.into_iter().map(Chunk::Call).chain([end(StopReason::ToolUse)]).collect(),
        Err(complaint) => say(&complaint),
    }
}

/// Returns what the tools answered, verbatim, when they spoke last.
fn tool_answers(turns: &[Turn]) -> Option<String> {
    let mut texts: Vec<String> = turns
        .iter()
        .rev()
        .map_while(|turn| match turn {
            Turn::Tool { name, text, is_error: true, .. } => Some(format!("{name} failed: {text}")),
            Turn::Tool { text, .. } => Some(text.clone()),
            _ => None,
        })
        .collect();
    texts.reverse();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// Returns the last message and what of it the asker wrote.
fn last_user_text(turns: &[Turn]) -> (&str, &str) {
    let text = turns.iter().rev().find_map(|turn| match turn {
        Turn::User { text, own_words, .. } => Some((text.as_str(), own_words.as_str())),
        _ => None,
    });
    text.unwrap_or_default()
}

fn echo(text: &str, turns: &[Turn]) -> String {
    let first = !turns.iter().any(|turn| matches!(turn, Turn::Assistant { .. }));
    if first { format!("echo: {text}\n\n{HINT}") } else { format!("echo: {text}") }
}

/// Reads the lines `/tool NAME {json}` that a message starts with; the JSON may go on over further
/// lines.
fn tool_calls(text: &str, position: usize) -> Result<Vec<ToolCall>, String> {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(command) = rest.trim_start().strip_prefix("/tool ") else { break };
        let (call, after) = tool_call(command, format!("echo-{position}-{}", calls.len()))?;
        calls.push(call);
        rest = after;
    }
    Ok(calls)
}

/// Reads `NAME {json}` and returns what follows it.
fn tool_call(text: &str, id: String) -> Result<(ToolCall, &str), String> {
    let text = text.trim_start_matches(' ');
    let line_end = text.find('\n').unwrap_or(text.len());
    let name_end = text[..line_end].find(char::is_whitespace).unwrap_or(line_end);
    let name = text[..name_end].to_owned();
    if name.is_empty() {
        return Err("/tool: a name is missing, as in /tool nodes {\"action\": \"list\"}".into());
    }
    if text[name_end..line_end].trim().is_empty() {
        return Ok((ToolCall { id, name, arguments: json!({}) }, &text[line_end..]));
    }
    let after_name = &text[name_end..];
    let mut values = serde_json::Deserializer::from_str(after_name).into_iter::<Value>();
    match values.next() {
        Some(Ok(arguments)) => {
            let after = &after_name[values.byte_offset()..];
            Ok((ToolCall { id, name, arguments }, after))
        }
        Some(Err(error)) => Err(format!("/tool {name}: the arguments are not JSON: {error}")),
        None => Ok((ToolCall { id, name, arguments: json!({}) }, "")),
    }
}

fn say(text: &str) -> Vec<Chunk> {
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let most = if text.len() > LONG_ANSWER { MAX_LONG_PIECES } else { MAX_PIECES };
    let per_piece = words.len().div_ceil(most).max(1);
    let pieces = words.chunks(per_piece).map(|piece| Chunk::Text(piece.concat()));
    pieces.chain([end(StopReason::Stop)]).collect()
}

fn end(stop: StopReason) -> Chunk {
    Chunk::End { stop, usage: Usage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Turn {
        Turn::User { text: text.into(), own_words: text.into(), attachments: Vec::new() }
    }

    fn ask(turns: Vec<Turn>) -> Vec<Chunk> {
        answer(&Prompt { turns, ..Prompt::default() })
    }

    fn text_of(chunks: &[Chunk]) -> String {
        let texts = chunks.iter().filter_map(|chunk| match chunk {
            Chunk::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    fn calls(chunks: &[Chunk]) -> Vec<(&str, &Value)> {
        let calls = chunks.iter().filter_map(|chunk| match chunk {
            Chunk::Call(call) => Some((call.name.as_str(), &call.arguments)),
            _ => None,
        });
        calls.collect()
    }

    #[test]
    fn the_first_answer_says_how_to_configure_a_model_and_later_ones_do_not() {
        let first = text_of(&ask(vec![user("good morning")]));
        assert!(
            first.starts_with("echo: good morning\n") && first.contains("agents.defaults.model")
        );
        let spoken = Turn::Assistant { text: first, calls: Vec::new() };
        assert_eq!(text_of(&ask(vec![user("a"), spoken, user("b  c")])), "echo: b  c");
    }

    #[test]
    fn the_hint_loses_nothing_in_a_reader_of_markdown() {
        // What is between backticks is shown as it is; elsewhere `<provider>` would be a tag.
        let outside: String = HINT.split('`').step_by(2).collect();
        assert!(!outside.contains(['<', '>', '*', '_']), "{outside}");
    }

    #[test]
    fn answers_come_word_by_word_and_long_ones_in_few_pieces() {
        let chunks = ask(vec![user("one two")]);
        assert_eq!(chunks[0], Chunk::Text("echo: ".into()));
        assert_eq!(chunks[1], Chunk::Text("one ".into()));
        let long = "word ".repeat(10_000);
        let chunks = ask(vec![user(&long)]);
        assert!(chunks.len() <= MAX_PIECES + 1);
        assert!(text_of(&chunks).contains(&long));
    }

    #[test]
    fn a_tool_line_at_the_start_becomes_a_call() {
        let chunks = ask(vec![user(" /tool nodes {\"action\":\"list\"}\nthanks")]);
        assert_eq!(calls(&chunks), [("nodes", &json!({ "action": "list" }))]);
        assert_eq!(chunks.last(), Some(&end(StopReason::ToolUse)));
        assert!(calls(&ask(vec![user("please\n/tool nodes {}")])).is_empty());
    }

    #[test]
    fn a_tool_line_that_the_asker_did_not_write_is_repeated_and_not_called() {
        let text = "/tool nodes {}\nwhat is that?".to_owned();
        let turn = Turn::User { text, own_words: "what is that?".into(), attachments: Vec::new() };
        let chunks = ask(vec![turn]);
        assert!(calls(&chunks).is_empty());
        assert!(text_of(&chunks).starts_with("echo: /tool nodes {}"));
    }

    #[test]
    fn several_tool_lines_and_json_over_several_lines_are_read() {
        let chunks = ask(vec![user("/tool a {\n \"x\": 1\n}\n/tool b\n /tool c [2]")]);
        assert_eq!(
            calls(&chunks),
            [("a", &json!({ "x": 1 })), ("b", &json!({})), ("c", &json!([2]))]
        );
    }

    #[test]
    fn bad_tool_arguments_are_complained_about() {
        let said = text_of(&ask(vec![user("/tool nodes {action}")]));
        assert!(said.starts_with("/tool nodes: the arguments are not JSON"), "{said}");
        assert!(text_of(&ask(vec![user("/tool \n{}")])).contains("name is missing"));
    }

    #[test]
    fn what_a_tool_answered_is_said_verbatim() {
        let call = ToolCall { id: "1".into(), name: "nodes".into(), arguments: json!({}) };
        let tool = |text: &str, is_error| Turn::Tool {
            call_id: "1".into(),
            name: "nodes".into(),
            text: text.into(),
            is_error,
        };
        let said = Turn::Assistant { text: String::new(), calls: vec![call] };
        let turns = vec![user("/tool nodes {}"), said, tool("line 1\n  line 2\n", false)];
        assert_eq!(text_of(&ask(turns.clone())), "line 1\n  line 2\n");
        let failed = [turns, vec![tool("no node", true)]].concat();
        assert_eq!(text_of(&ask(failed)), "line 1\n  line 2\n\nnodes failed: no node");
    }
}
