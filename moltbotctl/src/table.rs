//! Lays out rows for people: as a table where that fits, else as a list.
//!
//! A table is worth having only while every row is one line and every heading is
//! whole. So when the terminal is too narrow, long cells are shortened first, as
//! far as they still say something, and then the table becomes a list with one
//! line for each cell, in which nothing is lost. Colours are no characters: they
//! are taken off before anything is measured. A crate for tables that wraps cells
//! within their columns was used before; it tears words and headings instead.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Between two columns.
const GAP: usize = 2;
/// A name, an address or a path is recognised by this much of it.
const SHORTEST: usize = 24;
/// A sentence needs more.
const SHORTEST_SENTENCE: usize = 40;

/// Returns the lines of a table or a list. Without a width the reader is a
/// program or a file, which gets every table whole.
pub(crate) fn lay_out(
    headers: &[&str],
    rows: &[Vec<String>],
    width: Option<usize>,
    heading: impl Fn(&str) -> String,
) -> Vec<String> {
    let headers: Vec<String> = headers.iter().map(|name| name.to_uppercase()).collect();
    let rows: Vec<Vec<PaintedCell<'_>>> =
        rows.iter().map(|row| row.iter().map(|cell| PaintedCell::parse(cell)).collect()).collect();
    match fitting_widths(&headers, &rows, width) {
        Some(widths) => table(&headers, &rows, &widths, heading),
        None => list(&headers, &rows, width.unwrap_or(usize::MAX), heading),
    }
}

/// A cell and the escape sequences around all of it.
struct PaintedCell<'a> {
    before: &'a str,
    text: &'a str,
    after: &'a str,
}

impl<'a> PaintedCell<'a> {
    /// Takes off what [`crate::output::Output`] puts around a text. Nothing else
    /// here has escape sequences: those of peers are made visible before.
    fn parse(cell: &'a str) -> Self {
        let parsed = || {
            let start = cell.strip_prefix('\u{1b}')?.find('m')? + 2;
            let end = cell.rfind('\u{1b}').filter(|end| *end >= start)?;
            let (text, after) = cell.split_at(end);
            let (before, text) = text.split_at(start);
            Some(Self { before, text, after })
        };
        parsed().unwrap_or(Self { before: "", text: cell, after: "" })
    }

    fn width(&self) -> usize {
        self.text.width()
    }

    fn painted(&self, text: &str) -> String {
        format!("{}{text}{}", self.before, self.after)
    }
}

/// Returns how wide the columns are, or `None` when no table fits.
fn fitting_widths(
    headers: &[String],
    rows: &[Vec<PaintedCell<'_>>],
    width: Option<usize>,
) -> Option<Vec<usize>> {
    let column = |at: usize| rows.iter().filter_map(move |row| row.get(at));
    let mut widths: Vec<usize> = (0..headers.len())
        .map(|at| column(at).map(PaintedCell::width).max().unwrap_or_default())
        .zip(headers)
        .map(|(cells, header)| cells.max(header.width()))
        .collect();
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * (widths.len().max(1) - 1);
    let Some(width) = width else { return Some(widths) };

    let least = |at: usize| {
        let is_sentence = column(at).any(|cell| cell.text.contains(' '));
        let least = if is_sentence { SHORTEST_SENTENCE } else { SHORTEST };
        least.max(headers[at].width())
    };
    // The first column names the row; people copy it into the next command.
    while total(&widths) > width {
        let shrinkable = (1..widths.len()).filter(|at| widths[*at] > least(*at));
        let widest = shrinkable.max_by_key(|at| widths[*at])?;
        let excess = total(&widths) - width;
        widths[widest] = widths[widest].saturating_sub(excess).max(least(widest));
    }
    Some(widths)
}

fn table(
    headers: &[String],
    rows: &[Vec<PaintedCell<'_>>],
    widths: &[usize],
    heading: impl Fn(&str) -> String,
) -> Vec<String> {
    let head: Vec<(String, usize)> =
        headers.iter().map(|name| (heading(name), name.width())).collect();
    let mut lines = vec![line(head, widths)];
    lines.extend(rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| {
            let text = shortened(cell.text, *width);
            let shown = text.width();
            (cell.painted(&text), shown)
        });
        line(cells, widths)
    }));
    lines
}

/// Joins cells, each with the width it has on the screen.
fn line(cells: impl IntoIterator<Item = (String, usize)>, widths: &[usize]) -> String {
    let (mut text, mut owed) = (String::new(), 0);
    for ((cell, shown), width) in cells.into_iter().zip(widths) {
        if shown > 0 {
            text.extend(std::iter::repeat_n(' ', std::mem::take(&mut owed)));
            text.push_str(&cell);
        }
        // Blanks are written when something follows, so that no line ends with any.
        owed += width - shown + GAP;
    }
    text
}

