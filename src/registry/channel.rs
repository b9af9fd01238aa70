//! One channel of an app: how many listen on which shard, who is present, what is cached.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::protocol::view::View;
use crate::protocol::webhook;
use crate::protocol::webhook::Kind;
use crate::protocol::webhook::Kinds;
use crate::registry::JoinRules;
use crate::registry::Unsubscribe;
use crate::registry::address::Address;
use crate::registry::channels::Channels;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::ShardMessage;
use crate::registry::inbox::Sleepers;
use crate::registry::members::Departed;
use crate::registry::members::Members;
use crate::registry::remembered::Forgotten;
use crate::registry::remembered::Place;
use crate::registry::remembered::Remembered;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;
use crate::registry::remote::outgoing::Outgoing;
use crate::registry::remote::roster::Effect;
use crate::registry::shared::Shared;
use crate::registry::total::ChannelTotal;
use crate::registry::total::Seat;
use crate::registry::views::Views;
use crate::registry::webhook_events::Change;
use crate::registry::webhook_events::WebhookEvent;
use crate::registry::webhook_events::WebhookQueue;

/// Above so many subscribers their number is told at most once in [`COUNT_PAUSE`].
const COUNT_AT_ONCE_MAX: usize = 100;
/// See [`COUNT_AT_ONCE_MAX`]; both are Pusher's figures.
const COUNT_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Channel {
    id: ChannelId,
    /// Subscriptions on each shard.
    subscriptions: Box<[u32]>,
    pub(super) members: Option<Box<Members>>,
    pub(super) cached: Option<Box<Cached>>,
    pub(super) counted: Option<Box<Counted>>,
    /// What the channel has to do with other nodes, where there are any.
    pub(super) shared: Option<Box<Shared>>,
    _seat: Seat,
}

#[derive(Debug)]
pub(super) struct Cached {
    pub(super) frame: Frame,
    pub(super) until: Instant,
    /// Redis does not remember it for all nodes.
    here_only: bool,
    /// Among all that the process remembers.
    place: Place,
}

/// When the subscribers last heard how many they are, and whether that has changed since.
#[derive(Debug)]
pub(super) struct Counted {
    at: Instant,
    pub(super) stale: bool,
}

/// A connection that joins.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) address: Address,
    pub(super) user_id: Option<Arc<str>>,
    pub(super) view: Option<View>,
    pub(super) rules: JoinRules,
    pub(super) came: Instant,
}

impl Joiner {
    /// Whether what it is to see besides the channel is not yet listened to.
    pub(super) fn waits_for_view(&self, name: &ChannelName, scope: &Scope<'_>) -> bool {
        self.view.is_some() && scope.is_linked() && scope.views.is_waiting(name, self.address)
    }
}

/// What a change under the lock of a channel needs, and leaves to be done when the lock is gone.
pub(super) struct Scope<'a> {
    pub(super) inboxes: &'a Inboxes,
    pub(super) outgoing: Option<&'a Outgoing>,
    pub(super) views: &'a Views,
    pub(super) webhooks: &'a WebhookQueue,
    pub(super) channels: &'a Arc<Channels>,
    pub(super) remembered: &'a Arc<Remembered>,
    /// What channels are to forget, for want of room.
    pub(super) forgotten: Vec<Forgotten>,
    /// The channels of all apps.
    pub(super) total: &'a Arc<ChannelTotal>,
    /// The kinds of webhook events that are recorded.
    pub(super) wanted: Kinds,
    pub(super) app: &'a Arc<str>,
    pub(super) now: Instant,
    pub(super) sleepers: Sleepers,
    /// Somebody must come back to tell the number of subscribers.
    pub(super) uncounted: bool,
    /// Somebody must come back to settle what is unclear between the nodes.
    pub(super) uneasy: bool,
}

