//! Who is let in: every listener, with every credential, header, origin and
//! state of the device. The answers are the table in `ACCESS.md`; with
//! `INSTA_UPDATE=always` it is written anew.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use moltbot_tests::{
    Client, Connect, Daemon, Device, FarHost, Options, Version, client::Refusal, daemon::TOKEN,
    programs::source_root,
};
use serde_json::{Value, json};

const PASSWORD: &str = "a password that nobody guesses 7391";

/// Where a client comes in.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Control,
    Loopback,
    LoopbackPassword,
    LoopbackTls,
    Lan,
    LanTls,
    Public,
    PublicTls,
}

impl Way {
    const ALL: [(Self, &str); 8] = [
        (Self::Control, "control socket"),
        (Self::Loopback, "`loopback`"),
        (Self::LoopbackPassword, "`loopback`, mode `password`"),
        (Self::LoopbackTls, "`loopback`, TLS"),
        (Self::Lan, "`lan`, from a local network"),
        (Self::LanTls, "`lan`, TLS, from a local network"),
        (Self::Public, "`lan`, at a public address"),
        (Self::PublicTls, "`lan`, TLS, at a public address"),
    ];

    fn tls(self) -> bool {
        matches!(self, Self::LoopbackTls | Self::LanTls | Self::PublicTls)
    }

    fn address(self, far: &FarHost) -> Option<IpAddr> {
        match self {
            Self::Lan | Self::LanTls => Some(far.own_local()),
            Self::Public | Self::PublicTls => Some(far.own_public()),
            _ => None,
        }
    }

    fn gateway(self, trusted: bool, far: &FarHost) -> Value {
        let auth = match self {
            Self::LoopbackPassword => json!({ "mode": "password", "password": PASSWORD }),
            _ => json!({ "token": TOKEN }),
        };
        let proxies = match trusted {
            true if self.address(far).is_some() => json!(["10.213.0.0/16", "203.0.113.0/24"]),
            true => json!(["127.0.0.1"]),
            false => json!([]),
        };
        let bind = if self.address(far).is_some() { "lan" } else { "loopback" };
        json!({
            "bind": bind, "auth": auth, "tls": { "enabled": self.tls() },
            "trustedProxies": proxies,
            // Many strangers come at once from one address here.
            "limits": { "unauthenticatedPerAddress": 200 },
        })
    }
}

const HEADERS: [&str; 3] = ["none", "from anybody", "from a trusted proxy"];
const ORIGINS: [&str; 3] = ["none", "own", "another"];
const SECRETS: [&str; 3] = ["right", "wrong", "none"];
const DEVICES: [&str; 4] = ["none", "new", "paired", "revoked"];

struct Place<'a> {
    way: Way,
    daemon: Daemon,
    far: &'a FarHost,
    paired: Device,
    revoked: Device,
}

impl<'a> Place<'a> {
    async fn prepare(way: Way, trusted: bool, far: &'a FarHost) -> Self {
        let config = json!({ "gateway": way.gateway(trusted, far) });
        let daemon = Daemon::start_with(Options::with(config)).await;
        let place = Self { way, daemon, far, paired: Device::new(), revoked: Device::new() };
        let mut operator = place.control(Connect::operator()).await.unwrap();
        for device in [&place.paired, &place.revoked] {
            place.control(Connect::operator().device(device, Version::V2)).await.unwrap();
        }
        let revoke = json!({ "deviceId": place.revoked.id(), "role": "operator" });
        operator.call("device.token.revoke", revoke).await.unwrap();
        place
    }

    async fn control(&self, connect: Connect) -> Result<Client, Refusal> {
        Client::open_control(&self.daemon.control_socket()).await?.introduce(connect).await
    }

    fn host(&self) -> String {
        let ip = self.way.address(self.far).map_or("127.0.0.1".into(), |ip| ip.to_string());
        format!("{ip}:{}", self.daemon.port())
    }

    async fn come_in(&self, connect: Connect) -> Result<Client, Refusal> {
        if self.way == Way::Control {
            let path = self.daemon.control_socket();
            let client = Client::open_control_with(&path, &connect.headers).await?;
            return client.introduce(connect).await;
        }
        let (host, port) = (self.host(), self.daemon.port());
        let stream = match self.way.address(self.far) {
            Some(ip) => self.far.dial(ip, port).await.unwrap(),
            None => tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
        };
        let pins = self.way.tls().then(|| self.daemon.pins());
        let client = Client::open_over(stream, &host, &connect.headers, pins.as_ref()).await?;
        client.introduce(connect).await
    }

