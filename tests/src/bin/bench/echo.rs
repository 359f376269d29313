//! What the same sockets cost without a gateway: echoes a text, or sends it to
//! everybody when it says so.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Message, Utf8Bytes},
};

use crate::clients::socket_config;

/// Texts that begin so go to everybody.
pub(crate) const TO_ALL: &str = "{\"all\":";

/// Frames waiting for one client; a full queue skips it.
const QUEUE: usize = 1024;

type Everybody = Arc<Mutex<Vec<mpsc::Sender<Utf8Bytes>>>>;

/// Serves for ever.
pub(crate) async fn serve(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let everybody = Everybody::default();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&everybody)));
        }
    }
}

async fn connection(stream: TcpStream, everybody: Everybody) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = accept_async_with_config(stream, Some(socket_config())).await else { return };
    let (mut sink, mut source) = socket.split();
    let (sender, mut queue) = mpsc::channel(QUEUE);
    everybody.lock().unwrap().push(sender);
    loop {
        tokio::select! {
            Some(text) = queue.recv() => {
                let _ = sink.feed(Message::Text(text)).await;
                while let Ok(text) = queue.try_recv() {
                    let _ = sink.feed(Message::Text(text)).await;
                }
                if sink.flush().await.is_err() {
                    return;
                }
            }
            message = source.next() => match message {
                Some(Ok(Message::Text(text))) if text.starts_with(TO_ALL) => {
                    let mut everybody = everybody.lock().unwrap();
                    everybody.retain(|client| !client.is_closed());
                    for client in everybody.iter() {
                        let _ = client.try_send(text.clone());
                    }
                }
                Some(Ok(Message::Text(text))) => {
                    if sink.send(Message::Text(text)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}
