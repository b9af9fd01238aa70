//! The filter of live rows: terms that must all match, such as `channel:orders.* kind:refusal`.
//! `live` gives each watcher one; `dashboard` parses it from the URL.

use tracing::Level;

use crate::watch::record::Record;

/// Terms of one filter; further ones are left out.
const TERMS_MAX: usize = 20;
/// Bytes of a filter, and of a pattern. Each is compared with each event or name, so a longer one is refused.
pub const BYTES_MAX: usize = 512;

/// A filter of rows. An empty one lets everything pass.
///
/// ```
/// use gema::watch::filter::Filter;
/// assert!(Filter::parse("").is_empty());
/// assert!(!Filter::parse("kind:refusal channel:orders.*").is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Kind(String),
    Level(String),
    /// The names that a field may have, and its value or a pattern with stars.
    Field(&'static [&'static str], String),
    /// The beginning of an address.
    Address(String),
    /// A part of the sentence, in any case.
    Text(String),
}

/// The filter's terms and the fields that they look at.
const FIELDS: &[(&str, &[&str])] = &[
    ("app", &["app"]),
    ("channel", &["channel"]),
    ("event", &["event"]),
    ("user", &["user", "user_id"]),
    ("socket", &["socket_id"]),
    ("cause", &["cause"]),
];

impl Filter {
    /// Reads the terms.
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().take(TERMS_MAX).map(Term::parse).collect())
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a record of this kind passes. `sentence` is its sentence in lower case.
    pub fn matches(&self, record: &Record, kind: &str, sentence: &str) -> bool {
        self.0.iter().all(|term| term.matches(record, kind, sentence))
    }
}

impl Term {
    fn parse(term: &str) -> Self {
        let Some((name, value)) = term.split_once(':').filter(|(_, value)| !value.is_empty()) else {
            return Self::Text(term.to_lowercase());
        };
        match (name, FIELDS.iter().find(|(known, _)| *known == name)) {
            ("kind", _) => Self::Kind(value.to_owned()),
            ("level", _) => Self::Level(value.to_lowercase()),
            ("address", _) => Self::Address(value.to_owned()),
            (_, Some((_, fields))) => Self::Field(fields, one_star_each(value)),
            _ => Self::Text(term.to_lowercase()),
        }
    }

    fn matches(&self, record: &Record, kind: &str, sentence: &str) -> bool {
        match self {
            Self::Kind(wanted) => kind == wanted,
            Self::Level(wanted) => wanted.parse::<Level>().is_ok_and(|wanted| record.level <= wanted),
            Self::Field(names, pattern) => {
                names.iter().filter_map(|name| record.field(name)).any(|value| matches(pattern, value))
            }
            Self::Address(beginning) => record.field("address").is_some_and(|value| value.starts_with(beginning)),
            Self::Text(part) => sentence.contains(part),
        }
    }
}

/// A pattern with one star for each run of stars, which matches the same.
///
/// ```
/// use gema::watch::filter::one_star_each;
/// assert_eq!(one_star_each("a***b*"), "a*b*");
/// ```
pub fn one_star_each(pattern: &str) -> String {
    let mut short = String::with_capacity(pattern.len());
    for letter in pattern.chars() {
        if letter != '*' || !short.ends_with('*') {
            short.push(letter);
        }
    }
    short
}

/// Whether a pattern matches a text. A star stands for any characters, also for none.
///
/// ```
/// use gema::watch::filter::matches;
/// assert!(matches("private-*.7", "private-orders.7"));
/// assert!(!matches("orders", "orders.7"));
/// ```
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            at_ms: 0,
            level: Level::WARN,
            target: "gema::session",
            text: "a subscription's signature is wrong".to_owned(),
            fields: vec![
                ("app", "shop".to_owned()),
                ("channel", "private-orders.7".to_owned()),
                ("address", "10.1.2.3".to_owned()),
                ("user", "42".to_owned()),
            ],
        }
    }

    #[test]
    fn all_words_must_match() {
        for (text, passes) in [
            ("", true),
            ("app:shop", true),
            ("app:sho", false),
            ("channel:private-*", true),
            ("channel:*orders*", true),
            ("channel:orders*", false),
            ("user:42 address:10.1.", true),
            ("user:42 address:10.2.", false),
            ("kind:refusal", true),
            ("kind:publish", false),
            ("level:warn", true),
            ("level:info", true),
            ("level:error", false),
            ("level:loud", false),
            ("SIGNATURE wrong", true),
            ("signature right", false),
            ("socket:1.2", false),
            ("color:red", false),
            ("a:", false),
        ] {
            let (record, sentence) = (record(), record().text.to_lowercase());
            assert_eq!(Filter::parse(text).matches(&record, "refusal", &sentence), passes, "{text}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*", "abc", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a***b**", "a1b2", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
            assert_eq!(matches(&one_star_each(pattern), text), is_match, "{pattern} {text}");
        }
    }
}
