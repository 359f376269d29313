//! Runs the accounts of all channels and is the way out for everybody else.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moltbot_protocol::methods::channels::{ChannelMeta, ChannelsStatusResult};
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ALL, Entry, InboundQueue, Outbound, OutboundMessage, Progress, Route, SendError, Sending, Sent,
    Target,
    draft::Drafts,
    driver::{Account, Driver, Pending},
    inbox::{Desk, Intake, Row, message},
    outbox::{GRACE, Sender},
    state::AccountState,
};
use crate::{
    clock::now_ms,
    config::Live,
    health::{ChannelHealth, ChannelReport},
    paths::Paths,
    store::{NewMessage, OutboxState, PairingRow, Store, StoreError},
};

/// How long a caller waits for the confirmation of a message. It stays queued.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a service may take to say whether it knows an account.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

const FIRST_BACKOFF: Duration = Duration::from_secs(2);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Every channel's accounts.
pub struct Channels {
    config: Arc<Live>,
    store: Store,
    paths: Paths,
    running: Mutex<Vec<Arc<Running>>>,
    /// Reloads follow one another; each waits for accounts to stop.
    reloading: tokio::sync::Mutex<()>,
    /// Messages an earlier life of the daemon left, by channel and account.
    left_over: Mutex<HashMap<(String, String), Vec<Row>>>,
    intake: Arc<Intake>,
    drafts: Arc<Drafts>,
    wakers: Arc<Mutex<Vec<Arc<Notify>>>>,
    settled: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// How an account is.
#[derive(Clone, Debug)]
pub struct AccountFigures {
    /// Id of the channel.
    pub channel: &'static str,
    /// Its key in the configuration.
    pub account: String,
    /// Whether it runs.
    pub running: bool,
    /// Whether something hinders it now.
    pub troubled: bool,
    /// When the last message came, in milliseconds since the epoch.
    pub last_inbound_ms: Option<i64>,
    /// When the last message was sent, in milliseconds since the epoch.
    pub last_outbound_ms: Option<i64>,
}

struct Running {
    entry: &'static Entry,
    account: Account,
    state: Arc<AccountState>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl Channels {
    /// Prepares the channels; nothing runs before [`Channels::start`].
    #[must_use]
    pub fn new(config: Arc<Live>, store: Store, paths: Paths, inbound: InboundQueue) -> Arc<Self> {
        let wakers: Arc<Mutex<Vec<Arc<Notify>>>> = Arc::default();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let wake = waker(&wakers);
        let intake =
            Intake::new(store.clone(), inbound, tasks.clone(), stop.clone(), Arc::clone(&wake));
        // Accounts are known before they run, so that calls that come first are
        // answered truly.
        let running: Vec<_> = wanted(&config, &paths)
            .into_iter()
            .map(|(entry, account)| Arc::new(Running::new(entry, account)))
            .collect();
        *locked(&wakers) = running.iter().map(|running| Arc::clone(&running.wake)).collect();
        Arc::new(Self {
            config,
            store,
            paths,
            running: Mutex::new(running),
            reloading: tokio::sync::Mutex::new(()),
            left_over: Mutex::default(),
            intake,
            drafts: Arc::default(),
            wakers,
            settled: watch::Sender::new(0),
            tasks,
            stop,
        })
    }

    /// Takes up what the last life of the daemon left and starts the accounts.
    pub async fn start(self: &Arc<Self>) -> Result<(), StoreError> {
        let rows = self.store.read(|db| db.open_inbox()).await?;
        for row in rows {
            let Ok(pending) = serde_json::from_str::<Pending>(&row.body) else {
                tracing::error!(inbox_id = row.id, "a stored message cannot be read");
                continue;
            };
            let Route { channel, account, .. } = pending.message.route.clone();
            let row = Row { inbox_id: row.id, pending, is_left: true };
            locked(&self.left_over).entry((channel, account)).or_default().push(row);
        }
        self.reload().await;
        self.feed_orphans();
        Ok(())
    }

    /// Puts a changed configuration in force: stops accounts that are gone or
    /// changed and starts what is new, and leaves the others alone.
    pub async fn reload(self: &Arc<Self>) {
        let _guard = self.reloading.lock().await;
        let mut old = locked(&self.running).clone();
        let mut next = Vec::new();
        for (entry, account) in wanted(&self.config, &self.paths) {
            let same = old.iter().position(|running| {
                running.entry.id == entry.id
                    && running.account.id == account.id
                    && running.account.seed == account.seed
            });
            next.push(match same {
                Some(index) => old.swap_remove(index),
                None => Arc::new(Running::new(entry, account)),
            });
        }
        *locked(&self.wakers) = next.iter().map(|running| Arc::clone(&running.wake)).collect();
        locked(&self.running).clone_from(&next);
        // The old poller is gone before the new one begins: a service lets only
        // one of them ask.
        futures_util::future::join_all(old.iter().map(|running| running.stop())).await;
        if self.stop.is_cancelled() {
            return;
        }
        for running in &next {
            self.launch(running);
        }
    }

    /// Stops everything and waits for it.
    pub async fn stop(&self) {
        self.stop.cancel();
        let _guard = self.reloading.lock().await;
        let running = std::mem::take(&mut *locked(&self.running));
        let accounts = futures_util::future::join_all(running.iter().map(|running| running.stop()));
        let drafts = tokio::time::timeout(GRACE, self.drafts.stop());
        // A draft that does not arrive in time is one of unknown fate.
        let (_, _) = tokio::join!(accounts, drafts);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns the answer of `channels.status`, asking the services first when
    /// told to.
    pub async fn status(&self, probe: Option<Duration>) -> ChannelsStatusResult {
        if let Some(timeout) = probe {
            self.probe(timeout).await;
        }
        let mut result = ChannelsStatusResult { ts: now_ms(), ..Default::default() };
        for entry in self.present() {
            let id = entry.id.to_owned();
            let accounts = self.accounts_of(entry.id);
            result.channel_order.push(id.clone());
            result.channel_labels.insert(id.clone(), json!(entry.label));
            result.channel_detail_labels.insert(id.clone(), json!(entry.detail_label));
            result.channel_system_images.insert(id.clone(), json!(entry.system_image));
            result.channel_meta.push(ChannelMeta {
                id: id.clone(),
                label: entry.label.into(),
                detail_label: entry.detail_label.into(),
                system_image: Some(entry.system_image.into()),
            });
            if let Some(default) = default_account(&accounts) {
                result.channels.insert(id.clone(), Value::Object(default.summary()));
                result.channel_default_account_id.insert(id.clone(), default.account.id.clone());
            }
            let rows = accounts.iter().map(|running| Value::Object(running.row())).collect();
            result.channel_accounts.insert(id, rows);
        }
        result
    }

    /// Returns each channel's part of the health report by its id.
    #[must_use]
    pub fn health_summaries(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for entry in self.present() {
            let accounts = self.accounts_of(entry.id);
            let Some(default) = default_account(&accounts) else { continue };
            let mut summary = default.health();
            let by_id: Map<String, Value> = accounts
                .iter()
                .map(|running| (running.account.id.clone(), Value::Object(running.health())))
                .collect();
            summary.insert("accounts".into(), Value::Object(by_id));
            out.insert(entry.id.to_owned(), Value::Object(summary));
        }
        out
    }

    /// Asks every service whether it knows its accounts.
    pub async fn probe(&self, timeout: Duration) {
        let running = locked(&self.running).clone();
        futures_util::future::join_all(running.iter().map(|running| running.probe(timeout))).await;
    }

    /// Returns the account that is used when none is named; `None` when the
    /// channel is not configured.
    #[must_use]
    pub fn default_account(&self, channel: &str) -> Option<String> {
        default_account(&self.accounts_of(channel)).map(|running| running.account.id.clone())
    }

    /// Reads a recipient in the form that people write.
    pub fn target(&self, channel: &str, to: &str) -> Result<Target, String> {
        let entry = ALL.iter().find(|entry| entry.id == channel);
        entry.map_or_else(
            || Err(SendError::UnknownChannel(channel.to_owned()).to_string()),
            |entry| (entry.target)(to),
        )
    }

    /// Lists the strangers who wait.
    pub async fn pairing_requests(&self) -> Result<Vec<PairingRow>, StoreError> {
        self.store.read(|db| db.pairing_requests(now_ms())).await
    }

    /// Lets the stranger with a code in, and tells them if wanted. Returns
    /// `None` when no such code waits.
    pub async fn approve_pairing(
        &self,
        channel: &str,
        code: &str,
        notify: bool,
    ) -> Result<Option<PairingRow>, StoreError> {
        let (channel, code) = (channel.to_owned(), code.trim().to_uppercase());
        let approved = self
            .store
            .write(move |db| {
                let approved = db.approve_pairing(&channel, &code, now_ms())?;
                if let Some(row) = approved.as_ref().filter(|_| notify) {
                    db.queue_message(&welcome(row), now_ms())?;
                }
                Ok(approved)
            })
            .await?;
        self.wake();
        Ok(approved)
    }

    /// Returns how each account is, for metrics.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountFigures> {
        let figures = |running: &Arc<Running>| {
            let state = running.state.get();
            AccountFigures {
                channel: running.entry.id,
                account: running.account.id.clone(),
                running: state.running,
                troubled: state.last_error.is_some(),
                last_inbound_ms: state.last_inbound_at,
                last_outbound_ms: state.last_outbound_at,
            }
        };
        locked(&self.running).iter().map(figures).collect()
    }

    fn present(&self) -> impl Iterator<Item = &'static Entry> {
        let config = self.config.get();
        ALL.iter().filter(move |entry| (entry.present)(&config))
    }

