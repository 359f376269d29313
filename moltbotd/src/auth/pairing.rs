//! Which devices are let in, with what, and their tokens.
//!
//! Everything here runs inside one transaction of the store; nothing is told to
//! anybody before it is committed.
//!
//! A device that the shared secret alone let in may never do more than that secret grants now
//! (`gateway.auth.sharedSecretScopes`): otherwise a key of one's own making would lift the
//! ceiling. What a person approved may be wider, which is why it is recorded who let it in.

use moltbot_protocol::{
    Scope, Scopes,
    handshake::{ClientInfo, IssuedToken},
    methods::device::{PairedDevice, PendingDevice, RotatedToken, TokenSummary},
};
use uuid::Uuid;

use super::device::ProvenDevice;
use crate::store::{Db, Device, DeviceToken};

/// How long a request stays open.
pub const REQUEST_TTL_MS: u64 = 300_000;

/// What a node on the gateway's own host is approved for when nobody says: all
/// there is. Who runs it there could do the same without it.
pub const OWN_HOST: [&str; 2] = ["browser.*", "system.*"];

/// Commands that are remembered of a request.
pub(super) const MAX_COMMANDS: usize = 128;

/// What a device that proved its key asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The device.
    pub device: ProvenDevice,
    /// The program it runs.
    pub client: ClientInfo,
    /// The role in effect.
    pub role: String,
    /// The scopes as sent.
    pub requested: Scopes,
    /// Where it comes from; absent on this host.
    pub remote_ip: Option<String>,
    /// Whether it may be let in without asking anybody.
    pub silent: bool,
    /// On whose word, if it is.
    pub via: Via,
    /// Most that the shared secret grants.
    pub ceiling: Option<Scopes>,
    /// Whether it is on this host for sure.
    pub local: bool,
    /// Commands it offers.
    pub commands: Vec<String>,
}

/// On whose word a device is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Somebody who may approve devices, or the owner of the control socket.
    Owner,
    /// Nobody's: it showed the shared secret on the gateway's own host.
    Silent,
}

impl Via {
    const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Silent => "silent",
        }
    }
}

/// Returns whether a person let the device in. One of which that is not known may have been let
/// in by the secret alone.
#[must_use]
pub fn is_approved_by_owner(device: &PairedDevice) -> bool {
    device.approved_via.as_deref() == Some(Via::Owner.name())
}

/// Takes away what the shared secret no longer grants from a device that it let in. Returns
/// whether something was.
pub fn clip(device: &mut Device, ceiling: &Scopes) -> bool {
    if is_approved_by_owner(&device.info) {
        return false;
    }
    let mut clipped = false;
    let mut narrow = |scopes: &mut Scopes| {
        if !ceiling.covers(scopes) {
            *scopes = sorted(scopes.meet(ceiling));
            clipped = true;
        }
    };
    if let Some(scopes) = &mut device.info.scopes {
        narrow(scopes);
    }
    for token in &mut device.tokens {
        narrow(&mut token.summary.scopes);
    }
    clipped
}

/// What became of an [`Ask`].
#[derive(Clone, Debug)]
pub enum Settled {
    /// It is in.
    Paired {
        /// What it may do on this connection.
        granted: Scopes,
        /// Its token for the role.
        token: IssuedToken,
        /// The request that was granted on the way, to be told to operators.
        approved: Option<PendingDevice>,
        /// Whether the shared secret alone let the device in.
        capped: bool,
    },
    /// Somebody must approve it.
    Pending {
        /// The open request.
        request: PendingDevice,
        /// Whether it is new, and operators must be told.
        created: bool,
    },
}

