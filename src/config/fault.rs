//! A sentence about a setting, with the setting and its origin.
//! Every part of `config` reports mistakes and warnings as faults; `cli` shows them.

use std::fmt;
use std::ops::RangeInclusive;

use config::Value;

use crate::config::origin::Origin;

/// The subject of a sentence, and where it was set: `server.port (from gema.toml:3)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// A key such as `server.port`, a variable, or `app "id"`; empty for none.
    pub key: String,
    /// Where it was set, unless the key says so.
    pub origin: Option<Origin>,
}

impl Subject {
    /// A key with the origin of its value.
    pub(super) fn of(key: impl Into<String>, value: &Value) -> Self {
        Self { key: key.into(), origin: Origin::of(value) }
    }

    /// A fault of this subject.
    pub(super) fn fault(&self, text: impl Into<String>) -> Fault {
        Fault { subject: self.clone(), text: text.into(), unread: false }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.origin.as_ref().map_or(Ok(()), |origin| write!(f, " (from {origin})"))
    }
}

/// A mistake or a warning. Displays as one sentence.
///
/// ```
/// use gema::config::Fault;
///
/// assert_eq!(Fault::new("server.port", "is 70000").to_string(), "server.port is 70000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting.
    pub subject: Subject,
    /// The rest of the sentence, such as `is 70000`, or `: the file is empty` behind a file's name.
    pub text: String,
    /// Whether it is about a name that nobody reads: a warning, or a mistake for `--strict`.
    pub unread: bool,
}

impl Fault {
    /// About a key whose origin is not known yet.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Subject { key: key.into(), origin: None }.fault(text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.subject.key.is_empty() || self.text.starts_with(':') { "" } else { " " };
        write!(f, "{}{gap}{}", self.subject, self.text)
    }
}

/// The faults of a check.
#[derive(Debug, Default)]
pub(super) struct FaultList(pub(super) Vec<Fault>);

impl FaultList {
    pub(super) fn add(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push(Fault::new(key, text));
    }

    pub(super) fn add_if(&mut self, is_wrong: bool, key: impl Into<String>, text: impl Into<String>) {
        self.0.extend(is_wrong.then(|| Fault::new(key, text)));
    }

    /// Adds a fault unless `value` lies within `bounds`.
    pub(super) fn within<T: Bounded>(&mut self, key: &str, value: T, bounds: RangeInclusive<T::Number>) {
        let (value, least, most) = (value.number(), bounds.start(), bounds.end());
        let text = format!("is {value}; it must be between {least} and {most}{}", T::UNIT);
        self.add_if(!bounds.contains(&value), key, text);
    }
}

/// A number, or a number of something.
pub(super) trait Bounded {
    type Number: PartialOrd + fmt::Display;
    /// With a blank before it.
    const UNIT: &'static str;

    fn number(self) -> Self::Number;
}

impl<T: PartialOrd + fmt::Display> Bounded for T {
    type Number = T;
    const UNIT: &'static str = "";

    fn number(self) -> T {
        self
    }
}

/// A sentence about no key.
impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::new("", text)
    }
}

/// Tests compare whole sentences.
#[cfg(test)]
impl PartialEq<&str> for Fault {
    fn eq(&self, sentence: &&str) -> bool {
        format!("{self}") == *sentence
    }
}

#[cfg(test)]
impl PartialEq<String> for Fault {
    fn eq(&self, sentence: &String) -> bool {
        format!("{self}") == *sentence
    }
}

/// The sentences, for tests that look for parts of them.
#[cfg(test)]
pub(super) fn sentences(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}
