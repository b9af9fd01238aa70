//! TLS at the beginning of a connection.

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

/// A port's TLS.
#[derive(Clone)]
pub(super) struct Handshake(TlsAcceptor);

/// What a connection to a port with TLS turns out to be.
pub(super) enum Opened {
    Tls(Box<TlsStream<TcpStream>>),
    /// The client speaks something else.
    Plain(TcpStream),
    /// It begins with a header of the PROXY protocol.
    Proxied,
    /// The client has gone without a word.
    Gone,
}

impl Handshake {
    pub(super) fn new(certificates: Arc<Certificates>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(tls::server_config(certificates)?).into()))
    }

    /// Waits for what the client says first, and agrees with it on keys.
    pub(super) async fn open(&self, tcp: TcpStream) -> io::Result<Opened> {
        let mut first = [0; proxy::START_BYTES];
        match tcp.peek(&mut first).await {
            Ok(0) | Err(_) => Ok(Opened::Gone),
            Ok(count) if proxy::begins(&first[..count]).is_some() => Ok(Opened::Proxied),
            Ok(_) if first[0] != FIRST_BYTE => Ok(Opened::Plain(tcp)),
            Ok(_) => self.0.accept(tcp).await.map(|stream| Opened::Tls(Box::new(stream))),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake(..)")
    }
}
