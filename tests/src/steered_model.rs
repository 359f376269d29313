//! An OpenAI-compatible model server steered by the user's last message.
//!
//! It says what the one behind the recorded transcripts said: `TOOL:<name>
//! <json>` asks for a tool call and then talks about its result, `SLOW` answers
//! in 40 pieces 50 ms apart, `LONG` in 200, `FAIL` is an HTTP 500, `DRIP`
//! repeats the message and goes on until [`LAST_DROP`], anything else gets a
//! short greeting. One that [has an idea](SteeredModel::thinks_of) calls a tool
//! whatever it is told.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The last word of an answer to `DRIP`.
pub const LAST_DROP: &str = "dry.";

/// A running model server; stops when dropped.
#[derive(Debug)]
pub struct SteeredModel {
    port: u16,
    task: JoinHandle<Infallible>,
    idea: Idea,
}

/// A call that nobody asked for: name and arguments.
type Idea = Arc<Mutex<Option<(String, String)>>>;

impl SteeredModel {
    /// Starts the server on a free port.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let idea = Idea::default();
        let of_task = Arc::clone(&idea);
        let task = tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let idea = Arc::clone(&of_task);
                    // A client that goes away in the middle is its own business.
                    tokio::spawn(async move { serve(stream, &idea).await.ok() });
                }
            }
        });
        Self { port, task, idea }
    }

    /// From now on it calls a tool whatever it is told.
    pub fn thinks_of(&self, tool: &str, arguments: &str) {
        let idea = (tool.to_owned(), arguments.to_owned());
        *self.idea.lock().unwrap_or_else(PoisonError::into_inner) = Some(idea);
    }

    /// Returns the base address for `models.providers.*.baseUrl`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Returns `models` of a configuration with one provider, `mock`, and one
    /// model, `mock-1`, served here.
    #[must_use]
    pub fn models(&self) -> Value {
        json!({ "providers": { "mock": {
            "baseUrl": self.url(),
            "apiKey": "mock-key",
            "api": "openai-completions",
            "models": [{
                "id": "mock-1",
                "name": "Mock One",
                "reasoning": false,
                "input": ["text"],
                "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
                "contextWindow": 128_000,
                "maxTokens": 4096,
            }],
        } } })
    }
}

impl Drop for SteeredModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, idea: &Idea) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let wants_models = line.split(' ').nth(1).is_some_and(|path| path.ends_with("/models"));
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let stream = stream.get_mut();
    if wants_models {
        let models = json!({ "object": "list", "data": [{ "id": "mock-1", "object": "model" }] });
        return whole(stream, "200 OK", &models).await;
    }
    let question: Value = serde_json::from_slice(&body).unwrap_or_default();
    let idea = idea.lock().unwrap_or_else(PoisonError::into_inner).clone();
    answer(stream, &question, idea).await
}

async fn answer(
    stream: &mut TcpStream,
    question: &Value,
    idea: Option<(String, String)>,
) -> std::io::Result<()> {
    let messages = question["messages"].as_array().cloned().unwrap_or_default();
    let mut steer =
        messages.iter().rfind(|message| message["role"] == "user").map_or_else(String::new, text);
    if let Some((tool, arguments)) = idea {
        steer = format!("TOOL:{tool} {arguments}");
    }
    if steer.contains("FAIL") {
        let error = json!({ "error": { "message": "mock failure", "type": "server_error" } });
        return whole(stream, "500 Internal Server Error", &error).await;
    }
    let result = messages.last().filter(|message| message["role"] == "tool").map(text);
    let (pieces, pause, finish) = script(&steer, result.as_deref());
    if question["stream"] != true {
        let content: String = pieces.iter().filter_map(|piece| piece["content"].as_str()).collect();
        let message = json!({ "role": "assistant", "content": content });
        let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
        return whole(stream, "200 OK", &chunk(json!([choice]), Some(usage()))).await;
    }
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        )
        .await?;
    let choice = |delta: Value, finish: Option<&str>| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish }]), None)
    };
    event(stream, &choice(json!({ "role": "assistant", "content": "" }), None).to_string()).await?;
    for piece in pieces {
        tokio::time::sleep(pause).await;
        event(stream, &choice(piece, None).to_string()).await?;
    }
    event(stream, &choice(json!({}), Some(finish)).to_string()).await?;
    event(stream, &chunk(json!([]), Some(usage())).to_string()).await?;
    event(stream, "[DONE]").await
}

/// Returns the pieces of an answer, the pause before each and why it ends.
fn script(steer: &str, result: Option<&str>) -> (Vec<Value>, Duration, &'static str) {
    let content = |text: String| json!({ "content": text });
    let tool = steer.find("TOOL:").and_then(|at| steer[at + 5..].split_once(' '));
    match (tool, result) {
        (Some((name, arguments)), None) => {
            let end = arguments.rfind('}').map_or(arguments.len(), |at| at + 1);
            let call = json!({ "tool_calls": [{
                "index": 0,
                "id": format!("call_{}", uuid::Uuid::new_v4().simple()),
                "type": "function",
                "function": { "name": name, "arguments": arguments[..end] },
            }] });
            (vec![call], Duration::from_millis(30), "tool_calls")
        }
        (_, Some(result)) => {
            let text = format!("The tool has run. Result: {result}");
            (words(&text).map(content).collect(), Duration::from_millis(5), "stop")
        }
        (None, None) if steer.contains("SLOW") => {
            let parts = (0..40).map(|part| content(format!("part{part} ")));
            (parts.collect(), Duration::from_millis(50), "stop")
        }
        (None, None) if steer.contains("LONG") => {
            let parts = (0..200).map(|word| content(format!("word{word} ")));
            (parts.collect(), Duration::from_millis(5), "stop")
        }
        (None, None) if steer.contains("DRIP") => {
            let drops = (0..32).map(|drop| format!("drop{drop} "));
            let pieces = std::iter::once(format!("{steer} ")).chain(drops);
            let pieces = pieces.chain([LAST_DROP.to_owned()]).map(content);
            (pieces.collect(), Duration::from_millis(50), "stop")
        }
        (None, None) => {
            let text = "Hello from the mock model.";
            (words(text).map(content).collect(), Duration::from_millis(30), "stop")
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_inclusive(' ').map(str::to_owned)
}

fn text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn chunk(choices: Value, usage: Option<Value>) -> Value {
    let mut chunk = json!({
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "mock-1",
        "choices": choices,
    });
    if let Some(usage) = usage {
        chunk["usage"] = usage;
    }
    chunk
}

fn usage() -> Value {
    json!({ "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 })
}

async fn event(stream: &mut TcpStream, data: &str) -> std::io::Result<()> {
    stream.write_all(format!("data: {data}\n\n").as_bytes()).await
}

async fn whole(stream: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}
