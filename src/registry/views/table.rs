//! Who sees what: viewers, their views, and the patterns of those. Whoever changes it tells the shards.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::base;
use crate::protocol::view::View;
use crate::registry::address::Address;
use crate::registry::address::ShardIndex;
use crate::registry::inbox::ChannelId;
use crate::registry::seen::Seen;

/// Views that end together have their connections closed over this time, so that they do not come back together.
const SPREAD: Duration = Duration::from_secs(5);
/// As good as never; what is signed for longer ends then.
const LASTS_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A subscription: a connection and the channel that it has joined.
pub(super) type Key = (Address, ChannelName);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    viewers: HashMap<Key, Viewer>,
    views: HashMap<ChannelId, Shown>,
    ids: HashMap<Granted, ChannelId>,
    patterns: HashMap<ChannelPattern, Pattern>,
    /// Those of the patterns that stand for many names.
    starred: Vec<ChannelPattern>,
    /// What has been heard by patterns: an event comes once for each that matches.
    seen: Seen,
    /// Whoever sees something may do so until then, at least.
    earliest_end: Option<Instant>,
}

/// What makes a view: the channel under whose name it is shown, what it shows, and the member of an event's data that
/// says where the event comes from.
type Granted = (ChannelName, Arc<[ChannelPattern]>, Option<Arc<str>>);

/// A pattern of some view.
#[derive(Debug, Default)]
struct Pattern {
    views: Vec<ChannelId>,
    /// The other nodes are listened to.
    watched: bool,
    /// What has been heard of each channel, where there is one order for each of them only.
    by_channel: HashMap<ChannelName, Seen>,
}

/// A subscription with a view.
#[derive(Debug)]
struct Viewer {
    view: ChannelId,
    /// It is granted nothing but a time.
    is_empty: bool,
    /// Its shard hands it the view's events.
    sees: bool,
    until: Instant,
    /// When the connection is asked to come back.
    closes: Instant,
}

/// One channel's subscriptions that are granted the same.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) channel: ChannelName,
    patterns: Arc<[ChannelPattern]>,
    pub(super) channel_as: Option<Arc<str>>,
    viewers: usize,
    /// Those of them on each shard that get the events.
    seeing: Box<[u32]>,
}

/// A view whose time is over, for one subscription.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) key: Key,
    /// Whether it is time to close the connection, too.
    pub(super) closes: bool,
}

impl Shown {
    /// The shards that somebody sees it on.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardIndex> {
        self.seeing.iter().enumerate().filter(|(_, count)| **count > 0).map(|(shard, _)| shard)
    }
}

impl Table {
    /// A subscription comes; it does not see anything yet.
    pub(super) fn enter(&mut self, key: &Key, view: &View, shards: usize, now: Instant) {
        let id = self.view((key.1.clone(), Arc::clone(&view.patterns), view.channel_as.clone()), shards);
        if let Some(shown) = self.views.get_mut(&id) {
            shown.viewers += 1;
        }
        let until = now + view.lasts.min(LASTS_MAX);
        let closes = until + rand::random_range(Duration::ZERO..SPREAD);
        let is_empty = view.patterns.is_empty();
        self.viewers.insert(key.clone(), Viewer { view: id, is_empty, sees: false, until, closes });
    }

