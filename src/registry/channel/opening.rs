//! How a channel opens its topic. While the link is up, changes of members take effect in the order of all nodes. Without
//! it this node decides alone, and publishes its state when the link is back.

use std::sync::Arc;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Topic;
use crate::protocol::identity::Member;
use crate::registry::channel::Channel;
use crate::registry::members::LocalUser;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::Snapshot;
use crate::registry::scope::Scope;

impl Channel {
    pub(super) fn remote_mut(&mut self) -> &mut RemoteChannel {
        self.remote.get_or_insert_default()
    }

    /// Subscribes to the channel's topic and fetches its state, unless that is on its way.
    pub(in crate::registry) fn open(&mut self, name: &ChannelName, scope: &Scope<'_>) {
        self.remote_mut().topic.open(&Topic::Channel(name.clone()), scope);
    }

    /// The part of the channel that is on this node, for the other nodes.
    pub(in crate::registry) fn local_topic(&self) -> LocalTopic {
        let member = |(user_id, local): (&Arc<str>, &LocalUser)| {
            let (user_info, since) = local.info();
            (Member { user_id: Arc::clone(user_id), user_info: Arc::clone(user_info) }, since)
        };
        let local = self.members.iter().flat_map(|members| &members.local);
        // A member stays one, even if Redis has lost it.
        let joiners = self.remote.as_ref().map(|remote| &remote.joiners).filter(|_| self.subscriptions() == 0);
        let members_max = joiners.and_then(|joiners| joiners.members_max()).unwrap_or(usize::MAX);
        let counted = self.remote.as_ref().is_some_and(|remote| remote.counts.are_announced);
        LocalTopic { members: local.map(member).collect(), members_max, counted }
    }

    /// The command of this number has opened the topic, or has failed without a snapshot.
    pub(in crate::registry) fn on_opened(
        &mut self,
        name: &ChannelName,
        number: u64,
        snapshot: Option<Snapshot>,
        scope: &mut Scope<'_>,
    ) {
        match snapshot {
            _ if !self.remote_mut().topic.awaits(number) => (),
            Some(snapshot) => self.opened(name, snapshot, scope),
            None => self.not_opened(name, scope),
        }
    }

    fn opened(&mut self, name: &ChannelName, mut snapshot: Snapshot, scope: &mut Scope<'_>) {
        let remote = self.remote_mut();
        let opening = remote.topic.end_opening();
        let elsewhere = remote.counts.total();
        remote.counts.nodes = std::mem::take(&mut snapshot.counts);
        if !opening.has_newer_event {
            self.cache_snapshot(name, &snapshot, scope);
        }
        self.merge_members(name, &snapshot, scope);
        for message in opening.buffered {
            self.on_message(name, message, scope);
        }
        if !self.remote_mut().topic.end_replay(scope) {
            return;
        }
        self.refuse(name, &snapshot.refused, scope);
        self.update_all_users(name, scope);
        let remote = self.remote_mut();
        if !remote.joiners.has_arriving() && remote.counts.total() != elsewhere && remote.counts.are_announced {
            self.announce_count(name, scope);
        }
        self.admit_arriving(name, scope);
        self.admit_updated(name, scope);
        self.remote_mut().publish_count(name, scope);
    }

    /// Caches the event of a snapshot, unless this node has a later one.
    fn cache_snapshot(&mut self, name: &ChannelName, snapshot: &Snapshot, scope: &Scope<'_>) {
        let Some((event, left)) = &snapshot.cached else { return };
        let until = scope.now + *left;
        if self.cached(scope.now).is_some_and(|(cached, _)| cached.is_local && cached.until > until) {
            return;
        }
        if self.subscriptions() == 0 && event.node != scope.node() {
            // The event may still be on its way here, and must not come twice.
            self.remote_mut().dedup.skip(event.node, event.number);
        }
        self.cache(name, (&event.frame, until, false), scope);
    }

    fn merge_members(&mut self, name: &ChannelName, snapshot: &Snapshot, scope: &mut Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        let node = scope.node();
        let effects = remote.topic.merge(&mut members.roster, snapshot, scope);
        members.check_all_departing(node);
        for own in snapshot.entries.iter().filter(|entry| entry.node == node) {
            members.on_snapshot(&own.member, own.since);
        }
        for effect in effects {
            self.announce_effect(name, Some(effect), scope);
        }
    }

    /// The topic does not open: this node decides alone, and tries again later.
    fn not_opened(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        self.on_unlinked(name, scope);
        self.remote_mut().topic.reopen_later(scope);
    }

    /// The link is lost: this node decides alone.
    pub(in crate::registry) fn on_unlinked(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        let remote = self.remote_mut();
        remote.topic.reset();
        remote.counts.is_publishing = false;
        let joiners = remote.joiners.take_all();
        if let Some(members) = &mut self.members {
            members.local.values_mut().for_each(|local| local.update = None);
            let local: Vec<_> = members.local.keys().cloned().collect();
            let mut departed = members.roster.users_on(scope.node());
            departed.retain(|user_id| !members.local.contains_key(user_id));
            for user_id in departed {
                self.remove_local_user(name, &user_id, scope);
            }
            for user_id in local {
                self.add_local_user(name, &user_id, scope);
            }
        }
        for joiner in joiners {
            self.admit(name, &joiner, scope);
        }
    }

    /// Reconciles the channel with the other nodes when it is time.
    pub(in crate::registry) fn reconcile(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        let is_empty = self.subscriptions() == 0;
        let remote = self.remote.get_or_insert_default();
        // Comes back until the channel has been idle long enough, and until all joiners have joined.
        scope.needs_reconcile |= !remote.joiners.is_empty() || (is_empty && !remote.is_idle(scope.now));
        if remote.joiners.is_overdue(scope.now) {
            // Clients do not wait until it is certain that Redis does not answer.
            return self.not_opened(name, scope);
        }
        let roster = self.members.as_mut().map(|members| &mut members.roster);
        for effect in remote.topic.reconcile(roster, &Topic::Channel(name.clone()), scope) {
            self.announce_effect(name, Some(effect), scope);
        }
    }
}
