//! A program with everything it starts.
//!
//! Some programs are only the wrapper of another one: killing what was spawned
//! would leave that other one running. A process group of its own is what a
//! wrapper and the wrapped have in common.

use std::{
    io,
    ops::{Deref, DerefMut},
    process::{ExitStatus, Output},
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
        self.child.wait().await.map(drop)
    }

    /// Waits until the program ends by itself, then ends what it left behind.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.end();
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
