//! Who is let in: every listener, with every credential, header, origin and
//! state of the device. The answers are the tables in `ACCESS.md`; with
//! `INSTA_UPDATE=always` it is written anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use moltbot_tests::{
    Client, Connect, Daemon, Device, FarHost, Options, Version, client::Refusal, daemon::TOKEN,
    on_an_island, programs::source_root,
};
use serde_json::{Value, json};

const PASSWORD: &str = "a password that nobody guesses 7391";

/// What the daemon is told.
#[derive(Clone, Copy, PartialEq)]
struct Setup {
    bind: &'static str,
    password: bool,
    tls: bool,
}

/// Where a client comes in.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Control,
    Here,
    HereV6,
    Local,
    LocalV6,
    Public,
    PublicV6,
    Tailnet,
    TailnetV6,
}

use Door::{Control, Here, HereV6, Local, LocalV6, Public, PublicV6, Tailnet, TailnetV6};

const PLAIN: Setup = Setup { bind: "loopback", password: false, tls: false };

/// Every daemon, with the doors that are tried and what the table calls them.
fn setups() -> Vec<(Setup, Vec<(Door, &'static str)>)> {
    let bind = |bind| Setup { bind, ..PLAIN };
    let tls = |setup| Setup { tls: true, ..setup };
    vec![
        (
            PLAIN,
            vec![
                (Control, "the control socket"),
                (Here, "`loopback` at 127.0.0.1"),
                (HereV6, "`loopback` at ::1"),
                (Local, "`loopback`, from a local network"),
            ],
        ),
        (Setup { password: true, ..PLAIN }, vec![(Here, "`loopback`, mode `password`")]),
        (tls(PLAIN), vec![(Here, "`loopback` with TLS"), (HereV6, "`loopback` with TLS, at ::1")]),
        (bind("auto"), vec![(Here, "`auto`"), (Local, "`auto`, from a local network")]),
        (
            bind("lan"),
            vec![
                (Here, "`lan`, from this host"),
                (Local, "`lan`, from a local network"),
                (LocalV6, "`lan`, from a local network of IPv6"),
                (Tailnet, "`lan`, from the tailnet"),
                (Public, "`lan`, at a public address"),
                (PublicV6, "`lan`, at a public IPv6 address"),
            ],
        ),
        (
            tls(bind("lan")),
            vec![
                (Here, "`lan` with TLS, from this host"),
                (Local, "`lan` with TLS, from a local network"),
                (LocalV6, "`lan` with TLS, from a local network of IPv6"),
                (Public, "`lan` with TLS, at a public address"),
                (PublicV6, "`lan` with TLS, at a public IPv6 address"),
            ],
        ),
        (
            bind("tailnet"),
            vec![
                (Here, "`tailnet`, from this host"),
                (Tailnet, "`tailnet`, from the tailnet"),
                (TailnetV6, "`tailnet`, from the tailnet by IPv6"),
                (Local, "`tailnet`, from a local network"),
            ],
        ),
        (
            bind("custom"),
            vec![
                (Here, "`custom` with a local address, from this host"),
                (Local, "`custom` with a local address, from there"),
                (Tailnet, "`custom` with a local address, from elsewhere"),
            ],
        ),
        (
            bind("custom6"),
            vec![
                (HereV6, "`custom` with a local IPv6 address, from this host by ::1"),
                (LocalV6, "`custom` with a local IPv6 address, from there"),
                (PublicV6, "`custom` with a local IPv6 address, from elsewhere"),
            ],
        ),
    ]
}

impl Setup {
    fn gateway(self, trusted: bool, far: &FarHost) -> Value {
        let auth = match self.password {
            true => json!({ "mode": "password", "password": PASSWORD }),
            false => json!({ "token": TOKEN }),
        };
        let proxies = match trusted {
            true => json!([
                "127.0.0.1",
                "::1",
                "10.213.0.0/16",
                "203.0.113.0/24",
                "100.64.0.0/10",
                "fd00:213::/32",
                "2001:db8::/32",
                "fd7a:115c:a1e0::/48",
            ]),
            false => json!([]),
        };
        let mut gateway = json!({
            "bind": self.bind.trim_end_matches('6'), "auth": auth, "tls": { "enabled": self.tls },
            "trustedProxies": proxies,
            // Many strangers come at once from one address here.
            "limits": { "unauthenticatedPerAddress": 200 },
        });
        match self.bind {
            "custom" => gateway["customBindHost"] = json!(far.own_local()),
            "custom6" => gateway["customBindHost"] = json!(far.own_local_v6()),
            _ => {}
        }
        gateway
    }
}

impl Door {
    fn address(self, far: &FarHost) -> IpAddr {
        match self {
            Control | Here => Ipv4Addr::LOCALHOST.into(),
            HereV6 => Ipv6Addr::LOCALHOST.into(),
            Local => far.own_local(),
            LocalV6 => far.own_local_v6(),
            Public => far.own_public(),
            PublicV6 => far.own_public_v6(),
            Tailnet => far.own_tailnet()[0],
            TailnetV6 => far.own_tailnet()[1],
        }
    }

    fn is_here(self) -> bool {
        matches!(self, Control | Here | HereV6)
    }
}

const HEADERS: [&str; 3] = ["none", "from anybody", "from a trusted proxy"];
const ORIGINS: [&str; 3] = ["none", "own", "another"];
const SECRETS: [&str; 3] = ["right", "wrong", "none"];
const DEVICES: [&str; 4] = ["none", "new", "paired", "revoked"];

/// The device tokens that a client shows instead of the shared secret.
#[derive(Clone, Copy)]
enum Shown {
    Own,
    Rotated,
    Revoked,
    OfAnother,
    OfAnotherRole,
    WithoutKey,
}

const TOKENS: [(Shown, &str); 6] = [
    (Shown::Own, "its own"),
    (Shown::Rotated, "its own before a rotation"),
    (Shown::Revoked, "its own, revoked"),
    (Shown::OfAnother, "of another device"),
    (Shown::OfAnotherRole, "its own as a node"),
    (Shown::WithoutKey, "without the device's key"),
];

struct Place<'a> {
    setup: Setup,
    daemon: Daemon,
    far: &'a FarHost,
    paired: (Device, String),
    rotated: (Device, String),
    revoked: (Device, String),
    node: (Device, String),
}

