//! Who is there: the gateway, its clients, and hosts that report themselves.
//!
//! In memory only; an entry that nobody touches is dropped after five minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moltbot_protocol::{
    events::system::Presence as PresenceEvent,
    limits,
    methods::system::{PresenceEntry, SystemEvent},
};
use nix::sys::utsname::uname;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    auth::Caller,
    bus::{Bus, Versioned},
    clock,
};

const TTL_MS: u64 = 300_000;
const CAPACITY: usize = 200;
/// Clients that leave together are told of together: a list sent for each of
/// them would grow with their square.
const QUIET: Duration = Duration::from_millis(20);
/// What telling everybody may take of the wire, all clients together. The list
/// may be 80 KB long: a thousand clients told at every departure would leave
/// room for nothing else.
const BYTES_A_SECOND: f64 = 10e6;

/// An entry and how long it is on the wire, which is not counted again for each
/// client that gets the list.
#[derive(Debug)]
struct Listed {
    entry: PresenceEntry,
    bytes: usize,
}

impl Listed {
    fn new(entry: PresenceEntry) -> Self {
        let bytes = serde_json::to_string(&entry).expect("wire types serialize").len();
        Self { entry, bytes }
    }
}

/// The presence list.
#[derive(Debug)]
pub struct Presence {
    bus: Arc<Bus>,
    own: PresenceEntry,
    entries: Mutex<HashMap<String, Listed>>,
    changed: Notify,
}

impl Presence {
    /// Starts with the gateway's own entry.
    #[must_use]
    pub fn new(bus: Arc<Bus>) -> Self {
        Self { bus, own: own_entry(), entries: Mutex::default(), changed: Notify::new() }
    }

    /// Returns the list, newest first; the gateway's own entry is always new.
    /// What would make it longer than [`limits::PRESENCE_BYTES`] is left out.
    pub fn list(&self) -> Vec<PresenceEntry> {
        let now_ms = clock::now_u64();
        let mut entries = self.entries();
        entries.retain(|_, listed| listed.entry.ts + TTL_MS > now_ms);
        let mut newest: Vec<_> = entries.values().collect();
        newest.sort_by_key(|listed| std::cmp::Reverse(listed.entry.ts));

        let mut list = vec![PresenceEntry { ts: now_ms, ..self.own.clone() }];
        let mut left = limits::PRESENCE_BYTES;
        for listed in newest.into_iter().take(CAPACITY - 1) {
            let Some(rest) = left.checked_sub(listed.bytes) else { break };
            left = rest;
            list.push(listed.entry.clone());
        }
        list
    }

    /// Notes that a client connected. Nobody is told: clients find it in the
    /// list, as with the reference.
    pub fn connected(&self, caller: &Caller) {
        if is_tracked(caller) {
            self.note(caller, "connect");
            self.bus.raise(Versioned::Presence);
        }
    }

    /// Notes that a client left, and tells everybody.
    pub fn disconnected(&self, caller: &Caller) {
        if is_tracked(caller) {
            self.note(caller, "disconnect");
            self.changed.notify_one();
        }
    }

