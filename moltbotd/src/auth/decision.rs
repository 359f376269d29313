//! The decision at `connect`: who this is and what it may do, or why not.
//!
//! The order of the checks is the reference's, so that equal mistakes get equal
//! answers. A step is skipped only on a verified fact, never because a field is
//! present.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use moltbot_protocol::{
    ErrorCode, ErrorShape, PROTOCOL_VERSION, Role, Scope, Scopes,
    events::device::{Decision, DevicePairRequested, DevicePairResolved},
    handshake::{ConnectParams, Credentials, IssuedToken},
};
use serde_json::json;

use super::{
    Caller, Secret,
    device::{Challenge, ProofError, ProvenDevice, Replays, prove},
    limiter::{Guesser, Kind, Limited, Limiter},
    pairing::{self, Ask, Settled, Via},
};
use crate::{
    bus::{Bus, Close},
    clock,
    config::{self, AuthMode, LoopbackPairing},
    logging::Peer,
    store::{DeviceToken, Store, StoreError},
    tailscale::{self, Tailscale},
};

/// The shared secrets in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// Which of them counts.
    pub mode: AuthMode,
    /// The token.
    pub token: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
}

impl From<&config::AuthSecrets> for Secrets {
    fn from(found: &config::AuthSecrets) -> Self {
        let config::AuthSecrets { mode, token, password, .. } = found;
        Self { mode: *mode, token: token.clone(), password: password.clone() }
    }
}

/// What a shared secret is good for now.
#[derive(Debug)]
struct InForce {
    secrets: Secrets,
    /// Most that one of them grants, with or without a device.
    ceiling: Option<Scopes>,
    /// Counts the changes.
    number: u64,
}

/// How far a client's clock may be off before that is worth a line in the log.
const CLOCK_WARNING_MS: u64 = 120_000;

/// How whoever used a secret of before is sent away.
pub const SECRET_CHANGED: Close =
    Close { code: 1008, reason: Cow::Borrowed("the gateway's secret changed") };

/// Lets peers in.
#[derive(Debug)]
pub struct Auth {
    config: Arc<config::Live>,
    store: Store,
    bus: Arc<Bus>,
    tailscale: Arc<Tailscale>,
    in_force: ArcSwap<InForce>,
    limiter: Limiter,
    replays: Replays,
}

/// What the decision is made with.
#[derive(Debug)]
pub struct Parts {
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Devices.
    pub store: Store,
    /// Where requests for pairing are told.
    pub bus: Arc<Bus>,
    /// Who users of the tailnet are.
    pub tailscale: Arc<Tailscale>,
    /// The shared secrets.
    pub secrets: Secrets,
}

/// Facts about where a connection comes from, established before anything it
/// says is believed.
#[derive(Clone, Debug)]
pub struct Ingress {
    /// Whether it came through the control socket, whose peer is our own user.
    pub control: bool,
    /// Its address; loopback for the control socket.
    pub ip: IpAddr,
    /// Whether it is on this host for sure: a loopback peer that names a
    /// loopback host and carries no trace of a proxy.
    pub local: bool,
    /// Whether a browser sent it.
    pub browser: bool,
    /// Its address as shown to people; absent on this host and when unsure.
    pub reported_ip: Option<String>,
    /// The user of the tailnet it claims to be from. Anybody can claim that.
    pub tailscale: Option<tailscale::Claim>,
}

/// A peer that is let in.
#[derive(Debug)]
pub struct Admitted {
    /// What it may do.
    pub scopes: Scopes,
    /// Its role.
    pub role: Role,
    /// Its device key, if it proved one.
    pub device_id: Option<String>,
    /// The device token it gets.
    pub token: Option<IssuedToken>,
    /// Its address as shown to people.
    pub remote_ip: Option<String>,
    /// Whether it is on this host for sure.
    pub local: bool,
    /// The shared secret that let it in, if one did.
    pub secret: Option<u64>,
    /// Whether what it may do comes from a shared secret alone: the one it showed, or the one its
    /// device was paired with.
    pub capped: bool,
}

