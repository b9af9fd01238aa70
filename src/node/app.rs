//! One app: its settings, its state and its counters.
//! Every use case starts from an [`App`].

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use arc_swap::Guard;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config;
use crate::limiter::Allowance;
use crate::limiter::TooFast;
use crate::limiter::shared::Rates;
use crate::metrics::AppMeters;
use crate::node::Node;
use crate::node::rate::Rate;
use crate::node::rate::SharedRate;
use crate::protocol::grant::Keys;
use crate::protocol::grant::SubscribeLimits;
use crate::protocol::identity::MemberLimits;
use crate::protocol::policy::PolicyError;
use crate::protocol::publish::PublishLimits;
use crate::protocol::view::ViewLimits;
use crate::refusal::Refusals;
use crate::registry::AppState;
use crate::registry::JoinRules;
use crate::webhook::Webhooks;

/// An app of this process.
#[derive(Debug)]
pub struct App {
    /// Part of the path of API requests.
    pub id: String,
    /// The counters of the app.
    pub meters: Arc<AppMeters>,
    rules: ArcSwap<Rules>,
    pub(super) state: Arc<AppState>,
    /// The other nodes, in a cluster.
    pub(super) cluster: Option<Arc<Cluster>>,
    /// The rate limits that nodes share, if they do.
    rates: Option<Arc<Rates>>,
    webhooks: Arc<Webhooks>,
    refusals: Arc<Refusals>,
    open: AtomicUsize,
    /// Connections with public channels that are not authorized.
    pub(super) unauthorized: AtomicUsize,
    used_at: Mutex<Instant>,
}

/// The settings of an app, with what is derived from them. A reload replaces them as a whole.
#[derive(Debug)]
pub struct Rules {
    /// The settings.
    pub settings: Arc<config::App>,
    /// The keys, ready to check signatures.
    pub keys: Keys,
    /// The app is no longer configured.
    pub(super) is_removed: bool,
    backend_events: Option<Arc<Rate>>,
    read_requests: Option<Arc<Rate>>,
}

impl Rules {
    fn new(settings: Arc<config::App>, rates: Option<&Arc<Rates>>) -> Self {
        let rate = |per_second, kind| {
            let shared = rates.map(|rates| SharedRate::new(Arc::clone(rates), &settings.id, kind));
            Rate::new(per_second, shared).map(Arc::new)
        };
        Self {
            keys: Keys::new(settings.keys.iter().map(|pair| (&*pair.key, pair.secret.expose()))),
            is_removed: false,
            backend_events: rate(settings.limits.max_backend_events_per_second, "backend_events"),
            read_requests: rate(settings.limits.max_read_requests_per_second, "read_requests"),
            settings,
        }
    }
}

impl App {
    pub(super) fn new(settings: Arc<config::App>, node: &Node) -> Self {
        let cluster = node.cluster.clone();
        let outgoing = cluster.as_ref().map(|cluster| Arc::clone(cluster.outgoing()));
        let webhook_events = Arc::clone(node.webhooks.events());
        let (inboxes, event_cache) = (Arc::clone(&node.inboxes), Arc::clone(&node.event_cache));
        let state = AppState::new(&settings.id, inboxes, outgoing, webhook_events, event_cache)
            .counted_in(Arc::clone(&node.total));
        let state = Arc::new(state);
        if let Some(cluster) = &cluster {
            cluster.add(Arc::clone(&state));
        }
        node.webhooks.set_app(&state, &settings);
        Self {
            id: settings.id.clone(),
            meters: Arc::new(node.metrics.app(&settings.id)),
            rules: ArcSwap::from_pointee(Rules::new(settings, node.rates.as_ref())),
            state,
            cluster,
            rates: node.rates.clone(),
            webhooks: Arc::clone(&node.webhooks),
            refusals: Arc::clone(&node.refusals),
            open: AtomicUsize::new(0),
            unauthorized: AtomicUsize::new(0),
            used_at: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn touch(&self) {
        *self.used_at.lock() = Instant::now();
    }

    /// How long the app has not been looked up.
    pub(super) fn unused_for(&self) -> Duration {
        self.used_at.lock().elapsed()
    }

    /// The present rules. A reload may replace them between two calls.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Takes settings, which may be unchanged.
    pub(super) fn update(&self, settings: Arc<config::App>) {
        let rules = self.rules();
        if rules.is_removed || rules.settings != settings {
            self.webhooks.set_app(&self.state, &settings);
            self.rules.store(Arc::new(Rules::new(settings, self.rates.as_ref())));
        }
    }

    /// Marks the app as no longer configured.
    pub(super) fn remove(&self) {
        let settings = Arc::new(config::App { enabled: false, ..config::App::clone(&self.rules().settings) });
        self.rules.store(Arc::new(Rules { is_removed: true, ..Rules::new(settings, self.rates.as_ref()) }));
    }

    /// Takes `events` from what the app may publish in a second. `None` without a limit.
    pub(super) async fn take_backend_events(&self, events: usize) -> Result<Option<Allowance>, TooFast> {
        let Some(rate) = self.rules().backend_events.clone() else { return Ok(None) };
        rate.take(events).await.map(Some)
    }

    /// Takes one from the read requests that the app may make in a second. `None` without a limit.
    pub async fn take_read_request(&self) -> Result<Option<Allowance>, TooFast> {
        let Some(rate) = self.rules().read_requests.clone() else { return Ok(None) };
        rate.take(1).await.map(Some)
    }

    /// Counts and logs refusals.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Counts something that a rule forbids.
    pub(super) fn count_forbidden(&self, what: &str, why: &PolicyError) {
        self.meters.forbidden(why.rule(), what);
    }

    /// Established connections, authorized or not.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn connection_opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.meters.new_connections.inc();
    }

    pub(super) fn connection_closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.meters.new_disconnections.inc();
    }

    /// The connections that the app may have; `None` without a limit.
    pub(super) fn connections_max(&self) -> Option<usize> {
        usize::try_from(self.rules().settings.limits.max_connections).ok().filter(|&max| max > 0)
    }

    /// The limit of connections, as the log shows it.
    pub fn quota(&self) -> Option<String> {
        self.connections_max().map(|max| format!("max_connections is {max}"))
    }

    pub(super) fn subscribe_limits(&self) -> SubscribeLimits {
        let limits = &self.rules().settings.limits;
        SubscribeLimits {
            name_length_max: limits.max_channel_name_length,
            member: MemberLimits {
                user_id_length_max: limits.max_presence_user_id_length,
                user_info_bytes_max: limits.member_bytes_max(),
            },
            view: ViewLimits {
                pattern_length_max: limits.max_channel_name_length,
                stars: self.cluster.as_ref().is_none_or(|cluster| cluster.has_patterns()),
                now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            },
        }
    }

    /// The sizes that publishers must keep to.
    pub fn publish_limits(&self) -> PublishLimits {
        let limits = &self.rules().settings.limits;
        PublishLimits {
            batch_events_max: limits.max_event_batch_size,
            channels_max: limits.max_event_channels_at_once,
            channel_name_length_max: limits.max_channel_name_length,
            event_name_length_max: limits.max_event_name_length,
            data_bytes_max: limits.event_bytes_max(),
        }
    }

    pub(super) fn join_rules(&self) -> JoinRules {
        let limits = &self.rules().settings.limits;
        JoinRules { members_max: limits.max_presence_members_per_channel, counted: limits.enable_subscription_count }
    }
}
