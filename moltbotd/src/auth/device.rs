//! Proof that a client holds a device key: an Ed25519 signature over the
//! parameters of its `connect`.
//!
//! A signature is fresh because it covers the nonce that this connection was given. The time in
//! it proves nothing beyond that, and a client whose clock is wrong is a common thing (a phone
//! without network, a board without battery), so the difference is only reported. Old clients
//! sign no nonce: they are accepted from this host alone, within a window, and once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ed25519_dalek::{Signature, VerifyingKey, pkcs8::DecodePublicKey as _};
use moltbot_protocol::{
    handshake::{ConnectParams, DeviceProof},
    signature::{Version, payload},
};
use sha2::{Digest as _, Sha256};

/// How far the clock of a client that signs no nonce may be off.
const SKEW_MS: u64 = 600_000;

/// Signatures without a nonce that are remembered at most. Only those of clients that also knew
/// a secret are, so strangers cannot fill it; a client that does raises the floor below which
/// signatures are too old.
const REMEMBERED: usize = 4096;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);

/// A device key that was proved on this connection. Only [`prove`] makes one.
#[derive(Clone, Debug)]
pub struct ProvenDevice {
    /// Hex SHA-256 of the key.
    pub id: String,
    /// The key as base64url.
    pub public_key: String,
    /// How far the client's clock is ahead of ours, in milliseconds; negative when it is behind.
    pub clock_ahead_ms: i64,
    /// Present when no nonce was signed: what has to be remembered, so that the signature counts
    /// once.
    pub(super) replayable: Option<Replayable>,
}

/// A signature without a nonce: when it was made, and its digest.
pub(super) type Replayable = (u64, [u8; 32]);

/// Why a proof failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The id is not the hash of the key, or the key is none.
    #[error("device identity mismatch")]
    Identity,
    /// It covers no nonce, and was signed too long ago or in the future.
    #[error("device signature expired")]
    Expired {
        /// How far the client's clock is from ours.
        delta_ms: u64,
        /// How far it may be.
        allowed_ms: u64,
    },
    /// A peer that is not on this host must sign the nonce.
    #[error("device nonce required")]
    NonceMissing,
    /// It signed another nonce.
    #[error("device nonce mismatch")]
    NonceMismatch,
    /// The signature does not belong to the key and the parameters.
    #[error("device signature invalid")]
    Signature,
}

/// What a proof is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// The nonce this connection was given.
    pub nonce: &'a str,
    /// The role in effect.
    pub role: &'a str,
    /// Whether the peer is on this host, where a signature without nonce is
    /// accepted once.
    pub local: bool,
    /// The daemon's clock.
    pub now_ms: u64,
}

/// Signatures without a nonce that let a client in, until they expire: such a
/// signature counts once.
#[derive(Debug, Default)]
pub struct Replays(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Ordered by time, so that what has expired is found without a search.
    signatures: BTreeSet<Replayable>,
    /// What was signed before is refused: it may have been forgotten.
    floor_ms: u64,
}

/// Checks a client's proof. A proof without a nonce is only good together with
/// [`Replays::first_time`].
pub fn prove(
    params: &ConnectParams,
    proof: &DeviceProof,
    challenge: Challenge<'_>,
) -> Result<ProvenDevice, ProofError> {
    let key = public_key(&proof.public_key).ok_or(ProofError::Identity)?;
    let id = hex(&Sha256::digest(key.as_bytes()));
    if id != *proof.id {
        return Err(ProofError::Identity);
    }

    let nonce = proof.nonce.as_deref().map(str::trim).filter(|nonce| !nonce.is_empty());
    let versions: &[Version] = match nonce {
        None if !challenge.local => return Err(ProofError::NonceMissing),
        None => {
            let delta_ms = challenge.now_ms.abs_diff(proof.signed_at);
            if delta_ms > SKEW_MS {
                return Err(ProofError::Expired { delta_ms, allowed_ms: SKEW_MS });
            }
            &[Version::V1]
        }
        Some(nonce) if nonce != challenge.nonce => return Err(ProofError::NonceMismatch),
        Some(_) => &[Version::V3, Version::V2],
    };
    let signature = signature(&proof.signature).ok_or(ProofError::Signature)?;
    let signed = |version: &Version| {
        let text = payload(*version, params, challenge.role, nonce.unwrap_or_default());
        key.verify_strict(text.as_bytes(), &signature).is_ok()
    };
    if !versions.iter().any(signed) {
        return Err(ProofError::Signature);
    }

    let digest = || Sha256::digest(signature.to_bytes()).into();
    Ok(ProvenDevice {
        id,
        public_key: URL_NO_PAD.encode(key.as_bytes()),
        clock_ahead_ms: signed_difference(proof.signed_at, challenge.now_ms),
        replayable: nonce.is_none().then(|| (proof.signed_at, digest())),
    })
}

