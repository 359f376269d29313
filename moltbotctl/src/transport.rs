//! Opens the socket to a gateway: TCP, TLS, a Unix socket or ssh, then the
//! WebSocket upgrade.

use std::{io, net::Ipv4Addr, net::Ipv6Addr, time::Duration};

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
    ssh,
    target::Target,
    tls,
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
            Box::new(ssh::Stream::open(&through.login, through.gateway.port, patience).await?),
            format!("{}/", through.gateway.key()),
        ),
    };
    let connector = match (target.address.web(), &target.tls_fingerprint) {
        (Some(WebAddress { tls: true, .. }), pins) => tls::connector(pins.as_ref())?,
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
