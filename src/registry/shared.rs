//! Keeps a channel in line with the other nodes. While the link is up, joins and changes of members take effect in the
//! order of all nodes. Without it this node decides alone, and says so when the link is back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::identity::Member;
use crate::registry::JoinRules;
use crate::registry::address::Address;
use crate::registry::channel::Channel;
use crate::registry::channel::Joiner;
use crate::registry::channel::Scope;
use crate::registry::inbox::ShardMessage;
use crate::registry::members::Here;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::dedup::Dedup;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;

/// How long a joiner waits for the other nodes, and then until the next look: two seconds at most.
const JOINER_WAIT: Duration = Duration::from_millis(800);
/// How long a channel without subscribers is still listened to.
const LINGER: Duration = Duration::from_secs(4);
/// Members that a comparison did not find count as gone after this time. Their node may come back until then.
pub(super) const DOUBT: Duration = Duration::from_secs(12);
/// What is held back while a topic is being compared.
const HELD_MAX: usize = 20_000;
/// Until what could not be written is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The topic is being listened to and compared; until then nobody joins.
    pub(super) opening: bool,
    /// The last order to listen. What an earlier one has found out is out of date.
    listen: u64,
    /// What was heard in the meantime.
    pub(super) held: Vec<NodeMessage>,
    /// Who joins when it is open.
    pub(super) arriving: Vec<Joiner>,
    /// Who joins when the order of this number has been done.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Who is not to join, but has not heard so yet.
    refused: Vec<Address>,
    orders: u64,
    /// Subscriptions on the other nodes.
    pub(super) counts: Vec<(NodeId, u32)>,
    /// Whether subscribers hear how many they are.
    pub(super) counted: bool,
    /// Distinct users that the channel may have.
    members_max: usize,
    /// An order to tell the number is under way.
    pub(super) count_ordered: bool,
    /// The last event of each other node.
    pub(super) dedup: Dedup,
    /// An event has been remembered since the topic began to open.
    pub(super) cached_anew: bool,
    /// When somebody last left.
    pub(super) rested_at: Option<Instant>,
    /// When to look after what is unclear.
    pub(super) settle_at: Option<Instant>,
    /// What is here could not be written, or is to be compared again for another reason.
    pub(super) unwritten: bool,
    /// When a comparison last showed that a change cannot be true.
    doubted_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    user_id: Arc<str>,
    /// The version of the members that the joiners' list must have.
    until: Option<u64>,
    pub(super) joiners: Vec<Joiner>,
}

impl Shared {
    pub(super) fn elsewhere(&self) -> usize {
        self.counts.iter().map(|(_, count)| *count as usize).sum()
    }

    /// Whether no other node with subscribers comes before this one.
    pub(super) fn is_first(&self, node: NodeId) -> bool {
        self.counts.iter().all(|(other, _)| node < *other)
    }

    pub(super) fn has_lingered(&self, now: Instant) -> bool {
        let rested = self.rested_at.is_none_or(|at| now.saturating_duration_since(at) >= LINGER);
        rested && !self.has_joiners()
    }

    pub(super) fn keep(&mut self, joiner: Joiner, order: Option<u64>) {
        self.counted = joiner.rules.counted;
        match order.and_then(|number| self.waiting.get_mut(&number)) {
            Some(waiting) => waiting.joiners.push(joiner),
            None => self.arriving.push(joiner),
        }
    }

    /// Keeps what is heard until the topic is open. What there is no room for a later comparison brings.
    pub(super) fn hold(&mut self, heard: NodeMessage) {
        if self.held.len() < HELD_MAX {
            self.held.push(heard);
        } else {
            self.unwritten = true;
        }
    }

    /// Whether a comparison now would be the next one in vain.
    pub(super) fn doubts(&self, now: Instant) -> bool {
        self.doubted_at.is_some_and(|at| now.saturating_duration_since(at) < RETRY)
    }

