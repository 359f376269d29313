//! `logs.*`

use moltbot_protocol::methods::logs::{LogsTail, LogsTailed};

use super::Context;
use crate::{
    gateway::Gateway,
    logging::Part,
    rpc::{Error, Result, Router},
};

const DEFAULT_LINES: u64 = 500;
const DEFAULT_BYTES: u64 = 250_000;

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(tail);
}

async fn tail(cx: Context, request: LogsTail) -> Result<LogsTailed> {
    let most = request.max_bytes.unwrap_or(DEFAULT_BYTES);
    let read = tokio::task::spawn_blocking(move || cx.gateway.logs.read(request.cursor, most));
    let (file, part) = read
        .await
        .map_err(|error| Error::Internal(error.into()))?
        .map_err(|error| Error::Unavailable(format!("log read failed: {error}")))?;
    Ok(answer(file, &part, &request))
}

fn answer(file: String, part: &Part, request: &LogsTail) -> LogsTailed {
    let reset = request.cursor.is_some_and(|cursor| cursor != part.start);
    let mut lines = lines(part);
    let limit = usize::try_from(request.limit.unwrap_or(DEFAULT_LINES)).unwrap_or(usize::MAX);
    lines.drain(..lines.len().saturating_sub(limit));
    LogsTailed {
        file,
        cursor: part.end,
        size: part.end,
        lines,
        truncated: part.is_cut && request.cursor != Some(part.start),
        reset,
    }
}

/// Returns whole lines; the first is left out if it began before the part.
fn lines(part: &Part) -> Vec<String> {
    let text = String::from_utf8_lossy(&part.text);
    let text = match text.find('\n') {
        _ if part.begins_line => &*text,
        Some(line_end) => &text[line_end + 1..],
        None => "",
    };
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cursor: Option<u64>, limit: Option<u64>) -> LogsTail {
        LogsTail { cursor, limit, max_bytes: None }
    }

    fn part(text: &str, start: u64, begins_line: bool) -> Part {
        let end = start + text.len() as u64;
        Part { text: text.into(), start, end, begins_line, is_cut: start > 0 }
    }

    fn answered(part: &Part, request: LogsTail) -> LogsTailed {
        answer("log".to_owned(), part, &request)
    }

    #[test]
    fn whole_lines_are_given_the_last_ones_first_of_all() {
        let all = part("one\ntwo\nthree\n", 0, true);
        let tail = answered(&all, LogsTail::default());
        assert_eq!(tail.lines, ["one", "two", "three"]);
        assert_eq!((tail.cursor, tail.size, tail.truncated, tail.reset), (14, 14, false, false));
        assert_eq!(answered(&all, request(None, Some(1))).lines, ["three"]);
        let rest = answered(&part("four\n", 14, true), request(Some(14), None));
        assert_eq!(
            (&*rest.lines, rest.truncated, rest.reset),
            (&["four".to_owned()][..], false, false)
        );
        // The cursor stands within a line, which is then left out.
        let within = answered(&part("ree\nfour\n", 10, false), request(Some(10), None));
        assert_eq!(within.lines, ["four"]);
    }

    #[test]
    fn a_cursor_of_no_use_is_told() {
        let beyond = answered(&part("one\n", 0, true), request(Some(99), None));
        assert_eq!((beyond.lines.len(), beyond.truncated, beyond.reset), (1, false, true));
        let behind = answered(&part("three\n", 8, true), request(Some(0), None));
        assert!(behind.truncated && behind.reset);
        let short = answered(&part("three\n", 8, true), LogsTail::default());
        assert!(short.truncated && !short.reset);
    }
}