/// A peer that is not let in: the answer, and the close code that follows.
#[derive(Debug)]
pub struct Refusal {
    /// What it is told.
    pub error: Box<ErrorShape>,
    /// Close code; the reason is the error's message.
    pub code: u16,
}

/// How a peer proved that it may come in. Only the checks below make one.
enum Proof {
    Control,
    /// The secret of this number.
    SharedSecret(u64),
    DeviceToken(Scopes),
    /// A user of the tailnet, at this address of it.
    Tailscale(IpAddr),
}

impl Auth {
    /// Starts with the given secrets.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { config, store, bus, tailscale, secrets } = parts;
        let ceiling = config.get().gateway.auth.shared_secret_scopes.clone().map(Scopes);
        let in_force = InForce { secrets, ceiling, number: 0 };
        Self {
            config,
            store,
            bus,
            tailscale,
            in_force: ArcSwap::from_pointee(in_force),
            limiter: Limiter::default(),
            replays: Replays::default(),
        }
    }

    /// Returns which secret counts, for status.
    pub fn mode(&self) -> AuthMode {
        self.in_force.load().secrets.mode
    }

    /// Puts other secrets in force, or another limit to what they are good for;
    /// returns whether they are others. Called by one task at a time.
    pub fn replace(&self, secrets: Secrets) -> bool {
        let ceiling = self.config.get().gateway.auth.shared_secret_scopes.clone().map(Scopes);
        let before = self.in_force.load();
        if before.secrets == secrets && before.ceiling == ceiling {
            return false;
        }
        let number = before.number + 1;
        self.in_force.store(Arc::new(InForce { secrets, ceiling, number }));
        true
    }

    /// Sends everybody away who came in with a secret of before; returns how
    /// many that were.
    pub fn send_outdated_away(&self) -> usize {
        self.bus.close_where(&SECRET_CHANGED, |caller| self.is_outdated(caller))
    }

    /// Returns whether the secret that let somebody in counts no more, or grants less now.
    pub fn is_outdated(&self, caller: &Caller) -> bool {
        let in_force = self.in_force.load();
        let too_wide = || {
            let ceiling = in_force.ceiling.as_ref().filter(|_| caller.capped);
            ceiling.is_some_and(|ceiling| !ceiling.covers(&caller.scopes))
        };
        caller.secret.is_some_and(|number| number != in_force.number) || too_wide()
    }

    /// Decides about a `connect`.
    pub async fn admit(
        &self,
        params: &ConnectParams,
        ingress: &Ingress,
        nonce: &str,
    ) -> Result<Admitted, Refusal> {
        check_protocol(params)?;
        let role = params.role.as_deref().unwrap_or("operator");
        let role = Role::parse(role).ok_or_else(|| refuse("invalid role"))?;
        let device = self.check_device(params, ingress, role, nonce)?;
        let mut known = self.paired_device(device.as_ref()).await?;
        // What is stored is clipped together with whatever else is stored below.
        let clipped = match (&mut known, &self.in_force.load().ceiling) {
            (Some(known), Some(ceiling)) => pairing::clip(known, ceiling),
            _ => false,
        };
        let proof = match self.check_tailnet(ingress, role, device.is_some()).await {
            Some(proof) => proof,
            None => {
                let devices = (device.as_ref(), known.as_ref());
                self.check_credentials(params, ingress, role, devices)?
            }
        };

        // Only now: what strangers send must not fill the memory of used signatures.
        if let Some(device) = &device {
            if !self.replays.first_time(device, clock::now_u64()) {
                return Err(refuse(ProofError::Signature.to_string()));
            }
            warn_of_clock(device, ingress);
        }

        let requested = Scopes(params.scopes.iter().flatten().map(ToString::to_string).collect());
        // A user of the tailnet is known by name only: what may be done, the device says.
        let bypass =
            !matches!(proof, Proof::Tailscale(_)) && self.page_bypasses_device(params, ingress);
        let Some(device) = device.filter(|_| !bypass) else {
            let scopes = self.scopes_without_device(role, &requested, &proof);
            let remote_ip = ingress.reported_ip.clone();
            let local = ingress.local;
            let secret = proof.secret();
            return Ok(Admitted {
                scopes,
                role,
                device_id: None,
                token: None,
                remote_ip,
                local,
                secret,
                capped: secret.is_some(),
            });
        };
        let as_stored = known.as_ref().filter(|_| !clipped);
        self.check_pairing(params, ingress, role, requested, (device, as_stored), &proof).await
    }

    /// Returns whether a plain request shows the shared secret. Wrong guesses
    /// count like those of a handshake.
    pub fn knows_secret(&self, ingress: &Ingress, guess: Option<&str>) -> bool {
        let in_force = self.in_force.load();
        let secrets = &in_force.secrets;
        let (secret, kind) = match secrets.mode {
            AuthMode::Token => (&secrets.token, Kind::Token),
            AuthMode::Password => (&secrets.password, Kind::Password),
        };
        let (Some(secret), Some(guess)) = (secret, guess) else { return false };
        let guesser = Guesser::address(ingress.ip);
        if let Err(Limited { counter, failures, .. }) = self.limiter.check(guesser, kind) {
            tracing::warn!(ip = %ingress.ip, ?kind, counter, failures, "request refused: too many failures");
            return false;
        }
        if secret.matches(guess) {
            self.limiter.succeeded(guesser, kind);
            return true;
        }
        let failures = self.limiter.failed(guesser, kind);
        tracing::warn!(ip = %ingress.ip, ?kind, failures, "request refused: wrong secret");
        false
    }

    /// Checks a secret that a connected client shows again. Wrong ones count like those of a
    /// handshake: against the device that the client proved, else against its address.
    pub fn reauthenticate(&self, caller: &Caller, guess: &str) -> Result<(), Box<ErrorShape>> {
        let in_force = self.in_force.load();
        let secrets = &in_force.secrets;
        let (secret, kind) = match secrets.mode {
            AuthMode::Token => (&secrets.token, Kind::Token),
            AuthMode::Password => (&secrets.password, Kind::Password),
        };
        let ip = if caller.local {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            let known = caller.remote_ip.as_deref().and_then(|ip| ip.parse().ok());
            known.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        let device = caller.device_id.as_deref();
        let guesser = Guesser { ip, device, known: device.is_some(), paired: device.is_some() };

        if let Err(limited) = self.limiter.check(guesser, kind) {
            let Limited { counter, failures, .. } = limited;
            tracing::warn!(%ip, device, ?kind, counter, failures, "secret refused: too many failures");
            return Err(too_many_failures(limited).error);
        }
        if secret.as_ref().is_some_and(|secret| secret.matches(guess)) {
            self.limiter.succeeded(guesser, kind);
            return Ok(());
        }
        let failures = self.limiter.failed(guesser, kind);
        tracing::warn!(%ip, device, ?kind, failures, "wrong secret shown again");
        Err(refuse("auth.reauth is not the gateway's secret").error)
    }

    fn check_device(
        &self,
        params: &ConnectParams,
        ingress: &Ingress,
        role: Role,
        nonce: &str,
    ) -> Result<Option<ProvenDevice>, Refusal> {
        let rules = &self.config.get().gateway.control_ui;
        let page = is_page(params);
        let ignored = page && rules.dangerously_disable_device_auth;
        let Some(proof) = params.device.as_ref().filter(|_| !ignored) else {
            return self.check_absent_device(params, ingress).map(|()| None);
        };
        let challenge = Challenge {
            nonce,
            role: role.name(),
            local: ingress.local || ingress.control,
            now_ms: clock::now_u64(),
        };
        prove(params, proof, challenge).map(Some).map_err(|error| {
            let details = match error {
                ProofError::Expired { delta_ms, allowed_ms } => Some(json!({
                    "deltaMs": delta_ms, "allowedMs": allowed_ms, "serverTimeMs": challenge.now_ms,
                })),
                _ => None,
            };
            let mut refusal = refuse(error.to_string());
            refusal.error.details = details;
            refusal
        })
    }

    fn check_absent_device(
        &self,
        params: &ConnectParams,
        ingress: &Ingress,
    ) -> Result<(), Refusal> {
        if ingress.control {
            return Ok(());
        }
        let rules = &self.config.get().gateway.control_ui;
        let lenient = rules.allow_insecure_auth || rules.dangerously_disable_device_auth;
        let Given { token, password, .. } = Given::of(params);
        if is_page(params) && !lenient {
            return Err(refuse("control ui requires HTTPS or localhost (secure context)"));
        }
        let enough = token.is_some() || (is_page(params) && password.is_some());
        if enough { Ok(()) } else { Err(not_paired("device identity required")) }
    }

    fn page_bypasses_device(&self, params: &ConnectParams, ingress: &Ingress) -> bool {
        let rules = &self.config.get().gateway.control_ui;
        !ingress.control
            && is_page(params)
            && (rules.allow_insecure_auth || rules.dangerously_disable_device_auth)
    }

    /// Accepts a user of the tailnet with a device, as an operator only. What
    /// does not count is passed over: a secret may still be right.
    async fn check_tailnet(&self, ingress: &Ingress, role: Role, device: bool) -> Option<Proof> {
        let claim = ingress.tailscale.as_ref().filter(|_| device && role == Role::Operator)?;
        match self.tailscale.verify(claim, self.mode()).await {
            Ok(login) => {
                tracing::info!(login = %Peer(&login), ip = %claim.forwarded, "user of the tailnet");
                Some(Proof::Tailscale(claim.forwarded))
            }
            Err(tailscale::Denied::NotAllowed) => None,
            Err(reason) => {
                let login = Peer(&claim.login);
                tracing::warn!(%login, peer = %claim.peer, %reason, "tailscale headers do not count");
                None
            }
        }
    }

    fn check_credentials(
        &self,
        params: &ConnectParams,
        ingress: &Ingress,
        role: Role,
        (proven, known): (Option<&ProvenDevice>, Option<&crate::store::Device>),
    ) -> Result<Proof, Refusal> {
        if ingress.control {
            return Ok(Proof::Control);
        }
        let in_force = self.in_force.load();
        let secrets = &in_force.secrets;
        let given = Given::of(params);
        let (secret, sent, kind) = match secrets.mode {
            AuthMode::Token => (&secrets.token, given.token, Kind::Token),
            AuthMode::Password => (&secrets.password, given.password, Kind::Password),
        };

        // A device's own token is no guess: showing it costs no attempt and needs no waiting.
        let own = known.map_or(OwnToken::NotShown, |device| own_token(&given, role, device));
        let guess = sent.filter(|guess| own.text() != Some(*guess));
        let bootstrap = given.bootstrap_token.filter(|_| guess.is_none() && own.text().is_none());
        let kind = if bootstrap.is_some() { Kind::Bootstrap } else { kind };
        let is_guess = guess.is_some()
            || bootstrap.is_some()
            || (given.device_token.is_some() && own.text().is_none());

        let guesser = Guesser {
            ip: ingress.ip,
            device: proven.map(|device| &*device.id),
            known: known.is_some(),
            paired: known.is_some_and(|device| {
                device.tokens.iter().any(|token| token.summary.revoked_at_ms.is_none())
            }),
        };
        let limited = if is_guess { self.limiter.check(guesser, kind).err() } else { None };

        // While a peer must wait its guess is not looked at, so nothing shows whether it is right.
        if limited.is_none()
            && let (Some(secret), Some(guess)) = (secret, guess)
            && secret.matches(guess)
        {
            self.limiter.succeeded(guesser, kind);
            return Ok(Proof::SharedSecret(in_force.number));
        }
        if is_guess && limited.is_none() {
            let failures = self.limiter.failed(guesser, kind);
            let device = guesser.device;
            tracing::warn!(ip = %ingress.ip, device, ?kind, failures, "login failed");
        }

        match (own, limited) {
            (OwnToken::Right(_, scopes), _) => {
                if let Some(device) = known {
                    self.touch_token(device, role);
                }
                Ok(Proof::DeviceToken(scopes))
            }
            (_, Some(limited)) => {
                let Limited { counter, failures, .. } = limited;
                let device = guesser.device;
                tracing::warn!(ip = %ingress.ip, device, ?kind, counter, failures, "login refused: too many failures");
                Err(too_many_failures(limited))
            }
            (OwnToken::TooNarrow(_), None) if given.device_token.is_some() => Err(credential(
                "unauthorized: device token scope mismatch (re-pair or approve scope upgrade)",
                "AUTH_SCOPE_MISMATCH",
                "scope_mismatch",
            )),
            (OwnToken::NotShown, None) if given.device_token.is_some() => Err(credential(
                "unauthorized: device token mismatch (rotate/reissue device token)",
                "AUTH_DEVICE_TOKEN_MISMATCH",
                "device_token_mismatch",
            )),
            _ if bootstrap.is_some() => Err(credential(
                "unauthorized: setup code invalid, expired, revoked, or already used \
                 (this gateway makes no setup codes; approve the device with `moltbotctl devices`)",
                "AUTH_BOOTSTRAP_TOKEN_INVALID",
                "bootstrap_token_invalid",
            )),
            _ => Err(refuse(unauthorized(params, secrets.mode, secret.is_some(), sent.is_some()))),
        }
    }

    async fn paired_device(
        &self,
        device: Option<&ProvenDevice>,
    ) -> Result<Option<crate::store::Device>, Refusal> {
        let Some(device) = device.cloned() else { return Ok(None) };
        let found = self.store.read(move |db| {
            Ok(db.device(&device.id)?.filter(|known| known.info.public_key == device.public_key))
        });
        found.await.map_err(|error| unavailable(&error))
    }

    /// Notes that a device used its token. That is for people to read; nobody waits for it.
    fn touch_token(&self, device: &crate::store::Device, role: Role) {
        let (store, id) = (self.store.clone(), device.info.device_id.clone());
        tokio::spawn(async move {
            let now_ms = clock::now_u64();
            let _ = store.write(move |db| db.touch_token(&id, role.name(), now_ms)).await;
        });
    }

    fn scopes_without_device(&self, role: Role, requested: &Scopes, proof: &Proof) -> Scopes {
        if role == Role::Node {
            return Scopes::default();
        }
        let ceiling = match proof {
            Proof::DeviceToken(scopes) => scopes.clone(),
            Proof::Control => Scopes::of(&Scope::ALL),
            Proof::Tailscale(_) => Scopes::default(),
            Proof::SharedSecret(_) => {
                let ceiling = self.in_force.load().ceiling.clone();
                ceiling.unwrap_or_else(|| Scopes::of(&Scope::ALL))
            }
        };
        if requested.0.is_empty() {
            return ceiling;
        }
        requested.meet(&ceiling)
    }

    async fn check_pairing(
        &self,
        params: &ConnectParams,
        ingress: &Ingress,
        role: Role,
        requested: Scopes,
        (device, known): (ProvenDevice, Option<&crate::store::Device>),
        proof: &Proof,
    ) -> Result<Admitted, Refusal> {
        let requested = match proof {
            // What the token is good for, when nothing is named.
            Proof::DeviceToken(scopes) if requested.0.is_empty() => scopes.clone(),
            _ => requested,
        };
        let device_id = device.id.clone();
        let remote_ip = match proof {
            Proof::Tailscale(ip) => Some(ip.to_string()),
            _ => ingress.reported_ip.clone(),
        };
        let ask = Ask {
            device,
            client: params.client.clone(),
            role: role.name().to_owned(),
            requested,
            remote_ip: remote_ip.clone(),
            silent: self.may_pair_silently(ingress, proof),
            via: if matches!(proof, Proof::Control) { Via::Owner } else { Via::Silent },
            ceiling: self.in_force.load().ceiling.clone(),
            local: ingress.local,
            commands: commands(params, role),
        };
        if let Some((scopes, token)) = known.and_then(|known| pairing::unchanged(known, &ask)) {
            let token = Some(token);
            return Ok(Admitted {
                scopes,
                role,
                device_id: Some(device_id),
                token,
                remote_ip,
                local: ingress.local,
                secret: proof.secret(),
                capped: known.is_some_and(|known| !pairing::is_approved_by_owner(&known.info)),
            });
        }
        let settled = self
            .store
            .write(move |db| pairing::settle(db, &ask, clock::now_u64()))
            .await
            .map_err(|error| unavailable(&error))?;
        match settled {
            Settled::Paired { granted, token, approved, capped } => {
                if let Some(request) = approved {
                    self.bus.publish(&DevicePairResolved {
                        request_id: request.request_id,
                        device_id: request.device_id,
                        decision: Decision::Approved,
                        ts: clock::now_u64(),
                    });
                }
                Ok(Admitted {
                    scopes: granted,
                    role,
                    device_id: Some(device_id),
                    token: Some(token),
                    remote_ip,
                    local: ingress.local,
                    secret: proof.secret(),
                    capped,
                })
            }
            Settled::Pending { request, created } => {
                let mut refusal = not_paired("pairing required");
                refusal.error.details = Some(json!({ "requestId": request.request_id }));
                if created {
                    tracing::info!(request = request.request_id, "device asks to be let in");
                    self.bus.publish(&DevicePairRequested(request));
                }
                Err(refusal)
            }
        }
    }

    fn may_pair_silently(&self, ingress: &Ingress, proof: &Proof) -> bool {
        match proof {
            Proof::Control => true,
            Proof::SharedSecret(_) => {
                ingress.local
                    && !ingress.browser
                    && self.config.get().gateway.pairing.loopback == LoopbackPairing::Auto
            }
            Proof::DeviceToken(_) | Proof::Tailscale(_) => false,
        }
    }
}

