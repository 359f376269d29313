//! `system.run`: the policy, then the program.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    account::Account,
    approvals::{Approvals, Decision},
    command::CommandLine,
    execute::{self, Cancellation, Finished, Job},
    programs::Programs,
    shown,
};

/// Most characters of the output that an event carries.
const EVENT_CHARACTERS: usize = 20_000;

/// What is sent back.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Told to the session before the result.
    pub(super) event: Option<(&'static str, Value)>,
    /// The result, or code and message of the failure.
    pub(super) result: Result<Value, (&'static str, String)>,
}

impl Outcome {
    fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self { event: None, result: Err((code, message.into())) }
    }
}

struct Run<'a> {
    params: &'a Map<String, Value>,
    line: CommandLine,
    run_id: String,
}

/// Checks and runs a command.
pub(super) async fn run(
    approvals: &Approvals,
    account: &Account,
    params: &Map<String, Value>,
    cancellation: Cancellation,
) -> Outcome {
    let Some(argv) = argv(params) else {
        return Outcome::refused("INVALID_REQUEST", "command required");
    };
    let line = match CommandLine::parse(argv, params.get("rawCommand").and_then(Value::as_str)) {
        Ok(line) => line,
        Err(reason) => return Outcome::refused("INVALID_REQUEST", reason),
    };
    let run_id = text(params, "runId").map(ToOwned::to_owned);
    let run_id = run_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Run { params, line, run_id }.go(approvals, account, cancellation).await
}

impl Run<'_> {
    async fn go(
        self,
        approvals: &Approvals,
        account: &Account,
        cancellation: Cancellation,
    ) -> Outcome {
        let programs = Programs::new(account);
        let home = programs.home();
        let folder = text(self.params, "cwd").map(|cwd| crate::paths::expand(cwd, Some(home)));
        let at = folder.clone().or_else(|| std::env::current_dir().ok()).unwrap_or("/".into());

        let given = self.params.get("env").and_then(Value::as_object);
        let environment = match account.environment_for(given) {
            Ok(environment) => environment,
            Err(reason) => {
                let message = format!("SYSTEM_RUN_DENIED: environment refused: {reason}");
                return self.denied(&message, "environment");
            }
        };

        let found = self.line.programs(&programs, &at);
        let verdict = approvals.decide(
            text(self.params, "agentId"),
            &found,
            &self.line.text,
            home,
            decision(self.params),
        );
        match verdict {
            Err(error) => return Outcome::refused("UNAVAILABLE", error.to_string()),
            Ok(Err(denied)) => return self.denied(denied.message(), denied.reason()),
            Ok(Ok(())) => {}
        }
        if self.params.get("needsScreenRecording") == Some(&Value::Bool(true)) {
            let reason = "permission:screenRecording";
            return self.denied("PERMISSION_MISSING: screenRecording", reason);
        }
        let finished = match found.command {
            Some(program) => {
                let job = self.job(absolute(program, &at), folder, environment);
                execute::run(job, cancellation).await
            }
            None => {
                let name = shown::command_line(&self.line.argv[..1]);
                Finished::failed(format!("{name} is not a program on this node"))
            }
        };
        self.finished(&finished)
    }

    fn job(
        &self,
        program: PathBuf,
        folder: Option<PathBuf>,
        environment: Vec<(String, String)>,
    ) -> Job {
        let timeout = self.params.get("timeoutMs").and_then(Value::as_f64);
        let timeout = timeout.filter(|ms| *ms > 0.0 && ms.is_finite());
        Job {
            program,
            argv: self.line.argv.clone(),
            folder,
            environment,
            // Longer than the clock can tell is the same as never.
            timeout: timeout.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()),
        }
    }

    fn finished(self, finished: &Finished) -> Outcome {
        let mut payload = self.event();
        let mut result = json!({});
        if let Some(code) = finished.exit_code {
            payload["exitCode"] = code.into();
            result["exitCode"] = code.into();
        }
        payload["timedOut"] = finished.timed_out.into();
        payload["success"] = finished.success().into();
        payload["output"] = tail(finished).into();
        result["timedOut"] = finished.timed_out.into();
        result["success"] = finished.success().into();
        result["stdout"] = finished.stdout.clone().into();
        result["stderr"] = finished.stderr.clone().into();
        result["error"] = json!(finished.error);
        Outcome { event: Some(("exec.finished", payload)), result: Ok(result) }
    }

    fn denied(self, message: &str, reason: &str) -> Outcome {
        let mut payload = self.event();
        payload["reason"] = reason.into();
        let result = Err(("UNAVAILABLE", message.to_owned()));
        Outcome { event: Some(("exec.denied", payload)), result }
    }

    fn event(&self) -> Value {
        json!({
            "sessionKey": text(self.params, "sessionKey").unwrap_or("node"),
            "runId": self.run_id, "host": "node", "command": self.line.text,
        })
    }
}

fn argv(params: &Map<String, Value>) -> Option<Vec<String>> {
    let words = params.get("command")?.as_array()?;
    let words: Vec<String> = words
        .iter()
        .map(|word| word.as_str().map_or_else(|| word.to_string(), ToOwned::to_owned))
        .collect();
    let usable = words.first().is_some_and(|name| !name.trim().is_empty())
        && words.iter().all(|word| !word.contains('\0'));
    usable.then_some(words)
}

