//! What the daemon takes for the Bot API: the emulator with the real server's
//! rules for `getUpdates`, the methods it lacks, and faults on demand.
//!
//! The rules: an update stays until a higher offset confirms it; a question is
//! held until there is news; a second question ends the first one with 409.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

/// Something that goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused and not carried out.
    Refuse {
        /// Code of the error.
        code: u16,
        /// Its words.
        description: String,
        /// When to try again, in seconds.
        retry_after: Option<u64>,
    },
    /// It is carried out, and the connection ends before the answer.
    LoseAnswer,
    /// The connection ends before it is carried out.
    LoseRequest,
    /// It is carried out, and the answer is no JSON.
    Malform,
    /// It is carried out after a pause.
    Delay(Duration),
}

impl Fault {
    /// Too many requests.
    #[must_use]
    pub fn too_many(retry_after: u64) -> Self {
        let description = format!("Too Many Requests: retry after {retry_after}");
        Self::Refuse { code: 429, description, retry_after: Some(retry_after) }
    }

    /// Another poller.
    #[must_use]
    pub fn conflict() -> Self {
        let description = "Conflict: terminated by other getUpdates request".to_owned();
        Self::Refuse { code: 409, description, retry_after: None }
    }
}

/// A request of the daemon.
#[derive(Clone, Debug)]
pub struct Call {
    /// Token of the bot.
    pub token: String,
    /// Name of the method.
    pub method: String,
    /// Its parameters; a file is `{name, size}`.
    pub params: Value,
    /// What went wrong with it.
    pub fault: Option<Fault>,
}

/// A message that the bot shows in a chat.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id.
    pub id: i64,
    /// The chat.
    pub chat: i64,
    /// Its text or caption, after the last edit.
    pub text: String,
    /// How often it was edited.
    pub edits: usize,
    /// The method that sent it.
    pub method: String,
    /// All parameters of that method.
    pub params: Value,
}

/// A running front; stops when dropped.
#[derive(Debug)]
pub struct Front {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<Infallible>,
}

#[derive(Debug)]
struct State {
    emulator: u16,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<Call>,
    messages: Vec<Message>,
    faults: HashMap<String, VecDeque<Fault>>,
    /// Decides about requests without a planned fault.
    chaos: Option<fn(&str, u64) -> Option<Fault>>,
    count: u64,
    files: HashMap<String, Vec<u8>>,
    bots: HashMap<String, Bot>,
}

#[derive(Debug, Default)]
struct Bot {
    waiting: Vec<Value>,
    /// Number of the newest question.
    newest: u64,
    open: usize,
    most_open: usize,
    /// The highest offset asked with.
    offset: i64,
}

impl Bot {
    /// Whatever is below an offset that was asked with is gone, seen or not.
    fn forget_confirmed(&mut self) {
        let offset = self.offset;
        self.waiting.retain(|update| update["update_id"].as_i64() >= Some(offset));
    }
}

