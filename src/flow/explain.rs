//! Flow rules in sentences, for the operator: what a rule does, and which rule decides about an event.
//! `cli` prints and logs them.

use std::fmt::Display;

use crate::flow::rule::{Aggregate, At, Emit, Figure, FlowRule, Over};
use crate::flow::rules::{Choice, FlowRules, choose};
use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::EventPattern;

/// The events that a sentence is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scope {
    /// They have one name.
    is_one_name: bool,
    /// Their data is encrypted, so that a rule finds nothing in it.
    is_encrypted: bool,
}

impl FlowRules {
    /// The rules of a channel in order, each in a sentence, and after them what holds for other events.
    pub fn explain(&self, channel: &ChannelName) -> Vec<String> {
        let rules = self.of_channel(channel);
        if rules.is_empty() {
            return vec!["no flow rule; events pass as they come".to_owned()];
        }
        let is_encrypted = channel.kind().encrypted;
        let sentence = |(index, rule): (usize, &std::sync::Arc<FlowRule>)| {
            rule.sentence(&rule.objects(index > 0), Scope { is_one_name: rule.is_for_one_name(), is_encrypted })
        };
        let mut sentences: Vec<String> = rules.iter().enumerate().map(sentence).collect();
        if rules.iter().all(|rule| !rule.events.is_empty()) {
            let flushes = rules.iter().any(|rule| rule.flush_before);
            sentences.push(format!("other events pass at once, {}", with_pending(flushes, "them")));
        }
        sentences
    }

    /// The decision about an event of a channel, in a sentence.
    pub fn explain_event(&self, channel: &ChannelName, event: &str) -> String {
        let rules = self.of_channel(channel);
        let scope = Scope { is_one_name: true, is_encrypted: channel.kind().encrypted };
        match choose(&rules, event) {
            _ if rules.is_empty() => "no flow rule; it passes as it comes".to_owned(),
            Choice::Thins(_, rule) => rule.sentence("it", scope),
            Choice::Excepted(_, rule) => {
                format!("flow rule {} lets it pass at once, {}", rule.pattern, with_pending(rule.flush_before, "it"))
            }
            Choice::Unnamed => {
                let flushes = rules.iter().any(|rule| rule.flush_before);
                format!("no flow rule names it; it passes at once, {}", with_pending(flushes, "it"))
            }
            Choice::Untouched if event.starts_with("client-") => {
                "it is a client event, and no flow rule for it has client_events = true; it passes as it comes"
                    .to_owned()
            }
            Choice::Untouched => "it is Pusher's own, which no flow rule thins; it passes as it comes".to_owned(),
        }
    }
}

impl FlowRule {
    /// The rule in a sentence.
    ///
    /// ```
    /// use gema::flow::rule::FlowRule;
    /// let rule = r#"{"match":"debug.*","sample":{"every":10}}"#;
    /// let rule: FlowRule = serde_json::from_str(rule).unwrap();
    /// assert_eq!(rule.explain(), "flow rule debug.* samples all events: of 10 events of each name the first passes");
    /// ```
    pub fn explain(&self) -> String {
        let scope = Scope { is_one_name: self.is_for_one_name(), is_encrypted: false };
        self.sentence(&self.objects(false), scope)
    }

    /// The events of the rule; `is_later` if another rule decides before it.
    fn objects(&self, is_later: bool) -> String {
        let events = match &self.events[..] {
            [] if is_later => "all other events".to_owned(),
            [] => "all events".to_owned(),
            events => joined(events.iter().map(EventPattern::as_str)),
        };
        let client_events = if self.client_events { ", client events as well" } else { "" };
        events + client_events
    }

    fn is_for_one_name(&self) -> bool {
        matches!(&self.events[..], [event] if !event.as_str().contains('*'))
    }

    fn sentence(&self, objects: &str, scope: Scope) -> String {
        let mut parts = vec![format!("flow rule {} {}", self.pattern, self.kind(objects, scope))];
        if let Some(snapshot) = &self.snapshot {
            let (of_each, age) = (self.of_each(scope), snapshot.max_age_seconds);
            parts
                .push(format!("a page that joins gets the last event{of_each} first, if it is not older than {age} s"));
        }
        if !self.except.is_empty() {
            let verb = if self.except.len() == 1 { "passes" } else { "pass" };
            let them = if self.except.len() == 1 { "it" } else { "them" };
            let except = joined(self.except.iter().map(EventPattern::as_str));
            parts.push(format!("{except} {verb} at once, {}", with_pending(self.flush_before, them)));
        }
        if self.ignore_except {
            parts.push(
                "an event for all but its sender is treated like the others, so its sender gets it, too".to_owned(),
            );
        }
        if self.at == At::Ingest {
            parts.push("the node that accepts an event does this before the other nodes get it".to_owned());
        }
        if let Some(aggregate) = self.aggregate.as_ref().filter(|_| self.at == At::Ingest) {
            let latest = time(aggregate.window_ms.saturating_mul(2));
            parts
                .push(format!("each node puts the figures of all nodes together, so they come after {latest} at most"));
        }
        if !self.views.is_empty() {
            let views = joined(self.views.iter().map(|view| format!("@{view}")));
            parts.push(format!("pages may add {views} to the channel's name for another window"));
        }
        parts.join("; ")
    }