impl Admitted {
    /// Returns the caller this peer becomes.
    #[must_use]
    pub fn caller(&self, conn_id: &str, params: &ConnectParams) -> Caller {
        Caller {
            conn_id: conn_id.to_owned(),
            role: self.role,
            scopes: self.scopes.clone(),
            client: params.client.clone(),
            device_id: self.device_id.clone(),
            remote_ip: self.remote_ip.clone(),
            local: self.local,
            secret: self.secret,
            capped: self.capped,
        }
    }
}

/// A device token that the peer showed, judged by what is stored of its device.
enum OwnToken<'a> {
    /// None was shown, or none that is the device's and counts.
    NotShown,
    /// It is right, but the peer asks for more than it grants.
    TooNarrow(&'a str),
    /// It is right and grants these.
    Right(&'a str, Scopes),
}

impl<'a> OwnToken<'a> {
    fn text(&self) -> Option<&'a str> {
        match self {
            Self::NotShown => None,
            Self::TooNarrow(text) | Self::Right(text, _) => Some(text),
        }
    }
}

/// Looks for the device's own token where clients send it: in its own field, else in that of the
/// shared one.
fn own_token<'a>(given: &Given<'a>, role: Role, device: &crate::store::Device) -> OwnToken<'a> {
    let alive = |stored: &&DeviceToken| stored.summary.revoked_at_ms.is_none();
    let Some(stored) = device.token(role.name()).filter(alive) else { return OwnToken::NotShown };
    let Some(right) = Secret::new(stored.token.clone()) else { return OwnToken::NotShown };
    let shown = [given.device_token, given.token].into_iter().flatten();
    let Some(text) = shown.into_iter().find(|text| right.matches(text)) else {
        return OwnToken::NotShown;
    };
    if stored.summary.scopes.covers(&given.scopes) {
        OwnToken::Right(text, stored.summary.scopes.clone())
    } else {
        OwnToken::TooNarrow(text)
    }
}

