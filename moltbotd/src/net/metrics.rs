//! `/metrics`: the services' figures in the text format of Prometheus.
//!
//! Every family is named once, here, with the words that explain it. Labels
//! take their values from the daemon's own tables and from the configuration,
//! never from a peer, so that their number is bounded.

use std::{fmt, time::SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
    },
    metrics::MetricType,
    registry::Registry,
};

use super::Shared;
use crate::{
    bus::Close,
    health,
    metrics::{Count, Durations, Spread},
};

/// How the text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0: what newer scrapers ask for.
    OpenMetrics,
    /// The text format 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// Picks what the `Accept` header asks for.
    pub(super) fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Handshakes by how they ended.
#[derive(Debug, Default)]
pub struct Handshakes {
    /// The peer was let in.
    pub(super) accepted: Count,
    /// The peer was told why not.
    pub(super) refused: Count,
    /// What it sent was no `connect`.
    pub(super) malformed: Count,
    /// It said nothing for too long.
    pub(super) timed_out: Count,
    /// It went away.
    pub(super) left: Count,
    /// `Host` or `Origin` had no business here.
    pub(super) misdirected: Count,
    /// Too many peers had not authenticated yet.
    pub(super) crowded: Count,
}

/// Why a connection was ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It was silent before its login, and others needed its place.
    Displaced,
    /// It violated the WebSocket protocol.
    Protocol,
    /// A text was not UTF-8.
    NotUtf8,
    /// A message was larger than it may be.
    TooBig,
    /// A message was begun and not completed in time.
    StalledMessage,
    /// Unfinished messages of all clients together took too much memory.
    MessageMemory,
    /// It did not answer a ping.
    NoPong,
    /// It did not read what was sent to it.
    NotReading,
    /// Unread answers of all clients together took too much memory.
    AnswerMemory,
}

impl Reason {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Displaced, "displaced"),
        (Self::Protocol, "protocol_violation"),
        (Self::NotUtf8, "not_utf8"),
        (Self::TooBig, "too_big"),
        (Self::StalledMessage, "stalled_message"),
        (Self::MessageMemory, "message_memory"),
        (Self::NoPong, "no_pong"),
        (Self::NotReading, "not_reading"),
        (Self::AnswerMemory, "answer_memory"),
    ];
}

/// Connections ended from our side, by reason.
#[derive(Debug, Default)]
pub struct Dropped([Count; Reason::ALL.len()]);

impl Dropped {
    pub(super) fn count(&self, reason: Reason) {
        self.0[reason as usize].one();
    }

    /// Counts a goodbye of ours if a budget was its reason.
    pub(super) fn count_close(&self, close: &Close) {
        if *close == Close::SLOW_CONSUMER || *close == Close::UNREAD_ANSWERS {
            self.count(Reason::NotReading);
        } else if *close == Close::OVERLOADED {
            self.count(Reason::AnswerMemory);
        }
    }
}

/// Returns the page.
pub(super) async fn page(shared: &Shared, format: Format) -> String {
    let depth = shared.gateway.store.read(|db| Ok((db.inbox_depth()?, db.outbox_depth()?)));
    let figures = Figures { shared: shared.clone(), depth: depth.await.ok() };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures));
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut page, &registry);
    match format {
        Format::OpenMetrics => page,
        Format::Text => with_full_counter_names(&page),
    }
}

type Depth = (Vec<(String, u32)>, Vec<(String, String, u32)>);

#[derive(Debug)]
struct Figures {
    shared: Shared,
    /// Messages that wait; absent when the store cannot be read.
    depth: Option<Depth>,
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        self.daemon(&mut out)?;
        self.process(&mut out)?;
        self.clients(&mut out)?;
        self.calls(&mut out)?;
        self.store(&mut out)?;
        self.agent(&mut out)?;
        self.channels(&mut out)?;
        self.nodes(&mut out)
    }
}

