//! One app of this process.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config;
use crate::config::Limits;
use crate::limiter::Bucket;
use crate::metrics::AppMeters;
use crate::metrics::Metrics;
use crate::protocol::grant::Keys;
use crate::protocol::grant::SubscribeLimits;
use crate::protocol::identity::MemberLimits;
use crate::protocol::publish::PublishLimits;
use crate::registry::AppState;
use crate::registry::JoinRules;
use crate::registry::inbox::Inboxes;

/// An app: who it is, what holds for it, and what goes on in it.
#[derive(Debug)]
pub struct App {
    /// Part of the path of API requests.
    pub id: String,
    /// Whether it takes connections and requests.
    pub enabled: bool,
    /// What holds for it.
    pub limits: Limits,
    /// What its keys sign.
    pub keys: Keys,
    /// What is counted.
    pub meters: Arc<AppMeters>,
    pub(super) state: Arc<AppState>,
    /// The other nodes, where there are any.
    pub(super) cluster: Option<Arc<Cluster>>,
    open: AtomicUsize,
    backend_events: Option<Mutex<Bucket>>,
    read_requests: Option<Mutex<Bucket>>,
}

impl App {
    pub(super) fn new(
        app: config::App,
        inboxes: Arc<Inboxes>,
        cluster: Option<Arc<Cluster>>,
        metrics: &Metrics,
    ) -> Self {
        let now = Instant::now();
        let keys = Keys::new(app.keys.iter().map(|pair| (&*pair.key, pair.secret.expose())));
        let outgoing = cluster.as_ref().map(|cluster| Arc::clone(cluster.outgoing()));
        let state = Arc::new(AppState::new(&app.id, inboxes, outgoing));
        if let Some(cluster) = &cluster {
            cluster.add(Arc::clone(&state));
        }
        Self {
            meters: Arc::new(metrics.app(&app.id)),
            id: app.id,
            enabled: app.enabled,
            keys,
            state,
            cluster,
            open: AtomicUsize::new(0),
            backend_events: Bucket::new(app.limits.max_backend_events_per_second, now).map(Mutex::new),
            read_requests: Bucket::new(app.limits.max_read_requests_per_second, now).map(Mutex::new),
            limits: app.limits,
        }
    }

    /// Uses up `events` of what the app may publish in a second; otherwise says how long to wait.
    pub fn take_backend_events(&self, events: usize, now: Instant) -> Result<(), Duration> {
        self.backend_events.as_ref().map_or(Ok(()), |bucket| bucket.lock().take(events, now))
    }

    /// Uses up one of the requests that the app may make in a second; otherwise says how long to wait.
    pub fn take_read_request(&self, now: Instant) -> Result<(), Duration> {
        self.read_requests.as_ref().map_or(Ok(()), |bucket| bucket.lock().take(1, now))
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
        usize::try_from(self.limits.max_connections).ok().filter(|&max| max > 0)
    }

    pub(super) fn subscribe_limits(&self) -> SubscribeLimits {
        SubscribeLimits {
            name_length_max: self.limits.max_channel_name_length,
            member: MemberLimits {
                user_id_length_max: self.limits.max_presence_user_id_length,
                user_info_bytes_max: self.limits.member_bytes_max(),
            },
        }
    }

    /// Sizes that the app's publishers must keep to.
    pub fn publish_limits(&self) -> PublishLimits {
        PublishLimits {
            batch_events_max: self.limits.max_event_batch_size,
            channels_max: self.limits.max_event_channels_at_once,
            channel_name_length_max: self.limits.max_channel_name_length,
            event_name_length_max: self.limits.max_event_name_length,
            data_bytes_max: self.limits.event_bytes_max(),
        }
    }

    pub(super) fn join_rules(&self) -> JoinRules {
        JoinRules {
            members_max: self.limits.max_presence_members_per_channel,
            counted: self.limits.enable_subscription_count,
        }
    }
}
