//! The views of one app: subscriptions that also get the events of other channels, under the name of their own.
//!
//! Lock order: a channel, the views, then inboxes and the outgoing queue.

mod table;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::RwLock;

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
use crate::registry::channel::Scope;
use crate::registry::inbox::Event;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::ShardMessage;
use crate::registry::inbox::Sleepers;
use crate::registry::seen::News;
use crate::registry::seen::Seen;
use crate::registry::views::table::Over;
use crate::registry::views::table::Table;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Views {
    /// Subscriptions with a view. While there are none, publishing asks for no more than this.
    count: AtomicUsize,
    table: RwLock<Table>,
}

impl Views {
    /// Subscriptions with a view.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A connection is about to join a channel, with a view.
    pub(super) fn expect(&self, channel: &ChannelName, address: Address, view: &View, scope: &Scope<'_>) {
        let mut table = self.table.write();
        let key = (address, channel.clone());
        table.enter(&key, view, scope.inboxes.shards(), scope.now);
        self.count.fetch_add(1, Ordering::Release);
        if let Some(outgoing) = scope.outgoing.filter(|_| table.waits(&key)) {
            outgoing.change_views();
        }
    }

    /// Whether the other nodes are not yet listened to for this subscription.
    pub(super) fn waits(&self, channel: &ChannelName, address: Address) -> bool {
        self.table.read().waits(&(address, channel.clone()))
    }

    /// The connection has joined: it gets the view's events from now on.
    pub(super) fn admit(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        let mut table = self.table.write();
        if let Some(id) = table.let_see(&(address, channel.clone())) {
            scope.inboxes.put_to(address, |slot| ShardMessage::Mirror(slot, id), &mut scope.sleepers);
        }
    }

    /// The connection leaves the channel, or no longer wants to join it.
    pub(super) fn leave(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        let key = (address, channel.clone());
        if let Some(id) = table.blind(&key) {
            scope.inboxes.put_to(address, |slot| ShardMessage::Unsubscribed(slot, id), &mut scope.sleepers);
        }
        if let Some(was_last) = table.quit(&key) {
            self.count.fetch_sub(1, Ordering::Release);
            if let Some(outgoing) = scope.outgoing.filter(|_| was_last) {
                outgoing.change_views();
            }
        }
    }

    /// Hands an event of a channel to those who see it.
    pub(super) fn show(&self, channel: &ChannelName, event: &Event, inboxes: &Inboxes, sleepers: &mut Sleepers) {
        if self.count() == 0 || !can_be_seen(channel) {
            return;
        }
        if self.table.read().is_due(event.accepted) {
            self.end_due(event.accepted, inboxes, sleepers);
        }
        let table = self.table.read();
        for (id, shown) in table.seen_by(channel) {
            let member = shown.channel_as.as_deref();
            let source = member.map(|member| Source { member, channel: channel.as_str() });
            let Some(frame) = event::under(shown.channel.as_str(), &event.frame, source) else { continue };
            let event = Event { frame, ..*event };
            for shard in shown.shards() {
                inboxes.put(shard, ShardMessage::Event(id, event.clone()), sleepers);
            }
        }
    }

    /// Ends the views whose time is over.
    fn end_due(&self, now: Instant, inboxes: &Inboxes, sleepers: &mut Sleepers) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        for Over { key, closes } in table.over(now) {
            if let Some(id) = table.blind(&key) {
                inboxes.put_to(key.0, |slot| ShardMessage::Unsubscribed(slot, id), sleepers);
            }
            if closes {
                inboxes.put_to(key.0, |slot| ShardMessage::Close(slot, VIEW_ENDED), sleepers);
            }
        }
    }
}

/// Nobody but its reader can read what is encrypted, and a user's own channel is nobody else's.
fn can_be_seen(channel: &ChannelName) -> bool {
    let kind = channel.kind();
    !kind.encrypted && kind.access != Access::User
}

impl AppState {
    /// Subscriptions that see other channels.
    pub fn views(&self) -> usize {
        self.views.count()
    }

    pub(super) fn tick_views(&self, now: Instant) {
        let mut sleepers = Sleepers::default();
        self.views.end_due(now, &self.inboxes, &mut sleepers);
        sleepers.wake(&self.inboxes);
    }
}

/// What the cluster has to say.
impl AppState {
    /// What the views see: all patterns of it are to be listened to on the other nodes.
    pub fn seen_patterns(&self) -> Vec<ChannelPattern> {
        self.views.table.read().patterns()
    }

    /// These patterns are listened to.
    pub fn watched(&self, patterns: &[ChannelPattern], now: Instant) {
        let waiting = self.views.table.write().watched(patterns);
        self.admit_viewers(waiting, now);
    }

    /// No other node can be heard.
    pub(super) fn unwatched(&self) {
        self.views.table.write().unwatched();
    }

    /// An event of another node for the views. `in_order` tells whether what a node says is heard in one order for all
    /// channels, or in one for each. Returns false when it has been heard before.
    pub fn see(&self, channel: &ChannelName, event: RemoteEvent, in_order: bool, now: Instant) -> bool {
        let hear = |seen: &mut Seen| seen.hear(event.node, event.number);
        let news = self.views.table.write().seen(channel, in_order).map_or(News::Old, hear);
        if news == News::Old {
            return false;
        }
        if let Some(outgoing) = self.outgoing.as_ref().filter(|_| news == News::Implausible) {
            outgoing.doubt();
        }
        let mut sleepers = Sleepers::default();
        let event = Event { frame: event.frame, except: event.except, accepted: now };
        self.views.show(channel, &event, &self.inboxes, &mut sleepers);
        sleepers.wake(&self.inboxes);
        true
    }
}
