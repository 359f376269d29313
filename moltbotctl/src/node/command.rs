//! What a command line would start. A shell's script is taken apart only as far
//! as it is certain what it does; anything else counts as unknown.

use std::path::{Path, PathBuf};

use super::programs::Programs;

/// Shells whose `-c` takes a script.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "ash"];
/// Characters that make a script do more than run programs with fixed words.
const UNCERTAIN: [char; 14] =
    ['$', '`', '(', ')', '<', '>', '{', '}', '\n', '\r', '#', '!', '\0', '\\'];

/// A command line in the shapes the policy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// What is executed.
    pub(super) argv: Vec<String>,
    /// The same for people.
    pub(super) text: String,
    script: Option<String>,
}

impl CommandLine {
    /// Reads the parameters of `system.run`. The text a caller shows must be what
    /// is executed.
    pub(super) fn parse(argv: Vec<String>, raw: Option<&str>) -> Result<Self, &'static str> {
        let script = script(&argv).map(ToOwned::to_owned);
        let joined = joined(&argv);
        let raw = raw.map(str::trim).filter(|raw| !raw.is_empty());
        let text = match (raw, &script) {
            (None, _) => joined,
            (Some(raw), Some(script)) if raw == script.trim() => raw.to_owned(),
            (Some(raw), _) if raw == joined || raw == argv.join(" ") => raw.to_owned(),
            _ => return Err("rawCommand does not match command"),
        };
        Ok(Self { argv, text, script })
    }

    /// Returns every program that would be started, or `None` when that is not
    /// certain. The first list is the command itself, the second what a shell's
    /// script starts.
    pub(super) fn programs(&self, programs: &Programs, path: &str, folder: &Path) -> Found {
        let find = |name: &str| programs.find(name, path, folder);
        let script = self.script.as_deref().and_then(first_words);
        Found {
            command: self.argv.first().and_then(|name| find(name)),
            script: script.and_then(|names| names.iter().map(|name| find(name)).collect()),
            is_shell: self.script.is_some(),
        }
    }
}

/// The programs of a command line.
#[derive(Debug)]
pub(super) struct Found {
    /// The program that is executed.
    pub(super) command: Option<PathBuf>,
    /// The programs of a shell's script, when all are certain.
    pub(super) script: Option<Vec<PathBuf>>,
    /// Whether the command is a shell with a script.
    pub(super) is_shell: bool,
}

fn script(argv: &[String]) -> Option<&str> {
    let [shell, flag, script] = argv else { return None };
    let name = Path::new(shell).file_name()?.to_str()?;
    let takes_script = matches!(flag.as_str(), "-c" | "-lc" | "-cl");
    (SHELLS.contains(&name) && takes_script).then_some(script)
}

/// Returns the first word of every part of a script that only runs programs one
/// after the other or through pipes.
fn first_words(script: &str) -> Option<Vec<String>> {
    let mut firsts = Vec::new();
    for part in parts(script)? {
        let first = words(&part)?.into_iter().next()?;
        // An assignment changes what the next word is; a pattern is a file's choice.
        if first.contains(['=', '*', '?', '[', '~']) {
            return None;
        }
        firsts.push(first);
    }
    Some(firsts)
}

/// Splits at `|`, `&&`, `||` and `;` outside quotes.
fn parts(script: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut rest = script.trim().chars().peekable();
    while let Some(c) = rest.next() {
        let within_single = quote == Some('\'');
        if !within_single && UNCERTAIN.contains(&c) {
            return None;
        }
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '&') if rest.next_if_eq(&'&').is_some() => {
                parts.push(String::new());
                continue;
            }
            (None, '&') => return None,
            (None, '|') => {
                let _ = rest.next_if_eq(&'|'); // `|` and `||` both end a part.
                if rest.peek() == Some(&'&') {
                    return None;
                }
                parts.push(String::new());
                continue;
            }
            (None, ';') => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut()?.push(c);
    }
    if parts.len() > 1
        && parts.last().is_some_and(|last| last.trim().is_empty())
        && script.trim().ends_with(';')
    {
        parts.pop();
    }
    (quote.is_none() && parts.iter().all(|part| !part.trim().is_empty())).then_some(parts)
}

/// Splits a part into words and removes the quotes.
fn words(part: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in part.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn joined(argv: &[String]) -> String {
    let quoted = |word: &String| match word.trim() {
        "" => "\"\"".to_owned(),
        word if word.contains(|c: char| c.is_whitespace() || c == '"') => {
            format!("\"{}\"", word.replace('"', "\\\""))
        }
        word => word.to_owned(),
    };
    argv.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_script_of_plain_programs_is_taken_apart() {
        let firsts = |script| first_words(script).unwrap();
        assert_eq!(firsts("git log --oneline | head -3"), ["git", "head"]);
        assert_eq!(firsts("cd /tmp && ls; pwd || true;"), ["cd", "ls", "pwd", "true"]);
        assert_eq!(firsts("'my tool' 'a | b; $(c)' \"x && y\""), ["my tool"]);
    }

    #[test]
    fn whatever_could_do_more_is_unknown() {
        for script in [
            "echo $(id)",
            "echo `id`",
            "echo $HOME",
            "cat < /etc/passwd",
            "echo x > /tmp/y",
            "sleep 9 &",
            "a |& b",
            "(id)",
            "{ id; }",
            "ls\nid",
            "A=1 id",
            "l* x",
            "~/x",
            "a \\; b",
            "echo \"$(id)\"",
            "echo 'open",
            "",
            " ; ",
            "a | | b",
            "a &&",
            "!id",
            "a # b",
        ] {
            assert_eq!(first_words(script), None, "{script}");
        }
    }

    #[test]
    fn shown_text_must_be_the_executed_text() {
        let shell = argv(&["/bin/sh", "-lc", "ls | wc"]);
        assert_eq!(CommandLine::parse(shell.clone(), Some("ls | wc")).unwrap().text, "ls | wc");
        assert!(CommandLine::parse(shell, Some("ls")).is_err());
        let plain = argv(&["rm", "-rf", "my files"]);
        assert!(CommandLine::parse(plain.clone(), Some("ls")).is_err());
        let line = CommandLine::parse(plain.clone(), None).unwrap();
        assert_eq!(line.text, "rm -rf \"my files\"");
        assert!(CommandLine::parse(plain, Some("rm -rf my files")).is_ok());
    }

    #[test]
    fn only_a_shell_with_one_script_is_a_shell() {
        assert!(script(&argv(&["/bin/bash", "-c", "ls"])).is_some());
        assert!(script(&argv(&["git", "-c", "ls"])).is_none());
        assert!(script(&argv(&["sh", "-c", "ls", "x"])).is_none());
    }
}
