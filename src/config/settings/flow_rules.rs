//! The checks of flow rules: bounds, settings that contradict each other, and rules that never decide.
//! `config`, `warnings` and `row` call it.

use std::ops::RangeInclusive;

use crate::flow::rule::{Aggregate, At, Emit, FlowRule, Rate};
use crate::flow::window::WINDOW_MS_MAX;
use crate::protocol::policy::{ChannelRule, Require};

use crate::config::fault::{Fault, FaultList};
use crate::config::settings::apps::{AppEntry, Limits};

/// Rules of one app. Each new channel is compared with all of them.
pub(in crate::config) const RULES_MAX: usize = 1000;
const WINDOW_MS: RangeInclusive<u32> = 1..=WINDOW_MS_MAX;
/// The least is an event in 1000 s. The most is a rate that no page needs thinned.
const PER_SECOND: RangeInclusive<f64> = 0.001..=100_000.0;
const BURST: RangeInclusive<u32> = 1..=1_000_000;
/// One of one would thin nothing.
const EVERY: RangeInclusive<u32> = 2..=1_000_000;
const KEYS: RangeInclusive<usize> = 1..=1_000_000;
/// A year, as for `cache_ttl_seconds`.
const MAX_AGE_SECONDS: RangeInclusive<u32> = 1..=31_536_000;
/// Raw values of a key in one event. A page gets all of them at once.
const VALUES: RangeInclusive<usize> = 0..=10_000;

/// Adds the faults of the rules in `[limits]` and of those of each app.
pub(in crate::config) fn validate(limits: &Limits, apps: &[AppEntry], faults: &mut FaultList) {
    of_rules("limits.flow_rules", limits, faults);
    of_encrypted("limits", "limits", limits, faults);
    for (index, entry) in apps.iter().enumerate() {
        let resolved = entry.resolve(limits).limits;
        let place = format!("apps.{index}");
        if entry.flow_rules.is_some() {
            of_rules(&format!("{place}.flow_rules"), &resolved, faults);
        }
        let of = |is_own: bool| if is_own { &*place } else { "limits" };
        if entry.flow_rules.is_some() || entry.channel_rules.is_some() {
            of_encrypted(of(entry.flow_rules.is_some()), of(entry.channel_rules.is_some()), &resolved, faults);
        }
    }
}

/// Adds the faults of one list of rules.
pub(in crate::config) fn of_rules(place: &str, limits: &Limits, faults: &mut FaultList) {
    for (index, rule) in limits.flow_rules.iter().enumerate() {
        of_rule(&format!("{place}.{index}"), rule, limits.max_event_name_length, faults);
    }
}

fn of_rule(place: &str, rule: &FlowRule, name_length_max: usize, faults: &mut FaultList) {
    let kinds = kinds(rule);
    match kinds[..] {
        [] => faults.add_if(
            rule.snapshot.is_none(),
            place,
            "does not say what becomes of events; add one of conflate, aggregate, rate, sample and snapshot",
        ),
        [_] => (),
        _ => faults
            .add(place, format!("has {}; keep one, and write a second rule for other events", kinds.join(" and "))),
    }
    faults.within(&format!("{place}.keys_max"), rule.keys_max, KEYS);
    if let Some(conflate) = &rule.conflate {
        faults.within(&format!("{place}.conflate.window_ms"), conflate.window_ms, WINDOW_MS);
    }
    if let Some(aggregate) = &rule.aggregate {
        of_aggregate(&format!("{place}.aggregate"), aggregate, name_length_max, faults);
    }
    if let Some(Rate { per_second, burst, .. }) = rule.rate {
        faults.within(&format!("{place}.rate.per_second"), per_second, PER_SECOND);
        faults.within(&format!("{place}.rate.burst"), burst.unwrap_or(*BURST.start()), BURST);
    }
    if let Some(sample) = &rule.sample {
        faults.within(&format!("{place}.sample.every"), sample.every, EVERY);
    }
    if let Some(snapshot) = &rule.snapshot {
        faults.within(&format!("{place}.snapshot.max_age_seconds"), snapshot.max_age_seconds, MAX_AGE_SECONDS);
        if let (Some(_), Some(kind)) = (&snapshot.key, kinds.first()) {
            let text = format!("is for a snapshot alone; the key of {kind} counts here, so remove it");
            faults.add(format!("{place}.snapshot.key"), text);
        }
    }
    let has_windows = rule.conflate.is_some() || rule.aggregate.is_some();
    let text = "is for conflate and aggregate; remove it";
    let ingest = "is \"ingest\", which is for conflate and aggregate; remove it";
    faults.add_if(rule.at == At::Ingest && !has_windows, format!("{place}.at"), ingest);
    faults.add_if(!rule.views.is_empty() && !has_windows, format!("{place}.views"), text);
    for (index, view) in rule.views.iter().enumerate() {
        let is_again = rule.views[..index].contains(view);
        faults.add_if(is_again, format!("{place}.views"), format!("has {view} twice; keep one"));
    }
}