    /// A change cannot be true.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted_at = Some(now);
    }

    /// Whether the answer to this order to listen is waited for.
    pub(super) fn awaits(&self, listen: u64) -> bool {
        self.opening && self.listen == listen
    }

    /// Whether somebody waits to join, or to hear that this cannot be.
    pub(super) fn has_joiners(&self) -> bool {
        !(self.arriving.is_empty() && self.waiting.is_empty() && self.refused.is_empty())
    }

    /// Whether somebody has waited long enough.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        let first = self.waiting.values().find_map(|waiting| waiting.joiners.first());
        let oldest = self.arriving.first().into_iter().chain(first);
        oldest.into_iter().any(|joiner| now.saturating_duration_since(joiner.came) >= JOINER_WAIT)
    }

    /// Forgets a joiner. False when there is none, because it has joined already.
    pub(super) fn forget_joiner(&mut self, address: Address) -> bool {
        let forget = |joiners: &mut Vec<Joiner>| {
            let found = joiners.iter().position(|joiner| joiner.address == address);
            found.map(|place| joiners.swap_remove(place)).is_some()
        };
        forget(&mut self.arriving) || self.waiting.values_mut().any(|waiting| forget(&mut waiting.joiners))
    }

    /// Forgets who was refused. False when this connection was not.
    pub(super) fn forget_refused(&mut self, address: Address) -> bool {
        let found = self.refused.iter().position(|refused| *refused == address);
        found.map(|place| self.refused.swap_remove(place)).is_some()
    }

    /// Orders that a user comes, or that something else is told about it.
    fn place(
        &mut self,
        name: &ChannelName,
        (user_id, here): (&Arc<str>, &mut Here),
        members_max: usize,
        scope: &Scope<'_>,
    ) {
        let (user_info, since) = here.tells();
        let (user_id, user_info) = (Arc::clone(user_id), Some(Arc::clone(user_info)));
        let waiting = Waiting { user_id: Arc::clone(&user_id), until: None, joiners: Vec::new() };
        let number = self.order(name, MemberUpdate { number: 0, user_id, user_info, since, members_max }, scope);
        here.ordered(number);
        self.waiting.insert(number, waiting);
    }

    /// Orders that a user goes.
    fn displace(&mut self, name: &ChannelName, user_id: Arc<str>, scope: &Scope<'_>) {
        self.order(name, MemberUpdate { number: 0, user_id, user_info: None, since: 0, members_max: 0 }, scope);
    }

    fn order(&mut self, name: &ChannelName, placement: MemberUpdate, scope: &Scope<'_>) -> u64 {
        self.orders += 1;
        scope.order(name, Operation::UpdateMember(MemberUpdate { number: self.orders, ..placement }));
        self.orders
    }

    /// Has the other nodes told how many connections there are here.
    pub(super) fn order_count(&mut self, name: &ChannelName, scope: &Scope<'_>) {
        if !self.opening && !self.count_ordered && scope.is_linked() {
            self.count_ordered = true;
            scope.order(name, Operation::PublishCount);
        }
    }

    /// Returns whether that is news.
    pub(super) fn set_count(&mut self, node: NodeId, count: u32) -> bool {
        let before = self.counts.iter().find(|(known, _)| *known == node).map_or(0, |(_, count)| *count);
        self.counts.retain(|(known, _)| *known != node);
        if count > 0 && self.counts.len() < NODES_MAX {
            self.counts.push((node, count));
        }
        count != before
    }
}

impl Channel {
    pub(super) fn shared_mut(&mut self) -> &mut Shared {
        self.shared.get_or_insert_default()
    }

    /// Begins to listen, and to compare what is here with what the others have.
    pub(super) fn open(&mut self, name: &ChannelName, scope: &Scope<'_>) {
        let shared = self.shared_mut();
        if !shared.opening {
            shared.opening = true;
            shared.cached_anew = false;
            shared.settle_at = None;
            shared.unwritten = false;
            let (number, order) = Operation::open();
            shared.listen = number;
            scope.order(name, order);
        }
    }

