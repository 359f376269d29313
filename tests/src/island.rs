//! A host of its own for a test: a network namespace with a loopback interface
//! and nothing else. What the test starts lives there, too. Needs root.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Builder;

/// Runs a test on a host that no other test shares.
pub fn on_an_island<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // Of this thread, and of the threads and processes it starts.
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces can be made (as root?)");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("iproute2 is installed; see tests/run").success(), "loopback is up");
        Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