impl Scope<'_> {
    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.outgoing.map_or_else(NodeId::default, Outgoing::node)
    }

    /// Whether other nodes have a say in what happens.
    pub(super) fn is_linked(&self) -> bool {
        self.outgoing.is_some_and(Outgoing::is_linked)
    }

    /// Hands an event to those who see the channel from another one.
    pub(super) fn mirror(&mut self, name: &ChannelName, event: &Event) {
        self.views.mirror(name, event, self.inboxes, &mut self.sleepers);
    }

    /// Records a webhook event if its kind is wanted.
    pub(super) fn record(&self, channel: &ChannelName, event: webhook::Event) {
        if self.wanted.contains(event.kind()) {
            self.put(channel, Change::Event(event));
        }
    }

    /// A user's own channel has no webhook events.
    fn put(&self, channel: &ChannelName, change: Change) {
        if channel.user().is_none() {
            self.webhooks.put(WebhookEvent { app: Arc::clone(self.app), channel: channel.clone(), change });
        }
    }

    /// Something that another node is said to have said cannot be true.
    pub(super) fn doubt(&self) {
        if let Some(outgoing) = self.outgoing {
            outgoing.report_implausible();
        }
    }

    /// Leaves something for the cluster to do.
    pub(super) fn order(&self, name: &ChannelName, operation: Operation) {
        if let Some(outgoing) = self.outgoing {
            outgoing.push(Command { app: Arc::clone(self.app), topic: Topic::Channel(name.clone()), operation });
        }
    }
}

impl Channel {
    /// A channel without subscribers.
    pub(super) fn new(scope: &Scope<'_>) -> Self {
        Self {
            id: ChannelId::next(),
            subscriptions: vec![0; scope.inboxes.shards()].into(),
            members: None,
            cached: None,
            counted: None,
            shared: scope.outgoing.map(|_| Box::default()),
            _seat: Seat::of(scope.total),
        }
    }

    /// Subscriptions on this node.
    pub(super) fn total(&self) -> usize {
        self.subscriptions.iter().map(|&count| count as usize).sum()
    }

    /// Subscriptions on all nodes, as far as this one knows.
    fn total_everywhere(&self) -> usize {
        self.total() + self.shared.as_ref().map_or(0, |shared| shared.elsewhere())
    }

    pub(super) fn users(&self) -> usize {
        self.members.as_ref().map_or(0, |members| members.roster.count())
    }

    pub(super) fn cached(&mut self, now: Instant) -> Option<&Cached> {
        self.cached.take_if(|cached| cached.until <= now);
        self.cached.as_deref()
    }

    /// Remembers an event.
    pub(super) fn remember(&mut self, name: &ChannelName, frame: &Frame, until: Instant, scope: &mut Scope<'_>) {
        self.keep_cached(name, (frame, until, false), scope);
    }

    /// Remembers an event that each node has to remember for itself.
    pub(super) fn remember_here(&mut self, name: &ChannelName, frame: &Frame, until: Instant, scope: &mut Scope<'_>) {
        self.keep_cached(name, (frame, until, true), scope);
    }

    /// There is no room for an event that is remembered, unless it is another one by now.
    pub(super) fn forget(&mut self, forgotten: &Forgotten) {
        self.cached.take_if(|cached| cached.place.is(forgotten));
    }

    fn keep_cached(
        &mut self,
        name: &ChannelName,
        (frame, until, here_only): (&Frame, Instant, bool),
        scope: &mut Scope<'_>,
    ) {
        if scope.wanted.contains(Kind::CacheMiss) && self.cached(scope.now).is_none() {
            scope.put(name, Change::CacheFilled);
        }
        // Makes room for its successor.
        self.cached = None;
        let place = scope.remembered.put(scope.channels, name, frame.bytes().len(), &mut scope.forgotten);
        self.cached = Some(Box::new(Cached { frame: frame.clone(), until, here_only, place }));
        if let Some(shared) = &mut self.shared {
            shared.cached_anew = true;
        }
    }

    /// Whether what Redis remembers until then is older than what is remembered here.
    pub(super) fn is_ahead_of(&self, until: Instant) -> bool {
        self.cached.as_ref().is_some_and(|cached| cached.here_only && cached.until > until)
    }

