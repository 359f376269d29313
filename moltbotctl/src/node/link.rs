//! The way back to the gateway for commands that outlive a connection.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{client::Client, error::Error};

/// How long a result waits for the next connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// The current connection, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Link(watch::Sender<Option<Client>>);

impl Link {
    pub(super) fn new() -> Self {
        Self(watch::channel(None).0)
    }

    pub(super) fn set(&self, client: Option<Client>) {
        self.0.send_replace(client);
    }

    pub(super) fn current(&self) -> Option<Client> {
        self.0.borrow().clone()
    }

    /// Reports what happened and then the result. Both are queued in this order;
    /// a connection that ends meanwhile is replaced by the next one.
    pub(super) async fn report(&self, event: Option<(&str, Value)>, result: Value) {
        let sending = async {
            loop {
                let mut link = self.0.subscribe();
                let Ok(client) = link.wait_for(Option::is_some).await.map(|it| it.clone()) else {
                    return;
                };
                let Some(client) = client else { continue };
                let event = event.as_ref().map(
                    |(name, payload)| json!({ "event": name, "payloadJSON": payload.to_string() }),
                );
                match send(&client, event, &result).await {
                    Err(Error::Closed(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                    // The gateway may have stopped waiting; there is nobody else to tell.
                    _ => return,
                }
            }
        };
        // Results that nobody can take any more are dropped.
        let _ = tokio::time::timeout(PATIENCE, sending).await;
    }
}

async fn send(client: &Client, event: Option<Value>, result: &Value) -> Result<(), Error> {
    let event = async {
        match event {
            Some(event) => client.call_raw("node.event", event).await.map(drop),
            None => Ok(()),
        }
    };
    let (_, result) =
        tokio::join!(biased; event, client.call_raw("node.invoke.result", result.clone()));
    result.map(drop)
}
