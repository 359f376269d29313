//! The task that owns a socket: sends calls, hands out answers and events.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::Instant,
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    client::Pushed,
    error::{Closed, Error, Refusal},
    frames::{self, Frame},
    transport::Socket,
};

/// What the task is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    Call { method: String, params: Value, expect_final: bool, answer: Answer },
    Close { code: u16, reason: &'static str },
}

pub(crate) type Answer = oneshot::Sender<Result<Value, Error>>;

/// The socket and who waits for an answer on it.
pub(crate) struct Connection {
    socket: Socket,
    waiting: BTreeMap<u64, (bool, Answer)>,
    next_id: u64,
    events: broadcast::Sender<Pushed>,
    /// The gateway ticks; this long without any frame it is gone.
    silence: Duration,
}

impl Connection {
    pub(crate) fn new(
        socket: Socket,
        events: broadcast::Sender<Pushed>,
        silence: Duration,
    ) -> Self {
        Self { socket, waiting: BTreeMap::new(), next_id: 0, events, silence }
    }

    /// Serves orders and frames until either end closes.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Closed {
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Call { method, params, expect_final, answer }) => {
                        if let Err(error) = self.call(&method, params, expect_final, answer).await {
                            return frames::how_it_ended(&error);
                        }
                    }
                    Some(Order::Close { code, reason }) => return self.close(code, reason).await,
                    None => return self.close(1000, "").await,
                },
                message = self.socket.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            if let Some(how) = self.take(message) {
                                // Answers the close frame; the other side may be gone already.
                                let _ = self.socket.flush().await;
                                return how;
                            }
                        }
                        Some(Err(error)) => return frames::how_it_ended(&error),
                        None => return Closed::abnormal(""),
                    }
                },
                () = tokio::time::sleep_until(heard + self.silence) => {
                    return self.close(4000, "tick timeout").await;
                }
            }
        }
    }

    async fn call(
        &mut self,
        method: &str,
        params: Value,
        expect_final: bool,
        answer: Answer,
    ) -> Result<(), tungstenite::Error> {
        // Callers that gave up leave their entry behind.
        self.waiting.retain(|_, (_, answer)| !answer.is_closed());
        self.next_id += 1;
        self.waiting.insert(self.next_id, (expect_final, answer));
        frames::send(&mut self.socket, &self.next_id.to_string(), method, &params).await
    }

    async fn close(mut self, code: u16, reason: &'static str) -> Closed {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let goodbye = async {
            self.socket.close(Some(frame)).await?;
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<(), tungstenite::Error>(())
        };
        // The socket is dropped either way.
        let _ = tokio::time::timeout(Duration::from_millis(300), goodbye).await;
        Closed::with(code, reason)
    }

    /// Handles one message; what is not a frame of the protocol is skipped.
    fn take(&mut self, message: Message) -> Option<Closed> {
        if let Message::Close(frame) = message {
            return Some(frames::closed(frame));
        }
        match frames::parse(message)? {
            Frame::Answer { id, result } => self.answer(&id, result),
            // Nobody may listen.
            Frame::Event(pushed) => drop(self.events.send(pushed)),
        }
        None
    }

    fn answer(&mut self, id: &str, result: Result<Value, Refusal>) {
        let Ok(id) = id.parse() else { return };
        let Some((expect_final, answer)) = self.waiting.remove(&id) else { return };
        let accepted = |value: &Value| value.get("status") == Some(&json!("accepted"));
        if expect_final && result.as_ref().is_ok_and(accepted) {
            self.waiting.insert(id, (expect_final, answer));
            return;
        }
        // The caller may have given up.
        let _ = answer.send(result.map_err(|refusal| Error::Refused(Box::new(refusal))));
    }
}
