//! A device: an Ed25519 key and the proofs made with it.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Which text the device signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Without the server's nonce.
    V1,
    /// With the nonce.
    V2,
    /// With the nonce and the platform.
    V3,
}

/// A key pair that identifies a device.
#[derive(Clone, Debug)]
pub struct Device(SigningKey);

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// Makes a new key.
    #[must_use]
    pub fn new() -> Self {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        Self(SigningKey::from_bytes(&seed))
    }

    /// Makes a key from a known seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Returns the id: the hex SHA-256 of the public key.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.0.verifying_key().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the public key as base64url.
    #[must_use]
    pub fn public_key(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Returns the signature of a text as base64url.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.sign(text.as_bytes()).to_bytes())
    }

    /// Returns `device` of the connect parameters, signed over `params`.
    ///
    /// Written out by hand rather than taken from the contract crate, so that
    /// a mistake there is not repeated here.
    #[must_use]
    pub fn proof(&self, version: Version, params: &Value, nonce: &str, signed_at: u64) -> Value {
        let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let role = params.get("role").and_then(Value::as_str).unwrap_or("operator");
        let scopes: Vec<&str> = params["scopes"]
            .as_array()
            .map(|scopes| scopes.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let tag = match version {
            Version::V1 => "v1",
            Version::V2 => "v2",
            Version::V3 => "v3",
        };
        let mut fields = vec![
            tag.to_owned(),
            self.id(),
            text("/client/id").to_owned(),
            text("/client/mode").to_owned(),
            role.to_owned(),
            scopes.join(","),
            signed_at.to_string(),
            // The first of the three that is there, even an empty one.
            ["/auth/token", "/auth/deviceToken", "/auth/bootstrapToken"]
                .iter()
                .find_map(|pointer| params.pointer(pointer).and_then(Value::as_str))
                .unwrap_or_default()
                .to_owned(),
        ];
        if version != Version::V1 {
            fields.push(nonce.to_owned());
        }
        if version == Version::V3 {
            fields.push(text("/client/platform").trim().to_lowercase());
            fields.push(text("/client/deviceFamily").trim().to_lowercase());
        }
        let mut proof = json!({
            "id": self.id(),
            "publicKey": self.public_key(),
            "signature": self.sign(&fields.join("|")),
            "signedAt": signed_at,
        });
        if version != Version::V1 {
            proof["nonce"] = nonce.into();
        }
        proof
    }
}