fn warn_of_clock(device: &ProvenDevice, ingress: &Ingress) {
    if device.clock_ahead_ms.unsigned_abs() < CLOCK_WARNING_MS {
        return;
    }
    let ahead_s = device.clock_ahead_ms / 1000;
    tracing::warn!(
        device = device.id,
        ip = ingress.reported_ip,
        ahead_s,
        "the client's clock differs from the gateway's; it is let in by the nonce it signed"
    );
}

impl Proof {
    fn secret(&self) -> Option<u64> {
        match self {
            Self::SharedSecret(number) => Some(*number),
            Self::Control | Self::DeviceToken(_) | Self::Tailscale(_) => None,
        }
    }
}

/// Returns the commands that a node offers.
fn commands(params: &ConnectParams, role: Role) -> Vec<String> {
    let offered = params.commands.iter().flatten().filter(|_| role == Role::Node);
    offered.take(pairing::MAX_COMMANDS).map(ToString::to_string).collect()
}

fn check_protocol(params: &ConnectParams) -> Result<(), Refusal> {
    if (params.min_protocol..=params.max_protocol).contains(&PROTOCOL_VERSION) {
        return Ok(());
    }
    let mut refusal = refuse("protocol mismatch");
    refusal.error.details = Some(json!({ "expectedProtocol": PROTOCOL_VERSION }));
    refusal.code = 1002;
    Err(refusal)
}

