//! The use cases: connect, subscribe, publish, sign in, query, terminate. The only place where the parts meet.

mod app;
mod connect;
mod publish;
mod query;
mod subscribe;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub use app::App;
pub use publish::Publication;
pub use publish::PublishError;
pub use query::ChannelFacts;
pub use query::InfoError;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::config::Connections;
use crate::metrics::Metrics;
use crate::registry::inbox::Inboxes;

/// This process: its apps, and what holds for all of them.
#[derive(Debug)]
pub struct Node {
    by_id: HashMap<String, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
    connections: Connections,
    sockets: AtomicUsize,
    sockets_max: usize,
    leaving: AtomicBool,
    inboxes: Arc<Inboxes>,
    cluster: Option<Arc<Cluster>>,
    metrics: Arc<Metrics>,
}

impl Node {
    /// A node with the configured apps. `sockets_max` bounds the WebSocket connections of the process.
    pub fn new(config: &Config, inboxes: Arc<Inboxes>, metrics: Arc<Metrics>, sockets_max: usize) -> Self {
        let (mut by_id, mut by_key) = (HashMap::new(), HashMap::new());
        let cluster = metrics
            .cluster
            .clone()
            .map(|meters| Arc::new(Cluster::new(&config.cluster, &config.redis, Arc::clone(&inboxes), meters)));
        for app in config.apps() {
            let keys: Vec<String> = app.keys.iter().map(|pair| pair.key.clone()).collect();
            let app = Arc::new(App::new(app, Arc::clone(&inboxes), cluster.clone(), &metrics));
            by_id.insert(app.id.clone(), Arc::clone(&app));
            by_key.extend(keys.into_iter().map(|key| (key, Arc::clone(&app))));
        }
        Self {
            by_id,
            by_key,
            connections: config.connections.clone(),
            sockets: AtomicUsize::new(0),
            sockets_max,
            leaving: AtomicBool::new(false),
            inboxes,
            cluster,
            metrics,
        }
    }

    /// The app with this id.
    pub fn app_by_id(&self, id: &str) -> Option<&Arc<App>> {
        self.by_id.get(id)
    }

    /// The app that this key belongs to.
    pub fn app_by_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
    }

    /// What holds for each connection.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The process' counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The shards' inboxes.
    pub fn inboxes(&self) -> &Arc<Inboxes> {
        &self.inboxes
    }

    /// The other nodes, where there are any.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Takes no new connections from now on.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether the process is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// WebSocket connections of the process.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// What is due about once a second.
    pub fn tick(&self) {
        let now = Instant::now();
        for app in self.by_id.values() {
            app.state.tick(now);
        }
    }

    /// Sets the gauges to what the tables hold now.
    pub fn measure(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.measure();
        }
        for app in self.by_id.values() {
            app.meters.connected.set(app.open_connections() as f64);
            app.meters.channels.set(app.state.channels("").len() as f64);
            app.meters.users.set(app.state.users_online() as f64);
        }
    }
}
