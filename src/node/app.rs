//! One app: its settings, its state and its counters.
//! Every use case starts from an [`App`].

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
use crate::flow::rules::FlowRules;
use crate::flow::thinning::Outcome;
use crate::history::rule::HistoryRules;
use crate::limiter::shared::Rates;
use crate::metrics::AppMeters;
use crate::node::Node;
use crate::node::rules::Rules;
use crate::protocol::channel::ChannelName;
use crate::protocol::policy::PolicyError;
use crate::refusal::Refusals;
use crate::registry;
use crate::registry::AppState;
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
    /// The operator's page shows the data of events.
    pub(super) shows_payloads: bool,
    open: AtomicUsize,
    /// Connections with public channels that are not authorized.
    pub(super) unauthorized: AtomicUsize,
    used_at: Mutex<Instant>,
}

impl App {
    pub(super) fn new(settings: Arc<config::App>, node: &Node) -> Self {
        let cluster = node.cluster.clone();
        let outgoing = cluster.as_ref().map(|cluster| Arc::clone(cluster.outgoing()));
        let webhook_events = Arc::clone(node.webhooks.events());
        let (inboxes, event_cache) = (Arc::clone(&node.inboxes), Arc::clone(&node.event_cache));
        let state = AppState::new(&settings.id, inboxes, outgoing, webhook_events, event_cache)
            .counted_in(Arc::clone(&node.total))
            .counting_activity(node.has_dashboard)
            .thinned_by(Arc::clone(&node.deadlines), node.metrics.flow(&settings.id, &Outcome::LABELS))
            .remembered_by(node.metrics.history(&settings.id));
        set_rules(&state, &settings);
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
            shows_payloads: node.shows_payloads,
            open: AtomicUsize::new(0),
            unauthorized: AtomicUsize::new(0),
            used_at: Mutex::new(Instant::now()),
        }
    }

    /// Ends the app's flow rules if the process stops, and may not have found the app yet.
    pub(super) fn end_flows_if_stopping(&self) {
        if self.state.has_no_more_flows() {
            self.state.set_flow_rules(FlowRules::default(), Instant::now());
        }
    }

    pub(super) fn touch(&self) {
        *self.used_at.lock() = Instant::now();
    }

    /// How long the app has not been looked up.
    pub(super) fn unused_for(&self) -> Duration {
        self.used_at.lock().elapsed()
    }

    /// The present rules. A reload may replace them between two calls, so call it once for each request or message.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// The present rules, to be kept for a whole request, also over an `await`.
    pub fn rules_for_request(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Takes settings, which may be unchanged.
    pub(super) fn update(&self, settings: Arc<config::App>) {
        let rules = self.rules();
        if rules.is_removed || rules.settings != settings {
            self.webhooks.set_app(&self.state, &settings);
            set_rules(&self.state, &settings);
            self.rules.store(Arc::new(Rules::new(settings, self.rates.as_ref())));
        }
    }

    /// Marks the app as no longer configured.
    pub(super) fn remove(&self) {
        self.rules.store(Arc::new(self.rules().removed(self.rates.as_ref())));
    }

    /// Counts and logs refusals.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Counts something that a rule forbids.
    pub fn count_forbidden(&self, what: &str, why: &PolicyError) {
        self.meters.forbidden(why.rule(), what);
    }

    /// Established connections, authorized or not.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The occupied channels on this node.
    pub fn channels(&self) -> Vec<(ChannelName, registry::ChannelInfo)> {
        self.state.channels("")
    }

    /// The members of a presence channel with their `user_info` as JSON.
    pub fn members_with_info(&self, name: &ChannelName) -> Vec<(Arc<str>, Arc<str>)> {
        self.state.members_with_info(name.as_str())
    }

    /// A channel on this node.
    pub fn channel_here(&self, name: &ChannelName) -> registry::ChannelInfo {
        self.state.channel(name.as_str(), Instant::now())
    }

    /// The channels on this node, without taking a name along.
    pub fn channel_count(&self) -> usize {
        self.state.channel_count()
    }

    pub(super) fn connection_opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.meters.new_connections.inc();
    }

    pub(super) fn connection_closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.meters.new_disconnections.inc();
    }

    /// The limit of connections, as the log shows it.
    pub fn quota(&self) -> Option<String> {
        self.rules().connections_max().map(|max| format!("max_connections is {max}"))
    }
}

/// Takes the rules for events that the settings have.
fn set_rules(state: &AppState, settings: &config::App) {
    let (limits, now) = (&settings.limits, Instant::now());
    state.set_flow_rules(FlowRules::new(&limits.flow_rules), now);
    state.set_history_rules(HistoryRules::new(&limits.history_rules), limits.history_bytes_max, now);
}