impl Front {
    /// Starts a front of an emulator.
    pub async fn start(emulator: u16) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (changes, _) = watch::channel(0);
        let state = Arc::new(State { emulator, inner: Mutex::default(), changes });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let state = Arc::clone(&shared);
                    // A daemon that goes away in the middle is what is tested.
                    tokio::spawn(async move { serve(&state, stream).await.ok() });
                }
            }
        });
        Self { port, state, task }
    }

    /// Returns the address for `channels.telegram.apiRoot`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Plans a fault for the next request of a method; several are taken in
    /// order.
    pub fn plan(&self, method: &str, fault: Fault) {
        self.state.lock().faults.entry(method.to_owned()).or_default().push_back(fault);
    }

    /// Lets a function of the method and a running number decide about faults.
    pub fn chaos(&self, chaos: Option<fn(&str, u64) -> Option<Fault>>) {
        self.state.lock().chaos = chaos;
    }

    /// Puts a file where `getFile` finds it.
    pub fn put_file(&self, id: &str, bytes: &[u8]) {
        self.state.lock().files.insert(id.to_owned(), bytes.to_owned());
    }

    /// Returns every request so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state.lock().calls.clone()
    }

    /// Returns every request of a method so far.
    #[must_use]
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.method == method).collect()
    }

    /// Returns what the bots show, edits applied.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.state.lock().messages.clone()
    }

    /// Changes whenever there is a new request or message.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.changes.subscribe()
    }

    /// Waits until a fact about the requests and messages holds.
    pub async fn until(&self, fact: impl Fn(&Self) -> bool) {
        let mut changes = self.changes();
        let waiting = async {
            while !fact(self) {
                changes.changed().await.expect("the front runs");
            }
        };
        tokio::time::timeout(crate::PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("it did not come to that; calls: {:#?}", self.calls()));
    }

    /// Returns how many questions of a bot were ever open at once.
    #[must_use]
    pub fn most_polls(&self, token: &str) -> usize {
        self.state.lock().bots.get(token).map_or(0, |bot| bot.most_open)
    }

    /// Returns the highest offset that a bot asked with: every update below it
    /// is gone.
    #[must_use]
    pub fn offset(&self, token: &str) -> i64 {
        self.state.lock().bots.get(token).map_or(0, |bot| bot.offset)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn record(&self, token: &str, method: &str, params: &Value) -> Option<Fault> {
        let mut inner = self.lock();
        inner.count += 1;
        let planned = inner.faults.get_mut(method).and_then(VecDeque::pop_front);
        let count = inner.count;
        let fault = planned.or_else(|| inner.chaos.and_then(|chaos| chaos(method, count)));
        inner.calls.push(Call {
            token: token.to_owned(),
            method: method.to_owned(),
            params: params.clone(),
            fault: fault.clone(),
        });
        drop(inner);
        self.changed();
        fault
    }
}

struct Request {
    path: String,
    params: Value,
}

async fn serve(state: &Arc<State>, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(Request { path, params }) = read(&mut stream).await? {
        if let Some(id) = path.strip_prefix("/file/").and_then(|path| path.rsplit('/').next()) {
            let bytes = state.lock().files.get(id).cloned();
            match bytes {
                Some(bytes) => respond(&mut stream, 200, "image/jpeg", &bytes).await?,
                None => respond(&mut stream, 404, "text/plain", b"no such file").await?,
            }
            continue;
        }
        let Some((token, method)) = path.strip_prefix("/bot").and_then(|rest| rest.split_once('/'))
        else {
            respond(&mut stream, 404, "application/json", b"{}").await?;
            continue;
        };
        let fault = state.record(token, method, &params);
        match &fault {
            Some(Fault::LoseRequest) => return Ok(()),
            Some(Fault::Delay(pause)) => tokio::time::sleep(*pause).await,
            Some(Fault::Refuse { code, description, retry_after }) => {
                let mut body =
                    json!({ "ok": false, "error_code": code, "description": description });
                if let Some(seconds) = retry_after {
                    body["parameters"] = json!({ "retry_after": seconds });
                }
                let body = body.to_string();
                respond(&mut stream, *code, "application/json", body.as_bytes()).await?;
                continue;
            }
            _ => {}
        }
        let Some((code, body)) = carry_out(state, &mut stream, token, method, &params).await else {
            return Ok(());
        };
        let body = match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::Malform) => "<html>{".to_owned(),
            _ => body.to_string(),
        };
        respond(&mut stream, code, "application/json", body.as_bytes()).await?;
    }
    Ok(())
}

