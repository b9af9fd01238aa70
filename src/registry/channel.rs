//! One channel of an app: its subscriptions on each shard, its members and its cached event. `channels` calls it under
//! the channel's lock.

mod activity;
mod delivery;
mod history;
mod remote;
mod shared;
mod stored;
mod subscribers;
mod waiting;

use std::collections::HashSet;
use std::time::Duration;
use std::time::Instant;

pub use activity::Activity;
pub(super) use delivery::Source;

use crate::history::channel::ChannelHistory;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::protocol::webhook;
use crate::protocol::webhook::Kind;
use crate::registry::cache::CachedEvent;
use crate::registry::channel::shared::Known;
use crate::registry::channel::subscribers::Subscribers;
use crate::registry::flow::Flow;
use crate::registry::inbox::Event;
use crate::registry::inbox::ShardMessage;
use crate::registry::members::Departure;
use crate::registry::members::Members;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::roster::Effect;
use crate::registry::scope::Scope;
use crate::registry::subscription::Joiner;
use crate::registry::subscription::Unsubscribe;
use crate::registry::total::ChannelGuard;
use crate::registry::webhook_events::Change;

/// With more subscribers their number is announced at most once in [`COUNT_PAUSE`].
const COUNT_AT_ONCE_MAX: usize = 100;
/// See [`COUNT_AT_ONCE_MAX`]; both are Pusher's figures.
const COUNT_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Channel {
    pub(super) name: ChannelName,
    subscribers: Subscribers,
    /// Those that do not speak the protocol, while there are any.
    raw: Option<Box<Subscribers>>,
    pub(super) members: Option<Box<Members>>,
    cached: Option<Box<Cached>>,
    announced: Option<Box<AnnouncedCount>>,
    /// There only if the app has flow rules.
    pub(super) flow: Option<Box<Flow>>,
    /// There only if a history rule matches.
    history: Option<Box<ChannelHistory>>,
    /// There only where there is an operator's page, from the first event on.
    activity: Option<Box<Activity>>,
    /// There only if there may be other nodes.
    remote: Option<Box<RemoteChannel>>,
    _guard: ChannelGuard,
}

/// The event that a cache channel stores.
#[derive(Debug)]
pub(super) struct Cached {
    event: CachedEvent,
    pub(super) until: Instant,
    /// Redis does not store it for all nodes.
    is_local: bool,
}

/// The last announcement of the number of subscribers.
#[derive(Debug)]
struct AnnouncedCount {
    at: Instant,
    /// The number has changed since.
    is_stale: bool,
}

impl Channel {
    /// A channel without subscribers.
    pub(super) fn new(name: ChannelName, scope: &Scope<'_>) -> Self {
        Self {
            subscribers: Subscribers::new(scope.app.inboxes.shards()),
            raw: None,
            members: None,
            cached: None,
            announced: None,
            flow: None,
            history: scope.app.history.of_channel(&name),
            activity: None,
            remote: (scope.app.outgoing.as_ref())
                .map(|outgoing| Box::new(RemoteChannel::new(outgoing.is_linked(), scope.now))),
            _guard: scope.app.total.add(),
            name,
        }
    }

