//! The bounds of history rules. `config` and `row` call it.

use std::ops::RangeInclusive;

use crate::history::rule::{HistoryRule, Replay};

use crate::config::fault::FaultList;
use crate::config::settings::apps::{AppEntry, Limits};

/// An hour: who comes back later should load the page anew.
const SECONDS: RangeInclusive<u32> = 1..=3600;
const EVENTS: RangeInclusive<usize> = 1..=100_000;
/// At least one large event. At most what a client may have waiting.
const BYTES: RangeInclusive<usize> = 4096..=67_108_864;

/// Adds the faults of the rules in `[limits]` and of those of each app.
pub(in crate::config) fn validate(limits: &Limits, apps: &[AppEntry], faults: &mut FaultList) {
    of_rules("limits.history_rules", &limits.history_rules, faults);
    for (index, entry) in apps.iter().enumerate() {
        of_rules(&format!("apps.{index}.history_rules"), entry.history_rules.as_deref().unwrap_or_default(), faults);
    }
}

/// Adds the faults of one list of rules.
pub(in crate::config) fn of_rules(place: &str, rules: &[HistoryRule], faults: &mut FaultList) {
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("{place}.{index}");
        faults.within(&format!("{place}.seconds"), rule.seconds, SECONDS);
        faults.within(&format!("{place}.events_max"), rule.events_max, EVENTS);
        faults.within(&format!("{place}.bytes_max"), rule.bytes_max, BYTES);
        if let Replay::Last(last) = rule.replay {
            faults.within(&format!("{place}.replay.last"), last, 1..=rule.events_max.max(1));
        }
    }
}
