//! Events counted by their names, of which there may only be so many.

use std::collections::HashMap;

use parking_lot::RwLock;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

/// Names of an app that are counted apart, in the order in which they appear. The others are counted together.
const NAMES_MAX: usize = 100;
/// What stands for clients' events.
const CLIENTS: &str = "client-*";
/// What stands for the others; no publisher may use it.
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
    /// None so far; those of clients, whose names are anybody's, have a place for sure.
    pub(super) fn new(counters: IntCounterVec, id: &str, port: &str) -> Self {
        let clients = counters.with_label_values(&[id, CLIENTS, port]);
        let known = RwLock::new(HashMap::from([(CLIENTS.into(), clients)]));
        Self { counters, id: id.to_owned(), port: port.to_owned(), known }
    }

    /// The app has gone, and with it all its series.
    pub(super) fn forget(&self) {
        for name in self.known.read().keys() {
            // What is not there need not be removed.
            let _ = self.counters.remove_label_values(&[&*self.id, &**name, &*self.port]);
        }
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
