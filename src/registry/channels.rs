//! The channels of one app: how many listen on which shard, who is present, what is cached.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::grant::Grant;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::Letter;
use crate::registry::inbox::Sleepers;
use crate::registry::members::Members;

/// Locks that the channels of an app are spread over.
const PARTS: usize = 32;
/// Above so many subscribers their number is told at most once in [`COUNT_PAUSE`].
const COUNT_AT_ONCE_MAX: usize = 100;
/// See [`COUNT_AT_ONCE_MAX`]; both are Pusher's figures.
const COUNT_PAUSE: Duration = Duration::from_secs(5);

/// All channels of an app.
#[derive(Debug)]
pub(super) struct Channels {
    hasher: RandomState,
    parts: Vec<Mutex<HashMap<ChannelName, Channel>>>,
    /// Channels whose subscribers still have to hear how many they are.
    uncounted: Mutex<Vec<ChannelName>>,
    /// Counts the parts that have been rid of what has outlived its time.
    swept: AtomicUsize,
}

#[derive(Debug)]
struct Channel {
    id: ChannelId,
    /// Subscriptions on each shard.
    subscriptions: Box<[u32]>,
    members: Option<Box<Members>>,
    cached: Option<Box<Cached>>,
    counted: Option<Box<Counted>>,
}

#[derive(Debug)]
struct Cached {
    frame: Frame,
    until: Instant,
}

/// When the subscribers last heard how many they are, and whether that has changed since.
#[derive(Debug)]
struct Counted {
    at: Instant,
    stale: bool,
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
pub struct Leaver<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The connection.
    pub address: Address,
    /// As whom it joined, on a presence channel.
    pub user_id: Option<&'a str>,
}

/// The presence channel has as many members as it may.
#[derive(Debug)]
pub struct Full;

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
        Self { hasher: RandomState::new(), parts, uncounted: Mutex::default(), swept: AtomicUsize::new(0) }
    }
}

impl Channels {
    /// Runs `f` on the part that owns `name`. The guard never leaves this function, so no caller can hold it
    /// across an `.await`.
    fn with<R>(&self, name: &str, f: impl FnOnce(&mut HashMap<ChannelName, Channel>) -> R) -> R {
        f(&mut self.parts[self.hasher.hash_one(name) as usize % PARTS].lock())
    }
}

impl Channel {
    fn new(shards: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: ChannelId(NEXT.fetch_add(1, Ordering::Relaxed)),
            subscriptions: vec![0; shards].into(),
            members: None,
            cached: None,
            counted: None,
        }
    }

    fn total(&self) -> usize {
        self.subscriptions.iter().map(|&count| count as usize).sum()
    }

    fn users(&self) -> usize {
        self.members.as_ref().map_or(0, |members| members.count())
    }

    fn cached(&mut self, now: Instant) -> Option<&Cached> {
        self.cached.take_if(|cached| cached.until <= now);
        self.cached.as_deref()
    }

    /// Nothing needs the entry any more.
    fn is_idle(&mut self, now: Instant) -> bool {
        self.total() == 0 && self.cached(now).is_none()
    }

    /// Puts an event into the inbox of each shard that has subscribers.
    fn announce(&self, inboxes: &Inboxes, event: &Event, sleepers: &mut Sleepers) {
        for (shard, &count) in self.subscriptions.iter().enumerate() {
            if count > 0 {
                inboxes.put(shard, Letter::Event(self.id, event.clone()), sleepers);
            }
        }
    }

    /// Tells the subscribers how many they are, now or, for a large channel, a little later.
    /// Returns whether somebody must come back for it.
    fn announce_count(&mut self, name: &str, inboxes: &Inboxes, now: Instant, sleepers: &mut Sleepers) -> bool {
        let total = self.total();
        if total == 0 {
            self.counted = None;
            return false;
        }
        if let Some(counted) = &mut self.counted
            && total > COUNT_AT_ONCE_MAX
            && now.duration_since(counted.at) < COUNT_PAUSE
        {
            return !std::mem::replace(&mut counted.stale, true);
        }
        self.counted = Some(Box::new(Counted { at: now, stale: false }));
        self.announce(inboxes, &Event::of(event::subscription_count(name, total), now), sleepers);
        false
    }
}

impl Event {
    /// An event for everybody.
    fn of(frame: Frame, accepted: Instant) -> Self {
        Self { frame, except: None, accepted }
    }
}

/// Whether the subscribers of a channel of this name hear how many they are, where that is switched on.
fn is_counted(name: &ChannelName) -> bool {
    let kind = name.kind();
    !kind.presence && kind.access != Access::User
}

