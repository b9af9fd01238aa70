//! The views of one app: subscriptions that also get the events of other channels, under the name of their own.
//!
//! Lock order: a channel, the views, then inboxes and the outgoing queue.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::RwLock;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::code::VIEW_ENDED;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::event;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::base;
use crate::protocol::view::View;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::channel::Scope;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::Letter;
use crate::registry::inbox::Sleepers;
use crate::registry::seen::Seen;

/// Views that end together have their connections closed over this time, so that they do not come back together.
const SPREAD: Duration = Duration::from_secs(5);
/// As good as never; what is signed for longer ends then.
const LASTS_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Views {
    /// Subscriptions with a view. While there are none, publishing asks for no more than this.
    count: AtomicUsize,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    viewers: HashMap<(Address, ChannelName), Viewer>,
    shown: HashMap<ChannelId, Shown>,
    ids: HashMap<(ChannelName, Arc<[ChannelPattern]>), ChannelId>,
    patterns: HashMap<ChannelPattern, Pattern>,
    /// Those of the patterns that stand for many names.
    starred: Vec<ChannelPattern>,
    /// What has been heard by patterns: an event comes once for each that matches.
    heard: Seen,
}

/// A pattern of some view.
#[derive(Debug, Default)]
struct Pattern {
    views: Vec<ChannelId>,
    /// The other nodes are listened to.
    heard: bool,
    /// What has been heard of each channel, where there is one order for each of them only.
    by_channel: HashMap<ChannelName, Seen>,
}

/// A subscription with a view.
#[derive(Debug)]
struct Viewer {
    view: ChannelId,
    /// Its shard has been told to hand it the view's events.
    sees: bool,
    until: Instant,
    /// When the connection is asked to come back.
    closes: Instant,
}

/// One channel's subscriptions that are granted the same.
#[derive(Debug)]
struct Shown {
    channel: ChannelName,
    patterns: Arc<[ChannelPattern]>,
    viewers: usize,
    /// Those of them on each shard that get the events.
    seeing: Box<[u32]>,
}

impl Views {
    /// Subscriptions with a view.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A connection is about to join a channel, with a view.
    pub(super) fn expect(&self, channel: &ChannelName, address: Address, view: &View, scope: &Scope<'_>) {
        let mut table = self.table.write();
        let id = table.enter(channel, view, scope.inboxes.shards());
        let until = scope.now + view.lasts.min(LASTS_MAX);
        let closes = until + rand::random_range(Duration::ZERO..SPREAD);
        table.viewers.insert((address, channel.clone()), Viewer { view: id, sees: false, until, closes });
        self.count.fetch_add(1, Ordering::Release);
        if let Some(outgoing) = scope.outgoing.filter(|_| table.waits(id)) {
            outgoing.change_views();
        }
    }

    /// Whether the other nodes are not yet listened to for this subscription.
    pub(super) fn waits(&self, channel: &ChannelName, address: Address) -> bool {
        let table = self.table.read();
        let viewer = table.viewers.get(&(address, channel.clone()));
        viewer.is_some_and(|viewer| table.waits(viewer.view))
    }

    /// The connection has joined: it gets the view's events from now on.
    pub(super) fn admit(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        let mut table = self.table.write();
        let Table { viewers, shown, .. } = &mut *table;
        let Some(viewer) = viewers.get_mut(&(address, channel.clone())) else { return };
        let Some(shown) = shown.get_mut(&viewer.view) else { return };
        let id = viewer.view;
        viewer.sees = true;
        shown.seeing[usize::from(address.shard)] += 1;
        scope.inboxes.put_to(address, |slot| Letter::Sees(slot, id), &mut scope.sleepers);
    }

    /// The connection leaves the channel, or no longer wants to join it.
    pub(super) fn leave(&self, channel: &ChannelName, address: Address, scope: &mut Scope<'_>) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        let key = (address, channel.clone());
        table.blind(&key, scope.inboxes, &mut scope.sleepers);
        if let Some(viewer) = table.viewers.remove(&key) {
            self.count.fetch_sub(1, Ordering::Release);
            if let (true, Some(outgoing)) = (table.quit(viewer.view), scope.outgoing) {
                outgoing.change_views();
            }
        }
    }

    /// Hands an event of a channel to those who see it.
    pub(super) fn show(&self, channel: &ChannelName, event: &Event, inboxes: &Inboxes, sleepers: &mut Sleepers) {
        if self.count() == 0 || !can_be_seen(channel) {
            return;
        }
        let table = self.table.read();
        for id in table.seen_by(channel) {
            let Some(shown) = table.shown.get(&id).filter(|shown| shown.channel != *channel) else { continue };
            let Some(frame) = event::under(shown.channel.as_str(), &event.frame) else { continue };
            let event = Event { frame, ..*event };
            for (shard, _) in shown.seeing.iter().enumerate().filter(|(_, count)| **count > 0) {
                inboxes.put(shard, Letter::Event(id, event.clone()), sleepers);
            }
        }
    }

    /// Ends the views whose time is over.
    fn end_due(&self, now: Instant, inboxes: &Inboxes, sleepers: &mut Sleepers) {
        if self.count() == 0 {
            return;
        }
        let mut table = self.table.write();
        let over: Vec<_> = table.viewers.iter().filter(|(_, viewer)| viewer.until <= now).collect();
        let closed: Vec<Address> =
            over.iter().filter(|(_, viewer)| viewer.closes <= now).map(|((address, _), _)| *address).collect();
        let over: Vec<_> = over.into_iter().filter(|(_, viewer)| viewer.sees).map(|(key, _)| key.clone()).collect();
        for key in over {
            table.blind(&key, inboxes, sleepers);
        }
        for address in closed {
            inboxes.put_to(address, |slot| Letter::Close(slot, VIEW_ENDED), sleepers);
        }
    }
}

