//! The figures of one second, from two readings of the metrics.
//! `sampler` makes them; the state, the stream and the history carry them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::metrics::Sums;
use crate::refusal::NewRefusals;
use crate::watch::history::Sample;

/// Causes that are told apart; the most frequent come first.
const CAUSES_MAX: usize = 20;
/// Causes of all nodes together.
const CAUSES_OF_ALL_MAX: usize = 100;
/// Bytes of the name of a cause, of which gema's own have fewer.
const CAUSE_BYTES_MAX: usize = 64;
/// More than any node does in a second, and little enough to add up.
const RATE_MAX: f64 = 1e15;

/// The figures of a second. Those that are not levels are for each second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Now {
    pub(super) at_ms: u64,
    pub(super) connections: u64,
    pub(super) connections_peak: u64,
    pub(super) channels: u64,
    pub(super) events: f64,
    pub(super) deliveries: f64,
    pub(super) bytes_out: f64,
    pub(super) latency_p50_ms: Option<f64>,
    pub(super) latency_p99_ms: Option<f64>,
    pub(super) drops: f64,
    pub(super) refusals: f64,
    pub(super) slow: f64,
    pub(super) client_events: f64,
    pub(super) thinned_in: f64,
    pub(super) thinned_out: f64,
    pub(super) causes: BTreeMap<String, f64>,
}

/// Two readings, for the changes in each second between.
pub(super) struct Rates<'a> {
    pub(super) before: &'a Sums,
    pub(super) after: &'a Sums,
    /// The refusals between.
    pub(super) refused: &'a [NewRefusals],
    pub(super) seconds: f64,
}

/// A flow rule: the app's id and the pattern.
pub(super) type Rule = (Arc<str>, Arc<str>);

impl Rates<'_> {
    /// A counter's rate. An app that is removed takes its counts with it.
    fn of(&self, counter: impl Fn(&Sums) -> u64) -> f64 {
        self.rate(counter(self.after).saturating_sub(counter(self.before)))
    }

    fn rate(&self, count: u64) -> f64 {
        round(count as f64 / self.seconds)
    }

    /// The figures; levels are left at zero.
    pub(super) fn now(&self) -> Now {
        let causes = self.causes();
        let slow = causes.iter().filter(|(cause, _)| cause.starts_with("slow_reader")).map(|(_, rate)| rate).sum();
        let latency = self.latency();
        let (thinned_in, thinned_out) = self
            .rules()
            .values()
            .fold((0.0, 0.0), |(all_in, all_out), (one_in, one_out)| (all_in + one_in, all_out + one_out));
        Now {
            events: self.of(|sums| sums.events),
            client_events: self.of(|sums| sums.client_events),
            deliveries: self.of(|sums| sums.deliveries),
            bytes_out: self.of(|sums| sums.bytes_out).round(),
            drops: self.of(|sums| sums.drops),
            refusals: round(causes.iter().map(|(_, rate)| rate).sum()),
            slow,
            thinned_in: round(thinned_in),
            thinned_out: round(thinned_out),
            latency_p50_ms: percentile(&latency, 0.5),
            latency_p99_ms: percentile(&latency, 0.99),
            causes: causes.into_iter().take(CAUSES_MAX).collect(),
            ..Now::default()
        }
    }

    /// Refusals by cause, the most frequent first.
    fn causes(&self) -> Vec<(String, f64)> {
        let mut causes: HashMap<&str, u64> = HashMap::new();
        for new in self.refused {
            *causes.entry(new.cause.name()).or_default() += new.count;
        }
        let rate = |(cause, count): (&str, u64)| (cause.to_owned(), self.rate(count));
        let mut causes: Vec<_> = causes.into_iter().map(rate).collect();
        causes.sort_by(|(a, one), (b, other)| other.total_cmp(one).then_with(|| a.cmp(b)));
        causes
    }

    /// Events in and out of the rules that have had any in this time.
    pub(super) fn rules(&self) -> HashMap<Rule, (f64, f64)> {
        let changed = self.after.flow.iter().filter_map(|(rule, after)| {
            let before = self.before.flow.get(rule).copied().unwrap_or_default();
            let (taken, sent) = (after.taken.saturating_sub(before.taken), after.sent.saturating_sub(before.sent));
            (taken > 0 || sent > 0).then(|| (rule.clone(), (self.rate(taken), self.rate(sent))))
        });
        changed.collect()
    }

    /// Events that publishers have sent to the apps that have had any in this time.
    pub(super) fn publishes(&self) -> HashMap<Arc<str>, f64> {
        let changed = self.after.publishes.iter().filter_map(|(app, after)| {
            let count = after.saturating_sub(self.before.publishes.get(app).copied().unwrap_or_default());
            (count > 0).then(|| (Arc::clone(app), self.rate(count)))
        });
        changed.collect()
    }

    /// The histogram of the time between.
    fn latency(&self) -> Vec<(f64, u64)> {
        let before = |index: usize| self.before.latency.get(index).map_or(0, |(_, count)| *count);
        let after = self.after.latency.iter().enumerate();
        after.map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index)))).collect()
    }
}

