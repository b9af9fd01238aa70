//! Counts events that did not reach their reader.
//! `AppMeters` counts here; a series begins with its first event.

use std::sync::OnceLock;

use prometheus::IntCounter;
use prometheus::IntCounterVec;

/// Why events did not reach a connection. The names are values of the label `cause` of `gema_drops_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// The connection read too slowly, and was closed with 4100.
    SlowReader,
    /// The connection was gone.
    Disconnected,
}

impl DropCause {
    /// All causes.
    const ALL: [Self; 2] = [Self::SlowReader, Self::Disconnected];

    fn label(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::Disconnected => "disconnected",
        }
    }
}

/// The counters of one app, by cause.
#[derive(Debug)]
pub(super) struct DropMeters {
    family: IntCounterVec,
    id: String,
    port: String,
    by_cause: [OnceLock<IntCounter>; DropCause::ALL.len()],
}

impl DropMeters {
    pub(super) fn new(family: &IntCounterVec, id: &str, port: &str) -> Self {
        Self { family: family.clone(), id: id.to_owned(), port: port.to_owned(), by_cause: Default::default() }
    }

    pub(super) fn add(&self, cause: DropCause, events: u64) {
        let counter = || self.family.with_label_values(&[&*self.id, &*self.port, cause.label()]);
        self.by_cause[cause as usize].get_or_init(counter).inc_by(events);
    }

    /// The events of all causes.
    pub(super) fn sum(&self) -> u64 {
        self.by_cause.iter().filter_map(OnceLock::get).map(IntCounter::get).sum()
    }

    /// Removes the series of the app.
    pub(super) fn forget(&self) {
        for cause in DropCause::ALL {
            // A missing series need not be removed.
            let _ = self.family.remove_label_values(&[&*self.id, &*self.port, cause.label()]);
        }
    }
}