    fn accounts_of(&self, channel: &str) -> Vec<Arc<Running>> {
        let running = locked(&self.running);
        running.iter().filter(|running| running.entry.id == channel).cloned().collect()
    }

    fn find(&self, channel: &str, account: &str) -> Option<Arc<Running>> {
        self.accounts_of(channel).into_iter().find(|running| running.account.id == account)
    }

    /// Starts an account that does not run yet.
    fn launch(self: &Arc<Self>, running: &Arc<Running>) {
        if !locked(&running.tasks).is_empty() {
            return;
        }
        let Some(driver) = running.ready() else { return };
        let sender = Sender {
            channel: running.entry.id,
            account: running.account.id.clone(),
            store: self.store.clone(),
            driver: Arc::clone(&driver),
            state: Arc::clone(&running.state),
            drafts: Arc::clone(&self.drafts),
            wake: Arc::clone(&running.wake),
            settled: self.settled.clone(),
            lost: Arc::default(),
        };
        let desk = Desk {
            channel: running.entry.id,
            account: running.account.id.clone(),
            label: running.entry.label,
            store: self.store.clone(),
            state: Arc::clone(&running.state),
            intake: Arc::clone(&self.intake),
            driver,
            wake: waker(&self.wakers),
        };
        let key = (running.entry.id.to_owned(), running.account.id.clone());
        let left_over = locked(&self.left_over).remove(&key).unwrap_or_default();
        let stop = running.stop.clone();
        *locked(&running.tasks) = vec![
            tokio::spawn(sender.run(stop.clone())),
            tokio::spawn(supervise(desk, left_over, stop)),
        ];
    }

