//! Reads the header of the PROXY protocol from a new connection.
//! `admit` calls it for trusted proxies.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::protocol::proxy;
use crate::protocol::proxy::HEAD_BYTES;
use crate::protocol::proxy::Invalid;
use crate::protocol::proxy::LINE_BYTES_MAX;
use crate::protocol::proxy::ProxyHeader;
use crate::protocol::proxy::START_BYTES;
use crate::protocol::proxy::Version;

/// Why the header cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The connection begins with something else.
    #[error("it begins with something else")]
    Missing,
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The proxy has gone.
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// Reads the header and nothing after it.
pub(super) async fn read(tcp: &mut TcpStream) -> Result<ProxyHeader, HeaderError> {
    let mut head = [0; HEAD_BYTES];
    tcp.read_exact(&mut head[..START_BYTES]).await?;
    match proxy::begins(&head[..START_BYTES]) {
        None => Err(HeaderError::Missing),
        Some(Version::One) => Ok(ProxyHeader::from_line(&line(tcp, &head[..START_BYTES]).await?)?),
        Some(Version::Two) => {
            tcp.read_exact(&mut head[START_BYTES..]).await?;
            let mut rest = vec![0; ProxyHeader::rest_len(&head)?];
            tcp.read_exact(&mut rest).await?;
            Ok(ProxyHeader::from_binary(&head, &rest)?)
        }
    }
}

/// Reads the rest of a version 1 line that begins with `start`.
async fn line(tcp: &mut TcpStream, start: &[u8]) -> Result<Vec<u8>, HeaderError> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
        let mut ahead = [0; LINE_BYTES_MAX];
        let ahead = &mut ahead[..LINE_BYTES_MAX - line.len()];
        let peeked = tcp.peek(ahead).await?;
        if peeked == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let end = ahead[..peeked].iter().position(|&byte| byte == b'\n').map_or(peeked, |end| end + 1);
        tcp.read_exact(&mut ahead[..end]).await?;
        line.extend_from_slice(&ahead[..end]);
    }
    Ok(line)
}
