//! The channels of one app.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::frame::Frame;
use crate::protocol::grant::Grant;
use crate::protocol::webhook;
use crate::protocol::webhook::ClientEvent;
use crate::protocol::webhook::Kinds;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::channel::Channel;
use crate::registry::channel::Joiner;
use crate::registry::channel::Scope;
use crate::registry::inbox::Event;
use crate::registry::inbox::Sleepers;
use crate::registry::remembered::Forgotten;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;

/// Locks that the channels of an app are spread over.
const PARTS: usize = 32;

/// All channels of an app.
#[derive(Debug)]
pub(super) struct Channels {
    hasher: RandomState,
    parts: Vec<Mutex<HashMap<ChannelName, Channel>>>,
    /// Channels whose subscribers still have to hear how many they are.
    uncounted: Mutex<Vec<ChannelName>>,
    /// Channels with something unclear between the nodes.
    uneasy: Mutex<Vec<ChannelName>>,
    /// Counts the parts that have been rid of what has outlived its time.
    swept: AtomicUsize,
}

/// What a join or leave has to keep to.
#[derive(Debug, Clone, Copy)]
pub struct JoinRules {
    /// Distinct users of a presence channel.
    pub members_max: usize,
    /// Whether subscribers hear how many they are.
    pub counted: bool,
}

/// A connection that leaves a channel.
#[derive(Debug, Clone, Copy)]
pub struct Unsubscribe<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The connection.
    pub address: Address,
    /// As whom it joined, on a presence channel.
    pub user_id: Option<&'a str>,
}

/// Why there is no room for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The presence channel has as many members as it may.
    Members,
    /// The process has as many channels as it may.
    Channels,
}

/// What can be told of a channel.
#[derive(Debug, Default)]
pub struct ChannelInfo {
    /// Connections subscribed.
    pub subscriptions: usize,
    /// Distinct users on a presence channel.
    pub users: usize,
    /// The remembered event of a cache channel, and how long it will be.
    pub cached: Option<(Frame, Duration)>,
}

impl Default for Channels {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self {
            hasher: RandomState::new(),
            parts,
            uncounted: Mutex::default(),
            uneasy: Mutex::default(),
            swept: AtomicUsize::new(0),
        }
    }
}

impl Channels {
    /// Runs `f` on the part that owns `name`. The guard never leaves this function, so no caller can hold it
    /// across an `.await`.
    fn with<R>(&self, name: &str, f: impl FnOnce(&mut HashMap<ChannelName, Channel>) -> R) -> R {
        f(&mut self.parts[self.hasher.hash_one(name) as usize % PARTS].lock())
    }

