//! Opens the socket to a gateway: TCP, TLS, a Unix socket or ssh, then the
//! WebSocket upgrade.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::unistd::{Uid, User};
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
    sockets, ssh,
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
/// When nobody listens, TLS fails, the other side speaks no WebSocket, or it is
/// a [`Stranger`] to whom the target's secret must not be shown.
pub async fn open(target: &Target, patience: Duration) -> Result<Socket, tungstenite::Error> {
    let mut ends = None;
    let (stream, url): (Box<dyn Stream>, _) = match &target.address {
        Address::Unix(path) => {
            (Box::new(UnixStream::connect(path).await?), "ws://localhost/".to_owned())
        }
        Address::Web(web) => {
            let stream = connect(web).await?;
            ends = Some((stream.local_addr()?, stream.peer_addr()?));
            (Box::new(stream), format!("{}{}", web.key(), web.path))
        }
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
    let socket = upgrade.await?.0;
    // A certificate that was pinned proves more.
    if let (Some(owners), None) = (&target.credentials.only_to_own, &target.tls_fingerprint) {
        check_owner(ends, owners)?;
    }
    Ok(socket)
}

/// A program that answers on a port of this host and belongs to somebody else.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the program that answers belongs to {}", user(*.0))]
pub struct Stranger(pub u32);

/// Root may see every secret as it is, and so may this user and those whose
/// files it comes from.
fn check_owner(ends: Option<(SocketAddr, SocketAddr)>, owners: &[u32]) -> io::Result<()> {
    let owner = ends.and_then(|(near, far)| sockets::answering_user(near, far));
    let is_stranger =
        |uid: &u32| *uid != 0 && *uid != Uid::effective().as_raw() && !owners.contains(uid);
    match owner.filter(is_stranger) {
        Some(uid) => Err(io::Error::other(Stranger(uid))),
        None => Ok(()),
    }
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    }
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