    /// Subscriptions on this node.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscribers.count() + self.raw.as_ref().map_or(0, |raw| raw.count())
    }

    /// How busy it is, where there is an operator's page.
    pub(super) fn activity(&self) -> Option<Activity> {
        self.activity.as_deref().copied()
    }

    /// Distinct users on all nodes, as far as this one knows.
    pub(super) fn users(&self) -> usize {
        self.members.as_ref().map_or(0, |members| members.roster.count())
    }

    /// The cached event and its frame, unless it is too old or evicted.
    pub(super) fn cached(&mut self, now: Instant) -> Option<(&Cached, Frame)> {
        let frame = self.cached.as_ref().filter(|cached| cached.until > now).and_then(|cached| cached.event.frame());
        if frame.is_none() {
            self.cached = None;
        }
        self.cached.as_deref().zip(frame)
    }

    /// Caches an event. `is_local` means that each node caches it for itself.
    pub(super) fn cache(&mut self, (frame, until, is_local): (&Frame, Instant, bool), scope: &Scope<'_>) {
        if scope.app.records_webhook(Kind::CacheMiss) && self.cached(scope.now).is_none() {
            scope.record_change(&self.name, Change::CacheFilled);
        }
        // Frees the memory for its successor.
        self.cached = None;
        let event = scope.app.cache.store(&self.name, frame);
        self.cached = Some(Box::new(Cached { event, until, is_local }));
        if let Some(remote) = &mut self.remote {
            remote.topic.on_cached();
        }
    }

    /// Whether nothing needs the channel any more.
    pub(super) fn is_idle(&mut self, scope: &Scope<'_>) -> bool {
        // Forgets what is too old, also while there are subscribers.
        let has_history = self.history.as_mut().is_some_and(|history| {
            history.set_settled(scope.is_settled());
            !history.is_idle(scope.now)
        });
        if has_history
            || self.subscriptions() > 0
            || self.remote.as_ref().is_some_and(|remote| !remote.is_idle(scope.now))
        {
            return false;
        }
        if self.flow.as_mut().is_some_and(|flow| !flow.is_idle(scope.now)) {
            return false;
        }
        // Redis stores most cached events for all nodes.
        self.cached(scope.now).is_none_or(|(cached, _)| scope.is_linked() && !cached.is_local)
    }

    /// Whether another member may join.
    pub(super) fn has_capacity(&self, member: &Member, members_max: usize) -> bool {
        let roster = self.members.as_ref().map(|members| &members.roster);
        roster.is_none_or(|roster| roster.count() < members_max || roster.contains(&member.user_id))
    }

    /// A connection joins, at once or when the other nodes know.
    pub(super) fn join(&mut self, joiner: Joiner, scope: &mut Scope<'_>) {
        let add = |member| self.members.get_or_insert_default().add(member, joiner.address);
        let is_new = joiner.member.as_ref().is_some_and(add);
        if let Some(view) = &joiner.view {
            scope.app.views.add(&self.name, joiner.address, view, scope);
        }
        let Some(joiner) = self.wait_if_needed(joiner, is_new, scope) else { return };
        if let Some(member) = &joiner.member {
            self.add_local_user(&member.user_id, scope);
        }
        self.admit(joiner, scope);
    }

    /// Adds a user with connections here to the roster without the other nodes, or changes its `user_info` there.
    fn add_local_user(&mut self, user_id: &str, scope: &mut Scope<'_>) {
        let Some(members) = &mut self.members else { return };
        let effect = members.update_roster(scope.node(), user_id);
        self.announce_effect(effect, scope);
    }

    /// Removes a user without connections here from the roster without the other nodes.
    fn remove_local_user(&mut self, user_id: &str, scope: &mut Scope<'_>) {
        let Some(members) = &mut self.members else { return };
        let effect = members.roster.remove(scope.node(), user_id);
        members.check_departing(scope.node(), user_id);
        self.announce_effect(effect, scope);
    }

    /// Announces a change of the roster to the subscribers.
    fn announce_effect(&mut self, effect: Option<Effect>, scope: &mut Scope<'_>) {
        let (Some(effect), Some(members)) = (effect, &mut self.members) else { return };
        members.update_list(&effect);
        let frame = match &effect {
            Effect::Added(member) => event::member_added(self.name.as_str(), member),
            Effect::Removed(user_id) => event::member_removed(self.name.as_str(), user_id),
            Effect::Changed => return,
        };
        self.announce(&Event::of(frame, scope.now), scope);
    }

    /// A connection has joined: the answer goes into its inbox, in line with the channel's events.
    fn let_in(&mut self, joiner: &Joiner, known: Known, scope: &mut Scope<'_>) {
        if self.subscriptions() == 0 {
            scope.record(&self.name, webhook::Event::ChannelOccupied);
        }
        if let (Some(members), Some(member)) = (&mut self.members, &joiner.member)
            && members.is_admitted_first(&member.user_id)
        {
            scope.record(&self.name, webhook::Event::MemberAdded(member.user_id.clone()));
        }
        let mut answers = Vec::with_capacity(1);
        answers.push(match &mut self.members {
            Some(members) => members.succeeded(self.name.as_str()),
            None => event::subscription_succeeded(self.name.as_str()),
        });
        let (gap, missed, reader) = self.welcome(joiner, known, scope);
        let mut snapshot = self.flow.as_mut().map(|flow| flow.snapshot(scope.now)).unwrap_or_default();
        if !missed.is_empty() && !snapshot.is_empty() {
            let missed: HashSet<&[u8]> = missed.iter().map(|frame| &frame.bytes()[..]).collect();
            snapshot.retain(|frame| !missed.contains(&frame.bytes()[..]));
        }
        if self.name.kind().cached {
            let cached = self.cached(scope.now).map(|(_, frame)| frame).unwrap_or_else(|| {
                scope.record(&self.name, webhook::Event::CacheMiss);
                event::cache_miss(self.name.as_str())
            });
            answers.extend(Some(cached).filter(|cached| !snapshot.contains(cached) && !missed.contains(cached)));
        }
        answers.extend(snapshot);
        answers.extend(gap);
        answers.extend(missed);
        let id = if joiner.rules.raw {
            answers = answers.iter().filter_map(event::raw).collect();
            self.raw.get_or_insert_with(|| Box::new(Subscribers::new(scope.app.inboxes.shards()))).add(joiner.address)
        } else {
            self.subscribers.add(joiner.address)
        };
        scope.inboxes.put_to(joiner.address, |slot| ShardMessage::Joined(slot, id, answers));
        if let Some(reader) = reader {
            scope.track(joiner.address, id, reader);
        }
        if joiner.view.is_some() {
            scope.app.views.start(&self.name, joiner.address, scope);
        }
        self.on_count(joiner.rules.counted, scope);
    }

    /// A connection leaves, no longer waits to join, or was refused.
    pub(super) fn leave(&mut self, unsubscribe: &Unsubscribe<'_>, counted: bool, scope: &mut Scope<'_>) {
        let address = unsubscribe.address;
        if self.remote.as_mut().is_some_and(|remote| remote.joiners.remove_refused(address)) {
            return;
        }
        let had_joined = !self.remote.as_mut().is_some_and(|remote| remote.joiners.remove(address))
            && !self.stop_joining(unsubscribe, scope);
        if had_joined && self.subscriptions() == 1 {
            // The last one gets what is pending.
            self.flush_flow(scope);
        }
        if had_joined {
            let subscribers = self.raw.as_deref_mut().filter(|_| unsubscribe.raw).unwrap_or(&mut self.subscribers);
            let id = subscribers.remove(address);
            self.leave_history(unsubscribe, scope);
            self.raw.take_if(|raw| raw.count() == 0);
            scope.inboxes.put_to(address, |slot| ShardMessage::Unsubscribed(slot, id));
            self.on_count(counted, scope);
        }
        scope.app.views.remove(&self.name, address, scope);
        self.remove_connection(unsubscribe, scope);
        let is_empty = self.subscriptions() == 0;
        if had_joined && is_empty {
            scope.record(&self.name, webhook::Event::ChannelVacated);
        }
        if let Some(remote) = &mut self.remote {
            remote.idle_since = Some(scope.now);
            scope.needs_reconcile |= is_empty;
        }
    }

    /// Removes a member's connection, and the user after the last one.
    fn remove_connection(&mut self, unsubscribe: &Unsubscribe<'_>, scope: &mut Scope<'_>) {
        let (Some(user_id), Some(members)) = (unsubscribe.user_id, &mut self.members) else { return };
        let departure = members.remove(scope.node(), user_id, unsubscribe.address);
        if matches!(&departure, Departure::User(local) if local.admitted) {
            scope.record(&self.name, webhook::Event::MemberRemoved(user_id.into()));
        }
        match departure {
            Departure::Unchanged => (),
            _ if scope.is_linked() => self.update_user(user_id, scope),
            Departure::Info => self.add_local_user(user_id, scope),
            Departure::User(_) => self.remove_local_user(user_id, scope),
        }
    }

    /// The number of subscriptions here has changed: publishes it and, if `counted`, announces the total.
    fn on_count(&mut self, counted: bool, scope: &mut Scope<'_>) {
        if let Some(remote) = &mut self.remote {
            remote.counts.are_announced = counted;
            remote.publish_count(&self.name, scope);
        }
        if counted {
            self.announce_count(scope);
        }
    }

    /// Announces the number of subscribers if an earlier announcement was postponed.
    pub(super) fn announce_stale_count(&mut self, scope: &mut Scope<'_>) {
        if self.announced.as_mut().is_some_and(|announced| std::mem::take(&mut announced.is_stale)) {
            self.announce_count(scope);
        }
    }

    /// Announces the number of subscribers, now or, on a large channel, a little later.
    fn announce_count(&mut self, scope: &mut Scope<'_>) {
        if !is_counted(&self.name) {
            return;
        }
        let total = self.subscriptions() + self.remote.as_ref().map_or(0, |remote| remote.counts.total());
        if self.subscriptions() == 0 {
            self.announced = None;
            if total == 0 {
                scope.record(&self.name, webhook::Event::SubscriptionCount(0));
            }
            return;
        }
        if let Some(announced) = &mut self.announced
            && total > COUNT_AT_ONCE_MAX
            && scope.now.duration_since(announced.at) < COUNT_PAUSE
        {
            scope.count_later |= !std::mem::replace(&mut announced.is_stale, true);
            return;
        }
        self.announced = Some(Box::new(AnnouncedCount { at: scope.now, is_stale: false }));
        // One of the nodes that announce it records the webhook event.
        if self.remote.as_ref().is_none_or(|remote| remote.counts.is_first(scope.node())) {
            scope.record(&self.name, webhook::Event::SubscriptionCount(total));
        }
        self.announce(&Event::of(event::subscription_count(self.name.as_str(), total), scope.now), scope);
    }
}

impl Event {
    /// An event for everybody.
    pub(super) fn of(frame: Frame, accepted: Instant) -> Self {
        Self::new(frame, None, accepted)
    }
}

/// Whether subscribers of such a channel may get the number of subscribers.
fn is_counted(name: &ChannelName) -> bool {
    let kind = name.kind();
    !kind.presence && kind.access != Access::User
}