    fn connect(&self, header: usize, origin: usize, secret: usize, device: usize) -> Connect {
        let kind = if self.way == Way::LoopbackPassword { "password" } else { "token" };
        let known = if kind == "password" { PASSWORD } else { TOKEN };
        let auth = match SECRETS[secret] {
            "right" => json!({ kind: known }),
            "wrong" => json!({ kind: "wrong" }),
            _ => json!({}),
        };
        let mut connect = Connect::operator().set("/auth", auth);
        if HEADERS[header] != "none" {
            connect = connect.header("X-Forwarded-For", "198.51.100.7");
        }
        let scheme = if self.way.tls() { "https" } else { "http" };
        match ORIGINS[origin] {
            "own" => connect = connect.header("Origin", &format!("{scheme}://{}", self.host())),
            "another" => connect = connect.header("Origin", "https://elsewhere.example"),
            _ => {}
        }
        match DEVICES[device] {
            "new" => connect.device(&Device::new(), Version::V2),
            "paired" => connect.device(&self.paired, Version::V2),
            "revoked" => connect.device(&self.revoked, Version::V2),
            _ => connect,
        }
    }

    async fn verdict(&self, at: [usize; 4]) -> String {
        let [header, origin, secret, device] = at;
        let verdict = match self.come_in(self.connect(header, origin, secret, device)).await {
            Ok(_) if DEVICES[device] == "new" => "let in, and paired".to_owned(),
            Ok(_) => "let in".to_owned(),
            Err(refusal) => reason(&refusal),
        };
        // Guesses add up; who knows the secret starts over.
        let right = self.connect(header, 0, 0, 2);
        let _ = self.come_in(right).await;
        verdict
    }
}

fn reason(refusal: &Refusal) -> String {
    match (refusal.status, &refusal.error) {
        (Some(403), _) => "403 origin not allowed".to_owned(),
        (Some(421), _) => "421 nothing forwarded comes through the control socket".to_owned(),
        (Some(400), _) => "400 a public address is served over TLS only".to_owned(),
        (Some(status), _) => format!("HTTP status {status}"),
        (None, Some(error)) => {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("code"), text("message"))
        }
        (None, None) => format!("closed: {}", refusal.reason),
    }
}

#[tokio::test]
async fn who_is_let_in_is_what_the_table_says() {
    let far = FarHost::plug_in();
    let mut legend = Legend::default();
    let mut rows: Vec<(String, String)> = Vec::new();
    for (way, name) in Way::ALL {
        for (header, forwarded) in HEADERS.iter().enumerate() {
            let trusted = *forwarded == "from a trusted proxy";
            let place = Place::prepare(way, trusted, &far).await;
            for (origin, page) in ORIGINS.iter().enumerate() {
                let mut cells = String::new();
                for secret in 0..SECRETS.len() {
                    for device in 0..DEVICES.len() {
                        let verdict = place.verdict([header, origin, secret, device]).await;
                        let _ = write!(cells, " {} |", legend.mark(verdict));
                    }
                }
                let place = format!("| {name} | {forwarded} | {page} |");
                rows.push((place, cells));
            }
        }
    }
    compare(&page(&rows, &legend));
}

/// Short marks for long reasons, in the order they came up.
#[derive(Default)]
struct Legend(BTreeMap<String, usize>, Vec<String>);

impl Legend {
    fn mark(&mut self, reason: String) -> String {
        let next = self.1.len();
        let number = *self.0.entry(reason.clone()).or_insert(next);
        if number == next {
            self.1.push(reason);
        }
        Self::letter(number)
    }

    fn letter(number: usize) -> String {
        let letter = char::from(b'A' + u8::try_from(number).expect("there are few reasons"));
        format!("**{letter}**")
    }
}

fn page(rows: &[(String, String)], legend: &Legend) -> String {
    let mut text = String::from(
        "# Who is let in\n\nWhat the gateway answers to a client, by the listener it comes through, \
         forwarding headers (`X-Forwarded-For`), `Origin`,\nthe shared secret it shows and what is \
         known of its device key. Made by `tests/outside/reach.rs` with real connections,\nsome from \
         another host, and compared at every run of the tests.\n\n",
    );
    for (number, reason) in legend.1.iter().enumerate() {
        let _ = writeln!(text, "* {} {reason}", Legend::letter(number));
    }
    let columns = SECRETS.iter().flat_map(|secret| {
        DEVICES.iter().map(move |device| format!(" secret {secret}, device {device} |"))
    });
    let columns: Vec<String> = columns.collect();
    let _ = writeln!(text, "\n| Listener | Forwarding header | Origin |{}", columns.concat());
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(columns.len()));
    for (place, cells) in rows {
        let _ = writeln!(text, "{place}{cells}");
    }
    text
}

fn compare(page: &str) {
    let file = source_root().join("ACCESS.md");
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        std::fs::write(&file, page).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(stored == page, "ACCESS.md is stale; run this with INSTA_UPDATE=always:\n{page}");
}
