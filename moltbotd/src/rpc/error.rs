//! Why a call failed: a part for the client, a part for the log.

use moltbot_protocol::{ErrorCode, ErrorShape, limits};
use serde_json::Value;

/// Result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// When a call that was one too many may be repeated.
const BUSY_RETRY_MS: u64 = 1000;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's mistake; the text is shown as it is.
    #[error("{0}")]
    Invalid(String),
    /// The same with something for programs beside the text.
    #[error("{message}")]
    Refused {
        /// What the client's code branches on.
        code: ErrorCode,
        /// What a person reads.
        message: String,
        /// What belongs to it.
        details: Value,
    },
    /// The daemon cannot do it now; the text is shown as it is.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon cannot take on more now; the text is shown as it is.
    #[error("{0}")]
    Busy(String),
    /// It could not be done; what there is of a result comes with the reason.
    #[error("{message}")]
    Failed {
        /// What a person reads.
        message: String,
        /// The result so far.
        payload: Value,
    },
    /// The daemon's own trouble; the cause goes to the log only.
    #[error("temporarily unavailable")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Returns the caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// Returns what the client is told.
    #[must_use]
    pub fn shape(&self) -> ErrorShape {
        let mut shape = self.whole_shape();
        // Messages repeat what a peer sent, and parsers repeat all of it.
        let kept = limits::cut(&shape.message, limits::ERROR_CHARS).len();
        if kept < shape.message.len() {
            shape.message.truncate(kept);
            shape.message.push('…');
        }
        shape
    }

    fn whole_shape(&self) -> ErrorShape {
        match self {
            Self::Invalid(message) => ErrorShape::new(ErrorCode::InvalidRequest, message),
            Self::Refused { code, message, details } => {
                ErrorShape { details: Some(details.clone()), ..ErrorShape::new(*code, message) }
            }
            Self::Busy(message) => ErrorShape {
                retryable: Some(true),
                retry_after_ms: Some(BUSY_RETRY_MS),
                ..ErrorShape::new(ErrorCode::Unavailable, message)
            },
            Self::Unavailable(_) | Self::Failed { .. } | Self::Internal(_) => {
                ErrorShape::new(ErrorCode::Unavailable, self.to_string())
            }
        }
    }
}
