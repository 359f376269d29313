//! Recorded frames, changed at random: what is nearly right reaches further than what is
//! wrong altogether.
//!
//! The seed is fixed, so that a failure repeats itself; the frames are those that clients of
//! OpenClaw sent when the transcripts were recorded.

use moltbot_tests::{Connect, Daemon, Device, programs::source_root};
use serde_json::{Value, json};

const FRAMES: usize = 3_000;
/// Frames between two proofs that the gateway still answers.
const BATCH: usize = 50;

#[tokio::test]
async fn changed_frames_of_real_clients_crash_nothing() {
    let mut daemon = Daemon::start().await;
    let seeds = recorded_frames();
    assert!(seeds.len() > 50, "{} seeds", seeds.len());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let device = Device::from_seed([5; 32]);
    for batch in 0..FRAMES / BATCH {
        // Both roles, on a connection of its own: a frame may have ended the last one.
        let connect = if batch % 3 == 0 {
            Connect::node(&device, &["system.run"])
        } else {
            Connect::operator()
        };
        let mut client = daemon.connect(connect).await;
        for _ in 0..BATCH {
            let frame = mutate(&seeds, &mut random);
            client.send_text(&frame).await;
        }
        // Every frame before it has been dealt with once this one is answered, or the
        // connection has been closed because of one of them.
        let _ = client.call("health", json!({})).await;
    }
    daemon.operator().await.call("health", json!({})).await.unwrap();
    assert!(daemon.death().is_none() && !daemon.log().contains("panicked"), "{}", daemon.log());
}

/// Returns the requests of clients, except those that change the configuration: a change that
/// happens to be right could take the test's own access away.
fn recorded_frames() -> Vec<String> {
    let folder = source_root().join("tests/fixtures/transcripts");
    let mut frames = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let method = line["frame"]["method"].as_str().unwrap_or_default();
            if line["dir"] == "out" && !method.is_empty() && !method.starts_with("config.") {
                frames.push(line["frame"].to_string());
            }
        }
    }
    frames.sort();
    frames.dedup();
    frames
}

fn mutate(seeds: &[String], random: &mut Random) -> String {
    let mut text: Vec<char> = seeds[random.below(seeds.len())].chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(text.len().max(1)).min(text.len());
        let end = (at + 1 + random.below(24)).min(text.len());
        match random.below(8) {
            0 => drop(text.drain(at..end)),
            1 => text.splice(at..at, PIECES[random.below(PIECES.len())].chars()).for_each(drop),
            2 => text.splice(at..end, PIECES[random.below(PIECES.len())].chars()).for_each(drop),
            3 => {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy).for_each(drop);
            }
            4 => {
                let other: Vec<char> = seeds[random.below(seeds.len())].chars().collect();
                let from = random.below(other.len());
                text.splice(at..end, other[from..].iter().take(60).copied()).for_each(drop);
            }
            5 => text[at..end].reverse(),
            6 => text.truncate(at.max(1)),
            _ => {
                let digit = text.iter().skip(at).position(char::is_ascii_digit);
                if let Some(found) = digit {
                    let number = NUMBERS[random.below(NUMBERS.len())].chars();
                    text.splice(at + found..=at + found, number).for_each(drop);
                }
            }
        }
    }
    text.into_iter().collect()
}

const PIECES: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "\\",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{202e}",
    "\u{1f980}",
    "../",
    "{\"\":",
    "[[[[",
    "\"id\":",
    "\"method\":",
    "main",
    "agent:",
];

const NUMBERS: &[&str] =
    &["-1", "0", "1e309", "1e-400", "9223372036854775808", "18446744073709551616", "0.1", "-0"];

/// Marsaglia's xorshift: a test needs no better randomness, and no crate.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}
