//! The sums of all apps, for the page of figures.
//! `dashboard` reads them once a second. Nothing is added to what is counted: the sums read the counters by their
//! handles, since reading whole families with their labels takes a hundred times as long.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::IntCounter;
use prometheus::core::Metric;

use crate::metrics::Metrics;
use crate::metrics::drops::DropMeters;
use crate::metrics::events::EventNames;
use crate::metrics::flow::RuleList;
use crate::metrics::flow::Thinned;

/// The present values of the counters, all apps together. They only grow, unless an app is removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sums {
    /// Events accepted from publishers and clients.
    pub events: u64,
    /// Events of clients.
    pub client_events: u64,
    /// Events handed to sockets.
    pub deliveries: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Events that did not reach their reader.
    pub drops: u64,
    /// Events under flow rules by app and rule, of the rules that have thinned any.
    pub flow: HashMap<(Arc<str>, Arc<str>), Thinned>,
    /// Publishes by app, without those of clients, of the apps that have any.
    pub publishes: HashMap<Arc<str>, u64>,
    /// From accepting an event to writing it: the upper bounds in seconds, and how many events are within.
    pub latency: Vec<(f64, u64)>,
}

/// The handles of all apps.
#[derive(Debug, Default)]
pub(super) struct Summed {
    apps: Mutex<HashMap<Arc<str>, Handles>>,
    rules: Mutex<HashMap<Arc<str>, Arc<RuleList>>>,
}

/// The counters of one app that are summed.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) deliveries: IntCounter,
    pub(super) transmitted_bytes: IntCounter,
    pub(super) drops: Arc<DropMeters>,
    pub(super) events: Arc<EventNames>,
}

impl Summed {
    pub(super) fn add(&self, app: &str, handles: Handles) {
        self.apps.lock().insert(app.into(), handles);
    }

    pub(super) fn add_rules(&self, app: &str, rules: Arc<RuleList>) {
        self.rules.lock().insert(app.into(), rules);
    }

    pub(super) fn forget(&self, app: &str) {
        self.apps.lock().remove(app);
        self.rules.lock().remove(app);
    }
}

impl Metrics {
    /// The present values of the counters.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for (app, handles) in &*self.summed.apps.lock() {
            let (publishes, client_events) = handles.events.sums();
            sums.events += publishes + client_events;
            sums.client_events += client_events;
            sums.deliveries += handles.deliveries.get();
            sums.bytes_out += handles.transmitted_bytes.get();
            sums.drops += handles.drops.sum();
            if publishes > 0 {
                sums.publishes.insert(Arc::clone(app), publishes);
            }
        }
        for (app, rules) in &*self.summed.rules.lock() {
            rules.each(|rule, thinned| {
                sums.flow.insert((Arc::clone(app), Arc::clone(rule)), thinned);
            });
        }
        let histogram = self.publish_to_socket.metric();
        let histogram = histogram.get_histogram();
        let buckets = histogram.get_bucket().iter();
        sums.latency = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
        sums.latency.push((f64::INFINITY, histogram.get_sample_count()));
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Instant;

    use super::*;
    use crate::metrics::DropCause;

    const OUTCOMES: &[&str] = &["delivered", "replaced", "made"];

    #[test]
    fn the_sums_are_those_of_all_apps_and_a_removed_one_leaves_them() {
        let metrics = Metrics::new("soketi_", 6001, false);
        assert_eq!(metrics.sums().events, 0);
        let [a, b] = ["a", "b"].map(|id| metrics.app(id));
        (0..3).for_each(|_| a.event("shipped"));
        b.event("paid");
        b.client_event();
        a.deliveries.inc_by(5);
        a.transmitted_bytes.inc_by(70);
        b.dropped(DropCause::SlowReader, 2);
        b.dropped(DropCause::Disconnected, 1);
        let rule = metrics.flow("a", OUTCOMES).rule("scada-*");
        [(0, 1), (1, 8), (2, 1)].into_iter().for_each(|(outcome, events)| rule.add(outcome, events));
        let sums = metrics.sums();
        assert_eq!((sums.events, sums.client_events, sums.deliveries, sums.bytes_out, sums.drops), (5, 1, 5, 70, 3));
        assert_eq!(sums.publishes, HashMap::from([("a".into(), 3), ("b".into(), 1)]));
        let thinned = Thinned { taken: 9, sent: 2 };
        assert_eq!(sums.flow, HashMap::from([(("a".into(), "scada-*".into()), thinned)]));
        metrics.forget_app(&a, &metrics.find(&HashSet::from(["a"])));
        let sums = metrics.sums();
        assert_eq!((sums.events, sums.deliveries, sums.flow.len()), (2, 0, 0));
    }

    /// The figure, for whoever asks: `cargo test --lib ten_thousand -- --nocapture`.
    #[test]
    fn ten_thousand_apps_are_summed_without_reading_their_labels() {
        let metrics = Metrics::new("soketi_", 6001, false);
        for number in 0..10_000 {
            let id = format!("app-{number}");
            let app = metrics.app(&id);
            ["shipped", "paid", "packed"].into_iter().for_each(|name| app.event(name));
            metrics.flow(&id, OUTCOMES).rule("scada-*").add(0, 1);
        }
        let began = Instant::now();
        let sums = metrics.sums();
        let summed = began.elapsed();
        let began = Instant::now();
        let text = metrics.text();
        println!("sums take {summed:?}, the text of the metrics ({} bytes) {:?}", text.len(), began.elapsed());
        assert_eq!((sums.events, sums.flow.len(), sums.publishes.len()), (30_000, 10_000, 10_000));
    }
}
