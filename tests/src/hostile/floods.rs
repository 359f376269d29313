//! Attacks by amount: many sockets, many bytes, much work for few bytes.

use std::io;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Attacker,
    clean::CleanClients,
    wire::{RawSocket, Reaction, bits, frame, frame_head, text_frame},
};
use crate::{Connect, Device, daemon::TOKEN};

/// A session whose history is long.
const LONG_SESSION: &str = "agent:main:long";

/// Sockets that say nothing, or begin to say something and never end it.
pub(super) async fn silent_sockets(
    to: Attacker,
    clean: &CleanClients,
    beginning: &[u8],
    number: usize,
) {
    let mut sockets = Vec::new();
    for _ in 0..number {
        if let Ok(mut socket) = RawSocket::open(to.port).await {
            let _ = socket.write(beginning).await;
            sockets.push(socket);
        }
    }
    clean.each_has_called(3).await;
}

/// WebSockets that never log in.
pub(super) async fn silent_upgrades(to: Attacker, clean: &CleanClients, number: usize) {
    let mut sockets = Vec::new();
    for _ in 0..number {
        if let Ok(mut socket) = RawSocket::open(to.port).await
            && socket.upgrade().await.is_ok()
        {
            sockets.push(socket);
        }
    }
    clean.each_has_called(3).await;
}

/// Connections that come and go as fast as they can.
pub(super) async fn connects(to: Attacker, number: usize) {
    for _ in 0..number {
        drop(RawSocket::open(to.port).await);
    }
}

/// Pings without end, of which some clients never read the answers.
pub(super) async fn pings(to: Attacker, sockets: usize, pings: usize) {
    let burst = frame(bits::FIN | bits::PING, &[b'p'; 125]).repeat(100);
    let floods = (0..sockets).map(|number| {
        let burst = &burst;
        async move {
            let Ok(mut socket) = to.operator(&["operator.read"]).await else { return };
            for _ in 0..pings / 100 {
                // Without a reader the answers fill the sockets; then writing is over, too.
                let writing = tokio::time::timeout(super::STALL, socket.write(burst));
                if !matches!(writing.await, Ok(Ok(()))) {
                    break;
                }
                if number % 2 == 0 && socket.discard(100 * 127).await.is_err() {
                    break;
                }
            }
        }
    });
    join_all(floods).await;
}

/// Clients with the least scope that ask for much and read none of it.
pub(super) async fn unread_answers(
    to: Attacker,
    clean: &CleanClients,
    clients: usize,
    calls: usize,
) -> io::Result<()> {
    let mut admin = to.operator(&["operator.admin"]).await?;
    let hello = json!({ "sessionKey": LONG_SESSION, "message": "hello", "idempotencyKey": "long" });
    admin.call("chat.send", &hello).await?;
    for number in 0..40 {
        let text = format!("{number} {}", "long ".repeat(20_000));
        let inject = json!({ "sessionKey": LONG_SESSION, "message": text });
        let answer = admin.call("chat.inject", &inject).await?;
        if answer["ok"] != true {
            return Err(io::Error::other(answer.to_string()));
        }
    }
    let mut sockets = Vec::new();
    for _ in 0..clients {
        let mut socket = to.operator(&["operator.read"]).await?;
        let request = json!({ "sessionKey": LONG_SESSION, "limit": 1000 });
        for _ in 0..calls {
            if socket.send_call("chat.history", &request).await.is_err() {
                break;
            }
        }
        sockets.push(socket);
    }
    clean.each_has_called(5).await;
    Ok(())
}

/// Frames of which nearly everything comes, but never the end.
pub(super) async fn unfinished_frames(
    to: Attacker,
    clean: &CleanClients,
    clients: usize,
    bytes: usize,
) {
    let mut beginning = frame_head(bits::FIN | bits::TEXT, bytes as u64 + 1);
    beginning.extend([0; 4]);
    let chunk = vec![b' '; 64 * 1024];
    let mut sockets = Vec::new();
    for number in 0..clients {
        // Who may write may send large frames; readers get no further than the header.
        let scopes = ["operator.read", "operator.write"];
        let scopes = if number % 4 == 0 { &scopes[..1] } else { &scopes };
        let Ok(mut socket) = to.operator(scopes).await else { continue };
        let _ = socket.write(&beginning).await;
        let mut left = bytes;
        while left > 0 {
            let part = left.min(chunk.len());
            // A gateway that takes no more of it stops reading or hangs up.
            let writing = tokio::time::timeout(super::STALL, socket.write(&chunk[..part]));
            if !matches!(writing.await, Ok(Ok(()))) {
                break;
            }
            left -= part;
        }
        sockets.push(socket);
    }
    clean.each_has_called(5).await;
}

/// Names as long as a frame allows, which everybody is shown in the presence list.
pub(super) async fn long_names(to: Attacker, clean: &CleanClients, visitors: usize) {
    let mut sockets = Vec::new();
    for number in 0..visitors {
        let name = format!("{number} {}", "n".repeat(58_000));
        let mut connect = Connect::operator().scopes(&["operator.read"]);
        for field in ["/client/displayName", "/client/version", "/client/instanceId"] {
            // One of them is enough to fill the frame.
            let value = if field.ends_with("displayName") { &name } else { &name[..20] };
            connect = connect.set(field, value);
        }
        if let Ok(mut socket) = RawSocket::open(to.port).await
            && socket.upgrade().await.is_ok()
        {
            let _ = socket.log_in(&connect).await;
            sockets.push(socket);
        }
    }
    clean.each_has_called(3).await;
}

