//! Checks the signature of a request to the HTTP API, over method, path and query, and reads the attributes that it asks
//! for (Pusher HTTP API, "Request signing" and "Attributes").
//! `http::auth` calls it.

use std::borrow::Cow;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use crate::protocol::grant::Keys;
use crate::protocol::signature::Signer;
use crate::protocol::signature::body_md5;

/// The signed parts of a request.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// In upper case.
    pub method: &'a str,
    /// As sent, without a configured prefix.
    pub path: &'a str,
    /// As sent.
    pub query: &'a str,
}

/// The parameters of a query as they were signed. Do not use the query itself: other queries have the same signature,
/// with keys in upper case or as `key[0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedQuery(String);

impl SignedQuery {
    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The attributes that `info` asks for: a list, or PHP's array.
    ///
    /// ```
    /// use gema::protocol::grant::Keys;
    /// use gema::protocol::request::{Claim, Clock, InfoRequest};
    /// use gema::protocol::signature::Signer;
    /// let claim = "auth_key=k&auth_timestamp=1&auth_version=1.0&info[0]=user_count&info[1]=subscription_count";
    /// let signature = Signer::new(b"secret").sign(&[format!("GET\n/\n{claim}").as_bytes()]);
    /// let query = format!("{claim}&auth_signature={signature}");
    /// let claim = Claim { method: "GET", path: "/", query: &query };
    /// let clock = Clock { now_seconds: 1, tolerance_seconds: 600 };
    /// let signed = claim.check(&Keys::new([("k", &b"secret"[..])]), clock).unwrap();
    /// assert_eq!(signed.info(), InfoRequest::parse("user_count,subscription_count"));
    /// ```
    pub fn info(&self) -> InfoRequest {
        let asked = self.pairs().filter(|(key, _)| *key == "info" || array_name(key) == Some("info"));
        asked.fold(InfoRequest::default(), |info, (_, list)| info.and(list))
    }

    /// Checks that this body was signed.
    pub fn check_body(&self, body: &[u8]) -> Result<(), ClaimError> {
        match self.parameter("body_md5") {
            None if !body.is_empty() => Err(ClaimError::Missing("body_md5")),
            Some(md5) if md5 != body_md5(body) => Err(ClaimError::OtherBody),
            _ => Ok(()),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// The server's time, and the tolerated difference of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Since 1970.
    pub now_seconds: u64,
    /// The difference from which on a request is refused.
    pub tolerance_seconds: u64,
}

/// Why a request is refused, in the words of Pusher's own signing gem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A parameter is missing.
    #[error("Missing parameter: {0}")]
    Missing(&'static str),
    /// The key is not one of the app's.
    #[error("Unknown auth_key")]
    UnknownKey,
    /// No `auth_version`.
    #[error("Version required")]
    NoVersion,
    /// An `auth_version` other than `1.0`.
    #[error("Version not supported")]
    OtherVersion,
    /// No `auth_timestamp` that is an integer.
    #[error("Timestamp required")]
    NoTimestamp,
    /// The request is too old, or from the future.
    #[error(
        "Timestamp expired: Given timestamp ({}) not within {}s of server time ({})",
        shown(u64::try_from(*.given_seconds).unwrap_or_default()), .clock.tolerance_seconds, shown(.clock.now_seconds)
    )]
    Expired {
        /// The request's time.
        given_seconds: i64,
        /// The server's.
        clock: Clock,
    },
    /// The time is in milliseconds, as from JavaScript's `Date.now()`.
    #[error("Timestamp expired: auth_timestamp is in milliseconds ({given}); it must be in seconds")]
    Milliseconds {
        /// As sent.
        given: i64,
    },
    /// The signature is wrong.
    #[error(
        "Invalid signature: you should have sent HmacSHA256Hex(\"{}\", your_secret_key), but you sent {sent:?}",
        .signed.escape_debug()
    )]
    BadSignature {
        /// The text that should have been signed.
        signed: String,
        /// The signature as sent.
        sent: String,
    },
    /// The body is not the one that was signed.
    #[error("Invalid body_md5")]
    OtherBody,
}

/// A time beyond the year 5000 is not in seconds.
const SECONDS_MAX: i64 = 100_000_000_000;

type Parameters<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

