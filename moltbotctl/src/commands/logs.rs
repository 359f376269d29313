//! `moltbotctl logs`: the gateway's log, once or as it grows.

use std::time::Duration;

use clap::Args;
use nu_ansi_term::Color;
use serde_json::{Value, json};

use crate::{
    client::Client,
    context::Context,
    error::Error,
    output::{Output, clean},
};

const LARGEST_ANSWER_BYTES: u64 = 250_000;

/// Which part of the log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Keep showing what is added
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines to show
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub limit: u32,
    /// How often to look for more, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(100..))]
    pub interval: u64,
}

/// Prints the log.
///
/// # Errors
/// When the gateway does not answer.
pub async fn run(cx: &Context, args: LogsArgs) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let mut tail = Tail { out: cx.output, limit: args.limit, cursor: None, introduced: false };
    tail.step(&connected.client).await?;
    let mut client = connected.client;
    if !args.follow {
        client.close().await;
        return Ok(());
    }
    loop {
        tokio::time::sleep(Duration::from_millis(args.interval)).await;
        match tail.step(&client).await {
            // One that answers no more may be behind a tunnel that is gone.
            Err(error @ (Error::Closed(_) | Error::Timeout(_))) => {
                cx.output.remark(format!("{error}; waiting"));
                client = cx.connect_again(None).await?.client;
            }
            result => result?,
        }
    }
}

struct Tail {
    out: Output,
    limit: u32,
    cursor: Option<u64>,
    introduced: bool,
}

impl Tail {
    async fn step(&mut self, client: &Client) -> Result<(), Error> {
        let mut params = json!({ "limit": self.limit, "maxBytes": LARGEST_ANSWER_BYTES });
        if let Some(cursor) = self.cursor {
            params["cursor"] = cursor.into();
        }
        let answer = client.call_raw("logs.tail", params).await?;
        self.introduce(&answer);
        let skipped = self.cursor.is_some() && answer["truncated"] == true;
        if skipped {
            self.notice("lines were skipped: the log grows faster than it is read");
        } else if self.cursor.is_some() && answer["reset"] == true {
            self.notice("the log was started anew");
        }
        for line in answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.print(line);
        }
        self.cursor = answer["cursor"].as_u64().or(self.cursor);
        Ok(())
    }

    fn introduce(&mut self, answer: &Value) {
        if !self.introduced && self.out.json {
            self.out.value_line(&json!({ "type": "meta", "file": answer["file"],
                "cursor": answer["cursor"], "size": answer["size"] }));
        }
        self.introduced = true;
    }

    fn notice(&self, message: &str) {
        if self.out.json {
            self.out.value_line(&json!({ "type": "notice", "message": message }));
        } else {
            self.out.remark(message);
        }
    }

    fn print(&self, line: &str) {
        let entry = Entry::parse(line);
        if self.out.json {
            return self.out.value_line(&entry.map_or_else(
                || json!({ "type": "raw", "raw": line }),
                |entry| entry.report(line),
            ));
        }
        match entry {
            Some(entry) => self.out.line(entry.text(self.out)),
            None => self.out.line(clean(line)),
        }
    }
}

/// A line as the reference and our daemon write them.
#[derive(Debug, PartialEq)]
struct Entry {
    time: Option<String>,
    level: Option<String>,
    subsystem: Option<String>,
    message: String,
}

impl Entry {
    /// Numbered members hold the parts of the message; the first may name the
    /// subsystem as a JSON text.
    fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let meta = value.get("_meta")?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(ToOwned::to_owned);
        let mut parts: Vec<String> = Vec::new();
        let mut subsystem = subsystem(meta.get("name"));
        for at in 0.. {
            let Some(part) = value.get(at.to_string()) else { break };
            match self::subsystem(Some(part)) {
                Some(name) if at == 0 => subsystem = Some(name),
                _ => parts.push(part.as_str().map_or_else(|| part.to_string(), Into::into)),
            }
        }
        Some(Self {
            time: text(value.get("time")).or_else(|| text(meta.get("date"))),
            level: text(meta.get("logLevelName")).map(|level| level.to_lowercase()),
            subsystem,
            message: parts.join(" "),
        })
    }

    fn report(&self, raw: &str) -> Value {
        let mut report = json!({ "type": "log" });
        for (key, value) in
            [("time", &self.time), ("level", &self.level), ("subsystem", &self.subsystem)]
        {
            if let Some(value) = value {
                report[key] = json!(value);
            }
        }
        report["message"] = json!(self.message);
        report["raw"] = json!(raw);
        report
    }

    fn text(&self, out: Output) -> String {
        let level = self.level.as_deref().unwrap_or("info");
        let colour = match level {
            "error" | "fatal" => Color::Red,
            "warn" => Color::Yellow,
            "info" => Color::Green,
            _ => Color::DarkGray,
        };
        let time = out.quiet(&clean(self.time.as_deref().unwrap_or_default()));
        let level = out.colour(colour, &format!("{:5}", clean(level)));
        let subsystem = self.subsystem.as_deref().map(|name| format!("{}: ", clean(name)));
        format!("{time} {level} {}{}", subsystem.unwrap_or_default(), clean(&self.message))
    }
}

fn subsystem(part: Option<&Value>) -> Option<String> {
    let text = part?.as_str()?;
    let value: Value = serde_json::from_str(text).ok()?;
    value.get("subsystem")?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_subsystem_is_taken_apart() {
        let line = json!({
            "0": "{\"subsystem\":\"gateway\"}", "1": "listening", "2": { "port": 1 },
            "_meta": { "logLevelName": "INFO", "date": "d", "name": "{\"subsystem\":\"gateway\"}" },
            "time": "2026-01-01T00:00:00.000Z",
        });
        let entry = Entry::parse(&line.to_string()).unwrap();
        assert_eq!(entry.subsystem.as_deref(), Some("gateway"));
        assert_eq!(entry.message, "listening {\"port\":1}");
        assert_eq!(entry.level.as_deref(), Some("info"));
    }

    #[test]
    fn a_line_of_the_console_has_no_subsystem() {
        let line = r#"{"0":"- none","_meta":{"name":"clawdbot","logLevelName":"WARN"},"time":"t"}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.subsystem, entry.message.as_str()), (None, "- none"));
    }

    #[test]
    fn any_other_line_is_raw() {
        for line in ["plain", "{}", "[1]", "{\"message\":1}"] {
            assert_eq!(Entry::parse(line), None, "{line}");
        }
    }
}
