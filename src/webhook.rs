//! Events to customers' URLs. What happens here comes as facts from the registry; one task sorts them by endpoint, and
//! each endpoint with something to deliver has a task of its own. All of it runs beside the shards: a slow or dead
//! endpoint keeps nobody waiting but itself.

mod delivery;
mod directory;
mod dispatch;
mod endpoint;
mod guard;
mod leaving;
mod news;
mod post;
mod room;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config;
use crate::config::WebhooksDriver;
use crate::metrics::AppWebhookMeters;
use crate::metrics::WebhookMeters;
use crate::registry::AppState;
use crate::registry::facts::Facts;
use crate::tasks::Tasks;
use crate::webhook::dispatch::Dispatcher;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Target;
use crate::webhook::post::Post;
use crate::webhook::room::Room;
use crate::webhook::stream::Streams;

/// The webhooks of this process.
#[derive(Debug)]
pub struct Webhooks {
    options: config::Webhooks,
    /// The other nodes, where there are any.
    cluster: Option<Arc<Cluster>>,
    /// Where events outlive this node.
    streams: Option<Streams>,
    facts: Arc<Facts>,
    /// What has been sorted and not been told.
    room: Mutex<Room>,
    /// The endpoints have changed.
    changed: Notify,
    apps: RwLock<HashMap<Arc<str>, Hooks>>,
    meters: WebhookMeters,
    /// Made when something is sent, since it looks for the system's certificates.
    post: OnceLock<Post>,
}

/// The webhooks of one app.
#[derive(Debug, Clone)]
struct Hooks {
    endpoints: Vec<Arc<Endpoint>>,
    meters: AppWebhookMeters,
}

impl Webhooks {
    /// No webhooks yet.
    pub fn new(config: &config::Config, cluster: Option<Arc<Cluster>>, meters: WebhookMeters) -> Self {
        let options = config.webhooks.clone();
        let streams = (options.driver == WebhooksDriver::Redis).then(|| Streams::new(&config.cluster, &config.redis));
        let (apps, post, room) = (RwLock::default(), OnceLock::new(), Mutex::default());
        let changed = Notify::new();
        Self { options, cluster, streams, facts: Arc::default(), room, changed, apps, meters, post }
    }

    /// Where the registry puts what happens.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// What the operator says of an app now. What waits for an endpoint that stays goes on waiting; one that is gone
    /// still gets what was meant for it.
    pub fn set(&self, app: &AppState, says: &config::App) {
        let mut apps = self.apps.write();
        let hooks = apps
            .entry(Arc::clone(app.id()))
            .or_insert_with(|| Hooks { endpoints: Vec::new(), meters: self.meters.app(app.id()) });
        let before = std::mem::take(&mut hooks.endpoints);
        for webhook in &says.webhooks {
            let target = Target { webhook: webhook.clone(), signs: says.keys[0].clone() };
            let mut known = before.iter().chain(&hooks.endpoints);
            let known = known.find(|endpoint| *endpoint.target() == target).cloned();
            let new = || Arc::new(Endpoint::new(target, Arc::clone(app.id()), hooks.meters.clone()));
            let endpoint = known.unwrap_or_else(new);
            hooks.endpoints.push(endpoint);
        }
        self.changed.notify_one();
        app.tell(says.webhooks.iter().flat_map(|webhook| webhook.event_types.iter().copied()).collect());
    }

    /// An app is gone, and nobody is connected to it.
    pub fn remove(&self, app_id: &str) {
        self.apps.write().remove(app_id);
    }

    /// Sends what is to be sent until `stop` is cancelled, then what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = Tasks::new(stop);
        Dispatcher::new(self, tasks.clone()).run().await;
        tasks.finish(Duration::MAX).await;
    }

    /// Events that have not been delivered yet.
    pub fn waiting(&self) -> usize {
        let apps = self.apps.read();
        let endpoints = apps.values().flat_map(|hooks| &hooks.endpoints);
        self.room.lock().events() + endpoints.map(|endpoint| endpoint.waiting().events).sum::<usize>()
    }

    /// Sets the gauges to what is so now.
    pub fn measure(&self) {
        self.meters.unsorted.inc_by(self.facts.take_dropped());
        for (app, hooks) in &*self.apps.read() {
            let untold = self.room.lock().waits(app);
            let all = hooks.endpoints.iter().map(|endpoint| endpoint.waiting()).chain([untold]);
            let (events, bytes, oldest) = all.fold((0, 0, Duration::ZERO), |(events, bytes, oldest), one| {
                (events + one.events, bytes + one.bytes, oldest.max(one.oldest))
            });
            hooks.meters.waiting.set(events as f64);
            hooks.meters.waiting_bytes.set(bytes as f64);
            hooks.meters.oldest.set(oldest.as_secs_f64());
        }
    }

    /// How many events may wait for an endpoint in Redis, where they wait there.
    fn stored_events_max(&self) -> Option<usize> {
        self.streams.as_ref().map(|_| self.options.queue_events_max)
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.apps.read().values().flat_map(|hooks| hooks.endpoints.clone()).collect()
    }

    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.endpoints_of(&endpoint.app).iter().any(|other| Arc::ptr_eq(other, endpoint))
    }

    fn endpoints_of(&self, app_id: &str) -> Vec<Arc<Endpoint>> {
        self.apps.read().get(app_id).map_or_else(Vec::new, |hooks| hooks.endpoints.clone())
    }

    fn post(&self) -> &Post {
        self.post.get_or_init(|| Post::new(&self.options))
    }
}
