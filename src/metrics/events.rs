//! Counts events by name, for a limited number of names.
//! `AppMeters` counts each published event here.

use std::collections::HashMap;

use parking_lot::RwLock;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

/// Names per app that are counted apart, in the order of their first events. The others are counted together.
const NAMES_MAX: usize = 100;
/// The label of client events.
const CLIENTS: &str = "client-*";
/// The label of the other events; no publisher may use it.
const OTHERS: &str = "pusher:others";

/// The events of one app.
#[derive(Debug)]
pub(super) struct EventNames {
    counters: IntCounterVec,
    id: String,
    port: String,
    known: RwLock<HashMap<Box<str>, IntCounter>>,
}

impl EventNames {
    /// Counters at zero. Client events have a counter of their own, since their names can be anything.
    pub(super) fn new(counters: IntCounterVec, id: &str, port: &str) -> Self {
        let clients = counters.with_label_values(&[id, CLIENTS, port]);
        let known = RwLock::new(HashMap::from([(CLIENTS.into(), clients)]));
        Self { counters, id: id.to_owned(), port: port.to_owned(), known }
    }

    /// Removes the series of the app.
    pub(super) fn forget(&self) {
        for name in self.known.read().keys() {
            // A missing series need not be removed.
            let _ = self.counters.remove_label_values(&[&*self.id, &**name, &*self.port]);
        }
    }

    /// How many events of publishers, and how many of clients.
    pub(super) fn sums(&self) -> (u64, u64) {
        let known = self.known.read();
        let clients = known.get(CLIENTS).map_or(0, IntCounter::get);
        let all: u64 = known.values().map(IntCounter::get).sum();
        (all.saturating_sub(clients), clients)
    }

    pub(super) fn count_clients(&self) {
        self.count(CLIENTS);
    }

    pub(super) fn count(&self, name: &str) {
        if let Some(counter) = self.known.read().get(name) {
            return counter.inc();
        }
        let mut known = self.known.write();
        let name = if known.contains_key(name) || known.len() < NAMES_MAX { name } else { OTHERS };
        let counter = || self.counters.with_label_values(&[&*self.id, name, &*self.port]);
        known.entry(name.into()).or_insert_with(counter).inc();
    }
}