    /// Whether a joiner has to wait, and the order that it waits for, if it is not the opening of the topic.
    /// `member` comes with whether the others have to hear of it.
    pub(super) fn waits_for(
        &mut self,
        name: &ChannelName,
        member: Option<(&Member, bool)>,
        rules: JoinRules,
        scope: &Scope<'_>,
    ) -> Option<Option<u64>> {
        let shared = self.shared.as_deref_mut()?;
        if shared.opening {
            shared.members_max = rules.members_max;
            return Some(None);
        }
        let (member, is_news) = member?;
        let here = self.members.as_mut()?.here.get_mut(&member.user_id)?;
        if is_news {
            shared.place(name, (&member.user_id, here), rules.members_max, scope);
        }
        here.order.map(Some)
    }

    /// A connection of a user here is gone, which the others have to hear of.
    pub(super) fn withdraw(&mut self, name: &ChannelName, user_id: &str, scope: &Scope<'_>) {
        let (Some(members), Some(shared)) = (&mut self.members, &mut self.shared) else { return };
        if shared.opening {
            return;
        }
        let user_id: Arc<str> = user_id.into();
        match members.here.get_mut(&user_id) {
            Some(here) => shared.place(name, (&user_id, here), usize::MAX, scope),
            None => shared.displace(name, user_id, scope),
        }
    }

    /// What to tell the others of what is here.
    pub(super) fn own(&self) -> LocalTopic {
        let here = self.members.iter().flat_map(|members| &members.here);
        let member = |(user_id, here): (&Arc<str>, &Here)| {
            let (user_info, since) = here.tells();
            (Member { user_id: Arc::clone(user_id), user_info: Arc::clone(user_info) }, since)
        };
        let (first, counted) = self.shared.as_ref().map_or((0, false), |shared| (shared.members_max, shared.counted));
        // Who is a member already stays one, even if Redis has forgotten.
        let members_max = if self.total() == 0 { first } else { usize::MAX };
        LocalTopic { members: here.map(member).collect(), members_max, counted }
    }

    /// The topic is listened to, and this is what the nodes together know.
    pub(super) fn opened(&mut self, name: &ChannelName, snapshot: Snapshot, scope: &mut Scope<'_>) {
        let nobody = self.total() == 0;
        let shared = self.shared_mut();
        shared.opening = false;
        let elsewhere = shared.elsewhere();
        shared.counts = snapshot.counts;
        if let Some((event, left)) = snapshot.cached
            && !shared.cached_anew
            && !self.is_ahead_of(scope.now + left)
        {
            if nobody && event.node != scope.node() {
                // It may still be on its way here; then it must not come twice.
                self.shared_mut().dedup.skip(event.node, event.number);
            }
            self.remember(name, &event.frame, scope.now + left, scope);
        }
        if let Some(members) = &mut self.members {
            let effects = members.roster.merge(snapshot.version, &snapshot.entries, scope.node());
            members.note_all_left(scope.node());
            for own in snapshot.entries.iter().filter(|entry| entry.node == scope.node()) {
                members.is_known(&own.member, own.since);
            }
            if members.roster.has_unconfirmed() {
                self.settle_after(DOUBT, scope);
            }
            for effect in effects {
                self.tell_effect(name, Some(effect), scope);
            }
        }
        for heard in std::mem::take(&mut self.shared_mut().held) {
            match heard {
                NodeMessage::Member(change) => self.on_change(name, change, true, scope),
                heard => drop(self.hear(name, heard, scope)),
            }
        }
        if self.shared_mut().opening {
            return;
        }
        if self.shared_mut().unwritten {
            self.settle_after(RETRY, scope);
        }
        self.refuse(name, &snapshot.refused, scope);
        self.reconcile(name, scope);
        let arriving = std::mem::take(&mut self.shared_mut().arriving);
        if arriving.is_empty() && self.shared_mut().elsewhere() != elsewhere && self.shared_mut().counted {
            self.announce_count(name, scope);
        }
        for joiner in arriving {
            match self.order_of(&joiner) {
                None if joiner.waits_for_view(name, scope) => self.keep(joiner, None),
                None => self.admit(name, &joiner, scope),
                order => self.keep(joiner, order),
            }
        }
        self.admit_ready(name, scope);
        self.shared_mut().order_count(name, scope);
    }

