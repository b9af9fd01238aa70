//! Who is on a topic, on whichever node. Every change has a version, one more than the one before it, so each
//! node goes through the same changes in the same order, and notices when it has missed one.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::identity::Member;

/// A change that is so many versions old is none that comes late: Redis has begun to count anew, or somebody else has
/// counted. More than what is on its way from Redis at any time.
const BEHIND_MAX: u64 = 1 << 20;

/// Users, and the nodes that their connections are on.
#[derive(Debug, Default)]
pub(super) struct Replica {
    present: IndexMap<Arc<str>, Present>,
    version: u64,
    /// Who was not in the last comparison although nobody has said that they left. Their node may just not
    /// have come back yet.
    doubted: Vec<(NodeId, Arc<str>)>,
}

#[derive(Debug)]
struct Present {
    /// What it tells about the user holds.
    newest: Holder,
    others: Vec<Holder>,
}

/// A node that has connections of a user.
#[derive(Debug)]
struct Holder {
    node: NodeId,
    /// Grows with each `user_info` of the user, on whichever node: see [`Change::since`].
    since: u64,
    user_info: Arc<str>,
}

/// What a change means for those who look on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// A user has come whom no node had.
    Came(Member),
    /// The last node has lost a user.
    Went(Arc<str>),
    /// Newcomers are told something else about a user; nobody else hears of it.
    Changed,
}

/// A change has been missed: only a comparison helps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap;

/// One user on one node.
#[derive(Debug)]
pub struct Entry {
    /// The node.
    pub node: NodeId,
    /// See [`Change::since`].
    pub since: u64,
    /// The user.
    pub member: Member,
}

impl Present {
    fn holders(&self) -> impl Iterator<Item = &Holder> {
        std::iter::once(&self.newest).chain(&self.others)
    }

    fn put(&mut self, holder: Holder) {
        if self.newest.node == holder.node {
            self.newest = holder;
        } else {
            self.others.retain(|other| other.node != holder.node);
            self.others.push(holder);
        }
        self.find_newest();
    }

    /// False when there is no other holder.
    fn remove(&mut self, node: NodeId) -> bool {
        self.others.retain(|other| other.node != node);
        if self.newest.node == node {
            let Some(other) = self.others.pop() else { return false };
            self.newest = other;
            self.find_newest();
        }
        true
    }

    fn find_newest(&mut self) {
        for other in &mut self.others {
            if (other.since, other.node) > (self.newest.since, self.newest.node) {
                std::mem::swap(other, &mut self.newest);
            }
        }
    }
}

