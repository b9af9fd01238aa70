//! The node: what this process does for its apps: connect, subscribe, publish, sign in, query, terminate.
//! `session`, `http` and `ingest` call it. It is the only place where registry, cluster, webhooks and limits meet.

mod app;
mod apps;
mod connect;
mod explain;
mod publish;
mod query;
mod rate;
mod rules;
mod subscribe;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub use app::App;
pub use connect::Connected;
pub use connect::Unauthorized;
pub use publish::Publication;
pub use publish::PublishError;
pub use publish::RelayedEvent;
pub use query::ChannelInfo;
pub use query::InfoError;
pub use rules::Rules;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::config::Connections;
use crate::config::LimiterDriver;
use crate::idempotency::RecentRequests;
use crate::limiter::addresses::Addresses;
use crate::limiter::shared::Rates;
use crate::metrics::CompressionMeters;
use crate::metrics::Metrics;
use crate::node::apps::Apps;
use crate::refusal::Refusals;
use crate::registry::ChannelTotal;
use crate::registry::cache::EventCache;
use crate::registry::deadlines::Deadlines;
use crate::registry::deadlines::Due;
use crate::registry::inbox::Inboxes;
use crate::store::Store;
use crate::webhook::Webhooks;

/// This process: its apps, and what they share.
#[derive(Debug)]
pub struct Node {
    apps: Apps,
    connections: Connections,
    addresses: Arc<Addresses>,
    sockets: AtomicUsize,
    sockets_max: usize,
    /// There is an operator's page.
    has_dashboard: bool,
    /// The operator's page shows the data of events.
    shows_payloads: bool,
    draining: AtomicBool,
    inboxes: Arc<Inboxes>,
    event_cache: Arc<EventCache>,
    /// The deadlines of flows.
    deadlines: Arc<Deadlines>,
    cluster: Option<Arc<Cluster>>,
    /// The program in which the nodes of a cluster meet.
    meets_in: Option<&'static str>,
    rates: Option<Arc<Rates>>,
    /// Requests that may be repeated.
    recent_requests: Arc<RecentRequests>,
    store: Option<Arc<Store>>,
    webhooks: Arc<Webhooks>,
    /// There if connections may be compressed.
    compression: Option<CompressionMeters>,
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    /// The channels of all apps.
    total: Arc<ChannelTotal>,
}

impl Node {
    /// A node with the configured apps, or with the apps of a database. `sockets_max` limits the WebSocket connections
    /// of the process.
    pub fn new(
        config: &Config,
        inboxes: Arc<Inboxes>,
        metrics: Arc<Metrics>,
        store: Option<Store>,
        sockets_max: usize,
    ) -> Self {
        let cluster = metrics.cluster.clone().map(|meters| {
            Arc::new(Cluster::new(&config.cluster, (&config.redis, &config.nats), Arc::clone(&inboxes), meters))
        });
        let shared = config.limiter.driver == LimiterDriver::Redis;
        let rates = shared.then(|| Arc::new(Rates::new(&config.cluster, &config.redis, metrics.limiter_local.clone())));
        let store = store.map(Arc::new);
        let webhooks = Webhooks::new(config, cluster.clone(), store.clone(), metrics.webhooks.clone());
        let refusals = Refusals::new(Arc::clone(&metrics));
        let node = Self {
            apps: Apps::default(),
            addresses: Arc::new(Addresses::new(
                config.connections.per_address_max,
                config.connections.handshakes_per_address_per_second,
                config.server.trusted_proxies.clone(),
            )),
            connections: config.connections.clone(),
            sockets: AtomicUsize::new(0),
            sockets_max,
            has_dashboard: config.dashboard.is_on(),
            shows_payloads: config.dashboard.is_on() && config.dashboard.payloads,
            draining: AtomicBool::new(false),
            inboxes,
            event_cache: Arc::new(EventCache::new(config.server.cached_events_bytes_max)),
            deadlines: Arc::default(),
            cluster,
            meets_in: config.cluster.driver.program(),
            rates,
            recent_requests: Arc::new(RecentRequests::new(metrics.idempotency.clone())),
            store,
            webhooks: Arc::new(webhooks),
            compression: config.connections.compression.then(|| metrics.compression()),
            refusals: Arc::new(if config.dashboard.is_on() { refusals.counted_anew() } else { refusals }),
            metrics,
            total: ChannelTotal::new(config.connections.channels_total_max),
        };
        node.set_apps(config.apps());
        node
    }

