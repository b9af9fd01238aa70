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
    /// Visits that ended by falling asleep.
    pub asleep: AtomicU64,
    /// Events that browsers did not get, got twice, or got after a later one.
    pub lost: AtomicU64,
    pub doubled: AtomicU64,
    pub late: AtomicU64,
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

    /// Events lost, doubled or out of order so far.
    pub fn wrong_events(&self) -> u64 {
        [&self.lost, &self.doubled, &self.late].iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// What happened that must not.
    pub fn sentence(&self) -> Option<String> {
        let faults = self.faults.load(Ordering::Relaxed);
        (faults > 0).then(|| format!("{faults} faults, such as {:#?}", self.written.lock().unwrap()))
    }

    /// All counts with their names.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = [
            ("visits", &self.opened),
            ("visits that ended asleep", &self.asleep),
            ("turned away", &self.turned_away),
            ("events published", &self.published),
            ("delivered", &self.delivered),
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("out of order", &self.late),
            ("changes of members", &self.member_changes),
            ("events in webhooks", &self.webhook_events),
            ("restarts", &self.restarts),
            ("faults", &self.faults),
        ];
        counts.into_iter().map(|(name, counter)| (name, counter.load(Ordering::Relaxed))).collect()
    }
}

/// Counts one more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