    /// A channel is not to remember this event any more.
    pub(super) fn forget(&self, name: &ChannelName, forgotten: &Forgotten) {
        self.with(name.as_str(), |channels| {
            if let Some(channel) = channels.get_mut(name.as_str()) {
                channel.forget(forgotten);
            }
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.lock().is_empty())
    }

    fn names(&self) -> Vec<ChannelName> {
        self.parts.iter().flat_map(|part| part.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }
}

impl AppState {
    fn scope(&self, now: Instant) -> Scope<'_> {
        Scope {
            inboxes: &self.inboxes,
            outgoing: self.outgoing.as_deref(),
            views: &self.views,
            webhooks: &self.webhooks,
            channels: &self.channels,
            remembered: &self.remembered,
            forgotten: Vec::new(),
            total: &self.total,
            wanted: Kinds(self.wanted.load(Ordering::Relaxed)),
            app: &self.id,
            now,
            sleepers: Sleepers::default(),
            uncounted: false,
            uneasy: false,
        }
    }

    /// Runs `f` under the lock of the channel called `name`, and does afterwards what it leaves to do.
    fn change<R>(
        &self,
        name: &ChannelName,
        now: Instant,
        f: impl FnOnce(&mut HashMap<ChannelName, Channel>, &mut Scope<'_>) -> R,
    ) -> R {
        let mut scope = self.scope(now);
        let outcome = self.channels.with(name.as_str(), |channels| f(channels, &mut scope));
        for forgotten in std::mem::take(&mut scope.forgotten) {
            forgotten.forget();
        }
        if scope.uncounted {
            self.channels.uncounted.lock().push(name.clone());
        }
        if scope.uneasy {
            self.channels.uneasy.lock().push(name.clone());
        }
        scope.sleepers.wake(&self.inboxes);
        outcome
    }

    /// The same for a channel that must be there.
    fn change_known(&self, name: &ChannelName, now: Instant, f: impl FnOnce(&mut Channel, &mut Scope<'_>)) {
        self.change(name, now, |channels, scope| {
            if let Some(channel) = channels.get_mut(name.as_str()) {
                f(channel, scope);
            }
        });
    }

    /// Joins a channel. The answer, the member list and what the cache holds go into the connection's inbox,
    /// in line with the channel's events.
    pub fn join(&self, grant: Grant, address: Address, rules: JoinRules, now: Instant) -> Result<(), Full> {
        let (name, member, view) = grant.into_parts();
        self.change(&name, now, |channels, scope| {
            if !has_room(channels, &name, scope) {
                return Err(Full::Channels);
            }
            let channel = open_entry(channels, &name, scope);
            if member.as_ref().is_some_and(|member| !channel.has_room(member, rules.members_max)) {
                return Err(Full::Members);
            }
            let user_id = member.as_ref().map(|member| Arc::clone(&member.user_id));
            let joiner = Joiner { address, user_id, view, rules, came: now };
            channel.join(&name, joiner, member.as_ref(), scope);
            Ok(())
        })
    }

    /// Leaves a channel that was joined; `counted` as in [`JoinRules`]. The shard hears of it in line with the
    /// channel's events.
    pub fn leave(&self, unsubscribe: &Unsubscribe<'_>, counted: bool, now: Instant) {
        let name = unsubscribe.channel;
        self.change(name, now, |channels, scope| {
            let Some(channel) = channels.get_mut(name.as_str()) else { return };
            channel.leave(name, unsubscribe, counted, scope);
            if channel.is_idle(scope) {
                channels.remove(name.as_str());
            }
        });
    }

    /// Hands an event to the subscribers of a channel; a cache channel remembers it for `cache_for`, if given.
    pub fn publish(&self, name: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        self.change(name, event.accepted, |channels, scope| announce(channels, name, event, cache_for, scope));
    }

    /// Hands a client's event to the others on a channel; the application hears of it as `told`.
    pub fn relay(&self, name: &ChannelName, event: &Event, told: Option<ClientEvent>) {
        self.change(name, event.accepted, |channels, scope| {
            if let Some(told) = told {
                scope.record(name, webhook::Event::ClientEvent(Box::new(told)));
            }
            announce(channels, name, event, None, scope);
        });
    }

    /// The same for an event that all nodes get by themselves, so none is told of it.
    pub fn publish_here(&self, name: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        self.change(name, event.accepted, |channels, scope| {
            if let Some(cache_for) = cache_for
                && has_room(channels, name, scope)
            {
                open_entry(channels, name, scope).remember_here(name, &event.frame, event.accepted + cache_for, scope);
            }
            if let Some(channel) = channels.get(name.as_str()) {
                channel.announce(event, scope);
            }
            scope.mirror(name, event);
        });
    }

    /// What can be told of one channel.
    pub fn channel(&self, name: &str, now: Instant) -> ChannelInfo {
        self.channels.with(name, |channels| {
            let Some(channel) = channels.get_mut(name) else { return ChannelInfo::default() };
            let cached = channel.cached(now).map(|cached| (cached.frame.clone(), cached.until - now));
            ChannelInfo { subscriptions: channel.total(), users: channel.users(), cached }
        })
    }

    /// The occupied channels whose names start with `prefix`, users' own channels left out.
    pub fn channels(&self, prefix: &str) -> Vec<(ChannelName, ChannelInfo)> {
        let mut found = Vec::new();
        for part in &self.channels.parts {
            let part = part.lock();
            let matching = part.iter().filter(|(name, _)| name.as_str().starts_with(prefix) && name.user().is_none());
            found.extend(matching.filter_map(|(name, channel)| {
                let subscriptions = channel.total();
                let info = ChannelInfo { subscriptions, users: channel.users(), cached: None };
                (subscriptions > 0).then(|| (name.clone(), info))
            }));
        }
        found
    }

    /// The ids of a presence channel's members.
    pub fn members(&self, name: &str) -> Vec<Arc<str>> {
        self.channels.with(name, |channels| {
            let members = channels.get(name).and_then(|channel| channel.members.as_ref());
            members.map_or_else(Vec::new, |members| members.roster.ids().cloned().collect())
        })
    }

    /// What is due from time to time: numbers of subscribers that were held back, what is unclear between
    /// nodes, and what has outlived its time, in one part after the other. Call it about once a second.
    pub fn tick(&self, now: Instant) {
        let uncounted = std::mem::take(&mut *self.channels.uncounted.lock());
        for name in uncounted {
            self.change_known(&name, now, |channel, scope| {
                if channel.counted.as_mut().is_some_and(|counted| std::mem::take(&mut counted.stale)) {
                    channel.announce_count(&name, scope);
                }
            });
        }
        let mut uneasy = std::mem::take(&mut *self.channels.uneasy.lock());
        uneasy.sort_unstable();
        uneasy.dedup();
        for name in uneasy {
            self.change(&name, now, |channels, scope| {
                let Some(channel) = channels.get_mut(name.as_str()) else { return };
                channel.look_after(&name, scope);
                if channel.is_idle(scope) {
                    scope.order(&name, Operation::Close);
                    channels.remove(name.as_str());
                }
            });
        }
        self.tick_users(now);
        self.tick_views(now);
        let part = self.channels.swept.fetch_add(1, Ordering::Relaxed) % PARTS;
        let scope = self.scope(now);
        self.channels.parts[part].lock().retain(|name, channel| {
            let idle = channel.is_idle(&scope);
            if idle {
                scope.order(name, Operation::Close);
            }
            !idle
        });
    }
}

/// Whether there may be a channel called `name`.
fn has_room(channels: &HashMap<ChannelName, Channel>, name: &ChannelName, scope: &Scope<'_>) -> bool {
    !scope.total.is_full() || channels.contains_key(name.as_str())
}

/// The channel called `name`. One that was not there begins to hear of the other nodes, if there are any.
fn open_entry<'a>(
    channels: &'a mut HashMap<ChannelName, Channel>,
    name: &ChannelName,
    scope: &Scope<'_>,
) -> &'a mut Channel {
    channels.entry(name.clone()).or_insert_with(|| {
        let mut channel = Channel::new(scope);
        if scope.is_linked() {
            channel.open(name, scope);
        }
        channel
    })
}

/// What the channels have to do with other nodes.
impl AppState {
    pub(super) fn local_channel(&self, name: &ChannelName) -> LocalTopic {
        self.channels.with(name.as_str(), |channels| channels.get(name.as_str()).map(Channel::own)).unwrap_or_default()
    }