    /// Passes on what belongs to accounts that do not run now.
    fn feed_orphans(self: &Arc<Self>) {
        let orphans = std::mem::take(&mut *locked(&self.left_over));
        let intake = Arc::clone(&self.intake);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            for row in orphans.into_values().flatten() {
                if stop.run_until_cancelled(intake.feed(None, row)).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Queues a message durably and waits until the channel confirmed or
    /// refused it. A key that was queued before is only waited for.
    pub async fn deliver(&self, key: String, message: OutboundMessage) -> Result<Sent, SendError> {
        let Route { channel, account, .. } = &message.route;
        if !self.has(channel) {
            return Err(SendError::UnknownChannel(channel.clone()));
        }
        let running = self
            .find(channel, account)
            .ok_or_else(|| SendError::Refused(self.no_account(channel, account)))?;
        if let Err(reason) = running.usable() {
            let told = running.account.lacks.clone();
            let told = told.unwrap_or_else(|| format!("{channel} account {account:?}: {reason}"));
            return Err(SendError::Refused(told));
        }
        let mut settled = self.settled.subscribe();
        let row = NewMessage {
            key: key.clone(),
            channel: channel.clone(),
            account: account.clone(),
            body: json!(message),
        };
        self.store
            .write(move |db| db.queue_message(&row, now_ms()))
            .await
            .map_err(|error| unwritten(&error))?;
        running.wake.notify_one();
        let fate = async {
            loop {
                if let Some(fate) = self.fate(&key).await? {
                    return fate;
                }
                if settled.changed().await.is_err() {
                    return Err(SendError::Delayed("the channel stopped".into()));
                }
            }
        };
        match tokio::time::timeout(CONFIRM_TIMEOUT, fate).await {
            Ok(fate) => fate,
            Err(_) => Err(SendError::Delayed(
                "queued, and not confirmed within 60 s; it is tried again until it is".into(),
            )),
        }
    }

    /// Says which accounts a channel has.
    fn no_account(&self, channel: &str, account: &str) -> String {
        let accounts = self.accounts_of(channel);
        let known: Vec<_> = accounts.iter().map(|running| running.account.id.as_str()).collect();
        format!(
            "unknown {channel} account: {account}; known are {}; another is set up below \
             channels.{channel}.accounts.{account}",
            known.join(", ")
        )
    }

    /// Returns what became of a message, `None` while that is open.
    async fn fate(&self, key: &str) -> Result<Option<Result<Sent, SendError>>, SendError> {
        let key = key.to_owned();
        let fate =
            self.store.read(move |db| db.fate(&key)).await.map_err(|error| unwritten(&error))?;
        Ok(fate.and_then(|fate| match fate.state {
            OutboxState::Sent => Some(Ok(Sent {
                message_id: fate.message_id.unwrap_or_default(),
                chat_id: fate.chat_id.unwrap_or_default(),
            })),
            OutboxState::Failed => Some(Err(SendError::Refused(fate.error.unwrap_or_default()))),
            _ => None,
        }))
    }
}

impl Outbound for Arc<Channels> {
    fn wake(&self) {
        Channels::wake(self);
    }

    fn progress(&self, route: &Route, key: &str) -> Box<dyn Progress> {
        let running = self.find(&route.channel, &route.account);
        match running.and_then(|running| running.ready()) {
            Some(driver) => self.drafts.open(self.store.clone(), driver, route, key),
            None => Box::new(Invisible),
        }
    }

    fn send(&self, key: String, message: OutboundMessage) -> Sending {
        let this = Self::clone(self);
        Box::pin(async move { this.deliver(key, message).await })
    }

    fn has(&self, channel: &str) -> bool {
        Channels::has(self, channel)
    }
}

impl Channels {
    /// Tells the senders that committed rows wait in the outbox.
    pub fn wake(&self) {
        waker(&self.wakers)();
    }

    /// Returns whether a channel of this id is configured.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        self.present().any(|entry| entry.id == channel)
    }
}

impl ChannelHealth for Channels {
    fn report(&self, probe: bool) -> Pin<Box<dyn Future<Output = ChannelReport> + Send + '_>> {
        Box::pin(async move {
            if probe {
                self.probe(PROBE_TIMEOUT).await;
            }
            let mut report =
                ChannelReport { channels: self.health_summaries(), ..Default::default() };
            for entry in self.present() {
                report.order.push(entry.id.to_owned());
                report.labels.insert(entry.id.to_owned(), json!(entry.label));
                let accounts = self.accounts_of(entry.id);
                let ready = accounts.iter().filter(|running| running.usable().is_ok()).count();
                let state = if ready > 0 { "configured" } else { "not configured" };
                report.lines.push(format!("{}: {state}", entry.label));
            }
            report
        })
    }

