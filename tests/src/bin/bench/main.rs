//! Measures the daemon beside a bare WebSocket echo server, on one machine in
//! one run, and prints the table of `BENCHMARKS.md`.
//!
//! `cargo run --release -p moltbot-tests --bin bench`; with `ssh` behind it, calls
//! through ssh instead. Nothing here is a test: the figures depend on the machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod clients;
mod echo;
mod load;
mod process;
mod ssh;
mod table;

use std::time::{Duration, Instant};

use moltbot_tests::{SteeredModel, programs};
use tokio::runtime::Runtime;

use self::{clients::Peer, process::Gateway, table::Table};

/// Clients of the ordinary crowd, and of the large one where the limit of open
/// files allows it.
const CROWD: usize = 1_000;
const LARGE_CROWD: usize = 10_000;
/// Files each side needs beside one socket for each client.
const SPARE_FILES: u64 = 200;

fn main() {
    let files = process::raise_file_limit();
    let runtime = Runtime::new().unwrap();
    match std::env::args().nth(1).as_deref() {
        None => runtime.block_on(measure(files)),
        Some("ssh") => {
            let mut table = Table::default();
            runtime.block_on(ssh::measure(&mut table));
            print!("{table}");
        }
        // What this program starts itself as.
        Some(port) => runtime.block_on(echo::serve(port.parse().unwrap())),
    }
}

async fn measure(files: u64) {
    let mut table = Table::default();
    eprintln!("programs (built first where they are out of date, which takes minutes)…");
    sizes(&mut table);
    starts(&mut table).await;
    let model = SteeredModel::start().await;
    let gateway = Gateway::start(&model).await;
    let echo = process::Echo::start().await;
    memory(&mut table, &gateway).await;
    eprintln!("calls…");
    calls(&mut table, &gateway, &echo).await;
    command(&mut table, &gateway);
    eprintln!("{CROWD} clients…");
    crowd(&mut table, &gateway, &echo).await;
    if files > LARGE_CROWD as u64 + SPARE_FILES {
        eprintln!("{LARGE_CROWD} clients…");
        large_crowd(&mut table, &model).await;
    }
    stop(&mut table, gateway).await;
    print!("{table}");
}

fn sizes(table: &mut Table) {
    for (program, limit) in [(programs::moltbotd(), 20), (programs::moltbotctl(), 12)] {
        let bytes = std::fs::metadata(&program).unwrap().len();
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        table.row(&format!("size of {name}"), mib(bytes), format!("≤ {limit} MiB"));
    }
}

async fn starts(table: &mut Table) {
    eprintln!("starts…");
    let mut times = Vec::new();
    let mut cpus = Vec::new();
    for _ in 0..20 {
        let started = process::measure_start(None).await;
        times.push(started.ready);
        cpus.push(started.cpu);
    }
    let figure = format!("{} (CPU {})", ms(median(&mut times)), ms(median(&mut cpus)));
    table.row(
        "start → READY=1, empty state",
        figure,
        "≤ 20 ms (CPU ≤ 10 ms); the reference: 6.9 s (CPU 8.1 s)",
    );

    let home = process::home_with_sessions(10_000).await;
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(process::measure_start(Some(home.path())).await.ready);
    }
    table.row("start → READY=1, 10,000 sessions", ms(median(&mut times)), "≤ 60 ms");
}

async fn memory(table: &mut Table, gateway: &Gateway) {
    let mut peer = gateway.operator().await;
    peer.call("health").await;
    table.row("resident memory, idle", mib(gateway.resident()), "≤ 10 MiB");
}

