//! Stands before every output: folds lines that keep coming, and replaces
//! those that hold a secret.

use std::{
    ptr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::{
    Fields,
    fold::{Folder, Summary},
    redact::Redactions,
};
use crate::metrics::Count;

/// Lines that the gate says itself; it lets them through.
pub(super) const TARGET: &str = "moltbotd::logging::gate";

#[derive(Debug, Default)]
pub(super) struct Gate {
    folder: Mutex<Folder>,
    pub(super) redactions: ArcSwap<Redactions>,
    /// Lines that were left out.
    pub(super) folded: Count,
}

impl Gate {
    /// Says what was left out in windows that ended.
    pub(super) fn sweep(&self) {
        let summaries = self.folder().sweep(Instant::now());
        summaries.iter().for_each(say_summary);
    }

    /// Says all that was left out.
    pub(super) fn finish(&self) {
        let summaries = self.folder().finish(Instant::now());
        summaries.iter().for_each(say_summary);
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == TARGET {
            return true;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let text = fields.message + &fields.rest;
        let clean = self.redactions.load().clean(&text);
        // Whoever asks for more detail wants all of it.
        if *metadata.level() <= Level::INFO {
            let shown = clean.as_deref().unwrap_or(&text);
            let what = (*metadata.level(), metadata.target());
            let place = ptr::from_ref(metadata).addr();
            let verdict = self.folder().judge(what, place, shown, Instant::now());
            verdict.before.iter().for_each(say_summary);
            if !verdict.pass {
                self.folded.one();
                return false;
            }
        }
        let Some(clean) = clean else { return true };
        say(*metadata.level(), metadata.target(), &clean);
        false
    }

    fn folder(&self) -> std::sync::MutexGuard<'_, Folder> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part that stands in the way of events; it shares the gate with the
/// handle that the daemon holds.
pub(super) struct Guard(pub(super) std::sync::Arc<Gate>);

impl<S: Subscriber> Layer<S> for Guard {
    fn event_enabled(&self, event: &Event<'_>, _cx: Context<'_, S>) -> bool {
        self.0.admits(event)
    }
}

fn say_summary(summary: &Summary) {
    say(summary.level, summary.target, &summary.text);
}

fn say(level: Level, from: &str, text: &str) {
    match level {
        Level::ERROR => tracing::error!(target: TARGET, from, "{text}"),
        Level::WARN => tracing::warn!(target: TARGET, from, "{text}"),
        Level::INFO => tracing::info!(target: TARGET, from, "{text}"),
        Level::DEBUG => tracing::debug!(target: TARGET, from, "{text}"),
        Level::TRACE => tracing::trace!(target: TARGET, from, "{text}"),
    }
}
