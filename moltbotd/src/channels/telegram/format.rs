//! From Markdown to Telegram's HTML.
//!
//! The text becomes a list of spans, each with the tags around it. A span can
//! be cut anywhere and still be closed and opened again, which is what the
//! cutting into messages needs.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag as Mark, TagEnd};

/// Text with the tags around it, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) tags: Vec<Tag>,
}

/// A tag of Telegram's HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Bold,
    Italic,
    Strike,
    Spoiler,
    Quote,
    Code,
    /// With its language, which may be empty.
    Pre(String),
    /// With its address.
    Link(String),
}

/// Reads Markdown.
pub(super) fn spans(markdown: &str) -> Vec<Span> {
    let mut reader = Reader::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_STRIKETHROUGH) {
        reader.take(event);
    }
    spoilers(reader.spans)
}

/// Writes spans as HTML.
pub(super) fn html(spans: &[Span]) -> String {
    let mut out = String::new();
    let mut open: Vec<&Tag> = Vec::new();
    for span in spans {
        let same = open.iter().zip(&span.tags).take_while(|(a, b)| *a == b).count();
        for tag in open.drain(same..).rev() {
            out.push_str(closing(tag));
        }
        for tag in &span.tags[same..] {
            out.push_str(&opening(tag));
            open.push(tag);
        }
        escape(&span.text, &mut out);
    }
    for tag in open.drain(..).rev() {
        out.push_str(closing(tag));
    }
    out
}

/// Writes spans without any tag.
pub(super) fn plain(spans: &[Span]) -> String {
    let mut out = String::new();
    for span in spans {
        out.push_str(&span.text);
        let address = span.tags.iter().find_map(|tag| match tag {
            Tag::Link(address) => Some(address),
            _ => None,
        });
        if let Some(address) = address.filter(|address| **address != span.text) {
            out.push_str(" (");
            out.push_str(address);
            out.push(')');
        }
    }
    out
}

/// Escapes what HTML would read as markup.
pub(super) fn escape(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            char => out.push(char),
        }
    }
}

fn opening(tag: &Tag) -> String {
    match tag {
        Tag::Bold => "<b>".into(),
        Tag::Italic => "<i>".into(),
        Tag::Strike => "<s>".into(),
        Tag::Spoiler => "<tg-spoiler>".into(),
        Tag::Quote => "<blockquote>".into(),
        Tag::Code => "<code>".into(),
        Tag::Pre(language) if language.is_empty() => "<pre>".into(),
        Tag::Pre(language) => attribute("<pre><code class=\"language-", language),
        Tag::Link(address) => attribute("<a href=\"", address),
    }
}

fn closing(tag: &Tag) -> &'static str {
    match tag {
        Tag::Bold => "</b>",
        Tag::Italic => "</i>",
        Tag::Strike => "</s>",
        Tag::Spoiler => "</tg-spoiler>",
        Tag::Quote => "</blockquote>",
        Tag::Code => "</code>",
        Tag::Pre(language) if language.is_empty() => "</pre>",
        Tag::Pre(_) => "</code></pre>",
        Tag::Link(_) => "</a>",
    }
}

fn attribute(start: &str, value: &str) -> String {
    let mut out = start.to_owned();
    escape(value, &mut out);
    out.push_str("\">");
    out
}

