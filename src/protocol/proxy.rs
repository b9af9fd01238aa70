//! The PROXY protocol, versions 1 and 2: a header with the client's address, which a proxy sends first.
//! `server::proxy_header` reads it; `server` recognizes it where it is not expected.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

/// Bytes that suffice to recognize a header.
pub const START_BYTES: usize = 12;
/// Bytes of a version 2 header before its addresses.
pub const HEAD_BYTES: usize = 16;
/// Longest header of version 1, line end included.
pub const LINE_BYTES_MAX: usize = 107;
/// Addresses and extensions of a version 2 header; proxies send some hundred bytes at most.
pub const REST_BYTES_MAX: usize = 4096;

/// How version 1 begins: no method of HTTP, and no TLS.
const LINE_START: &[u8] = b"PROXY ";
/// How version 2 begins.
const SIGNATURE: &[u8; START_BYTES] = b"\r\n\r\n\0\r\nQUIT\n";
/// The extension about the client's TLS, and its bit for "came over TLS".
const TLS_EXTENSION: u8 = 0x20;
const CLIENT_TLS: u8 = 0x01;

/// The versions of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// The client, as a proxy reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; `None` if the proxy connects for itself, as in health checks.
    pub client: Option<SocketAddr>,
    /// Whether the client uses TLS to the proxy (only in version 2).
    pub secure: bool,
}

/// The header is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header of the PROXY protocol is not valid")]
pub struct Invalid;

/// The version of the header that begins like this. Version 2 needs [`START_BYTES`] to be recognized.
///
/// ```
/// use gema::protocol::proxy::{Version, begins};
/// assert_eq!(begins(b"PROXY TCP4 1"), Some(Version::One));
/// assert_eq!(begins(b"\r\n\r\n\0\r\nQUIT\n"), Some(Version::Two));
/// assert_eq!(begins(b"POST /apps/1"), None);
/// ```
pub fn begins(start: &[u8]) -> Option<Version> {
    if start.starts_with(SIGNATURE) {
        Some(Version::Two)
    } else {
        start.starts_with(LINE_START).then_some(Version::One)
    }
}

impl ProxyHeader {
    /// A connection of the proxy itself.
    pub const UNKNOWN: Self = Self { client: None, secure: false };

    /// Parses a line of version 1, with its end.
    ///
    /// ```
    /// use gema::protocol::proxy::ProxyHeader;
    /// let header = ProxyHeader::from_line(b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 6001\r\n").unwrap();
    /// assert_eq!(header.client, Some("192.0.2.1:50000".parse().unwrap()));
    /// ```
    pub fn from_line(line: &[u8]) -> Result<Self, Invalid> {
        let line = line.strip_suffix(b"\r\n").filter(|line| line.len() <= LINE_BYTES_MAX - 2).ok_or(Invalid)?;
        let mut words = std::str::from_utf8(line).map_err(|_| Invalid)?.split(' ');
        if words.next() != Some("PROXY") {
            return Err(Invalid);
        }
        let family = words.next().ok_or(Invalid)?;
        if family == "UNKNOWN" {
            return Ok(Self::UNKNOWN);
        }
        let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == (family == "TCP4"));
        let (source, target) = (address().ok_or(Invalid)?, address());
        let mut port = || words.next().filter(|word| !word.starts_with('+'))?.parse::<u16>().ok();
        let (source_port, target_port) = (port().ok_or(Invalid)?, port());
        let is_whole = target.is_some() && target_port.is_some() && words.next().is_none();
        if !is_whole || !["TCP4", "TCP6"].contains(&family) {
            return Err(Invalid);
        }
        Ok(Self { client: Some(SocketAddr::new(source, source_port)), secure: false })
    }

    /// The number of bytes after the first [`HEAD_BYTES`] of version 2.
    pub fn rest_len(head: &[u8; HEAD_BYTES]) -> Result<usize, Invalid> {
        let is_known = head.starts_with(SIGNATURE) && head[12] >> 4 == 2 && head[12] & 0x0f <= 1;
        let length = u16::from_be_bytes([head[14], head[15]]).into();
        if is_known && length <= REST_BYTES_MAX { Ok(length) } else { Err(Invalid) }
    }

    /// Parses a header of version 2: its first [`HEAD_BYTES`], and the rest.
    pub fn from_binary(head: &[u8; HEAD_BYTES], rest: &[u8]) -> Result<Self, Invalid> {
        if Self::rest_len(head)? != rest.len() {
            return Err(Invalid);
        }
        let is_local = head[12] & 0x0f == 0;
        // The address family, and TCP. Other kinds have no client address.
        let (client, extensions) = match head[13] {
            _ if is_local => return Ok(Self::UNKNOWN),
            0x11 => {
                let (addresses, extensions) = rest.split_at_checked(12).ok_or(Invalid)?;
                let source: [u8; 4] = addresses[..4].try_into().map_err(|_| Invalid)?;
                (SocketAddr::new(Ipv4Addr::from(source).into(), port(&addresses[8..])), extensions)
            }
            0x21 => {
                let (addresses, extensions) = rest.split_at_checked(36).ok_or(Invalid)?;
                let source: [u8; 16] = addresses[..16].try_into().map_err(|_| Invalid)?;
                (SocketAddr::new(Ipv6Addr::from(source).into(), port(&addresses[32..])), extensions)
            }
            _ => return Ok(Self::UNKNOWN),
        };
        Ok(Self { client: Some(client), secure: is_over_tls(extensions)? })
    }
}

