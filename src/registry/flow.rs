//! Flow rules on the channels of an app: which rules there are, the state of each channel, and when it is due.
//!
//! Lock order: a channel, the flows before the nodes or those of views, then deadlines and inboxes.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::flow::channel::ChannelFlow;
use crate::flow::channel::Received;
use crate::flow::channel::StoredEvent;
use crate::flow::rule::At;
use crate::flow::rules::FlowRules;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::metrics::FlowMeters;
use crate::metrics::RuleMeters;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::event::Event;
use crate::protocol::frame::Frame;
use crate::registry::AppState;
use crate::registry::deadlines::Deadlines;
use crate::registry::deadlines::Due;
use crate::registry::deadlines::Receivers;
use crate::registry::total::ChannelGuard;

/// The flow rules of an app.
#[derive(Debug, Default)]
pub(super) struct AppFlow {
    rules: ArcSwap<FlowRules>,
    /// There are rules. Without any, publishing asks for no more than this.
    is_on: AtomicBool,
    /// The rules change: flows of the old ones may have something pending.
    is_changing: AtomicBool,
    /// This node stops.
    is_ended: AtomicBool,
    /// Held while they change, so that they change one after the other.
    changing: Mutex<()>,
    /// The flows of channels before the other nodes get their events, for rules with `at = "ingest"`.
    pub(super) before_nodes: Mutex<HashMap<(ChannelName, Receivers), Flow>>,
    pub(super) deadlines: Arc<Deadlines>,
    meters: Option<FlowMeters>,
}

/// The state of one channel under the rules of its app, for its subscribers or for views of it.
#[derive(Debug)]
pub(super) struct Flow {
    rules: Arc<FlowRules>,
    receivers: Receivers,
    /// `None` if no rule matches the channel.
    thinning: Option<Thinning>,
    /// When the channel is due, as the deadlines know it.
    scheduled: BTreeSet<Instant>,
    /// How long a cache channel keeps an event, and whether Redis does not keep it for all nodes.
    pub(super) cache: Option<(Duration, bool)>,
    pub(super) storing: Storing,
    /// Of the flows that no channel of the registry bounds.
    _guard: Option<ChannelGuard>,
}

/// When the snapshot is stored for other nodes, and when what they have stored is fetched.
#[derive(Debug, Default)]
pub(super) struct Storing {
    /// When events are stored next.
    pub(super) at: Option<Instant>,
    /// When events were last stored.
    pub(super) last: Option<Instant>,
    /// When each node has stored what it had accepted before this one opened the topic.
    pub(super) fetch_again_at: Option<Instant>,
}

#[derive(Debug)]
struct Thinning {
    channel: ChannelFlow,
    meters: Vec<RuleMeters>,
    /// The latest time so far, since events of several publishers do not come in the order of their acceptance.
    now: Instant,
}

impl AppFlow {
    pub(super) fn new(deadlines: Arc<Deadlines>, meters: FlowMeters) -> Self {
        Self { deadlines, meters: Some(meters), ..Self::default() }
    }

    /// Whether flows of older rules may have something pending.
    pub(super) fn is_changing(&self) -> bool {
        self.is_changing.load(Ordering::Acquire)
    }

    /// Whether there are rules.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Whether this node stops, so that others keep the snapshots.
    pub(super) fn is_ended(&self) -> bool {
        self.deadlines.has_ended() || self.is_ended.load(Ordering::Acquire)
    }

    /// The rules, if there are any.
    pub(super) fn rules(&self) -> Option<Arc<FlowRules>> {
        self.is_on().then(|| self.rules.load_full())
    }
}

impl Flow {
    pub(super) fn new(
        name: &ChannelName,
        receivers: Receivers,
        rules: Arc<FlowRules>,
        app: &AppState,
        now: Instant,
    ) -> Self {
        let (scheduled, storing) = (BTreeSet::new(), Storing::default());
        let mut flow = Self { rules, receivers, thinning: None, scheduled, cache: None, storing, _guard: None };
        flow.follow_rules(name, app, now);
        flow
    }

    /// Like [`Self::new`], for a flow that no channel of the registry bounds. `None` if there are too many: the event
    /// passes, which is counted.
    pub(super) fn bounded(
        name: &ChannelName,
        receivers: Receivers,
        rules: Arc<FlowRules>,
        app: &AppState,
        now: Instant,
    ) -> Option<Self> {
        let flows = &app.flow.deadlines.flows;
        if flows.is_full() {
            if let (Some(meters), Some(rule)) = (&app.flow.meters, rules.of_channel(name).first()) {
                meters.rule(rule.pattern.as_str()).add(Outcome::ChannelsFull as usize, 1);
            }
            return None;
        }
        Some(Self { _guard: Some(flows.add()), ..Self::new(name, receivers, rules, app, now) })
    }

