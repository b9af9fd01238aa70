//! What a channel hears from the other nodes, and what becomes of it when they cannot be heard.

use std::time::Duration;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::registry::channel::Channel;
use crate::registry::channel::Joiner;
use crate::registry::channel::Scope;
use crate::registry::channel::is_counted;
use crate::registry::inbox::Event;
use crate::registry::remote::dedup::Arrival;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::roster::Gap;
use crate::registry::shared::RETRY;

impl Channel {
    /// Word from a node. Returns false when it has been heard before.
    pub(super) fn hear(&mut self, name: &ChannelName, heard: NodeMessage, scope: &mut Scope<'_>) -> bool {
        let shared = self.shared.get_or_insert_default();
        match heard {
            NodeMessage::Event(event) => {
                if event.node != scope.node() {
                    match shared.dedup.check(event.node, event.number) {
                        Arrival::New => (),
                        Arrival::Duplicate => return false,
                        Arrival::Implausible => scope.doubt(),
                    }
                }
                if event.cached_for_ms > 0 {
                    let until = scope.now + Duration::from_millis(event.cached_for_ms);
                    self.remember(name, &event.frame, until, scope);
                }
                // Its own subscribers have it; what has come back settles what is remembered everywhere.
                if event.node != scope.node() {
                    self.announce(&Event { frame: event.frame, except: event.except, accepted: scope.now }, scope);
                }
            }
            heard if shared.opening => shared.hold(heard),
            NodeMessage::Member(change) => self.on_change(name, change, false, scope),
            NodeMessage::Count(node, count) => {
                if shared.set_count(node, count) && shared.counted {
                    self.announce_count(name, scope);
                }
            }
        }
        true
    }

    /// A change of the members; `was_held` while they were compared. Such a one has to follow what the comparison has
    /// brought, or it is not true.
    pub(super) fn on_change(&mut self, name: &ChannelName, change: Change, was_held: bool, scope: &mut Scope<'_>) {
        let Some(members) = &mut self.members else { return };
        let shared = self.shared.get_or_insert_default();
        if shared.opening {
            return shared.hold(NodeMessage::Member(change));
        }
        if change.node == scope.node() && change.by != change.node {
            // Somebody takes this node for dead, and has removed what is here.
            return self.open(name, scope);
        }
        let applied = members.roster.apply(&change);
        if change.node == scope.node() {
            members.note_left(change.node, &change.user_id);
        }
        match applied {
            Ok(effect) => self.tell_effect(name, effect, scope),
            Err(Gap) if was_held => {
                shared.doubt(scope.now);
                scope.doubt();
            }
            Err(Gap) if shared.doubts(scope.now) => {
                shared.unwritten = true;
                scope.doubt();
                self.settle_after(RETRY, scope);
            }
            Err(Gap) => {
                self.open(name, scope);
                self.shared_mut().hold(NodeMessage::Member(change));
            }
        }
        self.admit_ready(name, scope);
    }

    /// Keeps a joiner until the order of this number is done, or until the topic is open.
    pub(super) fn keep(&mut self, joiner: Joiner, order: Option<u64>) {
        self.shared_mut().keep(joiner, order);
    }

    /// More of what views see is listened to: lets in who has waited for that alone.
    pub(super) fn admit_viewers(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        if self.shared_mut().opening {
            return;
        }
        for joiner in std::mem::take(&mut self.shared_mut().arriving) {
            match joiner.waits_for_view(name, scope) {
                true => self.keep(joiner, None),
                false => self.admit(name, &joiner, scope),
            }
        }
    }

    /// The number of connections here, and whether subscribers elsewhere are to hear of it.
    pub(super) fn take_count(&mut self, name: &ChannelName) -> (usize, bool) {
        let shared = self.shared_mut();
        shared.count_ordered = false;
        let counted = shared.counted && is_counted(name);
        (self.total(), counted)
    }

    /// The link is lost, or what the others know cannot be had: what is here counts.
    pub(super) fn settle(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        let shared = self.shared_mut();
        shared.opening = false;
        shared.count_ordered = false;
        shared.held.clear();
        let mut joiners = std::mem::take(&mut shared.arriving);
        joiners.extend(std::mem::take(&mut shared.waiting).into_values().flat_map(|waiting| waiting.joiners));
        if let Some(members) = &mut self.members {
            let node = scope.node();
            let gone: Vec<_> = members.roster.users_on(node);
            let gone: Vec<_> = gone.into_iter().filter(|user_id| !members.here.contains_key(user_id)).collect();
            for here in members.here.values_mut() {
                here.order = None;
            }
            let here: Vec<_> = members.here.keys().cloned().collect();
            for user_id in gone {
                self.displace(name, &user_id, scope);
            }
            for user_id in here {
                self.place(name, &user_id, scope);
            }
        }
        for joiner in joiners {
            self.admit(name, &joiner, scope);
        }
    }

    /// The same, and it is tried again in a while.
    pub(super) fn not_opened(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        self.settle(name, scope);
        self.shared_mut().unwritten = true;
        self.settle_after(RETRY, scope);
    }

    pub(super) fn settle_after(&mut self, time: Duration, scope: &mut Scope<'_>) {
        self.shared_mut().settle_at.get_or_insert(scope.now + time);
        scope.uneasy = true;
    }

    /// Settles what is unclear when its time has come.
    pub(super) fn look_after(&mut self, name: &ChannelName, scope: &mut Scope<'_>) {
        let nobody = self.total() == 0;
        let shared = self.shared_mut();
        // It is looked after again until it has lingered long enough, or everybody has joined.
        scope.uneasy |= shared.has_joiners() || (nobody && !shared.has_lingered(scope.now));
        if shared.is_too_slow(scope.now) {
            // Redis does not answer. It is not for clients to wait until that is certain.
            return self.not_opened(name, scope);
        }
        match shared.settle_at {
            Some(at) if at > scope.now => scope.uneasy = true,
            Some(_) => {
                shared.settle_at = None;
                if std::mem::take(&mut shared.unwritten) && scope.is_linked() {
                    return self.open(name, scope);
                }
                let doubted = self.members.as_mut().map(|members| members.roster.remove_unconfirmed());
                for effect in doubted.unwrap_or_default() {
                    self.tell_effect(name, Some(effect), scope);
                }
            }
            None => (),
        }
    }

    /// Whether anything of one of these nodes is known.
    pub(super) fn knows(&self, nodes: &[(NodeId, bool)]) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            nodes
                .iter()
                .any(|(node, _)| shared.dedup.knows(*node) || shared.counts.iter().any(|(known, _)| known == node))
        })
    }

    /// A node is dead, or has left: its connections no longer count.
    pub(super) fn bury(&mut self, name: &ChannelName, node: NodeId, has_left: bool, scope: &mut Scope<'_>) {
        let shared = self.shared_mut();
        // Who was only cut off sends again what it does not know to have arrived.
        if has_left {
            shared.dedup.forget(node);
        }
        if shared.set_count(node, 0) && shared.counted {
            self.announce_count(name, scope);
        }
    }
}