impl Figures {
    fn daemon(&self, out: &mut Families<'_>) -> fmt::Result {
        let gateway = &self.shared.gateway;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("profile", gateway.paths.profile_name()),
            ("commit", option_env!("GIT_COMMIT").unwrap_or("unknown")),
        ];
        out.gauge("moltbot_build_info", "What runs; the value is always 1.", [(labels, 1_u64)])?;
        let uptime = gateway.started.elapsed().as_secs_f64();
        out.gauge("moltbot_uptime_seconds", "Time since the daemon started.", [([], uptime)])?;
        let generation = *gateway.config.changes().borrow();
        let help = "Configurations put in force since the start.";
        out.gauge("moltbot_config_generation", help, [([], generation)])?;
        let parts = [
            ([("part", "bind")], u64::from(gateway.listening.trouble().is_some())),
            ([("part", "configuration")], u64::from(gateway.config.degraded().is_some())),
            ([("part", "disk")], u64::from(gateway.store.trouble().is_some())),
            ([("part", "log")], u64::from(gateway.logs.trouble().is_some())),
        ];
        let help = "Whether a part works with less than it should: 1 or 0; see health.";
        out.gauge("moltbot_degraded", help, parts)?;
        let (folded, lost) = gateway.logs.left_out();
        let reasons = [([("reason", "repeated")], folded), ([("reason", "unwritable")], lost)];
        out.counter("moltbot_log_lines_left_out", "Log lines not written, by reason.", reasons)
    }

    /// Names and meanings are those that every Prometheus client has.
    fn process(&self, out: &mut Families<'_>) -> fmt::Result {
        let uptime = self.shared.gateway.started.elapsed();
        let since = SystemTime::now()
            .checked_sub(uptime)
            .and_then(|start| start.duration_since(SystemTime::UNIX_EPOCH).ok());
        if let Some(since) = since {
            let help = "When the process started, in seconds since the epoch.";
            out.gauge("process_start_time_seconds", help, [([], since.as_secs_f64())])?;
        }
        if let Some(bytes) = health::resident_bytes() {
            out.gauge("process_resident_memory_bytes", "Resident memory.", [([], bytes)])?;
        }
        if let Some(open) = open_files() {
            out.gauge("process_open_fds", "Open file descriptors.", [([], open)])?;
        }
        if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            out.gauge("process_max_fds", "File descriptors that may be open.", [([], most)])?;
        }
        if let Ok(used) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds = seconds(used.user_time()) + seconds(used.system_time());
            out.counter("process_cpu_seconds", "Processor time used.", [([], seconds)])?;
        }
        Ok(())
    }

    fn clients(&self, out: &mut Families<'_>) -> fmt::Result {
        let stats = self.shared.gateway.bus.stats();
        let roles = [
            ([("role", "operator")], stats.clients - stats.nodes),
            ([("role", "node")], stats.nodes),
        ];
        out.gauge("moltbot_connections", "Clients that are connected.", roles)?;
        let handshakes = &self.shared.handshakes;
        let results = [
            ("accepted", &handshakes.accepted),
            ("refused", &handshakes.refused),
            ("malformed", &handshakes.malformed),
            ("timed_out", &handshakes.timed_out),
            ("left", &handshakes.left),
            ("misdirected", &handshakes.misdirected),
            ("crowded", &handshakes.crowded),
        ];
        let results = results.map(|(result, count)| ([("result", result)], count.get()));
        out.counter("moltbot_handshakes", "Peers that came, by what became of them.", results)?;
        let dropped = Reason::ALL.map(|(reason, name)| {
            ([("reason", name)], self.shared.dropped.0[reason as usize].get())
        });
        let help = "Connections that the gateway ended, by reason.";
        out.counter("moltbot_connections_dropped", help, dropped)?;
        let held = [
            ([("kind", "unread_answers")], self.shared.gateway.bus.answers().held()),
            ([("kind", "unfinished_messages")], self.shared.incoming.held()),
        ];
        let help = "Memory held for clients, by kind.";
        out.gauge("moltbot_connections_held_bytes", help, held)?;
        let help = "Events published.";
        out.counter("moltbot_bus_events", help, [([], stats.published)])?;
        let help = "Events queued for clients, each counted for each client.";
        out.counter("moltbot_bus_deliveries", help, [([], stats.delivered)])?;
        let help = "Events left out for clients that read too slowly.";
        out.counter("moltbot_bus_skipped", help, [([], stats.skipped)])?;
        let help = "Clients sent away because they read too slowly.";
        out.counter("moltbot_bus_slow_clients", help, [([], stats.slow)])
    }

    fn calls(&self, out: &mut Families<'_>) -> fmt::Result {
        let calls = self.shared.router.calls();
        let called: Vec<_> =
            calls.iter().filter(|(_, it)| it.ok.get() + it.failed.get() > 0).collect();
        let mut results = Vec::new();
        for (method, it) in &called {
            results.push(([("method", *method), ("result", "ok")], it.ok.get()));
            results.push(([("method", *method), ("result", "error")], it.failed.get()));
        }
        let unknown = self.shared.router.unknown_calls();
        results.push(([("method", "unknown"), ("result", "error")], unknown));
        out.counter("moltbot_rpc_calls", "Calls of methods, by result.", results)?;
        let took = called.iter().map(|(method, it)| ([("method", *method)], &it.took));
        out.histogram("moltbot_rpc_duration_seconds", "Time until a call was answered.", took)
    }

    fn store(&self, out: &mut Families<'_>) -> fmt::Result {
        let store = &self.shared.gateway.store;
        let figures = store.figures();
        let results = [
            ([("result", "committed")], figures.written.get()),
            ([("result", "lost")], figures.lost.get()),
        ];
        out.counter("moltbot_store_writes", "Writes to the database, by result.", results)?;
        let help = "Time of a commit, with the writes in it.";
        let commits = [([], &figures.commits)];
        out.histogram("moltbot_store_commit_duration_seconds", help, commits)?;
        out.gauge("moltbot_store_queue", "Writes that wait.", [([], store.waiting())])
    }

    fn agent(&self, out: &mut Families<'_>) -> fmt::Result {
        let agent = &self.shared.gateway.agent;
        let help = "Runs that are under way or wait.";
        out.gauge("moltbot_runs_active", help, [([], agent.open_runs())])?;
        let ends = agent.ends();
        let outcomes = [
            ([("outcome", "done")], ends.done.get()),
            ([("outcome", "failed")], ends.failed.get()),
            ([("outcome", "aborted")], ends.aborted.get()),
        ];
        out.counter("moltbot_runs", "Runs that ended, by outcome.", outcomes)?;
        let providers = self.shared.gateway.models.calls();
        let (mut results, mut tokens) = (Vec::new(), Vec::new());
        for (provider, it) in &providers {
            let provider = ("provider", provider.as_str());
            results.push(([provider, ("result", "ok")], it.ok.get()));
            results.push(([provider, ("result", "error")], it.failed.get()));
            tokens.push(([provider, ("direction", "input")], it.input_tokens.get()));
            tokens.push(([provider, ("direction", "output")], it.output_tokens.get()));
        }
        out.counter("moltbot_model_calls", "Calls of models, by provider.", results)?;
        out.counter("moltbot_model_tokens", "Tokens used, by provider.", tokens)?;
        let took = providers.iter().map(|(name, it)| ([("provider", name.as_str())], &it.took));
        let help = "Time until a model's answer was complete.";
        out.histogram("moltbot_model_duration_seconds", help, took)
    }

    fn channels(&self, out: &mut Families<'_>) -> fmt::Result {
        let accounts = self.shared.gateway.channels.accounts();
        let (mut running, mut troubled) = (Vec::new(), Vec::new());
        for it in &accounts {
            let labels = [("channel", it.channel), ("account", it.account.as_str())];
            running.push((labels, u64::from(it.running)));
            troubled.push((labels, u64::from(it.troubled)));
        }
        out.gauge("moltbot_channel_running", "Whether an account runs: 1 or 0.", running)?;
        let help = "Whether something hinders an account: 1 or 0; see channels.status.";
        out.gauge("moltbot_channel_troubled", help, troubled)?;
        let Some((inbox, outbox)) = &self.depth else { return Ok(()) };
        let inbox = inbox.iter().map(|(channel, count)| ([("channel", channel.as_str())], *count));
        out.gauge("moltbot_inbox_messages", "Messages that wait for the agent.", inbox)?;
        let outbox = outbox
            .iter()
            .map(|(channel, state, count)| ([("channel", &**channel), ("state", state)], *count));
        out.gauge("moltbot_outbox_messages", "Messages that are not sent yet.", outbox)
    }

    fn nodes(&self, out: &mut Families<'_>) -> fmt::Result {
        let invokes = self.shared.gateway.nodes.invokes();
        let outcomes = [
            ("ok", &invokes.ok),
            ("failed", &invokes.failed),
            ("timed_out", &invokes.timed_out),
            ("unreachable", &invokes.unreachable),
            ("denied", &invokes.denied),
            ("busy", &invokes.busy),
        ];
        let outcomes = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count.get()));
        out.counter("moltbot_node_invokes", "Commands for nodes, by outcome.", outcomes)?;
        let help = "Time until a node answered or was given up.";
        let took = [([], &invokes.took)];
        out.histogram("moltbot_node_invoke_duration_seconds", help, took)
    }
}

