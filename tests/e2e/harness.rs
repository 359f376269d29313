//! What a failing test leaves behind: nothing.

use std::{process::Stdio, time::Duration};

use moltbot_tests::{PATIENCE, Tree};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// Starts a program that is the wrapper of another one; returns the id of that.
async fn wrapper() -> (Tree, Pid) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
    let mut tree = Tree::spawn(&mut command);
    let mut line = String::new();
    let stdout = tree.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).await.unwrap();
    (tree, Pid::from_raw(line.trim().parse().unwrap()))
}

/// Whoever inherits it may leave it unburied.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    !ended && kill(pid, None) != Err(Errno::ESRCH)
}

async fn is_gone(pid: Pid) {
    let gone = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{pid} runs on"));
}

#[tokio::test]
async fn a_wrapped_program_ends_with_its_wrapper() {
    let (mut tree, wrapped) = wrapper().await;
    assert!(runs(wrapped));
    tree.kill().await.unwrap();
    is_gone(wrapped).await;
}

#[tokio::test]
async fn a_test_that_panics_leaves_no_program_behind() {
    let failing = tokio::spawn(async {
        let (_tree, wrapped) = wrapper().await;
        std::panic::panic_any(wrapped);
    });
    let panic = failing.await.unwrap_err().into_panic();
    is_gone(*panic.downcast::<Pid>().unwrap()).await;
}