/// Returns `one - other`, as far as that fits.
fn signed_difference(one: u64, other: u64) -> i64 {
    let distance = i64::try_from(one.abs_diff(other)).unwrap_or(i64::MAX);
    if one >= other { distance } else { -distance }
}

const URL_NO_PAD: GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

impl Replays {
    /// Remembers a proof and returns whether it may count: a signature over a nonce always, one
    /// without a nonce the first time. To be called once the peer has also shown a secret.
    pub fn first_time(&self, device: &ProvenDevice, now_ms: u64) -> bool {
        let Some(signature) = device.replayable else { return true };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);

        // What the window refuses by itself need not be remembered.
        while let Some(oldest) = seen.signatures.first()
            && oldest.0.saturating_add(SKEW_MS) < now_ms
        {
            seen.signatures.pop_first();
        }

        // A floor that lies beyond the window is left from a clock that was ahead.
        let floor_ms =
            if seen.floor_ms > now_ms.saturating_add(SKEW_MS) { 0 } else { seen.floor_ms };
        if signature.0 < floor_ms || !seen.signatures.insert(signature) {
            return false;
        }
        if seen.signatures.len() > REMEMBERED
            && let Some(forgotten) = seen.signatures.pop_first()
        {
            seen.floor_ms = forgotten.0.saturating_add(1);
        }
        true
    }
}

/// Returns the id of the device with a public key, and the key as base64url.
#[must_use]
pub fn identity(key: &str) -> Option<(String, String)> {
    let key = public_key(key)?;
    Some((hex(&Sha256::digest(key.as_bytes())), URL_NO_PAD.encode(key.as_bytes())))
}

fn public_key(text: &str) -> Option<VerifyingKey> {
    if text.contains("BEGIN") {
        return VerifyingKey::from_public_key_pem(text).ok();
    }
    let bytes: [u8; 32] = decode(text)?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok()
}

