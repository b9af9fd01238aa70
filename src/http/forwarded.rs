//! The client's address and TLS, as trusted proxies forward them (`X-Forwarded-For`, `X-Forwarded-Proto`).
//! `upgrade` and the log of refusals ask it.

use std::net::IpAddr;
use std::net::SocketAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";

/// The networks of trusted proxies.
#[derive(Debug)]
pub(super) struct TrustedProxies(pub(super) Vec<IpNet>);

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the client uses TLS to a trusted proxy.
    pub(super) fn is_secure(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        claims_tls(headers) && self.trusts(peer.to_canonical())
    }

    /// The peer, if it forwards for others and is not trusted.
    pub(super) fn untrusted(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let is_forwarding = headers.contains_key(FOR) || headers.contains_key(PROTO);
        Some(peer.to_canonical()).filter(|&peer| is_forwarding && !self.trusts(peer))
    }

    /// The client's address: the nearest one that is not a trusted proxy, from the peer on. Anything further away may
    /// be forged.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        // As bytes: the client's part need not be text.
        let hops = headers.get_all(FOR).into_iter().rev().flat_map(|list| list.as_bytes().rsplit(|&byte| byte == b','));
        let mut client = peer.to_canonical();
        for hop in hops {
            if !self.trusts(client) {
                break;
            }
            let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else { break };
            client = address.to_canonical();
        }
        client
    }
}

/// Whether a header claims that the client uses TLS.
pub(super) fn claims_tls(headers: &HeaderMap) -> bool {
    let scheme = headers.get(PROTO).and_then(|list| list.as_bytes().split(|&byte| byte == b',').next());
    scheme.is_some_and(|scheme| matches!(scheme.trim_ascii(), b"https" | b"wss"))
}

/// An address; some proxies add a port or brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().as_ref().map(SocketAddr::ip);
    text.parse().ok().or_else(bare).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, lists: &[&str]) -> String {
        let proxies = TrustedProxies(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).into());
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(FOR, HeaderValue::from_bytes(list.as_bytes()).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_nearest_address_that_is_not_trusted_is_the_client() {
        assert_eq!(client("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1,10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn addresses_come_with_ports_and_brackets_and_what_is_none_ends_the_way() {
        assert_eq!(client("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["é", "é, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, é"]), "10.0.0.1");
    }
}
