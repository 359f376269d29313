//! Runs a program without a shell: bounded output, bounded time, and an end that
//! reaches what the program started.

use std::{
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::family::Family;

/// Most that is kept of both outputs together; the rest is read and dropped.
const OUTPUT_BYTES: usize = 200_000;
/// A background process may keep the pipe open after the program has ended.
const LEFTOVER_WAIT: Duration = Duration::from_millis(500);

/// How long a program that is to end may take to do so by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Ends a running program from outside. Clones end the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cancellation {
    token: CancellationToken,
    reason: Arc<OnceLock<&'static str>>,
}

impl Cancellation {
    /// Ends the program; the first reason is the one that is reported.
    pub(super) fn cancel(&self, reason: &'static str) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    fn reason(&self) -> &'static str {
        self.reason.get().copied().unwrap_or("cancelled")
    }
}

/// What to run.
#[derive(Debug)]
pub(super) struct Job {
    /// The program's file.
    pub(super) program: PathBuf,
    /// The words of the command line, the first being the program's name.
    pub(super) argv: Vec<String>,
    pub(super) folder: Option<PathBuf>,
    /// All the program finds in its environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) timeout: Option<Duration>,
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Absent when it was killed or not started.
    pub(super) exit_code: Option<i32>,
    pub(super) timed_out: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) error: Option<String>,
}

impl Finished {
    pub(super) fn success(&self) -> bool {
        self.exit_code == Some(0) && !self.timed_out && self.error.is_none()
    }

    /// Returns a run that never started.
    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }
}

/// Why a program ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Own,
    Late,
    Cancelled,
}

/// Runs a job; cancelling ends it.
pub(super) async fn run(job: Job, cancellation: Cancellation) -> Finished {
    let name = job.argv.first().cloned().unwrap_or_default();
    let mark = uuid::Uuid::new_v4().to_string();
    let mut child = match start(&job, &mark) {
        Ok(child) => child,
        Err(error) => return Finished::failed(format!("cannot start {name}: {error}")),
    };
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let family = leader.map(|leader| Family::new(leader, mark));
    let room = Arc::new(AtomicUsize::new(OUTPUT_BYTES));
    let stdout = Capture::start(child.stdout.take(), room.clone());
    let stderr = Capture::start(child.stderr.take(), room);
    let (status, end) = wait(&mut child, family.as_ref(), job.timeout, &cancellation).await;
    let timed_out = end == End::Late;
    let ((stdout, stdout_cut), (stderr, stderr_cut)) =
        tokio::join!(stdout.finish(), stderr.finish());
    let mut finished = Finished {
        exit_code: status.as_ref().ok().and_then(ExitStatus::code).filter(|_| !timed_out),
        timed_out,
        stdout,
        stderr,
        error: match (status, end) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), End::Cancelled) => Some(format!("killed: {}", cancellation.reason())),
            (Ok(_), _) => None,
        },
    };
    if stdout_cut || stderr_cut {
        let text = if finished.stderr.trim().is_empty() {
            &mut finished.stdout
        } else {
            &mut finished.stderr
        };
        text.push_str("\n... (truncated)");
    }
    finished
}

/// The file that was checked is the file that is executed.
fn start(job: &Job, mark: &str) -> io::Result<Child> {
    let mut command = Command::new(&job.program);
    let mut words = job.argv.iter();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command.env_clear().envs(job.environment.iter().map(|(name, value)| (name, value)));
    command.env(Family::VARIABLE, mark);
    if let Some(folder) = &job.folder {
        command.current_dir(folder);
    }
    command.spawn()
}

async fn wait(
    child: &mut Child,
    family: Option<&Family>,
    timeout: Option<Duration>,
    cancellation: &Cancellation,
) -> (io::Result<ExitStatus>, End) {
    let late = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        status = child.wait() => return (status, End::Own),
        () = late => End::Late,
        () = cancellation.token.cancelled() => End::Cancelled,
    };
    let Some(family) = family else { return (child.wait().await, end) };

    // A program that is cancelled may put things in order; one that had its time has had it.
    if end == End::Cancelled {
        family.signal(Signal::SIGTERM);
        let _ = tokio::time::timeout(GRACE, child.wait()).await;
    }
    family.kill_all().await;
    (child.wait().await, end)
}

