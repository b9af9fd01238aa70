//! The views of one app, with their subscriptions and patterns. `views.rs` locks the table and sends the shards the
//! changes.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hashlink::LinkedHashMap;

use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::base;
use crate::protocol::view::View;
use crate::registry::address::Address;
use crate::registry::address::ShardIndex;
use crate::registry::inbox::ChannelId;
use crate::registry::remote::dedup::Dedup;

/// The connections of views that expire together are closed over this time, so they do not come back together.
const SPREAD: Duration = Duration::from_secs(5);
/// The longest time to expiry; as good as never.
const LASTS_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A subscription: a connection and the channel that it has joined.
pub(super) type Key = (Address, ChannelName);

/// Channels whose repeated events are recognized.
const CHANNELS_MAX: usize = 65_536;

/// Views by their ids, by what is granted, and by their patterns.
#[derive(Debug, Default)]
pub(super) struct ViewTable {
    subscriptions: HashMap<Key, Subscription>,
    views: HashMap<ChannelId, ViewEntry>,
    ids: HashMap<Granted, ChannelId>,
    patterns: HashMap<ChannelPattern, Pattern>,
    /// The patterns with a star.
    starred: Vec<ChannelPattern>,
    /// An event of another node comes once for each pattern that matches.
    dedup: Dedup,
    /// One for each channel, where the events of different channels have no common order. The channel that has been
    /// quiet for longest is forgotten first.
    by_channel: LinkedHashMap<ChannelName, Dedup>,
    /// No active subscription expires before.
    earliest_end: Option<Instant>,
}

/// The key of a view: the channel under whose name its events come, its patterns, and the member of an event's data that
/// names the event's own channel.
type Granted = (ChannelName, Arc<[ChannelPattern]>, Option<Arc<str>>);

/// A pattern of some view.
#[derive(Debug, Default)]
struct Pattern {
    views: Vec<ChannelId>,
    /// Events of other nodes come.
    is_subscribed: bool,
}

/// A subscription with a view.
#[derive(Debug)]
struct Subscription {
    view: ChannelId,
    /// The view has an expiry but no patterns.
    is_empty: bool,
    /// The shard sends the view's events to the connection.
    is_active: bool,
    expires_at: Instant,
    /// When the connection is closed, so that it comes back.
    close_at: Instant,
}

/// A view, which all subscriptions of a channel with the same grant share.
#[derive(Debug)]
pub(super) struct ViewEntry {
    pub(super) channel: ChannelName,
    patterns: Arc<[ChannelPattern]>,
    pub(super) channel_as: Option<Arc<str>>,
    subscriptions: usize,
    /// The active subscriptions on each shard.
    active: Box<[u32]>,
}

/// An expired subscription to a view.
#[derive(Debug)]
pub(super) struct Expired {
    pub(super) key: Key,
    /// Whether to close the connection, too.
    pub(super) close: bool,
}

impl ViewEntry {
    /// The shards with active subscriptions.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardIndex> {
        self.active.iter().enumerate().filter(|(_, count)| **count > 0).map(|(shard, _)| shard)
    }
}

impl ViewTable {
    /// Adds a subscription, which is not active yet.
    pub(super) fn add(&mut self, key: &Key, view: &View, shards: usize, now: Instant) {
        let id = self.view((key.1.clone(), Arc::clone(&view.patterns), view.channel_as.clone()), shards);
        if let Some(view) = self.views.get_mut(&id) {
            view.subscriptions += 1;
        }
        let (is_empty, expires_at) = (view.patterns.is_empty(), now + view.lasts.min(LASTS_MAX));
        let close_at = expires_at + rand::random_range(Duration::ZERO..SPREAD);
        let subscription = Subscription { view: id, is_empty, is_active: false, expires_at, close_at };
        self.subscriptions.insert(key.clone(), subscription);
    }