async fn calls(table: &mut Table, gateway: &Gateway, echo: &process::Echo) {
    let mut peer = gateway.operator().await;
    let mut bare = Peer::open(&echo.url()).await;
    // Both in turns, so that a noisy moment hits both.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        ours.extend(load::latencies(&mut peer, 300).await);
        theirs.extend(load::latencies(&mut bare, 300).await);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let figure = format!("{} µs, echo {} µs: {ratio:.2} ×", ours.as_micros(), theirs.as_micros());
    table.row("health, one connection, p50", figure, "≤ 2 × echo");

    let mut peers = Vec::new();
    let mut bares = Vec::new();
    for _ in 0..32 {
        peers.push(gateway.operator().await);
        bares.push(Peer::open(&echo.url()).await);
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let rate;
        (rate, peers) = load::throughput(peers, Duration::from_secs(3)).await;
        ours.push(rate);
        let rate;
        (rate, bares) = load::throughput(bares, Duration::from_secs(3)).await;
        theirs.push(rate);
    }
    share(table, "health, 32 connections, calls/s", median(&mut ours), median(&mut theirs));
}

fn command(table: &mut Table, gateway: &Gateway) {
    let mut times: Vec<Duration> = (0..50).map(|_| gateway.time_command(&["health"])).collect();
    table.row("`moltbotctl health`, whole process, p50", ms(median(&mut times)), "≤ 15 ms");
}

async fn crowd(table: &mut Table, gateway: &Gateway, echo: &process::Echo) {
    let before = gateway.resident();
    let peers = clients::crowd(CROWD, || gateway.operator()).await;
    let each = gateway.resident().saturating_sub(before) / CROWD as u64;
    let figure = format!("{:.1} KiB", each as f64 / 1024.0);
    table.row("resident memory for each idle client", figure, "≤ 10 KiB");

    let url = echo.url();
    let bares = clients::crowd(CROWD, || Peer::open(&url)).await;
    let publisher = gateway.operator().await;
    let announcer = Peer::open(&url).await;
    let (ours, peers) = load::fan_out(publisher, peers).await;
    let (theirs, _) = load::fan_out(announcer, bares).await;
    share(table, "fan-out to 1,000 clients, deliveries/s", ours, theirs);

    // Clients read what they are told, as clients do.
    let readers: Vec<_> = peers.into_iter().map(|peer| tokio::spawn(peer.listen())).collect();
    gateway.start_busy_runs(8).await;
    let mut times = load::handshakes(gateway, 1_000).await;
    times.sort_unstable();
    let figure =
        format!("{} (p50 {})", ms(times[times.len() * 99 / 100]), ms(times[times.len() / 2]));
    table.row("signed handshake, 1,000 clients and 8 busy runs, p99", figure, "≤ 50 ms");
    for reader in readers {
        reader.abort();
    }
}

async fn large_crowd(table: &mut Table, model: &SteeredModel) {
    let gateway = Gateway::start(model).await;
    let peers = clients::crowd(LARGE_CROWD, || gateway.operator()).await;
    table.row("resident memory with 10,000 clients", mib(gateway.resident()), "≤ 110 MiB");
    let publisher = gateway.operator().await;
    let (ours, peers) = load::fan_out(publisher, peers).await;
    drop(peers);
    let echo = process::Echo::start().await;
    let url = echo.url();
    let bares = clients::crowd(LARGE_CROWD, || Peer::open(&url)).await;
    let (theirs, _) = load::fan_out(Peer::open(&url).await, bares).await;
    share(table, "fan-out to 10,000 clients, deliveries/s", ours, theirs);
}

async fn stop(table: &mut Table, mut gateway: Gateway) {
    let peers = clients::crowd(CROWD, || gateway.operator()).await;
    let goodbyes: Vec<_> = peers.into_iter().map(|peer| tokio::spawn(peer.goodbye())).collect();
    let began = Instant::now();
    gateway.terminate().await;
    let took = began.elapsed();
    let mut told = 0;
    for goodbye in goodbyes {
        told += usize::from(goodbye.await.unwrap());
    }
    let figure = format!("{}, {told} of {CROWD} got `shutdown` and 1012", ms(took));
    table.row("stop on SIGTERM with 1,000 clients", figure, "≤ 500 ms, all told");
}

fn share(table: &mut Table, what: &str, ours: f64, theirs: f64) {
    let figure = format!("{ours:.0}, echo {theirs:.0}: {:.0} %", 100.0 * ours / theirs);
    table.row(what, figure, "≥ 60 % of echo");
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap());
    values[values.len() / 2]
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
