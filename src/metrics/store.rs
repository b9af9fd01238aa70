//! The metrics of the app store.
//! `store` counts here.

use std::time::Duration;

use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use super::Registrar;

/// The lookups and queries of the app store.
#[derive(Debug, Clone)]
pub struct StoreMeters {
    /// 1 while the database answers.
    pub up: IntGauge,
    seconds: Histogram,
    lookups: IntCounterVec,
    errors: IntCounterVec,
}

/// The source of an answer. The names are values of the label `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFrom {
    /// The cache.
    Cache,
    /// The database.
    Database,
    /// An old cache entry, since the database is away.
    Stale,
}

impl StoreMeters {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        let seconds = HistogramOpts::new("gema_app_store_query_seconds", "From asking the database to its answer")
            .buckets(vec![0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
        Self {
            up: own.register(IntGauge::new("gema_app_store_up", "Whether the database with the apps answers")),
            seconds: own.register(Histogram::with_opts(seconds)),
            lookups: own.counter("app_store_lookups_total", "Apps asked for, by who answered", &["from"]),
            errors: own.counter("app_store_errors_total", "Lookups and rows without use, by cause", &["cause"]),
        }
    }

    /// Counts a lookup.
    pub fn answered(&self, from: AnswerFrom) {
        let from = match from {
            AnswerFrom::Cache => "cache",
            AnswerFrom::Database => "database",
            AnswerFrom::Stale => "stale",
        };
        self.lookups.with_label_values(&[from]).inc();
    }

    /// Counts a query that was answered.
    pub fn queried(&self, took: Duration) {
        self.up.set(1);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a query that failed.
    pub fn unavailable(&self) {
        self.up.set(0);
        self.errors.with_label_values(&["unavailable"]).inc();
    }

    /// Counts a lookup whose query was not sent, since too many wait.
    pub fn not_asked(&self) {
        self.errors.with_label_values(&["too_many"]).inc();
    }

    /// Counts webhooks that are left out of an app.
    pub fn left_out(&self, webhooks: u64) {
        self.errors.with_label_values(&["unusable_webhook"]).inc_by(webhooks);
    }

    /// Counts a row that is not a valid app.
    pub fn unusable(&self) {
        self.errors.with_label_values(&["unusable_row"]).inc();
    }
}
