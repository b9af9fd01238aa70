//! The counters of flow rules.
//! The registry counts what becomes of each event that a rule thins.

use prometheus::IntCounter;
use prometheus::IntCounterVec;

use crate::metrics::AppMeters;
use crate::metrics::Metrics;

/// The counters of an app's flow rules.
#[derive(Debug, Clone)]
pub struct FlowMeters {
    events: IntCounterVec,
    outcomes: &'static [&'static str],
    id: String,
    port: String,
}

/// The counters of one rule, by outcome.
#[derive(Debug)]
pub struct RuleMeters(Vec<IntCounter>);

impl FlowMeters {
    pub(super) fn new(events: &IntCounterVec, outcomes: &'static [&'static str], id: &str, port: &str) -> Self {
        Self { events: events.clone(), outcomes, id: id.to_owned(), port: port.to_owned() }
    }

    /// The counters of the rules with this pattern.
    pub fn rule(&self, pattern: &str) -> RuleMeters {
        let counter = |outcome: &&str| self.events.with_label_values(&[&*self.id, &*self.port, pattern, outcome]);
        RuleMeters(self.outcomes.iter().map(counter).collect())
    }
}

impl RuleMeters {
    /// Counts events with this outcome.
    pub fn add(&self, outcome: usize, events: u64) {
        if let Some(counter) = self.0.get(outcome).filter(|_| events > 0) {
            counter.inc_by(events);
        }
    }
}

impl Metrics {
    /// The counters of an app's flow rules, by these outcomes.
    pub fn flow(&self, id: &str, outcomes: &'static [&'static str]) -> FlowMeters {
        FlowMeters::new(&self.by_app.flow, outcomes, id, &self.port)
    }
}

impl AppMeters {
    /// Counts deliveries that wait because a reader is behind on a channel with a flow rule.
    pub fn behind(&self, rule: &str, deliveries: u64) {
        if deliveries > 0 {
            self.flow.with_label_values(&[&self.id, &self.port, rule, "behind"]).inc_by(deliveries);
        }
    }
}
