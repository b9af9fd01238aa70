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

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config;
use crate::config::WebhooksDriver;
use crate::metrics::AppWebhookMeters;
use crate::metrics::WebhookMeters;
use crate::protocol::webhook::Kind;
use crate::registry::AppState;
use crate::registry::webhook_events::WebhookQueue;
use crate::store::Store;
use crate::store::StoreError;
use crate::tasks::Tasks;
use crate::webhook::dispatch::Dispatcher;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Target;
use crate::webhook::endpoint::Waits;
use crate::webhook::news::Bounds;
use crate::webhook::post::Post;
use crate::webhook::room::Room;
use crate::webhook::stream::Streams;

/// How long an app is kept that is not in use here: in this time the lease ends of a node that is dead.
const UNUSED_MIN: Duration = Duration::from_secs(20);
/// How long everything else waits for a database.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// What a node says to the others.
const COMING_AND_GOING: [Kind; 4] =
    [Kind::ChannelOccupied, Kind::ChannelVacated, Kind::MemberAdded, Kind::MemberRemoved];

/// The webhooks of this process.
#[derive(Debug)]
pub struct Webhooks {
    options: config::Webhooks,
    /// The other nodes, where there are any.
    cluster: Option<Arc<Cluster>>,
    /// Where apps are looked up that are not in use here.
    store: Option<Arc<Store>>,
    /// Where events outlive this node.
    streams: Option<Streams>,
    facts: Arc<WebhookQueue>,
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
    /// Those that the operator no longer speaks of, until they have got what was meant for them.
    past: Vec<Arc<Endpoint>>,
    meters: AppWebhookMeters,
    /// Since when the app has not been in use here.
    unused: Option<Instant>,
}

impl Webhooks {
    /// No webhooks yet.
    pub fn new(
        config: &config::Config,
        cluster: Option<Arc<Cluster>>,
        store: Option<Arc<Store>>,
        meters: WebhookMeters,
    ) -> Self {
        let options = config.webhooks.clone();
        let streams = (options.driver == WebhooksDriver::Redis).then(|| Streams::new(&config.cluster, &config.redis));
        let (apps, post, room) = (RwLock::default(), OnceLock::new(), Mutex::default());
        let changed = Notify::new();
        Self { options, cluster, store, streams, facts: Arc::default(), room, changed, apps, meters, post }
    }

    /// Where the registry puts what happens.
    pub fn facts(&self) -> &Arc<WebhookQueue> {
        &self.facts
    }

    /// What the operator says of an app now. What waits for an endpoint goes on waiting, and goes out as the operator
    /// says then; one that is gone still gets what was meant for it.
    pub fn set(&self, app: &AppState, says: &config::App) {
        let mut apps = self.apps.write();
        let hooks = apps.entry(Arc::clone(app.id())).or_insert_with(|| Hooks::new(self.meters.app(app.id())));
        hooks.unused = None;
        hooks.set(app.id(), says, self.streams.is_some());
        self.changed.notify_one();
        let wanted = says.webhooks.iter().flat_map(|webhook| webhook.event_types.iter().copied());
        // What the other nodes have been told of, they are told the end of, whoever else wants to hear of it.
        let begun = COMING_AND_GOING.into_iter().filter(|kind| self.cluster.is_some() && app.records_webhook(*kind));
        app.set_webhook_kinds(wanted.chain(begun).collect());
    }

    /// Looks up those of these apps that are not in use here, where a database has them. False when it does not answer.
    async fn look_up(&self, ids: BTreeSet<Arc<str>>) -> bool {
        let Some(store) = &self.store else { return true };
        let is_unknown = |id: &Arc<str>| !self.apps.read().contains_key(id);
        let unknown: Vec<String> = ids.into_iter().filter(is_unknown).map(|id| id.to_string()).collect();
        let mut is_answered = true;
        let Ok(answers) = tokio::time::timeout(LOOKUP_MAX, store.refresh(&unknown)).await else { return false };
        for (_, answer) in answers {
            match answer {
                Ok(Some(says)) => self.set_unused(&says),
                Err(StoreError::Unavailable { .. } | StoreError::Busy) => is_answered = false,
                // The store has said what is wrong.
                Ok(None) | Err(StoreError::Unusable { .. }) => (),
            }
        }
        is_answered
    }

    /// Looks up the apps that something waits for in Redis. False when that is not known now.
    async fn look_up_waiting(&self) -> bool {
        let (Some(streams), Some(_)) = (&self.streams, &self.store) else { return true };
        match streams.noted().await {
            Some(apps) => self.look_up(apps).await,
            None => false,
        }
    }

    /// What the operator says of an app that is not in use here.
    fn set_unused(&self, says: &config::App) {
        let id: Arc<str> = says.id.as_str().into();
        if let Entry::Vacant(place) = self.apps.write().entry(Arc::clone(&id)) {
            let hooks = place.insert(Hooks::new(self.meters.app(&id)));
            hooks.set(&id, says, self.streams.is_some());
        }
        self.changed.notify_one();
    }

