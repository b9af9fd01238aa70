//! The head of a request: refuses ambiguous ones (RFC 9112) and strips the path prefix.
//! [`Routes::answer`](crate::http::Routes::answer) calls it before anything else.

use axum::extract::OriginalUri;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::Request;
use axum::http::Uri;
use axum::http::Version;
use axum::http::header;

use crate::http::response::Refusal;
use crate::refusal::Cause;

/// Refuses a head that two servers on the way could read differently.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => (),
        (None, _) if version < Version::HTTP_11 => (),
        (None, _) => return Err(Refusal::new(Cause::AmbiguousHead, "HTTP/1.1 requires a Host header")),
        (Some(_), Some(_)) => return Err(Refusal::new(Cause::AmbiguousHead, "There must be only one Host header")),
        (Some(_), None) => {
            return Err(Refusal::new(
                Cause::AmbiguousHead,
                "The Host header must name one host, with or without a port",
            ));
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING) { check_encoding(headers) } else { Ok(()) }
}

/// hyper checks the last encoding only. The API cannot read a body that is encoded twice.
fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut chunked = 0;
    for encoding in tokens(headers, header::TRANSFER_ENCODING) {
        if !encoding.eq_ignore_ascii_case("chunked") {
            let encoding: String = encoding.chars().take(64).collect();
            let message = format!("Transfer-Encoding {encoding} is not supported, only chunked");
            return Err(Refusal::new(Cause::TransferEncoding, message));
        }
        chunked += 1;
    }
    if chunked == 1 {
        Ok(())
    } else {
        Err(Refusal::new(Cause::AmbiguousHead, "Transfer-Encoding must name chunked once"))
    }
}

/// Whether a host is a name or an address, with or without a port (RFC 3986, 3.2.2). Some clients send an empty port.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !host.ends_with(b"]") => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let is_name = match name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")) {
        Some(address) => address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)),
        None => name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte)),
    };
    is_name && port.iter().all(u8::is_ascii_digit)
}

/// Whether one of a header's comma-separated tokens is this one, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|word| word.eq_ignore_ascii_case(token))
}

/// The comma-separated tokens of a header. A line that is not text counts as an unknown token.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().map(|line| line.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Strips the prefix from the path of a request, and keeps the whole as [`OriginalUri`], since it may be the signed
/// one. False when the path is outside the prefix.
pub(super) fn strip_prefix<B>(request: &mut Request<B>, prefix: &str) -> bool {
    let path = request.uri().path();
    let Some(below) = below(path, prefix) else { return false };
    if below.len() == path.len() {
        return true;
    }
    let query = request.uri().query();
    let target = query.map_or_else(|| below.to_owned(), |query| format!("{below}?{query}"));
    // A part of a valid path is a valid path.
    let Ok(target) = target.parse::<Uri>() else { return false };
    let whole = std::mem::replace(request.uri_mut(), target);
    request.extensions_mut().insert(OriginalUri(whole));
    true
}

/// The path below the prefix; `None` outside of it. Several slashes count as one: pusher-js doubles them with `wsPath:
/// '/ws/'`.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = path;
    for segment in prefix.split('/').skip(1) {
        rest = collapse_slashes(rest).strip_prefix('/')?.strip_prefix(segment)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
    }
    Some(if rest.is_empty() { "/" } else { collapse_slashes(rest) })
}

fn collapse_slashes(path: &str) -> &str {
    let slashes = path.len() - path.trim_start_matches('/').len();
    &path[slashes.saturating_sub(1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_name_or_address_and_perhaps_a_port() {
        for host in ["", "localhost", "a.example:6001", "gema_1", "10.0.0.1:1", "[::1]", "[2001:db8::1]:443", "a:"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a,b", "a/b", "user@a", "a:b", "[::1", "[x]", "a b:1", "a\tb", "http://a", "é"] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_path_is_read_below_its_prefix_whatever_slashes_stand_before_it() {
        for (path, prefix, expected) in [
            ("/app/k", "", Some("/app/k")),
            ("//app/k/", "", Some("/app/k/")),
            ("/", "", Some("/")),
            ("*", "", Some("*")),
            ("/ws/app/k", "/ws", Some("/app/k")),
            ("/ws//app/k", "/ws", Some("/app/k")),
            ("//ws/v1///app/k", "/ws/v1", Some("/app/k")),
            ("/ws", "/ws", Some("/")),
            ("/ws/", "/ws", Some("/")),
            ("/app/k", "/ws", None),
            ("/wsx/app/k", "/ws", None),
            ("/w", "/ws", None),
            ("*", "/ws", None),
        ] {
            assert_eq!(below(path, prefix), expected, "{path} below {prefix}");
        }
    }
}
