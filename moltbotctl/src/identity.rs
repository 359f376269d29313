//! Who this client is: an Ed25519 device key, and the device tokens gateways
//! handed out. Both are kept in one private folder; a token leaves it only for
//! the gateway that issued it.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use moltbot_protocol::{
    Text,
    handshake::{ConnectParams, DeviceProof},
    signature::{self, Version},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files;

/// A device key.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.device_id()).finish()
    }
}

impl Identity {
    /// Makes a key from its 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// Makes a fresh key.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn random() -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        Ok(Self::from_seed(&seed))
    }

    /// Returns the lower-case hex SHA-256 of the public key.
    #[must_use]
    pub fn device_id(&self) -> String {
        hex(&Sha256::digest(self.key.verifying_key().as_bytes()))
    }

    /// Returns the public key as base64url.
    #[must_use]
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// Puts the proof of this key into `connect`: over the gateway's nonce, in
    /// the form that every gateway understands.
    pub fn sign(&self, params: &mut ConnectParams, nonce: &str, now_ms: u64) {
        let text = |value: String| Text::new(value).expect("keys and signatures are not empty");
        params.device = Some(DeviceProof {
            id: text(self.device_id()),
            public_key: text(self.public_key()),
            signature: text("-".into()),
            signed_at: now_ms,
            nonce: Text::new(nonce),
        });
        let role = params.role.clone().map_or_else(|| "operator".into(), Text::into_string);
        let payload = signature::payload(Version::V2, params, &role, nonce);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(payload.as_bytes()).to_bytes());
        if let Some(device) = &mut params.device {
            device.signature = text(signature);
        }
    }
}

/// Returns bytes as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the first eight hex digits of a secret's SHA-256: enough to compare
/// two sides, useless to an attacker.
#[must_use]
pub fn fingerprint(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes())[..4])
}

/// A folder holding a device key and the tokens issued to it.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    version: u32,
    device_id: String,
    secret_key: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenFile {
    version: u32,
    device_id: String,
    /// Gateway, then role.
    tokens: BTreeMap<String, BTreeMap<String, String>>,
}

impl Keyring {
    /// Uses a folder, which need not exist.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Returns the device key, creating it on first use.
    ///
    /// # Errors
    /// When the key file cannot be read, created or understood.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        let path = self.folder.join("device.json");
        let text = match files::read(&path)? {
            Some(text) => text,
            None => files::create(&path, &key_file(&Identity::random()?)?)?,
        };
        parse_key(&text).with_context(|| {
            format!("{} is damaged; move it away to get a new device key", path.display())
        })
    }

    /// Returns the token a gateway issued to this device for a role.
    #[must_use]
    pub fn token(&self, gateway: &str, role: &str, device_id: &str) -> Option<String> {
        let file = self.tokens().filter(|file| file.device_id == device_id)?;
        file.tokens.get(gateway)?.get(role).cloned()
    }

    /// Returns the token issued for a role whatever the device, to be reported.
    #[must_use]
    pub fn stored_token(&self, gateway: &str, role: &str) -> Option<String> {
        self.tokens()?.tokens.get(gateway)?.get(role).cloned()
    }

    /// Keeps the token a gateway issued.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(
        &self,
        gateway: &str,
        role: &str,
        device_id: &str,
        token: &str,
    ) -> anyhow::Result<()> {
        let mut file = self.tokens().filter(|file| file.device_id == device_id).unwrap_or_default();
        let roles = file.tokens.entry(gateway.to_owned()).or_default();
        if roles.get(role).is_some_and(|known| known == token) {
            return Ok(());
        }
        roles.insert(role.to_owned(), token.to_owned());
        device_id.clone_into(&mut file.device_id);
        self.write(file)
    }

    /// Drops a token that a gateway no longer accepts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&self, gateway: &str, role: &str) -> anyhow::Result<()> {
        let Some(mut file) = self.tokens() else { return Ok(()) };
        match file.tokens.get_mut(gateway).and_then(|roles| roles.remove(role)) {
            Some(_) => self.write(file),
            None => Ok(()),
        }
    }

    /// A missing or damaged file is an empty one: tokens can be issued again.
    fn tokens(&self) -> Option<TokenFile> {
        let text = files::read(&self.token_path()).ok()??;
        serde_json::from_str(&text).ok()
    }

    fn write(&self, mut file: TokenFile) -> anyhow::Result<()> {
        file.version = 1;
        files::replace(&self.token_path(), &format!("{}\n", serde_json::to_string_pretty(&file)?))
    }

    fn token_path(&self) -> PathBuf {
        self.folder.join("device-tokens.json")
    }
}

