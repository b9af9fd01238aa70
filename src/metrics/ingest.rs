//! The metrics of Laravel's `redis` broadcaster.
//! `ingest` counts here.

use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use super::Registrar;

/// The connection to Redis for Laravel's events.
#[derive(Debug, Clone)]
pub struct IngestMeters {
    /// 1 while there is a connection.
    pub up: IntGauge,
    /// Events handed to the shards.
    pub messages: IntCounter,
    dropped: IntCounterVec,
}

/// Why a message is dropped. The names are values of the label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IngestDropCause {
    /// Not an event of Laravel.
    Foreign,
    /// Plaintext for an encrypted channel.
    Encrypted,
    /// More than the app allows, a reserved name, or what a rule for channels forbids.
    Refused,
    /// There is no such app, or it is disabled.
    NoApp,
    /// The shards lag too far behind.
    Overloaded,
}

impl IngestDropCause {
    const ALL: [Self; 5] = [Self::Foreign, Self::Encrypted, Self::Refused, Self::NoApp, Self::Overloaded];

    fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Encrypted => "encrypted",
            Self::Refused => "refused",
            Self::NoApp => "no_app",
            Self::Overloaded => "overloaded",
        }
    }
}

impl IngestMeters {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        let dropped =
            own.counter("ingest_dropped_total", "Messages of Redis that were not delivered, by cause", &["cause"]);
        // Present from the start, so that an alert sees the first one.
        for cause in IngestDropCause::ALL {
            dropped.with_label_values(&[cause.label()]);
        }
        let messages = IntCounter::new("gema_ingest_messages_total", "Events of Laravel's redis broadcaster delivered");
        let up = IntGauge::new("gema_ingest_up", "Whether Laravel's redis broadcaster is listened to");
        Self { up: own.register(up), messages: own.register(messages), dropped }
    }

    /// Counts a message that is not delivered.
    pub fn dropped(&self, cause: IngestDropCause) {
        self.dropped.with_label_values(&[cause.label()]).inc();
    }
}
