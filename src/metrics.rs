//! The metrics of the process, under Soketi's names where it has one.
//! Every module counts here; `http::health` serves them, and sets the gauges first.

mod cluster;
mod compression;
mod dashboard;
mod drops;
mod events;
mod flow;
mod forget;
mod history;
mod idempotency;
mod ingest;
mod json;
mod log;
#[cfg(target_os = "linux")]
mod process;
mod raw;
mod store;
mod sums;
mod usage;
mod webhooks;

use std::collections::HashSet;
use std::sync::Arc;

use prometheus::Encoder;
use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

pub use cluster::ClusterMeters;
pub use cluster::PeerDropCause;
pub use compression::CompressionMeters;
pub use dashboard::DashboardMeters;
pub use drops::DropCause;
pub use flow::FlowMeters;
pub use flow::RuleMeters;
pub use flow::Thinned;
pub use forget::Found;
pub use history::HistoryMeters;
pub use idempotency::IdempotencyMeters;
pub use ingest::IngestDropCause;
pub use ingest::IngestMeters;
pub use log::Unwritten;
pub use log::count_unwritten;
pub use store::AnswerFrom;
pub use store::StoreMeters;
pub use sums::Sums;
pub use usage::Usage;
pub use usage::usage;
pub use webhooks::AppWebhookMeters;
pub use webhooks::WebhookMeters;

use crate::metrics::drops::DropMeters;
use crate::metrics::events::EventNames;
use crate::metrics::history::HistoryFamilies;
use crate::metrics::raw::RawMeters;
use crate::metrics::sums::Handles;
use crate::metrics::sums::Summed;

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    port: String,
    by_app: ByApp,
    /// From accepting an event to handing it to the sockets of a shard, in seconds.
    pub publish_to_socket: Histogram,
    /// Bytes that wait for slow clients.
    pub outbox_bytes: IntGauge,
    /// Bytes of the events that cache channels store.
    pub cached_bytes: IntGauge,
    /// Stored events that were dropped early, for lack of memory.
    pub cache_forgotten: IntCounter,
    /// Memory that is held for slow clients; shared frames count once per shard.
    pub outbox_memory_bytes: IntGauge,
    /// Connections closed because of a panic while serving them; each is a fault of gema.
    pub panics: IntCounter,
    /// WebSocket handshakes over HTTP/1.0, or without `Upgrade` and `Connection`, as some proxies forward them.
    pub bare_handshakes: IntCounter,
    /// Shared rate limits that this node applied alone because Redis was away.
    pub limiter_local: IntCounter,
    /// Requests with an idempotency key.
    pub idempotency: IdempotencyMeters,
    /// The cluster's link, in a cluster.
    pub cluster: Option<ClusterMeters>,
    /// The webhooks.
    pub webhooks: WebhookMeters,
    summed: Summed,
}

/// The counters of one app, whose handles are made once.
#[derive(Debug, Clone)]
pub struct AppMeters {
    /// Open connections.
    pub connected: Gauge,
    /// Connections opened.
    pub new_connections: IntCounter,
    /// Connections closed.
    pub new_disconnections: IntCounter,
    /// Bytes of messages from clients.
    pub received_bytes: IntCounter,
    /// Bytes of messages to clients.
    pub transmitted_bytes: IntCounter,
    /// Messages from clients.
    pub messages_received: IntCounter,
    /// Messages to clients.
    pub messages_sent: IntCounter,
    /// Bytes of API request bodies.
    pub http_received_bytes: IntCounter,
    /// Bytes of API answers.
    pub http_transmitted_bytes: IntCounter,
    /// API requests that succeeded.
    pub http_calls: IntCounter,
    /// Events handed to subscribers' sockets.
    pub deliveries: IntCounter,
    /// Occupied channels.
    pub channels: Gauge,
    /// Signed-in users.
    pub users: Gauge,
    /// Subscriptions with a view of other channels.
    pub views: Gauge,
    events: Arc<EventNames>,
    drops: Arc<DropMeters>,
    forbidden: IntCounterVec,
    flow: IntCounterVec,
    raw: RawMeters,
    id: String,
    port: String,
}