    /// Nothing needs the entry any more.
    pub(super) fn is_idle(&mut self, scope: &Scope<'_>) -> bool {
        let lingered = self.shared.as_ref().is_none_or(|shared| shared.has_lingered(scope.now));
        // Redis remembers most cached events for all nodes.
        let forgettable = |cached: &Cached| scope.is_linked() && !cached.here_only;
        self.total() == 0 && lingered && self.cached(scope.now).is_none_or(forgettable)
    }

    /// Whether another member fits in.
    pub(super) fn has_room(&self, member: &Member, members_max: usize) -> bool {
        let full =
            |members: &Members| members.roster.count() >= members_max && !members.roster.contains(&member.user_id);
        !self.members.as_deref().is_some_and(full)
    }

    /// A connection joins: at once, or when the other nodes know.
    pub(super) fn join(&mut self, name: &ChannelName, joiner: Joiner, member: Option<&Member>, scope: &mut Scope<'_>) {
        let is_news = member.map(|member| self.members.get_or_insert_default().arrive(member, joiner.address));
        if let Some(view) = &joiner.view {
            scope.views.add(name, joiner.address, view, scope);
        }
        if scope.is_linked()
            && let Some(order) = self.waits_for(name, member.zip(is_news), joiner.rules, scope)
        {
            scope.uneasy = true;
            return self.keep(joiner, order);
        }
        if joiner.waits_for_view(name, scope) {
            scope.uneasy = true;
            return self.keep(joiner, None);
        }
        if let Some(member) = member {
            self.place(name, &member.user_id, scope);
        }
        self.admit(name, &joiner, scope);
    }

    /// What this node tells about a user here counts, without the others.
    pub(super) fn place(&mut self, name: &ChannelName, user_id: &str, scope: &mut Scope<'_>) {
        let Some(members) = &mut self.members else { return };
        let effect = members.place(scope.node(), user_id);
        self.tell_effect(name, effect, scope);
    }

    /// A member is no longer there, on this node.
    pub(super) fn displace(&mut self, name: &ChannelName, user_id: &str, scope: &mut Scope<'_>) {
        let Some(members) = &mut self.members else { return };
        let effect = members.roster.remove(scope.node(), user_id);
        members.note_left(scope.node(), user_id);
        self.tell_effect(name, effect, scope);
    }

    /// Tells the subscribers who came or went.
    pub(super) fn tell_effect(&mut self, name: &ChannelName, effect: Option<Effect>, scope: &mut Scope<'_>) {
        let (Some(effect), Some(members)) = (effect, &mut self.members) else { return };
        members.relist(&effect);
        let frame = match &effect {
            Effect::Added(member) => event::member_added(name.as_str(), member),
            Effect::Removed(user_id) => event::member_removed(name.as_str(), user_id),
            Effect::Changed => return,
        };
        self.announce(&Event::of(frame, scope.now), scope);
    }

    /// The joiner is in: the answer goes into its inbox, in line with the channel's events.
    pub(super) fn admit(&mut self, name: &ChannelName, joiner: &Joiner, scope: &mut Scope<'_>) {
        let mut answers = Vec::with_capacity(1);
        self.tell_coming(name, joiner, scope);
        answers.push(match &mut self.members {
            Some(members) => members.succeeded(name.as_str()),
            None => event::subscription_succeeded(name.as_str()),
        });
        if name.kind().cached {
            let cached = self.cached(scope.now).map(|cached| cached.frame.clone());
            answers.push(cached.unwrap_or_else(|| {
                scope.record(name, webhook::Event::CacheMiss);
                event::cache_miss(name.as_str())
            }));
        }
        self.subscriptions[usize::from(joiner.address.shard)] += 1;
        let id = self.id;
        scope.inboxes.put_to(joiner.address, |slot| ShardMessage::Joined(slot, id, answers), &mut scope.sleepers);
        if joiner.view.is_some() {
            scope.views.start(name, joiner.address, scope);
        }
        self.tell_count(name, joiner.rules.counted, scope);
    }

    /// Tells the application what a joiner changes on this node.
    fn tell_coming(&mut self, name: &ChannelName, joiner: &Joiner, scope: &Scope<'_>) {
        if self.total() == 0 {
            scope.record(name, webhook::Event::ChannelOccupied);
        }
        if let (Some(members), Some(user_id)) = (&mut self.members, &joiner.user_id)
            && members.is_admitted_first(user_id)
        {
            scope.record(name, webhook::Event::MemberAdded(Arc::clone(user_id)));
        }
    }