/// Returns status and answer; `None` when the daemon went away meanwhile.
async fn carry_out(
    state: &Arc<State>,
    stream: &mut BufReader<TcpStream>,
    token: &str,
    method: &str,
    params: &Value,
) -> Option<(u16, Value)> {
    let done = |result: Value| Some((200, json!({ "ok": true, "result": result })));
    match method {
        "getUpdates" => poll(state, stream, token, params).await,
        "getMe" => {
            let answer = forward(state, token, method, params).await;
            let mut me = answer["result"].clone();
            me["is_bot"] = true.into();
            me["id"] = bot_id(token).into();
            done(me)
        }
        "sendChatAction" => done(true.into()),
        "getFile" => {
            let id = params["file_id"].as_str().unwrap_or_default();
            match state.lock().files.get(id) {
                Some(bytes) => done(json!({
                    "file_id": id, "file_unique_id": id,
                    "file_size": bytes.len(), "file_path": format!("photos/{id}"),
                })),
                None => refuse(400, "Bad Request: invalid file_id"),
            }
        }
        "editMessageText" => edit(state, token, params).await,
        "sendMessage" if params["text"].as_str().unwrap_or_default().is_empty() => {
            refuse(400, "Bad Request: message text is empty")
        }
        "sendMessage" | "sendPhoto" | "sendDocument" | "sendAnimation" | "sendVideo"
        | "sendAudio" | "sendVoice" => show(state, token, method, params).await,
        _ => refuse(404, "Not Found"),
    }
}

fn refuse(code: u16, description: &str) -> Option<(u16, Value)> {
    Some((code, json!({ "ok": false, "error_code": code, "description": description })))
}

/// Has the emulator keep the message and remembers what is shown.
async fn show(state: &State, token: &str, method: &str, params: &Value) -> Option<(u16, Value)> {
    let chat = number(&params["chat_id"]);
    let text = params.get("text").or(params.get("caption"));
    let text = text.and_then(Value::as_str).unwrap_or_default().to_owned();
    if text.encode_utf16().count() > 4096 {
        return refuse(400, "Bad Request: message is too long");
    }
    let mut kept = params.clone();
    kept["text"] = json!(text);
    let answer = forward(state, token, "sendMessage", &kept).await;
    let id = number(&answer["result"]["message_id"]);
    let (method, params) = (method.to_owned(), params.clone());
    let message = Message { id, chat, text: text.clone(), edits: 0, method, params };
    state.lock().messages.push(message);
    state.changed();
    Some((200, json!({ "ok": true, "result": sent(chat, id, &text) })))
}

async fn edit(state: &State, token: &str, params: &Value) -> Option<(u16, Value)> {
    let (chat, id) = (number(&params["chat_id"]), number(&params["message_id"]));
    let text = params["text"].as_str().unwrap_or_default().to_owned();
    {
        let mut inner = state.lock();
        let known =
            inner.messages.iter_mut().find(|message| message.chat == chat && message.id == id);
        let Some(message) = known else {
            return refuse(400, "Bad Request: message to edit not found");
        };
        if message.text == text {
            return refuse(400, "Bad Request: message is not modified");
        }
        message.text.clone_from(&text);
        message.edits += 1;
    }
    forward(state, token, "editMessageText", params).await;
    state.changed();
    Some((200, json!({ "ok": true, "result": sent(chat, id, &text) })))
}

fn sent(chat: i64, id: i64, text: &str) -> Value {
    json!({
        "message_id": id, "date": 1_700_000_000, "text": text,
        "chat": { "id": chat, "type": "private", "first_name": "x" },
    })
}

async fn poll(
    state: &Arc<State>,
    stream: &mut BufReader<TcpStream>,
    token: &str,
    params: &Value,
) -> Option<(u16, Value)> {
    let number = open_poll(state, token, params).await;
    let deadline = Instant::now() + Duration::from_secs(params["timeout"].as_u64().unwrap_or(0));
    let answer = tokio::select! {
        answer = news(state, token, number, deadline) => Some(answer),
        // Nothing more is sent before the answer, so this ends with the daemon.
        _ = stream.fill_buf() => None,
    };
    if let Some(bot) = state.lock().bots.get_mut(token) {
        bot.open -= 1;
    }
    answer
}

