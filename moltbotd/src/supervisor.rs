//! What the service manager is told. The only file that knows systemd; without
//! a manager that listens (`NOTIFY_SOCKET`) nothing happens.

use std::{future::Future, time::Duration};

use sd_notify::NotifyState;
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

/// Says that clients are served.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says in one line how things are.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Says that the configuration is being read anew; [`ready`] ends that.
pub fn reloading() {
    // The manager wants the time in the same message.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// Says that the process is about to end.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Asks for more time to start or stop.
pub fn extend_timeout(more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(more)]);
}

/// Reports life for as long as `probe` says so, where the manager wants that.
/// It wants a sign within an interval and gets two; a probe that takes longer
/// than half of one counts as failed.
pub fn watchdog<F, Fut>(mut probe: F, stop: CancellationToken) -> Option<JoinHandle<()>>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), String>> + Send,
{
    let half = sd_notify::watchdog_enabled()? / 2;
    Some(tokio::spawn(async move {
        let mut tick = time::interval(half);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match time::timeout(half, probe()).await {
                Ok(Ok(())) => notify(&[NotifyState::Watchdog]),
                Ok(Err(part)) => error!(part, "probe failed, watchdog gets no sign"),
                Err(_) => error!("probe takes too long, watchdog gets no sign"),
            }
        }
    }))
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "service manager does not listen");
    }
}