/// Decides about a device and stores what follows.
pub fn settle(db: &Db<'_>, ask: &Ask, now_ms: u64) -> rusqlite::Result<Settled> {
    let mut known =
        db.device(&ask.device.id)?.filter(|d| d.info.public_key == ask.device.public_key);
    if let (Some(known), Some(ceiling)) = (&mut known, &ask.ceiling)
        && clip(known, ceiling)
    {
        db.put_device(&known.info)?;
        for token in &known.tokens {
            db.put_token(&known.info.device_id, token)?;
        }
    }
    let needed = needed_scopes(known.as_ref(), ask);
    let revoked = known
        .as_ref()
        .and_then(|device| device.token(&ask.role))
        .is_some_and(|token| token.summary.revoked_at_ms.is_some());
    if let Some(device) = known.as_ref().filter(|device| !revoked && holds(device, ask, &needed)) {
        let token = refresh(db, device, ask, &needed, now_ms)?;
        let capped = !is_approved_by_owner(&device.info);
        return Ok(Settled::Paired { granted: needed, token, approved: None, capped });
    }
    let request = new_request(ask, &needed, known.is_some(), now_ms);
    // A revoked device needs a person's approval, wherever it is.
    if ask.silent && !revoked {
        let device = approve(db, &request, None, ask.via, now_ms)?;
        let token = issued(device.token(&ask.role).expect("an approval makes a token"));
        let capped = !is_approved_by_owner(&device.info);
        return Ok(Settled::Paired { granted: needed, token, approved: Some(request), capped });
    }
    let since_ms = now_ms.saturating_sub(REQUEST_TTL_MS);
    if let Some(open) = db.device_request_of(&ask.device.id, since_ms)?
        && open.role == request.role
        && open.scopes == request.scopes
        && open.public_key == request.public_key
    {
        return Ok(Settled::Pending { request: open, created: false });
    }
    db.put_device_request(&request, since_ms)?;
    Ok(Settled::Pending { request, created: true })
}

/// Grants a request: roles and scopes are added to the device's, and the token
/// of the role is replaced by one with exactly the scopes of the request. A
/// node may run the commands of `allow` from then on; see [`OWN_HOST`].
pub fn approve(
    db: &Db<'_>,
    request: &PendingDevice,
    allow: Option<Vec<String>>,
    via: Via,
    now_ms: u64,
) -> rusqlite::Result<Device> {
    let known = db.device(&request.device_id)?;
    let same_key = known.filter(|device| device.info.public_key == request.public_key);
    if same_key.is_none() {
        // Another key under the same id cannot inherit what the old one had.
        db.remove_device(&request.device_id)?;
    }
    let role = request.role.clone().unwrap_or_else(|| "operator".into());
    let asked = request.scopes.clone().unwrap_or_default();
    let before = same_key.as_ref().map(|device| &device.info);
    let mut roles = before.and_then(|info| info.roles.clone()).unwrap_or_default();
    if !roles.contains(&role) {
        roles.push(role.clone());
    }
    let mut scopes = before.and_then(|info| info.scopes.clone()).unwrap_or_default();
    scopes.extend(&asked);
    let allow = match (role.as_str(), allow) {
        ("node", Some(allow)) => allow,
        ("node", None) if request.local == Some(true) => OWN_HOST.map(String::from).to_vec(),
        ("node", None) => Vec::new(),
        _ => before.and_then(|info| info.allow.clone()).unwrap_or_default(),
    };
    let info = PairedDevice {
        device_id: request.device_id.clone(),
        public_key: request.public_key.clone(),
        display_name: request.display_name.clone(),
        platform: request.platform.clone(),
        client_id: request.client_id.clone(),
        client_mode: request.client_mode.clone(),
        role: Some(role.clone()),
        roles: Some(roles),
        scopes: (!scopes.0.is_empty()).then_some(scopes),
        remote_ip: request.remote_ip.clone(),
        created_at_ms: before.map_or(now_ms, |info| info.created_at_ms),
        approved_at_ms: now_ms,
        tokens: None,
        allow: (!allow.is_empty()).then_some(allow),
        approved_via: Some(via.name().to_owned()),
    };
    db.put_device(&info)?;
    let old = same_key.as_ref().and_then(|device| device.token(&role));
    db.put_token(&info.device_id, &new_token(&role, sorted(asked), old, now_ms))?;
    let since_ms = now_ms.saturating_sub(REQUEST_TTL_MS);
    if let Some(open) = db.device_request_of(&request.device_id, since_ms)? {
        db.take_device_request(&open.request_id, since_ms)?;
    }
    Ok(db.device(&request.device_id)?.expect("the device was stored in this transaction"))
}

/// Replaces what a node may be asked to run; `None` when there is no such node.
pub fn allow(
    db: &Db<'_>,
    device_id: &str,
    allow: Vec<String>,
) -> rusqlite::Result<Option<PairedDevice>> {
    let known = db.device(device_id)?;
    let is_node = |info: &PairedDevice| info.roles.iter().flatten().any(|role| role == "node");
    let Some(info) = known.map(|device| device.info).filter(is_node) else { return Ok(None) };
    let info = PairedDevice { allow: (!allow.is_empty()).then_some(allow), ..info };
    db.put_device(&info)?;
    Ok(Some(info))
}