impl Claim<'_> {
    /// Checks that one of the app's `keys` signed this request, recently. The order of the checks is Pusher's. The body
    /// is not needed, so strangers cannot make the server read one.
    ///
    /// ```
    /// use gema::protocol::grant::Keys;
    /// use gema::protocol::request::{Claim, Clock};
    /// let keys = Keys::new([("278d425bdf160c739803", &b"7ad3773142a6692b25b8"[..])]);
    /// let query = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
    ///              &auth_signature=5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e";
    /// let claim = Claim { method: "GET", path: "/apps/3/channels/presence-foobar/users", query };
    /// let clock = |now_seconds| Clock { now_seconds, tolerance_seconds: 600 };
    /// assert!(claim.check(&keys, clock(1353088179)).unwrap().check_body(b"").is_ok());
    /// assert!(claim.check(&keys, clock(1353088179 + 600)).is_err());
    /// ```
    pub fn check(&self, keys: &Keys, clock: Clock) -> Result<SignedQuery, ClaimError> {
        let parameters = lower_case(parameters(self.query));
        let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let key = find("auth_key").ok_or(ClaimError::Missing("auth_key"))?;
        let signer = keys.signer(key).ok_or(ClaimError::UnknownKey)?;
        if find("auth_version").ok_or(ClaimError::NoVersion)? != "1.0" {
            return Err(ClaimError::OtherVersion);
        }
        let timestamp = find("auth_timestamp").and_then(|text| text.parse().ok()).ok_or(ClaimError::NoTimestamp)?;
        clock.check(timestamp)?;
        let signature = find("auth_signature").map(str::to_owned).ok_or(ClaimError::Missing("auth_signature"))?;
        self.check_signature(signer, parameters, signature)
    }

    /// Whether this signer made the request's signature, for any key that it names.
    pub fn is_made_by(&self, signer: &Signer) -> bool {
        let parameters = lower_case(parameters(self.query));
        let sent = parameters.iter().find(|(key, _)| key == "auth_signature").map(|(_, value)| value.to_string());
        sent.is_some_and(|sent| self.check_signature(signer, parameters, sent).is_ok())
    }

    /// Libraries sign the path as they built it, and send it escaped; PHP signs an array as a list.
    fn check_signature(
        &self,
        signer: &Signer,
        mut parameters: Parameters<'_>,
        sent: String,
    ) -> Result<SignedQuery, ClaimError> {
        parameters.retain(|(key, _)| key != "auth_signature");
        parameters.sort_by(|(left, _), (right, _)| left.cmp(right));
        let plain = joined(&parameters);
        let is_signed = |path: &str, query: &str| {
            signer.verify(&[self.method.as_bytes(), b"\n", path.as_bytes(), b"\n", query.as_bytes()], &sent)
        };
        if is_signed(self.path, &plain) {
            return Ok(SignedQuery(plain));
        }
        let decoded_path = percent_encoding::percent_decode_str(self.path).decode_utf8_lossy();
        if decoded_path != self.path && is_signed(&decoded_path, &plain) {
            return Ok(SignedQuery(plain));
        }
        if let Some(collapsed) = collapsed(&parameters)
            && (is_signed(self.path, &collapsed) || is_signed(&decoded_path, &collapsed))
        {
            return Ok(SignedQuery(collapsed));
        }
        let signed = format!("{}\n{}\n{plain}", self.method, self.path);
        Err(ClaimError::BadSignature { signed, sent })
    }
}

impl Clock {
    fn check(self, given_seconds: i64) -> Result<(), ClaimError> {
        if given_seconds > SECONDS_MAX {
            return Err(ClaimError::Milliseconds { given: given_seconds });
        }
        let apart = given_seconds.abs_diff(i64::try_from(self.now_seconds).unwrap_or(i64::MAX));
        if apart < self.tolerance_seconds { Ok(()) } else { Err(ClaimError::Expired { given_seconds, clock: self }) }
    }
}

/// The decoded parameters of a query. Most requests need no decoding.
fn parameters(query: &str) -> Parameters<'_> {
    if query.contains(['%', '+']) {
        return form_urlencoded::parse(query.as_bytes()).collect();
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

/// These parameters with names in lower case.
fn lower_case(mut parameters: Parameters<'_>) -> Parameters<'_> {
    for (key, _) in &mut parameters {
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            key.to_mut().make_ascii_lowercase();
        }
    }
    parameters
}

fn shown(seconds: u64) -> impl std::fmt::Display {
    // Years beyond 9999 cannot be shown.
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time)
}

fn joined(parameters: &Parameters<'_>) -> String {
    let mut text = String::with_capacity(192);
    for (key, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    text
}

/// `info[0]=a&info[1]=b` as `info=a,b`; `None` when there is no such key.
fn collapsed(parameters: &Parameters<'_>) -> Option<String> {
    parameters.iter().any(|(key, _)| array_name(key).is_some()).then_some(())?;
    let mut lists: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    for (key, value) in parameters {
        let name = array_name(key);
        match lists.last_mut() {
            Some((last, list)) if name == Some(last) => {
                let list = list.to_mut();
                list.push(',');
                list.push_str(value);
            }
            _ => lists.push((name.unwrap_or(key).to_owned().into(), value.clone())),
        }
    }
    lists.sort_by(|(left, _), (right, _)| left.cmp(right));
    Some(joined(&lists))
}

/// `info` of `info[0]`.
fn array_name(key: &str) -> Option<&str> {
    let (name, index) = key.strip_suffix(']')?.split_once('[')?;
    index.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// The `auth_key` of a query, for a request without an app id in its path.
pub fn auth_key(query: &str) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key.eq_ignore_ascii_case("auth_key"))
        .map(|(_, value)| value)
}

/// The attributes that a request asks for; unknown names are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InfoRequest {
    /// Distinct users of a presence channel.
    pub user_count: bool,
    /// Connections.
    pub subscription_count: bool,
    /// The stored event of a cache channel.
    pub cache: bool,
}

impl InfoRequest {
    /// Reads a comma-separated list.
    ///
    /// ```
    /// use gema::protocol::request::InfoRequest;
    /// let info = InfoRequest::parse("user_count, shoe_size");
    /// assert!(info.user_count && !info.subscription_count);
    /// ```
    pub fn parse(list: &str) -> Self {
        Self::default().and(list)
    }

    /// Adds the attributes of another list.
    #[must_use]
    pub fn and(mut self, list: &str) -> Self {
        for name in list.split(',') {
            match name.trim() {
                "user_count" => self.user_count = true,
                "subscription_count" => self.subscription_count = true,
                "cache" => self.cache = true,
                _ => (),
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_query_reads_the_same_with_and_without_decoding(query in "[ab&=%+2é]{0,24}") {
            let decoded: Parameters<'_> = form_urlencoded::parse(query.as_bytes()).collect();
            proptest::prop_assert_eq!(parameters(&query), decoded);
        }
    }
}
