//! Paths into the JSON of an event's data, such as `data.channel` or `readings.0.value`.
//! Rules name keys and values by them.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// Steps that a path may have.
const STEPS_MAX: usize = 32;

/// A way into a JSON value: names of members, and places in lists counted from 0, with dots between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPath(Box<str>);

impl DataPath {
    /// Parses a path. The error says what it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let steps = text.split('.');
        if steps.clone().count() > STEPS_MAX || steps.clone().any(str::is_empty) {
            return Err("a path into the event's data: names with dots between them, such as data.channel");
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DataPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DataPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let unexpected = serde::de::Unexpected::Str(&text);
        Self::parse(&text).map_err(|must| serde::de::Error::invalid_value(unexpected, &must))
    }
}