    fn troubles(&self) -> Vec<String> {
        let running = locked(&self.running);
        running.iter().filter_map(|running| running.trouble()).collect()
    }
}

/// Shows nothing, for accounts that do not run.
struct Invisible;

impl Progress for Invisible {
    fn update(&mut self, _text: &str) {}
}

impl Running {
    fn new(entry: &'static Entry, account: Account) -> Self {
        let running = Self {
            entry,
            account,
            state: Arc::default(),
            wake: Arc::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        };
        // Known before it is started: a call may come in between.
        running.ready();
        running
    }

    /// Returns the driver of an account that is to run; else notes why it is
    /// not.
    fn ready(&self) -> Option<Arc<dyn Driver>> {
        match self.usable() {
            Ok(driver) => Some(driver),
            Err(reason) => {
                self.state.trouble(Some(reason));
                None
            }
        }
    }

    fn usable(&self) -> Result<Arc<dyn Driver>, String> {
        if !self.account.enabled {
            return Err("disabled".into());
        }
        self.account.driver.clone()
    }

    async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *locked(&self.tasks));
        let ran = !tasks.is_empty();
        for task in tasks {
            // A panic was logged by the hook; there is nothing left to stop.
            let _ = task.await;
        }
        if ran && self.state.get().running {
            self.state.stopped(None);
        }
    }

    async fn probe(&self, timeout: Duration) {
        if let Ok(driver) = self.usable() {
            self.state.probed(driver.probe(timeout).await);
        }
    }

    /// A row of `channels.status`.
    fn row(&self) -> Map<String, Value> {
        let state = self.state.get();
        let mut row = Map::new();
        row.insert("accountId".into(), json!(self.account.id));
        row.insert("enabled".into(), json!(self.account.enabled));
        row.insert("configured".into(), json!(self.account.driver.is_ok()));
        row.extend(self.account.facts.clone());
        state.fill(&mut row);
        row.insert("lastInboundAt".into(), json!(state.last_inbound_at));
        row.insert("lastOutboundAt".into(), json!(state.last_outbound_at));
        if let Some(probe) = state.probe {
            row.insert("probe".into(), probe);
            row.insert("lastProbeAt".into(), json!(state.last_probe_at));
        }
        row
    }

    /// The summary of `channels.status`.
    fn summary(&self) -> Map<String, Value> {
        let state = self.state.get();
        let mut summary = Map::new();
        summary.insert("configured".into(), json!(self.account.driver.is_ok()));
        for key in ["tokenSource", "mode"] {
            if let Some(value) = self.account.facts.get(key) {
                summary.insert(key.into(), value.clone());
            }
        }
        state.fill(&mut summary);
        if let Some(probe) = state.probe {
            summary.insert("probe".into(), probe);
        }
        summary.insert("lastProbeAt".into(), json!(state.last_probe_at));
        summary
    }

    /// Returns what hinders an account that is to run.
    fn trouble(&self) -> Option<String> {
        // A section without any token sets up nothing yet.
        if !self.account.enabled || self.account.lacks.is_some() {
            return None;
        }
        let why = self.state.get().last_error?;
        let (label, account) = (self.entry.label, &self.account.id);
        Some(if account == "default" {
            format!("{label}: {why}")
        } else {
            format!("{label} ({account}): {why}")
        })
    }

    /// The summary of the health report.
    fn health(&self) -> Map<String, Value> {
        let mut summary = self.summary();
        if self.account.lacks.is_some() {
            // Nobody missed it so far, so that nothing is wrong with it.
            summary.insert("mode".into(), Value::Null);
            summary.insert("lastError".into(), Value::Null);
        }
        summary.insert("accountId".into(), json!(self.account.id));
        summary
    }
}

