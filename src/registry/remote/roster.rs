//! The roster: the users on a topic and their nodes. Each change has the next version, so all nodes apply the same
//! changes in the same order, and notice a gap. Presence channels and watched users have one `Roster` each.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::identity::Member;

/// A change that is so many versions old is not merely late: Redis has begun to count anew, or the version is not ours.
/// More than the changes on their way from Redis at any time.
const BEHIND_MAX: u64 = 1 << 20;

/// Users, and the nodes that their connections are on.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    present: IndexMap<Arc<str>, UserEntry>,
    version: u64,
    /// The last snapshot says that nobody was there: the next change may have any version.
    takes_any_version: bool,
    /// Users that the last snapshot lacks although no change has removed them. Their node may not be back yet.
    unconfirmed: Vec<(NodeId, Arc<str>)>,
}

#[derive(Debug)]
struct UserEntry {
    /// Its `user_info` is the user's.
    newest: Holder,
    others: Vec<Holder>,
}

/// A node that has connections of a user.
#[derive(Debug)]
struct Holder {
    node: NodeId,
    /// Grows with each `user_info` of the user, on all nodes: see [`Change::since`].
    since: u64,
    user_info: Arc<str>,
}

/// The effect of a change on the roster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A user that was on no node.
    Added(Member),
    /// A user has left the last node.
    Removed(Arc<str>),
    /// A user has another `user_info`, which only new members get.
    Changed,
}

/// A change is missing, so the topic must be opened again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gap;

/// One user on one node.
#[derive(Debug)]
pub struct RosterEntry {
    /// The node.
    pub node: NodeId,
    /// See [`Change::since`].
    pub since: u64,
    /// The user.
    pub member: Member,
}

impl UserEntry {
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

impl Roster {
    /// Distinct users.
    pub(crate) fn count(&self) -> usize {
        self.present.len()
    }

    /// Their ids and `user_info`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.present.iter().map(|(user_id, present)| (user_id, &present.newest.user_info))
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether the user is on any node.
    pub(crate) fn contains(&self, user_id: &str) -> bool {
        self.present.contains_key(user_id)
    }

    /// The `user_info` of a user.
    pub(crate) fn user_info(&self, user_id: &str) -> Option<&Arc<str>> {
        self.present.get(user_id).map(|present| &present.newest.user_info)
    }

    /// The users on a node.
    pub(crate) fn users_on(&self, node: NodeId) -> Vec<Arc<str>> {
        let users = self.present.iter().filter(|(_, present)| present.holders().any(|holder| holder.node == node));
        users.map(|(user_id, _)| Arc::clone(user_id)).collect()
    }

    /// Whether the user is on this node only.
    pub(crate) fn is_only_on(&self, node: NodeId, user_id: &str) -> bool {
        let present = self.present.get(user_id);
        present.is_some_and(|present| present.newest.node == node && present.others.is_empty())
    }

    /// Whether the user is on this node.
    pub(crate) fn is_on(&self, node: NodeId, user_id: &str) -> bool {
        self.since(node, user_id).is_some()
    }

    /// The version of the user's `user_info` on a node.
    pub(crate) fn since(&self, node: NodeId, user_id: &str) -> Option<u64> {
        let present = self.present.get(user_id)?;
        present.holders().find(|holder| holder.node == node).map(|holder| holder.since)
    }

    /// A version after all versions of a user's `user_info`.
    pub(crate) fn next_since(&self, user_id: &str) -> u64 {
        self.present.get(user_id).map_or(0, |present| present.newest.since).max(self.version) + 1
    }

    /// Adds a user to a node, or changes its `user_info` there.
    pub(crate) fn add(&mut self, node: NodeId, since: u64, member: &Member) -> Option<Effect> {
        let holder = Holder { node, since, user_info: Arc::clone(&member.user_info) };
        if let Some(present) = self.present.get_mut(&member.user_id) {
            let before = Arc::clone(&present.newest.user_info);
            present.put(holder);
            return (present.newest.user_info != before).then_some(Effect::Changed);
        }
        self.present.insert(Arc::clone(&member.user_id), UserEntry { newest: holder, others: Vec::new() });
        Some(Effect::Added(member.clone()))
    }

    /// Removes a user from a node.
    pub(crate) fn remove(&mut self, node: NodeId, user_id: &str) -> Option<Effect> {
        let present = self.present.get_mut(user_id)?;
        let before = Arc::clone(&present.newest.user_info);
        if present.remove(node) {
            return (present.newest.user_info != before).then_some(Effect::Changed);
        }
        self.present.swap_remove_entry(user_id).map(|(user_id, _)| Effect::Removed(user_id))
    }