    /// Nothing happens in an app any more, until it is set again. What has happened is still told.
    pub fn leave(&self, app_id: &str) {
        if let Some(hooks) = self.apps.write().get_mut(app_id) {
            hooks.unused = Some(Instant::now());
        }
    }

    /// Forgets the endpoints that are gone, and the apps that are not in use, if they have nothing to tell any more.
    /// Whether something is held back for an app, `holds` knows.
    fn forget_unused(&self, holds: impl Fn(&str) -> bool) {
        if !self.apps.read().values().any(|hooks| hooks.unused.is_some() || !hooks.past.is_empty()) {
            return;
        }
        let mut over = Vec::new();
        let mut apps = self.apps.write();
        apps.retain(|app, hooks| {
            hooks.past.retain(|endpoint| !endpoint.is_idle());
            let is_unused = hooks.unused.is_some_and(|since| since.elapsed() > UNUSED_MIN);
            let is_over =
                is_unused && hooks.is_idle() && !self.room.lock().has(app) && !holds(app) && !self.facts.has(app);
            if is_over {
                over.push(Arc::clone(app));
            }
            !is_over
        });
        // Under the lock, so that an app that comes back is counted anew.
        for app in over {
            self.meters.forget_app(&app);
        }
    }

    /// Sends what is to be sent until `stop` is cancelled, then what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = Tasks::new(stop);
        Dispatcher::new(self, tasks.clone()).run().await;
        tasks.finish(Duration::MAX).await;
    }

    /// Events that have not been delivered yet.
    pub fn waiting(&self) -> usize {
        // One lock after the other: elsewhere the room's is taken under that of the apps.
        let untold = self.room.lock().events();
        untold + self.endpoints().iter().map(|endpoint| endpoint.waiting().events).sum::<usize>()
    }

    /// Sets the gauges to what is so now.
    pub fn measure(&self) {
        self.meters.unsorted.inc_by(self.facts.take_dropped());
        for (app, hooks) in &*self.apps.read() {
            hooks.measure(self.room.lock().waits(app));
        }
    }

    /// What may wait for an endpoint in Redis, where events wait there.
    fn stored_max(&self) -> Option<Bounds> {
        let options = &self.options;
        self.streams.as_ref().map(|_| Bounds { events: options.queue_events_max, bytes: options.stored_bytes_max })
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.apps.read().values().flat_map(Hooks::all).cloned().collect()
    }

    /// Whether any app has a webhook.
    fn has_endpoints(&self) -> bool {
        self.apps.read().values().any(|hooks| hooks.all().next().is_some())
    }

    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        let apps = self.apps.read();
        apps.get(&endpoint.app).is_some_and(|hooks| hooks.all().any(|other| Arc::ptr_eq(other, endpoint)))
    }

    fn endpoints_of(&self, app_id: &str) -> Vec<Arc<Endpoint>> {
        self.apps.read().get(app_id).map_or_else(Vec::new, |hooks| hooks.endpoints.clone())
    }

    fn post(&self) -> &Post {
        self.post.get_or_init(|| Post::new(&self.options))
    }
}

impl Hooks {
    /// None, of an app that is not in use.
    fn new(meters: AppWebhookMeters) -> Self {
        Self { endpoints: Vec::new(), past: Vec::new(), meters, unused: Some(Instant::now()) }
    }

    /// Takes what the operator says of the app now; `stored` when events wait in Redis.
    fn set(&mut self, app: &Arc<str>, says: &config::App, stored: bool) {
        self.past.append(&mut self.endpoints);
        for (place, webhook) in says.webhooks.iter().enumerate() {
            let target = Target { webhook: webhook.clone(), signs: says.keys[0].clone() };
            let before = says.webhooks[..place].iter().filter(|before| before.url == webhook.url).count();
            let stream = target.stream(app, before);
            self.endpoints.push(match self.past.iter().position(|known| known.stream() == stream) {
                Some(known) => {
                    let endpoint = self.past.swap_remove(known);
                    endpoint.aim(target);
                    endpoint
                }
                None => Arc::new(Endpoint::new(stream, target, Arc::clone(app), self.meters.clone(), stored)),
            });
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().chain(&self.past)
    }

    fn is_idle(&self) -> bool {
        self.all().all(|endpoint| endpoint.is_idle())
    }

    /// Sets the gauges; with what has not been told to the endpoints.
    fn measure(&self, untold: Waits) {
        let all = self.all().map(|endpoint| endpoint.waiting()).chain([untold]);
        let (events, bytes, oldest) = all.fold((0, 0, Duration::ZERO), |(events, bytes, oldest), one| {
            (events + one.events, bytes + one.bytes, oldest.max(one.oldest))
        });
        self.meters.waiting.set(events as f64);
        self.meters.waiting_bytes.set(bytes as f64);
        self.meters.oldest.set(oldest.as_secs_f64());
    }
}
