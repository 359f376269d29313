//! Announces the gateway on the local network (mDNS with DNS-SD, RFC 6762 and
//! 6763).
//!
//! What is announced helps people to find the gateway. Anybody on the network
//! can announce the same, so clients take no credential, no pin and no route
//! from it. Without it everything else works: nothing here stops the daemon.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Bind, Config, MdnsMode},
    presence,
    tls::Tls,
};

/// The service type of the reference.
const SERVICE: &str = "_moltbot-gw._tcp.local.";
/// Longest label of a DNS name, in bytes (RFC 1035, 2.3.4).
const LONGEST_LABEL: usize = 63;
/// Longest value that fits one string of a TXT record with any key of ours.
const LONGEST_VALUE: usize = 200;
const SSH_PORT: &str = "22";
/// When to try again where announcing failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// How long the goodbye may hold up the exit.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often to look whether the certificate was replaced.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the announcement in line with the configuration.
#[derive(Debug)]
pub struct Advertiser {
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Which addresses the gateway listens on.
    pub bind: Bind,
    /// Its port.
    pub port: u16,
    /// Name of the profile.
    pub profile: Option<String>,
    /// The certificate, when the port speaks TLS.
    pub tls: Option<Arc<Tls>>,
}

/// What is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Beacon {
    instance: String,
    host: String,
    port: u16,
    text: Vec<(&'static str, String)>,
    /// The only address to be found under; every one when absent.
    only: Option<IpAddr>,
}

impl Advertiser {
    /// Announces, and says goodbye when told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.config.changes();
        let mut announced: Option<(Beacon, ServiceDaemon)> = None;
        let mut retry = FIRST_RETRY;
        loop {
            let wanted = self.beacon(&self.config.get());
            if announced.as_ref().map(|(beacon, _)| beacon) != wanted.as_ref() {
                withdraw(announced.take()).await;
                announced = wanted.as_ref().and_then(announce);
            }
            let failed = wanted.is_some() && announced.is_none();
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.changed() => match changed {
                    Ok(()) => retry = FIRST_RETRY,
                    Err(_) => break,
                },
                () = tokio::time::sleep(retry), if failed => {
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
                () = tokio::time::sleep(CERTIFICATE_INTERVAL), if self.tls.is_some() => {}
            }
        }
        withdraw(announced).await;
    }

    fn beacon(&self, config: &Config) -> Option<Beacon> {
        let mode = config.mdns_mode(self.bind);
        if mode == MdnsMode::Off {
            return None;
        }
        let name = presence::host_name();
        let host = host_label(&name);
        let display = match &self.profile {
            Some(profile) => format!("{name} {profile}"),
            None => name,
        };
        let mut text = vec![
            ("role", "gateway".to_owned()),
            ("gatewayPort", self.port.to_string()),
            ("lanHost", format!("{host}.local")),
            ("displayName", cut(&display, LONGEST_VALUE).to_owned()),
            ("transport", "gateway".to_owned()),
        ];
        if let Some(tls) = &self.tls {
            text.push(("gatewayTls", "1".to_owned()));
            text.push(("gatewayTlsSha256", tls.fingerprint()));
        }
        if let Some(name) = variable(config, "TAILNET_DNS") {
            text.push(("tailnetDns", cut(name, LONGEST_VALUE).to_owned()));
        }
        if mode == MdnsMode::Full {
            text.push(("sshPort", variable(config, "SSH_PORT").unwrap_or(SSH_PORT).to_owned()));
            text.extend(client_path(config).map(|path| ("cliPath", path)));
        }
        let custom = config.gateway.custom_bind_host.as_deref();
        let only = custom.filter(|_| self.bind == Bind::Custom).and_then(|ip| ip.parse().ok());
        Some(Beacon {
            instance: instance(&display),
            host,
            port: self.port,
            text,
            only: only.filter(|ip: &IpAddr| !ip.is_unspecified()),
        })
    }
}