fn list(
    headers: &[String],
    rows: &[Vec<PaintedCell<'_>>],
    width: usize,
    heading: impl Fn(&str) -> String,
) -> Vec<String> {
    let label = headers.iter().map(|name| name.width()).max().unwrap_or_default();
    let room = width.saturating_sub(label + GAP).max(1);
    let mut lines = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            lines.push(String::new());
        }
        for (name, cell) in headers.iter().zip(row).filter(|(_, cell)| !cell.text.is_empty()) {
            for (at, part) in wrapped(cell.text, room).into_iter().enumerate() {
                let shown = if at == 0 { name.as_str() } else { "" };
                let blanks = " ".repeat(label + GAP - shown.width());
                let head = if shown.is_empty() { String::new() } else { heading(shown) };
                lines.push(format!("{head}{blanks}{}", cell.painted(part)));
            }
        }
    }
    lines
}

/// Shortens a text: a path in its middle, because its end tells most, all else at
/// its end.
fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let tail = if text.contains('/') && !text.contains(' ') { room * 2 / 3 } else { 0 };
    let head = &text[..fitting(text.chars(), room - tail)];
    let end = text.len() - fitting(text.chars().rev(), tail);
    format!("{head}…{}", &text[end..])
}

/// Returns the length in bytes of as many characters as fit into a width.
fn fitting(chars: impl Iterator<Item = char>, width: usize) -> usize {
    let mut used = 0;
    let fits = chars.take_while(|c| {
        used += c.width().unwrap_or_default();
        used <= width
    });
    fits.map(char::len_utf8).sum()
}

/// Cuts a text into lines, at spaces where there are some.
fn wrapped(mut text: &str, width: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    while text.width() > width {
        let most = fitting(text.chars(), width).max(text.chars().next().map_or(1, char::len_utf8));
        let end = match text[..most].rfind(' ') {
            Some(space) if space > 0 && !text[most..].starts_with(' ') => space,
            _ => most,
        };
        lines.push(text[..end].trim_end());
        text = text[end..].trim_start();
    }
    if !text.is_empty() || lines.is_empty() {
        lines.push(text);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    fn plain(headers: &[&str], cells: &[&[&str]], width: Option<usize>) -> Vec<String> {
        lay_out(headers, &rows(cells), width, ToOwned::to_owned)
    }

    #[test]
    fn colours_take_no_room_and_wide_characters_take_two() {
        let cells: &[&[&str]] =
            &[&["a", "\u{1b}[32mon\u{1b}[0m", "x"], &["日本", "away", ""], &["b", "-", "y"]];
        assert_eq!(
            plain(&["Node", "State", "IP"], cells, Some(80)),
            [
                "NODE  STATE  IP",
                "a     \u{1b}[32mon\u{1b}[0m     x",
                "日本  away",
                "b     -      y"
            ]
        );
    }

    #[test]
    fn a_long_cell_is_shortened_where_it_says_least() {
        let path = "/home/somebody/.local/state/moltbot/run/control.sock";
        let lines = plain(&["Kind", "Path"], &[&["socket", path]], Some(40));
        assert_eq!(lines[1], "socket  /home/someb…bot/run/control.sock");
        assert_eq!(lines[1].width(), 40);
        assert_eq!(
            plain(&["Kind", "Path"], &[&["socket", path]], None)[1],
            format!("socket  {path}")
        );
    }

    #[test]
    fn what_fits_no_table_is_a_list_that_loses_nothing() {
        let why = "is asked only when nothing else answers, and then with a token";
        let lines = plain(
            &["", "Candidate", "Why"],
            &[&["*", "controlSocket", why], &["", "configured", "\u{1b}[31mno\u{1b}[0m"]],
            Some(40),
        );
        assert_eq!(
            lines,
            [
                "           *",
                "CANDIDATE  controlSocket",
                "WHY        is asked only when nothing",
                "           else answers, and then with a",
                "           token",
                "",
                "CANDIDATE  configured",
                "WHY        \u{1b}[31mno\u{1b}[0m",
            ]
        );
        assert!(lines.iter().all(|line| line.width() <= 40 || line.contains('\u{1b}')));
    }

    #[test]
    fn a_word_that_is_too_long_is_cut_and_nothing_is_lost() {
        assert_eq!(wrapped("abcdef ghi", 4), ["abcd", "ef", "ghi"]);
        assert_eq!(wrapped("日本語", 3), ["日", "本", "語"]);
        assert_eq!(wrapped("日", 1), ["日"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
