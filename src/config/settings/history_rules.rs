//! The checks of history rules: their bounds, and rules that do less than they seem to.
//! `config`, `warnings` and `row` call it.

use std::ops::RangeInclusive;

use crate::history::rule::{HistoryRule, Replay};

use crate::config::fault::{Fault, FaultList};
use crate::config::settings::apps::{AppEntry, Limits};

/// An hour: who comes back later should load the page anew.
const SECONDS: RangeInclusive<u32> = 1..=3600;
const EVENTS: RangeInclusive<usize> = 1..=100_000;
/// The least holds some small events. The most is what all channels of an app may hold by default.
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

/// About rules that are valid but do less than they seem to.
pub(in crate::config) fn warnings(limits: &Limits, apps: &[AppEntry]) -> Vec<Fault> {
    let mut warnings = FaultList::default();
    idle("limits", &limits.history_rules, &mut warnings);
    unreached(("limits", "limits"), limits, &mut warnings);
    for (index, entry) in apps.iter().enumerate() {
        let place = format!("apps.{index}");
        let of = |is_own: bool| if is_own { &*place } else { "limits" };
        idle(&place, entry.history_rules.as_deref().unwrap_or_default(), &mut warnings);
        let (has_rules, has_max) = (entry.history_rules.is_some(), entry.history_bytes_max.is_some());
        if has_rules || has_max {
            unreached((of(has_rules), of(has_max)), &entry.resolve(limits).limits, &mut warnings);
        }
    }
    warnings.0
}

/// Warns of the rules of a row's app.
pub(in crate::config) fn row_warnings(table: &str, limits: &Limits) -> Vec<Fault> {
    let mut warnings = FaultList::default();
    idle(table, &limits.history_rules, &mut warnings);
    unreached((table, table), limits, &mut warnings);
    warnings.0
}

/// Warns of rules that never decide.
fn idle(place: &str, rules: &[HistoryRule], warnings: &mut FaultList) {
    for (index, rule) in rules.iter().enumerate() {
        // A pattern that matches another one's text matches all that the other one does: its stars take the other's.
        let covers = |earlier: &HistoryRule| earlier.pattern.matches(rule.pattern.as_str());
        if let Some(earlier) = rules[..index].iter().position(covers) {
            let text = format!("never decides, since rule {earlier} before it is for the same channels");
            warnings.add(format!("{place}.history_rules.{index}"), text);
        }
    }
}

/// Warns of channels that may hold more bytes than their app. The places are those of the rules and of the app's bound.
fn unreached((of_rules, of_max): (&str, &str), limits: &Limits, warnings: &mut FaultList) {
    let max = limits.history_bytes_max;
    for (index, rule) in limits.history_rules.iter().enumerate() {
        let text = format!(
            "is {}, but all channels of an app together hold {of_max}.history_bytes_max, {max}, at most; raise that one, or \
             lower this one",
            rule.bytes_max
        );
        warnings.add_if(rule.bytes_max > max, format!("{of_rules}.history_rules.{index}.bytes_max"), text);
    }
}
