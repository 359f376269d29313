//! The subset of the shell's language whose effect is certain before it runs.
//!
//! An allowlist of programs holds for a script only if the programs it starts
//! are known. So a script is either made of this, or counts as unknown and is
//! never allowed by a list:
//!
//! * simple commands, joined by `&&`, `||`, `;` or `|`;
//! * words separated by ASCII spaces and tabs, the only separators that every
//!   shell in every locale takes for such;
//! * words of plain characters, or quoted with `'…'` or `"…"`, each taken
//!   literally: no expansion, substitution, redirection, pattern, escape,
//!   assignment, background, group, comment, or second line;
//! * outside quotes ASCII only, and nowhere a character that is a control
//!   character, is not visible, or looks like a space;
//! * as the first word of a command the name or path of a program. Reserved words
//!   and builtins are no programs: `printf -v`, `test -v`, `eval`, `exec` and
//!   others run or change more than the file of their name would. Four builtins
//!   that can do no more than the programs of the same name are let through.
//!
//! Everything a shell would find surprising in it is refused instead of
//! interpreted, because a second parser that nearly agrees with the shell is
//! what an attacker looks for.

use super::shown::is_hidden;

/// Characters with a meaning of their own outside quotes; `&`, `|` and `;` are
/// looked at one by one.
const SPECIAL: &str = "$`()<>{}#!\\*?[]^";
/// Characters with a meaning of their own within double quotes.
const SPECIAL_IN_DOUBLE: &str = "$`\\!";
/// What a shell does itself although it could be a program's name. Names that
/// are reserved or built into sh, dash or Bash.
const NO_PROGRAMS: &[&str] = &[
    ".",
    ":",
    "[",
    "[[",
    "]]",
    "alias",
    "autoload",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "newgrp",
    "popd",
    "printf",
    "pushd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "while",
    "whence",
    "print",
    "noglob",
    "nocorrect",
    "repeat",
    "foreach",
];

/// Returns the words of every command of a script, or `None` when the script is
/// not made of the documented subset.
pub(super) fn commands(script: &str) -> Option<Vec<Vec<String>>> {
    let mut parser = Parser::default();
    let mut rest = script.chars().peekable();
    while let Some(c) = rest.next() {
        if is_hidden(c) && c != '\t' {
            return None;
        }
        match (parser.quote, c) {
            (Some(open), c) if open == c => parser.quote = None,
            (Some('"'), c) if SPECIAL_IN_DOUBLE.contains(c) => return None,
            (Some(_), c) => parser.word().push(c),
            (None, '\'' | '"') => {
                parser.quote = Some(c);
                parser.word();
            }
            (None, ' ' | '\t') => parser.end_word(),
            (None, ';') => parser.end_command()?,
            (None, '&') => {
                rest.next_if_eq(&'&')?;
                parser.end_command()?;
            }
            (None, '|') => {
                // `|` and `||` both end a command; `|&` also redirects.
                let _ = rest.next_if_eq(&'|');
                parser.end_command()?;
            }
            (None, c) if SPECIAL.contains(c) || !c.is_ascii() => return None,
            // A home folder where a word, or a part of it after `:` or `=`, begins.
            (None, '~') if parser.word().is_empty() || parser.word().ends_with([':', '=']) => {
                return None;
            }
            (None, c) => parser.word().push(c),
        }
    }
    parser.finish(script)
}

#[derive(Default)]
struct Parser {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
    quote: Option<char>,
}

impl Parser {
    fn word(&mut self) -> &mut String {
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) -> Option<()> {
        self.end_word();
        is_command(&self.words).then(|| self.commands.push(std::mem::take(&mut self.words)))
    }

    fn finish(mut self, script: &str) -> Option<Vec<Vec<String>>> {
        self.end_word();
        // One `;` may stand at the end, nothing else that expects a command.
        let ended = self.words.is_empty() && script.trim_end_matches([' ', '\t']).ends_with(';');
        if self.quote.is_some() || (!ended && self.end_command().is_none()) {
            return None;
        }
        (!self.commands.is_empty()).then_some(self.commands)
    }
}

