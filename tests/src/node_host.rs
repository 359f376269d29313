//! A running `moltbotctl node run`, and what it says.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr},
};

use crate::{Ctl, PATIENCE};

/// A node host, named `lab`; killed when dropped.
#[derive(Debug)]
pub struct NodeHost {
    /// The process.
    pub child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl NodeHost {
    /// Starts one with further arguments.
    #[must_use]
    pub fn start(ctl: &Ctl, arguments: &[&str]) -> Self {
        let mut command =
            ctl.command(&[&["node", "run", "--display-name", "lab"], arguments].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line that begins so and returns the rest of it.
    pub async fn says(&mut self, beginning: &str) -> String {
        let search = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the node host runs");
                if let Some(rest) = line.strip_prefix(beginning) {
                    return rest.trim().to_owned();
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("the node host never said {beginning:?}"))
    }
}
