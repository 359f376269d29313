//! `logs.*`

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use moltbot_protocol::methods::logs::{LogsTail, LogsTailed};

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Error, Result, Router},
};

const DEFAULT_LINES: u64 = 500;
const DEFAULT_BYTES: u64 = 250_000;

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(tail);
}

async fn tail(cx: Context, request: LogsTail) -> Result<LogsTailed> {
    let path = cx.gateway.paths.log_file();
    tokio::task::spawn_blocking(move || read_tail(&path, &request))
        .await
        .map_err(|error| Error::Internal(error.into()))?
        .map_err(|error| Error::Unavailable(format!("log read failed: {error}")))
}

fn read_tail(path: &Path, request: &LogsTail) -> io::Result<LogsTailed> {
    let mut answer = LogsTailed { file: path.display().to_string(), ..LogsTailed::default() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(answer),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    let max_bytes = request.max_bytes.unwrap_or(DEFAULT_BYTES);
    let earliest = size.saturating_sub(max_bytes);
    let start = match request.cursor {
        Some(cursor) if cursor <= size && size - cursor <= max_bytes => cursor,
        Some(_) => {
            answer.reset = true;
            earliest
        }
        None => earliest,
    };
    answer.truncated = start == earliest && start > 0 && request.cursor != Some(start);
    answer.size = size;
    answer.cursor = size;
    answer.lines = lines(&mut file, start, size)?;
    let limit = usize::try_from(request.limit.unwrap_or(DEFAULT_LINES)).unwrap_or(usize::MAX);
    answer.lines.drain(..answer.lines.len().saturating_sub(limit));
    Ok(answer)
}

/// Reads whole lines; the first is left out if it began before `start`.
fn lines(file: &mut File, start: u64, end: u64) -> io::Result<Vec<String>> {
    let before = start.saturating_sub(1);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    file.take(end - before).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = match text.find('\n') {
        _ if start == 0 => &*text,
        Some(line_end) => &text[line_end + 1..],
        None => "",
    };
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn request(cursor: Option<u64>, limit: Option<u64>, max_bytes: Option<u64>) -> LogsTail {
        LogsTail { cursor, limit, max_bytes }
    }

    #[test]
    fn the_end_is_read_then_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        let read = |request| read_tail(&path, &request).unwrap();
        assert_eq!(read(LogsTail::default()).lines, [""; 0]);

        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let all = read(LogsTail::default());
        assert_eq!(all.lines, ["one", "two", "three"]);
        assert_eq!((all.cursor, all.size, all.truncated, all.reset), (14, 14, false, false));
        assert_eq!(read(request(None, Some(1), None)).lines, ["three"]);

        let none = read(request(Some(14), Some(1), None));
        assert_eq!((none.lines.len(), none.truncated, none.reset), (0, false, false));
        fs::write(&path, "one\ntwo\nthree\nfour\n").unwrap();
        assert_eq!(read(request(Some(14), None, None)).lines, ["four"]);
        // The cursor stands within a line, which is then left out.
        assert_eq!(read(request(Some(9), None, None)).lines, ["four"]);
    }

    #[test]
    fn a_cursor_of_no_use_starts_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let read = |request| read_tail(&path, &request).unwrap();
        let beyond = read(request(Some(99), None, None));
        assert_eq!((beyond.lines.len(), beyond.truncated, beyond.reset), (3, false, true));
        let behind = read(request(Some(0), None, Some(7)));
        assert_eq!(behind.lines, ["three"]);
        assert!(behind.truncated && behind.reset);
        let short = read(request(None, None, Some(7)));
        assert_eq!(short.lines, ["three"]);
        assert!(short.truncated && !short.reset);
    }
}
