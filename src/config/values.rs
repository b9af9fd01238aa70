//! Kinds of values that appear in several sections.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// A time span in seconds, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Seconds {
    /// The same as a `Duration`; what validation refuses counts as zero.
    pub fn duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or_default()
    }

    /// Adds a fault unless the value lies between `least` and a day.
    pub(super) fn validate(self, key: &str, least: f64, faults: &mut Vec<String>) {
        if !(least..=86_400.0).contains(&self.0) {
            faults.push(format!("{key} is {}; it must be between {least} and 86400 seconds", self.0));
        }
    }
}

/// A secret: it can be used, but not printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
