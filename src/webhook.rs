//! Webhooks: sends events to the URLs that the operator configured for each app.
//! `node` registers the apps here; `server::background` runs the task, beside the shards. The registry queues events,
//! `dispatch` sorts them by endpoint, and each endpoint delivers in a task of its own: a slow endpoint delays only
//! itself.

mod attempts;
mod backlog;
mod batch;
mod client;
mod debounce;
mod delivery;
mod directory;
mod dispatch;
mod endpoint;
mod guard;
#[cfg(feature = "aws")]
mod lambda;
mod link;
mod notification;
mod report;
#[cfg(feature = "aws")]
mod sqs;
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

pub use report::EndpointReport;

use crate::cluster::Cluster;
use crate::config;
use crate::config::ClusterDriver;
use crate::config::WebhooksDriver;
use crate::metrics::AppWebhookMeters;
use crate::metrics::WebhookMeters;
use crate::protocol::webhook::Kind;
use crate::registry::AppState;
use crate::registry::webhook_events::WebhookQueue;
use crate::store::Store;
use crate::store::StoreError;
use crate::tasks::Tasks;
use crate::webhook::backlog::Backlog;
use crate::webhook::client::WebhookClient;
use crate::webhook::dispatch::Dispatcher;
use crate::webhook::endpoint::BacklogSize;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Target;
use crate::webhook::link::WebhookRedis;
use crate::webhook::notification::Bounds;
#[cfg(feature = "aws")]
use crate::webhook::sqs::SqsQueue;
use crate::webhook::stream::Streams;

/// How long an app is kept that is not in use here. In this time the lease of a crashed node ends.
const UNUSED_MIN: Duration = Duration::from_secs(20);
/// How long a database may take, since everything else waits meanwhile.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// The events of which a cluster sends one, however many nodes have the channel or member.
const OCCUPANCY_KINDS: [Kind; 4] =
    [Kind::ChannelOccupied, Kind::ChannelVacated, Kind::MemberAdded, Kind::MemberRemoved];

/// The webhooks of this process.
#[derive(Debug)]
pub struct Webhooks {
    options: config::Webhooks,
    /// The other nodes, where there are any.
    cluster: Option<Arc<Cluster>>,
    /// Looks up apps that are not in use here.
    store: Option<Arc<Store>>,
    /// Redis, if nodes share what happened or events wait there.
    redis: Option<Arc<WebhookRedis>>,
    /// The queues in Redis, which outlive this node.
    streams: Option<Streams>,
    /// The queue in SQS, which outlives all nodes.
    #[cfg(feature = "aws")]
    sqs: Option<SqsQueue>,
    events: Arc<WebhookQueue>,
    /// Notifications that no endpoint has yet.
    backlog: Mutex<Backlog>,
    /// Notified when the endpoints change.
    changed: Notify,
    apps: RwLock<HashMap<Arc<str>, AppWebhooks>>,
    meters: WebhookMeters,
    /// Made at the first delivery, since it loads the system's certificates.
    client: OnceLock<WebhookClient>,
}

/// The webhooks of one app.
#[derive(Debug, Clone)]
struct AppWebhooks {
    endpoints: Vec<Arc<Endpoint>>,
    /// Endpoints that the operator removed, until they have their last events.
    retired: Vec<Arc<Endpoint>>,
    meters: AppWebhookMeters,
    /// When the app ceased to be in use here.
    unused_since: Option<Instant>,
}

impl Webhooks {
    /// Webhooks without apps.
    pub fn new(
        config: &config::Config,
        cluster: Option<Arc<Cluster>>,
        store: Option<Arc<Store>>,
        meters: WebhookMeters,
    ) -> Self {
        let options = config.webhooks.clone();
        let stored = options.driver == WebhooksDriver::Redis;
        let meets_in_redis = config.cluster.driver == ClusterDriver::Redis;
        let redis =
            (stored || meets_in_redis).then(|| Arc::new(WebhookRedis::new(&config.cluster, &config.redis, stored)));
        // An app of the database may have webhooks without being in use here.
        redis.iter().filter(|_| store.is_some()).for_each(|redis| redis.need());
        let streams = redis.clone().filter(|_| stored).map(Streams::new);
        let (apps, client, backlog) = (RwLock::default(), OnceLock::new(), Mutex::default());
        let changed = Notify::new();
        #[cfg(feature = "aws")]
        let sqs = (options.driver == WebhooksDriver::Sqs).then(|| SqsQueue::new(&config.sqs, &options));
        Self {
            options,
            cluster,
            store,
            redis,
            streams,
            #[cfg(feature = "aws")]
            sqs,
            events: Arc::default(),
            backlog,
            changed,
            apps,
            meters,
            client,
        }
    }