impl Now {
    /// The values of the history, in the order of its series.
    pub(super) fn sample(&self) -> Sample {
        [
            self.connections as f32,
            self.events as f32,
            self.deliveries as f32,
            self.bytes_out as f32,
            self.latency_p50_ms.map_or(f32::NAN, |value| value as f32),
            self.latency_p99_ms.map_or(f32::NAN, |value| value as f32),
            self.drops as f32,
            self.refusals as f32,
            self.slow as f32,
            self.channels as f32,
            (self.thinned_in - self.thinned_out).max(0.0) as f32,
            self.client_events as f32,
        ]
    }

    /// Cuts what no node can have: the figures of another one come from Redis.
    pub(super) fn bounded(mut self) -> Self {
        for value in [
            &mut self.events,
            &mut self.deliveries,
            &mut self.bytes_out,
            &mut self.drops,
            &mut self.refusals,
            &mut self.slow,
            &mut self.client_events,
            &mut self.thinned_in,
            &mut self.thinned_out,
        ] {
            *value = value.clamp(0.0, RATE_MAX);
        }
        self.latency_p50_ms = self.latency_p50_ms.map(|value| value.clamp(0.0, RATE_MAX));
        self.latency_p99_ms = self.latency_p99_ms.map(|value| value.clamp(0.0, RATE_MAX));
        let causes = self.causes.into_iter().filter(|(cause, _)| cause.len() <= CAUSE_BYTES_MAX).take(CAUSES_MAX);
        self.causes = causes.map(|(cause, rate)| (cause, rate.clamp(0.0, RATE_MAX))).collect();
        self
    }

    /// Adds the figures of another node. Of latencies the worse counts.
    pub(super) fn add(&mut self, other: &Self) {
        let worse = |one: Option<f64>, other: Option<f64>| one.into_iter().chain(other).reduce(f64::max);
        self.connections = self.connections.saturating_add(other.connections);
        self.connections_peak = self.connections_peak.saturating_add(other.connections_peak);
        self.channels = self.channels.max(other.channels);
        for (own, other) in [
            (&mut self.events, other.events),
            (&mut self.deliveries, other.deliveries),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.drops, other.drops),
            (&mut self.refusals, other.refusals),
            (&mut self.slow, other.slow),
            (&mut self.client_events, other.client_events),
            (&mut self.thinned_in, other.thinned_in),
            (&mut self.thinned_out, other.thinned_out),
        ] {
            *own = round(*own + other);
        }
        self.latency_p50_ms = worse(self.latency_p50_ms, other.latency_p50_ms);
        self.latency_p99_ms = worse(self.latency_p99_ms, other.latency_p99_ms);
        for (cause, rate) in &other.causes {
            if self.causes.len() < CAUSES_OF_ALL_MAX || self.causes.contains_key(cause) {
                *self.causes.entry(cause.clone()).or_default() += rate;
            }
        }
    }
}

