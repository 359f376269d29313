//! Reads the configuration anew when asked to.

use std::sync::Arc;

use tokio::{sync::mpsc, task};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{Live, Plan},
    logging::Logs,
    supervisor,
};

/// Serves requests to reload until `stop`. Whatever the file holds, the daemon
/// goes on: with the new configuration or with the last good one.
pub async fn follow(
    mut requests: mpsc::Receiver<()>,
    live: Arc<Live>,
    logs: Logs,
    stop: CancellationToken,
) {
    while let Some(Some(())) = stop.run_until_cancelled(requests.recv()).await {
        supervisor::reloading();
        let reading = Arc::clone(&live);
        match task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(plan)) => report(&plan),
            Ok(Err(issue)) => error!(issue, "configuration kept, the file is invalid"),
            Err(error) => error!(%error, "configuration kept, reading it failed"),
        }
        for warning in &live.loaded().warnings {
            warn!(%warning, "configuration");
        }
        logs.set_level(live.get().logging.level.filter());
        supervisor::ready(live.degraded().as_deref().unwrap_or("configuration reloaded"));
    }
}

fn report(plan: &Plan) {
    let Plan { hot, restart } = plan;
    info!(changed = hot.join(", "), "configuration reloaded");
    if !restart.is_empty() {
        warn!(changed = restart.join(", "), "restart to put these changes in force");
    }
}
