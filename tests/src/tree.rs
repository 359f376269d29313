//! A program with everything it starts.
//!
//! Some programs are only the wrapper of another one: killing what was spawned
//! would leave that other one running. A process group of its own is what a
//! wrapper and the wrapped have in common.

use std::{
    fs, io,
    ops::{Deref, DerefMut},
    path::Path,
    process::{ExitStatus, Output},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

/// A running program; when dropped it ends, and with it what it started.
#[derive(Debug)]
pub struct Tree {
    child: Child,
    group: Pid,
}

impl Tree {
    /// Starts a program.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.process_group(0).kill_on_drop(true).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(id.expect("a new process has an id"));
        Self { child, group }
    }

    /// Ends all of it and waits for the program itself.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.end();
        self.child.wait().await?;
        self.gone().await;
        Ok(())
    }

    /// Waits until the program ends by itself, then ends what it left behind.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.end();
        self.gone().await;
        status
    }

    /// The same with what it writes, as far as that goes to pipes.
    ///
    /// # Errors
    ///
    /// When it cannot be read or waited for.
    pub async fn output(&mut self) -> io::Result<Output> {
        let (mut out, mut err) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read_out = async {
            match &mut out {
                Some(out) => out.read_to_end(&mut stdout).await,
                None => Ok(0),
            }
        };
        let read_err = async {
            match &mut err {
                Some(err) => err.read_to_end(&mut stderr).await,
                None => Ok(0),
            }
        };
        tokio::try_join!(read_out, read_err)?;
        Ok(Output { status: self.wait().await?, stdout, stderr })
    }

    /// Waits until nothing of it runs any more: only then its locks are free.
    /// The wrapper may end before the wrapped. Looks into `/proc`.
    async fn gone(&self) {
        let group = self.group.to_string();
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        // A thread may run on after the first one, which is the process.
        let threads = || {
            entries(Path::new("/proc")).flat_map(|process| entries(&process.path().join("task")))
        };
        let runs = || {
            threads().filter_map(|it| fs::read_to_string(it.path().join("stat")).ok()).any(|stat| {
                // After the name: state, parent, group.
                let mut words = stat.rsplit(") ").next().unwrap_or_default().split(' ');
                !matches!(words.next(), Some("Z" | "X")) && words.nth(1) == Some(&group)
            })
        };
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn end(&self) {
        // There is nobody left in most cases.
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.end();
    }
}

impl Deref for Tree {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Tree {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}