    /// Takes an event, which may have been accepted long before. Returns what is to be delivered now.
    pub(super) fn publish(&mut self, event: &Event, now: Instant) -> Vec<Event> {
        let Some(thinning) = &mut self.thinning else { return vec![event.clone()] };
        let mut out = thinning.run(now, |channel, now, out| channel.publish(event, now, out));
        out.iter_mut().filter(|out| out.accepted != event.accepted).for_each(|out| end_delay(out, now));
        out
    }

    /// Whether the last event has taken along what was pending.
    pub(super) fn has_flushed(&self) -> bool {
        self.thinning.as_ref().is_some_and(|thinning| thinning.channel.has_flushed())
    }

    /// Delivers what an event takes along that passes by another flow of the channel.
    pub(super) fn flush_before(&mut self, now: Instant) -> Vec<Event> {
        self.run(now, ChannelFlow::flush_before)
    }

    /// Delivers what is due.
    pub(super) fn run_due(&mut self, now: Instant) -> Vec<Event> {
        self.scheduled.retain(|at| *at > now);
        self.storing.at.take_if(|at| *at <= now);
        self.run(now, ChannelFlow::run_due)
    }

    /// Delivers everything that is pending.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<Event> {
        self.run(now, ChannelFlow::flush)
    }

    fn run(&mut self, now: Instant, f: impl FnOnce(&mut ChannelFlow, Now, &mut Vec<Event>)) -> Vec<Event> {
        let mut out = self.thinning.as_mut().map(|thinning| thinning.run(now, f)).unwrap_or_default();
        out.iter_mut().for_each(|out| end_delay(out, now));
        out
    }

    /// The last event of each key, for who joins now.
    pub(super) fn snapshot(&mut self, now: Instant) -> Vec<Frame> {
        self.thinning.as_mut().map(|thinning| thinning.channel.snapshot(now)).unwrap_or_default()
    }

    /// Takes over stored events. Returns those that are new here.
    pub(super) fn restore(&mut self, stored: Vec<StoredEvent>, received: Received, now: Instant) -> Vec<Event> {
        let restore = |thinning: &mut Thinning| thinning.channel.restore(stored, received, now);
        self.thinning.as_mut().map(restore).unwrap_or_default()
    }

    /// Takes events to store, about so many bytes at most.
    pub(super) fn take_unstored(&mut self, bytes: usize) -> Vec<StoredEvent> {
        self.thinning.as_mut().map(|thinning| thinning.channel.take_unstored(bytes)).unwrap_or_default()
    }

    /// Whether Redis may lack a part of the snapshot.
    pub(super) fn has_unstored(&self) -> bool {
        self.thinning.as_ref().is_some_and(|thinning| thinning.channel.has_unstored())
    }

    /// How long the snapshot is stored for other nodes, and how many keys it has at most; `None` if it is not stored.
    pub(super) fn stored_max(&self) -> Option<(Duration, usize)> {
        self.thinning.as_ref().and_then(|thinning| thinning.channel.stored_max())
    }

    /// How long an event may wait on another node before it comes out and is stored.
    pub(super) fn stored_delay(&self) -> Option<Duration> {
        self.thinning.as_ref().and_then(|thinning| thinning.channel.stored_delay())
    }

    /// Another node stores nothing any more.
    pub(super) fn on_node_gone(&mut self, node: NodeId, now: Instant) {
        if let Some(thinning) = &mut self.thinning {
            thinning.channel.on_node_gone(node, now);
        }
    }

    /// Whether a rule matches the channel.
    pub(super) fn has_rule(&self) -> bool {
        self.thinning.is_some()
    }

    /// Whether events are of use although nobody listens.
    pub(super) fn has_snapshot(&self) -> bool {
        self.thinning.as_ref().is_some_and(|thinning| thinning.channel.has_snapshot())
    }

    /// Whether nothing is pending, and the snapshot is empty.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.thinning.as_mut().is_none_or(|thinning| thinning.channel.is_idle(now))
    }

    /// Whether the rules of the app have changed since [`Flow::follow_rules`].
    pub(super) fn is_outdated(&self, rules: &Arc<FlowRules>) -> bool {
        !Arc::ptr_eq(&self.rules, rules)
    }

    /// Takes the present rules of the app, once everything is flushed.
    pub(super) fn follow_rules(&mut self, name: &ChannelName, app: &AppState, now: Instant) {
        self.rules = app.flow.rules.load_full();
        let mut rules = self.rules.of_channel(name);
        if self.receivers == Receivers::Views {
            // Nobody joins a view of the group with a snapshot.
            rules.iter_mut().for_each(|rule| *rule = rule.without_snapshot());
        }
        // The subscribers' flow counts, so that an event counts once.
        let meters = app.flow.meters.as_ref().filter(|_| self.receivers != Receivers::Views);
        let meters = || rules.iter().filter_map(|rule| Some(meters?.rule(rule.pattern.as_str())));
        if rules.is_empty() {
            self.thinning = None;
        } else if let Some(thinning) = &mut self.thinning {
            thinning.meters = meters().collect();
            thinning.channel.replace_rules(name, rules, now);
        } else {
            let stage = match self.receivers {
                _ if app.outgoing.is_none() => None,
                Receivers::Nodes | Receivers::Here => Some(At::Ingest),
                Receivers::Subscribers | Receivers::Views => Some(At::Delivery),
            };
            let meters = meters().collect();
            let mut channel = ChannelFlow::new(name, rules, stage, now);
            if stage == Some(At::Delivery) {
                channel = channel.stored_by(app.node());
            }
            self.thinning = Some(Thinning { channel, meters, now });
        }
    }

    /// Adds the next deadline, unless an earlier one is known.
    pub(super) fn schedule(&mut self, name: &ChannelName, app: &AppState) {
        let Some(thinning) = &self.thinning else { return };
        let next = [thinning.channel.next(), self.storing.at, self.storing.fetch_again_at].into_iter().flatten().min();
        let Some(next) = next else { return };
        if self.scheduled.first().is_none_or(|scheduled| next < *scheduled) {
            self.scheduled.insert(next);
            app.flow.deadlines.add(next, Due { app: app.id.clone(), channel: name.clone(), receivers: self.receivers });
        }
    }
}

