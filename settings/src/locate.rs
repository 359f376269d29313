//! Ways to values, and where in a JSON5 text a value stands.
//!
//! The parser that fills our types does not keep positions. This scanner walks
//! a text that the parser took and notes where each value begins and ends; it
//! is asked only when there is something to report or to blot out.

use std::{fmt, ops::Range};

/// How deep values may be nested: the parser calls itself for each level.
pub const DEEPEST: usize = 64;

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A key of an object.
    Key(String),
    /// An index of an array.
    Index(usize),
}

/// The way to a value, shown as `agents.list[0].id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(
    /// From the outermost value to the innermost.
    pub Vec<Step>,
);

impl Path {
    /// Returns the way to a key of what is here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// Returns the way to an item of what is here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut path = self.clone();
        path.0.push(step);
        path
    }

    /// Returns the last key on the way.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(&**key),
            Step::Index(_) => None,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if needs_quotes(key) => {
                    write!(f, "[{}]", serde_json::Value::from(&**key))?;
                }
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(at) => write!(f, "[{at}]")?,
            }
        }
        Ok(())
    }
}

fn needs_quotes(key: &str) -> bool {
    key.is_empty() || key.contains(['.', '[', ']', '"'])
}

/// A line and a column, both counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Position {
    /// Returns the position of a byte.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value of a text.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The way to it.
    pub path: Path,
    /// Its bytes.
    pub bytes: Range<usize>,
    /// Where its key stands, or itself in an array.
    pub start: usize,
}

/// Returns every value of a text, in its order; `None` for a text that the
/// parser would not take either.
#[must_use]
pub fn spots(text: &str) -> Option<Vec<Spot>> {
    let mut scanner = Scanner { text, at: 0, spots: Vec::new() };
    scanner.value(&Path::default(), None, 0)?;
    scanner.skip_blanks()?;
    (scanner.at == text.len()).then_some(scanner.spots)
}

/// Returns where a value stands; of a key given twice the last counts.
#[must_use]
pub fn position(text: &str, path: &Path) -> Option<Position> {
    let found = spots(text)?.into_iter().rev().find(|spot| spot.path == *path)?;
    Some(Position::of(text, found.start))
}

/// Returns whether brackets are nested deeper than [`DEEPEST`], for any text.
#[must_use]
pub fn is_too_deep(text: &str) -> bool {
    let mut scanner = Scanner { text, at: 0, spots: Vec::new() };
    let mut depth = 0_usize;
    while scanner.skip_blanks().is_some()
        && let Some(character) = scanner.peek()
    {
        match character {
            '"' | '\'' => {
                if scanner.string().is_none() {
                    return false; // The parser stops here as well.
                }
                continue;
            }
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return true;
        }
        scanner.at += character.len_utf8();
    }
    false
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    spots: Vec<Spot>,
}

impl<'a> Scanner<'a> {
    fn value(&mut self, path: &Path, key_at: Option<usize>, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.skip_blanks()?;
        let start = self.at;
        let slot = self.spots.len();
        self.spots.push(Spot {
            path: path.clone(),
            bytes: start..start,
            start: key_at.unwrap_or(start),
        });
        match self.peek()? {
            '{' => self.object(path, depth)?,
            '[' => self.array(path, depth)?,
            '"' | '\'' => drop(self.string()?),
            _ => drop(self.word()?),
        }
        self.spots[slot].bytes.end = self.at;
        Some(())
    }

    fn object(&mut self, path: &Path, depth: usize) -> Option<()> {
        self.expect('{')?;
        loop {
            self.skip_blanks()?;
            if self.take('}') {
                return Some(());
            }
            let key_at = self.at;
            let key = self.key()?;
            self.skip_blanks()?;
            self.expect(':')?;
            self.value(&path.key(&key), Some(key_at), depth + 1)?;
            self.skip_blanks()?;
            if !self.take(',') {
                return self.expect('}');
            }
        }
    }

    fn array(&mut self, path: &Path, depth: usize) -> Option<()> {
        self.expect('[')?;
        for index in 0.. {
            self.skip_blanks()?;
            if self.take(']') {
                return Some(());
            }
            self.value(&path.index(index), None, depth + 1)?;
            self.skip_blanks()?;
            if !self.take(',') {
                return self.expect(']');
            }
        }
        None
    }

    fn key(&mut self) -> Option<String> {
        match self.peek()? {
            '"' | '\'' => json5::from_str(self.string()?).ok(),
            _ => {
                let word = self.word()?;
                if !word.contains('\\') {
                    return Some(word.into());
                }
                json5::from_str(&format!("\"{word}\"")).ok()
            }
        }
    }