    /// Whether connections keep what their clients have said of themselves, for the operator's page.
    pub fn has_dashboard(&self) -> bool {
        self.has_dashboard
    }

    /// The settings of connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The limits per client address.
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// The counters of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The counters of compression, if connections may be compressed.
    pub fn compression(&self) -> Option<&CompressionMeters> {
        self.compression.as_ref()
    }

    /// Counts and logs refusals.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The shards' inboxes.
    pub fn inboxes(&self) -> &Arc<Inboxes> {
        &self.inboxes
    }

    /// The other nodes, in a cluster.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// The program in which the nodes of a cluster meet, for people.
    pub fn meets_in(&self) -> Option<&'static str> {
        self.meets_in
    }

    /// The database with the apps, if there is one.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// The rate limits that nodes share, if they do.
    pub fn rates(&self) -> Option<&Arc<Rates>> {
        self.rates.as_ref()
    }

    /// The answers to recent requests with an idempotency key.
    pub fn recent_requests(&self) -> &Arc<RecentRequests> {
        &self.recent_requests
    }

    /// The webhooks of all apps.
    pub fn webhooks(&self) -> &Arc<Webhooks> {
        &self.webhooks
    }

    /// Starts to drain: not ready from now on, and announced to the other nodes.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
        if let Some(cluster) = &self.cluster {
            cluster.announce_draining();
        }
    }

    /// Whether other nodes can take over the connections of this one.
    pub fn has_peers(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.has_others())
    }

    /// Waits until no other node is there.
    pub async fn peers_gone(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.others_gone().await;
        }
    }

    /// Whether the node is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The number of WebSocket connections.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// As many WebSocket connections as there may be.
    pub fn sockets_max(&self) -> usize {
        self.sockets_max
    }

    /// The channels of all apps on this node.
    pub fn channels(&self) -> usize {
        self.total.channels()
    }

    /// Whether there are more WebSocket connections than allowed.
    pub fn is_full(&self) -> bool {
        self.sockets() > self.sockets_max
    }

    /// Ends all flow rules: pending events are delivered, and later ones pass. A connection that is closed lacks nothing.
    /// A reload or a new app does not bring them back.
    pub fn end_flows(&self) {
        self.deadlines.end();
        for app in self.apps.all() {
            app.state.end_flow_rules(Instant::now());
        }
    }

    /// Delivers what flow rules have held back, when it is due, without end.
    pub async fn run_flows(&self) {
        let run = |due: &Due| {
            if let Some(app) = self.apps.with_removed(&due.app) {
                app.state.run_flow(due, Instant::now());
            }
        };
        self.deadlines.run(&self.metrics.panics, run).await;
    }

    /// Does what is due about once a second.
    pub fn tick(&self) {
        let now = Instant::now();
        for app in self.apps.all() {
            app.state.tick(now);
        }
        self.forget_idle_apps();
        self.refusals.tick(now);
        self.recent_requests.tick(now);
    }

    /// Sets the gauges to the present values.
    pub fn update_gauges(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.update_gauges();
        }
        self.webhooks.update_gauges();
        self.metrics.cached_bytes.set(i64::try_from(self.event_cache.bytes()).unwrap_or(i64::MAX));
        self.metrics.cache_forgotten.inc_by(self.event_cache.take_evicted());
        for app in self.apps.all() {
            app.state.report_history();
            app.meters.connected.set(app.open_connections() as f64);
            app.meters.channels.set(app.state.channels("").len() as f64);
            app.meters.views.set(app.state.views() as f64);
            app.meters.users.set(app.state.users_online() as f64);
        }
    }
}
