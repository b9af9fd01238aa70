//! Views: a subscription also gets events of other channels, which the application signs into `channel_data`, as
//! `{"grant":["orders.K001","orders.K002"],"exp":1800000000}`. With `"channel_as":"channel"` the data of these events
//! names their channel.
//! `grant` parses them; `registry::views` applies them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::json;
use crate::protocol::pattern::ChannelPattern;

/// Patterns of one view.
const PATTERNS_MAX: usize = 256;
/// Bytes of a `channel_data` with a grant, in its shortest form: enough for this many patterns of ordinary length.
const GRANT_BYTES_MAX: usize = 16 * 1024;
/// Characters of the member's name in `channel_as`.
const CHANNEL_AS_LENGTH_MAX: usize = 64;

/// The channels whose events a subscription gets under its own channel's name, possibly none, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The patterns for base names, with case: sorted, each once.
    pub patterns: Arc<[ChannelPattern]>,
    /// The member of an event's data that names its channel, if wanted.
    pub channel_as: Option<Arc<str>>,
    /// How long it lasts; then the subscription ends, too.
    pub lasts: Duration,
}

/// The limits of a view.
#[derive(Debug, Clone, Copy)]
pub struct ViewLimits {
    /// Characters of a pattern.
    pub pattern_length_max: usize,
    /// Whether a pattern may have a star.
    pub stars: bool,
    /// The time since 1970; a view must end later.
    pub now: Duration,
}

/// Why a grant cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// `channel_data` is too long, or lists too much.
    #[error(
        "channel_data may grant at most {PATTERNS_MAX} patterns in {GRANT_BYTES_MAX} bytes; a pattern such as orders.* stands for many channels"
    )]
    TooLarge,
    /// The list is something else.
    #[error("channel_data.grant must be a list of channel patterns, such as [\"orders.K001\", \"stock.*\"]")]
    NoList,
    /// An entry that is no pattern.
    #[error("channel_data.grant has an entry {entry}, expected {must}")]
    NoPattern {
        /// The entry as JSON, cut to a printable length.
        entry: String,
        /// The form that it must have.
        must: &'static str,
    },
    /// An entry with a star where stars are not possible.
    #[error(
        "channel_data.grant has a pattern {pattern}, but over a Redis Cluster a star cannot be heard; name each channel, or let the nodes meet in one Redis or behind Sentinels"
    )]
    Star {
        /// The pattern.
        pattern: ChannelPattern,
    },
    /// Not a name of a member.
    #[error("channel_data.channel_as must be a name of 1 to {CHANNEL_AS_LENGTH_MAX} characters, such as \"channel\"")]
    NoName,
    /// It has no end.
    #[error("channel_data.exp must be the time at which the grant ends, in whole seconds since 1970")]
    NoEnd,
    /// It has expired.
    #[error("The grant in channel_data has expired at {exp}; the application must sign a new one")]
    Expired {
        /// The time, in seconds since 1970.
        exp: u64,
    },
    /// Other channels' events are not encrypted with this channel's key.
    #[error("An encrypted channel cannot have a grant; use a private- channel")]
    Encrypted,
}

impl View {
    /// The view that `channel_data` grants; `None` if it is no JSON object with a `grant`.
    pub fn parse(channel_data: &str, limits: ViewLimits) -> Result<Option<Self>, ViewError> {
        let Some(raw) = json::object::<&RawValue>(channel_data) else { return Ok(None) };
        let Some(data) = json::object::<Value>(channel_data) else { return Ok(None) };
        let Some(grant) = data.get("grant") else { return Ok(None) };
        let entries = grant.as_array().ok_or(ViewError::NoList)?;
        let is_long = channel_data.len() > GRANT_BYTES_MAX && json::minimal(raw).len() > GRANT_BYTES_MAX;
        if is_long || entries.len() > PATTERNS_MAX {
            return Err(ViewError::TooLarge);
        }
        let mut patterns =
            entries.iter().map(|entry| pattern(entry, limits)).collect::<Result<Vec<ChannelPattern>, _>>()?;
        patterns.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        patterns.dedup();
        let exp = data.get("exp").and_then(seconds).ok_or(ViewError::NoEnd)?;
        let lasts = Duration::from_secs(exp).saturating_sub(limits.now);
        if lasts.is_zero() {
            return Err(ViewError::Expired { exp });
        }
        Ok(Some(Self { patterns: patterns.into(), channel_as: channel_as(&data)?, lasts }))
    }

    /// A view without channels that ends after this time.
    pub fn lasting(lasts: Duration) -> Self {
        Self { patterns: Arc::default(), channel_as: None, lasts }
    }
}

