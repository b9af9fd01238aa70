//! Paths into the JSON of an event's data, such as `data.channel` or `readings.0.value`.
//! Rules name keys and values by them.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;

use crate::protocol::json;

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

    /// The value at the end of the path, as a part of `text`, which should be JSON. Of members of one name the last one
    /// counts, as in browsers.
    ///
    /// ```
    /// use gema::flow::path::DataPath;
    /// let path = DataPath::parse("readings.1.value").unwrap();
    /// assert_eq!(path.find(r#"{"readings":[{"value":1},{"value":-2.50}]}"#), Some("-2.50"));
    /// assert_eq!(path.find("no JSON"), None);
    /// ```
    pub fn find<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.0.split('.').try_fold(text, |text, step| take(text, step))
    }

    /// The path without its last step; `None` if it has only one.
    pub(super) fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('.').map(|(parent, _)| Self(parent.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The member or the element called `step`.
pub(super) fn take<'a>(text: &'a str, step: &str) -> Option<&'a str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = Step(step).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found.map(RawValue::get)
}

/// One step into an object or a list.
struct Step<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<&RawValue>()? {
            if is_text(key, self.0) {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let place = self.0.parse().ok();
        let (mut found, mut at) = (None, 0_usize);
        loop {
            let is_there = if place == Some(at) {
                found = list.next_element::<&RawValue>()?;
                found.is_some()
            } else {
                list.next_element::<IgnoredAny>()?.is_some()
            };
            if !is_there {
                return Ok(found);
            }
            at += 1;
        }
    }
}

/// Whether a JSON string means `text`.
fn is_text(raw: &RawValue, text: &str) -> bool {
    let literal = raw.get();
    match literal.contains('\\') {
        false => literal.len() == text.len() + 2 && &literal[1..literal.len() - 1] == text,
        true => json::text(raw).as_deref() == Some(text),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(path: &str, text: &'a str) -> Option<&'a str> {
        DataPath::parse(path).unwrap().find(text)
    }

    #[test]
    fn a_path_finds_what_a_browser_would() {
        let text =
            r#" {"data":{"channel":"T 1","v":[1.0,{"x":null}],"7":"seven"},"a\u002eb":1,"\u0064ouble":1,"double":2} "#;
        for (path, found) in [
            ("data.channel", Some(r#""T 1""#)),
            ("data.v.0", Some("1.0")),
            ("data.v.1.x", Some("null")),
            ("data.v.2", None),
            ("data.v.x", None),
            ("data.7", Some(r#""seven""#)),
            ("double", Some("2")),
            ("channel", None),
            ("data.channel.0", None),
        ] {
            assert_eq!(find(path, text), found, "{path}");
        }
    }

    #[test]
    fn text_that_is_no_json_has_no_values() {
        for text in ["", "{", "7", r#"{"a":1"#, r#"{"a":1} x"#, r#"{"a":01}"#, "null", r#""a""#, "[1,]"] {
            assert_eq!(find("a", text), None, "{text}");
        }
        assert_eq!(find("0", "[1]"), Some("1"));
        let deep = format!(r#"{{"a":1,"b":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(find("a", &deep).is_none_or(|found| found == "1"));
    }

    #[test]
    fn a_path_has_names_between_its_dots() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert!(DataPath::parse(text).is_err(), "{text}");
        }
        assert!(DataPath::parse(&["a"; STEPS_MAX + 1].join(".")).is_err());
        assert!(DataPath::parse("häuser.0").is_ok());
    }
}