    pub(super) fn channel_opened(&self, name: &ChannelName, listen: u64, snapshot: Option<Snapshot>, now: Instant) {
        self.change_known(name, now, |channel, scope| match snapshot {
            _ if !channel.shared_mut().awaits(listen) => (),
            Some(snapshot) => channel.opened(name, snapshot, scope),
            None => channel.not_opened(name, scope),
        });
    }

    pub(super) fn channel_updated(
        &self,
        name: &ChannelName,
        update: &MemberUpdate,
        outcome: UpdateOutcome,
        now: Instant,
    ) {
        self.change_known(name, now, |channel, scope| channel.placed(name, update, outcome, scope));
    }

    /// The number of connections on a channel here, as the others are to know it, and whether their subscribers
    /// are to hear of it.
    pub fn take_count(&self, name: &ChannelName) -> (usize, bool) {
        self.channels.with(name.as_str(), |channels| {
            channels.get_mut(name.as_str()).map_or((0, false), |channel| channel.take_count(name))
        })
    }

    pub(super) fn channel_message(&self, name: &ChannelName, heard: NodeMessage, now: Instant) -> bool {
        let mut is_new = true;
        self.change_known(name, now, |channel, scope| is_new = channel.hear(name, heard, scope));
        is_new
    }

    /// More of what views see is listened to: those who waited for it join these channels.
    pub(super) fn admit_viewers(&self, names: impl IntoIterator<Item = ChannelName>, now: Instant) {
        for name in names {
            self.change_known(&name, now, |channel, scope| channel.admit_viewers(&name, scope));
        }
    }

    /// The link is there: listens to everything.
    pub(super) fn open_channels(&self, now: Instant) {
        for name in self.channels.names() {
            self.change(&name, now, |channels, scope| {
                let Some(channel) = channels.get_mut(name.as_str()) else { return };
                if channel.is_idle(scope) {
                    channels.remove(name.as_str());
                } else {
                    channel.open(&name, scope);
                }
            });
        }
    }

    /// The link is lost: what is here counts.
    pub(super) fn settle_channels(&self, now: Instant) {
        for name in self.channels.names() {
            self.change_known(&name, now, |channel, scope| channel.settle(&name, scope));
        }
    }

