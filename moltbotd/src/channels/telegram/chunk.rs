//! Cuts a formatted text into messages that Telegram accepts.

use super::{
    config::ChunkMode,
    format::{Span, Tag, html, plain},
};

/// What Telegram accepts in one message, in UTF-16 units; a part of it is left
/// for the line that marks a repeated message.
const HTML_LIMIT: usize = 4096 - 96;

/// Text of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// As HTML.
    pub(super) html: String,
    /// Without any markup, for when Telegram cannot read the HTML.
    pub(super) plain: String,
}

/// Cuts a text; no chunk is longer than `limit` nor empty.
pub(super) fn chunks(spans: &[Span], limit: usize, mode: ChunkMode) -> Vec<Chunk> {
    let chars: Vec<Char> = spans
        .iter()
        .enumerate()
        .flat_map(|(span, Span { text, .. })| text.chars().map(move |char| Char { char, span }))
        .collect();
    let cutter = Cutter { spans, chars };
    let sections = match mode {
        ChunkMode::Length => vec![(0, cutter.chars.len())],
        ChunkMode::Newline => cutter.paragraphs(),
    };
    let mut chunks = Vec::new();
    for (start, end) in sections {
        cutter.cut(start, end, limit, &mut chunks);
    }
    chunks
}

/// Returns how long Telegram takes a text to be.
pub(super) fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

#[derive(Clone, Copy)]
struct Char {
    char: char,
    span: usize,
}

struct Cutter<'a> {
    spans: &'a [Span],
    chars: Vec<Char>,
}

impl Cutter<'_> {
    fn cut(&self, start: usize, end: usize, limit: usize, chunks: &mut Vec<Chunk>) {
        let mut start = self.skip_blank(start, end);
        while start < end {
            let (chunk, next) = self.next(start, end, limit);
            chunks.extend(chunk);
            start = self.skip_blank(next, end);
        }
    }

    /// Takes as much as fits, tags included.
    fn next(&self, start: usize, end: usize, limit: usize) -> (Option<Chunk>, usize) {
        let mut limit = limit;
        loop {
            let stop = self.stop(start, end, limit);
            let spans = self.slice(start, stop);
            let html = html(&spans);
            if units(&html) > HTML_LIMIT && limit > 16 {
                limit = limit * 3 / 4;
                continue;
            }
            let plain = plain(&spans);
            let chunk = Chunk { html: html.trim_end().to_owned(), plain };
            return ((!chunk.plain.trim().is_empty()).then_some(chunk), stop);
        }
    }

    /// Finds where to cut: after a paragraph, a line or a word, where one ends
    /// in the second half of what fits.
    fn stop(&self, start: usize, end: usize, limit: usize) -> usize {
        let mut used = 0;
        let mut stop = start;
        while stop < end && used + self.chars[stop].char.len_utf16() <= limit {
            used += self.chars[stop].char.len_utf16();
            stop += 1;
        }
        if stop == end {
            return end;
        }
        // A single character wider than the limit goes anyway.
        let stop = stop.max(start + 1);
        let half = start + (stop - start) / 2;
        let found = |test: &dyn Fn(usize) -> bool| (half..stop).rev().find(|&at| test(at));
        let newline = |at: usize| self.chars[at].char == '\n';
        found(&|at| newline(at) && at > start && newline(at - 1))
            .or_else(|| found(&newline))
            .or_else(|| found(&|at| self.chars[at].char == ' '))
            .map_or(stop, |at| at + 1)
    }

    fn slice(&self, start: usize, stop: usize) -> Vec<Span> {
        let mut out: Vec<Span> = Vec::new();
        let mut last = usize::MAX;
        for &Char { char, span } in &self.chars[start..stop] {
            if span != last {
                out.push(Span { text: String::new(), tags: self.spans[span].tags.clone() });
                last = span;
            }
            if let Some(current) = out.last_mut() {
                current.text.push(char);
            }
        }
        if let Some(current) = out.last_mut() {
            current.text.truncate(current.text.trim_end().len());
        }
        out.retain(|span| !span.text.is_empty());
        out
    }

    fn skip_blank(&self, start: usize, end: usize) -> usize {
        // Indentation of code is kept; empty lines are not.
        (start..end)
            .find(|&at| {
                let Char { char, span } = self.chars[at];
                let pre = self.is_pre(span);
                if pre { char != '\n' } else { !char.is_whitespace() }
            })
            .unwrap_or(end)
    }

    fn paragraphs(&self) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        let mut start = 0;
        for at in 1..self.chars.len() {
            let blank = self.chars[at].char == '\n' && self.chars[at - 1].char == '\n';
            if blank && !self.is_pre(self.chars[at].span) {
                out.push((start, at));
                start = at;
            }
        }
        out.push((start, self.chars.len()));
        out
    }

    fn is_pre(&self, span: usize) -> bool {
        self.spans[span].tags.iter().any(|tag| matches!(tag, Tag::Pre(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::format::spans, *};

    fn cut(markdown: &str, limit: usize) -> Vec<Chunk> {
        chunks(&spans(markdown), limit, ChunkMode::Length)
    }

    #[test]
    fn a_short_text_is_one_chunk() {
        assert_eq!(cut("hello", 4000), [Chunk { html: "hello".into(), plain: "hello".into() }]);
    }

    #[test]
    fn an_empty_text_is_none() {
        assert!(cut(" \n\n ", 4000).is_empty());
    }

    #[test]
    fn words_are_kept_whole_and_none_is_lost() {
        let words: Vec<String> = (0..500).map(|index| format!("word{index}")).collect();
        let chunks = cut(&words.join(" "), 100);
        assert!(chunks.iter().all(|chunk| units(&chunk.plain) <= 100));
        let back: Vec<&str> = chunks.iter().flat_map(|chunk| chunk.plain.split(' ')).collect();
        assert_eq!(back, words);
    }

    #[test]
    fn a_fence_is_closed_and_opened_again() {
        let code = (0..50).map(|index| format!("line {index}\n")).collect::<String>();
        let chunks = cut(&format!("```py\n{code}```"), 120);
        assert!(chunks.len() > 2);
        for chunk in chunks {
            assert!(chunk.html.starts_with("<pre><code class=\"language-py\">"), "{}", chunk.html);
            assert!(chunk.html.ends_with("</code></pre>"));
        }
    }

    #[test]
    fn pairs_of_units_are_not_torn() {
        let chunks = cut(&"😀".repeat(100), 33);
        assert!(chunks.iter().all(|chunk| units(&chunk.plain) == 32 || chunk.plain.len() == 16));
        assert_eq!(chunks.iter().map(|chunk| chunk.plain.chars().count()).sum::<usize>(), 100);
    }

    #[test]
    fn markup_never_makes_a_message_too_long() {
        let chunks = cut(&"&<>\" ".repeat(2000), 4000);
        assert!(chunks.iter().all(|chunk| units(&chunk.html) <= 4096));
    }

    #[test]
    fn newline_mode_cuts_at_blank_lines_outside_code() {
        let text = spans("a\n\nb\n\n```\nc\n\nd\n```");
        let chunks = chunks(&text, 4000, ChunkMode::Newline);
        let plain: Vec<&str> = chunks.iter().map(|chunk| chunk.plain.as_str()).collect();
        assert_eq!(plain, ["a", "b", "c\n\nd"]);
    }
}