/// Receives until told to stop, starting again after a pause when it fails.
async fn supervise(desk: Desk, left_over: Vec<Row>, stop: CancellationToken) {
    let feed = async {
        for row in left_over {
            desk.intake.feed(Some(Arc::clone(&desk.driver)), row).await;
        }
    };
    // What is not fed is in the inbox.
    stop.run_until_cancelled(feed).await;
    let mut backoff = FIRST_BACKOFF;
    while !stop.is_cancelled() {
        desk.state.started();
        tracing::info!(channel = desk.channel, account = desk.account, "channel started");
        let driver = Arc::clone(&desk.driver);
        let receiving = std::panic::AssertUnwindSafe(driver.receive(&desk, &stop));
        let result = futures_util::FutureExt::catch_unwind(receiving)
            .await
            .unwrap_or_else(|_| Err("internal error".into()));
        let error = result.err();
        if let Some(error) = &error {
            tracing::warn!(channel = desk.channel, account = desk.account, error, "channel exited");
        }
        desk.state.stopped(error);
        if stop.run_until_cancelled(tokio::time::sleep(jittered(backoff))).await.is_none() {
            break;
        }
        backoff = backoff.mul_f64(1.8).min(LONGEST_BACKOFF);
    }
    tracing::info!(channel = desk.channel, account = desk.account, "channel stopped");
}

