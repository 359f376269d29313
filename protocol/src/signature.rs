//! The text a device signs to prove that it holds its key.

use crate::handshake::{ConnectParams, Credentials};

/// Which fields the signed text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Without a nonce; replayable, so accepted from the same host only.
    V1,
    /// Bound to the server's nonce.
    V2,
    /// Bound to the nonce and to the client's platform.
    V3,
}

/// Returns the text that `device.signature` covers.
///
/// The role is the effective one; scopes are those that were sent, in the order
/// they were sent; the token is [`Credentials::signed_token`] exactly as sent.
#[must_use]
pub fn payload(version: Version, params: &ConnectParams, role: &str, nonce: &str) -> String {
    let device = params.device.as_ref();
    let id = device.map_or("", |device| &device.id);
    let signed_at = device.map_or(0, |device| device.signed_at);
    let scopes: Vec<&str> = params.scopes.iter().flatten().map(AsRef::as_ref).collect();
    let token = params.auth.as_ref().and_then(Credentials::signed_token).unwrap_or_default();
    let client = &params.client;
    let tag = match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
        Version::V3 => "v3",
    };
    let mut text = format!(
        "{tag}|{id}|{}|{}|{role}|{}|{signed_at}|{token}",
        client.id,
        client.mode,
        scopes.join(",")
    );
    if version != Version::V1 {
        text.push('|');
        text.push_str(nonce);
    }
    if version == Version::V3 {
        for field in [Some(&client.platform), client.device_family.as_ref()] {
            text.push('|');
            text.push_str(&field.map_or_else(String::new, |field| field.trim().to_lowercase()));
        }
    }
    text
}