impl<'a> Place<'a> {
    async fn prepare(setup: Setup, trusted: bool, far: &'a FarHost) -> Self {
        let config = json!({ "gateway": setup.gateway(trusted, far) });
        let daemon = Daemon::start_with(Options::with(config)).await;
        let paired = pair_operator(&daemon).await;
        let rotated = pair_and(&daemon, "device.token.rotate").await;
        let revoked = pair_and(&daemon, "device.token.revoke").await;
        let node = pair(&daemon, |device| Connect::node(device, &[])).await;
        Self { setup, daemon, far, paired, rotated, revoked, node }
    }

    /// Puts another device in the place of one that guessed: guesses are counted by device, and
    /// this asks what each way answers, not how often it does.
    async fn replace(&mut self, guesser: &str) {
        let daemon = &self.daemon;
        if guesser == self.paired.0.id() {
            self.paired = pair_operator(daemon).await;
        } else if guesser == self.rotated.0.id() {
            self.rotated = pair_and(daemon, "device.token.rotate").await;
        } else if guesser == self.revoked.0.id() {
            self.revoked = pair_and(daemon, "device.token.revoke").await;
        } else if guesser == self.node.0.id() {
            self.node = pair(daemon, |device| Connect::node(device, &[])).await;
        }
    }

    async fn come_in(&self, door: Door, connect: Connect) -> Result<Client, Refusal> {
        if door == Control {
            let path = self.daemon.control_socket();
            let client = Client::open_control_with(&path, &connect.headers).await?;
            return client.introduce(connect).await;
        }
        let own = self.own(door);
        let stream = match door.is_here() {
            true => tokio::net::TcpStream::connect(own).await,
            false => self.far.dial(own.ip(), own.port()).await,
        };
        let stream = stream.map_err(|error| {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{own}: {error}");
            Refusal { status: None, error: None, code: None, reason: "nobody listens".into() }
        })?;
        let pins = self.setup.tls.then(|| self.daemon.pins());
        let host = own.to_string();
        let client = Client::open_over(stream, &host, &connect.headers, pins.as_ref()).await?;
        client.introduce(connect).await
    }

