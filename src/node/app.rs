//! One app of this process.

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
use crate::cluster::rates::Rates;
use crate::config;
use crate::limiter::Allowance;
use crate::limiter::TooFast;
use crate::metrics::AppMeters;
use crate::node::Node;
use crate::node::rate::Rate;
use crate::node::rate::Shared;
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
    /// The limits that nodes have in common, where they do.
    rates: Option<Arc<Rates>>,
    webhooks: Arc<Webhooks>,
    refusals: Arc<Refusals>,
    open: AtomicUsize,
    /// Connections that hear public channels without being authorized.
    pub(super) unauthorized: AtomicUsize,
    used_at: Mutex<Instant>,
}

/// What holds for an app until the operator says something else.
#[derive(Debug)]
pub struct Rules {
    /// What the operator says.
    pub said: Arc<config::App>,
    /// What its keys sign.
    pub keys: Keys,
    /// Nobody says anything of the app any more.
    pub(super) gone: bool,
    backend_events: Option<Arc<Rate>>,
    read_requests: Option<Arc<Rate>>,
}

impl Rules {
    fn new(said: Arc<config::App>, rates: Option<&Arc<Rates>>) -> Self {
        let rate = |per_second, kind| {
            let shared = rates.map(|rates| Shared::new(Arc::clone(rates), &said.id, kind));
            Rate::new(per_second, shared).map(Arc::new)
        };
        Self {
            keys: Keys::new(said.keys.iter().map(|pair| (&*pair.key, pair.secret.expose()))),
            gone: false,
            backend_events: rate(said.limits.max_backend_events_per_second, "backend_events"),
            read_requests: rate(said.limits.max_read_requests_per_second, "read_requests"),
            said,
        }
    }
}

impl App {
    pub(super) fn new(says: Arc<config::App>, node: &Node) -> Self {
        let cluster = node.cluster.clone();
        let outgoing = cluster.as_ref().map(|cluster| Arc::clone(cluster.outgoing()));
        let facts = Arc::clone(node.webhooks.events());
        let (inboxes, remembered) = (Arc::clone(&node.inboxes), Arc::clone(&node.remembered));
        let state = AppState::new(&says.id, inboxes, outgoing, facts, remembered).counted_in(Arc::clone(&node.total));
        let state = Arc::new(state);
        if let Some(cluster) = &cluster {
            cluster.add(Arc::clone(&state));
        }
        node.webhooks.set_app(&state, &says);
        Self {
            id: says.id.clone(),
            meters: Arc::new(node.metrics.app(&says.id)),
            rules: ArcSwap::from_pointee(Rules::new(says, node.rates.as_ref())),
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

    pub(super) fn is_used_now(&self) {
        *self.used_at.lock() = Instant::now();
    }

    /// How long nobody has asked for it.
    pub(super) fn unused_for(&self) -> Duration {
        self.used_at.lock().elapsed()
    }

    /// What holds at this moment.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// The operator says something else, or the same again.
    pub(super) fn change(&self, says: Arc<config::App>) {
        let rules = self.rules();
        if rules.gone || rules.said != says {
            self.webhooks.set_app(&self.state, &says);
            self.rules.store(Arc::new(Rules::new(says, self.rates.as_ref())));
        }
    }

    /// The operator says nothing of it any more.
    pub(super) fn go(&self) {
        let said = Arc::new(config::App { enabled: false, ..config::App::clone(&self.rules().said) });
        self.rules.store(Arc::new(Rules { gone: true, ..Rules::new(said, self.rates.as_ref()) }));
    }

    /// Uses up `events` of what the app may publish in a second. There is nothing to tell where there is no limit.
    pub(super) async fn take_backend_events(&self, events: usize) -> Result<Option<Allowance>, TooFast> {
        let Some(rate) = self.rules().backend_events.clone() else { return Ok(None) };
        rate.take(events).await.map(Some)
    }

    /// Uses up one of the requests that the app may make in a second.
    pub async fn take_read_request(&self) -> Result<Option<Allowance>, TooFast> {
        let Some(rate) = self.rules().read_requests.clone() else { return Ok(None) };
        rate.take(1).await.map(Some)
    }

    /// Counts and logs what is refused.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Counts what a rule forbids.
    pub(super) fn forbidden(&self, what: &str, why: &PolicyError) {
        self.meters.forbidden(why.rule(), what);
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

    /// The quota in words, for the log.
    pub fn quota(&self) -> Option<String> {
        self.connections_max().map(|max| format!("max_connections is {max}"))
    }

    pub(super) fn subscribe_limits(&self) -> SubscribeLimits {
        let limits = &self.rules().said.limits;
        SubscribeLimits {
            name_length_max: limits.max_channel_name_length,
            member: MemberLimits {
                user_id_length_max: limits.max_presence_user_id_length,
                user_info_bytes_max: limits.member_bytes_max(),
            },
            view: ViewLimits {
                pattern_length_max: limits.max_channel_name_length,
                stars: self.cluster.as_ref().is_none_or(|cluster| cluster.hears_patterns()),
                now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
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
