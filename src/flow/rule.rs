//! Flow rules as the operator writes them. `config` reads and checks them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::flow::path::DataPath;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::EventPattern;
use crate::protocol::pattern::rule_base;

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

/// The rules of an app in order, ready for its channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowRules(Vec<Arc<FlowRule>>);

/// The decision about one event of a channel. A rule comes with its place among the rules of the channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice<'a> {
    /// The rule thins it.
    Thins(usize, &'a Arc<FlowRule>),
    /// It passes at once by `except` of the rule, and takes along what is pending if `flush_before` says so.
    Excepted(usize, &'a Arc<FlowRule>),
    /// No rule names it. It passes at once, and takes along what is pending of the rules with `flush_before`.
    Unnamed,
    /// It is Pusher's own, or a client's. It passes and changes nothing that is pending.
    Untouched,
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

/// A window in a channel's name: `1s`, `500ms`, `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewWindow {
    /// The window in milliseconds.
    pub ms: u32,
}

/// With a rate few events wait longer for their turn.
const TURNS_MAX: Duration = Duration::from_secs(300);
/// The longest window: an hour.
pub const WINDOW_MS_MAX: u32 = 3_600_000;

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

fn yes() -> bool {
    true
}

fn keys_max() -> usize {
    1000
}

impl FlowRules {
    /// Takes the rules as configured.
    pub fn new(rules: &[FlowRule]) -> Self {
        Self(rules.iter().cloned().map(Arc::new).collect())
    }

    /// Whether there is none, so that no channel needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules that match a channel, in order. A view has those of its channel, with its own window. A user's own channel
    /// has none, as with `channel_rules`.
    pub fn of_channel(&self, channel: &ChannelName) -> Vec<Arc<FlowRule>> {
        if self.is_empty() || channel.kind().access == Access::User {
            return Vec::new();
        }
        match self.view(channel.as_str()) {
            Some((name, window)) => self.matching(name).map(|rule| rule.with_window(window)).collect(),
            None => self.matching(channel.as_str()).cloned().collect(),
        }
    }

    fn matching(&self, name: &str) -> impl Iterator<Item = &Arc<FlowRule>> {
        let base = rule_base(name);
        self.0.iter().filter(move |rule| rule.pattern.matches(base))
    }

    /// Whether a rule thins the events of a channel before the other nodes get them.
    pub fn thin_at_ingest(&self, channel: &ChannelName) -> bool {
        let is_there = self.0.iter().any(|rule| rule.at == At::Ingest);
        is_there && self.of_channel(channel).iter().any(|rule| rule.at == At::Ingest)
    }

    /// Whether a rule keeps the last events of a channel.
    pub fn have_snapshot(&self, channel: &ChannelName) -> bool {
        if channel.kind().access == Access::User || self.0.iter().all(|rule| rule.snapshot.is_none()) {
            return false;
        }
        let name = self.view(channel.as_str()).map_or(channel.as_str(), |(name, _)| name);
        self.matching(name).any(|rule| rule.snapshot.is_some())
    }

    /// The names of the views of a channel, such as `scada@1s`.
    pub fn views_of(&self, channel: &ChannelName) -> Vec<String> {
        let is_plain = || !channel.kind().encrypted && self.view(channel.as_str()).is_none();
        if self.0.iter().all(|rule| rule.views.is_empty()) || !is_plain() {
            return Vec::new();
        }
        let mut windows: Vec<ViewWindow> =
            self.matching(channel.as_str()).flat_map(|rule| rule.views.iter().copied()).collect();
        windows.sort_unstable_by_key(|window| window.ms);
        windows.dedup();
        windows.into_iter().map(|window| format!("{channel}@{window}")).collect()
    }

    /// The name of the channel of which `name` is a view, such as `private-scada` of `private-scada@5s`, and the window
    /// of the view. A rule of that channel must list the window.
    pub fn view<'a>(&self, name: &'a str) -> Option<(&'a str, ViewWindow)> {
        let (channel, window) = name.rsplit_once('@').filter(|_| !self.is_empty())?;
        // The key of an encrypted channel is for its own name, and a view has no views.
        if ChannelKind::of(name).encrypted || self.view(channel).is_some() {
            return None;
        }
        // Each window has one name: 1s, and not 1000ms.
        let window = ViewWindow::parse(window).ok().filter(|parsed| parsed.to_string() == window)?;
        self.matching(channel).any(|rule| rule.views.contains(&window)).then_some((channel, window))
    }
}

/// The decision about an event, given the rules that match its channel. The first rule that names the event in `events`
/// or `except` decides. A rule without `events` names all.
///
/// ```
/// use gema::flow::rule::{Choice, FlowRules, choose};
/// use gema::protocol::channel::ChannelName;
///
/// let rule = r#"{"match":"scada-*","except":["*.alarm"],"conflate":{"window_ms":250}}"#;
/// let rules = FlowRules::new(&[serde_json::from_str(rule).unwrap()]);
/// let of_channel = rules.of_channel(&ChannelName::parse("private-scada-realtime", 200).unwrap());
/// assert_eq!(choose(&of_channel, "scada.reading"), Choice::Thins(0, &of_channel[0]));
/// assert_eq!(choose(&of_channel, "pump.alarm"), Choice::Excepted(0, &of_channel[0]));
/// assert_eq!(choose(&of_channel, "client-typing"), Choice::Untouched);
/// ```
pub fn choose<'a>(rules: impl IntoIterator<Item = &'a Arc<FlowRule>>, event: &str) -> Choice<'a> {
    let is_client_event = event.starts_with("client-");
    if event.starts_with("pusher:") || event.starts_with("pusher_internal:") {
        return Choice::Untouched;
    }
    let names = |patterns: &[EventPattern]| patterns.iter().any(|pattern| pattern.matches(event));
    for (index, rule) in rules.into_iter().enumerate().filter(|(_, rule)| rule.client_events || !is_client_event) {
        if names(&rule.except) {
            return Choice::Excepted(index, rule);
        }
        if rule.events.is_empty() || names(&rule.events) {
            return Choice::Thins(index, rule);
        }
    }
    if is_client_event { Choice::Untouched } else { Choice::Unnamed }
}