    /// The queue that the registry fills.
    pub fn events(&self) -> &Arc<WebhookQueue> {
        &self.events
    }

    /// Adds an app or changes its endpoints. Events that wait go out by the new settings; an endpoint that is removed
    /// still gets the events that were meant for it.
    pub fn set_app(&self, app: &AppState, settings: &config::App) {
        let mut apps = self.apps.write();
        let webhooks = apps.entry(Arc::clone(app.id())).or_insert_with(|| AppWebhooks::new(self.meters.app(app.id())));
        webhooks.unused_since = None;
        webhooks.set_endpoints(app.id(), settings, self.streams.is_some());
        if let Some(redis) = self.redis.as_ref().filter(|_| !settings.webhooks.is_empty()) {
            redis.need();
        }
        self.changed.notify_one();
        let wanted = settings.webhooks.iter().flat_map(|webhook| webhook.event_types.iter().copied());
        // Peers that saw `member_added` also get `member_removed`, even if nobody wants these events any more.
        let is_common = self.cluster.is_some() && self.redis.is_some();
        let recorded = OCCUPANCY_KINDS.into_iter().filter(|kind| is_common && app.records_webhook(*kind));
        app.set_webhook_kinds(wanted.chain(recorded).collect());
    }

    /// Adds those of these apps that are not in use here, from the database. False when it does not answer.
    async fn look_up(&self, ids: BTreeSet<Arc<str>>) -> bool {
        let Some(store) = &self.store else { return true };
        let is_unknown = |id: &Arc<str>| !self.apps.read().contains_key(id);
        let unknown: Vec<String> = ids.into_iter().filter(is_unknown).map(|id| id.to_string()).collect();
        let mut is_answered = true;
        let Ok(answers) = tokio::time::timeout(LOOKUP_MAX, store.refresh(&unknown)).await else { return false };
        for (_, answer) in answers {
            match answer {
                Ok(Some(settings)) => self.add_unused(&settings),
                Err(StoreError::Unavailable { .. } | StoreError::Busy) => is_answered = false,
                // The store has logged it.
                Ok(None) | Err(StoreError::Unusable { .. }) => (),
            }
        }
        is_answered
    }

    /// Adds the apps for which events wait in Redis. False when they cannot be known now.
    async fn look_up_waiting(&self) -> bool {
        let (Some(streams), Some(_)) = (&self.streams, &self.store) else { return true };
        match streams.marked_apps().await {
            Some(apps) => self.look_up(apps).await,
            None => false,
        }
    }

    /// Adds an app that is not in use here.
    fn add_unused(&self, settings: &config::App) {
        let id: Arc<str> = settings.id.as_str().into();
        if let Entry::Vacant(place) = self.apps.write().entry(Arc::clone(&id)) {
            let webhooks = place.insert(AppWebhooks::new(self.meters.app(&id)));
            webhooks.set_endpoints(&id, settings, self.streams.is_some());
        }
        self.changed.notify_one();
    }

    /// Notes that an app is no longer in use here. Its events are still sent.
    pub fn mark_unused(&self, app_id: &str) {
        if let Some(webhooks) = self.apps.write().get_mut(app_id) {
            webhooks.unused_since = Some(Instant::now());
        }
    }

    /// Forgets removed endpoints and unused apps when nothing waits for them. `has_debounced` returns whether an event
    /// of an app is being debounced.
    fn forget_unused(&self, has_debounced: impl Fn(&str) -> bool) {
        if !self.apps.read().values().any(|webhooks| webhooks.unused_since.is_some() || !webhooks.retired.is_empty()) {
            return;
        }
        let mut over = Vec::new();
        let mut apps = self.apps.write();
        apps.retain(|app, webhooks| {
            webhooks.retired.retain(|endpoint| !endpoint.is_idle());
            let is_unused = webhooks.unused_since.is_some_and(|since| since.elapsed() > UNUSED_MIN);
            let is_over = is_unused
                && webhooks.is_idle()
                && !self.backlog.lock().has(app)
                && !has_debounced(app)
                && !self.events.has(app);
            if is_over {
                over.push(Arc::clone(app));
            }
            !is_over
        });
        // Under the lock, so that an app that comes back starts new counters.
        for app in over {
            self.meters.forget_app(&app);
        }
    }

