//! One flow rule as the operator writes it. `config` reads and checks it.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::flow::path::DataPath;
use crate::flow::window::ViewWindow;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::EventPattern;

/// Says what becomes of a flood on the channels whose base name matches. It has one of `conflate`, `aggregate`, `rate`
/// and `sample`, or `snapshot` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowRule {
    /// The base names that it matches.
    #[serde(rename = "match")]
    pub pattern: ChannelPattern,
    /// The events that it thins; without any, all but Pusher's own.
    #[serde(default)]
    pub events: Vec<EventPattern>,
    /// Events that pass at once, although `events` has them.
    #[serde(default)]
    pub except: Vec<EventPattern>,
    /// Whether an event that passes takes along what is pending before it.
    #[serde(default = "yes")]
    pub flush_before: bool,
    /// Whether events that exclude a connection are thinned, too; then everybody gets them.
    #[serde(default)]
    pub ignore_except: bool,
    /// Whether client events are thinned, too.
    #[serde(default)]
    pub client_events: bool,
    /// The nodes that thin.
    #[serde(default)]
    pub at: At,
    /// Keys of one channel that are kept at once.
    #[serde(default = "keys_max")]
    pub keys_max: usize,
    /// Windows that clients may choose by name, such as `scada-realtime@1s`.
    #[serde(default)]
    pub views: Vec<ViewWindow>,
    /// The newest event of each key and window.
    #[serde(default)]
    pub conflate: Option<Conflate>,
    /// One event with count, sum, minimum, maximum and average of each key and window.
    #[serde(default)]
    pub aggregate: Option<Aggregate>,
    /// So many events per second.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// One of so many events.
    #[serde(default)]
    pub sample: Option<Sample>,
    /// Gives the last event of each key to those who join, first.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
}

/// The nodes that thin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Each node, for its own subscribers.
    #[default]
    Delivery,
    /// The node that accepts an event, before the other nodes get it.
    Ingest,
}

/// Delivers the newest event of each key and window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflate {
    /// The key in the data; without it all events of one name have one key.
    #[serde(default)]
    pub key: Option<DataPath>,
    /// The window in milliseconds.
    pub window_ms: u32,
    /// Whether objects are merged, field by field, instead of replaced.
    #[serde(default)]
    pub merge: bool,
}

/// Delivers one event of figures for each key and window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The list of readings in the data, if one event has several; `key` and `value` are then paths in a reading.
    #[serde(default)]
    pub each: Option<DataPath>,
    /// The key in the data; without it all events of one name have one key.
    #[serde(default)]
    pub key: Option<DataPath>,
    /// The number in the data.
    pub value: DataPath,
    /// The window in milliseconds.
    pub window_ms: u32,
    /// The shape of the events.
    #[serde(default)]
    pub emit: Emit,
    /// The figure in the place of the value.
    #[serde(default)]
    pub value_is: Figure,
    /// The name of the events, instead of their own.
    #[serde(default, rename = "as")]
    pub rename: Option<String>,
    /// Raw values that `emit = "map"` adds for each key.
    #[serde(default)]
    pub values_max: usize,
}

/// The shape of aggregated events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emit {
    /// One event for each key: the last one, with `aggregate` beside its value.
    #[default]
    Each,
    /// One event whose data is an object with the figures of all keys.
    Map,
}

/// A figure of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Figure {
    /// The arithmetic mean.
    #[default]
    Average,
    /// The last value.
    Last,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The sum of all values.
    Sum,
}

/// Limits the events of a channel per second, with a token bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The events per second.
    pub per_second: f64,
    /// Events that may come at once after silence; `per_second` rounded up if it is left out.
    #[serde(default)]
    pub burst: Option<u32>,
    /// The handling of events beyond the rate.
    #[serde(default)]
    pub over: Over,
    /// With `over = "latest"` the newest event of each key waits; without it, the newest of each name.
    #[serde(default)]
    pub key: Option<DataPath>,
}

/// The handling of events beyond a rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// The newest waits for its turn.
    #[default]
    Latest,
    /// They are dropped.
    Drop,
}

/// Delivers one of so many events of each key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The first of so many events is delivered.
    pub every: u32,
    /// The key in the data; without it all events of one name have one key.
    #[serde(default)]
    pub key: Option<DataPath>,
    /// Whether the last event is delivered after a second of silence, too.
    #[serde(default)]
    pub trailing: bool,
}

/// Keeps the last event of each key for connections that join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// How long an event is kept, in seconds.
    pub max_age_seconds: u32,
    /// The key in the data, if the rule has none of `conflate`, `aggregate`, `rate` and `sample`.
    #[serde(default)]
    pub key: Option<DataPath>,
}

/// With a rate few events wait longer for their turn.
const TURNS_MAX: Duration = Duration::from_secs(300);

fn yes() -> bool {
    true
}

fn keys_max() -> usize {
    1000
}

impl FlowRule {
    /// The rule with another window, if it has a view of that.
    pub(super) fn with_window(self: &Arc<Self>, window: ViewWindow) -> Arc<Self> {
        if !self.views.contains(&window) {
            return Arc::clone(self);
        }
        let mut rule = Self::clone(self);
        rule.conflate = rule.conflate.map(|conflate| Conflate { window_ms: window.ms, ..conflate });
        rule.aggregate = rule.aggregate.map(|aggregate| Aggregate { window_ms: window.ms, ..aggregate });
        Arc::new(rule)
    }

    /// The rule without its snapshot.
    pub fn without_snapshot(self: &Arc<Self>) -> Arc<Self> {
        match self.snapshot {
            Some(_) => Arc::new(Self { snapshot: None, ..Self::clone(self) }),
            None => Arc::clone(self),
        }
    }

    /// Whether it thins, rather than keeping a snapshot alone.
    pub fn thins(&self) -> bool {
        self.conflate.is_some() || self.aggregate.is_some() || self.rate.is_some() || self.sample.is_some()
    }

    /// How long an event usually waits at most: a window, the turns of all keys, a silence.
    pub fn delay(&self) -> Duration {
        let window = self.conflate.as_ref().map(|conflate| conflate.window_ms);
        let window = window.or(self.aggregate.as_ref().map(|aggregate| aggregate.window_ms));
        let turns = |rate: &Rate| if rate.over == Over::Latest { self.keys_max.max(1) as f64 } else { 0.0 };
        let turn = self.rate.as_ref().map(|rate| Duration::try_from_secs_f64(turns(rate) / rate.per_second));
        let turn = turn.map(|time| time.unwrap_or(TURNS_MAX).min(TURNS_MAX));
        let window = window.map(|ms| Duration::from_millis(ms.into()));
        window.or(turn).or(self.sample.as_ref().map(|_| Duration::from_secs(1))).unwrap_or_default()
    }

    /// The key of the rule's kind.
    pub fn key(&self) -> Option<&DataPath> {
        let Self { conflate, aggregate, rate, sample, snapshot, .. } = self;
        let key = (conflate.as_ref().map(|conflate| &conflate.key))
            .or(aggregate.as_ref().map(|aggregate| &aggregate.key))
            .or(rate.as_ref().map(|rate| &rate.key))
            .or(sample.as_ref().map(|sample| &sample.key))
            .or(snapshot.as_ref().map(|snapshot| &snapshot.key));
        key.and_then(Option::as_ref)
    }
}