fn channel_as(data: &Value) -> Result<Option<Arc<str>>, ViewError> {
    match data.get("channel_as") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if (1..=CHANNEL_AS_LENGTH_MAX).contains(&name.chars().count()) => {
            Ok(Some(name.as_str().into()))
        }
        Some(_) => Err(ViewError::NoName),
    }
}

fn pattern(entry: &Value, limits: ViewLimits) -> Result<ChannelPattern, ViewError> {
    let wrong = |must| ViewError::NoPattern { entry: entry.to_string().chars().take(64).collect(), must };
    let text = entry.as_str().ok_or_else(|| wrong("a string"))?;
    if text.len() > limits.pattern_length_max {
        return Err(wrong("no more characters than a channel's name may have"));
    }
    let pattern = ChannelPattern::parse(text).map_err(wrong)?;
    if pattern.has_star() && !limits.stars {
        return Err(ViewError::Star { pattern });
    }
    Ok(pattern)
}

/// A whole number, or one in a string.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ViewLimits =
        ViewLimits { pattern_length_max: 20, stars: true, now: Duration::from_millis(1_000_500) };

    fn parse(channel_data: &str) -> Result<Option<View>, ViewError> {
        View::parse(channel_data, LIMITS)
    }

    #[test]
    fn a_grant_lists_patterns_and_ends() {
        let view = parse(r#"{"grant":["stock.*","orders.K001","orders.K001"],"exp":"1001"}"#).unwrap().unwrap();
        let patterns: Vec<&str> = view.patterns.iter().map(ChannelPattern::as_str).collect();
        assert_eq!((patterns, view.lasts), (vec!["orders.K001", "stock.*"], Duration::from_millis(500)));
    }

    #[test]
    fn a_group_may_have_nobody_in_it_yet() {
        assert!(parse(r#"{"grant":[],"exp":2000}"#).unwrap().unwrap().patterns.is_empty());
    }

    #[test]
    fn other_data_grants_nothing() {
        for data in ["", "x", "[]", "\"grant\"", "{}", r#"{"user_id":"1","exp":1}"#, r#"[{"grant":["a"]}]"#] {
            assert_eq!(parse(data), Ok(None), "{data}");
        }
    }

    #[test]
    fn a_grant_that_says_too_little_or_too_much_is_refused() {
        for grant in ["null", "true", "\"a\"", "{}"] {
            assert_eq!(parse(&format!(r#"{{"grant":{grant},"exp":2000}}"#)), Err(ViewError::NoList), "{grant}");
        }
        for entry in ["1", "[\"a\"]", "{}", "\"\"", "\"a b\"", "\"private-a\"", "\"123456789012345678901\""] {
            let refused = parse(&format!(r#"{{"grant":["a",{entry}],"exp":2000}}"#));
            assert!(matches!(&refused, Err(ViewError::NoPattern { entry: of, .. }) if of == entry), "{refused:?}");
        }
        for exp in ["null", "-1", "1.5", "\"\"", "\"soon\"", "[2000]"] {
            assert_eq!(parse(&format!(r#"{{"grant":["a"],"exp":{exp}}}"#)), Err(ViewError::NoEnd), "{exp}");
        }
        assert_eq!(parse(r#"{"grant":["a"]}"#), Err(ViewError::NoEnd));
        let starless = View::parse(r#"{"grant":["a","b*"],"exp":2000}"#, ViewLimits { stars: false, ..LIMITS });
        assert!(matches!(starless, Err(ViewError::Star { pattern }) if pattern.as_str() == "b*"));
        assert_eq!(parse(r#"{"grant":["a"],"exp":1000}"#), Err(ViewError::Expired { exp: 1000 }));
        let many = vec!["\"a\""; PATTERNS_MAX + 1].join(",");
        assert_eq!(parse(&format!(r#"{{"grant":[{many}],"exp":2000}}"#)), Err(ViewError::TooLarge));
        let long =
            |letter: &str| format!(r#"{{"grant":["a"],"exp":2000,"x":"{}"}}"#, letter.repeat(GRANT_BYTES_MAX / 3));
        assert_eq!(parse(&long("abc")), Err(ViewError::TooLarge));
        // Neither white space nor the way in which PHP writes letters makes it large.
        assert!(
            parse(&long("\\u00e9")).unwrap().is_some()
                && parse(&long("a").replace(',', &format!(",{}", " ".repeat(9)))).is_ok()
        );
        for name in ["7", "\"\"", "[]", &format!("\"{}\"", "x".repeat(65))] {
            let refused = parse(&format!(r#"{{"grant":["a"],"exp":2000,"channel_as":{name}}}"#));
            assert_eq!(refused, Err(ViewError::NoName), "{name}");
        }
    }
}
