//! The windows that clients choose by the name of a channel.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// The longest window: an hour.
pub const WINDOW_MS_MAX: u32 = 3_600_000;

/// A window in a channel's name: `1s`, `500ms`, `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewWindow {
    /// The window in milliseconds.
    pub ms: u32,
}

impl ViewWindow {
    /// Parses a number with its unit. The error says what it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const MUST: &str = "a window such as 500ms, 1s or 2m, of an hour at most";
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => return Err(MUST),
        };
        // One spelling for each number, as channels have.
        let number: u32 = number.parse().ok().filter(|_| !number.starts_with('0')).ok_or(MUST)?;
        number.checked_mul(factor).filter(|&ms| ms <= WINDOW_MS_MAX).map(|ms| Self { ms }).ok_or(MUST)
    }
}

impl fmt::Display for ViewWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ms {
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl Serialize for ViewWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ViewWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let unexpected = serde::de::Unexpected::Str(&text);
        Self::parse(&text).map_err(|must| serde::de::Error::invalid_value(unexpected, &must))
    }
}
