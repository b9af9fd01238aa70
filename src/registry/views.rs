//! The views of one app: subscriptions that also get the events of other channels, under the name of their own.
//!
//! Lock order: a channel, the views, then inboxes and the outgoing queue.

mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::RwLock;

use crate::flow::rules::FlowRules;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::code::VIEW_ENDED;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::event;
use crate::protocol::event::Source;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::view::View;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::deadlines::Receivers;
use crate::registry::flow::Flow;
use crate::registry::inbox::Event;
use crate::registry::inbox::InboxWriter;
use crate::registry::inbox::ShardMessage;
use crate::registry::remote::dedup::Arrival;
use crate::registry::scope::Scope;
use crate::registry::views::table::Expired;
use crate::registry::views::table::ViewTable;

/// The views, and how many subscriptions they have.
#[derive(Debug, Default)]
pub(super) struct Views {
    /// Subscriptions with a view. While there are none, publishing asks for no more than this.
    count: AtomicUsize,
    table: RwLock<ViewTable>,
    /// The flows of channels that a view shows.
    flows: Mutex<HashMap<ChannelName, Flow>>,
}

impl Views {
    /// Subscriptions with a view.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A connection with a view is about to join a channel.
    pub(super) fn add(&self, channel: &ChannelName, address: Address, view: &View, scope: &Scope<'_>) {
        let mut table = self.table.write();
        let key = (address, channel.clone());
        table.add(&key, view, scope.app.inboxes.shards(), scope.now);
        self.count.fetch_add(1, Ordering::Release);
        if let Some(outgoing) = scope.app.outgoing.as_ref().filter(|_| table.is_waiting(&key)) {
            outgoing.notify_views_changed();
        }
    }

    /// Whether events of other nodes do not come yet for this subscription.
    pub(super) fn is_waiting(&self, channel: &ChannelName, address: Address) -> bool {
        self.table.read().is_waiting(&(address, channel.clone()))
    }

    /// The connection has joined: it gets the view's events from now on.
    pub(super) fn start(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        let mut table = self.table.write();
        if let Some(id) = table.start(&(address, channel.clone())) {
            scope.inboxes.put_to(address, |slot| ShardMessage::Mirror(slot, id));
        }
    }

    /// The connection leaves the channel, or no longer wants to join it.
    pub(super) fn remove(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        let key = (address, channel.clone());
        if let Some(id) = table.stop(&key) {
            scope.inboxes.put_to(address, |slot| ShardMessage::Unsubscribed(slot, id));
        }
        if let Some(was_last) = table.remove(&key) {
            self.count.fetch_sub(1, Ordering::Release);
            if let Some(outgoing) = scope.app.outgoing.as_ref().filter(|_| was_last) {
                outgoing.notify_views_changed();
            }
        }
    }

    /// Takes an event of a channel for the views that mirror it.
    pub(super) fn mirror(&self, channel: &ChannelName, event: &Event, scope: &mut Scope<'_>) {
        if self.count() == 0 || !can_be_mirrored(channel) {
            return;
        }
        match scope.app.flow.rules() {
            None => self.show(channel, event, &mut scope.inboxes),
            // A view by name shows the events of its channel, which is mirrored itself.
            Some(rules) if rules.view(channel.as_str()).is_some() => (),
            Some(rules) => self.thin(channel, event, &rules, scope),
        }
    }

    /// Sends the views what the flow rules make of an event.
    fn thin(&self, channel: &ChannelName, event: &Event, rules: &Arc<FlowRules>, scope: &mut Scope<'_>) {
        let mut flows = self.flows.lock();
        if !flows.contains_key(channel) {
            if self.table.read().views_of(channel).next().is_none() {
                return;
            }
            if let Some(flow) = Flow::bounded(channel, Receivers::Views, Arc::clone(rules), scope.app, scope.now) {
                flows.insert(channel.clone(), flow);
            }
        }
        let Some(flow) = flows.get_mut(channel) else { return self.show(channel, event, &mut scope.inboxes) };
        let mut events = Vec::new();
        if flow.is_outdated(rules) {
            events = flow.flush(scope.now);
            flow.follow_rules(channel, scope.app, scope.now);
        }
        events.extend(flow.publish(event, scope.now));
        self.show_all(channel, flow, &events, scope);
    }

    fn show_all(&self, channel: &ChannelName, flow: &mut Flow, events: &[Event], scope: &mut Scope<'_>) {
        for event in events {
            self.show(channel, event, &mut scope.inboxes);
        }
        flow.schedule(channel, scope.app);
    }

