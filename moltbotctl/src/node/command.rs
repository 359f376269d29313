//! What a command line would start.
//!
//! The policy looks at programs, the caller at a text, the kernel at words. This
//! is where the three are made to agree: the text that is shown is written from
//! the words that run, and a shell's script counts only as far as it is certain
//! which programs it starts (see [`super::script`]).

use std::path::{Path, PathBuf};

use super::{programs::Programs, script, shown};

/// Programs that run whatever they are given. None of them is put on an
/// allowlist for good because one of its command lines was approved.
const RUNNERS: &[&str] = &[
    "ash", "bash", "busybox", "csh", "dash", "doas", "env", "fish", "ksh", "mksh", "nice", "nohup",
    "pwsh", "rbash", "setsid", "sh", "stdbuf", "sudo", "tcsh", "timeout", "toybox", "xargs",
    "yash", "zsh",
];
/// Shells whose language the parsed subset belongs to and that read no file of
/// their own when started with `-c`; zsh, for one, always reads its `zshenv`.
const PARSED_SHELLS: [&str; 3] = ["sh", "bash", "dash"];
/// Where a shell must lie for its script to be looked at. A file of that name
/// anywhere else could be anything.
const SHELL_FOLDERS: [&str; 2] = ["/bin", "/usr/bin"];

/// A command line in the shapes the policy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// What is executed.
    pub(super) argv: Vec<String>,
    /// The same for people.
    pub(super) text: String,
}

impl CommandLine {
    /// Reads the parameters of `system.run`.
    ///
    /// OpenClaw's gateway asks for a login shell (`/bin/sh -lc SCRIPT`) each time.
    /// Start-up files may do anything, so the shell is started without `-l`, and
    /// that is what is shown.
    ///
    /// # Errors
    /// When the text that the caller has shown stands for other words.
    pub(super) fn parse(mut argv: Vec<String>, raw: Option<&str>) -> Result<Self, &'static str> {
        if raw.is_some_and(|raw| !raw.trim().is_empty() && !stands_for(raw.trim(), &argv)) {
            return Err("rawCommand does not match command");
        }
        if let [shell, flag, _] = argv.as_mut_slice()
            && is_named(shell, &PARSED_SHELLS)
            && matches!(flag.as_str(), "-lc" | "-cl")
        {
            "-c".clone_into(flag);
        }
        let text = shown::command_line(&argv);
        Ok(Self { argv, text })
    }

    /// Returns every program that would be started, as far as that is certain.
    pub(super) fn programs(&self, programs: &Programs, folder: &Path) -> Found {
        let command = self.argv.first().and_then(|name| programs.find(name, folder));
        let script = self.script().filter(|_| command.as_deref().is_some_and(is_system_shell));
        let script = script.and_then(script::commands).and_then(|commands| {
            let firsts = commands.iter().filter_map(|words| words.first());
            firsts.map(|name| programs.find_literally(name, folder)).collect()
        });
        let is_runner = self.argv.first().is_some_and(|name| is_named(name, RUNNERS));
        Found { command, script, is_runner }
    }

    fn script(&self) -> Option<&str> {
        let [shell, flag, script] = self.argv.as_slice() else { return None };
        (is_named(shell, &PARSED_SHELLS) && flag == "-c").then_some(script)
    }
}

/// The programs of a command line.
#[derive(Debug)]
pub(super) struct Found {
    /// The program that is executed.
    pub(super) command: Option<PathBuf>,
    /// The programs of a shell's script, when all are certain.
    pub(super) script: Option<Vec<PathBuf>>,
    /// Whether the command runs whatever it is given, as a shell does.
    pub(super) is_runner: bool,
}

fn is_named(program: &str, names: &[&str]) -> bool {
    Path::new(program).file_name().is_some_and(|name| names.iter().any(|known| name == *known))
}

fn is_system_shell(program: &Path) -> bool {
    program
        .parent()
        .is_some_and(|folder| SHELL_FOLDERS.iter().any(|known| folder == Path::new(known)))
}

/// Returns whether a caller's text can only mean these words.
///
/// Unmodified gateways send one of two texts: the script of a shell, or OpenClaw's
/// own spelling of the words. Words joined by spaces without quotes, which the
/// first OpenClaw node hosts took too, are the same text for different words.
fn stands_for(raw: &str, argv: &[String]) -> bool {
    let is_script = match argv {
        [shell, flag, script] => {
            is_named(shell, RUNNERS)
                && matches!(flag.as_str(), "-c" | "-lc" | "-cl")
                && script.trim() == raw
        }
        _ => false,
    };
    is_script
        || shown::command_line(argv) == raw
        || openclaw_spelling(argv).is_some_and(|text| text.trim() == raw)
}

