//! Applies to a channel what happens on other nodes. While the link is up, changes of members take effect in the order
//! of all nodes. Without it this node decides alone, and publishes its state when the link is back.

use std::sync::Arc;
use std::time::Duration;

use crate::history::log::Numbering;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::event;
use crate::protocol::identity::Member;
use crate::protocol::numbered::EventNumber;
use crate::registry::channel::Channel;
use crate::registry::channel::Source;
use crate::registry::channel::is_counted;
use crate::registry::channel::shared::Known;
use crate::registry::inbox::Event;
use crate::registry::members::LocalUser;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::dedup::Arrival;
use crate::registry::remote::history::Waiting;
use crate::registry::remote::message::FetchedEvents;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::scope::Scope;
use crate::registry::subscription::Joiner;

impl Channel {
    pub(super) fn remote_mut(&mut self) -> &mut RemoteChannel {
        self.remote.get_or_insert_default()
    }

    /// Subscribes to the channel's topic and fetches its state, unless that is on its way.
    pub(crate) fn open(&mut self, scope: &mut Scope<'_>) {
        let remote = self.remote.get_or_insert_default();
        if scope.is_linked() {
            remote.stored.received_since.get_or_insert(scope.now);
        }
        remote.topic.open(&Topic::Channel(self.name.clone()), scope);
        self.resume(scope);
    }

    /// The part of the channel that is on this node, for the other nodes.
    pub(crate) fn local_topic(&self) -> LocalTopic {
        let member = |(user_id, local): (&Arc<str>, &LocalUser)| {
            let (user_info, since) = local.info();
            (Member { user_id: Arc::clone(user_id), user_info: Arc::clone(user_info) }, since)
        };
        let local = self.members.iter().flat_map(|members| &members.local);
        // A member stays one, even if Redis has lost it.
        let joiners = self.remote.as_ref().map(|remote| &remote.joiners).filter(|_| self.subscriptions() == 0);
        let members_max = joiners.and_then(|joiners| joiners.members_max()).unwrap_or(usize::MAX);
        let counted = self.remote.as_ref().is_some_and(|remote| remote.counts.are_announced);
        LocalTopic { members: local.map(member).collect(), members_max, counted, snapshot: None }
    }

    /// The command of this number has opened the topic, or has failed without a snapshot.
    pub(crate) fn on_opened(&mut self, number: u64, snapshot: Option<Snapshot>, scope: &mut Scope<'_>) {
        match snapshot {
            _ if !self.remote_mut().topic.awaits(number) => (),
            Some(snapshot) => {
                if let Some(snapshot) = self.remote_mut().topic.wait_for_mark(snapshot) {
                    self.opened(snapshot, scope);
                }
            }
            None => self.not_opened(scope),
        }
    }

    fn opened(&mut self, mut snapshot: Snapshot, scope: &mut Scope<'_>) {
        let remote = self.remote_mut();
        let opening = remote.topic.end_opening();
        let elsewhere = remote.counts.total();
        remote.counts.nodes = std::mem::take(&mut snapshot.counts);
        if !opening.has_newer_event {
            self.cache_snapshot(&snapshot, scope);
        }
        if let Some(stored) = snapshot.last_events.take() {
            self.restore_events(stored, scope);
        }
        self.merge_members(&snapshot, scope);
        for message in opening.buffered {
            self.on_message(message, scope);
        }
        if !self.remote_mut().topic.end_replay(scope) {
            return;
        }
        self.refuse(&snapshot.refused, scope);
        self.update_all_users(scope);
        let remote = self.remote_mut();
        if remote.joiners.arriving.is_empty() && remote.counts.total() != elsewhere && remote.counts.are_announced {
            self.announce_count(scope);
        }
        self.admit_arriving(scope);
        self.admit_updated(scope);
        self.remote.get_or_insert_default().publish_count(&self.name, scope);
    }

    /// Caches the event of a snapshot, unless this node has a later one.
    fn cache_snapshot(&mut self, snapshot: &Snapshot, scope: &Scope<'_>) {
        let Some((event, left)) = &snapshot.cached else { return };
        // The rules decide about what this node has.
        let has_rule = self.flow.as_ref().is_some_and(|flow| flow.has_rule());
        if has_rule && self.cached(scope.now).is_some() {
            return;
        }
        let until = scope.now + *left;
        if self.cached(scope.now).is_some_and(|(cached, _)| cached.is_local && cached.until > until) {
            return;
        }
        if self.subscriptions() == 0 && event.node != scope.node() {
            // The event may still be on its way here, and must not come twice.
            self.remote_mut().dedup.skip(event.node, event.number);
        }
        self.cache((&event.frame, until, false), scope);
    }