fn signature(text: &str) -> Option<Signature> {
    let bytes: [u8; 64] = decode(text)?.try_into().ok()?;
    Some(Signature::from_bytes(&bytes))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL.decode(text).or_else(|_| PLAIN.decode(text)).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::json;

    use super::*;

    const ID: &str = "34750f98bd59fcfc946da45aaabe933be154a4b5094e1c4abf42866505f3c97e";
    const KEY: &str = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w";
    const NONCE: &str = "11111111-2222-3333-4444-555555555555";
    const NOW: u64 = 1_700_000_000_000;

    fn challenge(local: bool) -> Challenge<'static> {
        Challenge { nonce: NONCE, role: "operator", local, now_ms: NOW }
    }

    fn operator(signature: &str, nonce: Option<&str>) -> ConnectParams {
        let mut device =
            json!({ "id": ID, "publicKey": KEY, "signature": signature, "signedAt": NOW });
        if let Some(nonce) = nonce {
            device["nonce"] = nonce.into();
        }
        serde_json::from_value(json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": { "id": "cli", "version": "1", "platform": " Linux ", "mode": "cli" },
            "scopes": ["operator.admin", "operator.approvals", "operator.pairing"],
            "auth": { "token": "secret" },
            "device": device,
        }))
        .unwrap()
    }

    fn check(params: &ConnectParams, challenge: Challenge<'_>) -> Result<ProvenDevice, ProofError> {
        prove(params, params.device.as_ref().unwrap(), challenge)
    }

    const V1: &str =
        "mnRZApm9wQSkUxRTVq8eaziWOQX96P0UBksHj6vO_EpPEWVa9b1CNh69VxzUBz4orcvSW2QmumdOX3pISy3xDQ";
    const V2: &str =
        "nfLf69ABVkyUH4fm8ik9DW0Mz4vgo3IZ8kgxocIaQ1N_FjrYjwoJwI1TAkqYS1qfehvMf-YwvYbzoCR0Q1UxAQ";

    #[test]
    fn the_recorded_signatures_are_accepted() {
        assert_eq!(check(&operator(V1, None), challenge(true)).unwrap().id, ID);
        assert_eq!(check(&operator(V2, Some(NONCE)), challenge(false)).unwrap().public_key, KEY);
    }

    #[test]
    fn a_nodes_recorded_signature_is_accepted() {
        let params: ConnectParams = serde_json::from_value(json!({
            "minProtocol": 3, "maxProtocol": 3, "role": "node",
            "client": { "id": "moltbot-android", "version": "1", "platform": "android", "mode": "node" },
            "device": { "id": ID, "publicKey": KEY, "signedAt": NOW, "nonce": NONCE, "signature":
                "C822wtf6MvUzrLPG-aTd_fIUUpdRS54PiM6s-zeVTywlv73rgewKsJDDrjlIHRivXpHMQsh7Mgwisnz8LwU4Dw" },
        }))
        .unwrap();
        let challenge = Challenge { role: "node", ..challenge(false) };
        assert!(check(&params, challenge).is_ok());
    }

    #[test]
    fn the_newer_text_with_the_platform_is_accepted() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let params = operator(V1, Some(NONCE));
        let text = payload(Version::V3, &params, "operator", NONCE);
        assert!(text.ends_with("|linux|"), "{text}");
        let signature = URL_NO_PAD.encode(key.sign(text.as_bytes()).to_bytes());
        assert!(check(&operator(&signature, Some(NONCE)), challenge(false)).is_ok());
    }

    #[test]
    fn a_signature_without_nonce_counts_once_and_only_on_this_host() {
        let params = operator(V1, None);
        let proof = params.device.as_ref().unwrap();
        let replays = Replays::default();
        let proven = prove(&params, proof, challenge(true)).unwrap();
        assert!(replays.first_time(&proven, NOW));
        assert!(!replays.first_time(&proven, NOW));
        assert_eq!(check(&params, challenge(false)).unwrap_err(), ProofError::NonceMissing);
    }

    #[test]
    fn a_signature_over_the_nonce_is_fresh_whatever_the_clock_says() {
        for (now_ms, ahead) in [(NOW + 86_400_000, -86_400_000), (0, NOW.cast_signed())] {
            let late = Challenge { now_ms, ..challenge(false) };
            let proven = check(&operator(V2, Some(NONCE)), late).unwrap();
            assert_eq!(proven.clock_ahead_ms, ahead);
        }
        assert_eq!(signed_difference(u64::MAX, 0), i64::MAX);
        assert_eq!(signed_difference(0, u64::MAX), -i64::MAX);
    }

    #[test]
    fn remembered_signatures_are_bounded_and_none_that_was_forgotten_counts_again() {
        let proven = |signed_at: u64, mark: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&mark.to_be_bytes());
            ProvenDevice {
                id: String::new(),
                public_key: String::new(),
                clock_ahead_ms: 0,
                replayable: Some((signed_at, digest)),
            }
        };
        let replays = Replays::default();
        for mark in 0..2 * REMEMBERED {
            let at = NOW + mark as u64;
            assert!(replays.first_time(&proven(at, mark), at));
        }
        assert_eq!(replays.0.lock().unwrap().signatures.len(), REMEMBERED);
        for mark in [0, REMEMBERED - 1, REMEMBERED, 2 * REMEMBERED - 1] {
            let at = NOW + mark as u64;
            assert!(!replays.first_time(&proven(at, mark), at), "{mark}");
        }
        // After the window nothing is left to remember, and new signatures count.
        let later = NOW + 3 * SKEW_MS;
        assert!(replays.first_time(&proven(later, 1), later));
        assert_eq!(replays.0.lock().unwrap().signatures.len(), 1);
    }

    #[test]
    fn each_wrong_part_has_its_own_answer() {
        assert_eq!(
            check(&operator(V2, Some("other")), challenge(false)).unwrap_err(),
            ProofError::NonceMismatch
        );
        let late = Challenge { now_ms: NOW + SKEW_MS + 1, ..challenge(true) };
        assert!(matches!(
            check(&operator(V1, None), late).unwrap_err(),
            ProofError::Expired { .. }
        ));
        assert_eq!(
            check(&operator(V1, Some(NONCE)), challenge(false)).unwrap_err(),
            ProofError::Signature
        );
        let mut params = operator(V2, Some(NONCE));
        params.device.as_mut().unwrap().public_key = moltbot_protocol::Text::new("AAAA").unwrap();
        assert_eq!(check(&params, challenge(false)).unwrap_err(), ProofError::Identity);
    }
}