/// The time that a rule has held an event back is no delay of the server.
fn end_delay(event: &mut Event, now: Instant) {
    event.accepted = event.accepted.max(now);
}

impl Thinning {
    fn run(&mut self, now: Instant, f: impl FnOnce(&mut ChannelFlow, Now, &mut Vec<Event>)) -> Vec<Event> {
        self.now = self.now.max(now);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let mut out = Vec::new();
        f(&mut self.channel, Now { instant: self.now, unix_ms }, &mut out);
        for ((_, counts), meters) in self.channel.take_counts().zip(&self.meters) {
            for outcome in Outcome::ALL {
                meters.add(outcome as usize, counts.of(outcome));
            }
        }
        out
    }
}

impl AppState {
    /// Takes flow rules, or none once the process stops. Pending events are delivered first.
    pub fn set_flow_rules(&self, rules: FlowRules, now: Instant) {
        let _changing = self.flow.changing.lock();
        let rules = if self.flow.deadlines.has_ended() { FlowRules::default() } else { rules };
        if *self.flow.rules.load_full() == rules {
            return;
        }
        let is_on = !rules.is_empty();
        self.flow.is_changing.store(true, Ordering::Release);
        self.flow.rules.store(Arc::new(rules));
        self.flow.is_on.store(true, Ordering::Release);
        self.end_node_flows(now);
        self.update_channel_flows(now);
        self.end_view_flows(now);
        // Until here each event has found the flow of its channel, and nothing overtook what was pending.
        self.flow.is_on.store(is_on, Ordering::Release);
        self.flow.is_changing.store(false, Ordering::Release);
    }

    /// Whether the process stops, so that no rules come any more.
    pub fn has_no_more_flows(&self) -> bool {
        self.flow.deadlines.has_ended()
    }

    /// Ends all flow rules, because this node stops. Pending events are delivered, and snapshots are left to the others.
    pub fn end_flow_rules(&self, now: Instant) {
        self.flow.is_ended.store(true, Ordering::Release);
        self.set_flow_rules(FlowRules::default(), now);
    }

    /// How long the snapshot of a channel is kept, and how many keys it has at most; `None` if no rule keeps one.
    pub fn snapshot_max(&self, name: &ChannelName) -> Option<(Duration, usize)> {
        let rules = self.flow.rules()?.of_channel(name);
        let kept = || rules.iter().filter_map(|rule| Some((rule.snapshot.as_ref()?.max_age_seconds, rule.keys_max)));
        let seconds = kept().map(|(seconds, _)| seconds).max()?;
        Some((Duration::from_secs(seconds.into()), kept().map(|(_, keys)| keys.max(1)).sum()))
    }

    /// Delivers what is due on a channel.
    pub fn run_flow(&self, due: &Due, now: Instant) {
        match due.receivers {
            Receivers::Subscribers => self.run_channel_flow(&due.channel, now),
            Receivers::Nodes | Receivers::Here => self.run_node_flow(&due.channel, due.receivers, now),
            Receivers::Views => self.run_view_flow(&due.channel, now),
        }
    }
}
