//! Patterns of channel names, and of event names. The former match base names: names without the prefixes of their kind.
//! `policy`, `view` and flow rules use them.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// The prefixes of channel kinds, the longest first.
const PREFIXES: [&str; 4] = ["private-encrypted-", "private-", "presence-", "cache-"];
/// Prefixes that must not disguise a name, in any case.
const DISGUISES: [&str; 4] = ["private-", "presence-", "cache-", "encrypted-"];

/// A name in which a star stands for any characters, also for none: `orders.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelPattern(Box<str>);

/// The name without all prefixes of its kind, so that no variant of a name is a different one.
///
/// ```
/// use gema::protocol::pattern::base;
/// assert_eq!(base("private-cache-orders.7"), "orders.7");
/// assert_eq!(base("private-private-orders.7"), "orders.7");
/// assert_eq!(base("privateer"), "privateer");
/// ```
pub fn base(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    rest
}

/// Like [`base`], but for rules, which are stricter: case does not matter, and `encrypted-` alone is a prefix, too.
///
/// ```
/// use gema::protocol::pattern::rule_base;
/// assert_eq!(rule_base("PRIVATE-encrypted-Orders.7"), "Orders.7");
/// assert_eq!(rule_base("cache-encrypted-orders.7"), "orders.7");
/// ```
pub fn rule_base(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = DISGUISES.iter().find_map(|prefix| strip_any_case(rest, prefix)) {
        rest = shorter;
    }
    rest
}

/// The text after a prefix in any case.
pub(super) fn strip_any_case<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl ChannelPattern {
    /// Parses a pattern: characters of channel names, and stars. It is for base names, so it has no prefix. The error
    /// says what it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;*".contains(&byte);
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err("a name of letters, digits and _ - = @ , . ; in which * stands for any characters");
        }
        if base(text) != text {
            return Err("a name without private-, presence-, private-encrypted- and cache-, which it covers all");
        }
        Ok(Self(text.into()))
    }

    /// Like `parse`, but for a rule's pattern, which is for [`rule_base`] names.
    fn parse_for_rule(text: &str) -> Result<Self, &'static str> {
        if rule_base(text) != text {
            return Err("a name without private-, presence-, encrypted- and cache-, which it covers all, in any case");
        }
        Self::parse(text)
    }

    /// Matches every name.
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Whether a [`rule_base`] name matches. Case does not matter, as in many databases.
    ///
    /// ```
    /// use gema::protocol::pattern::ChannelPattern;
    /// let pattern = ChannelPattern::parse("orders.*").unwrap();
    /// assert!(pattern.matches("Orders.7"));
    /// assert!(!pattern.matches("orders"));
    /// ```
    pub fn matches(&self, base: &str) -> bool {
        matches_by(&self.0, base, u8::eq_ignore_ascii_case)
    }

    /// Whether a [`base`] name matches. Case matters.
    pub fn matches_case(&self, base: &str) -> bool {
        matches_by(&self.0, base, u8::eq)
    }

    /// Whether it has a star.
    pub fn has_star(&self) -> bool {
        self.0.contains('*')
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name matches a pattern, where `same` compares two bytes.
fn matches_by(pattern: &str, name: &str, same: impl Fn(&u8, &u8) -> bool) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to continue when the text after the last star does not match.
    let mut again: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if same(byte, &name[n]) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = &mut again else { return false };
                *taken += 1;
                (p, n) = (*after_star, *taken);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// An event's name, in which a star stands for any characters, also for none: `*.alarm`. Case matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct EventPattern(Box<str>);

impl EventPattern {
    /// Parses a pattern. The error says what it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty()
            || text.starts_with("pusher") && [":", "_internal:"].iter().any(|end| text[6..].starts_with(end))
        {
            return Err("the name of an event that is not Pusher's own, in which * stands for any characters");
        }
        Ok(Self(text.into()))
    }

    /// Whether a name matches.
    ///
    /// ```
    /// use gema::protocol::pattern::EventPattern;
    /// let pattern = EventPattern::parse("*.alarm").unwrap();
    /// assert!(pattern.matches("scada.alarm"));
    /// assert!(!pattern.matches("scada.ALARM"));
    /// ```
    pub fn matches(&self, name: &str) -> bool {
        matches_by(&self.0, name, u8::eq)
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for EventPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|must| serde::de::Error::custom(format!("expected {must}")))
    }
}

impl std::borrow::Borrow<str> for ChannelPattern {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ChannelPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Only rules are deserialized.
impl<'de> Deserialize<'de> for ChannelPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_for_rule(&text).map_err(|must| serde::de::Error::custom(format!("expected {must}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        ChannelPattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [("*", "x"), ("a.*", "a."), ("a*b", "aXbXb"), ("*.x.*", "a.x.x.b"), ("**a", "a")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a.*", "a"), ("a", "ab"), ("a*b", "a"), ("a*b", "abc"), ("*.x", "x"), ("ab", "a")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn case_counts_where_it_is_asked_for() {
        let pattern = ChannelPattern::parse("Stock.*").unwrap();
        assert!(pattern.matches("stock.a") && pattern.matches_case("Stock.a") && !pattern.matches_case("stock.a"));
    }

    #[test]
    fn patterns_for_other_names_are_refused() {
        for text in ["", "private-a", "cache-*", "presence-a", "a b", "ö", "#server-to-user-1", "a/b"] {
            assert!(ChannelPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_is_for_no_prefix_in_any_case() {
        let read = |text: &str| serde_json::from_value::<ChannelPattern>(text.into());
        for text in ["Private-a", "encrypted-a", "CACHE-*", "private-a", "a b"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read("a.encrypted-*").is_ok());
    }

    proptest! {
        #[test]
        fn what_a_pattern_is_made_of_it_matches(parts in prop::collection::vec("[a-c.]{0,3}", 1..5), more in "[a-c.]{0,4}") {
            let pattern = parts.join("*");
            prop_assume!(!pattern.is_empty());
            let name = parts.join(&more);
            prop_assert!(matches(&pattern, &name));
        }

        #[test]
        fn every_variant_of_a_name_has_one_base(prefixes in prop::collection::vec(0..PREFIXES.len(), 0..6)) {
            let name = prefixes.iter().map(|&index| PREFIXES[index]).collect::<String>() + "orders.7";
            prop_assert_eq!(base(&name), "orders.7");
            let upper = name.to_uppercase();
            prop_assert_eq!(rule_base(&upper), "ORDERS.7");
        }
    }
}