/// What was sent and is not empty.
struct Given<'a> {
    token: Option<&'a str>,
    password: Option<&'a str>,
    device_token: Option<&'a str>,
    bootstrap_token: Option<&'a str>,
    scopes: Scopes,
}

impl<'a> Given<'a> {
    fn of(params: &'a ConnectParams) -> Self {
        let auth = params.auth.as_ref();
        let sent = |field: fn(&Credentials) -> &Option<String>| {
            auth.and_then(|auth| field(auth).as_deref()).filter(|text| !text.is_empty())
        };
        Self {
            token: sent(|auth| &auth.token),
            password: sent(|auth| &auth.password),
            device_token: sent(|auth| &auth.device_token),
            bootstrap_token: sent(|auth| &auth.bootstrap_token),
            scopes: Scopes(params.scopes.iter().flatten().map(ToString::to_string).collect()),
        }
    }
}

fn is_page(params: &ConnectParams) -> bool {
    params.client.id.ends_with("-control-ui")
}

/// Says what is missing in words that fit the client.
fn unauthorized(params: &ConnectParams, mode: AuthMode, configured: bool, guessed: bool) -> String {
    let (name, key) = match mode {
        AuthMode::Token => ("token", "gateway.auth.token"),
        AuthMode::Password => ("password", "gateway.auth.password"),
    };
    if !configured {
        return format!("unauthorized: gateway {name} not configured on gateway (set {key})");
    }
    let webchat = &*params.client.mode == "webchat" || &*params.client.id == "webchat-ui";
    let hint = if &*params.client.mode == "cli" {
        format!("set gateway.remote.{name} to match {key}")
    } else if is_page(params) || webchat {
        match mode {
            AuthMode::Token => {
                "open a tokenized dashboard URL or paste token in Control UI settings".to_owned()
            }
            AuthMode::Password => "enter the password in Control UI settings".to_owned(),
        }
    } else {
        format!("provide gateway auth {name}")
    };
    let what = if guessed { "mismatch" } else { "missing" };
    format!("unauthorized: gateway {name} {what} ({hint})")
}