#[derive(Debug)]
struct ByApp {
    connected: GaugeVec,
    new_connections: IntCounterVec,
    new_disconnections: IntCounterVec,
    received_bytes: IntCounterVec,
    transmitted_bytes: IntCounterVec,
    messages_received: IntCounterVec,
    messages_sent: IntCounterVec,
    http_received_bytes: IntCounterVec,
    http_transmitted_bytes: IntCounterVec,
    http_calls: IntCounterVec,
    deliveries: IntCounterVec,
    channels: GaugeVec,
    users: GaugeVec,
    views: GaugeVec,
    events: IntCounterVec,
    refusals: IntCounterVec,
    drops: IntCounterVec,
    forbidden: IntCounterVec,
    flow: IntCounterVec,
    history: HistoryFamilies,
    raw: RawMeters,
}

/// Creates metrics and registers them.
struct Registrar<'a> {
    registry: &'a Registry,
    prefix: &'a str,
}

impl Registrar<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels are fixed and valid");
        self.registry.register(Box::new(collector.clone())).expect("each name is registered once");
        collector
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(format!("{}{name}", self.prefix), help), labels))
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(format!("{}{name}", self.prefix), help), labels))
    }
}

const APP: &[&str] = &["app_id", "port"];
const APP_CAUSE: &[&str] = &["app_id", "port", "cause"];
const APP_CAUSE_CODE: &[&str] = &["app_id", "port", "cause", "code"];
const APP_EVENT: &[&str] = &["app_id", "event", "port"];
const APP_RULE: &[&str] = &["app_id", "port", "rule", "what"];
const APP_RULE_OUTCOME: &[&str] = &["app_id", "port", "rule", "outcome"];

impl ByApp {
    fn new(soketi: &Registrar<'_>, own: &Registrar<'_>) -> Self {
        Self {
            connected: soketi.gauge("connected", "Open connections", APP),
            new_connections: soketi.counter("new_connections_total", "Connections opened", APP),
            new_disconnections: soketi.counter("new_disconnections_total", "Connections closed", APP),
            received_bytes: soketi.counter("socket_received_bytes", "Bytes of messages from clients", APP),
            transmitted_bytes: soketi.counter("socket_transmitted_bytes", "Bytes of messages to clients", APP),
            messages_received: soketi.counter("ws_messages_received_total", "Messages from clients", APP),
            messages_sent: soketi.counter("ws_messages_sent_total", "Messages to clients", APP),
            http_received_bytes: soketi.counter("http_received_bytes", "Bytes of API request bodies", APP),
            http_transmitted_bytes: soketi.counter("http_transmitted_bytes", "Bytes of API answers", APP),
            http_calls: soketi.counter("http_calls_received_total", "API requests that succeeded", APP),
            deliveries: own.counter("deliveries_total", "Events handed to subscribers' sockets", APP),
            channels: own.gauge("channels", "Occupied channels", APP),
            users: own.gauge("users", "Signed-in users", APP),
            views: own.gauge("views", "Subscriptions that see other channels by a grant", APP),
            events: own.counter("events_total", "Events accepted for a channel, by name", APP_EVENT),
            refusals: own.counter("refusals_total", "What was refused, by cause and code", APP_CAUSE_CODE),
            drops: own.counter("drops_total", "Events that did not reach their reader, by cause", APP_CAUSE),
            forbidden: own.counter("policy_refusals_total", "What rules for channels forbade", APP_RULE),
            flow: own.counter("flow_events_total", "What became of events under flow rules", APP_RULE_OUTCOME),
            history: HistoryFamilies::new(own),
            raw: RawMeters::new(own),
        }
    }
}

