//! The metrics of the cluster.
//! `cluster` counts here.

use std::time::Duration;

use prometheus::Gauge;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use super::APP;
use super::Registrar;

/// The link to Redis and to the other nodes.
#[derive(Debug, Clone)]
pub struct ClusterMeters {
    /// 1 while there is a link.
    pub up: IntGauge,
    /// Links made.
    pub connects: IntCounter,
    /// When the link was last lost, in seconds since 1970.
    pub last_lost: Gauge,
    /// Nodes of the cluster, this one included.
    pub nodes: IntGauge,
    /// Commands that Redis has not executed yet.
    pub waiting: IntGauge,
    /// Bytes of the events among them.
    pub waiting_bytes: IntGauge,
    /// From accepting an event on another node to handing it to the shards here, in seconds.
    pub latency: Histogram,
    messages: IntCounterVec,
    dropped: IntCounterVec,
    errors: IntCounter,
    queries: PeerQueries,
    port: String,
}

/// Queries about other nodes, under Soketi's names: most go to Redis, those that close a user's connections to the
/// nodes.
#[derive(Debug, Clone)]
struct PeerQueries {
    sent: IntCounterVec,
    answered: IntCounterVec,
    unanswered: IntCounterVec,
    received: IntCounterVec,
    received_answers: IntCounterVec,
    /// In milliseconds, as Soketi has it.
    time: HistogramVec,
}

/// Why a message from or for another node is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerDropCause {
    /// Not of gema, or damaged.
    Malformed,
    /// Of another version of gema.
    Version,
    /// Received before.
    Duplicate,
    /// The shards here lag too far behind.
    Overloaded,
    /// Accepted before there was a link, and too many of these.
    BeforeLink,
    /// Did not fit among those that wait for Redis, where the operator wants nobody refused.
    Outage,
    /// With an impossible number.
    Implausible,
}

impl PeerDropCause {
    fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Duplicate => "duplicate",
            Self::Overloaded => "overloaded",
            Self::BeforeLink => "unheard",
            Self::Outage => "outage",
            Self::Implausible => "implausible",
        }
    }
}

impl ClusterMeters {
    pub(super) fn new(own: &Registrar<'_>, soketi: &Registrar<'_>, port: &str) -> Self {
        let gauge = |name: &str, help: &str| own.register(IntGauge::new(format!("gema_{name}"), help));
        let counter = |name: &str, help: &str| own.register(IntCounter::new(format!("gema_{name}"), help));
        let latency = HistogramOpts::new(
            "gema_cluster_publish_to_delivery_seconds",
            "From another node's accepting an event to handing it to the shards here, by the clocks of both",
        )
        .buckets(vec![0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        Self {
            up: gauge("redis_up", "Whether there is a link to Redis, or to NATS"),
            connects: counter("redis_connects_total", "Links to Redis, or to NATS, made"),
            last_lost: own.register(Gauge::new(
                "gema_redis_last_lost_timestamp_seconds",
                "When the link to Redis, or to NATS, was last lost; 0 for never",
            )),
            errors: counter("redis_errors_total", "Commands that Redis, or NATS, has refused"),
            nodes: gauge("cluster_nodes", "Nodes of the cluster, this one included"),
            waiting: gauge("cluster_waiting", "Orders for the other nodes that Redis, or NATS, has not taken yet"),
            waiting_bytes: gauge("cluster_waiting_bytes", "Bytes of memory for the events among them"),
            latency: own.register(Histogram::with_opts(latency)),
            messages: own.counter("cluster_messages_total", "Events from and to other nodes", &["direction"]),
            dropped: own.counter("cluster_dropped_total", "Word between nodes that was dropped, by cause", &["cause"]),
            queries: PeerQueries::new(soketi),
            port: port.to_owned(),
        }
    }

    /// Counts a query about an app, with the time to its answer; `None` without an answer.
    pub fn query_finished(&self, app: &str, took: Option<Duration>) {
        let labels = &[app, &self.port];
        self.queries.sent.with_label_values(labels).inc();
        // Present from the first query on, even at zero.
        let unanswered = self.queries.unanswered.with_label_values(labels);
        match took {
            Some(took) => {
                self.queries.answered.with_label_values(labels).inc();
                self.queries.time.with_label_values(labels).observe(took.as_secs_f64() * 1000.0);
            }
            None => unanswered.inc(),
        }
    }

    /// Removes the series of an app.
    pub(super) fn forget_app(&self, id: &str) {
        let labels = [id, &*self.port];
        let PeerQueries { sent, answered, unanswered, received, received_answers, time } = &self.queries;
        for counters in [sent, answered, unanswered, received, received_answers] {
            // Series without a query do not exist.
            let _ = counters.remove_label_values(&labels);
        }
        let _ = time.remove_label_values(&labels);
    }

    /// Counts a query of another node.
    pub fn query_received(&self, app: &str) {
        self.queries.received.with_label_values(&[app, &self.port]).inc();
    }

    /// Counts another node's answer to a query of this one.
    pub fn answer_received(&self, app: &str) {
        self.queries.received_answers.with_label_values(&[app, &self.port]).inc();
    }

    /// Counts events that other nodes have sent.
    pub fn received(&self, events: u64) {
        self.messages.with_label_values(&["in"]).inc_by(events);
    }

    /// Counts events that were published to other nodes.
    pub fn published(&self, events: u64) {
        self.messages.with_label_values(&["out"]).inc_by(events);
    }

    /// Counts messages that were dropped.
    pub fn dropped(&self, cause: PeerDropCause, messages: u64) {
        self.dropped.with_label_values(&[cause.label()]).inc_by(messages);
    }

    /// Counts a command that Redis has refused.
    pub fn refused(&self) {
        self.errors.inc();
    }
}

impl PeerQueries {
    fn new(soketi: &Registrar<'_>) -> Self {
        let counter = |name: &str, help: &str| soketi.counter(&format!("horizontal_adapter_{name}"), help, APP);
        let time = HistogramOpts::new(
            format!("{}horizontal_adapter_resolve_time", soketi.prefix),
            "Milliseconds until all was answered about the other nodes",
        )
        .buckets(vec![0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0]);
        Self {
            sent: counter("sent_requests", "Questions about the other nodes, to them or to Redis"),
            answered: counter("resolved_promises", "Questions about the other nodes that were answered"),
            unanswered: counter("uncomplete_promises", "Questions about the other nodes without an answer"),
            received: counter("received_requests", "Questions of other nodes"),
            received_answers: counter("received_responses", "Answers of other nodes"),
            time: soketi.register(HistogramVec::new(time, APP)),
        }
    }
}
