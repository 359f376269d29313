//! Keeps the same line from being written over and over.
//!
//! Lines are of one kind when they come from one place in the source and
//! differ in numbers only. The first line of a kind is written, as are a few
//! that differ; further ones are counted, and the count is written when the
//! window ends. A kind that keeps coming gets a window twice as long each
//! time, up to an hour.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use tracing::Level;

const FIRST_WINDOW: Duration = Duration::from_secs(60);
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// Lines of a kind that differ in numbers, written in each window.
const DIFFERENT: u32 = 5;
/// Kinds that are remembered; the oldest makes room.
const KINDS: usize = 128;
/// Most of a line that is kept to be shown with the count.
const LONGEST_SAMPLE: usize = 512;

/// The kinds of lines that were written lately.
#[derive(Debug, Default)]
pub(super) struct Folder {
    kinds: HashMap<u64, Kind>,
}

#[derive(Debug)]
struct Kind {
    level: Level,
    target: &'static str,
    /// The last line that was written.
    written: u64,
    passed: u32,
    held: u64,
    sample: String,
    since: Instant,
    window: Duration,
}

/// How often a kind of line was left out.
#[derive(Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) text: String,
}

/// What happens to a line.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Whether it is written.
    pub(super) pass: bool,
    /// To be written before it.
    pub(super) before: Option<Summary>,
}

impl Folder {
    /// Decides about a line.
    pub(super) fn judge(
        &mut self,
        (level, target): (Level, &'static str),
        place: usize,
        text: &str,
        now: Instant,
    ) -> Verdict {
        let line = hash(text);
        let id = kind_of(place, text);
        let Some(kind) = self.kinds.get_mut(&id) else {
            let before = self.make_room();
            let kind = Kind {
                level,
                target,
                written: line,
                passed: 1,
                held: 0,
                sample: String::new(),
                since: now,
                window: FIRST_WINDOW,
            };
            self.kinds.insert(id, kind);
            return Verdict { pass: true, before };
        };
        let before = kind.end_window(now);
        if before.is_none() && now.duration_since(kind.since) >= kind.window {
            // Nothing was left out: it comes seldom enough to be written.
            *kind = Kind { since: now, passed: 0, window: FIRST_WINDOW, ..kind.taken() };
        }
        let pass = kind.passed == 0 || (line != kind.written && kind.passed < DIFFERENT);
        if pass {
            kind.passed += 1;
            kind.written = line;
        } else {
            kind.hold(text);
        }
        Verdict { pass, before }
    }

    /// Returns the counts of windows that ended, and forgets kinds that do not
    /// come any more.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Summary> {
        let mut summaries = Vec::new();
        self.kinds.retain(|_, kind| {
            if now.duration_since(kind.since) < kind.window {
                return true;
            }
            let summary = kind.end_window(now);
            let comes = summary.is_some();
            summaries.extend(summary);
            comes
        });
        summaries
    }

    /// Returns every count, at the end.
    pub(super) fn finish(&mut self, now: Instant) -> Vec<Summary> {
        self.kinds.drain().filter_map(|(_, mut kind)| kind.summary(now)).collect()
    }

    fn make_room(&mut self) -> Option<Summary> {
        if self.kinds.len() < KINDS {
            return None;
        }
        let oldest = *self.kinds.iter().min_by_key(|(_, kind)| (kind.held > 0, kind.since))?.0;
        let mut kind = self.kinds.remove(&oldest)?;
        let now = kind.since + kind.window;
        kind.summary(now)
    }
}

impl Kind {
    /// Ends a window in which lines were left out.
    fn end_window(&mut self, now: Instant) -> Option<Summary> {
        if now.duration_since(self.since) < self.window {
            return None;
        }
        let summary = self.summary(now)?;
        self.since = now;
        self.window = (self.window * 2).min(LONGEST_WINDOW);
        Some(summary)
    }

