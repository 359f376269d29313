//! Reads the configuration anew when it changes or somebody asks for it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    task,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{Live, Plan, ReloadMode, Trigger},
    logging::Logs,
    restart::{Asked, Restart},
    supervisor,
    watch::Watch,
};

/// What following the configuration takes.
#[derive(Debug)]
pub struct Follower {
    /// The configuration in force.
    pub live: Arc<Live>,
    /// Their level follows.
    pub logs: Logs,
    /// Puts in force what only a new process can.
    pub restart: Arc<Restart>,
    /// Told when somebody asked for a reload and it was done.
    pub asked: Arc<Notify>,
    /// What is told to the service manager while all is well.
    pub status: String,
}

impl Follower {
    /// Follows the file, and serves requests to reload, until `stop`. Whatever
    /// the file holds, the daemon goes on: with the new configuration or with
    /// the last good one.
    pub async fn run(self, mut requests: mpsc::Receiver<()>, stop: CancellationToken) {
        let mut watch = Watch::new(self.live.files());
        let mut told = self.live.degraded();
        self.tell(told.as_deref());
        loop {
            let quiet = Duration::from_millis(self.live.reload_rules().debounce_ms);
            let trigger = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = requests.recv() => Trigger::Asked,
                () = watch.changed(quiet) => Trigger::Changed,
            };
            let before = told.clone();
            told = self.reload(trigger, before.as_deref()).await;
            watch.follow(self.live.files());
        }
    }

    /// Returns why the daemon is degraded then.
    async fn reload(&self, trigger: Trigger, before: Option<&str>) -> Option<String> {
        if trigger == Trigger::Asked {
            supervisor::reloading();
        }
        let reading = Arc::clone(&self.live);
        let read = task::spawn_blocking(move || reading.reload(trigger)).await;
        // First of all: what is logged from here on is logged as the file says.
        let logging = self.live.get().logging.clone();
        self.logs.set_level(logging.level.filter());
        let secrets = self.live.loaded().secrets();
        self.logs.set_rules(logging.keep(), logging.redactions(&secrets));
        let degraded = self.live.degraded();
        let asked = trigger == Trigger::Asked;
        match read {
            Ok(Ok(plan)) => self.report(&plan, asked || degraded.as_deref() != before).await,
            // The same fault again is no news.
            Ok(Err(_)) if !asked && degraded.as_deref() == before => {}
            Ok(Err(issue)) => error!(issue, "configuration kept, the file is invalid"),
            Err(error) => error!(%error, "configuration kept, reading it failed"),
        }
        if asked {
            self.asked.notify_one();
            supervisor::ready(degraded.as_deref().unwrap_or("configuration reloaded"));
        } else {
            self.tell(degraded.as_deref());
        }
        degraded
    }

    async fn report(&self, plan: &Plan, news: bool) {
        let Plan { hot, channels, restart } = plan;
        let in_force = [&**hot, &**channels].concat();
        if news || !in_force.is_empty() {
            info!(changed = in_force.join(", "), "configuration reloaded");
            for warning in &self.live.loaded().warnings {
                warn!(%warning, "configuration");
            }
        }
        if restart.is_empty() {
            return;
        }
        let changed = restart.join(", ");
        let mode = self.live.source_mode();
        let wanted = matches!(mode, ReloadMode::Hybrid | ReloadMode::Restart);
        if !wanted || self.restart.supervisor().is_none() {
            if news {
                warn!(changed, "restart to put these changes in force");
            }
            return;
        }
        // Whoever asked for one already knows why and when.
        if self.restart.is_promised() {
            return;
        }
        let reason = format!("the configuration changed: {changed}");
        let asked = Asked { delay_ms: Some(0), ..Asked::of_kind("config-apply", reason) };
        if let Err(error) = self.restart.request(asked).await {
            error!(%error, changed, "restart to put these changes in force");
        }
    }

    fn tell(&self, degraded: Option<&str>) {
        match degraded {
            Some(why) => supervisor::status(&format!("{}; degraded: {why}", self.status)),
            None => supervisor::status(&self.status),
        }
    }
}