/// Frames that cost a stranger nothing and the gateway a check of each item. Returns how
/// many were neither answered nor closed.
pub(super) async fn costly_before_login(to: Attacker, copies: usize) -> usize {
    let wide = |items: &str| {
        let mut params = Connect::operator().params;
        params["scopes"] = json!("@");
        let params = params.to_string().replace("\"@\"", items);
        format!(r#"{{"type":"req","id":"1","method":"connect","params":{params}}}"#)
    };
    let numbers = format!("[{}1]", "1,".repeat(31_000));
    let lists = format!("[{}[]]", "[],".repeat(20_000));
    let keys: Vec<String> = (0..6_000).map(|key| format!("\"k{key}\":1")).collect();
    let keys = format!("{{{}}}", keys.join(","));
    let texts = [
        wide(&numbers),
        wide(&lists),
        wide(&keys),
        wide(&"[".repeat(30_000)),
        wide(&format!("\"{}\"", "\\u0000".repeat(10_000))),
        format!(r#"{{"type":"req","id":"1","method":"connect","params":{keys}}}"#),
    ];
    let attempts =
        texts.iter().flat_map(|text| std::iter::repeat_n(text, copies)).map(|text| async {
            let mut socket = RawSocket::open(to.port).await.ok()?;
            socket.upgrade().await.ok()?;
            socket.write(&text_frame(text)).await.ok()?;
            Some(socket.finish().await)
        });
    count_silence(join_all(attempts).await)
}

/// The same after login, where frames are larger. Returns how many were neither answered nor
/// closed.
pub(super) async fn costly_after_login(to: Attacker, scale: usize) -> usize {
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|key| format!("\"k{key}\":1")).collect();
        format!("{{{}}}", keys.join(","))
    };
    let list = |item: &str, count: usize| format!("[{}{item}]", format!("{item},").repeat(count));
    let reads = [
        ("sessions.preview", keys(60_000)),
        ("sessions.preview", format!("{{\"keys\":{}}}", list("1", 60_000))),
        ("sessions.preview", format!("{{\"keys\":{}}}", list("\"k\"", 60_000))),
        ("health", keys(60_000)),
        ("health", list("[]", 250_000 * scale)),
        ("health", "[".repeat(500_000 * scale)),
        ("chat.history", format!("{{\"sessionKey\":\"{}\"}}", "s".repeat(1_000_000))),
        ("sessions.list", format!("{{\"search\":\"{}\"}}", "s".repeat(1_000_000))),
    ];
    let admin = [
        ("config.set", keys(60_000 * scale)),
        ("config.set", format!("{{\"raw\":{}}}", Value::from(keys(20_000 * scale)))),
        ("voicewake.set", format!("{{\"triggers\":{}}}", list("\"w\"", 60_000))),
        ("sessions.patch", format!("{{\"key\":\"x\",\"label\":\"{}\"}}", "l".repeat(500_000))),
        ("chat.send", format!("{{\"attachments\":{}}}", list("{}", 60_000))),
        ("agent", keys(60_000)),
    ];
    let calls = reads
        .map(|call| (&["operator.read"][..], call))
        .into_iter()
        .chain(admin.map(|call| (&["operator.admin"][..], call)));
    let attempts = calls.map(|(scopes, (method, params))| async move {
        let mut socket = to.operator(scopes).await.ok()?;
        socket.write(&request(method, &params)).await.ok()?;
        Some(socket.wait_for_reaction().await)
    });
    let nodes = [
        ("node.event", format!("{{\"event\":{}}}", list("1", 1_000_000))),
        ("node.event", keys(150_000)),
        ("node.invoke.result", format!("{{\"id\":{}}}", list("[]", 700_000))),
        (
            "node.event",
            format!("{{\"event\":\"x\",\"payloadJSON\":\"{}\"}}", "[".repeat(2_100_000)),
        ),
    ];
    let nodes = nodes.into_iter().enumerate().map(|(number, (method, params))| async move {
        let mut socket = to.node(number).await.ok()?;
        socket.write(&request(method, &params)).await.ok()?;
        Some(socket.wait_for_reaction().await)
    });
    let (operators, nodes) = tokio::join!(join_all(attempts), join_all(nodes));
    count_silence(operators) + count_silence(nodes)
}

/// Writes frames that are costly to check and leaves before any answer.
pub(super) async fn leave_work_behind(to: Attacker) {
    for number in 0..4 {
        if let Ok(mut socket) = to.node(number).await {
            let params = format!("{{\"event\":[{}1]}}", "1,".repeat(1_000_000));
            let _ = socket.write(&request("node.event", &params)).await;
        }
    }
}

fn request(method: &str, params: &str) -> Vec<u8> {
    text_frame(&format!(r#"{{"type":"req","id":"c","method":"{method}","params":{params}}}"#))
}

fn count_silence(reactions: Vec<Option<Reaction>>) -> usize {
    reactions.into_iter().filter(|reaction| *reaction == Some(Reaction::Silence)).count()
}

impl Attacker {
    /// Logs in with the shared secret and some scopes.
    pub(super) async fn operator(self, scopes: &[&str]) -> io::Result<RawSocket> {
        let device = Device::from_seed([7; 32]);
        let connect =
            Connect::operator().scopes(scopes).token(TOKEN).device(&device, crate::Version::V2);
        self.log_in(&connect).await
    }

    /// Logs in as a node that offers a camera.
    pub(super) async fn node(self, number: usize) -> io::Result<RawSocket> {
        let device = Device::from_seed([100 + u8::try_from(number).unwrap_or_default(); 32]);
        self.log_in(&Connect::node(&device, &["camera.snap"])).await
    }

    async fn log_in(self, connect: &Connect) -> io::Result<RawSocket> {
        let mut socket = RawSocket::open(self.port).await?;
        socket.upgrade().await?;
        socket.log_in(connect).await?;
        Ok(socket)
    }
}