    fn order_of(&self, joiner: &Joiner) -> Option<u64> {
        self.members.as_ref()?.here.get(joiner.user_id.as_ref()?)?.order
    }

    /// Orders what differs between who is here and who is known to be.
    fn reconcile(&mut self, name: &ChannelName, scope: &Scope<'_>) {
        let (Some(members), Some(shared)) = (&mut self.members, &mut self.shared) else { return };
        if shared.opening {
            return;
        }
        let node = scope.node();
        for user_id in members.roster.users_on(node) {
            if !members.here.contains_key(&user_id) {
                shared.displace(name, user_id, scope);
            }
        }
        for (user_id, here) in &mut members.here {
            if members.roster.since(node, user_id) != Some(here.tells().1) && here.order.is_none() {
                shared.place(name, (user_id, here), usize::MAX, scope);
            }
        }
    }

    /// There is no room for these users.
    fn refuse(&mut self, name: &ChannelName, users: &[Arc<str>], scope: &mut Scope<'_>) {
        let (Some(members), Some(shared)) = (&mut self.members, &mut self.shared) else { return };
        let joiners = shared.waiting.values_mut().map(|waiting| &mut waiting.joiners);
        for joiners in joiners.chain([&mut shared.arriving]) {
            joiners.retain(|joiner| {
                let Some(user_id) = joiner.user_id.as_ref().filter(|user_id| users.contains(user_id)) else {
                    return true;
                };
                members.depart(scope.node(), user_id, joiner.address);
                shared.refused.push(joiner.address);
                scope.inboxes.put_to(
                    joiner.address,
                    |slot| ShardMessage::Refused(slot, name.clone()),
                    &mut scope.sleepers,
                );
                false
            });
        }
    }

    /// An order to place a user has been done, or not.
    pub(super) fn placed(
        &mut self,
        name: &ChannelName,
        placement: &MemberUpdate,
        outcome: UpdateOutcome,
        scope: &mut Scope<'_>,
    ) {
        let shared = self.shared_mut();
        let user_id = &placement.user_id;
        match outcome {
            UpdateOutcome::Applied(version) => {
                if let Some(waiting) = shared.waiting.get_mut(&placement.number) {
                    waiting.until = Some(version);
                }
                if let Some(here) = self.members.as_mut().and_then(|members| members.here.get_mut(user_id)) {
                    here.told(placement.number, version);
                }
            }
            UpdateOutcome::Full => {
                let number = placement.number;
                let later = |waiting: &Waiting| waiting.user_id == *user_id;
                let is_asked_again = shared.waiting.range(number + 1..).any(|(_, waiting)| later(waiting));
                self.refuse(name, std::slice::from_ref(user_id), scope);
                self.shared_mut().waiting.remove(&number);
                if is_asked_again {
                    // There may be room by then, but nobody waits any more.
                    self.withdraw(name, user_id, scope);
                }
            }
            UpdateOutcome::Failed => {
                shared.unwritten = true;
                if let Some(waiting) = shared.waiting.get_mut(&placement.number) {
                    waiting.until = Some(0);
                }
                match &placement.user_info {
                    Some(_) => self.place(name, user_id, scope),
                    None => self.displace(name, user_id, scope),
                }
                self.settle_after(RETRY, scope);
            }
        }
        self.admit_ready(name, scope);
    }

    /// Lets in whose order has been done, once the list has got so far.
    pub(super) fn admit_ready(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        loop {
            let (Some(members), Some(shared)) = (&mut self.members, &mut self.shared) else { return };
            let version = members.roster.version();
            let Some(first) = shared.waiting.first_entry() else { return };
            if shared.opening || first.get().until.is_none_or(|until| until > version) {
                return;
            }
            let number = *first.key();
            let Waiting { user_id, joiners, .. } = first.remove();
            if let Some(here) = members.here.get_mut(&user_id).filter(|here| here.order == Some(number)) {
                here.order = None;
            }
            for joiner in joiners {
                self.admit(name, &joiner, scope);
            }
        }
    }
}