fn port(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// Reads the extensions (type, length, value) for the client's TLS.
fn is_over_tls(mut extensions: &[u8]) -> Result<bool, Invalid> {
    let mut secure = false;
    while let Some((&[kind, high, low], rest)) = extensions.split_first_chunk::<3>() {
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(Invalid)?;
        secure |= kind == TLS_EXTENSION && value.first().is_some_and(|client| client & CLIENT_TLS != 0);
        extensions = rest;
    }
    if extensions.is_empty() { Ok(secure) } else { Err(Invalid) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2.
    fn binary(command: u8, source: SocketAddr, extensions: &[u8]) -> ([u8; HEAD_BYTES], Vec<u8>) {
        let mut rest = Vec::new();
        let family = match source.ip() {
            IpAddr::V4(address) => {
                rest.extend_from_slice(&[address.octets(), [10, 0, 0, 1]].concat());
                0x11
            }
            IpAddr::V6(address) => {
                rest.extend_from_slice(&[address.octets(), [1; 16]].concat());
                0x21
            }
        };
        rest.extend_from_slice(&source.port().to_be_bytes());
        rest.extend_from_slice(&6001_u16.to_be_bytes());
        rest.extend_from_slice(extensions);
        let mut head = [0; HEAD_BYTES];
        head[..12].copy_from_slice(SIGNATURE);
        head[12] = 0x20 | command;
        head[13] = family;
        head[14..].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        (head, rest)
    }

    #[test]
    fn lines_of_version_1_are_read_to_the_letter() {
        let client = |text: &str| Some(text.parse().unwrap());
        for (line, expected) in [
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255:65535")),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", client("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
        ] {
            assert_eq!(
                ProxyHeader::from_line(line.as_bytes()),
                Ok(ProxyHeader { client: expected, secure: false }),
                "{line}"
            );
        }
        for line in [
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 +2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY \r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(ProxyHeader::from_line(line.as_bytes()), Err(Invalid), "{line}");
        }
    }

    #[test]
    fn a_proxy_speaks_for_itself_in_local_headers_and_other_families() {
        let source = "192.0.2.1:5".parse().unwrap();
        let (head, rest) = binary(0, source, &[]);
        assert_eq!(ProxyHeader::from_binary(&head, &rest), Ok(ProxyHeader::UNKNOWN));
        for family in [0x00, 0x12, 0x31] {
            let (mut head, rest) = binary(1, source, &[]);
            head[13] = family;
            assert_eq!(ProxyHeader::from_binary(&head, &rest), Ok(ProxyHeader::UNKNOWN));
        }
        let (mut head, rest) = binary(1, source, &[]);
        head[12] = 0x11;
        assert_eq!(ProxyHeader::from_binary(&head, &rest), Err(Invalid), "another version");
    }

    proptest! {
        #[test]
        fn what_a_proxy_says_in_version_2_is_what_is_read(
            ip: IpAddr,
            port: u16,
            secure: bool,
            other in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let source = SocketAddr::new(ip, port);
            let mut extensions = vec![0x04, 0, other.len() as u8];
            extensions.extend_from_slice(&other);
            extensions.extend_from_slice(&[TLS_EXTENSION, 0, 5, u8::from(secure), 0, 0, 0, 0]);
            let (head, rest) = binary(1, source, &extensions);
            prop_assert_eq!(begins(&head), Some(Version::Two));
            prop_assert_eq!(ProxyHeader::rest_len(&head), Ok(rest.len()));
            prop_assert_eq!(ProxyHeader::from_binary(&head, &rest), Ok(ProxyHeader { client: Some(source), secure }));
            prop_assert_eq!(ProxyHeader::from_binary(&head, &rest[1..]), Err(Invalid));
        }

        #[test]
        fn what_a_proxy_says_in_version_1_is_what_is_read(ip: IpAddr, port: u16) {
            let (family, target) = if ip.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "::1") };
            let line = format!("PROXY {family} {ip} {target} {port} 6001\r\n");
            prop_assert_eq!(begins(line.as_bytes()), Some(Version::One));
            let client = Some(SocketAddr::new(ip, port));
            prop_assert_eq!(ProxyHeader::from_line(line.as_bytes()), Ok(ProxyHeader { client, secure: false }));
        }

        #[test]
        fn no_bytes_whatever_make_it_panic(
            mut head: [u8; HEAD_BYTES],
            rest in prop::collection::vec(any::<u8>(), 0..300),
            is_signed: bool,
        ) {
            if is_signed {
                head[..12].copy_from_slice(SIGNATURE);
                head[12] = 0x21;
                head[13] = [0x11, 0x21][usize::from(head[13] & 1)];
                head[14..].copy_from_slice(&(rest.len() as u16).to_be_bytes());
            }
            let _ = ProxyHeader::from_binary(&head, &rest);
            let _ = ProxyHeader::from_line(&rest);
            let _ = begins(&rest);
        }
    }
}
