//! The flow rules of an app: which of them a channel has, its views by name, and which rule decides about an event.

use std::sync::Arc;

use crate::flow::rule::At;
use crate::flow::rule::FlowRule;
use crate::flow::window::ViewWindow;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::EventPattern;
use crate::protocol::pattern::rule_base;

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
/// use gema::flow::rules::{Choice, FlowRules, choose};
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
