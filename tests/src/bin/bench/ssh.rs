//! One call through ssh beside what ssh itself takes, through a real sshd on
//! loopback: `bench ssh`.

use std::time::{Duration, Instant};

use moltbot_tests::{Ctl, Daemon, Sshd, daemon::TOKEN, sshd};

use super::{median, ms, table::Table};

const ROUNDS: usize = 31;

pub(crate) async fn measure(table: &mut Table) {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let (port, token) = (daemon.port().to_string(), token.display().to_string());
    let ctl = sshd.client(Ctl::alone(home.path()));
    let here = ["health", "--port", &port, "--token-file", &token];
    let there = [&here[..], &["--ssh", sshd::HOST]].concat();

    let mut direct = Vec::new();
    for _ in 0..ROUNDS {
        direct.push(time(&ctl, &here).await);
    }
    table.row("one call on loopback, whole process, p50", ms(median(&mut direct)), "");
    for way in ["an own connection", "a shared connection"] {
        if way == "a shared connection" {
            sshd.multiplex();
        }
        // The first one pays for what is kept: the device, the shared connection.
        time(&ctl, &there).await;
        let (mut calls, mut bare) = (Vec::new(), Vec::new());
        // In turns, so that a noisy moment hits both.
        for _ in 0..ROUNDS {
            let began = Instant::now();
            assert!(sshd.ssh(&[sshd::HOST, "true"]).status().await.unwrap().success());
            bare.push(began.elapsed());
            calls.push(time(&ctl, &there).await);
        }
        let (calls, bare) = (median(&mut calls), median(&mut bare));
        let ratio = calls.as_secs_f64() / bare.as_secs_f64();
        let figure = format!("{}, `ssh far true` {}: {ratio:.2} ×", ms(calls), ms(bare));
        table.row(&format!("one call over --ssh, {way}, whole process, p50"), figure, "");
    }
    sshd.ssh(&["-O", "exit", sshd::HOST]).output().await.unwrap();
}

async fn time(ctl: &Ctl, command: &[&str]) -> Duration {
    let began = Instant::now();
    ctl.text(command).await;
    began.elapsed()
}
