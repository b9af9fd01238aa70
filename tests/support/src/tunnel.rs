//! A port without TLS that leads to one with it, so that every test can be one of TLS.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use rustls::ClientConfig;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::io::copy;
use tokio::io::split;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Room in each direction: so little that a client that does not read soon stalls the server.
const BUFFER_BYTES: u32 = 16 * 1024;

pub struct Tunnel {
    address: SocketAddr,
}

impl Tunnel {
    /// A tunnel to this server, whose certificate the configuration must trust.
    pub fn start(server: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::start_over(server, config, |tcp| tcp)
    }

    /// The same where the server gets each record byte by byte.
    pub fn start_split(server: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::start_over(server, config, ByteByByte)
    }

    fn start_over<S>(server: SocketAddr, config: Arc<ClientConfig>, wrap: fn(TcpStream) -> S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(BUFFER_BYTES).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let config = Arc::clone(&config);
                tokio::spawn(async move {
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
                    let Ok(tcp) = socket.connect(server).await else { return };
                    let _ = (client.set_nodelay(true), tcp.set_nodelay(true));
                    let Ok(server) = secured(wrap(tcp), config).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
                    tokio::join!(pass_on(from_client, to_server), pass_on(from_server, to_client));
                });
            }
        });
        Self { address }
    }

    /// Where clients without TLS connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// To the end, or as long as both are there; the other direction goes on.
async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A client's handshake.
pub async fn secured<S>(tcp: S, config: Arc<ClientConfig>) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    TlsConnector::from(config).connect("localhost".try_into().unwrap(), tcp).await
}

/// Writes one byte at a time.
struct ByteByByte(TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