impl Beacon {
    fn service(&self) -> mdns_sd::Result<ServiceInfo> {
        let host = format!("{}.local.", self.host);
        let text = &self.text[..];
        let service = ServiceInfo::new(SERVICE, &self.instance, &host, "", self.port, text)?;
        let mut service = service.enable_addr_auto();
        if let Some(ip) = self.only {
            service.set_interfaces(vec![IfKind::Addr(ip)]);
        }
        Ok(service)
    }
}

fn announce(beacon: &Beacon) -> Option<(Beacon, ServiceDaemon)> {
    let started = || -> mdns_sd::Result<ServiceDaemon> {
        let service = beacon.service()?;
        let mdns = ServiceDaemon::new()?;
        // Who is on this host finds the gateway without.
        mdns.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        mdns.register(service)?;
        Ok(mdns)
    };
    match started() {
        Ok(mdns) => {
            tracing::info!(name = beacon.instance, "announced on the local network");
            Some((beacon.clone(), mdns))
        }
        Err(error) => {
            tracing::warn!(%error, "not announced on the local network");
            None
        }
    }
}

/// Tells the network that the gateway is gone.
async fn withdraw(announced: Option<(Beacon, ServiceDaemon)>) {
    let Some((_, mdns)) = announced else { return };
    // Whoever misses the goodbye forgets the gateway when its time is over.
    let _ =
        tokio::task::spawn_blocking(move || mdns.shutdown().map(|done| done.recv_timeout(GOODBYE)))
            .await;
}

fn variable<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    let value = |prefix: &str| config.variable(&format!("{prefix}_{name}"));
    value("MOLTBOT").or_else(|| value("CLAWDBOT")).map(str::trim)
}

fn client_path(config: &Config) -> Option<String> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("moltbotctl"));
    let found = variable(config, "CLI_PATH").map(PathBuf::from).or_else(beside);
    let path = found.filter(|path| path.exists())?.display().to_string();
    (path.len() <= LONGEST_VALUE).then_some(path)
}

fn instance(display: &str) -> String {
    const MARK: &str = " (Moltbot)";
    let marked = display.to_ascii_lowercase().contains("moltbot");
    let mark = if marked { "" } else { MARK };
    format!("{}{mark}", cut(display, LONGEST_LABEL - mark.len()))
}

/// Returns the first label of a host's name as one that DNS takes.
fn host_label(name: &str) -> String {
    let first = name.split('.').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label: String = first.chars().take(LONGEST_LABEL).map(plain).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "moltbot".into() } else { label.into() }
}

/// Cuts a text to a number of bytes, between characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(mode: MdnsMode) -> Option<Beacon> {
        let mut config = Config::default();
        config.discovery.mdns.mode = Some(mode);
        let (bind, port) = (Bind::Lan, 18789);
        let live = Arc::new(config::Live::new(config.clone()));
        Advertiser { config: live, bind, port, profile: None, tls: None }.beacon(&config)
    }

    #[test]
    fn paths_and_hints_for_ssh_are_told_by_choice_only() {
        let keys = |mode| -> Vec<_> {
            beacon(mode).unwrap().text.into_iter().map(|(key, _)| key).collect()
        };
        let minimal = keys(MdnsMode::Minimal);
        assert_eq!(minimal, ["role", "gatewayPort", "lanHost", "displayName", "transport"]);
        assert!(keys(MdnsMode::Full).contains(&"sshPort"));
        assert_eq!(beacon(MdnsMode::Off), None);
        beacon(MdnsMode::Full).unwrap().service().unwrap();
    }

    #[test]
    fn names_fit_what_dns_takes() {
        assert_eq!(host_label("box.example.org"), "box");
        assert_eq!(host_label("Mein Rechner.local"), "Mein-Rechner");
        assert_eq!(host_label("…"), "moltbot");
        assert_eq!(instance("box"), "box (Moltbot)");
        assert_eq!(instance("moltbot-host"), "moltbot-host");
        let long = instance(&"ü".repeat(80));
        assert!(long.len() <= LONGEST_LABEL && long.ends_with("ü (Moltbot)"), "{long}");
    }
}
