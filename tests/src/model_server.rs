//! A model server that plays a script: one prepared reply for each request, in
//! the form OpenAI, Anthropic, Gemini or Ollama send it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running model server; stops when dropped.
#[derive(Debug)]
pub struct ModelServer {
    port: u16,
    script: Arc<Script>,
    task: JoinHandle<Infallible>,
}

#[derive(Debug, Default)]
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<Asked>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Value,
}

impl Asked {
    /// Returns a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A prepared reply.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    /// Each is written and flushed by itself.
    pieces: Vec<String>,
    /// Whether the connection breaks in the middle of the body.
    cut: bool,
}

impl Reply {
    /// An error with its JSON body. It asks to be tried again at once, so that
    /// tests need not wait.
    #[must_use]
    pub fn error(status: u16, body: &Value) -> Self {
        let headers = vec![
            ("content-type".into(), "application/json".into()),
            ("retry-after-ms".into(), "1".into()),
        ];
        Self { status, headers, pieces: vec![body.to_string()], cut: false }
    }

    /// A stream of server-sent events.
    #[must_use]
    pub fn events(events: &[Value]) -> Self {
        let piece = |event: &Value| match event["type"].as_str() {
            // Anthropic names its events, and repeats the name in the data.
            Some(name) => format!("event: {name}\ndata: {event}\n\n"),
            None => format!("data: {event}\n\n"),
        };
        Self::stream("text/event-stream", events.iter().map(piece).collect())
    }

    /// A stream of JSON lines.
    #[must_use]
    pub fn lines(lines: &[Value]) -> Self {
        Self::stream("application/x-ndjson", lines.iter().map(|line| format!("{line}\n")).collect())
    }

    /// An answer of OpenAI in pieces.
    #[must_use]
    pub fn openai(pieces: &[&str]) -> Self {
        let mut events: Vec<Value> =
            pieces.iter().map(|piece| openai_chunk(&json!({ "content": piece }), None)).collect();
        events.push(openai_chunk(&json!({}), Some("stop")));
        Self::events(&events).openai_end()
    }

    /// A call of OpenAI, its arguments in two pieces.
    #[must_use]
    pub fn openai_call(id: &str, name: &str, arguments: &Value) -> Self {
        let arguments = arguments.to_string();
        let (head, tail) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
        let begin = json!({ "tool_calls": [{
            "index": 0, "id": id, "type": "function",
            "function": { "name": name, "arguments": "" },
        }] });
        let more = |text: &str| {
            let call = json!({ "index": 0, "function": { "arguments": text } });
            openai_chunk(&json!({ "tool_calls": [call] }), None)
        };
        let end = openai_chunk(&json!({}), Some("tool_calls"));
        Self::events(&[openai_chunk(&begin, None), more(head), more(tail), end]).openai_end()
    }

    /// An answer of Anthropic in pieces, with thoughts before it if any.
    #[must_use]
    pub fn anthropic(thoughts: Option<&str>, pieces: &[&str]) -> Self {
        let mut events = vec![anthropic_start()];
        events.extend(thoughts.into_iter().flat_map(anthropic_thoughts));
        let block = json!({ "type": "text", "text": "" });
        let deltas: Vec<Value> =
            pieces.iter().map(|text| json!({ "type": "text_delta", "text": text })).collect();
        events.extend(anthropic_block(&block, &deltas));
        events.extend(anthropic_end("end_turn"));
        Self::events(&events)
    }

    /// A call of Anthropic, with thoughts before it if any.
    #[must_use]
    pub fn anthropic_call(thoughts: Option<&str>, id: &str, name: &str, arguments: &Value) -> Self {
        let mut events = vec![anthropic_start()];
        events.extend(thoughts.into_iter().flat_map(anthropic_thoughts));
        let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
        let delta = json!({ "type": "input_json_delta", "partial_json": arguments.to_string() });
        events.extend(anthropic_block(&block, &[delta]));
        events.extend(anthropic_end("tool_use"));
        Self::events(&events)
    }

    /// Adds or replaces a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends so many pieces, then breaks the connection.
    #[must_use]
    pub fn cut_after(mut self, pieces: usize) -> Self {
        self.pieces.truncate(pieces);
        self.cut = true;
        self
    }

    fn stream(content_type: &str, pieces: Vec<String>) -> Self {
        let headers = vec![("content-type".into(), content_type.into())];
        Self { status: 200, headers, pieces, cut: false }
    }

    fn openai_end(mut self) -> Self {
        let usage = json!({ "choices": [], "usage": {
            "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35,
            "prompt_tokens_details": { "cached_tokens": 20 },
        } });
        self.pieces.push(format!("data: {usage}\n\n"));
        self.pieces.push("data: [DONE]\n\n".into());
        self
    }
}

fn openai_chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
    })
}

fn anthropic_start() -> Value {
    json!({ "type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m",
        "usage": {
            "input_tokens": 10, "output_tokens": 1,
            "cache_read_input_tokens": 7, "cache_creation_input_tokens": 3,
        },
    } })
}

fn anthropic_thoughts(text: &str) -> Vec<Value> {
    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
    let deltas = [
        json!({ "type": "thinking_delta", "thinking": text }),
        json!({ "type": "signature_delta", "signature": "signed" }),
    ];
    anthropic_block(&block, &deltas)
}

fn anthropic_block(block: &Value, deltas: &[Value]) -> Vec<Value> {
    let mut events =
        vec![json!({ "type": "content_block_start", "index": 0, "content_block": block })];
    events.extend(
        deltas
            .iter()
            .map(|delta| json!({ "type": "content_block_delta", "index": 0, "delta": delta })),
    );
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    events
}

fn anthropic_end(reason: &str) -> [Value; 2] {
    [
        json!({
            "type": "message_delta",
            "delta": { "stop_reason": reason, "stop_sequence": null },
            "usage": { "output_tokens": 5 },
        }),
        json!({ "type": "message_stop" }),
    ]
}

impl ModelServer {
    /// Starts the server on a free port.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let script = Arc::new(Script::default());
        lock(&script.replies).extend(replies);
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let script = Arc::clone(&shared);
                    // A client that goes away in the middle is its own business.
                    tokio::spawn(async move { serve(stream, &script).await.ok() });
                }
            }
        });
        Self { port, script, task }
    }

    /// Returns the address, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a reply to the end of the script.
    pub fn then(&self, reply: Reply) {
        lock(&self.script.replies).push_back(reply);
    }

    /// Returns `models` of a configuration with one provider, `scripted`, of
    /// this dialect, and one model, `m`.
    #[must_use]
    pub fn models(&self, api: &str) -> Value {
        let path = if api.starts_with("openai") { "/v1" } else { "" };
        json!({ "providers": { "scripted": {
            "baseUrl": format!("{}{path}", self.url()),
            "apiKey": "sk-very-secret",
            "api": api,
            "headers": { "x-team": "moltbot-team" },
            "models": [{ "id": "m", "reasoning": true, "input": ["text", "image"] }],
        } } })
    }

    /// Returns the requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        lock(&self.script.requests).clone()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, script: &Script) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let asked = read(&mut stream).await?;
    lock(&script.requests).push(asked);
    let ended = json!({ "error": { "message": "the script has ended" } });
    let reply = lock(&script.replies).pop_front();
    write(stream.get_mut(), reply.unwrap_or_else(|| Reply::error(501, &ended))).await
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap_or(0);
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Asked { path, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

async fn write(stream: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nconnection: close\r\ntransfer-encoding: chunked\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    for piece in &reply.pieces {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
        stream.flush().await?;
    }
    if !reply.cut {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.shutdown().await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