fn of_aggregate(place: &str, aggregate: &Aggregate, name_length_max: usize, faults: &mut FaultList) {
    faults.within(&format!("{place}.window_ms"), aggregate.window_ms, WINDOW_MS);
    faults.within(&format!("{place}.values_max"), aggregate.values_max, VALUES);
    faults.add_if(
        aggregate.values_max > 0 && aggregate.emit != Emit::Map,
        format!("{place}.values_max"),
        "is for emit = \"map\"; set that, or remove it",
    );
    let Some(name) = &aggregate.rename else { return };
    let is_taken = ["pusher:", "pusher_internal:", "client-"].iter().any(|start| name.starts_with(start));
    faults.add_if(
        name.is_empty() || is_taken || name.chars().count() > name_length_max,
        format!("{place}.as"),
        format!(
            "is {name:?}; it must be an event's name of 1 to {name_length_max} characters that does not begin with \
             pusher:, pusher_internal: or client-"
        ),
    );
}

/// Adds a fault for each `aggregate` on channels whose data only pages can read.
pub(in crate::config) fn of_encrypted(flow_place: &str, channel_place: &str, limits: &Limits, faults: &mut FaultList) {
    let rules = &limits.flow_rules;
    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.aggregate.is_some()) {
        let is_covered = |encrypted: &ChannelRule| {
            let overlaps =
                rule.pattern.matches(encrypted.pattern.as_str()) || encrypted.pattern.matches(rule.pattern.as_str());
            let is_before =
                |earlier: &FlowRule| earlier.events.is_empty() && earlier.pattern.matches(encrypted.pattern.as_str());
            encrypted.require == Require::Encrypted && overlaps && !rules[..index].iter().any(is_before)
        };
        let found = limits.channel_rules.iter().enumerate().find(|(_, encrypted)| is_covered(encrypted));
        faults.0.extend(found.map(|(encrypted, _)| {
            Fault::new(
                format!("{flow_place}.flow_rules.{index}.aggregate"),
                format!(
                    "cannot read the data of {}, since {channel_place}.channel_rules.{encrypted} requires encrypted \
                     channels there; use conflate, or another match",
                    rule.pattern
                ),
            )
        }));
    }
}

/// About rules that are valid but do less than they seem to.
pub(in crate::config) fn warnings(place: &str, rules: &[FlowRule]) -> Vec<Fault> {
    let mut warnings = FaultList::default();
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("{place}.{index}");
        if let Some(earlier) = rules[..index].iter().position(|earlier| covers(earlier, rule)) {
            let text = format!("never decides, since rule {earlier} before it is for the same channels and events");
            warnings.add(&*place, text);
        }
        for (index, event) in rule.events.iter().enumerate() {
            let is_idle = event.as_str().starts_with("client-") && !rule.client_events;
            let text = format!("is {:?}, but client events are thinned with client_events = true only", event.as_str());
            warnings.add_if(is_idle, format!("{place}.events.{index}"), text);
        }
    }
    warnings.0
}

/// Whether no event is left for `later` behind `earlier`.
fn covers(earlier: &FlowRule, later: &FlowRule) -> bool {
    // A pattern that matches another one's text matches all that the other one does: its stars take the other's.
    let names = |event: &str| earlier.events.iter().chain(&earlier.except).any(|pattern| pattern.matches(event));
    let names_all = !later.events.is_empty() && later.events.iter().all(|event| names(event.as_str()));
    earlier.pattern.matches(later.pattern.as_str())
        && (earlier.client_events || !later.client_events)
        && (earlier.events.is_empty() || names_all)
}

/// The kinds that a rule has, apart from `snapshot`, which may stand beside one.
fn kinds(rule: &FlowRule) -> Vec<&'static str> {
    let kinds = [
        ("conflate", rule.conflate.is_some()),
        ("aggregate", rule.aggregate.is_some()),
        ("rate", rule.rate.is_some()),
        ("sample", rule.sample.is_some()),
    ];
    kinds.into_iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| kind).collect()
}
