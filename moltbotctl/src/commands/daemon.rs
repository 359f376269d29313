//! What only the daemon's program can do, because it knows the database: it is
//! found and run, and what it prints and its exit code are passed on.

use std::{
    env,
    ffi::OsString,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context as _;
use moltbot_protocol::methods::config::ConfigPlanned;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use crate::{
    context::{Context, helped},
    running::Running,
};

const PROGRAM: &str = "moltbotd";

/// How much is kept of what the program complains about; one sentence is usual.
const LONGEST_COMPLAINT_BYTES: u64 = 64 * 1024;

/// Runs `moltbotd state …` for the chosen profile.
///
/// # Errors
/// When the program cannot be found or started.
pub fn state(cx: &Context, arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let mut child = command(cx, arguments)?
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {PROGRAM}"))?;

    let mut complaint = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.by_ref().take(LONGEST_COMPLAINT_BYTES).read_to_end(&mut complaint)?;
        // It must not wait for a reader.
        io::copy(&mut stderr, &mut io::sink())?;
    }
    let status = child.wait()?;
    if !complaint.is_empty() {
        pass_on(cx, &String::from_utf8_lossy(&complaint));
    }

    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Says what the program complained about as this program says it. It puts what helps behind the
/// last semicolon.
fn pass_on(cx: &Context, complaint: &str) {
    let own = complaint.trim_end().strip_prefix("moltbotd: ").filter(|_| !cx.output.json);
    let Some(own) = own else { return cx.output.remark(complaint.trim_end()) };
    match own.rsplit_once("; ") {
        Some((message, advice)) => cx.output.error(message, None, Some(advice)),
        None => cx.output.error(own, None, None),
    }
}

/// Runs `moltbotd state …` and returns its exit code, what it printed as JSON
/// and what it complained about.
///
/// # Errors
/// When the program cannot be found or started.
pub fn ask(cx: &Context, arguments: Vec<OsString>) -> anyhow::Result<(Option<i32>, Value, String)> {
    let mut command = command(cx, arguments)?;
    if !cx.output.json {
        command.arg("--json");
    }
    let output = command.output().with_context(|| format!("cannot start {PROGRAM}"))?;
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Ok((output.status.code(), value, complaint(&output.stderr)))
}

/// Returns what the program says went wrong: in JSON, or as a version before
/// that said it.
fn complaint(stderr: &[u8]) -> String {
    let error: Value = serde_json::from_slice(stderr).unwrap_or(Value::Null);
    let text = error["error"]["message"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| String::from_utf8_lossy(stderr).trim().to_owned())
}

/// Runs `moltbotd plan` for the chosen profile, or for another `file`.
/// Returns its answer; `None` where the program is not installed.
///
/// # Errors
/// When the program fails.
pub fn plan(
    cx: &Context,
    file: Option<&Path>,
    request: &Value,
) -> anyhow::Result<Option<ConfigPlanned>> {
    let Ok(program) = find(cx) else { return Ok(None) };
    let mut command = Command::new(program);
    let mut flags = cx.daemon_flags.clone();
    if let Some(file) = file {
        if let Some(at) = flags.iter().position(|flag| flag == "--config") {
            flags.drain(at..(at + 2).min(flags.len()));
        }
        flags.extend(["--config".into(), file.into()]);
    }
    command.args(flags).envs(cx.daemon_variables.iter().map(|(name, path)| (name, path)));
    let mut child = command
        .arg("plan")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {PROGRAM}"))?;
    // It reads everything before it writes anything.
    if let Some(mut input) = child.stdin.take() {
        input.write_all(request.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        anyhow::bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let answer = serde_json::from_slice(&output.stdout);
    answer.map(Some).with_context(|| format!("cannot understand the answer of {PROGRAM}"))
}

/// Returns the program with everything it needs to be told.
fn command(cx: &Context, arguments: Vec<OsString>) -> anyhow::Result<Command> {
    let mut command = Command::new(find(cx)?);
    command.envs(cx.daemon_variables.iter().map(|(name, path)| (name, path)));
    command.args(&cx.daemon_flags).arg("state").args(arguments).stdin(Stdio::null());
    if cx.output.json {
        command.arg("--json");
    }
    Ok(command)
}

/// Returns the daemon's program: the one installed with this one, one on the
/// path, or the one that runs.
fn find(cx: &Context) -> anyhow::Result<PathBuf> {
    let beside = env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    let path = cx.environment.var("PATH").unwrap_or_default();
    let on_path = env::split_paths(path).filter(|folder| folder.is_absolute());
    let running = Running::find(&cx.paths).map(|gateway| format!("/proc/{}/exe", gateway.pid));
    beside
        .into_iter()
        .chain(on_path.map(|folder| folder.join(PROGRAM)))
        .chain(running.map(PathBuf::from))
        .find(|program| program.is_file() && access(program, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| {
            helped(
                format!("{PROGRAM} is neither beside moltbotctl nor on the PATH"),
                format!(
                    "this needs the daemon's program: install {PROGRAM}, or add its folder to PATH"
                ),
            )
        })
}