    fn merge_members(&mut self, snapshot: &Snapshot, scope: &mut Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        let node = scope.node();
        let effects = remote.topic.merge(&mut members.roster, snapshot, scope);
        members.check_all_departing(node);
        for own in snapshot.entries.iter().filter(|entry| entry.node == node) {
            members.on_snapshot(&own.member, own.since);
        }
        for effect in effects {
            self.announce_effect(Some(effect), scope);
        }
    }

    /// Joiners wait no longer for a receiver that lags. The state holds without its events, which are taken over when its
    /// mark has come: until then an older one of the same key may come.
    fn open_without_events(&mut self, number: u64, mut state: Snapshot, scope: &mut Scope<'_>) {
        let cached = state.cached.take().map(|(event, left)| (event.frame, scope.now + left));
        let events = FetchedEvents { last_events: state.last_events.take().unwrap_or_default(), cached };
        self.remote_mut().stored.fetch(number).on_answer(events);
        self.opened(state, scope);
    }

    /// The topic does not open: this node decides alone, and tries again later. The history is another matter.
    fn not_opened(&mut self, scope: &mut Scope<'_>) {
        for joiner in self.leave_topic(scope) {
            self.let_in(&joiner, Known::Alone, scope);
        }
        self.remote_mut().topic.reopen_later(scope);
    }

    /// The link is lost: this node decides alone.
    pub(crate) fn on_unlinked(&mut self, scope: &mut Scope<'_>) {
        let joiners = self.leave_topic(scope);
        self.stop_catching_up(scope);
        let remote = self.remote_mut();
        remote.history.on_unlinked(scope.now);
        let asked = remote.history.take_all();
        for joiner in joiners {
            self.let_in(&joiner, Known::Alone, scope);
        }
        for joiner in asked {
            self.let_in_unsure(&joiner, scope);
        }
    }

    /// From now on this node decides alone about members and counts. Returns those that wait to join.
    fn leave_topic(&mut self, scope: &mut Scope<'_>) -> Vec<Joiner> {
        let remote = self.remote_mut();
        remote.topic.reset();
        remote.counts.is_publishing = false;
        remote.stored.on_unlinked(scope.now);
        let joiners = remote.joiners.take_all();
        if let Some(members) = &mut self.members {
            members.local.values_mut().for_each(|local| local.update = None);
            let local: Vec<_> = members.local.keys().cloned().collect();
            let mut departed = members.roster.users_on(scope.node());
            departed.retain(|user_id| !members.local.contains_key(user_id));
            for user_id in departed {
                self.remove_local_user(&user_id, scope);
            }
            for user_id in local {
                self.add_local_user(&user_id, scope);
            }
        }
        joiners
    }

    /// Reconciles the channel with the other nodes when it is time.
    pub(crate) fn reconcile(&mut self, scope: &mut Scope<'_>) {
        self.tick_shared(scope);
        let is_empty = self.subscriptions() == 0;
        let remote = self.remote.get_or_insert_default();
        // Comes back until the channel has been idle long enough, and until all joiners have joined.
        scope.needs_reconcile |= !remote.joiners.is_empty() || (is_empty && !remote.is_idle(scope.now));
        if remote.joiners.is_overdue(scope.now) {
            // Clients do not wait until it is certain that Redis does not answer.
            return match remote.topic.take_unmarked() {
                Some((number, state)) => self.open_without_events(number, state, scope),
                None => self.not_opened(scope),
            };
        }
        let roster = self.members.as_mut().map(|members| &mut members.roster);
        for effect in remote.topic.reconcile(roster, &Topic::Channel(self.name.clone()), scope) {
            self.announce_effect(Some(effect), scope);
        }
    }

    /// A message has come. Returns false for a duplicate.
    pub(crate) fn on_message(&mut self, message: NodeMessage, scope: &mut Scope<'_>) -> bool {
        let remote = self.remote.get_or_insert_default();
        match message {
            NodeMessage::Event(event, number) => return self.on_event(event, number, scope),
            NodeMessage::OwnNumber(own, number) => self.on_own_number(own, number, scope),
            NodeMessage::Mark(number) => {
                if let Some(snapshot) = remote.topic.on_mark(number) {
                    self.opened(snapshot, scope);
                } else if let Some(events) = remote.stored.on_mark(number) {
                    self.take_over(events, scope);
                } else if let Some((answer, waiting)) = remote.history.on_mark(number) {
                    self.caught_up(answer, waiting, scope);
                }
            }
            NodeMessage::Missed { missed, since } => self.announce_missed(missed, since, scope),
            message if remote.topic.is_opening() => remote.topic.buffer(message),
            NodeMessage::Member(change) => self.on_change(change, scope),
            NodeMessage::Count(node, count) => {
                if remote.counts.set(node, count) {
                    self.announce_count(scope);
                }
            }
        }
        true
    }

