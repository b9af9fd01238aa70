//! A TCP connection as hyper sees it.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::Client;

/// Keeps back the answer that makes it a WebSocket: that goes out together with the first frame.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TokioIo<TcpStream>,
    client: Client,
    answer: Vec<u8>,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, client: Client) -> Self {
        Self { tcp: TokioIo::new(tcp), client, answer: Vec::new() }
    }

    /// Gives the connection to the shard if it is to become a WebSocket; otherwise closes it.
    pub(super) fn hand_over(self, read_ahead: Bytes) {
        if !self.client.is_accepted() {
            return;
        }
        match self.tcp.into_inner().into_std() {
            Ok(tcp) => self.client.hand_over(tcp, self.answer, read_ahead),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
        }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

/// Not vectored: answers are short, and one plain write is cheaper.
impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.client.is_accepted() {
            self.answer.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