impl Table {
    /// One subscription more with this view.
    fn enter(&mut self, channel: &ChannelName, view: &View, shards: usize) -> ChannelId {
        let key = (channel.clone(), Arc::clone(&view.patterns));
        if let Some(id) = self.ids.get(&key) {
            if let Some(shown) = self.shown.get_mut(id) {
                shown.viewers += 1;
            }
            return *id;
        }
        let id = ChannelId::next();
        for pattern in view.patterns.iter() {
            let known = self.patterns.entry(pattern.clone()).or_default();
            if known.views.is_empty() && pattern.has_star() {
                self.starred.push(pattern.clone());
            }
            known.views.push(id);
        }
        let shown = Shown {
            channel: channel.clone(),
            patterns: Arc::clone(&view.patterns),
            viewers: 1,
            seeing: vec![0; shards].into(),
        };
        self.shown.insert(id, shown);
        self.ids.insert(key, id);
        id
    }

    /// One subscription less. Returns whether it was the last one of its view.
    fn quit(&mut self, id: ChannelId) -> bool {
        let Some(shown) = self.shown.get_mut(&id) else { return false };
        shown.viewers -= 1;
        if shown.viewers > 0 {
            return false;
        }
        let Some(Shown { channel, patterns, .. }) = self.shown.remove(&id) else { return false };
        for pattern in patterns.iter() {
            let Some(known) = self.patterns.get_mut(pattern) else { continue };
            known.views.retain(|view| *view != id);
            if known.views.is_empty() {
                self.patterns.remove(pattern);
                self.starred.retain(|starred| starred != pattern);
            }
        }
        self.ids.remove(&(channel, patterns));
        true
    }

    /// Whether the other nodes are not yet listened to for all that a view shows.
    fn waits(&self, id: ChannelId) -> bool {
        let unheard = |pattern: &ChannelPattern| self.patterns.get(pattern).is_some_and(|known| !known.heard);
        self.shown.get(&id).is_some_and(|shown| shown.patterns.iter().any(unheard))
    }

    /// The subscription gets no more of the view's events.
    fn blind(&mut self, key: &(Address, ChannelName), inboxes: &Inboxes, sleepers: &mut Sleepers) {
        let Some(viewer) = self.viewers.get_mut(key).filter(|viewer| viewer.sees) else { return };
        viewer.sees = false;
        let (address, id) = (key.0, viewer.view);
        if let Some(shown) = self.shown.get_mut(&id) {
            shown.seeing[usize::from(address.shard)] -= 1;
        }
        inboxes.put_to(address, |slot| Letter::Left(slot, id), sleepers);
    }

    /// What has been heard of the other nodes' events on a channel.
    fn heard(&mut self, channel: &ChannelName, in_order: bool) -> Option<&mut Seen> {
        match in_order {
            true => Some(&mut self.heard),
            false => {
                let known = self.patterns.get_mut(base(channel.as_str()))?;
                Some(known.by_channel.entry(channel.clone()).or_default())
            }
        }
    }

    /// The views of a channel's events.
    fn seen_by(&self, channel: &ChannelName) -> Vec<ChannelId> {
        let base = base(channel.as_str());
        let exact = self.patterns.get(base);
        let matching = self.starred.iter().filter(|pattern| pattern.matches_case(base));
        let starred = matching.filter_map(|pattern| self.patterns.get(pattern));
        let mut views: Vec<ChannelId> =
            exact.into_iter().chain(starred).flat_map(|known| &known.views).copied().collect();
        views.sort_unstable();
        views.dedup();
        views
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

    /// What the views see: all patterns of it are to be listened to on the other nodes.
    pub fn seen_patterns(&self) -> Vec<ChannelPattern> {
        self.views.table.read().patterns.keys().cloned().collect()
    }

    /// These patterns are listened to.
    pub fn watched(&self, patterns: &[ChannelPattern], now: Instant) {
        let mut table = self.views.table.write();
        for pattern in patterns {
            if let Some(known) = table.patterns.get_mut(pattern) {
                known.heard = true;
            }
        }
        let waiting = table.viewers.iter().filter(|(_, viewer)| !viewer.sees);
        let channels: HashSet<ChannelName> = waiting.map(|((_, channel), _)| channel.clone()).collect();
        drop(table);
        self.admit_viewers(channels, now);
    }

    /// No other node can be heard.
    pub(super) fn unwatched(&self) {
        self.views.table.write().patterns.values_mut().for_each(|known| known.heard = false);
    }

    /// An event of another node for the views. `in_order` tells whether what a node says is heard in one order for all
    /// channels, or in one for each. Returns false when it has been heard before.
    pub fn see(&self, channel: &ChannelName, event: RemoteEvent, in_order: bool, now: Instant) -> bool {
        let is_new =
            self.views.table.write().heard(channel, in_order).is_some_and(|seen| seen.is_new(event.node, event.number));
        if !is_new {
            return false;
        }
        let mut sleepers = Sleepers::default();
        let event = Event { frame: event.frame, except: event.except, accepted: now };
        self.views.show(channel, &event, &self.inboxes, &mut sleepers);
        sleepers.wake(&self.inboxes);
        true
    }

    pub(super) fn tick_views(&self, now: Instant) {
        let mut sleepers = Sleepers::default();
        self.views.end_due(now, &self.inboxes, &mut sleepers);
        sleepers.wake(&self.inboxes);
    }
}