    /// Tells everybody of clients that left, together, and the more seldom the
    /// more there is to write. Runs until cancelled.
    pub async fn announce(&self) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(QUIET).await;
            let bytes = self.publish();
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / BYTES_A_SECOND)).await;
        }
    }

    /// Takes in what a host reports of itself, and tells everybody. Returns the
    /// entry.
    pub fn report(&self, event: &SystemEvent, text: &str) -> PresenceEntry {
        let said = |value: &Value| {
            let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
            text.map(|text| limits::cut(text, limits::WORD_CHARS).to_owned())
        };
        let text = limits::cut(text, limits::PRESENCE_TEXT_CHARS);
        let parsed = parse_node_text(text);
        let host = said(&event.host).or(parsed.host);
        let ip = said(&event.ip).or(parsed.ip);
        let key = said(&event.device_id)
            .or_else(|| said(&event.instance_id))
            .or_else(|| host.clone())
            .or_else(|| ip.clone())
            .unwrap_or_else(|| text.chars().take(64).collect())
            .to_lowercase();
        let mut entries = self.entries();
        let before = entries.remove(&key).map(|listed| listed.entry).unwrap_or_default();
        let entry = PresenceEntry {
            host: host.or(before.host),
            ip: ip.or(before.ip),
            version: said(&event.version).or(parsed.version).or(before.version),
            platform: said(&event.platform).or(before.platform),
            device_family: said(&event.device_family).or(before.device_family),
            model_identifier: said(&event.model_identifier).or(before.model_identifier),
            mode: said(&event.mode).or(parsed.mode).or(before.mode),
            last_input_seconds: event.last_input_seconds.as_u64().or(before.last_input_seconds),
            reason: said(&event.reason).or(parsed.reason).or(before.reason),
            tags: strings(&event.tags).or(before.tags),
            text: Some(text.to_owned()),
            ts: clock::now_u64(),
            device_id: said(&event.device_id).or(before.device_id),
            roles: strings(&event.roles).or(before.roles),
            scopes: strings(&event.scopes).map(moltbot_protocol::Scopes).or(before.scopes),
            instance_id: said(&event.instance_id).or(before.instance_id),
        };
        make_room(&mut entries);
        entries.insert(key, Listed::new(entry.clone()));
        drop(entries);
        self.publish();
        entry
    }

    /// Tells everybody; returns the bytes queued for all clients together.
    fn publish(&self) -> usize {
        let event = PresenceEvent { presence: self.list() };
        self.bus.publish_versioned(&event, Versioned::Presence)
    }

    fn note(&self, caller: &Caller, reason: &str) {
        let client = &caller.client;
        let text = |value: &Option<moltbot_protocol::Text>| value.as_ref().map(ToString::to_string);
        let instance_id = caller.device_id.clone().or_else(|| text(&client.instance_id));
        let key = instance_id.clone().unwrap_or_else(|| caller.conn_id.clone()).to_lowercase();
        let host = caller.display_name().to_owned();
        let mut entries = self.entries();
        let before = entries.remove(&key).map(|listed| listed.entry).unwrap_or_default();
        let mut roles = before.roles.unwrap_or_default();
        if !roles.iter().any(|role| role == caller.role.name()) {
            roles.push(caller.role.name().to_owned());
        }
        let mut scopes = before.scopes.unwrap_or_default();
        scopes.extend(&caller.scopes);
        // A device may come again and again, each time with others.
        scopes.0.truncate(limits::PRESENCE_LABELS);
        let entry = PresenceEntry {
            text: Some(format!("Node: {host} · mode {}", client.mode)),
            host: Some(host),
            ip: caller.remote_ip.clone(),
            version: Some(client.version.to_string()),
            platform: Some(client.platform.to_string()),
            device_family: text(&client.device_family),
            model_identifier: text(&client.model_identifier),
            mode: Some(client.mode.to_string()),
            reason: Some(reason.to_owned()),
            ts: clock::now_u64(),
            device_id: caller.device_id.clone(),
            roles: Some(roles),
            scopes: (!scopes.0.is_empty()).then_some(scopes),
            instance_id,
            last_input_seconds: before.last_input_seconds,
            tags: before.tags,
        };
        make_room(&mut entries);
        entries.insert(key, Listed::new(entry));
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<String, Listed>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands come and go; listing them would drown everybody else.
fn is_tracked(caller: &Caller) -> bool {
    &*caller.client.mode != "cli"
}

fn make_room(entries: &mut HashMap<String, Listed>) {
    if entries.len() < CAPACITY {
        return;
    }
    if let Some(oldest) =
        entries.iter().min_by_key(|(_, listed)| listed.entry.ts).map(|(key, _)| key.clone())
    {
        entries.remove(&oldest);
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let items = value.as_array()?;
    let texts = items.iter().filter_map(Value::as_str).take(limits::PRESENCE_LABELS);
    Some(texts.map(|text| limits::cut(text, limits::WORD_CHARS).to_owned()).collect())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct NodeText {
    host: Option<String>,
    ip: Option<String>,
    version: Option<String>,
    mode: Option<String>,
    reason: Option<String>,
}

/// Reads `Node: <host> (<ip>) · app <version> · mode <mode> · reason <reason>`,
/// the line that apps send.
fn parse_node_text(text: &str) -> NodeText {
    let mut found = NodeText::default();
    let Some(rest) = text.trim().strip_prefix("Node:") else { return found };
    for (index, part) in rest.split('·').map(str::trim).enumerate() {
        let after = |name: &str| part.strip_prefix(name).and_then(word);
        if index == 0 {
            let (host, ip) = part.split_once('(').unwrap_or((part, ""));
            found.host = word(host);
            found.ip = word(ip.trim_end_matches(')'));
        } else if let Some(version) = after("app ") {
            found.version = Some(version);
        } else if let Some(mode) = after("mode ") {
            found.mode = Some(mode);
        } else if let Some(reason) = after("reason ") {
            found.reason = Some(reason);
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let text = limits::cut(text.trim(), limits::WORD_CHARS);
    (!text.is_empty()).then(|| text.to_owned())
}

fn own_entry() -> PresenceEntry {
    let host = host_name();
    let ip = own_address().unwrap_or_else(|| host.clone());
    let version = env!("CARGO_PKG_VERSION");
    let release = uname()
        .map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned());
    let (platform, family) = if cfg!(target_os = "macos") {
        (format!("macos {release}"), "Mac")
    } else {
        (format!("linux {release}"), "Linux")
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    PresenceEntry {
        text: Some(format!("Gateway: {host} ({ip}) · app {version} · mode gateway · reason self")),
        host: Some(host),
        ip: Some(ip),
        version: Some(version.to_owned()),
        platform: Some(platform),
        device_family: Some(family.to_owned()),
        model_identifier: Some(machine.to_owned()),
        mode: Some("gateway".to_owned()),
        reason: Some("self".to_owned()),
        ..PresenceEntry::default()
    }
}

/// Returns the name of this host.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

/// Returns the first IPv4 address of this host that others can see.
fn own_address() -> Option<String> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|interface| interface.address?.as_sockaddr_in().map(|address| address.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
        .map(|ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use moltbot_protocol::{Role, Scopes};
    use serde_json::json;

    use super::*;
    use crate::bus::Outbox;

    #[test]
    fn the_line_that_apps_send_is_understood() {
        let text =
            "Node: recorder (10.0.0.9) · app 1.0 · last input 5s ago · mode ui · reason launch";
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            parse_node_text(text),
            NodeText {
                host: some("recorder"),
                ip: some("10.0.0.9"),
                version: some("1.0"),
                mode: some("ui"),
                reason: some("launch"),
            }
        );
        assert_eq!(parse_node_text("just a text"), NodeText::default());
    }

    #[test]
    fn the_list_begins_with_the_gateway_and_is_bounded() {
        let presence = Presence::new(Arc::default());
        for index in 0..CAPACITY + 50 {
            presence.report(&SystemEvent::default(), &format!("host {index}"));
        }
        let list = presence.list();
        assert_eq!(list.len(), CAPACITY);
        assert_eq!(list[0].mode.as_deref(), Some("gateway"));
    }

    #[test]
    fn the_list_is_bounded_in_bytes_whatever_hosts_say_of_themselves() {
        let presence = Presence::new(Arc::default());
        // The character that takes the most room on the wire.
        let long = "\u{1}".repeat(60_000);
        let labels = json!(vec![long.clone(); 5_000]);
        let mut event = SystemEvent::default();
        for value in [&mut event.host, &mut event.ip, &mut event.mode, &mut event.version] {
            *value = long.clone().into();
        }
        (event.tags, event.roles, event.scopes) = (labels.clone(), labels.clone(), labels);
        for index in 0..CAPACITY {
            event.device_id = format!("{index}{long}").into();
            presence.report(&event, &format!("Node: {long} ({long}) · app {long}"));
        }

        let list = presence.list();
        let bytes = serde_json::to_string(&list).unwrap().len();
        assert!(list.len() > 1, "the newest are listed");
        assert!(bytes <= limits::PRESENCE_BYTES + 1024, "{bytes} bytes");
        let kept: usize = presence.entries().values().map(|listed| listed.bytes).sum();
        assert!(kept <= CAPACITY * 100 * 1024, "{kept} bytes are kept");
    }

    #[test]
    fn a_device_that_comes_with_ever_new_scopes_does_not_grow() {
        let presence = Presence::new(Arc::default());
        for index in 0..100 {
            let names = (0..limits::SCOPES).map(|scope| format!("{index}.{scope}")).collect();
            let scopes = Scopes(names);
            presence.connected(&Caller { scopes, device_id: Some("d".into()), ..client() });
        }
        let scopes = presence.list()[1].scopes.clone().unwrap();
        assert_eq!(scopes.0.len(), limits::PRESENCE_LABELS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_costly_list_is_told_seldom() {
        let bus = Arc::new(Bus::default());
        let presence = Arc::new(Presence::new(Arc::clone(&bus)));
        for index in 0..CAPACITY {
            let text = format!("{index:04}").repeat(100);
            presence.report(&SystemEvent::default(), &text);
        }
        let client = Arc::new(client());
        for _ in 0..100 {
            bus.attach(Arc::clone(&client), Arc::new(Outbox::new(usize::MAX)));
        }
        let before = bus.stats().published;
        let leaving = async {
            for _ in 0..100 {
                presence.disconnected(&client);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = presence.announce() => {}
            () = leaving => {}
        }
        // Each time is some 10 MB for all of them, so it may take about a second of the wire.
        let told = bus.stats().published - before;
        assert!((2..=10).contains(&told), "told {told} times in 5 seconds");
    }

    fn client() -> Caller {
        let client = json!({"id": "app", "version": "1", "platform": "linux", "mode": "ui"});
        Caller {
            conn_id: "client".to_owned(),
            role: Role::Operator,
            scopes: Scopes::default(),
            client: serde_json::from_value(client).unwrap(),
            device_id: None,
            remote_ip: None,
            local: true,
            secret: None,
            capped: false,
        }
    }
}