/// Writes words as OpenClaw does: in double quotes where they are empty or have a
/// space or a quote. A backslash in such a word would make it ambiguous.
fn openclaw_spelling(argv: &[String]) -> Option<String> {
    let quoted = |word: &String| {
        let needs_quotes = word.is_empty() || word.contains(|c: char| is_js_space(c) || c == '"');
        match (needs_quotes, word.contains('\\')) {
            (false, _) => Some(word.clone()),
            (true, false) => Some(format!("\"{}\"", word.replace('"', "\\\""))),
            (true, true) => None,
        }
    };
    Some(argv.iter().map(quoted).collect::<Option<Vec<_>>>()?.join(" "))
}

/// What `\s` matches in JavaScript.
const fn is_js_space(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn accepts(words: &[&str], raw: &str) -> bool {
        CommandLine::parse(argv(words), Some(raw)).is_ok()
    }

    #[test]
    fn shown_text_must_be_the_executed_text() {
        let plain = ["rm", "-rf", "my files"];
        assert_eq!(CommandLine::parse(argv(&plain), None).unwrap().text, "rm -rf 'my files'");
        assert!(accepts(&plain, "rm -rf 'my files'") && accepts(&plain, "rm -rf \"my files\""));
        for lie in ["ls", "rm -rf my files", "rm  -rf 'my files'", "rm -rf \"my  files\""] {
            assert!(!accepts(&plain, lie), "{lie}");
        }
        assert!(!accepts(&["rm", "-rf", " my files "], "rm -rf \"my files\""));
        assert!(!accepts(&["a", "b\u{a0}c"], "a b\u{a0}c"));
        // Two command lines that OpenClaw would write alike.
        assert!(!accepts(&["a \\", " x ", "z"], "\"a \\\" \" x \" z\""));
        // Whatever a caller wrote, the words that run are shown.
        let line = CommandLine::parse(argv(&plain), Some("rm -rf \"my files\"")).unwrap();
        assert_eq!(line.text, "rm -rf 'my files'");
    }

    /// The two texts that gateways of OpenClaw send with a script.
    #[test]
    fn a_script_may_be_shown_as_itself_and_runs_without_start_up_files() {
        let words = ["/bin/sh", "-lc", "ls | wc"];
        for raw in ["ls | wc", " ls | wc\n", "/bin/sh -lc \"ls | wc\""] {
            let line = CommandLine::parse(argv(&words), Some(raw)).unwrap();
            assert_eq!(line.argv, ["/bin/sh", "-c", "ls | wc"]);
            assert_eq!(line.text, "/bin/sh -c 'ls | wc'");
        }
        assert!(!accepts(&words, "ls"));
        assert!(accepts(&["sh", "-c", "ls"], ""), "an empty text says nothing");
    }

    #[test]
    fn only_a_system_shell_with_one_script_is_looked_into() {
        let programs = Programs::of_test();
        let found = |words: &[&str], folder: &str| {
            let line = CommandLine::parse(argv(words), None).unwrap();
            line.programs(&programs, Path::new(folder))
        };
        assert!(found(&["bash", "-c", "ls"], "/").script.is_some());
        assert!(found(&["sh", "-lc", "ls; ls"], "/").script.is_some());
        for words in [
            &["git", "-c", "ls"][..],
            &["sh", "-c", "ls", "x"],
            &["bash", "-l", "-c", "ls"],
            &["bash", "-ic", "ls"],
            &["bash", "--rcfile", "x", "-c", "ls"],
            &["zsh", "-c", "ls"],
            &["sh", "-c", "no-such-program"],
        ] {
            assert!(found(words, "/").script.is_none(), "{words:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("sh")).unwrap();
        let elsewhere = found(&["./sh", "-c", "ls"], folder.path().to_str().unwrap());
        assert!(elsewhere.command.is_some() && elsewhere.script.is_none());
    }

    #[test]
    fn a_tilde_in_a_script_is_not_the_home_folder() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", home.path().join("tool")).unwrap();
        let programs = Programs::of_test().at_home(home.path());
        let line = |words: &[&str]| CommandLine::parse(argv(words), None).unwrap();
        let found = line(&["~/tool"]).programs(&programs, Path::new("/"));
        assert_eq!(found.command, Some(home.path().join("tool")));
        assert!(
            line(&["sh", "-c", "'~/tool'"]).programs(&programs, Path::new("/")).script.is_none()
        );
    }
}