impl AppState {
    /// Joins a channel. The answer, the member list and what the cache holds go into the connection's inbox,
    /// in line with the channel's events.
    pub fn join(&self, grant: Grant, address: Address, rules: JoinRules, now: Instant) -> Result<(), Full> {
        let (name, member) = grant.into_parts();
        let added = member.as_ref().map(|member| Event::of(event::member_added(name.as_str(), member), now));
        let mut sleepers = Sleepers::default();
        let joined = self.channels.with(name.as_str(), |channels| {
            let shards = self.inboxes.shards();
            let channel = channels.entry(name.clone()).or_insert_with(|| Channel::new(shards));
            let mut answers = Vec::with_capacity(1);
            if let (Some(member), Some(added)) = (&member, &added) {
                let members = channel.members.get_or_insert_default();
                if members.count() >= rules.members_max && !members.contains(&member.user_id) {
                    if channel.is_idle(now) {
                        channels.remove(&name);
                    }
                    return Err(Full);
                }
                let first = members.join(member);
                answers.push(members.succeeded(name.as_str()));
                if first {
                    channel.announce(&self.inboxes, added, &mut sleepers);
                }
            } else {
                answers.push(event::subscription_succeeded(name.as_str()));
            }
            if name.kind().cached {
                let cached = channel.cached(now).map(|cached| cached.frame.clone());
                answers.push(cached.unwrap_or_else(|| event::cache_miss(name.as_str())));
            }
            channel.subscriptions[usize::from(address.shard)] += 1;
            self.inboxes.put_to(address, |slot| Letter::Joined(slot, channel.id, answers), &mut sleepers);
            if rules.counted
                && is_counted(&name)
                && channel.announce_count(name.as_str(), &self.inboxes, now, &mut sleepers)
            {
                self.channels.uncounted.lock().push(name.clone());
            }
            Ok(())
        });
        sleepers.wake(&self.inboxes);
        joined
    }

    /// Leaves a channel that was joined; `counted` as in [`JoinRules`]. The shard hears of it in line with the
    /// channel's events.
    pub fn leave(&self, leaver: &Leaver<'_>, counted: bool, now: Instant) {
        let Leaver { channel: name, address, user_id } = *leaver;
        let removed = user_id.map(|user_id| Event::of(event::member_removed(name.as_str(), user_id), now));
        let mut sleepers = Sleepers::default();
        self.channels.with(name.as_str(), |channels| {
            let Some(channel) = channels.get_mut(name.as_str()) else { return };
            channel.subscriptions[usize::from(address.shard)] -= 1;
            self.inboxes.put_to(address, |slot| Letter::Left(slot, channel.id), &mut sleepers);
            if let (Some(user_id), Some(removed), Some(members)) = (user_id, &removed, &mut channel.members)
                && members.leave(user_id)
            {
                channel.announce(&self.inboxes, removed, &mut sleepers);
            }
            if channel.is_idle(now) {
                channels.remove(name.as_str());
            } else if counted
                && is_counted(name)
                && channel.announce_count(name.as_str(), &self.inboxes, now, &mut sleepers)
            {
                self.channels.uncounted.lock().push(name.clone());
            }
        });
        sleepers.wake(&self.inboxes);
    }

    /// Hands an event to the subscribers of a channel; a cache channel remembers it for `cache_for`, if given.
    pub fn publish(&self, name: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        let mut sleepers = Sleepers::default();
        self.channels.with(name.as_str(), |channels| {
            if let Some(cache_for) = cache_for {
                let shards = self.inboxes.shards();
                let channel = channels.entry(name.clone()).or_insert_with(|| Channel::new(shards));
                let until = event.accepted + cache_for;
                channel.cached = Some(Box::new(Cached { frame: event.frame.clone(), until }));
            }
            if let Some(channel) = channels.get(name.as_str()) {
                channel.announce(&self.inboxes, event, &mut sleepers);
            }
        });
        sleepers.wake(&self.inboxes);
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
            members.map_or_else(Vec::new, |members| members.ids().cloned().collect())
        })
    }

    /// What is due from time to time: numbers of subscribers that were held back, and cached events that
    /// have outlived their time, in one part after the other. Call it about once a second.
    pub fn tick(&self, now: Instant) {
        let stale = std::mem::take(&mut *self.channels.uncounted.lock());
        let mut sleepers = Sleepers::default();
        for name in stale {
            let again = self.channels.with(name.as_str(), |channels| {
                let Some(channel) = channels.get_mut(name.as_str()) else { return false };
                let held_back = channel.counted.as_mut().is_some_and(|counted| std::mem::take(&mut counted.stale));
                held_back && channel.announce_count(name.as_str(), &self.inboxes, now, &mut sleepers)
            });
            if again {
                self.channels.uncounted.lock().push(name);
            }
        }
        sleepers.wake(&self.inboxes);
        let part = self.channels.swept.fetch_add(1, Ordering::Relaxed) % PARTS;
        self.channels.parts[part].lock().retain(|_, channel| !channel.is_idle(now));
    }
}
