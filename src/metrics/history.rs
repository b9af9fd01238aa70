//! The counters of what users get of the history. An app has none before the first of them.
//! The registry counts by [`HistoryMeters`].

use prometheus::GaugeVec;
use prometheus::IntCounterVec;

use crate::metrics::APP;
use crate::metrics::Metrics;
use crate::metrics::Registrar;

/// The counters of all apps.
#[derive(Debug, Clone)]
pub(super) struct HistoryFamilies {
    bytes: GaugeVec,
    evicted: IntCounterVec,
    replayed: IntCounterVec,
    gaps: IntCounterVec,
    missed: IntCounterVec,
}

/// The counters of one app.
#[derive(Debug)]
pub struct HistoryMeters {
    families: HistoryFamilies,
    id: String,
    port: String,
}

impl HistoryFamilies {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        Self {
            bytes: own.gauge("history_bytes", "Bytes of the events that are kept for returning users", APP),
            evicted: own.counter(
                "history_evicted_total",
                "Kept events dropped before their time, because history_bytes_max was reached",
                APP,
            ),
            replayed: own.counter("history_replayed_total", "Kept events sent to clients that joined", APP),
            gaps: own.counter("history_gaps_total", "Returning clients told that events are missing", APP),
            missed: own.counter("history_missed_total", "Events missing in those gaps", APP),
        }
    }

    pub(super) fn forget(&self, labels: &[&str]) {
        // A missing series need not be removed.
        let _ = self.bytes.remove_label_values(labels);
        for counters in [&self.evicted, &self.replayed, &self.gaps, &self.missed] {
            let _ = counters.remove_label_values(labels);
        }
    }
}

impl HistoryMeters {
    /// Counts events that a client got when it joined.
    pub fn replayed(&self, events: usize) {
        if events > 0 {
            self.families.replayed.with_label_values(&self.labels()).inc_by(events as u64);
        }
    }

    /// Counts a gap, and the events that are missing if their number is known.
    pub fn gap(&self, missed: Option<u64>) {
        self.families.gaps.with_label_values(&self.labels()).inc();
        self.families.missed.with_label_values(&self.labels()).inc_by(missed.unwrap_or_default());
    }

    /// Reports the bytes of all kept events, and how many events were dropped for want of them.
    pub fn report(&self, bytes: usize, evicted: u64) {
        self.families.bytes.with_label_values(&self.labels()).set(bytes as f64);
        if evicted > 0 {
            self.families.evicted.with_label_values(&self.labels()).inc_by(evicted);
        }
    }

    fn labels(&self) -> [&str; 2] {
        [&self.id, &self.port]
    }
}

impl Metrics {
    /// The counters of an app's history.
    pub fn history(&self, id: &str) -> HistoryMeters {
        HistoryMeters { families: self.by_app.history.clone(), id: id.to_owned(), port: self.port.clone() }
    }
}
