//! A hostile client, and what the others notice of it.

use moltbot_tests::hostile::{self, Strength};

const MIB: u64 = 1 << 20;

/// What clients can make the daemon hold: the budgets for unread answers and for unfinished
/// messages, and the two large frames that are parsed at a time, each of which may need a few
/// times its size.
const BUDGETS: u64 = 128 * MIB + 64 * MIB + 2 * 4 * 16 * MIB;

/// What the daemon needs for itself, its store and the allocator's leftovers included.
const OWN: u64 = 100 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_client_costs_the_others_no_answer() {
    let report = hostile::attack(Strength::short()).await;
    let faults = report.faults();
    assert!(faults.is_empty(), "{faults:#?}\n{report}");
    assert!(report.distinct_inputs() >= 500, "{report}");
    assert!(report.peak_memory < BUDGETS + OWN, "{report}");
}