/// Spreads pauses by up to a quarter.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    // Without random bytes there is no jitter, which is no harm.
    let _ = getrandom::fill(&mut byte);
    pause.saturating_add((pause / 1024).saturating_mul(byte[0].into()))
}

/// Reads every account that is configured.
fn wanted(config: &Live, paths: &Paths) -> Vec<(&'static Entry, Account)> {
    let config = config.get();
    ALL.iter()
        .filter(|entry| (entry.present)(&config))
        .flat_map(|entry| (entry.accounts)(&config, paths).into_iter().map(move |it| (entry, it)))
        .collect()
}

fn welcome(row: &PairingRow) -> NewMessage {
    let route = Route {
        channel: row.channel.clone(),
        account: row.account.clone(),
        to: row.sender_id.clone(),
        thread: None,
        reply_to: None,
    };
    let key = format!("paired:{}:{}:{}", row.channel, row.account, row.code);
    message(key, route, "You were let in. Write a message to begin.".into())
}

fn default_account(accounts: &[Arc<Running>]) -> Option<&Arc<Running>> {
    accounts.iter().find(|running| running.account.id == "default").or_else(|| accounts.first())
}

fn waker(wakers: &Arc<Mutex<Vec<Arc<Notify>>>>) -> Arc<dyn Fn() + Send + Sync> {
    let wakers = Arc::clone(wakers);
    Arc::new(move || locked(&wakers).iter().for_each(|wake| wake.notify_one()))
}

fn unwritten(error: &StoreError) -> SendError {
    tracing::error!(%error, "cannot queue a message");
    SendError::Delayed("the message could not be queued; try again".into())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_an_account_from_running_is_known_before_it_is_started() {
        let account = |enabled, driver: Result<Arc<dyn Driver>, String>| Account {
            id: "default".into(),
            enabled,
            driver,
            lacks: None,
            seed: Value::Null,
            facts: Map::new(),
        };
        let entry = &ALL[0];
        let error = |account| Running::new(entry, account).state.get().last_error;
        assert_eq!(error(account(true, Err("no token".into()))).as_deref(), Some("no token"));
        assert_eq!(error(account(false, Err("no token".into()))).as_deref(), Some("disabled"));
    }

    #[test]
    fn a_pause_of_any_length_is_spread_by_up_to_a_quarter() {
        let pause = Duration::from_secs(4);
        assert!((pause..=pause * 5 / 4).contains(&jittered(pause)));
        assert!(jittered(Duration::MAX / 2) >= Duration::MAX / 2);
        assert_eq!(jittered(Duration::MAX), Duration::MAX);
    }
}
