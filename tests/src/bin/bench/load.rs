//! Calls, broadcasts, handshakes.

use std::time::{Duration, Instant};

use moltbot_tests::{Connect, Device, Version};
use serde_json::json;

use crate::{
    clients::{Peer, request},
    median,
    process::Gateway,
};

/// Broadcasts of one round of a fan-out.
const EVENTS: usize = 200;
const ROUNDS: usize = 5;

/// Returns how long each of a number of calls in a row took.
pub(crate) async fn latencies(peer: &mut Peer, calls: usize) -> Vec<Duration> {
    let text = request("health", &json!({}));
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        peer.send(&text).await;
        peer.read_until(|text| text.contains("\"id\":\"1\"")).await;
        times.push(began.elapsed());
    }
    times
}

/// Returns the calls a second of all peers together, each with one call at a
/// time.
pub(crate) async fn throughput(peers: Vec<Peer>, time: Duration) -> (f64, Vec<Peer>) {
    let began = Instant::now();
    let tasks: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            tokio::spawn(async move {
                let mut calls = 0_u32;
                while began.elapsed() < time {
                    calls += latencies(&mut peer, 20).await.len() as u32;
                }
                (calls, peer)
            })
        })
        .collect();
    let mut calls = 0;
    let mut peers = Vec::new();
    for task in tasks {
        let (count, peer) = task.await.unwrap();
        calls += count;
        peers.push(peer);
    }
    (f64::from(calls) / began.elapsed().as_secs_f64(), peers)
}

/// Has one peer tell everybody many times; returns deliveries a second, until
/// the last client has read the last one: the median of some rounds.
pub(crate) async fn fan_out(mut publisher: Peer, mut peers: Vec<Peer>) -> (f64, Vec<Peer>) {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let rate;
        (rate, peers) = fan_out_once(&mut publisher, peers).await;
        rates.push(rate);
    }
    (median(&mut rates), peers)
}

async fn fan_out_once(publisher: &mut Peer, peers: Vec<Peer>) -> (f64, Vec<Peer>) {
    let clients = peers.len();
    let mark = publisher.mark;
    let readers: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            tokio::spawn(async move {
                for _ in 0..EVENTS {
                    peer.read_until(|text| text.contains(mark)).await;
                }
                peer
            })
        })
        .collect();
    let began = Instant::now();
    let text = publisher.to_all.clone();
    // A few at a time, so that no queue of either server is ever full.
    for _ in 0..EVENTS {
        publisher.send(&text).await;
        publisher.read_until(|text| text.contains(mark)).await;
    }
    let mut peers = Vec::with_capacity(clients);
    for reader in readers {
        peers.push(reader.await.unwrap());
    }
    ((EVENTS * clients) as f64 / began.elapsed().as_secs_f64(), peers)
}

/// Returns how long each of a number of connects of a known device took, from
/// the TCP connection to the answer.
pub(crate) async fn handshakes(gateway: &Gateway, count: usize) -> Vec<Duration> {
    let connect = Connect::operator().device(&Device::new(), Version::V3);
    drop(Peer::connect(&gateway.url(), &connect).await);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        drop(Peer::connect(&gateway.url(), &connect).await);
        times.push(began.elapsed());
    }
    times
}