    fn own(&self, door: Door) -> SocketAddr {
        SocketAddr::new(door.address(self.far), self.daemon.port())
    }

    fn with_secret(&self, secret: &str) -> Connect {
        let kind = if self.setup.password { "password" } else { "token" };
        let known = if self.setup.password { PASSWORD } else { TOKEN };
        Connect::operator().set(
            "/auth",
            match secret {
                "right" => json!({ kind: known }),
                "wrong" => json!({ kind: "wrong" }),
                _ => json!({}),
            },
        )
    }

    fn as_device(&self, connect: Connect, device: &str) -> Connect {
        match device {
            "new" => connect.device(&Device::new(), Version::V2),
            "paired" => connect.device(&self.paired.0, Version::V2),
            "revoked" => connect.device(&self.revoked.0, Version::V2),
            _ => connect,
        }
    }

    fn with_token(&self, shown: Shown) -> Connect {
        let (key, token) = match shown {
            Shown::Own => (Some(&self.paired.0), &self.paired.1),
            Shown::Rotated => (Some(&self.rotated.0), &self.rotated.1),
            Shown::Revoked => (Some(&self.revoked.0), &self.revoked.1),
            Shown::OfAnother => (Some(&self.rotated.0), &self.paired.1),
            Shown::OfAnotherRole => (Some(&self.node.0), &self.node.1),
            Shown::WithoutKey => (None, &self.paired.1),
        };
        let connect = Connect::operator().token(token);
        match key {
            Some(device) => connect.device(device, Version::V2),
            None => connect,
        }
    }

    /// Comes in the way that is asked about, and says what happened.
    async fn verdict(&mut self, way: Way, connect: Connect) -> String {
        let device = connect.device.as_ref().map(|(device, _)| device.id());
        let is_new = connect.device.as_ref().is_some_and(|(device, _)| !self.knows(device));
        let verdict = match self.come_in(way.door, self.along(way, connect)).await {
            Ok(_) if is_new => "let in, and paired".to_owned(),
            Ok(_) => "let in".to_owned(),
            Err(refusal) => reason(&refusal),
        };
        if verdict.contains("mismatch") {
            // Guesses add up; who knows the secret starts over.
            let right = self.as_device(self.with_secret("right"), "paired");
            let _ = self.come_in(way.door, self.along(Way { origin: 0, ..way }, right)).await;
            if let Some(device) = device {
                self.replace(&device).await;
            }
        }
        verdict
    }

    fn knows(&self, device: &Device) -> bool {
        let known = [&self.paired, &self.rotated, &self.revoked, &self.node];
        known.iter().any(|(known, _)| known.id() == device.id())
    }

    fn along(&self, way: Way, mut connect: Connect) -> Connect {
        if way.header > 0 {
            connect = connect.header("X-Forwarded-For", "198.51.100.7");
        }
        let scheme = if self.setup.tls { "https" } else { "http" };
        let own = format!("{scheme}://{}", self.own(way.door));
        match ORIGINS[way.origin] {
            "own" => connect.header("Origin", &own),
            "another" => connect.header("Origin", "https://elsewhere.example"),
            _ => connect,
        }
    }
}

async fn pair_operator(daemon: &Daemon) -> (Device, String) {
    pair(daemon, |device| Connect::operator().device(device, Version::V2)).await
}

/// Pairs a device and changes its right; the token is the one of before.
async fn pair_and(daemon: &Daemon, method: &str) -> (Device, String) {
    let paired = pair_operator(daemon).await;
    let named = json!({ "deviceId": paired.0.id(), "role": "operator" });
    let mut operator = control(daemon, Connect::operator()).await;
    operator.call(method, named).await.unwrap();
    paired
}