    /// The rule's treatment of its events.
    fn kind(&self, objects: &str, scope: Scope) -> String {
        let of_each = self.of_each(scope);
        if let Some(conflate) = &self.conflate {
            let rest = if conflate.merge { "with the newest value of each field" } else { "the newest" };
            let window = time(conflate.window_ms);
            return format!("conflates {objects}: at most one event{of_each} passes in {window}, {rest}");
        }
        if let Some(aggregate) = &self.aggregate {
            return aggregate.kind(objects, &of_each, scope);
        }
        if let Some(rate) = &self.rate {
            let burst = rate.burst.map_or(rate.per_second.ceil(), f64::from);
            let over = match rate.over {
                Over::Latest => format!("beyond that the newest event{of_each} waits for its turn"),
                Over::Drop => "beyond that events are dropped".to_owned(),
            };
            let per_second = rate.per_second;
            return format!(
                "limits {objects}: {per_second} pass in a second, and {burst} at once after silence; {over}"
            );
        }
        if let Some(sample) = &self.sample {
            let last = if sample.trailing { ", and the last one after a second of silence" } else { "" };
            return format!("samples {objects}: of {} events{of_each} the first passes{last}", sample.every);
        }
        format!("keeps a snapshot of {objects}, and thins nothing")
    }

    /// The key of the rule, behind "event".
    fn of_each(&self, scope: Scope) -> String {
        let name = if scope.is_one_name { "" } else { " of each name" };
        match self.key() {
            Some(_) if scope.is_encrypted => format!("{name} (the data is encrypted, so there is no key in it)"),
            Some(key) => format!("{name} for each value of {key}"),
            None => name.to_owned(),
        }
    }
}

impl Aggregate {
    fn kind(&self, objects: &str, of_each: &str, scope: Scope) -> String {
        if scope.is_encrypted {
            return format!(
                "aggregates {objects}: nothing can be read here, since the data is encrypted, so events pass"
            );
        }
        let (value, window) = (&self.value, time(self.window_ms));
        let from = self.each.as_ref().map(|each| format!(" in the list {each}")).unwrap_or_default();
        let name = self.rename.as_ref().map(|name| format!(", under the name {name}")).unwrap_or_default();
        let figures = match self.emit {
            Emit::Each => {
                let figure = match self.value_is {
                    Figure::Average => "average",
                    Figure::Last => "last one",
                    Figure::Min => "minimum",
                    Figure::Max => "maximum",
                    Figure::Sum => "sum",
                };
                format!(
                    "one event{of_each}{from} passes in {window}, in which {value} is the {figure}, and aggregate has \
                     count, sum, minimum, maximum and average"
                )
            }
            Emit::Map => {
                let values = match self.values_max {
                    0 => String::new(),
                    max => format!(", and with up to {max} values"),
                };
                let key =
                    self.key.as_ref().map_or_else(|| "name of events".to_owned(), |key| format!("value of {key}"));
                format!(
                    "one event passes in {window}, with count, sum, minimum, maximum and average of {value} for each \
                     {key}{from}{values}"
                )
            }
        };
        format!("aggregates {objects}: {figures}{name}")
    }
}

/// Where an event passes: behind what is pending, or ahead of it.
fn with_pending(flushes: bool, them: &str) -> String {
    match flushes {
        true => format!("and what is pending goes before {them}"),
        false => "ahead of what is pending".to_owned(),
    }
}

/// A time as people write it.
fn time(ms: u32) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

