//! What browsers and the back end have seen, counted.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Faults that are written out; of more only the number counts.
const WRITTEN_MAX: usize = 50;

/// Counts of the whole run.
#[derive(Debug, Default)]
pub struct Tally {
    pub opened: AtomicU64,
    /// Connections that were not established at the first try.
    pub turned_away: AtomicU64,
    pub delivered: AtomicU64,
    pub member_changes: AtomicU64,
    pub published: AtomicU64,
    pub webhook_events: AtomicU64,
    pub restarts: AtomicU64,
    faults: AtomicU64,
    written: Mutex<Vec<String>>,
}

impl Tally {
    /// Something that must not happen.
    pub fn fault(&self, what: String) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut written = self.written.lock().unwrap();
        if written.len() < WRITTEN_MAX {
            written.push(what);
        }
    }

    /// How many things happened that must not, and the first ones.
    pub fn faults(&self) -> (u64, Vec<String>) {
        (self.faults.load(Ordering::Relaxed), self.written.lock().unwrap().clone())
    }
}

/// Counts one more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