impl Replica {
    /// Distinct users.
    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.present.keys()
    }

    /// Their ids, and what is told about them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.present.iter().map(|(user_id, present)| (user_id, &present.newest.user_info))
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether this user is on some node.
    pub(super) fn contains(&self, user_id: &str) -> bool {
        self.present.contains_key(user_id)
    }

    /// What is told about a user.
    pub(super) fn user_info(&self, user_id: &str) -> Option<&Arc<str>> {
        self.present.get(user_id).map(|present| &present.newest.user_info)
    }

    /// The users that a node holds.
    pub(super) fn held_by(&self, node: NodeId) -> Vec<Arc<str>> {
        let held = self.present.iter().filter(|(_, present)| present.holders().any(|holder| holder.node == node));
        held.map(|(user_id, _)| Arc::clone(user_id)).collect()
    }

    /// Whether a node holds this user and no other one does.
    pub(super) fn is_held_by_alone(&self, node: NodeId, user_id: &str) -> bool {
        let present = self.present.get(user_id);
        present.is_some_and(|present| present.newest.node == node && present.others.is_empty())
    }

    /// Whether a node holds this user.
    pub(super) fn holds(&self, node: NodeId, user_id: &str) -> bool {
        self.since(node, user_id).is_some()
    }

    /// Since when a node tells what it tells about a user.
    pub(super) fn since(&self, node: NodeId, user_id: &str) -> Option<u64> {
        let present = self.present.get(user_id)?;
        present.holders().find(|holder| holder.node == node).map(|holder| holder.since)
    }

    /// What comes later than all that is known of a user.
    pub(super) fn next_since(&self, user_id: &str) -> u64 {
        self.present.get(user_id).map_or(0, |present| present.newest.since).max(self.version) + 1
    }

    /// A user came to a node, or the node tells something else about it.
    pub(super) fn add(&mut self, node: NodeId, since: u64, member: &Member) -> Option<Effect> {
        let holder = Holder { node, since, user_info: Arc::clone(&member.user_info) };
        if let Some(present) = self.present.get_mut(&member.user_id) {
            let before = Arc::clone(&present.newest.user_info);
            present.put(holder);
            return (present.newest.user_info != before).then_some(Effect::Changed);
        }
        self.present.insert(Arc::clone(&member.user_id), Present { newest: holder, others: Vec::new() });
        Some(Effect::Came(member.clone()))
    }

    /// A user left a node.
    pub(super) fn remove(&mut self, node: NodeId, user_id: &str) -> Option<Effect> {
        let present = self.present.get_mut(user_id)?;
        let before = Arc::clone(&present.newest.user_info);
        if present.remove(node) {
            return (present.newest.user_info != before).then_some(Effect::Changed);
        }
        self.present.swap_remove_entry(user_id).map(|(user_id, _)| Effect::Went(user_id))
    }

    /// Goes through a change; one that is known already has no effect.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Option<Effect>, Gap> {
        if change.version <= self.version && self.version - change.version < BEHIND_MAX {
            return Ok(None);
        }
        if change.version != self.version + 1 {
            return Err(Gap);
        }
        self.version = change.version;
        self.doubted.retain(|(node, user_id)| *node != change.node || *user_id != change.user_id);
        Ok(match &change.user_info {
            Some(user_info) => {
                let member = Member { user_id: Arc::clone(&change.user_id), user_info: Arc::clone(user_info) };
                self.add(change.node, change.since, &member)
            }
            None => self.remove(change.node, &change.user_id),
        })
    }

    /// Takes over what all nodes together hold. Who is new has come; who is missing is doubted, unless it is
    /// of `here`, which knows its own users.
    pub(super) fn compare(&mut self, version: u64, entries: &[Entry], here: NodeId) -> Vec<Effect> {
        let known: std::collections::HashSet<(NodeId, &str)> =
            entries.iter().map(|entry| (entry.node, &*entry.member.user_id)).collect();
        let missing: Vec<(NodeId, Arc<str>)> = self
            .present
            .iter()
            .flat_map(|(user_id, present)| present.holders().map(move |holder| (holder.node, Arc::clone(user_id))))
            .filter(|(node, user_id)| !known.contains(&(*node, &**user_id)))
            .collect();
        let add = |Entry { node, since, member }: &Entry| self.add(*node, *since, member);
        let mut effects: Vec<Effect> = entries.iter().filter_map(add).collect();
        let (own, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(node, _)| *node == here);
        effects.extend(own.iter().filter_map(|(node, user_id)| self.remove(*node, user_id)));
        self.doubted = others;
        self.version = version;
        effects
    }

    /// Whether somebody is doubted.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// Whoever is still doubted has left.
    pub(super) fn give_up_doubted(&mut self) -> Vec<Effect> {
        let doubted = std::mem::take(&mut self.doubted);
        doubted.iter().filter_map(|(node, user_id)| self.remove(*node, user_id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user_info: &str) -> Member {
        Member { user_id: "ada".into(), user_info: user_info.into() }
    }

    fn info(replica: &Replica) -> Option<&str> {
        replica.user_info("ada").map(|info| &**info)
    }

    #[test]
    fn of_what_several_nodes_tell_about_a_user_the_newest_holds() {
        let (mut replica, [one, two, three]) = (Replica::default(), [(); 3].map(|()| NodeId::random()));
        assert_eq!(replica.add(one, 1, &member("1")), Some(Effect::Came(member("1"))));
        assert_eq!(replica.add(two, 5, &member("5")), Some(Effect::Changed));
        // One that is heard late, and one that says the same anew.
        assert_eq!(replica.add(three, 3, &member("3")), None);
        assert_eq!((replica.add(three, 6, &member("5")), info(&replica)), (None, Some("5")));
        // The newest connection on a node has gone, and an earlier one tells something else.
        assert_eq!(replica.add(three, 2, &member("2")), None);
        assert_eq!((replica.remove(two, "ada"), info(&replica)), (Some(Effect::Changed), Some("2")));
        assert_eq!((replica.remove(three, "ada"), info(&replica)), (Some(Effect::Changed), Some("1")));
        assert_eq!((replica.remove(one, "ada"), info(&replica)), (Some(Effect::Went("ada".into())), None));
    }

    #[test]
    fn a_version_far_away_is_a_gap_in_either_direction() {
        let mut replica = Replica { version: 1 << 50, ..Replica::default() };
        let (node, user_id) = (NodeId::random(), Arc::<str>::from("ada"));
        let mut apply = |version| {
            let change = Change { by: node, version, node, since: 0, user_id: Arc::clone(&user_id), user_info: None };
            replica.apply(&change)
        };
        let version = 1 << 50;
        assert_eq!([version - 9, version, version + 1].map(&mut apply), [Ok(None), Ok(None), Ok(None)]);
        assert_eq!([version + 3, version >> 1, 1].map(&mut apply), [Err(Gap), Err(Gap), Err(Gap)]);
    }
}