/// `a, b and c`.
fn joined(items: impl Iterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match &items[..] {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> FlowRules {
        FlowRules::new(&serde_json::from_str::<Vec<FlowRule>>(json).unwrap())
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name, 200).unwrap()
    }

    fn explain(rule: &str) -> String {
        serde_json::from_str::<FlowRule>(rule).unwrap().explain()
    }

    const SCADA: &str = r#"[
        {"match":"scada-*","events":["scada.data.received"],"except":["*.alarm"],
         "conflate":{"key":"data.channel","window_ms":250},"snapshot":{"max_age_seconds":600},"views":["1s","5s"]},
        {"match":"scada-*","events":["log.*","trace"],"except":["log.error","log.panic"],"flush_before":false,
         "rate":{"per_second":0.5,"burst":3,"over":"drop"}}
    ]"#;

    #[test]
    fn the_rules_of_a_channel_are_told_in_with_pending() {
        let rules = rules(SCADA);
        assert_eq!(
            rules.explain(&channel("private-scada-realtime")),
            [
                "flow rule scada-* conflates scada.data.received: at most one event for each value of data.channel passes in \
                 250 ms, the newest; a page that joins gets the last event for each value of data.channel first, if it is not older than 600 s; *.alarm passes at once, and what is pending goes before it; pages may add @1s and @5s \
                 to the channel's name for another window",
                "flow rule scada-* limits log.* and trace: 0.5 pass in a second, and 3 at once after silence; beyond that \
                 events are dropped; log.error and log.panic pass at once, ahead of what is pending",
                "other events pass at once, and what is pending goes before them",
            ]
        );
        assert_eq!(rules.explain(&channel("other")), ["no flow rule; events pass as they come"]);
        assert!(rules.explain(&channel("scada-x@5s"))[0].contains("for each value of data.channel passes in 5 s"));
        let of_encrypted = &rules.explain(&channel("private-encrypted-scada-x"))[0];
        assert!(of_encrypted.contains("at most one event (the data is encrypted, so there is no key in it) passes"));
    }

    #[test]
    fn the_decision_about_an_event_is_told() {
        let rules = rules(SCADA);
        for (event, says) in [
            (
                "scada.data.received",
                "flow rule scada-* conflates it: at most one event for each value of data.channel passes in 250 ms, the newest; a",
            ),
            ("pump.alarm", "flow rule scada-* lets it pass at once, and what is pending goes before it"),
            ("log.error", "flow rule scada-* lets it pass at once, ahead of what is pending"),
            ("other", "no flow rule names it; it passes at once, and what is pending goes before it"),
            ("client-x", "it is a client event, and no flow rule for it has client_events = true; it passes as it"),
            ("pusher:x", "it is Pusher's own, which no flow rule thins; it passes as it comes"),
        ] {
            let told = rules.explain_event(&channel("scada-realtime"), event);
            assert!(told.starts_with(says), "{told}");
        }
        assert_eq!(rules.explain_event(&channel("other"), "x"), "no flow rule; it passes as it comes");
    }

    #[test]
    fn each_kind_of_rule_has_its_sentence() {
        for (rule, says) in [
            (
                r#"{"match":"a","conflate":{"window_ms":2000,"merge":true},"client_events":true,"at":"ingest"}"#,
                "flow rule a conflates all events, client events as well: at most one event of each name passes in 2 s, \
                 with the newest value of each field; the node that accepts an event does this before the other nodes get it",
            ),
            (
                r#"{"match":"a","events":["r"],"aggregate":{"each":"data.list","key":"id","value":"v",
                    "window_ms":1000,"as":"readings"}}"#,
                "flow rule a aggregates r: one event for each value of id in the list data.list passes in 1 s, in which v is the \
                 average, and aggregate has count, sum, minimum, maximum and average, under the name readings",
            ),
            (
                r#"{"match":"a","events":["r"],"aggregate":{"key":"id","value":"v","window_ms":1500,"emit":"map",
                    "values_max":9}}"#,
                "flow rule a aggregates r: one event passes in 1500 ms, with count, sum, minimum, maximum and average of v \
                 for each value of id, and with up to 9 values",
            ),
            (
                r#"{"match":"a","events":["r"],"aggregate":{"value":"v","window_ms":1500},"at":"ingest"}"#,
                "flow rule a aggregates r: one event passes in 1500 ms, in which v is the average, and aggregate has count, sum, \
                 minimum, maximum and average; the node that accepts an event does this before the other nodes get it; each node \
                 puts the figures of all nodes together, so they come after 3 s at most",
            ),
            (
                r#"{"match":"a","rate":{"per_second":19.5,"key":"id"},"ignore_except":true}"#,
                "flow rule a limits all events: 19.5 pass in a second, and 20 at once after silence; beyond that the newest \
                 event of each name for each value of id waits for its turn; an event for all but its sender is treated like the \
                 others, so its sender gets it, too",
            ),
            (
                r#"{"match":"a","events":["r"],"sample":{"every":10,"key":"id","trailing":true}}"#,
                "flow rule a samples r: of 10 events for each value of id the first passes, and the last one after a second of \
                 silence",
            ),
            (
                r#"{"match":"a","snapshot":{"max_age_seconds":60,"key":"id"}}"#,
                "flow rule a keeps a snapshot of all events, and thins nothing; a page that joins gets the last event \
                 of each name for each value of id first, if it is not older than 60 s",
            ),
        ] {
            assert_eq!(explain(rule), says);
        }
        let encrypted = rules(r#"[{"match":"*","aggregate":{"value":"v","window_ms":1000}}]"#);
        assert_eq!(
            encrypted.explain(&channel("private-encrypted-a")),
            [
                "flow rule * aggregates all events: nothing can be read here, since the data is encrypted, so events pass"
            ]
        );
    }
}
