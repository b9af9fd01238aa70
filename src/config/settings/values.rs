//! Kinds of values that appear in several sections.
//! All sections use them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::fault::Bounded;

/// A day in seconds, the longest time that most settings take.
pub(in crate::config) const DAY: f64 = 86_400.0;

/// A time span in seconds, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Seconds {
    /// The same as a `Duration`; what validation refuses counts as zero.
    pub fn duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or_default()
    }
}

impl Bounded for Seconds {
    type Number = f64;
    const UNIT: &'static str = " seconds";

    fn number(self) -> f64 {
        self.0
    }
}

/// A secret: it can be used, but not printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret's bytes, for signing.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The secret as text, for handing it on.
    pub fn expose_text(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it neither begins nor ends with white space, as what was copied from a file often does.
    pub(in crate::config) fn is_trimmed(&self) -> bool {
        self.0.trim_ascii() == self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Serialises as `***`, so that whatever prints a configuration prints no secret; none at all as nothing.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "***" })
    }
}

/// The words for yes and no that an environment may hold.
pub(in crate::config) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// An address to listen on; of names only `localhost`, the one that needs no network to resolve.
pub(in crate::config) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected =
        "an IPv4 or IPv6 address, such as 127.0.0.1 or ::, or localhost; gema resolves no other names to listen on";
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}

/// Networks; a bare address is a network of one.
pub(in crate::config) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        let expected = "a list of networks, such as 10.0.0.0/8";
        text.parse().or_else(|_| one()).map_err(|_| D::Error::invalid_value(Unexpected::Str(text), &expected))
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hush");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""***""#);
        assert_eq!((secret.expose(), secret.expose_text()), (&b"hush"[..], "hush"));
        assert_eq!(serde_json::to_string(&Secret::new("")).unwrap(), r#""""#);
    }

    #[test]
    fn words_for_yes_and_no_are_understood_in_any_case() {
        assert_eq!(["FALSE", "no", "Off", "0"].map(boolean), [Some(false); 4]);
        assert_eq!(["true", "YES", "on", " 1 "].map(boolean), [Some(true); 4]);
        assert_eq!(["", "2", "nope"].map(boolean), [None; 3]);
    }

    #[test]
    fn impossible_time_spans_count_as_zero() {
        assert_eq!(Seconds(f64::NAN).duration(), Duration::ZERO);
        assert_eq!(Seconds(-1.0).duration(), Duration::ZERO);
        assert_eq!(Seconds(1.5).duration(), Duration::from_millis(1500));
    }
}
