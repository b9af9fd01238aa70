//! Durations in steps of 1.6 %: 64 steps for each doubling.

use serde_json::{Value, json};

use crate::report::rounded;

/// Doublings have 2^6 steps each.
const STEP_BITS: u32 = 6;
const STEPS: u64 = 1 << STEP_BITS;

/// Counts nanoseconds; the smallest 64 exactly, all others within 1.6 %.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let counts = vec![0; index(u64::MAX) + 1];
        Self { counts, total: 0, max: 0 }
    }

    /// Adds one duration.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[index(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Milliseconds below which a `share` of the durations lie.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        rounded(upper_end(step.unwrap_or(0)).min(self.max) as f64 / 1e6)
    }

    /// `{"p50":…,"p90":…,"p99":…,"max":…,"n":…}` in milliseconds, or null when nothing was counted.
    pub(crate) fn summary(&self) -> Value {
        if self.total == 0 {
            return Value::Null;
        }
        json!({
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": rounded(self.max as f64 / 1e6),
            "n": self.total,
        })
    }
}

/// The step that a duration falls into.
#[inline]
fn index(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let doubling = u64::BITS - 1 - nanos.leading_zeros() - STEP_BITS;
    // The leading bit of the shifted value adds one doubling's worth of steps by itself.
    ((u64::from(doubling) << STEP_BITS) + (nanos >> doubling)) as usize
}

/// The longest duration that falls into a step.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let doubling = (index >> STEP_BITS) - 1;
    let leading = index - (doubling << STEP_BITS);
    (leading << doubling) + ((1 << doubling) - 1)
}
