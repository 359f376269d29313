//! TLS to a gateway: which certificate is accepted, and what is said about one
//! that is not.

use std::{fmt, fs, io, path::Path, str::FromStr, sync::Arc};

use anyhow::bail;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, OtherError,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use sha2::{Digest, Sha256};
use tokio_tungstenite::{Connector, tungstenite};

use crate::identity::hex;

/// Certificates that are accepted, whoever signed them: one, or two while a
/// gateway changes from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins(Vec<String>);

const MOST_PINS: usize = 2;
const PIN_DIGITS: usize = 64;

impl Pins {
    /// Pins the certificate in a file, if one is there.
    #[must_use]
    pub fn of_file(path: &Path) -> Option<Self> {
        let pem = fs::read(path).ok()?;
        let certificate = CertificateDer::from_pem_slice(&pem).ok()?;
        Some(Self(vec![fingerprint(&certificate)]))
    }
}

impl FromStr for Pins {
    type Err = anyhow::Error;

    /// Reads SHA-256 sums in hex, with or without `sha256:` and colons, parted by
    /// a comma or a space.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let given = text.split([',', ' ']).filter(|pin| !pin.is_empty());
        let pins: Vec<String> = given.map(normal).collect::<Result<_, _>>()?;
        match pins.len() {
            1..=MOST_PINS => Ok(Self(pins)),
            0 => bail!("the fingerprint is empty"),
            _ => bail!("there are more than {MOST_PINS} fingerprints: keep those still in use"),
        }
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().map(|pin| format!("sha256:{pin}")).collect();
        f.write_str(&shown.join(" or "))
    }
}

fn normal(pin: &str) -> anyhow::Result<String> {
    let lower = pin.to_ascii_lowercase();
    let digits = lower.strip_prefix("sha256:").unwrap_or(&lower).replace(':', "");
    if digits.len() == PIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    bail!("{pin:?} is no SHA-256 fingerprint of a certificate: it has {PIN_DIGITS} hex digits")
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate))
}

/// What is wrong with the other side's TLS. Nothing was sent to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Another certificate than the pinned one.
    #[error("its certificate is not the pinned one: expected {expected}, saw sha256:{seen}")]
    Pin {
        /// The pins.
        expected: Pins,
        /// The SHA-256 of what it showed.
        seen: String,
    },
    /// A certificate that is not good any more.
    #[error("its certificate has expired")]
    Expired,
    /// A certificate that is not good yet.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// Nobody this host trusts signed the certificate.
    #[error("its certificate is signed by nobody this host trusts")]
    UnknownIssuer,
    /// The certificate is somebody else's.
    #[error("its certificate is for other names")]
    OtherName,
    /// Another fault of the certificate.
    #[error("its certificate cannot be accepted: {0}")]
    Certificate(String),
    /// The other side speaks plain HTTP.
    #[error("the port speaks no TLS")]
    NoTls,
    /// The other side speaks nothing but TLS.
    #[error("the port speaks TLS only")]
    TlsOnly,
    /// The two do not agree on anything.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

impl Fault {
    /// Finds the fault behind a failed connection.
    #[must_use]
    pub fn of(error: &tungstenite::Error) -> Option<Self> {
        match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                let body = String::from_utf8_lossy(body);
                // Ours, and nginx's.
                let wants_tls = ["speaks TLS only", "sent to HTTPS port"];
                wants_tls.iter().any(|text| body.contains(text)).then_some(Self::TlsOnly)
            }
            tungstenite::Error::Io(error) => Self::of_tls(error.get_ref()?.downcast_ref()?),
            _ => None,
        }
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        Some(match error {
            rustls::Error::Other(OtherError(other)) => other.downcast_ref::<Self>()?.clone(),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
                other => Self::Certificate(other.to_string()),
            },
            other => Self::Handshake(other.to_string()),
        })
    }

    /// Returns the exit code that tells this fault from others.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Pin { .. } => 11,
            Self::UnknownIssuer | Self::OtherName | Self::Certificate(_) => 12,
            Self::Expired | Self::NotYetValid => 13,
            Self::NoTls | Self::TlsOnly | Self::Handshake(_) => 14,
        }
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Pin { seen, .. } => format!(
                "nothing was sent; if the certificate was replaced on purpose, compare with \
                 `moltbotctl gateway tls` on the gateway's host and pin the new one: \
                 gateway.remote.tlsFingerprint or --tls-fingerprint sha256:{seen}; if not, \
                 somebody is in between"
            ),
            Self::Expired | Self::NotYetValid => "nothing was sent; renew the gateway's \
                certificate (it is taken without a restart), and check the clocks of both hosts"
                .into(),
            Self::UnknownIssuer | Self::OtherName | Self::Certificate(_) => "nothing was sent; \
                run `moltbotctl gateway tls` on the gateway's host and pin what it prints: \
                --tls-fingerprint or gateway.remote.tlsFingerprint"
                .into(),
            Self::NoTls => "nothing was sent; use ws:// where that is safe (this host, ssh, a \
                tailnet), or set gateway.tls.enabled on the gateway"
                .into(),
            Self::TlsOnly => "use wss:// in the address".into(),
            Self::Handshake(_) => "see the gateway's log: moltbotctl logs".into(),
        }
    }
}

/// Returns what a certificate is checked with: the pins, else the authorities
/// this host trusts.
///
/// # Errors
/// When TLS cannot be set up at all.
pub fn connector(pins: Option<&Pins>) -> Result<Option<Connector>, tungstenite::Error> {
    let provider = Arc::new(ring::default_provider());
    let Some(pins) = pins else {
        // The library looks for the system's authorities itself. An earlier call
        // may have installed the provider: both are the same.
        let _ = ring::default_provider().install_default();
        return Ok(None);
    };
    let verifier = Pinned { pins: pins.clone(), provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tungstenite::Error::Io(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Some(Connector::Rustls(Arc::new(config))))
}

/// Accepts the pinned certificates and no other.
#[derive(Debug)]
struct Pinned {
    pins: Pins,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = fingerprint(certificate);
        if self.pins.0.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let fault = Fault::Pin { expected: self.pins.clone(), seen };
        Err(rustls::Error::Other(OtherError(Arc::new(fault))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_in_every_usual_form() {
        let digits = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in
            [digits.clone(), colons.clone(), format!("SHA256:{colons}"), format!("sha256:{digits}")]
        {
            assert_eq!(text.parse::<Pins>().unwrap(), Pins(vec![digits.clone()]), "{text}");
        }
        let two = format!("{digits}, {}", "cd".repeat(32));
        assert_eq!(two.parse::<Pins>().unwrap().0.len(), 2);
        for wrong in
            ["", "aabb", &format!("{digits}0"), &"g".repeat(64), &format!("{two},{digits}")]
        {
            assert!(wrong.parse::<Pins>().is_err(), "{wrong}");
        }
    }
}