/// One output of a program: what is kept of it, and the task that reads it.
struct Capture {
    kept: Arc<Mutex<Kept>>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Capture {
    fn start(
        pipe: Option<impl AsyncRead + Send + Unpin + 'static>,
        room: Arc<AtomicUsize>,
    ) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let task = pipe.map(|pipe| tokio::spawn(read(pipe, room, kept.clone())));
        Self { kept, task }
    }

    /// Returns the text so far and whether some was dropped.
    async fn finish(self) -> (String, bool) {
        if let Some(mut task) = self.task {
            // Who still holds the pipe is not waited for.
            let _ = tokio::time::timeout(LEFTOVER_WAIT, &mut task).await;
            task.abort();
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (String::from_utf8_lossy(&kept.bytes).into_owned(), kept.cut)
    }
}

/// Keeps what fits and reads on, so that the program never blocks.
async fn read(mut pipe: impl AsyncRead + Unpin, room: Arc<AtomicUsize>, kept: Arc<Mutex<Kept>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let take = |free: usize| Some(free.saturating_sub(count));
        let free = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let free = free.unwrap_or_default();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes.extend_from_slice(&buffer[..count.min(free)]);
        kept.cut |= count > free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(script: &str) -> Job {
        Job {
            program: "/bin/sh".into(),
            argv: ["sh", "-c", script].map(Into::into).into(),
            folder: None,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            timeout: None,
        }
    }

    async fn finish(job: Job) -> Finished {
        run(job, Cancellation::default()).await
    }

    #[tokio::test]
    async fn both_outputs_and_the_exit_code_come_back() {
        let finished = finish(job("echo out; echo err >&2; exit 3")).await;
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!((finished.exit_code, finished.success()), (Some(3), false));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid_file.display());
        let finished = finish(Job { timeout: Some(Duration::from_secs(3)), ..job(&script) }).await;
        assert_eq!((finished.timed_out, finished.exit_code), (true, None));
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let ended = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the child is gone");
    }

    #[tokio::test]
    async fn output_is_cut_and_says_so() {
        let finished = finish(job("yes | head -c 300000")).await;
        assert_eq!(finished.stdout.len(), OUTPUT_BYTES + "\n... (truncated)".len());
        assert!(finished.success() && finished.stdout.ends_with("... (truncated)"));
    }

    #[tokio::test]
    async fn a_background_process_does_not_hold_the_answer() {
        let finished = finish(job("sleep 5 & echo done")).await;
        assert_eq!(finished.stdout, "done\n");
    }

    #[tokio::test]
    async fn a_program_that_does_not_start_says_why() {
        let finished = finish(Job { program: "/no/such".into(), ..job("") }).await;
        assert!(finished.error.as_deref().unwrap().starts_with("cannot start sh: "));
        assert_eq!((finished.exit_code, finished.success()), (None, false));
    }

    #[tokio::test]
    async fn cancelling_ends_a_program_and_says_why() {
        for script in ["sleep 60", "trap '' TERM; sleep 60; sleep 60"] {
            let cancellation = Cancellation::default();
            cancellation.cancel("the node is stopping");
            cancellation.cancel("a later reason");
            let finished = run(job(script), cancellation).await;
            assert_eq!((finished.exit_code, finished.timed_out), (None, false));
            assert_eq!(finished.error.as_deref(), Some("killed: the node is stopping"));
        }
    }

    #[tokio::test]
    async fn a_program_that_is_cancelled_may_put_things_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, tidy) = (folder.path().join("ready"), folder.path().join("tidy"));
        let script = format!(
            "trap 'touch {}; exit 0' TERM; touch {}; while :; do sleep 0.01; done",
            tidy.display(),
            ready.display()
        );
        let cancellation = Cancellation::default();
        let running = tokio::spawn(run(job(&script), cancellation.clone()));
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancellation.cancel("the call was cancelled");
        running.await.unwrap();
        assert!(tidy.exists());
    }
}