/// Hundredths are enough for a page.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The percentile of a histogram in milliseconds, by a straight line within its bucket. `None` without events.
fn percentile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let (_, all) = buckets.last().filter(|(_, all)| *all > 0)?;
    let wanted = share * *all as f64;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(upper, count) in buckets {
        if count as f64 >= wanted {
            // The last bucket has no end.
            let upper = if upper.is_finite() { upper } else { lower };
            let part = (wanted - below) / (count as f64 - below).max(f64::MIN_POSITIVE);
            return Some(((lower + (upper - lower) * part) * 1e5).round() / 100.0);
        }
        (lower, below) = (upper, count as f64);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Thinned;
    use crate::refusal::Cause;

    #[test]
    fn percentiles_are_read_from_the_buckets() {
        let buckets = [(0.001, 50), (0.002, 100), (f64::INFINITY, 100)];
        assert_eq!(percentile(&buckets, 0.5), Some(1.0));
        assert_eq!(percentile(&buckets, 0.99), Some(1.98));
        assert_eq!(percentile(&[(0.001, 0), (f64::INFINITY, 0)], 0.5), None);
        assert_eq!(percentile(&[(0.001, 0), (f64::INFINITY, 3)], 0.5), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn rates_are_for_each_second_and_never_negative() {
        let refused = [NewRefusals { cause: Cause::SlowReader, app: "a".into(), count: 4 }];
        let rule: Rule = ("a".into(), "scada-*".into());
        let flow = |taken, sent| HashMap::from([(rule.clone(), Thinned { taken, sent })]);
        let publishes = |count| HashMap::from([("a".into(), count), ("silent".into(), 7)]);
        let before =
            Sums { events: 10, deliveries: 5, flow: flow(100, 50), publishes: publishes(10), ..Sums::default() };
        let after =
            Sums { events: 30, deliveries: 0, flow: flow(500, 52), publishes: publishes(14), ..Sums::default() };
        let rates = Rates { before: &before, after: &after, refused: &refused, seconds: 2.0 };
        let now = rates.now();
        assert_eq!((now.events, now.deliveries, now.refusals, now.slow), (10.0, 0.0, 2.0, 2.0));
        assert_eq!((now.thinned_in, now.thinned_out), (200.0, 1.0));
        assert_eq!(rates.rules(), HashMap::from([(rule, (200.0, 1.0))]));
        assert_eq!(rates.publishes(), HashMap::from([("a".into(), 2.0)]));
        assert_eq!(now.causes, BTreeMap::from([(Cause::SlowReader.name().to_owned(), 2.0)]));
        assert_eq!(now.latency_p99_ms, None);
        assert!(now.sample()[4].is_nan());
    }

    #[test]
    fn figures_of_nodes_add_up() {
        let one = Now { connections: 3, events: 1.5, latency_p99_ms: Some(2.0), channels: 4, ..Now::default() };
        let mut both = Now { connections: 1, events: 0.5, latency_p99_ms: Some(5.0), channels: 9, ..Now::default() };
        both.add(&one);
        assert_eq!((both.connections, both.events, both.latency_p99_ms, both.channels), (4, 2.0, Some(5.0), 9));
    }

    #[test]
    fn figures_that_no_node_can_have_are_cut_and_add_up_without_overflow() {
        let causes = (0..1000).map(|number| (format!("cause_{number}"), f64::MAX));
        let hostile = Now {
            connections: u64::MAX,
            connections_peak: u64::MAX,
            events: f64::MAX,
            drops: -1.0,
            latency_p99_ms: Some(f64::MAX),
            causes: causes.chain([("x".repeat(100_000), 1.0)]).collect(),
            ..Now::default()
        };
        let bounded = hostile.bounded();
        let mut all = Now { connections: 1, ..Now::default() };
        (0..1024).for_each(|_| all.add(&bounded));
        assert_eq!((all.connections, all.drops, all.causes.len()), (u64::MAX, 0.0, CAUSES_MAX));
        assert!(all.events.is_finite() && all.causes.values().all(|rate| rate.is_finite()), "{all:?}");
    }
}
