//! The first byte of a TCP peer: whether it speaks TLS, and what happens when
//! it speaks the other thing.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{Shared, addresses::is_public, admission::Permit, http, ingress::Listener};

/// How every TLS handshake begins.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a peer may take to read why it is sent away.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most that is read of what such a peer still sends.
const FAREWELL_BYTES: u64 = 64 * 1024;

const TLS_ONLY: &str = "this port speaks TLS only; use wss:// or https://";
const NO_TLS: &str = "this port speaks no TLS; use ws:// or http://, or set gateway.tls.enabled";
const NOT_IN_PUBLIC: &str = "a public address is served over TLS only; set gateway.tls.enabled, or \
                             use an SSH tunnel or Tailscale Serve";

/// Serves a peer, over TLS where that is configured.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    own: SocketAddr,
    shared: Shared,
    permit: Permit,
) {
    let deadline = permit.deadline(&shared.gateway.config.get().gateway);
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout_at(deadline, stream.peek(&mut first)) => peeked,
        () = shared.closing.cancelled() => return,
    };
    match peeked {
        Ok(Ok(1..)) => {}
        Ok(_) => return shared.handshakes.left.one(),
        Err(_) => return shared.handshakes.timed_out.one(),
    }
    let listener = Listener::Tcp { peer, own };
    match (&shared.gateway.tls, first[0] == TLS_HANDSHAKE) {
        (None, true) => refuse(stream, peer, NO_TLS, &shared).await,
        (Some(_), false) => refuse(stream, peer, TLS_ONLY, &shared).await,
        (None, false) if is_public(own.ip()) => refuse(stream, peer, NOT_IN_PUBLIC, &shared).await,
        (None, false) => http::serve(stream, listener, shared, permit).await,
        (Some(tls), true) => {
            let acceptor = TlsAcceptor::from(tls.config());
            match timeout_at(deadline, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => http::serve(stream, listener, shared, permit).await,
                Ok(Err(error)) => {
                    shared.handshakes.malformed.one();
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                }
                Err(_) => shared.handshakes.timed_out.one(),
            }
        }
    }
}

/// Says what is wrong in the one way that programs of either kind show to
/// people, and waits until it was read.
async fn refuse(mut stream: TcpStream, peer: SocketAddr, why: &str, shared: &Shared) {
    shared.handshakes.malformed.one();
    tracing::info!(%peer, "sent away: {why}");
    let length = why.len() + 1;
    let text = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{why}\n"
    );
    let farewell = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        // A socket closed with unread input would destroy what is on the way.
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    let _ = timeout(FAREWELL, farewell).await;
}