    fn summary(&mut self, now: Instant) -> Option<Summary> {
        let held = std::mem::take(&mut self.held);
        if held == 0 {
            return None;
        }
        let seconds = now.duration_since(self.since).as_secs();
        let text = format!("last line repeated {held} times in {seconds} s: {}", self.sample);
        Some(Summary { level: self.level, target: self.target, text })
    }

    fn hold(&mut self, text: &str) {
        self.held += 1;
        self.sample.clear();
        self.sample.extend(text.chars().take(LONGEST_SAMPLE));
    }

    fn taken(&mut self) -> Self {
        Self { sample: std::mem::take(&mut self.sample), ..*self }
    }
}

/// Numbers, and what is written like an id, count as the same.
fn kind_of(place: usize, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    for word in text.split(|character: char| !character.is_ascii_alphanumeric()) {
        if word.bytes().any(|byte| byte.is_ascii_digit()) {
            "#".hash(&mut hasher);
        } else {
            word.hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (Level, &str) = (Level::WARN, "here");

    struct Log {
        folder: Folder,
        start: Instant,
        lines: Vec<String>,
    }

    impl Log {
        fn new() -> Self {
            Self { folder: Folder::default(), start: Instant::now(), lines: Vec::new() }
        }

        fn say(&mut self, at_s: u64, text: &str) {
            let now = self.start + Duration::from_secs(at_s);
            let verdict = self.folder.judge(HERE, 1, text, now);
            self.lines.extend(verdict.before.map(|summary| summary.text));
            if verdict.pass {
                self.lines.push(text.to_owned());
            }
        }

        fn sweep(&mut self, at_s: u64) {
            let summaries = self.folder.sweep(self.start + Duration::from_secs(at_s));
            self.lines.extend(summaries.into_iter().map(|summary| summary.text));
        }
    }

    #[test]
    fn a_line_that_keeps_coming_is_written_once_and_counted() {
        let mut log = Log::new();
        for second in 0..60 {
            log.say(second, "poll failed: no route");
        }
        assert_eq!(log.lines, ["poll failed: no route"]);
        log.sweep(60);
        assert_eq!(log.lines[1], "last line repeated 59 times in 60 s: poll failed: no route");
        // A day of it, swept every ten seconds as the daemon does.
        for second in 61..86_400 {
            log.say(second, "poll failed: no route");
            if second % 10 == 0 {
                log.sweep(second);
            }
        }
        assert!(log.lines.len() < 40, "{}", log.lines.len());
    }

    #[test]
    fn lines_that_differ_in_numbers_are_folded_after_a_few() {
        let mut log = Log::new();
        for attempt in 0..100 {
            log.say(attempt / 2, &format!("asked again attempt={attempt} wait_ms={}", attempt * 7));
        }
        assert_eq!(log.lines.len(), 5);
        log.sweep(60);
        let last = "last line repeated 95 times in 60 s: asked again attempt=99 wait_ms=693";
        assert_eq!(log.lines[5], last);
    }

    #[test]
    fn two_kinds_in_turn_are_folded_too() {
        let mut log = Log::new();
        for second in 0..50 {
            log.say(second, "poll failed");
            log.say(second, "poll begins");
        }
        assert_eq!(log.lines, ["poll failed", "poll begins"]);
    }

    #[test]
    fn what_comes_seldom_is_always_written() {
        let mut log = Log::new();
        for hour in 0..5 {
            log.say(hour * 3600, "backup made");
            log.sweep(hour * 3600 + 100);
        }
        assert_eq!(log.lines.len(), 5);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_silently() {
        let mut log = Log::new();
        for index in 0..1000_u32 {
            let word: String =
                index.to_string().bytes().map(|byte| char::from(byte + b'a' - b'0')).collect();
            log.say(0, &format!("kind {word}"));
            log.say(0, &format!("kind {word}"));
        }
        assert_eq!(log.folder.kinds.len(), KINDS);
        let counted = log.lines.iter().filter(|line| line.starts_with("last line")).count();
        let rest = log.folder.finish(log.start).len();
        assert_eq!(counted + rest, 1000);
    }
}