    /// The view of what is granted, which may be new.
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
        self.views.insert(id, Shown { channel, patterns, channel_as, viewers: 0, seeing: vec![0; shards].into() });
        self.ids.insert(key, id);
        id
    }

    /// The subscription sees from now on; returns what.
    pub(super) fn let_see(&mut self, key: &Key) -> Option<ChannelId> {
        let viewer = self.viewers.get_mut(key)?;
        self.views.get_mut(&viewer.view)?.seeing[usize::from(key.0.shard)] += 1;
        viewer.sees = true;
        if !viewer.is_empty {
            self.earliest_end = self.earliest_end.into_iter().chain([viewer.until]).min();
        }
        Some(viewer.view)
    }

    /// It sees no longer; returns what it saw.
    pub(super) fn blind(&mut self, key: &Key) -> Option<ChannelId> {
        let viewer = self.viewers.get_mut(key).filter(|viewer| viewer.sees)?;
        self.views.get_mut(&viewer.view)?.seeing[usize::from(key.0.shard)] -= 1;
        viewer.sees = false;
        Some(viewer.view)
    }

    /// The subscription goes, if there is one. Returns whether it was the last one of its view.
    pub(super) fn quit(&mut self, key: &Key) -> Option<bool> {
        let id = self.viewers.remove(key)?.view;
        let shown = self.views.get_mut(&id)?;
        shown.viewers -= 1;
        let was_last = shown.viewers == 0;
        if was_last {
            self.forget(id);
        }
        Some(was_last)
    }

    fn forget(&mut self, id: ChannelId) {
        let Some(Shown { channel, patterns, channel_as, .. }) = self.views.remove(&id) else { return };
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

    /// Whether somebody may see something whose time is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.earliest_end.is_some_and(|end| end <= now)
    }

    /// The subscriptions whose time is over. They are to be [`blind`](Self::blind) from now on.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Over> {
        let lasting = self.viewers.values().filter(|viewer| viewer.until > now && !viewer.is_empty);
        self.earliest_end = lasting.map(|viewer| viewer.until).min();
        let over = self.viewers.iter().filter(|(_, viewer)| viewer.until <= now);
        over.map(|(key, viewer)| Over { key: key.clone(), closes: viewer.closes <= now }).collect()
    }

    /// The views of a channel's events. Of its own channel a view shows nothing: its subscribers have that.
    pub(super) fn seen_by(&self, channel: &ChannelName) -> impl Iterator<Item = (ChannelId, &Shown)> {
        let base = base(channel.as_str());
        let exact = self.patterns.get(base);
        let matching = self.starred.iter().filter(|pattern| pattern.matches_case(base));
        let starred = matching.filter_map(|pattern| self.patterns.get(pattern));
        let ids: BTreeSet<ChannelId> =
            exact.into_iter().chain(starred).flat_map(|known| &known.views).copied().collect();
        let views = ids.into_iter().filter_map(|id| Some((id, self.views.get(&id)?)));
        views.filter(|(_, shown)| shown.channel != *channel)
    }

    /// All patterns of all views.
    pub(super) fn patterns(&self) -> Vec<ChannelPattern> {
        self.patterns.keys().cloned().collect()
    }

    /// Whether the other nodes are not yet listened to for all that a subscription is to see.
    pub(super) fn waits(&self, key: &Key) -> bool {
        let unwatched = |pattern: &ChannelPattern| self.patterns.get(pattern).is_some_and(|known| !known.watched);
        let shown = self.viewers.get(key).and_then(|viewer| self.views.get(&viewer.view));
        shown.is_some_and(|shown| shown.patterns.iter().any(unwatched))
    }

    /// The other nodes are listened to for these patterns. Returns the channels with subscriptions that may have
    /// waited for it.
    pub(super) fn watched(&mut self, patterns: &[ChannelPattern]) -> HashSet<ChannelName> {
        for pattern in patterns {
            if let Some(known) = self.patterns.get_mut(pattern) {
                known.watched = true;
            }
        }
        let waiting = self.viewers.iter().filter(|(_, viewer)| !viewer.sees);
        waiting.map(|((_, channel), _)| channel.clone()).collect()
    }

    /// No other node is listened to.
    pub(super) fn unwatched(&mut self) {
        self.patterns.values_mut().for_each(|known| known.watched = false);
    }

    /// What has been heard of other nodes: in one order for all channels, or in one for this one.
    pub(super) fn seen(&mut self, channel: &ChannelName, in_order: bool) -> Option<&mut Seen> {
        if in_order {
            return Some(&mut self.seen);
        }
        let known = self.patterns.get_mut(base(channel.as_str()))?;
        Some(known.by_channel.entry(channel.clone()).or_default())
    }
}
