//! A connection as hyper sees it: TCP, or TLS over it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::http::Client;
use crate::protocol::proxy;
use crate::server::handshake;

/// Bytes that are read of a request after its answer.
const LINGER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// As much as hyper asks for at first.
const FIRST_READ_BYTES: usize = 8 * 1024;

/// Sends nothing of hyper's once it is to become a WebSocket: the shard sends the answer, together with the first frame.
#[derive(Debug)]
pub(super) struct Stream {
    transport: Transport,
    client: Client,
    opening: Opening,
}

#[derive(Debug)]
enum Transport {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

/// What the first bytes of a plain connection say.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    Unread,
    Tls,
    /// A header of the PROXY protocol.
    Proxy,
    Other,
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream, client: Client) -> Self {
        let transport = Transport::Plain(TokioIo::new(tcp));
        Self { transport, client, opening: Opening::Unread }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, client: Client) -> Self {
        let transport = Transport::Tls(Box::new(TokioIo::new(tls)));
        Self { transport, client, opening: Opening::Other }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the client speaks TLS, which nobody answers here.
    pub(super) fn is_misled(&self) -> bool {
        self.opening == Opening::Tls
    }

    /// Whether it begins with a header of the PROXY protocol, which nobody reads here.
    pub(super) fn is_proxied(&self) -> bool {
        self.opening == Opening::Proxy
    }

    /// Gives the connection to the shard if it is to become a WebSocket; otherwise closes it.
    pub(super) fn hand_over(self, read_ahead: Bytes) {
        if !self.client.is_accepted() {
            return;
        }
        let (tcp, tls) = match self.transport {
            Transport::Plain(tcp) => (tcp.into_inner(), None),
            Transport::Tls(tls) => {
                let (tcp, session) = tls.into_inner().into_inner();
                (tcp, Some(Box::new(session)))
            }
        };
        match tcp.into_std() {
            Ok(tcp) => self.client.hand_over(tcp, tls, read_ahead),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
        }
    }

    /// Ends the connection of a peer that may still be sending: what is on its way is thrown away, because the reset
    /// that it would cause overtakes the answer.
    pub(super) async fn linger(self) {
        let mut tcp = match self.transport {
            Transport::Plain(tcp) => tcp.into_inner(),
            Transport::Tls(tls) => tls.into_inner().into_inner().0,
        };
        // Both fail only when the connection is gone.
        let _ = tcp.shutdown().await;
        let _ = tokio::io::copy(&mut tcp.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await;
    }

    /// The first read of a plain connection, by way of a buffer that can be looked at.
    fn poll_opening(&mut self, cx: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Transport::Plain(tcp) = &mut self.transport else { return Poll::Ready(Ok(())) };
        let mut space = [MaybeUninit::uninit(); FIRST_READ_BYTES];
        let mut first = ReadBuf::uninit(&mut space[..buffer.remaining().min(FIRST_READ_BYTES)]);
        ready!(Pin::new(tcp.inner_mut()).poll_read(cx, &mut first))?;
        self.opening = match first.filled() {
            [handshake::FIRST_BYTE, ..] => Opening::Tls,
            start if proxy::begins(start).is_some() => Opening::Proxy,
            _ => Opening::Other,
        };
        if self.opening != Opening::Other {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        buffer.put_slice(first.filled());
        Poll::Ready(Ok(()))
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.opening == Opening::Unread {
            return self.poll_opening(cx, buffer);
        }
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

/// Not vectored: answers are short, and one plain write is cheaper.
impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.client.is_accepted() {
            return Poll::Ready(Ok(bytes.len()));
        }
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.is_accepted() {
            // It goes on as a WebSocket. hyper ends what it was not asked to upgrade.
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            // It is closed at once, which says the same in one call.
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
