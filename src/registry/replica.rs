//! Who is on a topic, on whichever node. Every change has a version, one more than the one before it, so each
//! node goes through the same changes in the same order, and notices when it has missed one.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::identity::Member;

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
    user_info: Arc<str>,
    holders: Vec<NodeId>,
}

/// What a change means for those who look on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// A user has come whom no node had.
    Came(Member),
    /// The last node has lost a user.
    Went(Arc<str>),
}

/// A change has been missed: only a comparison helps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap;

/// One user on one node.
pub type Entry = (NodeId, Member);

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
        self.present.iter().map(|(user_id, present)| (user_id, &present.user_info))
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether this user is on some node.
    pub(super) fn contains(&self, user_id: &str) -> bool {
        self.present.contains_key(user_id)
    }

    /// The users that a node holds.
    pub(super) fn held_by(&self, node: NodeId) -> Vec<Arc<str>> {
        let held = self.present.iter().filter(|(_, present)| present.holders.contains(&node));
        held.map(|(user_id, _)| Arc::clone(user_id)).collect()
    }

    /// Whether a node holds this user.
    pub(super) fn holds(&self, node: NodeId, user_id: &str) -> bool {
        self.present.get(user_id).is_some_and(|present| present.holders.contains(&node))
    }

    /// A user came to a node.
    pub(super) fn add(&mut self, node: NodeId, member: &Member) -> Option<Effect> {
        if let Some(present) = self.present.get_mut(&member.user_id) {
            if !present.holders.contains(&node) {
                present.holders.push(node);
            }
            return None;
        }
        let present = Present { user_info: Arc::clone(&member.user_info), holders: vec![node] };
        self.present.insert(Arc::clone(&member.user_id), present);
        Some(Effect::Came(member.clone()))
    }

    /// A user left a node.
    pub(super) fn remove(&mut self, node: NodeId, user_id: &str) -> Option<Effect> {
        let present = self.present.get_mut(user_id)?;
        present.holders.retain(|holder| *holder != node);
        if !present.holders.is_empty() {
            return None;
        }
        self.present.swap_remove_entry(user_id).map(|(user_id, _)| Effect::Went(user_id))
    }

    /// Goes through a change; one that is known already has no effect.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Option<Effect>, Gap> {
        if change.version <= self.version {
            return Ok(None);
        }
        if change.version - 1 != self.version {
            return Err(Gap);
        }
        self.version = change.version;
        self.doubted.retain(|(node, user_id)| *node != change.node || *user_id != change.user_id);
        Ok(match &change.user_info {
            Some(user_info) => {
                let member = Member { user_id: Arc::clone(&change.user_id), user_info: Arc::clone(user_info) };
                self.add(change.node, &member)
            }
            None => self.remove(change.node, &change.user_id),
        })
    }

    /// Takes over what all nodes together hold. Who is new has come; who is missing is doubted, unless it is
    /// of `here`, which knows its own users.
    pub(super) fn compare(&mut self, version: u64, entries: &[Entry], here: NodeId) -> Vec<Effect> {
        let known: std::collections::HashSet<(NodeId, &str)> =
            entries.iter().map(|(node, member)| (*node, &*member.user_id)).collect();
        let missing: Vec<(NodeId, Arc<str>)> = self
            .present
            .iter()
            .flat_map(|(user_id, present)| present.holders.iter().map(move |&node| (node, Arc::clone(user_id))))
            .filter(|(node, user_id)| !known.contains(&(*node, &**user_id)))
            .collect();
        let mut effects: Vec<Effect> = entries.iter().filter_map(|(node, member)| self.add(*node, member)).collect();
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