/// Pairs a device through the control socket; returns it with its token.
async fn pair(daemon: &Daemon, connect: impl Fn(&Device) -> Connect) -> (Device, String) {
    let device = Device::new();
    let client = control(daemon, connect(&device)).await;
    let token = client.hello["auth"]["deviceToken"].as_str().expect("a token is issued");
    (device, token.to_owned())
}

async fn control(daemon: &Daemon, connect: Connect) -> Client {
    let client = Client::open_control(&daemon.control_socket()).await.unwrap();
    client.introduce(connect).await.unwrap()
}

/// How a client gets to the daemon, by the numbers of the lists above.
#[derive(Clone, Copy)]
struct Way {
    door: Door,
    header: usize,
    origin: usize,
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
        (None, None) => refusal.reason.clone(),
    }
}

#[test]
fn who_is_let_in_is_what_the_tables_say() {
    on_an_island(|| async {
        let far = FarHost::plug_in();
        far.join_tailnet_at_once();
        let mut legend = Legend::default();
        let (mut secrets, mut tokens) = (Table::default(), Table::default());
        for (setup, doors) in setups() {
            for (header, forwarded) in HEADERS.iter().enumerate() {
                let mut place =
                    Place::prepare(setup, *forwarded == "from a trusted proxy", &far).await;
                for ((door, name), origin) in
                    doors.iter().flat_map(|door| (0..ORIGINS.len()).map(move |it| (door, it)))
                {
                    let way = Way { door: *door, header, origin };
                    let mut cells = String::new();
                    for (secret, device) in
                        SECRETS.iter().flat_map(|it| DEVICES.iter().map(move |device| (it, device)))
                    {
                        let connect = place.as_device(place.with_secret(secret), device);
                        let verdict = place.verdict(way, connect).await;
                        let _ = write!(cells, " {} |", legend.mark(verdict));
                    }
                    secrets.add(name, header, origin, cells);
                    let mut cells = String::new();
                    for (shown, _) in TOKENS {
                        let verdict = place.verdict(way, place.with_token(shown)).await;
                        let _ = write!(cells, " {} |", legend.mark(verdict));
                    }
                    tokens.add(name, header, origin, cells);
                }
            }
        }
        compare(&page(&secrets, &tokens, &legend));
    });
}

/// Each right that is taken away ends the connections that live by it, with the
/// calls that wait there, though they come from another host.
#[test]
fn a_device_of_another_host_is_cut_off_with_its_right() {
    on_an_island(|| async {
        let far = FarHost::plug_in();
        for setup in [Setup { bind: "lan", ..PLAIN }, Setup { bind: "lan", tls: true, ..PLAIN }] {
            for method in ["device.token.revoke", "device.token.rotate", "device.pair.remove"] {
                let place = Place::prepare(setup, false, &far).await;
                let mut operator = control(&place.daemon, Connect::operator()).await;
                for (role, (device, token)) in [("operator", &place.paired), ("node", &place.node)]
                {
                    let connect = match role {
                        "node" => Connect::node(device, &["system.which"]),
                        _ => Connect::operator().device(device, Version::V2),
                    };
                    let mut client = place.come_in(Local, connect.token(token)).await.unwrap();
                    let invoke = json!({
                        "nodeId": device.id(), "command": "system.which", "idempotencyKey": "k",
                    });
                    let waiting = match role {
                        "node" => {
                            let call = operator.send("node.invoke", invoke).await;
                            client.next_event("node.invoke.request").await;
                            Some(call)
                        }
                        _ => None,
                    };
                    let mut which = json!({ "deviceId": device.id() });
                    if method != "device.pair.remove" {
                        which["role"] = json!(role);
                    }
                    operator.call(method, which).await.unwrap();
                    assert_eq!(client.closed().await.0, 1008, "{method} {role}");
                    if let Some(call) = waiting {
                        let refusal = operator.answer(&call).await.unwrap_err();
                        let text = refusal["message"].as_str().unwrap();
                        assert!(text.contains("node disconnected"), "{method}: {refusal}");
                    }
                    let again = Connect::operator().token(token).device(device, Version::V2);
                    place.come_in(Local, again).await.unwrap_err();
                }
            }
        }
    });
}

