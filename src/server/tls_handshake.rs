//! The TLS handshake at the beginning of a connection.
//! `listen` calls it on a port with TLS.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::protocol::proxy;
use crate::tls;
use crate::tls::Certificates;
use crate::tls::TlsError;

/// The first byte of a TLS handshake, and of no HTTP request.
pub(super) const FIRST_BYTE: u8 = 22;

/// TLS of a port.
#[derive(Clone)]
pub(super) struct TlsHandshake(TlsAcceptor);

/// The first bytes of a connection to a port with TLS.
pub(super) enum FirstBytes {
    Tls(Box<TlsStream<TcpStream>>),
    /// Something else, without TLS.
    Plain(TcpStream),
    /// A PROXY header.
    ProxyHeader,
    /// Nothing: the client has gone.
    Gone,
}

impl TlsHandshake {
    pub(super) fn new(certificates: Arc<Certificates>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(tls::server_config(certificates)?).into()))
    }

    /// Waits for the first bytes, and does the handshake.
    pub(super) async fn open(&self, tcp: TcpStream) -> io::Result<FirstBytes> {
        let mut first = [0; proxy::START_BYTES];
        match tcp.peek(&mut first).await {
            Ok(0) | Err(_) => Ok(FirstBytes::Gone),
            Ok(count) if proxy::begins(&first[..count]).is_some() => Ok(FirstBytes::ProxyHeader),
            Ok(_) if first[0] != FIRST_BYTE => Ok(FirstBytes::Plain(tcp)),
            Ok(_) => self.0.accept(tcp).await.map(|stream| FirstBytes::Tls(Box::new(stream))),
        }
    }
}

impl fmt::Debug for TlsHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake(..)")
    }
}