impl Metrics {
    /// Metrics at zero. `prefix` stands before Soketi's names; `port` is the main port, a label; `clustered` in a
    /// cluster.
    pub fn new(prefix: &str, port: u16, clustered: bool) -> Self {
        let (registry, port) = (Registry::new(), port.to_string());
        let soketi = Registrar { registry: &registry, prefix };
        let own = Registrar { registry: &registry, prefix: "gema_" };
        let by_app = ByApp::new(&soketi, &own);
        let latency =
            HistogramOpts::new("gema_publish_to_socket_seconds", "From accepting an event to writing it to sockets")
                .buckets(vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]);
        let publish_to_socket = own.register(Histogram::with_opts(latency));
        let outbox_bytes = own.register(IntGauge::new("gema_outbox_bytes", "Bytes that wait for slow clients"));
        let outbox_memory_bytes = own.register(IntGauge::new(
            "gema_outbox_memory_bytes",
            "Memory held because clients are slow; what waits for many counts once a thread",
        ));
        let version = own.gauge("build_info", "1, for this version", &["version"]);
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let panics = own.register(IntCounter::new(
            "gema_panics_total",
            "Faults of gema that cost a connection or a turn of a flow rule",
        ));
        let bare_handshakes = own.register(IntCounter::new(
            "gema_bare_handshakes_total",
            "WebSocket handshakes over HTTP/1.0, or without Upgrade and Connection: a proxy drops them",
        ));
        let limiter_local = own.register(IntCounter::new(
            "gema_limiter_local_total",
            "Shared limits per second that this node has decided alone, because Redis was away",
        ));
        let cached_bytes =
            own.register(IntGauge::new("gema_cached_events_bytes", "Bytes of the events that cache channels remember"));
        let cache_forgotten = own.register(IntCounter::new(
            "gema_cached_events_forgotten_total",
            "Remembered events forgotten before their time, because server.cached_events_bytes_max was reached",
        ));
        let cluster = clustered.then(|| ClusterMeters::new(&own, &soketi, &port));
        let webhooks = WebhookMeters::new(&own, &port);
        log::register(&registry);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(process::Process::new(prefix, &port))).expect("each name is registered once");
        Self {
            by_app,
            publish_to_socket,
            outbox_bytes,
            cached_bytes,
            cache_forgotten,
            outbox_memory_bytes,
            panics,
            bare_handshakes,
            limiter_local,
            idempotency: IdempotencyMeters::new(&own),
            cluster,
            webhooks,
            summed: Summed::default(),
            port,
            registry,
        }
    }

    /// The counters of one app.
    pub fn app(&self, id: &str) -> AppMeters {
        let labels = &[id, &self.port];
        let by = &self.by_app;
        let meters = AppMeters {
            connected: by.connected.with_label_values(labels),
            new_connections: by.new_connections.with_label_values(labels),
            new_disconnections: by.new_disconnections.with_label_values(labels),
            received_bytes: by.received_bytes.with_label_values(labels),
            transmitted_bytes: by.transmitted_bytes.with_label_values(labels),
            messages_received: by.messages_received.with_label_values(labels),
            messages_sent: by.messages_sent.with_label_values(labels),
            http_received_bytes: by.http_received_bytes.with_label_values(labels),
            http_transmitted_bytes: by.http_transmitted_bytes.with_label_values(labels),
            http_calls: by.http_calls.with_label_values(labels),
            deliveries: by.deliveries.with_label_values(labels),
            channels: by.channels.with_label_values(labels),
            users: by.users.with_label_values(labels),
            views: by.views.with_label_values(labels),
            events: Arc::new(EventNames::new(by.events.clone(), id, &self.port)),
            drops: Arc::new(DropMeters::new(&by.drops, id, &self.port)),
            forbidden: by.forbidden.clone(),
            flow: by.flow.clone(),
            raw: by.raw.clone(),
            id: id.to_owned(),
            port: self.port.clone(),
        };
        let handles = Handles {
            deliveries: meters.deliveries.clone(),
            transmitted_bytes: meters.transmitted_bytes.clone(),
            drops: Arc::clone(&meters.drops),
            events: Arc::clone(&meters.events),
        };
        self.summed.add(id, handles);
        meters
    }

    /// Finds the series of these apps whose other labels are not known. It takes a while: call it without a lock.
    pub fn find(&self, apps: &HashSet<&str>) -> Found {
        let mut found = Found::default();
        for family in [&self.by_app.refusals, &self.by_app.forbidden, &self.by_app.flow] {
            found.add(family, apps);
        }
        found
    }

    /// Removes all series of an app. `found` is the result of [`Metrics::find`].
    pub fn forget_app(&self, meters: &AppMeters, found: &Found) {
        let by = &self.by_app;
        let labels = [&*meters.id, &*self.port];
        // A missing series need not be removed.
        for gauges in [&by.connected, &by.channels, &by.users, &by.views] {
            let _ = gauges.remove_label_values(&labels);
        }
        for counters in [
            &by.new_connections,
            &by.new_disconnections,
            &by.received_bytes,
            &by.transmitted_bytes,
            &by.messages_received,
            &by.messages_sent,
            &by.http_received_bytes,
            &by.http_transmitted_bytes,
            &by.http_calls,
            &by.deliveries,
        ] {
            let _ = counters.remove_label_values(&labels);
        }
        meters.drops.forget();
        by.raw.forget(&labels);
        by.history.forget(&labels);
        self.summed.forget(&meters.id);
        meters.events.forget();
        found.remove(&meters.id);
        if let Some(cluster) = &self.cluster {
            cluster.forget_app(&meters.id);
        }
    }

    /// Registers the counters of the app store; call it once.
    pub fn store(&self) -> StoreMeters {
        StoreMeters::new(&Registrar { registry: &self.registry, prefix: "gema_" })
    }

    /// Registers the counters of compression; call it once.
    pub fn compression(&self) -> CompressionMeters {
        CompressionMeters::new(&Registrar { registry: &self.registry, prefix: "gema_" })
    }

    /// Registers the counters of Laravel's `redis` broadcaster; call it once.
    pub fn ingest(&self) -> IngestMeters {
        IngestMeters::new(&Registrar { registry: &self.registry, prefix: "gema_" })
    }

    /// Registers the gauge of the certificate's end; call it once.
    pub fn certificate_end(&self) -> Gauge {
        let own = Registrar { registry: &self.registry, prefix: "gema_" };
        own.register(Gauge::new(
            "gema_tls_certificate_expiration_timestamp_seconds",
            "When the certificate of the main port ends, or one of its chain before it, in seconds since 1970",
        ))
    }

    /// Counts a refusal; `app` is empty if it concerns no app of this server.
    pub fn refused(&self, app: &str, cause: &str, code: &str) {
        self.by_app.refusals.with_label_values(&[app, &self.port, cause, code]).inc();
    }

    /// The metrics in Prometheus' text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a vector takes every byte");
        text
    }

    /// The metrics as JSON, as with Soketi's `?json=1`.
    pub fn json(&self) -> serde_json::Value {
        let families = self.registry.gather();
        families.iter().map(json::family).collect()
    }
}

impl AppMeters {
    /// Counts an event by its name; beyond some names the others count together.
    pub fn event(&self, name: &str) {
        self.events.count(name);
    }

    /// Counts a client event.
    pub fn client_event(&self) {
        self.events.count_clients();
    }

    /// Counts something that a rule for channels forbids: `what` is `subscribe`, `publish` or `client_event`.
    pub fn forbidden(&self, rule: &str, what: &str) {
        self.forbidden.with_label_values(&[&self.id, &self.port, rule, what]).inc();
    }

    /// Counts events that did not reach a connection.
    pub fn dropped(&self, cause: DropCause, events: u64) {
        if events > 0 {
            self.drops.add(cause, events);
        }
    }
}