/// Rows by listener, each with the numbers of its header and its origin.
#[derive(Default)]
struct Table(Vec<(&'static str, Vec<Row>)>);

type Row = ((usize, usize), String);

impl Table {
    fn add(&mut self, listener: &'static str, header: usize, origin: usize, cells: String) {
        let row = ((header, origin), cells);
        match self.0.iter_mut().find(|(known, _)| *known == listener) {
            Some((_, rows)) => rows.push(row),
            None => self.0.push((listener, vec![row])),
        }
    }

    /// Writes each set of rows once, with all listeners that have it.
    fn show(&self, text: &mut String, columns: &str, count: usize) {
        let mut groups: Vec<(Vec<&str>, &Vec<Row>)> = Vec::new();
        for (listener, rows) in &self.0 {
            match groups.iter_mut().find(|(_, known)| *known == rows) {
                Some((listeners, _)) => listeners.push(listener),
                None => groups.push((vec![listener], rows)),
            }
        }
        for (listeners, rows) in groups {
            text.push('\n');
            for listener in listeners {
                let _ = writeln!(text, "* {listener}");
            }
            let _ = writeln!(text, "\n| Forwarding header | Origin |{columns}");
            let _ = writeln!(text, "|---|---|{}", "---|".repeat(count));
            for (place, cells) in folded(rows) {
                let _ = writeln!(text, "{place}{cells}");
            }
        }
    }
}

/// Puts rows that are alike into one: first the headers of an origin, then the
/// origins with the same headers.
fn folded(rows: &[Row]) -> Vec<(String, &str)> {
    let mut alike: Vec<(&str, BTreeMap<usize, BTreeSet<usize>>)> = Vec::new();
    for ((header, origin), cells) in rows {
        let at = alike.iter().position(|(known, _)| known == cells).unwrap_or_else(|| {
            alike.push((cells, BTreeMap::new()));
            alike.len() - 1
        });
        alike[at].1.entry(*origin).or_default().insert(*header);
    }
    let mut lines = Vec::new();
    for (cells, by_origin) in alike {
        let mut by_headers: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
        for (origin, headers) in by_origin {
            by_headers.entry(headers).or_default().insert(origin);
        }
        for (headers, origins) in by_headers {
            let place = format!("| {} | {} |", named(&headers, HEADERS), named(&origins, ORIGINS));
            lines.push((place, cells));
        }
    }
    lines
}

fn named<const N: usize>(numbers: &BTreeSet<usize>, names: [&str; N]) -> String {
    if numbers.len() == N {
        return "any".into();
    }
    numbers.iter().map(|number| names[*number]).collect::<Vec<_>>().join(" or ")
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

fn page(secrets: &Table, tokens: &Table, legend: &Legend) -> String {
    let mut text = String::from(
        "# Who is let in\n\nWhat the gateway answers to a client, by the listener it comes through, \
         forwarding headers (`X-Forwarded-For`), `Origin`,\nwhat it shows and what is known of its \
         device key. Made by `tests/outside/reach.rs` with real connections, many from\nanother \
         host, and compared at every run of the tests. Listeners with the same answers share a \
         table.\n\n",
    );
    for (number, reason) in legend.1.iter().enumerate() {
        let _ = writeln!(text, "* {} {reason}", Legend::letter(number));
    }
    text.push_str("\n## With the shared secret\n");
    let columns = SECRETS.iter().flat_map(|secret| {
        DEVICES.iter().map(move |device| format!(" secret {secret}, device {device} |"))
    });
    let columns: Vec<String> = columns.collect();
    secrets.show(&mut text, &columns.concat(), columns.len());
    text.push_str(
        "\n## With a device token\n\nThe client shows a token that was issued to a device, and \
         proves the device's key but where the column says otherwise.\n",
    );
    let columns = TOKENS.map(|(_, name)| format!(" token {name} |"));
    tokens.show(&mut text, &columns.concat(), columns.len());
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
