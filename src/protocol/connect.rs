//! The request of a client that connects (Pusher protocol, "Connection").
//! `http::upgrade` builds it, `node::connect` decides by it.

use std::net::IpAddr;

/// A WebSocket upgrade request, reduced to what the checks need.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The app key of `/app/{key}`; `None` when the path is another one.
    pub key: Option<String>,
    /// Whether the app of the key cannot be looked up now.
    pub app_unavailable: bool,
    /// Whether the address has as many connections as allowed.
    pub address_full: bool,
    /// `protocol` of the query, as sent.
    pub protocol: Option<String>,
    /// `version` of the query, as sent.
    pub version: Option<String>,
    /// `client` of the query: the name of the client's library.
    pub library: Option<String>,
    /// `channels` of the query, as sent; raw clients have it.
    pub channels: Option<String>,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// The client's address, from trusted proxies where there are any.
    pub address: IpAddr,
    /// Whether the client uses TLS: to us, or to a trusted proxy.
    pub secure: bool,
    /// The peer, if it forwards for others (`X-Forwarded-For`, `X-Forwarded-Proto`) and is not trusted.
    pub untrusted_proxy: Option<IpAddr>,
    /// Whether the peer's address comes from a PROXY header.
    pub has_proxy_header: bool,
    /// Whether `X-Forwarded-Proto` claims that the client uses TLS, from a trusted proxy or not.
    pub claims_tls: bool,
}

impl ConnectRequest {
    /// Reads `protocol`, `version`, `client` and `channels` out of a raw query; the order does not matter, the rest is ignored.
    pub fn read_query(&mut self, query: &str) {
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "protocol" if !value.is_empty() => self.protocol = Some(value.into_owned()),
                "client" if !value.is_empty() => self.library = Some(value.into_owned()),
                "version" if !value.is_empty() => self.version = Some(value.into_owned()),
                "channels" if !value.is_empty() => self.channels = Some(value.into_owned()),
                _ => (),
            }
        }
    }

    /// Whether it names no protocol version. Every Pusher library names one.
    pub fn may_be_raw(&self) -> bool {
        self.protocol.is_none()
    }

    /// Whether `version` looks like a library's version (checked in strict mode only).
    pub fn version_is_plausible(&self) -> bool {
        let Some(version) = &self.version else { return true };
        let digits = version.strip_prefix('v').unwrap_or(version);
        let end = digits.find(['-', '+', ' ']).unwrap_or(digits.len());
        let (numbers, suffix) = digits.split_at(end);
        let mut parts = numbers.split('.');
        let major = parts.next().is_some_and(|major| !major.is_empty() && major.bytes().all(|b| b.is_ascii_digit()));
        let minor = parts.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
        major && minor && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+ ".contains(&b))
    }
}

/// Whether `origin` is on the allow-list. A pattern is a host, possibly with port or scheme, with `*` for
/// any part; the list `*` alone allows everything, a missing origin included.
///
/// ```
/// use gema::protocol::connect::origin_allowed;
/// let list = ["*.example.com".to_owned()];
/// assert!(origin_allowed(Some("https://shop.example.com"), &list));
/// assert!(!origin_allowed(Some("https://example.org"), &list));
/// assert!(!origin_allowed(None, &list));
/// ```
pub fn origin_allowed(origin: Option<&str>, allowed: &[String]) -> bool {
    if allowed.iter().any(|pattern| pattern == "*") {
        return true;
    }
    let Some(origin) = origin else { return false };
    let origin = origin.to_ascii_lowercase();
    let authority = origin.split_once("://").map_or(&*origin, |(_, rest)| rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    allowed.iter().any(|pattern| {
        let pattern = pattern.to_ascii_lowercase();
        [&*origin, authority, host].iter().any(|text| matches(&pattern, text))
    })
}

/// Glob with `*` for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_hosts_only() {
        let list = ["example.com".to_owned()];
        assert!(origin_allowed(Some("http://example.com:8080"), &list));
        assert!(!origin_allowed(Some("http://evilexample.com"), &list));
        assert!(!origin_allowed(Some("http://example.com.evil.org"), &list));
    }

    #[test]
    fn versions_of_real_clients_are_plausible() {
        let with = |version: &str| ConnectRequest {
            app_unavailable: false,
            address_full: false,
            key: None,
            protocol: None,
            version: Some(version.to_owned()),
            library: None,
            channels: None,
            origin: None,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            secure: false,
            untrusted_proxy: None,
            has_proxy_header: false,
            claims_tls: false,
        };
        for version in ["8.6.0", "0.0.0-dev", "v1", "10.1.10"] {
            assert!(with(version).version_is_plausible(), "{version}");
        }
        for version in ["@version@", "", "1..2", "x"] {
            assert!(!with(version).version_is_plausible(), "{version}");
        }
    }
}