impl FlowRule {
    /// The rule with another window, if it has a view of that.
    fn with_window(self: &Arc<Self>, window: ViewWindow) -> Arc<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [&str; 4] = [
        r#"{"match":"scada-*","events":["reading"],"except":["*.alarm"],"conflate":{"window_ms":250},"views":["1s","2m"]}"#,
        r#"{"match":"scada-batch","events":["batch.*"],"rate":{"per_second":20},"client_events":true}"#,
        r#"{"match":"scada-batch","events":["*.alarm","reading"],"sample":{"every":2}}"#,
        r#"{"match":"debug","snapshot":{"max_age_seconds":60}}"#,
    ];

    fn rules() -> FlowRules {
        FlowRules::new(&RULES.map(|rule| serde_json::from_str(rule).unwrap()))
    }

    fn of_channel(channel: &str) -> Vec<Arc<FlowRule>> {
        rules().of_channel(&ChannelName::parse(channel, 200).unwrap())
    }

    #[test]
    fn rules_are_for_base_names_in_any_case_and_not_for_users_channels() {
        for (channel, count) in [
            ("scada-realtime", 1),
            ("private-encrypted-cache-Scada-realtime", 1),
            ("presence-SCADA-batch", 3),
            ("debug", 1),
            ("debug.x", 0),
            ("scada", 0),
        ] {
            assert_eq!(of_channel(channel).len(), count, "{channel}");
        }
        let all = FlowRules::new(&[serde_json::from_str(r#"{"match":"*","sample":{"every":2}}"#).unwrap()]);
        assert_eq!(all.of_channel(&ChannelName::parse("#server-to-user-7", 200).unwrap()), []);
        assert!(FlowRules::default().is_empty() && !all.is_empty());
    }

    #[test]
    fn the_first_rule_that_names_an_event_decides() {
        let rules = of_channel("scada-batch");
        for (event, choice) in [
            ("reading", Choice::Thins(0, &rules[0])),
            ("batch.reading", Choice::Thins(1, &rules[1])),
            ("pump.alarm", Choice::Excepted(0, &rules[0])),
            ("batch.alarm", Choice::Excepted(0, &rules[0])),
            ("Reading", Choice::Unnamed),
            ("other", Choice::Unnamed),
            ("pusher:reading", Choice::Untouched),
            ("pusher_internal:batch.x", Choice::Untouched),
        ] {
            assert_eq!(choose(&rules, event), choice, "{event}");
        }
        assert_eq!(choose(&of_channel("debug"), "anything"), Choice::Thins(0, &of_channel("debug")[0]));
        assert_eq!(choose(&of_channel("debug"), "pusher:x"), Choice::Untouched);
    }

    #[test]
    fn client_events_are_for_rules_that_ask_for_them() {
        let rule = |text| Arc::new(serde_json::from_str::<FlowRule>(text).unwrap());
        let rules = [
            rule(r#"{"match":"*","except":["client-alarm"],"sample":{"every":2}}"#),
            rule(
                r#"{"match":"*","client_events":true,"events":["client-*"],"except":["*-stop"],"sample":{"every":3}}"#,
            ),
        ];
        assert_eq!(choose(&rules, "client-typing"), Choice::Thins(1, &rules[1]));
        assert_eq!(choose(&rules, "client-alarm"), Choice::Thins(1, &rules[1]));
        assert_eq!(choose(&rules, "client-stop"), Choice::Excepted(1, &rules[1]));
        assert_eq!(choose(&rules[..1], "client-typing"), Choice::Untouched);
        assert_eq!(choose(&rules[1..], "typing"), Choice::Unnamed);
    }

    #[test]
    fn a_view_is_a_name_with_a_window_that_a_rule_lists() {
        let rules = rules();
        let seconds = |seconds: u32| ViewWindow { ms: seconds * 1000 };
        for (name, view) in [
            ("scada-realtime@1s", Some(("scada-realtime", seconds(1)))),
            ("private-Scada-x@2m", Some(("private-Scada-x", seconds(120)))),
            ("private-Scada-x@120s", None),
            ("scada-a@b@1s", Some(("scada-a@b", seconds(1)))),
            ("scada-realtime@5s", None),
            ("scada-realtime", None),
            ("debug@1s", None),
            ("scada-realtime@", None),
        ] {
            assert_eq!(rules.view(name), view, "{name}");
        }
        assert_eq!(FlowRules::default().view("scada-realtime@1s"), None);
        let window = |channel: &str| of_channel(channel)[0].conflate.as_ref().unwrap().window_ms;
        assert_eq!((window("private-scada-batch@2m"), window("scada-batch@3m")), (120_000, 250));
        // The rules are those of the channel, so a name without stars has views, too.
        assert_eq!((of_channel("scada-batch@1s").len(), of_channel("scada-batch@3m").len()), (3, 1));
    }
}
