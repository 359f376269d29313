//! How a command line is written for people.
//!
//! Whoever approves a command, or reads later what ran, sees this text. It is
//! made from the words that are executed and never from what a caller says about
//! them, and it reads back as exactly these words: in Bash, pasting it runs the
//! same. So words that need it are quoted, and what a terminal would hide,
//! reorder or act upon is written as an escape.

use std::fmt::Write as _;

/// Longest text that is kept or reported of one command line, in bytes. A script
/// may have megabytes; the approvals file and a chat must stay readable.
const SHOWN_BYTES: usize = 8 * 1024;

/// Writes words as a command line that reads back as these words, cut when it is
/// too long, with the number of bytes that are missing.
pub(super) fn command_line(argv: &[String]) -> String {
    let words: Vec<String> =
        argv.iter().enumerate().map(|(at, word)| quoted(word, at == 0)).collect();
    cut(words.join(" "), SHOWN_BYTES)
}

/// Quotes one word where a shell would need it.
fn quoted(word: &str, is_program: bool) -> String {
    let bare =
        |c: char| c.is_ascii_alphanumeric() || "_@%+:,./-".contains(c) || (c == '=' && !is_program);
    if !word.is_empty() && word.chars().all(bare) {
        return word.to_owned();
    }
    if word.chars().any(is_hidden) {
        return escaped(word);
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes a word in Bash's `$'…'`, where every character can be spelled.
fn escaped(word: &str) -> String {
    let mut text = String::from("$'");
    for c in word.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '\n' => text.write_str("\\n"),
            '\r' => text.write_str("\\r"),
            '\t' => text.write_str("\\t"),
            '\'' | '\\' => write!(text, "\\{c}"),
            c if !is_hidden(c) => text.write_char(c),
            c if c.is_ascii() => write!(text, "\\x{:02x}", u32::from(c)),
            c if u32::from(c) <= 0xffff => write!(text, "\\u{:04x}", u32::from(c)),
            c => write!(text, "\\U{:08x}", u32::from(c)),
        };
    }
    text.push('\'');
    text
}

/// Shortens a text to a limit and says how much is missing.
fn cut(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let end = text.floor_char_boundary(limit);
    format!("{}… {} more bytes", &text[..end], grouped(text.len() - end))
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns whether a character shows nothing, looks like a plain space without
/// being one, or changes how the text around it looks.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn shown(words: &[&str]) -> String {
        command_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn plain_words_are_shown_as_they_are_and_others_quoted() {
        assert_eq!(shown(&["git", "log", "--color=always"]), "git log --color=always");
        assert_eq!(shown(&["rm", "-rf", "my files"]), "rm -rf 'my files'");
        assert_eq!(shown(&["sh", "-c", "it's | x"]), r"sh -c 'it'\''s | x'");
        assert_eq!(shown(&["A=b", "", "~", "*"]), "'A=b' '' '~' '*'");
        assert_eq!(shown(&["echo", "grüße"]), "echo 'grüße'");
    }

    #[test]
    fn what_hides_or_reorders_is_escaped() {
        assert_eq!(
            shown(&["a\u{202e}b", "\u{a0}", "x\ny", "\u{1b}[31m", "\u{200b}"]),
            r"$'a\u202eb' $'\u00a0' $'x\ny' $'\x1b[31m' $'\u200b'"
        );
        assert_eq!(shown(&["\u{e0041}", "\\'\t"]), r"$'\U000e0041' $'\\\'\t'");
    }

    #[test]
    fn a_shell_reads_the_shown_text_as_the_same_words() {
        let words = [
            "printf",
            "%s\\0",
            "a b",
            "it's",
            "\"",
            "\\",
            "\\'",
            "$(id)",
            "`id`",
            "*",
            "~",
            "!x",
            "\u{202e}x",
            "x\ny\t",
            "",
            "grüße",
            "\u{e0041}",
            "#",
            ";",
            "a=b",
            "-n",
        ];
        let output = Command::new("bash")
            .args(["-c", &shown(&words)])
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words[2..]);
    }

    #[test]
    fn a_long_command_says_how_much_of_it_is_missing() {
        let shown = shown(&["echo", &"ä".repeat(SHOWN_BYTES)]);
        let (kept, missing) = shown.split_once("… ").unwrap();
        assert!(kept.len() <= SHOWN_BYTES);
        let whole = "echo ''".len() + 2 * SHOWN_BYTES;
        assert_eq!(missing, format!("{} more bytes", grouped(whole - kept.len())));
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
    }
}