    /// Nodes have crashed or left; each comes with whether it has left.
    pub fn remove_nodes(&self, nodes: &[(NodeId, bool)], now: Instant) {
        for part in &self.channels.parts {
            let knows = |(_, channel): &(&ChannelName, &Channel)| channel.knows(nodes);
            let names: Vec<ChannelName> = part.lock().iter().filter(knows).map(|(name, _)| name.clone()).collect();
            for name in names {
                self.change_known(&name, now, |channel, scope| {
                    for &(node, has_left) in nodes {
                        channel.bury(&name, node, has_left, scope);
                    }
                });
            }
        }
    }

    /// The users of a presence channel that have left this node, and that no other one has, while the others have not
    /// heard of it.
    pub fn pending_departures(&self, name: &str) -> Vec<Arc<str>> {
        let node = self.outgoing.as_ref().map_or_else(NodeId::default, |outgoing| outgoing.node());
        self.channels.with(name, |channels| {
            let members = channels.get(name).and_then(|channel| channel.members.as_ref());
            members.map_or_else(Vec::new, |members| members.pending_departures(node))
        })
    }
}

/// Puts an event into the inboxes of the shards with subscribers, and where the other nodes find it.
fn announce(
    channels: &mut HashMap<ChannelName, Channel>,
    name: &ChannelName,
    event: &Event,
    cache_for: Option<Duration>,
    scope: &mut Scope<'_>,
) {
    if cache_for.is_some() && !scope.is_linked() && has_room(channels, name, scope) {
        channels.entry(name.clone()).or_insert_with(|| Channel::new(scope));
    }
    if let Some(channel) = channels.get_mut(name.as_str()) {
        if let Some(cache_for) = cache_for {
            channel.remember(name, &event.frame, event.accepted + cache_for, scope);
        }
        channel.announce(event, scope);
    }
    scope.mirror(name, event);
    if let Some(outgoing) = scope.outgoing {
        outgoing.publish(scope.app, name, event, cache_for);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::RemoteEvent;
    use crate::protocol::event;
    use crate::registry::inbox::Inboxes;
    use crate::registry::remembered::Remembered;
    use crate::registry::remote::outgoing::BufferLimits;
    use crate::registry::remote::outgoing::Outgoing;

    const HOUR: Duration = Duration::from_secs(3600);

    /// One of several nodes, with a link to the others.
    fn linked() -> AppState {
        let patience = BufferLimits { bytes_max: 1024, time: Duration::from_secs(1) };
        let outgoing = Arc::new(Outgoing::new(NodeId::random(), patience));
        outgoing.link();
        let remembered = Arc::new(Remembered::new(1 << 20));
        AppState::new("app-id", Arc::new(Inboxes::new(1)), Some(outgoing), Arc::default(), remembered)
    }

    fn name() -> ChannelName {
        ChannelName::parse("cache-x", 200).unwrap()
    }

    fn frame(name: &str) -> Frame {
        event::published("cache-x", name, "\"1\"")
    }

    fn cached(app: &AppState, now: Instant) -> Option<Frame> {
        app.channel("cache-x", now).cached.map(|(frame, _)| frame)
    }

    #[test]
    fn what_each_node_has_to_remember_for_itself_is_not_forgotten_before_its_time() {
        let (app, now) = (linked(), Instant::now());
        app.publish_here(&name(), &Event::of(frame("e"), now), Some(HOUR));
        let sweep = |at: Instant| (0..PARTS).for_each(|_| app.tick(at));
        sweep(now + HOUR / 2);
        assert_eq!(cached(&app, now), Some(frame("e")));
        sweep(now + HOUR);
        assert!(app.is_idle());
    }

    #[test]
    fn what_redis_remembers_does_not_replace_what_came_here_after_it() {
        let (app, now) = (linked(), Instant::now());
        app.publish_here(&name(), &Event::of(frame("late"), now), Some(HOUR));
        // As when the link comes back: whatever is here is compared anew.
        app.on_unlinked(now);
        app.on_linked(now);
        for (name_of_redis, left, remembered) in [("early", HOUR / 2, "late"), ("latest", HOUR * 2, "latest")] {
            app.change_known(&name(), now, |channel, scope| {
                let node = NodeId::random();
                let frame = frame(name_of_redis);
                let event = RemoteEvent { node, number: 1, accepted_micros: 0, except: None, cached_for_ms: 1, frame };
                channel.open(&name(), scope);
                channel.opened(&name(), Snapshot { cached: Some((event, left)), ..Snapshot::default() }, scope);
            });
            assert_eq!(cached(&app, now), Some(frame(remembered)));
        }
    }
}
