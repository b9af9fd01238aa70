//! The counters of flow rules.
//! The registry counts what becomes of each event that a rule thins.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

use crate::metrics::AppMeters;
use crate::metrics::Metrics;

/// The fates of an event that a rule takes, as the metrics name them.
const TAKEN: [&str; 5] = ["delivered", "replaced", "merged", "dropped", "skipped"];
/// The outcomes of events that a rule sends on.
const SENT: [&str; 2] = ["delivered", "made"];

/// The counters of an app's flow rules.
#[derive(Debug, Clone)]
pub struct FlowMeters {
    events: IntCounterVec,
    outcomes: &'static [&'static str],
    id: String,
    port: String,
    rules: Arc<RuleList>,
}

/// The counters of one rule, by outcome.
#[derive(Debug, Clone)]
pub struct RuleMeters(Arc<[IntCounter]>);

/// Events of one flow rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinned {
    /// Events that the rule has taken.
    pub taken: u64,
    /// Events that it has sent on.
    pub sent: u64,
}

/// The rules of an app that have had a channel.
#[derive(Debug)]
pub(super) struct RuleList {
    by_pattern: Mutex<HashMap<Arc<str>, RuleMeters>>,
    /// The numbers of the outcomes in [`TAKEN`].
    taken: Vec<usize>,
    /// Like `taken`, in [`SENT`].
    sent: Vec<usize>,
}

impl RuleList {
    fn new(outcomes: &[&str]) -> Self {
        let numbers = |of: &[&str]| (0..outcomes.len()).filter(|number| of.contains(&outcomes[*number])).collect();
        Self { by_pattern: Mutex::default(), taken: numbers(&TAKEN), sent: numbers(&SENT) }
    }

    /// Calls `f` with the pattern and the events of each rule that has thinned any.
    pub(super) fn each(&self, mut f: impl FnMut(&Arc<str>, Thinned)) {
        for (pattern, RuleMeters(counters)) in &*self.by_pattern.lock() {
            let sum = |numbers: &[usize]| numbers.iter().map(|number| counters[*number].get()).sum();
            let thinned = Thinned { taken: sum(&self.taken), sent: sum(&self.sent) };
            if thinned != Thinned::default() {
                f(pattern, thinned);
            }
        }
    }
}

impl FlowMeters {
    /// The counters of the rules with this pattern.
    pub fn rule(&self, pattern: &str) -> RuleMeters {
        let mut rules = self.rules.by_pattern.lock();
        if let Some(known) = rules.get(pattern) {
            return known.clone();
        }
        let counter = |outcome: &&str| self.events.with_label_values(&[&*self.id, &*self.port, pattern, outcome]);
        let meters = RuleMeters(self.outcomes.iter().map(counter).collect());
        rules.insert(pattern.into(), meters.clone());
        meters
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
        let rules = Arc::new(RuleList::new(outcomes));
        self.summed.add_rules(id, Arc::clone(&rules));
        let events = self.by_app.flow.clone();
        FlowMeters { events, outcomes, id: id.to_owned(), port: self.port.clone(), rules }
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
