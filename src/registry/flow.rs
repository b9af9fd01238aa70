//! Flow rules on the channels of an app: which rules there are, the state of each channel, and when it is due.
//!
//! Lock order: a channel, the flows before the nodes or those of views, then deadlines and inboxes.

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
use crate::flow::rule::At;
use crate::flow::rule::FlowRules;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::metrics::FlowMeters;
use crate::metrics::RuleMeters;
use crate::protocol::channel::ChannelName;
use crate::protocol::event::Event;
use crate::protocol::frame::Frame;
use crate::registry::AppState;
use crate::registry::deadlines::Deadlines;
use crate::registry::deadlines::Due;
use crate::registry::deadlines::Receivers;

/// The flow rules of an app.
#[derive(Debug, Default)]
pub(super) struct AppFlow {
    rules: ArcSwap<FlowRules>,
    /// There are rules. Without any, publishing asks for no more than this.
    is_on: AtomicBool,
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
    scheduled: Option<Instant>,
    /// How long a cache channel keeps an event, and whether Redis does not keep it for all nodes.
    pub(super) cache: Option<(Duration, bool)>,
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

    /// The rules, if there are any.
    pub(super) fn rules(&self) -> Option<Arc<FlowRules>> {
        self.is_on.load(Ordering::Acquire).then(|| self.rules.load_full())
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
        let mut flow = Self { rules, receivers, thinning: None, scheduled: None, cache: None };
        flow.follow_rules(name, app, now);
        flow
    }

    /// Takes an event. Returns what is to be delivered now.
    pub(super) fn publish(&mut self, event: &Event) -> Vec<Event> {
        match &mut self.thinning {
            Some(thinning) => thinning.run(event.accepted, |channel, now, out| channel.publish(event, now, out)),
            None => vec![event.clone()],
        }
    }

    /// Delivers what is due.
    pub(super) fn run_due(&mut self, now: Instant) -> Vec<Event> {
        self.scheduled = None;
        self.run(now, ChannelFlow::run_due)
    }

    /// Delivers everything that is pending.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<Event> {
        self.run(now, ChannelFlow::flush)
    }

    fn run(&mut self, now: Instant, f: impl FnOnce(&mut ChannelFlow, Now, &mut Vec<Event>)) -> Vec<Event> {
        self.thinning.as_mut().map(|thinning| thinning.run(now, f)).unwrap_or_default()
    }

    /// The last event of each key, for who joins now.
    pub(super) fn snapshot(&mut self, now: Instant) -> Vec<Frame> {
        self.thinning.as_mut().map(|thinning| thinning.channel.snapshot(now)).unwrap_or_default()
    }

    /// Whether a rule matches the channel.
    pub(super) fn has_rule(&self) -> bool {
        self.thinning.is_some()
    }

    /// Whether events are of use although nobody listens.
    pub(super) fn keeps_snapshot(&self) -> bool {
        self.thinning.as_ref().is_some_and(|thinning| thinning.channel.keeps_snapshot())
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
        let rules = self.rules.of_channel(name);
        let meters = || rules.iter().filter_map(|rule| Some(app.flow.meters.as_ref()?.rule(rule.pattern.as_str())));
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
            self.thinning = Some(Thinning { channel: ChannelFlow::new(name, rules, stage, now), meters, now });
        }
    }

    /// Adds the next deadline, unless an earlier one is known.
    pub(super) fn schedule(&mut self, name: &ChannelName, app: &AppState) {
        let Some(next) = self.thinning.as_ref().and_then(|thinning| thinning.channel.next()) else { return };
        if self.scheduled.is_none_or(|scheduled| next < scheduled) {
            self.scheduled = Some(next);
            app.flow.deadlines.add(next, Due { app: app.id.clone(), channel: name.clone(), receivers: self.receivers });
        }
    }
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
    /// Takes flow rules. Pending events are delivered first.
    pub fn set_flow_rules(&self, rules: FlowRules, now: Instant) {
        if *self.flow.rules.load_full() == rules {
            return;
        }
        let is_on = !rules.is_empty();
        self.flow.rules.store(Arc::new(rules));
        self.flow.is_on.store(is_on, Ordering::Release);
        self.flush_node_flows(now);
        self.flow.before_nodes.lock().clear();
        self.update_channel_flows(now);
        self.update_view_flows(now);
    }

    /// Delivers what is pending, such as before a drain.
    pub fn flush_flows(&self, now: Instant) {
        self.flush_node_flows(now);
        self.flush_channel_flows(now);
        self.flush_view_flows(now);
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
