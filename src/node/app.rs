//! One app of this process.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use arc_swap::Guard;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config;
use crate::limiter::Bucket;
use crate::metrics::AppMeters;
use crate::metrics::Metrics;
use crate::protocol::grant::Keys;
use crate::protocol::grant::SubscribeLimits;
use crate::protocol::identity::MemberLimits;
use crate::protocol::policy::PolicyError;
use crate::protocol::publish::PublishLimits;
use crate::registry::AppState;
use crate::registry::JoinRules;
use crate::registry::inbox::Inboxes;

/// An app: who it is, what holds for it, and what goes on in it.
#[derive(Debug)]
pub struct App {
    /// Part of the path of API requests.
    pub id: String,
    /// What is counted.
    pub meters: Arc<AppMeters>,
    rules: ArcSwap<Rules>,
    pub(super) state: Arc<AppState>,
    /// The other nodes, where there are any.
    pub(super) cluster: Option<Arc<Cluster>>,
    open: AtomicUsize,
}

/// What holds for an app until the operator says something else.
#[derive(Debug)]
pub struct Rules {
    /// What the operator says.
    pub said: config::App,
    /// What its keys sign.
    pub keys: Keys,
    /// Nobody says anything of the app any more.
    pub(super) gone: bool,
    backend_events: Option<Mutex<Bucket>>,
    read_requests: Option<Mutex<Bucket>>,
}

impl Rules {
    fn new(said: config::App) -> Self {
        let now = Instant::now();
        Self {
            keys: Keys::new(said.keys.iter().map(|pair| (&*pair.key, pair.secret.expose()))),
            gone: false,
            backend_events: Bucket::new(said.limits.max_backend_events_per_second, now).map(Mutex::new),
            read_requests: Bucket::new(said.limits.max_read_requests_per_second, now).map(Mutex::new),
            said,
        }
    }
}

impl App {
    pub(super) fn new(
        says: config::App,
        inboxes: Arc<Inboxes>,
        cluster: Option<Arc<Cluster>>,
        metrics: &Metrics,
    ) -> Self {
        let outgoing = cluster.as_ref().map(|cluster| Arc::clone(cluster.outgoing()));
        let state = Arc::new(AppState::new(&says.id, inboxes, outgoing));
        if let Some(cluster) = &cluster {
            cluster.add(Arc::clone(&state));
        }
        Self {
            id: says.id.clone(),
            meters: Arc::new(metrics.app(&says.id)),
            rules: ArcSwap::from_pointee(Rules::new(says)),
            state,
            cluster,
            open: AtomicUsize::new(0),
        }
    }

    /// What holds at this moment.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// The operator says something else, or the same again.
    pub(super) fn change(&self, says: config::App) {
        let rules = self.rules();
        if rules.gone || rules.said != says {
            self.rules.store(Arc::new(Rules::new(says)));
        }
    }

    /// The operator says nothing of it any more.
    pub(super) fn go(&self) {
        let said = config::App { enabled: false, ..self.rules().said.clone() };
        self.rules.store(Arc::new(Rules { gone: true, ..Rules::new(said) }));
    }

    /// Uses up `events` of what the app may publish in a second; otherwise says how long to wait.
    pub fn take_backend_events(&self, events: usize, now: Instant) -> Result<(), Duration> {
        self.rules().backend_events.as_ref().map_or(Ok(()), |bucket| bucket.lock().take(events, now))
    }

    /// Uses up one of the requests that the app may make in a second; otherwise says how long to wait.
    pub fn take_read_request(&self, now: Instant) -> Result<(), Duration> {
        self.rules().read_requests.as_ref().map_or(Ok(()), |bucket| bucket.lock().take(1, now))
    }

    /// Counts and logs what a rule forbids.
    pub(super) fn forbidden(&self, what: &str, why: &PolicyError) {
        self.meters.forbidden(why.rule(), what);
        tracing::info!(app_id = self.id, what, "{why}");
    }

    /// Established connections, those not authorized yet included.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.meters.new_connections.inc();
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.meters.new_disconnections.inc();
    }

    /// Connections that the app may have.
    pub(super) fn connections_max(&self) -> Option<usize> {
        usize::try_from(self.rules().said.limits.max_connections).ok().filter(|&max| max > 0)
    }

    pub(super) fn subscribe_limits(&self) -> SubscribeLimits {
        let limits = &self.rules().said.limits;
        SubscribeLimits {
            name_length_max: limits.max_channel_name_length,
            member: MemberLimits {
                user_id_length_max: limits.max_presence_user_id_length,
                user_info_bytes_max: limits.member_bytes_max(),
            },
        }
    }

    /// Sizes that the app's publishers must keep to.
    pub fn publish_limits(&self) -> PublishLimits {
        let limits = &self.rules().said.limits;
        PublishLimits {
            batch_events_max: limits.max_event_batch_size,
            channels_max: limits.max_event_channels_at_once,
            channel_name_length_max: limits.max_channel_name_length,
            event_name_length_max: limits.max_event_name_length,
            data_bytes_max: limits.event_bytes_max(),
        }
    }

    pub(super) fn join_rules(&self) -> JoinRules {
        let limits = &self.rules().said.limits;
        JoinRules { members_max: limits.max_presence_members_per_channel, counted: limits.enable_subscription_count }
    }
}
