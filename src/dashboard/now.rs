//! The figures of one second, from two readings of the metrics.
//! `sampler` makes them; the state, the stream and the history carry them.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;

use crate::metrics::Sums;
use crate::watch::history::Sample;

/// Causes that are told apart; the most frequent come first.
const CAUSES_MAX: usize = 20;
/// The fates of an event that a rule thins, as the metrics name them.
const THINNED_IN: [&str; 5] = ["delivered", "replaced", "merged", "dropped", "skipped"];
/// The outcomes that are sent on.
const THINNED_OUT: [&str; 2] = ["delivered", "made"];

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
    pub(super) seconds: f64,
}

impl Rates<'_> {
    /// A counter's rate. An app that is removed takes its counts with it.
    fn of(&self, counter: impl Fn(&Sums) -> f64) -> f64 {
        round((counter(self.after) - counter(self.before)).max(0.0) / self.seconds)
    }

    /// The figures; levels are left at zero.
    pub(super) fn now(&self) -> Now {
        let causes = self.causes();
        let slow = causes.iter().filter(|(cause, _)| cause.starts_with("slow_reader")).map(|(_, rate)| rate).sum();
        let latency = self.latency();
        Now {
            events: self.of(|sums| sums.events),
            client_events: self.of(|sums| sums.client_events),
            deliveries: self.of(|sums| sums.deliveries),
            bytes_out: self.of(|sums| sums.bytes_out).round(),
            drops: self.of(|sums| sums.drops),
            refusals: round(causes.iter().map(|(_, rate)| rate).sum()),
            slow,
            thinned_in: self.flow(None, &THINNED_IN),
            thinned_out: self.flow(None, &THINNED_OUT),
            latency_p50_ms: percentile(&latency, 0.5),
            latency_p99_ms: percentile(&latency, 0.99),
            causes: causes.into_iter().take(CAUSES_MAX).collect(),
            ..Now::default()
        }
    }

    /// Refusals by cause, the most frequent first.
    fn causes(&self) -> Vec<(String, f64)> {
        let mut causes: HashMap<&str, f64> = HashMap::new();
        for (key, count) in &self.after.refusals {
            let more = count.saturating_sub(self.before.refusals.get(key).copied().unwrap_or_default());
            if more > 0 {
                *causes.entry(&key.1).or_default() += more as f64 / self.seconds;
            }
        }
        let mut causes: Vec<_> = causes.into_iter().map(|(cause, rate)| (cause.to_owned(), round(rate))).collect();
        causes.sort_by(|(a, one), (b, other)| other.total_cmp(one).then_with(|| a.cmp(b)));
        causes
    }

    /// Events under flow rules with these outcomes, of all rules or of one.
    pub(super) fn flow(&self, rule: Option<(&str, &str)>, outcomes: &[&str]) -> f64 {
        self.of(|sums| {
            let wanted = sums.flow.iter().filter(|((app, own, outcome), _)| {
                rule.is_none_or(|(id, pattern)| app == id && own == pattern) && outcomes.contains(&&**outcome)
            });
            wanted.map(|(_, count)| count).sum()
        })
    }

    /// Events in and out of one rule.
    pub(super) fn rule(&self, app: &str, pattern: &str) -> (f64, f64) {
        let rule = Some((app, pattern));
        (self.flow(rule, &THINNED_IN), self.flow(rule, &THINNED_OUT))
    }

    /// Events that publishers have sent to an app.
    pub(super) fn publishes(&self, app: &str) -> f64 {
        self.of(|sums| sums.publishes.get(app).copied().unwrap_or_default())
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
            *self.causes.entry(cause.clone()).or_default() += rate;
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
        let refused = |count| HashMap::from([(("a".to_owned(), "slow_reader".to_owned()), count)]);
        let before = Sums { events: 10.0, deliveries: 5.0, refusals: refused(1), ..Sums::default() };
        let after = Sums { events: 30.0, deliveries: 0.0, refusals: refused(5), ..Sums::default() };
        let now = Rates { before: &before, after: &after, seconds: 2.0 }.now();
        assert_eq!((now.events, now.deliveries, now.refusals, now.slow), (10.0, 0.0, 2.0, 2.0));
        assert_eq!(now.causes, BTreeMap::from([("slow_reader".to_owned(), 2.0)]));
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
}
