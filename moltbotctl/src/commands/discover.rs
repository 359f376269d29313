//! `moltbotctl gateway discover`: which gateways announce themselves on the
//! local network.
//!
//! Anybody there can announce anything. So what is heard is shown and goes
//! nowhere else: no credential, no pin, no address is taken from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent};
use serde_json::{Value, json};

use crate::{
    context::Context,
    output::{cell, clean},
};

const SERVICE: &str = "_moltbot-gw._tcp.local.";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// More would be somebody who floods the network.
const MOST_BEACONS: usize = 256;

type Heard = BTreeMap<String, Box<ResolvedService>>;

/// Listens for as long as `--timeout` says and shows who was heard.
///
/// # Errors
/// When this host cannot listen.
pub async fn run(cx: &Context) -> anyhow::Result<()> {
    let timeout = cx.timeout_given.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    let heard = tokio::task::spawn_blocking(move || listen(timeout))
        .await?
        .context("cannot listen for announcements on the local network (UDP port 5353)")?;
    let beacons: Vec<Value> = heard.values().map(|service| beacon(service)).collect();
    let report = json!({
        "timeoutMs": u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        "domains": ["local."],
        "count": beacons.len(),
        "beacons": beacons,
    });
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx, &report);
    }
    Ok(())
}

fn listen(timeout: Duration) -> mdns_sd::Result<Heard> {
    let deadline = Instant::now() + timeout;
    let mdns = ServiceDaemon::new()?;
    mdns.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
    let events = mdns.browse(SERVICE)?;
    let mut heard = Heard::new();
    while let Ok(event) = events.recv_deadline(deadline) {
        match event {
            ServiceEvent::ServiceResolved(service)
                if heard.len() < MOST_BEACONS || heard.contains_key(&service.fullname) =>
            {
                heard.insert(service.fullname.clone(), service);
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                heard.remove(&fullname);
            }
            _ => {}
        }
    }
    // The process ends next, and the listening with it.
    let _ = mdns.shutdown();
    Ok(heard)
}

/// Port and addresses are those of the service record; what the text says is
/// told beside them, and the rest of it not at all.
fn beacon(service: &ResolvedService) -> Value {
    let text = |key: &str| service.get_property_val_str(key).map(one_line);
    let addresses: BTreeSet<IpAddr> =
        service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    let name = service.fullname.strip_suffix(SERVICE).unwrap_or(&service.fullname);
    let tls = text("gatewayTls").as_deref() == Some("1");
    let scheme = if tls { "wss" } else { "ws" };
    let address = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first());
    let url = address.map(|ip| match ip {
        IpAddr::V4(ip) => format!("{scheme}://{ip}:{}", service.port),
        IpAddr::V6(ip) => format!("{scheme}://[{ip}]:{}", service.port),
    });
    json!({
        "instanceName": one_line(&unescaped(name.trim_end_matches('.'))),
        "displayName": text("displayName"),
        "domain": "local.",
        "host": one_line(service.host.trim_end_matches('.')),
        "addresses": addresses,
        "port": service.port,
        "lanHost": text("lanHost"),
        "tailnetDns": text("tailnetDns"),
        "gatewayPort": text("gatewayPort").and_then(|port| port.parse::<u16>().ok()),
        "sshPort": text("sshPort").and_then(|port| port.parse::<u16>().ok()),
        "cliPath": text("cliPath"),
        "gatewayTls": tls,
        "gatewayTlsSha256": text("gatewayTlsSha256"),
        "wsUrl": url,
    })
}

fn show(cx: &Context, report: &Value) {
    let rows = report["beacons"].as_array().into_iter().flatten().map(|beacon| {
        vec![
            cell(beacon, "/instanceName"),
            cell(beacon, "/wsUrl"),
            cell(beacon, "/host"),
            cell(beacon, "/tailnetDns"),
            cell(beacon, "/sshPort"),
        ]
    });
    let out = cx.output;
    let headers = ["Name", "Address", "Host", "Tailnet", "SSH"];
    out.table(&headers, rows.collect(), "No gateway announces itself here.");
    if report["count"] == 0 {
        let text = "a gateway that listens on loopback only is announced when its \
                    discovery.mdns.mode is \"minimal\" or \"full\"";
        out.quiet_remark(text);
    } else {
        let text = "anybody on the network can announce anything: nothing of this was stored; \
                    name the one you know to be yours: --url URL --token-file FILE, or --ssh";
        out.quiet_remark(text);
    }
}

/// Takes away what could steer a terminal or look like further lines.
fn one_line(text: &str) -> String {
    clean(&text.replace(['\n', '\t'], " "))
}

/// Undoes the escapes of a DNS name's text form (`\.`, `\\`).
fn unescaped(name: &str) -> String {
    let mut plain = String::new();
    let mut characters = name.chars();
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    fn heard(text: &[(&str, &str)]) -> Value {
        let service =
            ServiceInfo::new(SERVICE, "a.b (Moltbot)", "box.local.", "192.0.2.7", 18789, text);
        beacon(&service.unwrap().as_resolved_service())
    }

    #[test]
    fn the_service_record_says_where_and_the_text_does_not() {
        let text = [("gatewayPort", "1"), ("lanHost", "evil.example"), ("tailnetDns", "evil")];
        let beacon = heard(&text);
        assert_eq!(beacon["wsUrl"], "ws://192.0.2.7:18789");
        assert_eq!(beacon["instanceName"], "a.b (Moltbot)");
        assert_eq!(beacon["gatewayPort"], 1);
    }

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        let text =
            [("displayName", "\u{1b}[2Jyours\r\n\u{202e}txt"), ("sshPort", "-o ProxyCommand")];
        let beacon = heard(&text);
        let name = beacon["displayName"].as_str().unwrap();
        assert!(!name.chars().any(|c| c.is_control() || c == '\u{202e}'), "{name:?}");
        assert_eq!(beacon["sshPort"], Value::Null);
    }
}
