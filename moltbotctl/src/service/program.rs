//! Programs of the host, called by their absolute paths and for a limited
//! time; and what is changed on the host, one step at a time.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::process::Command;

/// One change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file gets this text.
    Write {
        /// The file.
        path: PathBuf,
        /// Its whole text.
        text: String,
    },
    /// A file goes away.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// A program is run.
    Run {
        /// Its path and its arguments.
        command: Vec<String>,
    },
}

impl Step {
    /// Returns the step for programs.
    #[must_use]
    pub fn report(&self) -> Value {
        match self {
            Self::Write { path, text } => json!({ "write": path, "text": text }),
            Self::Remove { path } => json!({ "remove": path }),
            Self::Run { command } => json!({ "run": command }),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, text } => {
                writeln!(f, "write {}", path.display())?;
                text.lines().try_for_each(|line| writeln!(f, "    {line}"))
            }
            Self::Remove { path } => writeln!(f, "remove {}", path.display()),
            Self::Run { command } => writeln!(f, "run {}", shown(command)),
        }
    }
}

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Outcome {
    /// Returns whether it was content.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Returns the first line that says what is wrong.
    #[must_use]
    pub fn complaint(&self) -> String {
        let line =
            |text: &str| text.lines().map(str::trim).find(|it| !it.is_empty()).map(str::to_owned);
        line(&self.stderr).or_else(|| line(&self.stdout)).unwrap_or_else(|| match self.code {
            Some(code) => format!("exit code {code}"),
            None => "ended by a signal".to_owned(),
        })
    }
}

/// Why a program did not say anything.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not there.
    #[error("there is no {0} on this host")]
    Missing(String),
    /// It took too long and was ended.
    #[error("{command} did not end within {} s", .limit.as_secs())]
    Timeout {
        /// What was run.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The system said no.
    #[error("cannot run {command}: {source}")]
    Io {
        /// What was to be run.
        command: String,
        /// Why not.
        source: io::Error,
    },
}

/// Runs a program to its end. It gets no input and speaks the untranslated
/// language, because its words are read by a program.
///
/// # Errors
/// When it cannot be run or does not end in time.
pub async fn run(
    command: &[String],
    variables: &[(String, String)],
    limit: Duration,
) -> Result<Outcome, RunError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(RunError::Missing("program".into()));
    };
    if !Path::new(program).is_absolute() || !Path::new(program).exists() {
        return Err(RunError::Missing(program.clone()));
    }
    let running = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(output)) => Ok(Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        Ok(Err(source)) => Err(RunError::Io { command: shown(command), source }),
        Err(_) => Err(RunError::Timeout { command: shown(command), limit }),
    }
}

/// Returns a command as one types it into a shell.
#[must_use]
pub fn shown(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:=,+%".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_and_named() {
        let limit = Duration::from_millis(50);
        let error = run(&words(&["/bin/sleep", "1000"]), &[], limit).await.unwrap_err();
        assert!(matches!(error, RunError::Timeout { .. }));
        assert!(error.to_string().starts_with("/bin/sleep 1000 did not end"), "{error}");
    }

    #[tokio::test]
    async fn a_name_without_a_path_is_not_looked_up() {
        let error = run(&words(&["true"]), &[], Duration::from_secs(9)).await.unwrap_err();
        assert!(matches!(error, RunError::Missing(_)));
    }

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        assert_eq!(shown(&words(&["/bin/a", "b c", "it's", ""])), r"/bin/a 'b c' 'it'\''s' ''");
    }
}