    /// The view of this key, which may be new.
    fn view(&mut self, key: Granted, shards: usize) -> ChannelId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = ChannelId::next();
        for pattern in key.1.iter() {
            let known = self.patterns.entry(pattern.clone()).or_default();
            if known.views.is_empty() && pattern.has_star() {
                self.starred.push(pattern.clone());
            }
            known.views.push(id);
        }
        let (channel, patterns, channel_as) = key.clone();
        let active = vec![0; shards].into();
        self.views.insert(id, ViewEntry { channel, patterns, channel_as, subscriptions: 0, active });
        self.ids.insert(key, id);
        id
    }

    /// Activates a subscription; returns its view.
    pub(super) fn start(&mut self, key: &Key) -> Option<ChannelId> {
        let subscription = self.subscriptions.get_mut(key)?;
        self.views.get_mut(&subscription.view)?.active[usize::from(key.0.shard)] += 1;
        subscription.is_active = true;
        if !subscription.is_empty {
            self.earliest_end = self.earliest_end.into_iter().chain([subscription.expires_at]).min();
        }
        Some(subscription.view)
    }

    /// Deactivates a subscription; returns its view, unless it was not active.
    pub(super) fn stop(&mut self, key: &Key) -> Option<ChannelId> {
        let subscription = self.subscriptions.get_mut(key).filter(|subscription| subscription.is_active)?;
        self.views.get_mut(&subscription.view)?.active[usize::from(key.0.shard)] -= 1;
        subscription.is_active = false;
        Some(subscription.view)
    }

    /// Removes a subscription, if there is one. Returns whether it was the last one of its view.
    pub(super) fn remove(&mut self, key: &Key) -> Option<bool> {
        let id = self.subscriptions.remove(key)?.view;
        let view = self.views.get_mut(&id)?;
        view.subscriptions -= 1;
        let was_last = view.subscriptions == 0;
        if was_last {
            self.remove_view(id);
        }
        Some(was_last)
    }

    fn remove_view(&mut self, id: ChannelId) {
        let Some(ViewEntry { channel, patterns, channel_as, .. }) = self.views.remove(&id) else { return };
        for pattern in patterns.iter() {
            let Some(known) = self.patterns.get_mut(pattern) else { continue };
            known.views.retain(|view| *view != id);
            if known.views.is_empty() {
                self.patterns.remove(pattern);
                self.starred.retain(|starred| starred != pattern);
            }
        }
        self.ids.remove(&(channel, patterns, channel_as));
    }

    /// Whether an active subscription may have expired.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.earliest_end.is_some_and(|end| end <= now)
    }

    /// The expired subscriptions, which the caller has to [stop](Self::stop).
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Expired> {
        let lasting = self.subscriptions.values().filter(|one| one.expires_at > now && !one.is_empty);
        self.earliest_end = lasting.map(|one| one.expires_at).min();
        let expired = self.subscriptions.iter().filter(|(_, one)| one.expires_at <= now);
        expired.map(|(key, one)| Expired { key: key.clone(), close: one.close_at <= now }).collect()
    }

    /// The views that get a channel's events. A view does not repeat those of its own channel.
    pub(super) fn views_of(&self, channel: &ChannelName) -> impl Iterator<Item = (ChannelId, &ViewEntry)> {
        let base = base(channel.as_str());
        let exact = self.patterns.get(base);
        let matching = self.starred.iter().filter(|pattern| pattern.matches_case(base));
        let starred = matching.filter_map(|pattern| self.patterns.get(pattern));
        let ids: BTreeSet<ChannelId> =
            exact.into_iter().chain(starred).flat_map(|known| &known.views).copied().collect();
        let views = ids.into_iter().filter_map(|id| Some((id, self.views.get(&id)?)));
        views.filter(|(_, view)| view.channel != *channel)
    }

    /// All patterns of all views.
    pub(super) fn patterns(&self) -> Vec<ChannelPattern> {
        self.patterns.keys().cloned().collect()
    }

    /// Whether events of other nodes do not come yet for some pattern of a subscription.
    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        let view = self.subscriptions.get(key).and_then(|subscription| self.views.get(&subscription.view));
        let known = |pattern| self.patterns.get(pattern);
        view.is_some_and(|view| view.patterns.iter().filter_map(known).any(|known| !known.is_subscribed))
    }

    /// Events of other nodes come for these patterns. Returns the channels with subscriptions that may have waited.
    pub(super) fn on_subscribed(&mut self, patterns: &[ChannelPattern]) -> HashSet<ChannelName> {
        for pattern in patterns {
            if let Some(known) = self.patterns.get_mut(pattern) {
                known.is_subscribed = true;
            }
        }
        let waiting = self.subscriptions.iter().filter(|(_, subscription)| !subscription.is_active);
        waiting.map(|((_, channel), _)| channel.clone()).collect()
    }

    /// No events of other nodes come.
    pub(super) fn on_unlinked(&mut self) {
        self.patterns.values_mut().for_each(|known| known.is_subscribed = false);
    }

    /// The deduplication of events of other nodes: for all channels if those come `in_order`, or for this one.
    pub(super) fn dedup(&mut self, channel: &ChannelName, in_order: bool) -> &mut Dedup {
        if in_order {
            return &mut self.dedup;
        }
        let known = self.by_channel.remove(channel).unwrap_or_default();
        if self.by_channel.len() >= CHANNELS_MAX {
            self.by_channel.pop_front();
        }
        self.by_channel.entry(channel.clone()).or_insert(known)
    }
}