    /// Delivers events until `stop` is cancelled, then the rest.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (tasks, redis, over) = (Tasks::new(stop), self.redis.clone(), CancellationToken::new());
        #[cfg(feature = "aws")]
        tasks.spawn(sqs::consume(Arc::clone(&self), tasks.clone()));
        let deliver = async {
            Dispatcher::new(self, tasks.clone()).run().await;
            tasks.finish(Duration::MAX).await;
            over.cancel();
        };
        let keep = async {
            if let Some(redis) = &redis {
                redis.run(&over).await;
            }
        };
        tokio::join!(deliver, keep);
    }

    /// Events that have not been delivered yet.
    pub fn waiting(&self) -> usize {
        // One lock after the other: `forget_unused` locks the backlog while it holds the apps.
        let backlog = self.backlog.lock().events();
        backlog + self.endpoints().iter().map(|endpoint| endpoint.backlog().events).sum::<usize>()
    }

    /// Sets the gauges to the present values.
    pub fn update_gauges(&self) {
        self.meters.unsorted.inc_by(self.events.take_dropped());
        for (app, webhooks) in &*self.apps.read() {
            webhooks.update_gauges(self.backlog.lock().size(app));
        }
    }

    /// The limits of an endpoint's stream, where events wait in Redis.
    fn stream_bounds(&self) -> Option<Bounds> {
        let options = &self.options;
        self.streams.as_ref().map(|_| Bounds { events: options.queue_events_max, bytes: options.stored_bytes_max })
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.apps.read().values().flat_map(AppWebhooks::all).cloned().collect()
    }

    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        let apps = self.apps.read();
        apps.get(&endpoint.app).is_some_and(|webhooks| webhooks.all().any(|other| Arc::ptr_eq(other, endpoint)))
    }

    fn endpoints_of(&self, app_id: &str) -> Vec<Arc<Endpoint>> {
        self.apps.read().get(app_id).map_or_else(Vec::new, |webhooks| webhooks.endpoints.clone())
    }

    /// The endpoints of an app, which the database may know if nobody uses it here.
    #[cfg(feature = "aws")]
    async fn known_endpoints(&self, app_id: &str) -> Vec<Arc<Endpoint>> {
        let is_known = self.apps.read().contains_key(app_id);
        if !is_known {
            self.look_up(BTreeSet::from([app_id.into()])).await;
        }
        self.endpoints_of(app_id)
    }

    fn client(&self) -> &WebhookClient {
        self.client.get_or_init(|| WebhookClient::new(&self.options))
    }
}

impl AppWebhooks {
    /// An app without endpoints that is not in use.
    fn new(meters: AppWebhookMeters) -> Self {
        Self { endpoints: Vec::new(), retired: Vec::new(), meters, unused_since: Some(Instant::now()) }
    }

    /// Takes the app's settings; `stored` when events wait in Redis.
    fn set_endpoints(&mut self, app: &Arc<str>, settings: &config::App, stored: bool) {
        self.retired.append(&mut self.endpoints);
        for (index, webhook) in settings.webhooks.iter().enumerate() {
            let target = Target { webhook: webhook.clone(), key: settings.keys[0].clone() };
            let before =
                settings.webhooks[..index].iter().filter(|before| before.identity() == webhook.identity()).count();
            let stream = target.stream_name(app, before);
            self.endpoints.push(match self.retired.iter().position(|known| known.stream_name() == stream) {
                Some(known) => {
                    let endpoint = self.retired.swap_remove(known);
                    endpoint.set_target(target);
                    endpoint
                }
                None => Arc::new(Endpoint::new(stream, target, Arc::clone(app), self.meters.clone(), stored)),
            });
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().chain(&self.retired)
    }

    fn is_idle(&self) -> bool {
        self.all().all(|endpoint| endpoint.is_idle())
    }

    /// Sets the gauges of the app; `backlog` has not reached the endpoints.
    fn update_gauges(&self, backlog: BacklogSize) {
        let all = self.all().map(|endpoint| endpoint.backlog()).chain([backlog]);
        let (events, bytes, oldest) = all.fold((0, 0, Duration::ZERO), |(events, bytes, oldest), one| {
            (events + one.events, bytes + one.bytes, oldest.max(one.oldest))
        });
        self.meters.waiting.set(events as f64);
        self.meters.waiting_bytes.set(bytes as f64);
        self.meters.oldest.set(oldest.as_secs_f64());
    }
}
