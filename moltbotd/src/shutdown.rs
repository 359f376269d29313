//! Signals, turned into values that are passed on.

use std::{io, process};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What signals ask for.
#[derive(Debug)]
pub struct Signals {
    /// Cancelled by the first SIGTERM or SIGINT. The second one ends the
    /// process at once.
    pub stop: CancellationToken,
    /// One item for each SIGHUP.
    pub reload: mpsc::Receiver<()>,
}

/// Starts to listen for signals.
pub fn signals() -> io::Result<Signals> {
    let stop = CancellationToken::new();
    // A request to reload that waits already covers further ones.
    let (reload_tx, reload) = mpsc::channel(1);
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    // A limit on the size of files is then an error of the write, as a full
    // disk is, and not the end of the process.
    drop(signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?);
    tokio::spawn(listen(terminate, interrupt, hangup, stop.clone(), reload_tx));
    Ok(Signals { stop, reload })
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    mut hangup: Signal,
    stop: CancellationToken,
    reload: mpsc::Sender<()>,
) {
    // A restart stops the daemon too; the first signal after that is a first one.
    let mut told = false;
    loop {
        let signal = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            Some(()) = hangup.recv() => {
                // Full: a reload is about to happen anyway.
                let _ = reload.try_send(());
                continue;
            }
            else => return,
        };
        if told {
            warn!(signal, "told twice to stop, not waiting any longer");
            process::exit(1);
        }
        info!(signal, "told to stop");
        told = true;
        stop.cancel();
    }
}
