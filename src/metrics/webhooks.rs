//! What is counted of webhooks.

use std::collections::HashSet;

use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

use super::APP;
use super::Maker;
use super::forget::forget;

/// The webhooks of all apps.
#[derive(Debug, Clone)]
pub struct WebhookMeters {
    waiting: GaugeVec,
    waiting_bytes: GaugeVec,
    oldest: GaugeVec,
    requests: IntCounterVec,
    retries: IntCounterVec,
    events: IntCounterVec,
    /// Events dropped before it was known who wants to hear of them.
    pub unsorted: IntCounter,
    port: String,
}

/// The webhooks of one app.
#[derive(Debug, Clone)]
pub struct AppWebhookMeters {
    /// Events that have not been delivered yet, to whichever endpoint.
    pub waiting: Gauge,
    /// Their bytes.
    pub waiting_bytes: Gauge,
    /// How long the oldest of them has been waiting, in seconds.
    pub oldest: Gauge,
    /// Requests that were answered with 2xx.
    pub delivered: IntCounter,
    /// Requests that were not.
    pub failed: IntCounter,
    /// Those that were a request's second or later try.
    pub retries: IntCounter,
    /// Events that were delivered.
    pub delivered_events: IntCounter,
    /// Events given up after the last try.
    pub expired_events: IntCounter,
    /// Events dropped because too many waited.
    pub dropped_events: IntCounter,
}

impl WebhookMeters {
    pub(super) fn new(own: &Maker<'_>, port: &str) -> Self {
        let result = &["app_id", "port", "result"];
        let unsorted = "Events dropped before it was known who wants to hear of them";
        Self {
            waiting: own.gauge("webhook_events_waiting", "Events for webhooks that are not delivered yet", APP),
            waiting_bytes: own.gauge("webhook_bytes_waiting", "Bytes of the events that are not delivered yet", APP),
            oldest: own.gauge("webhook_oldest_seconds", "How long the oldest event has been waiting", APP),
            requests: own.counter("webhook_requests_total", "Requests to webhooks, by result", result),
            retries: own.counter("webhook_retries_total", "Requests to webhooks that were sent again", APP),
            events: own.counter("webhook_events_total", "Events for webhooks, by what became of them", result),
            unsorted: own.register(IntCounter::new("gema_webhook_unsorted_dropped_total", unsorted)),
            port: port.to_owned(),
        }
    }

    /// Apps have gone, and with them their series.
    pub fn forget_apps(&self, ids: &HashSet<&str>) {
        for gauges in [&self.waiting, &self.waiting_bytes, &self.oldest] {
            forget(gauges, ids);
        }
        for counters in [&self.requests, &self.retries, &self.events] {
            forget(counters, ids);
        }
    }

    /// Those of one app.
    pub fn app(&self, id: &str) -> AppWebhookMeters {
        let of_app = &[id, &*self.port];
        let with = |counters: &IntCounterVec, result| counters.with_label_values(&[id, &*self.port, result]);
        AppWebhookMeters {
            waiting: self.waiting.with_label_values(of_app),
            waiting_bytes: self.waiting_bytes.with_label_values(of_app),
            oldest: self.oldest.with_label_values(of_app),
            delivered: with(&self.requests, "delivered"),
            failed: with(&self.requests, "failed"),
            retries: self.retries.with_label_values(of_app),
            delivered_events: with(&self.events, "delivered"),
            expired_events: with(&self.events, "expired"),
            dropped_events: with(&self.events, "dropped"),
        }
    }
}