/// Replaces the token of a device; `None` when there is no such token.
pub fn rotate(
    db: &Db<'_>,
    device_id: &str,
    role: &str,
    scopes: Option<Scopes>,
    now_ms: u64,
) -> rusqlite::Result<Option<RotatedToken>> {
    let Some(device) = db.device(device_id)? else { return Ok(None) };
    let has_role = device.info.roles.iter().flatten().any(|held| held == role);
    let old = device.token(role);
    if !has_role && old.is_none() {
        return Ok(None);
    }
    let kept = old.map(|token| token.summary.scopes.clone());
    let explicit = scopes.is_some();
    let scopes = sorted(scopes.or(kept).or(device.info.scopes.clone()).unwrap_or_default());
    let mut token = new_token(role, scopes.clone(), old, now_ms);
    token.summary.rotated_at_ms = Some(now_ms);
    db.put_token(device_id, &token)?;
    if explicit {
        // Whoever names scopes holds them, and has decided that this device shall.
        let approved_via = Some(Via::Owner.name().to_owned());
        let info = PairedDevice { scopes: Some(scopes.clone()), approved_via, ..device.info };
        db.put_device(&info)?;
    }
    Ok(Some(RotatedToken {
        device_id: device_id.to_owned(),
        role: role.to_owned(),
        token: token.token,
        scopes,
        rotated_at_ms: now_ms,
    }))
}

/// Revokes the token of a device; returns whether there was one.
pub fn revoke(db: &Db<'_>, device_id: &str, role: &str, now_ms: u64) -> rusqlite::Result<bool> {
    let device = db.device(device_id)?;
    let Some(token) = device.as_ref().and_then(|device| device.token(role)) else {
        return Ok(false);
    };
    let mut token = token.clone();
    token.summary.revoked_at_ms = Some(now_ms);
    db.put_token(device_id, &token)?;
    Ok(true)
}

/// What the device is asking for in effect: what it sent; else what it holds;
/// else, for a new operator, everything.
fn needed_scopes(known: Option<&Device>, ask: &Ask) -> Scopes {
    if ask.role != "operator" {
        return Scopes::default();
    }
    let held = known.and_then(|device| device.info.scopes.clone());
    let needed = if ask.requested.0.is_empty() {
        held.clone().unwrap_or_else(|| Scopes::of(&[Scope::Admin]))
    } else {
        ask.requested.clone()
    };

    // The secret alone adds no more than it grants, and as for a client without a device it
    // gives what there is rather than refuse. Where a person is asked, the whole wish is shown.
    match &ask.ceiling {
        Some(ceiling) if ask.silent && ask.via == Via::Silent => {
            let mut allowed = held.unwrap_or_default();
            allowed.extend(ceiling);
            needed.meet(&allowed)
        }
        _ => needed,
    }
}

fn holds(device: &Device, ask: &Ask, needed: &Scopes) -> bool {
    let has_role = device.info.roles.iter().flatten().any(|role| *role == ask.role);
    has_role && device.info.scopes.clone().unwrap_or_default().covers(needed)
}

/// Returns what a paired device gets where nothing has to be stored for it: the
/// usual case, which then costs no commit.
#[must_use]
pub fn unchanged(device: &Device, ask: &Ask) -> Option<(Scopes, IssuedToken)> {
    let needed = needed_scopes(Some(device), ask);
    let token = device.token(&ask.role).filter(|token| {
        token.summary.revoked_at_ms.is_none() && token.summary.scopes.covers(&needed)
    })?;
    let same = device.info.public_key == ask.device.public_key
        && holds(device, ask, &needed)
        && seen_now(device, ask) == device.info;
    same.then(|| (needed, issued(token)))
}