    /// A connection leaves, no longer wants to join, or has heard that it cannot.
    pub(super) fn leave(
        &mut self,
        name: &ChannelName,
        unsubscribe: &Unsubscribe<'_>,
        counted: bool,
        scope: &mut Scope<'_>,
    ) {
        let Unsubscribe { address, user_id, .. } = *unsubscribe;
        if self.shared.as_mut().is_some_and(|shared| shared.forget_refused(address)) {
            return;
        }
        let was_in = !self.shared.as_mut().is_some_and(|shared| shared.forget_joiner(address));
        if was_in {
            self.subscriptions[usize::from(address.shard)] -= 1;
            let id = self.id;
            scope.inboxes.put_to(address, |slot| ShardMessage::Unsubscribed(slot, id), &mut scope.sleepers);
            self.tell_count(name, counted, scope);
        }
        scope.views.remove(name, address, scope);
        if let (Some(user_id), Some(members)) = (user_id, &mut self.members) {
            let departed = members.depart(scope.node(), user_id, address);
            if matches!(&departed, Departed::Last(here) if here.admitted) {
                scope.record(name, webhook::Event::MemberRemoved(user_id.into()));
            }
            match departed {
                Departed::Same => (),
                _ if scope.is_linked() => self.withdraw(name, user_id, scope),
                Departed::Changed => self.place(name, user_id, scope),
                Departed::Last(_) => self.displace(name, user_id, scope),
            }
        }
        if was_in && self.total() == 0 {
            scope.record(name, webhook::Event::ChannelVacated);
        }
        if let Some(shared) = &mut self.shared {
            shared.rested_at = Some(scope.now);
            scope.uneasy |= self.total() == 0;
        }
    }

    /// Puts an event into the inbox of each shard that has subscribers.
    pub(super) fn announce(&self, event: &Event, scope: &mut Scope<'_>) {
        for (shard, &count) in self.subscriptions.iter().enumerate() {
            if count > 0 {
                scope.inboxes.put(shard, ShardMessage::Event(self.id, event.clone()), &mut scope.sleepers);
            }
        }
    }

    /// The number of subscribers here has changed: tells the other nodes and, if `counted`, the subscribers.
    fn tell_count(&mut self, name: &ChannelName, counted: bool, scope: &mut Scope<'_>) {
        if let Some(shared) = &mut self.shared {
            shared.counted = counted;
            shared.order_count(name, scope);
        }
        if counted {
            self.announce_count(name, scope);
        }
    }

    /// Tells the subscribers how many they are, now or, for a large channel, a little later.
    pub(super) fn announce_count(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        if !is_counted(name) {
            return;
        }
        let total = self.total_everywhere();
        if self.total() == 0 {
            self.counted = None;
            if total == 0 {
                scope.record(name, webhook::Event::SubscriptionCount(0));
            }
            return;
        }
        if let Some(counted) = &mut self.counted
            && total > COUNT_AT_ONCE_MAX
            && scope.now.duration_since(counted.at) < COUNT_PAUSE
        {
            scope.uncounted |= !std::mem::replace(&mut counted.stale, true);
            return;
        }
        self.counted = Some(Box::new(Counted { at: scope.now, stale: false }));
        // Of the nodes that announce it, one tells the application.
        if self.shared.as_ref().is_none_or(|shared| shared.is_first(scope.node())) {
            scope.record(name, webhook::Event::SubscriptionCount(total));
        }
        self.announce(&Event::of(event::subscription_count(name.as_str(), total), scope.now), scope);
    }
}

impl Event {
    /// An event for everybody.
    pub(super) fn of(frame: Frame, accepted: Instant) -> Self {
        Self { frame, except: None, accepted }
    }
}

/// Whether the subscribers of a channel of this name hear how many they are, where that is switched on.
pub(super) fn is_counted(name: &ChannelName) -> bool {
    let kind = name.kind();
    !kind.presence && kind.access != Access::User
}