#[derive(Default)]
struct Reader {
    spans: Vec<Span>,
    open: Vec<Tag>,
    /// Next number of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    /// Newlines owed before the next text.
    owed: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(mark) => self.start(mark),
            Event::End(end) => self.end(end),
            Event::Text(text) => self.text(&text),
            Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.open.push(Tag::Code);
                self.text(&text);
                self.open.pop();
            }
            Event::SoftBreak | Event::HardBreak => self.text("\n"),
            Event::Rule => {
                self.text("———");
                self.owe(2);
            }
            Event::FootnoteReference(text) => self.text(&format!("[{text}]")),
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }),
        }
    }

    fn start(&mut self, mark: Mark<'_>) {
        match mark {
            Mark::Strong | Mark::Heading { .. } => self.open.push(Tag::Bold),
            Mark::Emphasis => self.open.push(Tag::Italic),
            Mark::Strikethrough => self.open.push(Tag::Strike),
            // Telegram knows no quote within a quote.
            Mark::BlockQuote(_) if self.open.contains(&Tag::Quote) => {}
            Mark::BlockQuote(_) => self.open.push(Tag::Quote),
            Mark::CodeBlock(kind) => self.open.push(Tag::Pre(language(&kind))),
            Mark::Link { dest_url, .. } | Mark::Image { dest_url, .. } => {
                self.open.push(Tag::Link(dest_url.into_string()));
            }
            Mark::List(first) => {
                if !self.lists.is_empty() {
                    self.owed = 1;
                }
                self.lists.push(first);
            }
            Mark::Item => self.item(),
            _ => {}
        }
    }

    fn end(&mut self, end: TagEnd) {
        match end {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.owe(2),
            TagEnd::Heading(_) => {
                self.open.pop();
                self.owe(2);
            }
            TagEnd::BlockQuote(_) => {
                self.open.retain(|tag| *tag != Tag::Quote);
                self.owe(2);
            }
            TagEnd::CodeBlock => {
                self.trim_newline();
                self.open.pop();
                self.owe(2);
            }
            TagEnd::Item => self.owed = 1,
            TagEnd::List(_) => {
                self.lists.pop();
                self.owed = if self.lists.is_empty() { 2 } else { 1 };
            }
            TagEnd::Strong
            | TagEnd::Emphasis
            | TagEnd::Strikethrough
            | TagEnd::Link
            | TagEnd::Image => {
                self.open.pop();
            }
            _ => {}
        }
    }

    fn item(&mut self) {
        let indent = "  ".repeat(self.lists.len().saturating_sub(1));
        let bullet = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number += 1;
                format!("{indent}{}. ", *number - 1)
            }
            _ => format!("{indent}• "),
        };
        self.text(&bullet);
    }

    fn owe(&mut self, newlines: usize) {
        self.owed = self.owed.max(newlines);
    }

    fn text(&mut self, text: &str) {
        let owed = std::mem::take(&mut self.owed);
        if let Some(last) = self.spans.last().filter(|_| owed > 0) {
            let quoted = last.tags.contains(&Tag::Quote) && self.open.contains(&Tag::Quote);
            let tags = if quoted { vec![Tag::Quote] } else { Vec::new() };
            self.push("\n".repeat(owed), tags);
        }
        self.push(text.to_owned(), self.open.clone());
    }

    fn push(&mut self, text: String, tags: Vec<Tag>) {
        match self.spans.last_mut() {
            Some(last) if last.tags == tags => last.text.push_str(&text),
            _ => self.spans.push(Span { text, tags }),
        }
    }

    fn trim_newline(&mut self) {
        if let Some(last) = self.spans.last_mut()
            && last.text.ends_with('\n')
        {
            last.text.pop();
        }
    }
}

fn language(kind: &CodeBlockKind<'_>) -> String {
    let CodeBlockKind::Fenced(info) = kind else { return String::new() };
    info.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Finds `||hidden||`, which Markdown does not know.
fn spoilers(spans: Vec<Span>) -> Vec<Span> {
    let mut out = Vec::with_capacity(spans.len());
    for span in spans {
        let code = span.tags.iter().any(|tag| matches!(tag, Tag::Code | Tag::Pre(_)));
        if code || !span.text.contains("||") {
            out.push(span);
            continue;
        }
        let mut rest = span.text.as_str();
        while let Some((before, hidden, after)) = spoiler(rest) {
            out.push(Span { text: before.to_owned(), tags: span.tags.clone() });
            let mut tags = span.tags.clone();
            tags.push(Tag::Spoiler);
            out.push(Span { text: hidden.to_owned(), tags });
            rest = after;
        }
        out.push(Span { text: rest.to_owned(), tags: span.tags });
    }
    out.retain(|span| !span.text.is_empty());
    out
}

fn spoiler(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("||")?;
    let (hidden, after) = rest.split_once("||")?;
    let tight = !hidden.is_empty() && hidden.trim() == hidden && !hidden.contains("\n\n");
    tight.then_some((before, hidden, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(markdown: &str) -> String {
        html(&spans(markdown))
    }

    #[test]
    fn inline_marks_become_tags() {
        assert_eq!(
            rendered("**b** *i* ~~s~~ `c<d` [l](https://e.org/?a=1&b=2) ||x||"),
            "<b>b</b> <i>i</i> <s>s</s> <code>c&lt;d</code> \
             <a href=\"https://e.org/?a=1&amp;b=2\">l</a> <tg-spoiler>x</tg-spoiler>"
        );
    }

    #[test]
    fn markup_of_the_author_is_text() {
        assert_eq!(
            rendered("a <b>x</b> & <script>"),
            "a &lt;b&gt;x&lt;/b&gt; &amp; &lt;script&gt;"
        );
    }

    #[test]
    fn blocks_are_kept_apart() {
        assert_eq!(
            rendered("# T\n\na\nb\n\n- x\n- y\n  1. z\n\n> q\n>\n> r\n\n```rust\nlet a;\n```\nend"),
            "<b>T</b>\n\na\nb\n\n• x\n• y\n  1. z\n\n<blockquote>q\n\nr</blockquote>\n\n\
             <pre><code class=\"language-rust\">let a;</code></pre>\n\nend"
        );
    }

    #[test]
    fn bars_of_a_condition_are_no_spoiler() {
        assert_eq!(rendered("a || b || c"), "a || b || c");
        assert_eq!(rendered("`a ||b|| c`"), "<code>a ||b|| c</code>");
    }

    #[test]
    fn plain_text_keeps_addresses() {
        assert_eq!(plain(&spans("[l](https://e.org) **b**")), "l (https://e.org) b");
    }
}
