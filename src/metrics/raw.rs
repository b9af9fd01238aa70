//! The counters of raw clients. An app has none before its first such client comes.
//! `session` counts by the methods of [`AppMeters`].

use prometheus::GaugeVec;
use prometheus::IntCounterVec;

use crate::metrics::APP;
use crate::metrics::AppMeters;
use crate::metrics::Registrar;

#[derive(Debug, Clone)]
pub(super) struct RawMeters {
    connections: GaugeVec,
    ignored: IntCounterVec,
}

impl RawMeters {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        Self {
            connections: own.gauge("raw_connections", "Open connections of raw clients", APP),
            ignored: own.counter("raw_messages_ignored_total", "Messages of raw clients, which are ignored", APP),
        }
    }

    pub(super) fn forget(&self, labels: &[&str]) {
        // A missing series need not be removed.
        let _ = self.connections.remove_label_values(labels);
        let _ = self.ignored.remove_label_values(labels);
    }
}

impl AppMeters {
    /// Counts a connection of a raw client.
    pub fn raw_opened(&self) {
        self.raw.connections.with_label_values(&[&self.id, &self.port]).inc();
    }

    /// Ceases to count a connection of a raw client.
    pub fn raw_closed(&self) {
        self.raw.connections.with_label_values(&[&self.id, &self.port]).dec();
    }

    /// Counts a message of a raw client.
    pub fn raw_ignored(&self) {
        self.raw.ignored.with_label_values(&[&self.id, &self.port]).inc();
    }
}