async fn open_poll(state: &State, token: &str, params: &Value) -> u64 {
    // A daemon that was killed closes its socket a moment before the next one
    // asks; only a question that stays open is a second one.
    for _ in 0..20 {
        if state.lock().bots.get(token).is_none_or(|bot| bot.open == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut inner = state.lock();
    let bot = inner.bots.entry(token.to_owned()).or_default();
    bot.newest += 1;
    bot.open += 1;
    bot.most_open = bot.most_open.max(bot.open);
    if let Some(offset) = params["offset"].as_i64() {
        bot.offset = bot.offset.max(offset);
        bot.forget_confirmed();
    }
    bot.newest
}

async fn news(state: &Arc<State>, token: &str, poll: u64, deadline: Instant) -> (u16, Value) {
    loop {
        // The emulator gives every update once, so that a question which ends in
        // between must not take it along.
        let (shared, owner) = (Arc::clone(state), token.to_owned());
        tokio::spawn(async move { fetch(&shared, &owner).await }).await.expect("it does not panic");
        {
            let mut inner = state.lock();
            let bot = inner.bots.entry(token.to_owned()).or_default();
            if bot.newest != poll {
                let text = "Conflict: terminated by other getUpdates request";
                return refuse(409, text).expect("it is always an answer");
            }
            bot.forget_confirmed();
            if !bot.waiting.is_empty() || Instant::now() >= deadline {
                let batch: Vec<_> = bot.waiting.iter().take(100).cloned().collect();
                return (200, json!({ "ok": true, "result": batch }));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn fetch(state: &State, token: &str) {
    let fresh = forward(state, token, "getUpdates", &json!({})).await;
    let mut fresh = fresh["result"].as_array().cloned().unwrap_or_default();
    // Every bot counts from a number of its own.
    for update in &mut fresh {
        update["update_id"] = (number(&update["update_id"]) + bot_id(token) * 1000).into();
    }
    state.lock().bots.entry(token.to_owned()).or_default().waiting.extend(fresh);
}

/// Returns the id of a bot, which its token begins with.
fn bot_id(token: &str) -> i64 {
    token.split(':').next().and_then(|id| id.parse().ok()).unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    let text = || value.as_str().and_then(|text| text.parse().ok());
    value.as_i64().or_else(text).unwrap_or_default()
}

async fn forward(state: &State, token: &str, method: &str, params: &Value) -> Value {
    let path = format!("/bot{token}/{method}");
    post(state.emulator, &path, params).await.expect("the emulator answers")
}

/// Sends JSON to a loopback port and reads the answer.
///
/// # Errors
///
/// When the connection breaks.
pub async fn post(port: u16, path: &str, body: &Value) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let json = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(json).unwrap_or_default())
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut kind) = (0, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "content-type" => kind = value.trim().to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let params = match kind.split_once("boundary=") {
        Some((_, boundary)) => form(&body, boundary),
        None => serde_json::from_slice(&body).unwrap_or_else(|_| json!({})),
    };
    Ok(Some(Request { path, params }))
}

/// Reads a multipart form; a file becomes its name and size.
fn form(body: &[u8], boundary: &str) -> Value {
    let text = String::from_utf8_lossy(body);
    let mut fields = Map::new();
    for part in text.split(&format!("--{boundary}")) {
        let Some((head, value)) = part.split_once("\r\n\r\n") else { continue };
        let quoted = |key: &str| {
            let start = head.find(&format!("{key}=\""))? + key.len() + 2;
            Some(head[start..].split('"').next().unwrap_or_default().to_owned())
        };
        let Some(name) = quoted("; name") else { continue };
        let value = value.strip_suffix("\r\n").unwrap_or(value);
        let value = match quoted("filename") {
            Some(file) => json!({ "name": file, "size": value.len() }),
            None => json!(value),
        };
        fields.insert(name, value);
    }
    Value::Object(fields)
}

async fn respond(
    stream: &mut BufReader<TcpStream>,
    code: u16,
    kind: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} Status\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await
}