/// Brings the record of a paired device up to date and returns its token. A
/// token whose scopes have become too few is widened: the device holds them.
fn refresh(
    db: &Db<'_>,
    device: &Device,
    ask: &Ask,
    needed: &Scopes,
    now_ms: u64,
) -> rusqlite::Result<IssuedToken> {
    let info = seen_now(device, ask);
    if info != device.info {
        db.put_device(&info)?;
    }
    let token = match device.token(&ask.role) {
        Some(token) if token.summary.scopes.covers(needed) => return Ok(issued(token)),
        Some(token) => {
            let mut token = token.clone();
            token.summary.scopes.extend(needed);
            token.summary.scopes = sorted(token.summary.scopes);
            token
        }
        None => new_token(&ask.role, sorted(needed.clone()), None, now_ms),
    };
    db.put_token(&device.info.device_id, &token)?;
    Ok(issued(&token))
}

/// Returns the record of a device as it shows itself now.
fn seen_now(device: &Device, ask: &Ask) -> PairedDevice {
    let name = ask.client.display_name.as_ref().map(ToString::to_string);
    PairedDevice {
        display_name: name.or_else(|| device.info.display_name.clone()),
        platform: Some(ask.client.platform.to_string()),
        client_id: Some(ask.client.id.to_string()),
        client_mode: Some(ask.client.mode.to_string()),
        role: Some(ask.role.clone()),
        remote_ip: ask.remote_ip.clone(),
        ..device.info.clone()
    }
}

fn new_request(ask: &Ask, scopes: &Scopes, is_repair: bool, now_ms: u64) -> PendingDevice {
    let client = &ask.client;
    PendingDevice {
        request_id: Uuid::new_v4().to_string(),
        device_id: ask.device.id.clone(),
        public_key: ask.device.public_key.clone(),
        display_name: client.display_name.as_ref().map(ToString::to_string),
        platform: Some(client.platform.to_string()),
        client_id: Some(client.id.to_string()),
        client_mode: Some(client.mode.to_string()),
        role: Some(ask.role.clone()),
        roles: Some(vec![ask.role.clone()]),
        scopes: Some(scopes.clone()),
        remote_ip: ask.remote_ip.clone(),
        silent: Some(ask.silent),
        is_repair: Some(is_repair),
        local: Some(ask.local),
        commands: (!ask.commands.is_empty()).then(|| ask.commands.clone()),
        ts: now_ms,
    }
}

fn new_token(role: &str, scopes: Scopes, old: Option<&DeviceToken>, now_ms: u64) -> DeviceToken {
    DeviceToken {
        summary: TokenSummary {
            role: role.to_owned(),
            scopes,
            created_at_ms: old.map_or(now_ms, |old| old.summary.created_at_ms),
            rotated_at_ms: old.map(|_| now_ms),
            revoked_at_ms: None,
            last_used_at_ms: None,
        },
        token: Uuid::new_v4().simple().to_string(),
    }
}

fn issued(token: &DeviceToken) -> IssuedToken {
    let TokenSummary { role, scopes, created_at_ms, rotated_at_ms, .. } = &token.summary;
    IssuedToken {
        device_token: token.token.clone(),
        role: role.clone(),
        scopes: scopes.clone(),
        issued_at_ms: Some(rotated_at_ms.unwrap_or(*created_at_ms)),
    }
}

fn sorted(scopes: Scopes) -> Scopes {
    let Scopes(mut names) = scopes;
    names.sort_unstable();
    names.dedup();
    Scopes(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(approved_via: Option<&str>) -> Device {
        let info = json!({
            "deviceId": "d", "publicKey": "k", "createdAtMs": 1, "approvedAtMs": 1,
            "scopes": ["operator.admin", "operator.pairing"], "approvedVia": approved_via,
        });
        Device {
            info: serde_json::from_value(info).unwrap(),
            tokens: vec![new_token("operator", Scopes::of(&[Scope::Admin]), None, 1)],
        }
    }

    #[test]
    fn only_what_a_person_approved_survives_a_lower_ceiling() {
        let read = Scopes::of(&[Scope::Read]);
        // Who let in a device of before 0.2 was not recorded.
        for via in [None, Some("silent"), Some("something newer")] {
            let mut device = device(via);
            assert!(clip(&mut device, &read), "{via:?}");
            assert_eq!(device.info.scopes, Some(read.clone()), "{via:?}");
            assert_eq!(device.tokens[0].summary.scopes, read, "{via:?}");
            assert!(!clip(&mut device, &read), "{via:?}");
        }
        assert!(!clip(&mut device(Some("owner")), &read));
        assert!(!clip(&mut device(Some("silent")), &Scopes::of(&[Scope::Admin])));
    }
}