fn is_command(words: &[String]) -> bool {
    words.first().is_some_and(|first| {
        // `A=b` assigns, `=ls` is a path in some shells, `-x` is no name.
        !first.is_empty()
            && !first.contains('=')
            && !first.starts_with(['-', '%'])
            && !NO_PROGRAMS.contains(&first.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_plain_programs_is_taken_apart() {
        let parsed = |script| commands(script).unwrap();
        assert_eq!(
            parsed("git log --oneline | head -3"),
            [vec!["git", "log", "--oneline"], vec!["head", "-3"]]
        );
        assert_eq!(parsed("ls;\tpwd || true && id ;"), [["ls"], ["pwd"], ["true"], ["id"]]);
        assert_eq!(
            parsed("'my tool' 'a | b; $(c)' \"x && y\" a'b'\"c\" ''"),
            [["my tool", "a | b; $(c)", "x && y", "abc", ""]]
        );
        assert_eq!(parsed("git show HEAD~3"), [["git", "show", "HEAD~3"]]);
        assert_eq!(parsed("git commit -m 'grüße'"), [["git", "commit", "-m", "grüße"]]);
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
            "a & b",
            "a |& b",
            "a &| b",
            "(id)",
            "{ id; }",
            "ls\nid",
            "ls\rid",
            "A=1 id",
            "=ls",
            "l* x",
            "ls *",
            "ls ?",
            "ls [a]",
            "~/x",
            "ls ~",
            "ls a:~",
            "ls ''~",
            "a \\; b",
            "a\\\nb",
            "echo \"$(id)\"",
            "echo \"`id`\"",
            "echo \"a\\\"b\"",
            "echo 'open",
            "echo \"open",
            "",
            " ",
            ";",
            " ; ",
            ";a",
            "a;;",
            "a ; ; b",
            "a | | b",
            "a ||| b",
            "a &&",
            "a &&& b",
            "a |",
            "a ||",
            "!id",
            "! id",
            "a # b",
            "a^b",
            "'' a",
            "-a",
            "%1",
            "\u{0}",
        ] {
            assert_eq!(commands(script), None, "{script:?}");
        }
    }

    #[test]
    fn what_is_no_ascii_space_separates_nothing_and_makes_a_script_unknown() {
        for c in [
            '\u{a0}',
            '\u{1680}',
            '\u{2002}',
            '\u{2028}',
            '\u{2029}',
            '\u{202f}',
            '\u{205f}',
            '\u{3000}',
            '\u{feff}',
            '\u{85}',
            '\u{b}',
            '\u{c}',
            '\u{1b}',
            '\u{7f}',
            '\u{200b}',
            '\u{202e}',
            '\u{2066}',
            '\u{ad}',
            '\u{e0020}',
        ] {
            for script in [format!("true{c}x"), format!("true {c}"), format!("true '{c}'")] {
                assert_eq!(commands(&script), None, "{script:?}");
            }
        }
        assert_eq!(commands("trueé x"), None, "outside quotes a locale decides what separates");
    }

    #[test]
    fn builtins_and_reserved_words_are_no_programs() {
        for script in [
            "printf -v PATH /evil; ls",
            "test -v 'a[$(id)]'",
            "[ -v 'a[$(id)]' ]",
            "eval id",
            "exec id",
            ". ./x",
            "source x",
            "command id",
            "builtin eval id",
            "time id",
            "cd /x && ls",
            "if true; then id; fi",
            "alias ls=id; ls",
            "trap 'id' EXIT",
            "export PATH",
            "hash -p /x ls",
            "'eval' id",
        ] {
            assert_eq!(commands(script), None, "{script:?}");
        }
    }

    /// What the shells make of a script of the subset is what was parsed.
    #[test]
    fn the_shells_agree_with_the_parser() {
        for script in ["m 'a b' \"c;d\"\te''f '$(x)'", "m x ; m y~z", "m a&&m b; m 'ä'"] {
            let words = commands(script).unwrap();
            let parsed: String = words
                .iter()
                .flat_map(|words| {
                    words[1..].iter().map(|word| format!("[{word}]")).chain(["\n".into()])
                })
                .collect();
            for shell in ["sh", "bash"] {
                let traced = format!("m() {{ printf '[%s]' \"$@\"; printf '\\n'; }}\n{script}");
                let output =
                    std::process::Command::new(shell).args(["-c", &traced]).output().unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap(), parsed, "{shell} {script}");
            }
        }
        assert_eq!(commands("m ä"), None, "a letter outside quotes is not ASCII");
    }
}
