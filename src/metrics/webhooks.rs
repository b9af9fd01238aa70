//! The metrics of webhooks.
//! `webhook` counts here.

use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

use super::APP;
use super::Registrar;

/// Values of the label `result`.
const REQUEST_RESULTS: [&str; 2] = ["delivered", "failed"];
const EVENT_RESULTS: [&str; 3] = ["delivered", "expired", "dropped"];

/// The webhooks of all apps.
#[derive(Debug, Clone)]
pub struct WebhookMeters {
    waiting: GaugeVec,
    waiting_bytes: GaugeVec,
    oldest: GaugeVec,
    requests: IntCounterVec,
    retries: IntCounterVec,
    events: IntCounterVec,
    /// Events dropped before they reached the dispatcher.
    pub unsorted: IntCounter,
    port: String,
}

/// The webhooks of one app.
#[derive(Debug, Clone)]
pub struct AppWebhookMeters {
    /// Events that wait for delivery, to any endpoint.
    pub waiting: Gauge,
    /// The bytes of these events.
    pub waiting_bytes: Gauge,
    /// The age of the oldest of these events, in seconds.
    pub oldest: Gauge,
    /// Requests that were answered with 2xx.
    pub delivered: IntCounter,
    /// Requests that failed.
    pub failed: IntCounter,
    /// Attempts after the first.
    pub retries: IntCounter,
    /// Events that were delivered.
    pub delivered_events: IntCounter,
    /// Events given up after the last attempt.
    pub expired_events: IntCounter,
    /// Events dropped because too many waited.
    pub dropped_events: IntCounter,
}

impl WebhookMeters {
    pub(super) fn new(own: &Registrar<'_>, port: &str) -> Self {
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

    /// Removes the series of an app.
    pub fn forget_app(&self, id: &str) {
        let of_app = [id, &*self.port];
        // They exist since the app was added.
        for gauges in [&self.waiting, &self.waiting_bytes, &self.oldest] {
            let _ = gauges.remove_label_values(&of_app);
        }
        let _ = self.retries.remove_label_values(&of_app);
        for result in REQUEST_RESULTS {
            let _ = self.requests.remove_label_values(&[id, &*self.port, result]);
        }
        for result in EVENT_RESULTS {
            let _ = self.events.remove_label_values(&[id, &*self.port, result]);
        }
    }

    /// The counters of one app.
    pub fn app(&self, id: &str) -> AppWebhookMeters {
        let of_app = &[id, &*self.port];
        let with = |counters: &IntCounterVec, result| counters.with_label_values(&[id, &*self.port, result]);
        let [delivered, failed] = REQUEST_RESULTS.map(|result| with(&self.requests, result));
        let [delivered_events, expired_events, dropped_events] = EVENT_RESULTS.map(|result| with(&self.events, result));
        AppWebhookMeters {
            waiting: self.waiting.with_label_values(of_app),
            waiting_bytes: self.waiting_bytes.with_label_values(of_app),
            oldest: self.oldest.with_label_values(of_app),
            delivered,
            failed,
            retries: self.retries.with_label_values(of_app),
            delivered_events,
            expired_events,
            dropped_events,
        }
    }
}
