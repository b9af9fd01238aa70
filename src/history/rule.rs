//! History rules as the operator writes them. `config` reads and checks them.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::rule_base;

/// Says how much of the channels whose base name matches is kept for users that come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRule {
    /// The base names that it matches.
    #[serde(rename = "match")]
    pub pattern: ChannelPattern,
    /// How long an event is kept, in seconds.
    pub seconds: u32,
    /// Events of one channel that are kept at once.
    #[serde(default = "events_max")]
    pub events_max: usize,
    /// Bytes of the events of one channel that are kept at once.
    #[serde(default = "bytes_max")]
    pub bytes_max: usize,
    /// The clients that get kept events.
    #[serde(default)]
    pub replay: Replay,
}

/// The clients that get kept events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// Known users that come back: those that they have missed.
    #[default]
    Returning,
    /// Everybody else, too: so many of the last ones.
    Last(usize),
}

/// The rules of an app in order, ready for its channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistoryRules(Vec<Arc<HistoryRule>>);

/// After so many times of its rule a place is forgotten.
const TIMES_REMEMBERED: u32 = 2;

fn events_max() -> usize {
    1000
}

fn bytes_max() -> usize {
    1024 * 1024
}

impl HistoryRules {
    /// Takes the rules as configured.
    pub fn new(rules: &[HistoryRule]) -> Self {
        Self(rules.iter().cloned().map(Arc::new).collect())
    }

    /// Whether there is none, so that no channel needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule that matches a channel. A user's own channel has none.
    ///
    /// ```
    /// use gema::history::rule::HistoryRules;
    /// use gema::protocol::channel::ChannelName;
    ///
    /// let rules = HistoryRules::new(&[serde_json::from_str(r#"{"match":"orders.*","seconds":120}"#).unwrap()]);
    /// let rule = rules.of_channel(&ChannelName::parse("private-orders.K001", 200).unwrap());
    /// assert_eq!(rule.map(|rule| rule.events_max), Some(1000));
    /// ```
    pub fn of_channel(&self, channel: &ChannelName) -> Option<&Arc<HistoryRule>> {
        if self.is_empty() || channel.kind().access == Access::User {
            return None;
        }
        let base = rule_base(channel.as_str());
        self.0.iter().find(|rule| rule.pattern.matches(base))
    }
}

impl HistoryRule {
    /// How long an event is kept.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// How long the place of a user is remembered. One who comes back after the events are gone is told of a gap.
    pub fn remembered(&self) -> Duration {
        self.time() * TIMES_REMEMBERED
    }

    /// Events that somebody gets who has missed none.
    pub fn last(&self) -> usize {
        match self.replay {
            Replay::Returning => 0,
            Replay::Last(count) => count,
        }
    }
}