    /// Applies a change; an old one has no effect.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<Option<Effect>, Gap> {
        if !self.takes_any_version {
            if change.version <= self.version && self.version - change.version < BEHIND_MAX {
                return Ok(None);
            }
            if change.version != self.version + 1 {
                return Err(Gap);
            }
        }
        (self.version, self.takes_any_version) = (change.version, false);
        self.unconfirmed.retain(|(node, user_id)| *node != change.node || *user_id != change.user_id);
        Ok(match &change.user_info {
            Some(user_info) => {
                let member = Member { user_id: Arc::clone(&change.user_id), user_info: Arc::clone(user_info) };
                self.add(change.node, change.since, &member)
            }
            None => self.remove(change.node, &change.user_id),
        })
    }

    /// Merges a snapshot. Missing users become unconfirmed; those of `local`, this node, are removed.
    pub(crate) fn merge(&mut self, version: u64, entries: &[RosterEntry], local: NodeId) -> Vec<Effect> {
        let known: std::collections::HashSet<(NodeId, &str)> =
            entries.iter().map(|entry| (entry.node, &*entry.member.user_id)).collect();
        let missing: Vec<(NodeId, Arc<str>)> = self
            .present
            .iter()
            .flat_map(|(user_id, present)| present.holders().map(move |holder| (holder.node, Arc::clone(user_id))))
            .filter(|(node, user_id)| !known.contains(&(*node, &**user_id)))
            .collect();
        let add = |RosterEntry { node, since, member }: &RosterEntry| self.add(*node, *since, member);
        let mut effects: Vec<Effect> = entries.iter().filter_map(add).collect();
        let (own, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(node, _)| *node == local);
        effects.extend(own.iter().filter_map(|(node, user_id)| self.remove(*node, user_id)));
        self.unconfirmed = others;
        (self.version, self.takes_any_version) = (version, version == 0);
        effects
    }

    /// Whether some users are unconfirmed.
    pub(crate) fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Removes the users that are still unconfirmed.
    pub(crate) fn remove_unconfirmed(&mut self) -> Vec<Effect> {
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        unconfirmed.iter().filter_map(|(node, user_id)| self.remove(*node, user_id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user_info: &str) -> Member {
        Member { user_id: "ada".into(), user_info: user_info.into() }
    }

    fn info(roster: &Roster) -> Option<&str> {
        roster.user_info("ada").map(|info| &**info)
    }

    #[test]
    fn the_newest_user_info_counts() {
        let (mut roster, [one, two, three]) = (Roster::default(), [(); 3].map(|()| NodeId::random()));
        assert_eq!(roster.add(one, 1, &member("1")), Some(Effect::Added(member("1"))));
        assert_eq!(roster.add(two, 5, &member("5")), Some(Effect::Changed));
        // A late one, and one with the same `user_info`.
        assert_eq!(roster.add(three, 3, &member("3")), None);
        assert_eq!((roster.add(three, 6, &member("5")), info(&roster)), (None, Some("5")));
        // The newest connection on a node has gone, and an earlier one has another `user_info`.
        assert_eq!(roster.add(three, 2, &member("2")), None);
        assert_eq!((roster.remove(two, "ada"), info(&roster)), (Some(Effect::Changed), Some("2")));
        assert_eq!((roster.remove(three, "ada"), info(&roster)), (Some(Effect::Changed), Some("1")));
        assert_eq!((roster.remove(one, "ada"), info(&roster)), (Some(Effect::Removed("ada".into())), None));
    }

    #[test]
    fn whichever_change_is_the_first_of_a_topic_counts() {
        let (mut roster, node) = (Roster::default(), NodeId::random());
        roster.add(node, 1, &member("1"));
        let user_info = Some("1".into());
        let change = Change { by: node, version: 1 << 40, node, since: 1, user_id: "ada".into(), user_info };
        // There was no snapshot yet.
        assert_eq!(roster.apply(&change), Err(Gap));
        // Nobody has a record of the topic.
        assert_eq!(roster.merge(0, &[], NodeId::random()), []);
        assert_eq!((roster.apply(&change), roster.has_unconfirmed()), (Ok(None), false));
        assert_eq!(roster.apply(&Change { version: (1 << 40) + 2, ..change }), Err(Gap));
    }

    #[test]
    fn a_version_far_away_is_a_gap_in_either_direction() {
        let mut roster = Roster { version: 1 << 50, ..Roster::default() };
        let (node, user_id) = (NodeId::random(), Arc::<str>::from("ada"));
        let mut apply = |version| {
            let change = Change { by: node, version, node, since: 0, user_id: Arc::clone(&user_id), user_info: None };
            roster.apply(&change)
        };
        let version = 1 << 50;
        assert_eq!([version - 9, version, version + 1].map(&mut apply), [Ok(None), Ok(None), Ok(None)]);
        assert_eq!([version + 3, version >> 1, 1].map(&mut apply), [Err(Gap), Err(Gap), Err(Gap)]);
    }
}