type Labels<'a, const N: usize> = [(&'a str, &'a str); N];

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            labelled(&mut family, &labels, |family| family.encode_gauge(&value))?;
        }
        Ok(())
    }

    /// The name is without `_total`, which the format adds.
    fn counter<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            labelled(&mut family, &labels, |family| {
                family.encode_counter::<NoLabelSet, _, u64>(&value, None)
            })?;
        }
        Ok(())
    }

    fn histogram<'l, 'd, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l, N>, &'d Durations)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, durations) in values {
            let spread = durations.spread();
            labelled(&mut family, &labels, |family| {
                let Spread { sum, count, buckets } = &spread;
                family.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            })?;
        }
        Ok(())
    }
}

/// Leaves out the braces where there are no labels.
fn labelled<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_, N>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if N == 0 { encode(family) } else { encode(&mut family.encode_family(labels)?) }
}

/// OpenMetrics names a counter's family without the `_total` of its samples;
/// the older format takes the two for different things.
fn with_full_counter_names(page: &str) -> String {
    let counters: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(page.len());
    for line in page.lines().filter(|line| *line != "# EOF") {
        let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = rest.and_then(|rest| rest.split(' ').next());
        match name.filter(|name| counters.contains(name)) {
            Some(name) => text.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[allow(clippy::cast_precision_loss, reason = "a float is what the text format has")]
fn seconds(time: nix::sys::time::TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// Returns how many files are open, where the system tells.
fn open_files() -> Option<u64> {
    let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    // Without the one that the folder is read through.
    Some((std::fs::read_dir(folder).ok()?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_the_full_names_of_counters() {
        let page = "# HELP a_b Says a_b.\n# TYPE a_b counter\na_b_total{x=\"a_b\"} 1\n\
                    # HELP a Says a.\n# TYPE a gauge\na 2\n# EOF\n";
        let text = "# HELP a_b_total Says a_b.\n# TYPE a_b_total counter\na_b_total{x=\"a_b\"} 1\n\
                    # HELP a Says a.\n# TYPE a gauge\na 2\n";
        assert_eq!(with_full_counter_names(page), text);
    }

    #[test]
    fn the_format_is_what_was_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4";
        assert_eq!(Format::of(prometheus), Format::OpenMetrics);
        assert_eq!(Format::of("*/*"), Format::Text);
    }
}