/// Only the gateway's own approval flow sets these; it drops those of clients.
fn decision(params: &Map<String, Value>) -> Decision {
    match (text(params, "approvalDecision"), params.get("approved")) {
        (Some("allow-always"), _) => Decision::Always,
        (Some("allow-once"), _) | (_, Some(Value::Bool(true))) => Decision::Once,
        _ => Decision::None,
    }
}

fn text<'a>(params: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    params.get(key)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

fn absolute(program: PathBuf, folder: &Path) -> PathBuf {
    let path = folder.join(program);
    std::path::absolute(&path).unwrap_or(path)
}

/// Returns the end of everything the program said.
fn tail(finished: &Finished) -> String {
    let error = finished.error.as_deref().unwrap_or_default();
    let parts = [finished.stdout.as_str(), &finished.stderr, error];
    let all = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    let all = all.trim();
    match all.char_indices().rev().nth(EVENT_CHARACTERS - 1) {
        Some((at, _)) if at > 0 => format!("... (truncated) {}", &all[at..]),
        _ => all.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        environment::Environment,
        node::{
            account::Additions,
            approvals::Ceiling,
            rules::{Ask, Security},
        },
    };

    async fn outcome(security: Security, params: Value) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let ceiling = Ceiling { security, ask: Ask::OnMiss };
        let approvals = Approvals::new(folder.path().join("a.json"), ceiling, false);
        let environment = Environment::of_process();
        let account = Account::of_process(&environment, &Additions::default()).unwrap();
        run(&approvals, &account, params.as_object().unwrap(), Cancellation::default()).await
    }

    #[tokio::test]
    async fn a_command_that_ran_has_the_documented_shape() {
        let params = json!({ "command": ["echo", "hello"], "runId": "r" });
        let outcome = outcome(Security::Full, params).await;
        assert_eq!(
            outcome.result.unwrap().to_string(),
            r#"{"exitCode":0,"timedOut":false,"success":true,"stdout":"hello\n","stderr":"","error":null}"#
        );
        let (name, payload) = outcome.event.unwrap();
        assert_eq!(name, "exec.finished");
        assert_eq!(
            payload.to_string(),
            r#"{"sessionKey":"node","runId":"r","host":"node","command":"echo hello","exitCode":0,"timedOut":false,"success":true,"output":"hello"}"#
        );
    }

    #[tokio::test]
    async fn a_denied_command_tells_the_session_why() {
        let outcome = outcome(Security::Allowlist, json!({ "command": ["echo"] })).await;
        let expected = ("UNAVAILABLE", "SYSTEM_RUN_DENIED: approval required".to_owned());
        assert_eq!(outcome.result.unwrap_err(), expected);
        let (name, payload) = outcome.event.unwrap();
        assert_eq!((name, &payload["reason"]), ("exec.denied", &json!("approval-required")));
    }

    #[tokio::test]
    async fn an_approved_command_runs() {
        let params = json!({ "command": ["echo"], "approved": true });
        assert_eq!(outcome(Security::Allowlist, params).await.result.unwrap()["success"], true);
        let params = json!({ "command": ["echo"], "approvalDecision": "allow-once" });
        assert_eq!(outcome(Security::Allowlist, params).await.result.unwrap()["success"], true);
    }

    #[tokio::test]
    async fn a_variable_that_may_not_be_set_is_named_and_nothing_runs() {
        let params = json!({ "command": ["echo"], "env": { "BASH_ENV": "x" } });
        let outcome = outcome(Security::Full, params).await;
        let (code, message) = outcome.result.unwrap_err();
        assert_eq!(code, "UNAVAILABLE");
        assert_eq!(
            message,
            "SYSTEM_RUN_DENIED: environment refused: BASH_ENV can change what a program runs and is \
             never passed"
        );
        assert_eq!(outcome.event.unwrap().1["reason"], "environment");
    }

    #[tokio::test]
    async fn what_is_no_command_is_refused() {
        for command in [json!(null), json!([]), json!("ls"), json!([""]), json!(["a\0b"])] {
            let outcome = outcome(Security::Full, json!({ "command": command })).await;
            let expected = ("INVALID_REQUEST", "command required".to_owned());
            assert_eq!(outcome.result.unwrap_err(), expected, "{command}");
        }
    }

    #[tokio::test]
    async fn the_screen_is_asked_for_after_the_policy() {
        let params = json!({ "command": ["echo"], "needsScreenRecording": true });
        let (_, message) = outcome(Security::Full, params.clone()).await.result.unwrap_err();
        assert_eq!(message, "PERMISSION_MISSING: screenRecording");
        let (_, message) = outcome(Security::Deny, params).await.result.unwrap_err();
        assert_eq!(message, "SYSTEM_RUN_DISABLED: security=deny");
    }

    #[tokio::test]
    async fn a_missing_program_is_a_result_not_a_failure() {
        let result =
            outcome(Security::Full, json!({ "command": ["no-such-program"] })).await.result;
        let result = result.unwrap();
        assert_eq!((&result["success"], result.get("exitCode")), (&json!(false), None));
        assert!(result["error"].as_str().unwrap().contains("no-such-program"));
    }

    #[test]
    fn an_event_carries_the_end_of_the_output() {
        let finished =
            Finished { stdout: "ä".repeat(EVENT_CHARACTERS + 5), ..Finished::default() };
        let tail = tail(&finished);
        assert!(tail.starts_with("... (truncated) ä"));
        assert_eq!(tail.chars().count(), EVENT_CHARACTERS + "... (truncated) ".len());
    }
}
