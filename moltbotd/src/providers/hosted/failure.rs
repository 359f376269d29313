//! Why a server did not answer: what the user is told, and whether to try
//! again.
//!
//! What servers say may repeat the key they were sent, so it is cut out.

use std::time::Duration;

use genai::{Error, webc::StreamTimeout};
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;

use super::endpoint::Names;
use crate::providers::ProviderError;

/// Longest part of a server's message that is shown, in characters.
const MAX_CHARS: usize = 300;

/// Longest pause that a server's word is taken for; whoever wants more is asked
/// again after it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ProviderError,
    /// Whether another attempt may succeed.
    pub(super) transient: bool,
    /// How long the server asked to wait; at most [`MAX_RETRY_AFTER`].
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// The connection ended in the middle of an answer.
    pub(super) fn cut(names: &Names) -> Self {
        let text = format!("{}: the connection ended before the answer did", names.provider);
        Self::transient(ProviderError::Failed(text))
    }

    /// Anything that goes wrong before the server is asked.
    pub(super) fn own(names: &Names, text: &str) -> Self {
        let text = format!("{}: {}", names.provider, names.redact(text));
        Self { error: ProviderError::Failed(text), transient: false, retry_after: None }
    }

    fn transient(error: ProviderError) -> Self {
        Self { error, transient: true, retry_after: None }
    }
}

/// Explains an error of genai.
pub(super) fn explain(error: Error, names: &Names) -> Failure {
    match error {
        Error::HttpError { status, body, headers, .. } => refused(status, &body, &headers, names),
        Error::WebStream { error, .. } => match error.downcast::<Error>() {
            Ok(inner) => explain(*inner, names),
            Err(error) => unreachable_server(&*error, names),
        },
        Error::ChatResponse { body, .. } => reported(&body, names),
        Error::StreamParse { .. } => {
            Failure::own(names, "the server's answer is not in the expected form")
        }
        other => Failure::own(names, &shortened(&other.to_string())),
    }
}

/// The server answered with a status that is not success.
fn refused(status: StatusCode, body: &str, headers: &HeaderMap, names: &Names) -> Failure {
    let said = serde_json::from_str(body).ok().and_then(|body: Value| message_of(&body));
    let said = said.unwrap_or_else(|| shortened(body.trim()));
    let retry_after = retry_after(headers);
    let code = status.as_u16();
    let text = names.sentence(&format!("{code}"), &said);
    let lower = body.to_lowercase();
    match code {
        // What servers say about a wrong key contains parts of it.
        401 => Failure {
            error: ProviderError::Unauthorized(format!(
                "{} refused the key from {}",
                names.provider, names.key_source
            )),
            transient: false,
            retry_after,
        },
        403 => Failure { error: ProviderError::Unauthorized(text), transient: false, retry_after },
        413 => Failure { error: ProviderError::TooLong(text), transient: false, retry_after },
        400 | 422 if is_too_long(&lower) => {
            Failure { error: ProviderError::TooLong(text), transient: false, retry_after }
        }
        429 | 529 | 503 => Failure {
            error: ProviderError::Busy {
                message: text,
                retry_after_ms: retry_after.map(|wait| wait.as_millis() as u64),
            },
            // An empty account does not fill up within seconds.
            transient: !lower.contains("insufficient_quota"),
            retry_after,
        },
        408 | 409 | 500.. => {
            Failure { error: ProviderError::Failed(text), transient: true, retry_after }
        }
        _ => Failure { error: ProviderError::Failed(text), transient: false, retry_after },
    }
}

/// The server reported an error within its answer.
fn reported(body: &Value, names: &Names) -> Failure {
    let said = message_of(body).unwrap_or_else(|| shortened(&body.to_string()));
    let text = names.sentence("error", &said);
    let lower = body.to_string().to_lowercase();
    if is_too_long(&lower) {
        let error = ProviderError::TooLong(text);
        return Failure { error, transient: false, retry_after: None };
    }
    if ["overloaded", "rate_limit", "unavailable"].iter().any(|word| lower.contains(word)) {
        return Failure::transient(ProviderError::Busy { message: text, retry_after_ms: None });
    }
    Failure::transient(ProviderError::Failed(text))
}

/// There was no answer, or it stopped coming.
fn unreachable_server(
    error: &(dyn std::error::Error + Send + Sync + 'static),
    names: &Names,
) -> Failure {
    let Names { provider, origin, .. } = names;
    let text = if let Some(timeout) = error.downcast_ref::<StreamTimeout>() {
        match timeout {
            StreamTimeout::Headers => format!("{provider}: {origin} did not answer in time"),
            StreamTimeout::Read => format!("{provider}: {origin} stopped answering"),
        }
    } else if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        let what = if error.is_connect() { "cannot connect to" } else { "lost the connection to" };
        format!("{provider}: {what} {origin}: {}", names.redact(&innermost(error)))
    } else {
        format!("{provider}: {}", names.redact(&shortened(&error.to_string())))
    };
    Failure::transient(ProviderError::Failed(text))
}

/// Returns the first cause: the outer ones name the address, which may hold a
/// secret.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error) { "no cause known".into() } else { cause.to_string() }
}

fn is_too_long(lower: &str) -> bool {
    [
        "context_length_exceeded",
        "maximum context length",
        "prompt is too long",
        "context window",
        "exceeds the maximum number of tokens",
    ]
    .iter()
    .any(|words| lower.contains(words))
}

/// Finds the sentence for people in what servers send.
fn message_of(body: &Value) -> Option<String> {
    // Gemini wraps the object into a list.
    let body = body.get(0).unwrap_or(body);
    ["/error/message", "/message", "/error", "/detail"]
        .iter()
        .find_map(|path| body.pointer(path)?.as_str())
        .map(shortened)
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"));
    let longest = MAX_RETRY_AFTER.as_secs_f64();
    let seconds = seconds.filter(|seconds| !seconds.is_nan());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.min(longest)).ok())
}

impl Names {
    /// Cuts secrets out of a text.
    fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }

    fn sentence(&self, what: &str, said: &str) -> String {
        let said = self.redact(said);
        if said.is_empty() {
            return format!("{}: {what}", self.provider);
        }
        format!("{}: {what}: {said}", self.provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn no_server_is_left_alone_for_longer_than_an_hour() {
        assert_eq!(asked("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        for endless in ["3601", "1e15", "1e300", "inf"] {
            assert_eq!(asked("retry-after", endless), Some(MAX_RETRY_AFTER), "{endless}");
        }
        for nonsense in ["-1", "NaN", "soon", ""] {
            assert_eq!(asked("retry-after", nonsense), None, "{nonsense}");
        }
    }
}