fn key_file(identity: &Identity) -> anyhow::Result<String> {
    let file = KeyFile {
        version: 1,
        device_id: identity.device_id(),
        secret_key: URL_SAFE_NO_PAD.encode(identity.key.to_bytes()),
    };
    Ok(format!("{}\n", serde_json::to_string_pretty(&file)?))
}

fn parse_key(text: &str) -> anyhow::Result<Identity> {
    let file: KeyFile = serde_json::from_str(text)?;
    let seed = URL_SAFE_NO_PAD.decode(file.secret_key)?;
    let seed = seed.as_slice().try_into().context("the secret key has not 32 bytes")?;
    Ok(Identity::from_seed(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "11111111-2222-3333-4444-555555555555";

    fn params(
        id: &str,
        mode: &str,
        role: &str,
        scopes: &[&str],
        token: Option<&str>,
    ) -> ConnectParams {
        serde_json::from_value(serde_json::json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": { "id": id, "version": "1", "platform": "linux", "mode": mode },
            "role": role,
            "scopes": scopes,
            "auth": token.map(|token| serde_json::json!({ "token": token })),
        }))
        .unwrap()
    }

    fn signature(mut params: ConnectParams) -> String {
        Identity::from_seed(&[1; 32]).sign(&mut params, NONCE, 1_700_000_000_000);
        params.device.unwrap().signature.into_string()
    }

    #[test]
    fn keys_and_signatures_equal_the_published_vectors() {
        let identity = Identity::from_seed(&[1; 32]);
        assert_eq!(identity.public_key(), "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w");
        assert_eq!(
            identity.device_id(),
            "34750f98bd59fcfc946da45aaabe933be154a4b5094e1c4abf42866505f3c97e"
        );
        let scopes = ["operator.admin", "operator.approvals", "operator.pairing"];
        let operator = || params("cli", "cli", "operator", &scopes, Some("secret"));
        assert_eq!(
            signature(operator()),
            "nfLf69ABVkyUH4fm8ik9DW0Mz4vgo3IZ8kgxocIaQ1N_FjrYjwoJwI1TAkqYS1qfehvMf-YwvYbzoCR0Q1UxAQ"
        );
        assert_eq!(
            signature(params("moltbot-android", "node", "node", &[], None)),
            "C822wtf6MvUzrLPG-aTd_fIUUpdRS54PiM6s-zeVTywlv73rgewKsJDDrjlIHRivXpHMQsh7Mgwisnz8LwU4Dw"
        );
    }

    #[test]
    fn the_key_survives_and_a_damaged_file_is_not_replaced_silently() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::new(folder.path());
        let id = keyring.identity().unwrap().device_id();
        assert_eq!(keyring.identity().unwrap().device_id(), id);
        std::fs::write(folder.path().join("device.json"), "{}").unwrap();
        assert!(keyring.identity().unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn a_device_token_is_found_for_its_gateway_role_and_device_only() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::new(folder.path());
        keyring.remember("wss://a:443", "operator", "me", "t1").unwrap();
        assert_eq!(keyring.token("wss://a:443", "operator", "me").as_deref(), Some("t1"));
        assert_eq!(keyring.token("ws://a:443", "operator", "me"), None);
        assert_eq!(keyring.token("wss://a:444", "operator", "me"), None);
        assert_eq!(keyring.token("wss://a:443", "node", "me"), None);
        assert_eq!(keyring.token("wss://a:443", "operator", "you"), None);
        keyring.forget("wss://a:443", "operator").unwrap();
        assert_eq!(keyring.token("wss://a:443", "operator", "me"), None);
    }
}