    /// An event comes to its own node, too, if the channel caches it: then all nodes cache it in one order. Returns false
    /// for a duplicate.
    pub(super) fn on_event(&mut self, event: RemoteEvent, number: Option<EventNumber>, scope: &mut Scope<'_>) -> bool {
        if event.node == scope.node() {
            if let Some(number) = number {
                self.on_own_number(event.number, number, scope);
            }
            let cache_for = cache_for(&event);
            if let Some(cache_for) = cache_for
                && !self.flow.as_ref().is_some_and(|flow| flow.has_rule())
            {
                self.cache((&event.frame, scope.now + cache_for, false), scope);
            }
            return true;
        }
        let is_following = self.history.as_ref().is_some_and(|history| history.shared().is_some());
        if is_following && number.is_none() && self.lacks_number(&event, scope) {
            self.catch_up_once(scope);
        }
        match self.number_of(number, Origin::new(event.node, event.number), scope) {
            Some(shared) => self.receive(event, Source::Elsewhere(shared), scope),
            None => match self.remote_mut().history.wait(Waiting::Event(event, number)) {
                None => true,
                Some(message) => {
                    // Too many wait.
                    self.stop_catching_up(scope);
                    self.deliver_waiting(vec![message], scope);
                    true
                }
            },
        }
    }

    /// Whether Redis should have numbered an event: it had no memory, or the other node does not know the rule so far.
    fn lacks_number(&self, event: &RemoteEvent, scope: &Scope<'_>) -> bool {
        scope.app.numbering_rule(&self.name).is_some() && !event::is_client_event(&event.frame)
    }

    /// Takes an event of another node. Returns false for a duplicate.
    pub(super) fn receive(&mut self, event: RemoteEvent, source: Source, scope: &mut Scope<'_>) -> bool {
        let origin = Origin::new(event.node, event.number);
        let numbered = origin.filter(|_| matches!(source, Source::Elsewhere(Numbering::Number(_))));
        let is_new = numbered.and_then(|origin| self.history.as_mut()?.is_new(origin));
        let dedup = &mut self.remote_mut().dedup;
        match is_new {
            Some(false) => return false,
            // Events without a number may have overtaken it.
            Some(true) => dedup.skip(event.node, event.number),
            None => match dedup.check(event.node, event.number) {
                Arrival::New => (),
                Arrival::Duplicate => return false,
                Arrival::Implausible => scope.report_implausible(),
            },
        }
        if let (Source::Elsewhere(Numbering::None), Some(history), Some(origin)) = (source, &mut self.history, origin) {
            history.note_unnumbered(origin);
        }
        let cache_for = cache_for(&event);
        self.accept((&Event::of_node(event, scope.now), source), cache_for, false, scope);
        true
    }

    fn on_change(&mut self, change: Change, scope: &mut Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        let own = (change.node == scope.node()).then(|| change.user_id.clone());
        let effect = remote.topic.apply(&mut members.roster, change, &Topic::Channel(self.name.clone()), scope);
        if let Some(user_id) = own {
            members.check_departing(scope.node(), &user_id);
        }
        self.announce_effect(effect, scope);
        self.admit_updated(scope);
    }

    /// The number of connections here, and whether other nodes have to get it.
    pub(crate) fn take_count(&mut self) -> (usize, bool) {
        let counts = &mut self.remote_mut().counts;
        counts.is_publishing = false;
        let is_announced = counts.are_announced && is_counted(&self.name);
        (self.subscriptions(), is_announced)
    }

    /// Whether anything of one of these nodes is known.
    pub(crate) fn knows(&self, nodes: &[(NodeId, bool)]) -> bool {
        let Some(remote) = &self.remote else { return false };
        nodes
            .iter()
            .any(|(node, _)| remote.dedup.knows(*node) || remote.counts.nodes.iter().any(|(known, _)| known == node))
    }

    /// A node has crashed or left: its connections no longer count.
    pub(crate) fn remove_node(&mut self, node: NodeId, has_left: bool, scope: &mut Scope<'_>) {
        self.on_storer_gone(node, scope);
        let remote = self.remote_mut();
        // A node that was only cut off repeats events.
        if has_left {
            remote.dedup.forget(node);
        }
        if remote.counts.set(node, 0) {
            self.announce_count(scope);
        }
    }
}

/// How long a cache channel keeps an event.
fn cache_for(event: &RemoteEvent) -> Option<Duration> {
    (event.cached_for_ms > 0).then(|| Duration::from_millis(event.cached_for_ms))
}
