//! A socket that lets a peer say only so much before it has authenticated.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes an unauthenticated peer may send after the upgrade: one frame of
/// 64 KiB with its header.
pub(super) const BEFORE_LOGIN: usize = 64 * 1024 + 14;

/// A socket with a bound on what is read from it.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    socket: S,
    /// Bytes left; `None` once the peer has authenticated.
    left: Option<usize>,
}

/// The peer said too much before it authenticated.
#[derive(Debug, thiserror::Error)]
#[error("too much before login")]
pub(super) struct TooMuch;

impl<S> Guarded<S> {
    /// Guards a socket of which `read` bytes were read already.
    pub(super) fn new(socket: S, read: usize) -> Self {
        Self { socket, left: Some(BEFORE_LOGIN.saturating_sub(read)) }
    }

    /// Lifts the bound.
    pub(super) fn trust(&mut self) {
        self.left = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(read) else {
                return Poll::Ready(Err(io::Error::other(TooMuch)));
            };
            *left = rest;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
