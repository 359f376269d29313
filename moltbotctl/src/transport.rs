//! Opens the socket to a gateway: TCP, TLS, a Unix socket or ssh, then the
//! WebSocket upgrade.

use std::{io, net::Ipv4Addr, net::Ipv6Addr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};

use crate::{
    address::{Address, WebAddress},
    identity::hex,
    ssh,
    target::Target,
};

/// Largest message a gateway may send.
const LARGEST_MESSAGE_BYTES: usize = 32 << 20;

/// A byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open WebSocket.
pub type Socket = WebSocketStream<MaybeTlsStream<Box<dyn Stream>>>;

/// Connects and upgrades. Who calls waits no longer than `patience`.
///
/// # Errors
/// When nobody listens, TLS fails, or the other side speaks no WebSocket.
pub async fn open(target: &Target, patience: Duration) -> Result<Socket, tungstenite::Error> {
    let (stream, url): (Box<dyn Stream>, _) = match &target.address {
        Address::Unix(path) => {
            (Box::new(UnixStream::connect(path).await?), "ws://localhost/".to_owned())
        }
        Address::Web(web) => (Box::new(connect(web).await?), format!("{}{}", web.key(), web.path)),
        Address::Ssh(through) => (
            Box::new(ssh::Stream::open(&through.login, through.gateway.port, patience)?),
            format!("{}/", through.gateway.key()),
        ),
    };
    let connector = match (target.address.web(), &target.tls_fingerprint) {
        (Some(WebAddress { tls: true, .. }), Some(pin)) => Some(pinned(pin)?),
        (Some(WebAddress { tls: true, .. }), None) => {
            // An earlier call may have installed it: both are the same.
            let _ = ring::default_provider().install_default();
            None
        }
        _ => Some(Connector::Plain),
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST_MESSAGE_BYTES))
        .max_frame_size(Some(LARGEST_MESSAGE_BYTES));
    let request = url.into_client_request()?;
    let upgrade =
        tokio_tungstenite::client_async_tls_with_config(request, stream, Some(config), connector);
    Ok(upgrade.await?.0)
}

/// `localhost` is never looked up: a resolver must not decide what is local.
async fn connect(web: &WebAddress) -> io::Result<TcpStream> {
    let stream = if web.host == "localhost" {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, web.port)).await {
            Ok(stream) => stream,
            Err(_) => TcpStream::connect((Ipv6Addr::LOCALHOST, web.port)).await?,
        }
    } else {
        TcpStream::connect((web.host.as_str(), web.port)).await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn pinned(fingerprint: &str) -> Result<Connector, tungstenite::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Pin { fingerprint: fingerprint.to_owned(), provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tungstenite::Error::Io(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

/// Accepts exactly one certificate, whoever signed it.
#[derive(Debug)]
struct Pin {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = hex(&Sha256::digest(certificate));
        if found == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the certificate has fingerprint {found}, not the pinned {}",
            self.fingerprint
        )))
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