fn refuse(message: impl Into<String>) -> Refusal {
    Refusal { error: Box::new(ErrorShape::new(ErrorCode::InvalidRequest, message)), code: 1008 }
}

fn not_paired(message: &str) -> Refusal {
    Refusal { error: Box::new(ErrorShape::new(ErrorCode::NotPaired, message)), code: 1008 }
}

/// A refusal that newer clients act upon by its code, for example by forgetting the token.
fn credential(message: &str, code: &str, reason: &str) -> Refusal {
    let mut refusal = refuse(message);
    refusal.error.details = Some(json!({
        "code": code,
        "authReason": reason,
        "canRetryWithDeviceToken": false,
        "recommendedNextStep": "review_auth_configuration",
    }));
    refusal
}

fn too_many_failures(limited: Limited) -> Refusal {
    let Limited { counter, failures, wait } = limited;
    let seconds = wait.as_secs() + 1;
    let message = format!(
        "unauthorized: too many failed logins from this {counter} ({failures}), \
         try again in {seconds} s"
    );
    let mut error = ErrorShape::new(ErrorCode::Unavailable, message);
    error.details = Some(json!({ "counter": counter, "failures": failures }));
    error.retryable = Some(true);
    error.retry_after_ms = Some(seconds * 1000);
    Refusal { error: Box::new(error), code: 1008 }
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "login needs the store");
    let message = "temporarily unavailable";
    Refusal { error: Box::new(ErrorShape::new(ErrorCode::Unavailable, message)), code: 1008 }
}