    /// A number, a literal or a bare key.
    fn word(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let ends = |character: char| {
            is_blank(character) || matches!(character, ',' | ':' | '}' | ']' | '{' | '[' | '/')
        };
        let length = rest.find(ends).unwrap_or(rest.len());
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        let quote = self.peek()?;
        self.at += 1;
        while let Some(character) = self.peek() {
            self.at += character.len_utf8();
            match character {
                '\\' => self.at += self.peek()?.len_utf8(),
                character if character == quote => return Some(&self.text[start..self.at]),
                _ => {}
            }
        }
        None
    }

    fn skip_blanks(&mut self) -> Option<()> {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start_matches(is_blank);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                let ends = |character| matches!(character, '\n' | '\r' | '\u{2028}' | '\u{2029}');
                self.at += trimmed.find(ends).unwrap_or(trimmed.len());
            } else if let Some(comment) = trimmed.strip_prefix("/*") {
                self.at += comment.find("*/")? + 4;
            } else {
                return Some(());
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.take(wanted).then_some(())
    }
}

fn is_blank(character: char) -> bool {
    character.is_whitespace() || character == '\u{feff}'
}

/// Reads a path as it is shown: `a.b[0]["c.d"]`. Whatever is not of this form
/// is part of a key.
impl std::str::FromStr for Path {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (step, after) = first_step(rest);
            steps.push(step);
            rest = after;
        }
        Ok(Self(steps))
    }
}

fn first_step(text: &str) -> (Step, &str) {
    if let Some((step, after)) = text.strip_prefix('[').and_then(bracketed) {
        return (step, after.strip_prefix('.').unwrap_or(after));
    }
    // A bracket at the very beginning that is no index is part of the key.
    let end =
        text.char_indices().skip(1).find(|(_, sign)| matches!(sign, '.' | '[')).map(|at| at.0);
    let end = if text.starts_with('.') { Some(0) } else { end };
    let (key, after) = text.split_at(end.unwrap_or(text.len()));
    (Step::Key(key.into()), after.strip_prefix('.').unwrap_or(after))
}

/// Reads what stands between brackets, the first of which is gone.
fn bracketed(text: &str) -> Option<(Step, &str)> {
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let key = values.next()?.ok()?;
        let after = text[values.byte_offset()..].strip_prefix(']')?;
        return Some((Step::Key(key), after));
    }
    let (index, after) = text.split_once(']')?;
    Some((Step::Index(index.parse().ok()?), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"// A comment with { and "
{
  gateway: { port: 18789, /* , */ 'bind': "lan" },
  "agents": { list: [ { id: 'a}b' }, { id: "b\"" }, ], },
  n: -.5e3, k\u0065y: [NaN, 0xdecaf]
}
"#;

    fn at(path: &str) -> Option<(usize, usize)> {
        position(TEXT, &path.parse().unwrap()).map(|found| (found.line, found.column))
    }

    #[test]
    fn every_value_is_found() {
        assert_eq!(at("gateway"), Some((3, 3)));
        assert_eq!(at("gateway.bind"), Some((3, 35)));
        assert_eq!(at("agents.list[1]"), Some((4, 38)));
        assert_eq!(at("agents.list[1].id"), Some((4, 40)));
        assert_eq!(at("key[1]"), Some((5, 29)));
        assert_eq!(at("nothing"), None);
        let spots = spots(TEXT).unwrap();
        let id = spots.iter().find(|spot| spot.path.to_string() == "agents.list[0].id").unwrap();
        assert_eq!(&TEXT[id.bytes.clone()], "'a}b'");
    }

    #[test]
    fn a_path_is_read_as_it_is_shown() {
        let steps = [
            Step::Key("a".into()),
            Step::Index(3),
            Step::Key("b.c\"[1]".into()),
            Step::Key(String::new()),
            Step::Key("d e/f".into()),
        ];
        let path = Path(steps.to_vec());
        assert_eq!(path.to_string(), r#"a[3]["b.c\"[1]"][""].d e/f"#);
        assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
        let odd: Path = "a[x].b".parse().unwrap();
        assert_eq!(odd.0[0], Step::Key("a".into()));
    }

    #[test]
    fn depth_is_measured_outside_of_strings_and_comments() {
        let deep = "[".repeat(DEEPEST + 1);
        assert!(is_too_deep(&deep));
        assert!(is_too_deep(&format!("{{a:'x',b:{deep}")));
        assert!(is_too_deep(&format!("// x\r{deep}")));
        assert!(!is_too_deep(&format!("'{deep}'")));
        assert!(!is_too_deep(&format!("/*{deep}*/ // {deep}")));
        assert!(!is_too_deep(&"[".repeat(DEEPEST)));
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["", "{", "\"", "'\\", "{a", "{a:", "[1,,", "/*", "/", "\u{feff}{é:'ü\\", "}"]
        {
            assert!(spots(text).is_none(), "{text}");
            assert!(!is_too_deep(text), "{text}");
        }
    }
}
