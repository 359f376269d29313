//! Follows the gateway's shared secrets while it runs: another token, password
//! or mode counts at once, and whoever came in with the one of before is sent
//! away.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task, time,
};
use tracing::{error, info};

use crate::{
    auth::Secrets,
    config::{AuthSecrets, Bind, Config, GivenToken, SecretsError},
    gateway::Gateway,
    logging::{Known, Logs},
};

/// Long enough for the answer to whoever changed it, short enough for a
/// revocation.
const GRACE: Duration = Duration::from_millis(300);

/// What following the secrets takes.
#[derive(Debug)]
pub struct Rekey {
    /// What the command line says about secrets.
    pub given: GivenToken,
    /// Which addresses others can reach the gateway at, in fact.
    pub reach: Bind,
    /// Whom the secrets let in.
    pub gateway: Arc<Gateway>,
    /// They never show the secrets.
    pub logs: Logs,
}

impl Rekey {
    /// Looks at the secrets after each change of the configuration, and when a
    /// reload was asked for: a file that holds one may have changed.
    pub async fn run(self, mut changes: watch::Receiver<u64>, asked: Arc<Notify>) {
        let this = Arc::new(self);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = asked.notified() => {}
            }
            let reading = Arc::clone(&this);
            match task::spawn_blocking(move || reading.find()).await {
                Ok(Ok(secrets)) => this.put_in_force(&secrets).await,
                Ok(Err(error)) => error!(%error, "shared secrets kept"),
                Err(error) => error!(%error, "shared secrets kept, looking for them failed"),
            }
        }
    }

    fn find(&self) -> Result<AuthSecrets, SecretsError> {
        let Gateway { config, paths, tailscale, .. } = &*self.gateway;
        let config = config.get();
        let secrets = AuthSecrets::resolve(&self.given, &config, &config.variables, paths)?;
        let mut in_fact = Config::clone(&config);
        in_fact.gateway.tailscale.mode = tailscale.mode();
        secrets.check(self.reach, &in_fact)?;
        Ok(secrets)
    }

    async fn put_in_force(&self, secrets: &AuthSecrets) {
        let known = secrets.token.iter().chain(&secrets.password);
        self.logs.hide(known.filter_map(|secret| Known::of(secret.reveal())));
        let source = secrets.active().map(|(_, source)| source.label()).unwrap_or_default();
        let auth = &self.gateway.auth;
        if !auth.replace(Secrets::from(secrets)) {
            return;
        }
        time::sleep(GRACE).await;
        let ended = auth.send_outdated_away();
        let cancelled = self.gateway.nodes.cancel_calls_of(|caller| auth.is_outdated(caller));
        info!(source, ended, cancelled, "the shared secret changed");
    }
}
