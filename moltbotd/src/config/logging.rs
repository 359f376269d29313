//! `logging`.

use std::time::Duration;

use clap::ValueEnum;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::Effect;
use crate::logging;

/// Logs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// How much is logged.
    pub level: LogLevel,
    /// A log file to be written in any case. Without it there is one in the log
    /// folder, unless the journal takes the log.
    #[schemars(extend("x-effect" = Effect::Restart, "x-guarded" = true))]
    pub file: Option<String>,
    /// Size in bytes at which the file is set aside; one older file is kept.
    #[schemars(range(min = 4096))]
    pub max_file_bytes: u64,
    /// Age in days at which the file is set aside, and the older one removed.
    #[schemars(range(min = 1))]
    pub max_age_days: u64,
    /// Whether what looks like a secret is blotted out. The gateway's own
    /// secrets and those of the configuration always are.
    #[schemars(extend("x-guarded" = true))]
    pub redact_sensitive: Redact,
    /// Regular expressions of what is blotted out, too.
    #[schemars(extend("x-guarded" = true))]
    pub redact_patterns: Vec<String>,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            file: None,
            max_file_bytes: 8 * 1024 * 1024,
            max_age_days: 14,
            redact_sensitive: Redact::default(),
            redact_patterns: Vec::new(),
        }
    }
}

impl Logging {
    /// Returns what the logs keep.
    #[must_use]
    pub fn keep(&self) -> logging::Keep {
        let age = Duration::from_secs(self.max_age_days.saturating_mul(24 * 60 * 60));
        logging::Keep { bytes: self.max_file_bytes, age }
    }

    /// Returns what the logs never show: these secrets and what the rules say.
    /// A pattern that is none was reported when the file was read.
    #[must_use]
    pub fn redactions(&self, secrets: &[String]) -> logging::Redactions {
        logging::Redactions {
            known: secrets.iter().filter_map(|secret| logging::Known::of(secret)).collect(),
            by_shape: self.redact_sensitive == Redact::Tools,
            patterns: self.redact_patterns.iter().filter_map(|it| Regex::new(it).ok()).collect(),
        }
    }
}

/// Whether what looks like a secret is blotted out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redact {
    /// It is not.
    Off,
    /// It is.
    #[default]
    Tools,
}

/// How much is logged.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Silent,
    Fatal,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Returns what the loggers understand.
    #[must_use]
    pub const fn filter(self) -> LevelFilter {
        match self {
            Self::Silent => LevelFilter::OFF,
            Self::Fatal | Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}