    /// Sends an event to the views of its channel.
    fn show(&self, channel: &ChannelName, event: &Event, inboxes: &mut InboxWriter<'_>) {
        if self.table.read().has_expired(event.accepted) {
            self.end_expired(event.accepted, inboxes);
        }
        let table = self.table.read();
        for (id, view) in table.views_of(channel) {
            let member = view.channel_as.as_deref();
            let source = member.map(|member| Source { member, channel: channel.as_str() });
            let Some(frame) = event::under(view.channel.as_str(), &event.frame, source) else { continue };
            // Events of several channels come by one view.
            let flow_key = event.flow_key.as_ref().map(|key| key.of_channel(channel.as_str()));
            inboxes.put_event(view.shards(), id, &Event { frame, flow_key, ..event.clone() });
        }
    }

    /// Ends the expired subscriptions.
    fn end_expired(&self, now: Instant, inboxes: &mut InboxWriter<'_>) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        for Expired { key, close } in table.expired(now) {
            if let Some(id) = table.stop(&key) {
                inboxes.put_to(key.0, |slot| ShardMessage::Unsubscribed(slot, id));
            }
            if close {
                inboxes.put_to(key.0, |slot| ShardMessage::Close(slot, VIEW_ENDED));
            }
        }
    }
}

/// Encrypted channels and users' own channels are for their subscribers only.
fn can_be_mirrored(channel: &ChannelName) -> bool {
    let kind = channel.kind();
    !kind.encrypted && kind.access != Access::User
}

impl AppState {
    /// Subscriptions with a view.
    pub fn views(&self) -> usize {
        self.views.count()
    }

    pub(super) fn tick_views(&self, now: Instant) {
        let mut scope = Scope::new(self, now);
        self.views.end_expired(now, &mut scope.inboxes);
        scope.inboxes.wake();
        // A flow without anything pending still knows its rate. It gives way to others if there are too many.
        let is_full = self.flow.deadlines.flows.is_full();
        let is_shown = |channel: &ChannelName| self.views.table.read().views_of(channel).next().is_some();
        self.views.flows.lock().retain(|channel, flow| !flow.is_idle(now) || (!is_full && is_shown(channel)));
    }
}

/// The flow rules of views.
impl AppState {
    pub(super) fn run_view_flow(&self, channel: &ChannelName, now: Instant) {
        let mut scope = Scope::new(self, now);
        if let Some(flow) = self.views.flows.lock().get_mut(channel) {
            let events = flow.run_due(now);
            self.views.show_all(channel, flow, &events, &mut scope);
        }
        scope.inboxes.wake();
    }

    /// Ends all flows of views: what is pending is delivered, and each channel begins anew.
    pub(super) fn end_view_flows(&self, now: Instant) {
        let mut scope = Scope::new(self, now);
        self.views.flows.lock().retain(|channel, flow| {
            let events = flow.flush(now);
            self.views.show_all(channel, flow, &events, &mut scope);
            false
        });
        scope.inboxes.wake();
    }
}

/// The part of views that other nodes have.
impl AppState {
    /// The patterns of all views, for the cluster to subscribe to.
    pub fn mirrored_patterns(&self) -> Vec<ChannelPattern> {
        self.views.table.read().patterns()
    }

    /// The cluster has subscribed to these patterns.
    pub fn on_patterns_subscribed(&self, patterns: &[ChannelPattern], now: Instant) {
        let waiting = self.views.table.write().on_subscribed(patterns);
        self.admit_arriving(waiting, now);
    }

    /// The link to the other nodes is lost.
    pub(super) fn unlink_views(&self) {
        self.views.table.write().on_unlinked();
    }

    /// An event of another node has come for the views. `in_order` means that the events of all channels of a node come in
    /// one order. Returns false for a duplicate.
    pub fn on_mirrored_event(&self, channel: &ChannelName, event: RemoteEvent, in_order: bool, now: Instant) -> bool {
        let arrival = self.views.table.write().dedup(channel, in_order).check(event.node, event.number);
        if arrival == Arrival::Duplicate {
            return false;
        }
        if let Some(outgoing) = self.outgoing.as_ref().filter(|_| arrival == Arrival::Implausible) {
            outgoing.report_implausible();
        }
        let mut scope = Scope::new(self, now);
        let event = Event::of_node(event, now);
        self.views.mirror(channel, &event, &mut scope);
        scope.inboxes.wake();
        true
    }
}
