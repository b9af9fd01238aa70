//! A connection as hyper sees it: TCP, or TLS over it.
//! `listen` serves HTTP on it, and hands it over after an upgrade.

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
use crate::server::tls_handshake;

/// Bytes of a request that are still read after its response.
const LINGER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// As much as hyper reads first.
const FIRST_READ_BYTES: usize = 8 * 1024;

/// A connection. After an upgrade it discards hyper's response: the shard sends its own, together with the first frame.
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

/// The protocol of a plain connection, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    UnreadBody,
    Tls,
    /// A header of the PROXY protocol.
    Proxy,
    Other,
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream, client: Client) -> Self {
        let transport = Transport::Plain(TokioIo::new(tcp));
        Self { transport, client, opening: Opening::UnreadBody }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, client: Client) -> Self {
        let transport = Transport::Tls(Box::new(TokioIo::new(tls)));
        Self { transport, client, opening: Opening::Other }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the client uses TLS on a port without it.
    pub(super) fn speaks_tls(&self) -> bool {
        self.opening == Opening::Tls
    }

    /// Whether the connection begins with a PROXY header that is not expected.
    pub(super) fn has_proxy_header(&self) -> bool {
        self.opening == Opening::Proxy
    }

    /// Hands an upgraded connection to its shard; closes any other.
    pub(super) fn hand_over(self, read_ahead: Bytes) {
        if !self.client.is_upgrading() {
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

    /// Closes the connection of a peer that may still be sending. Its data is read and dropped: a reset would overtake
    /// the response.
    pub(super) async fn linger(self) {
        let mut tcp = match self.transport {
            Transport::Plain(tcp) => tcp.into_inner(),
            Transport::Tls(tls) => tls.into_inner().into_inner().0,
        };
        // Both fail only when the connection is gone.
        let _ = tcp.shutdown().await;
        let _ = tokio::io::copy(&mut tcp.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await;
    }

    /// The first read of a plain connection, which recognizes its protocol.
    fn poll_opening(&mut self, cx: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Transport::Plain(tcp) = &mut self.transport else { return Poll::Ready(Ok(())) };
        let mut space = [MaybeUninit::uninit(); FIRST_READ_BYTES];
        let mut first = ReadBuf::uninit(&mut space[..buffer.remaining().min(FIRST_READ_BYTES)]);
        ready!(Pin::new(tcp.inner_mut()).poll_read(cx, &mut first))?;
        self.opening = match first.filled() {
            [tls_handshake::FIRST_BYTE, ..] => Opening::Tls,
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
        if self.opening == Opening::UnreadBody {
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
        if self.client.is_upgrading() {
            // hyper must believe that its response is out, so that it gives the connection back.
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
        if self.client.is_upgrading() {
            // It goes on as a WebSocket. hyper shuts down what it did not upgrade itself.
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            // It is dropped at once, which has the same effect in one call.
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
