//! Changes of one node's users on a topic, which are made at once.
//! The buses carry them out.

use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::message::LocalTopic;

/// Changes of one node's users on a topic, made at once.
#[derive(Debug)]
pub(super) struct MemberChanges<'a> {
    pub(super) node: NodeId,
    pub(super) members_max: usize,
    /// All other users of the node have left.
    pub(super) is_complete: bool,
    /// Whether to answer with all members of the topic.
    pub(super) wants_all: bool,
    pub(super) users: Vec<UserChange<'a>>,
}

/// A user, its `user_info`, which is empty for one that leaves, and the version since when it counts: 0 for a new one,
/// `None` when it may be there already.
pub(super) type UserChange<'a> = (&'a str, &'a str, Option<u64>);

impl<'a> MemberChanges<'a> {
    /// Everything that a node has on a topic; the answer is to have all members.
    pub(super) fn all(node: NodeId, local: &'a LocalTopic) -> Self {
        let known = |since: u64| (since > 0).then_some(since);
        let users = local.members.iter().map(|(user, since)| (&*user.user_id, &*user.user_info, known(*since)));
        Self { node, members_max: local.members_max, is_complete: true, wants_all: true, users: users.collect() }
    }

    /// The updates of a topic, one after the other.
    pub(super) fn updates(node: NodeId, topic: &Topic, updates: &[&'a MemberUpdate]) -> Self {
        let user = |update: &&'a MemberUpdate| {
            let info = update.user_info.as_deref().unwrap_or_default();
            // A signed-in user has no `user_info`, so nothing about it can be newer.
            (&*update.user_id, info, matches!(topic, Topic::Channel(_)).then_some(update.since))
        };
        // A user that leaves names no bound.
        let members_max = updates.iter().map(|update| update.members_max).max().unwrap_or_default();
        Self { node, members_max, is_complete: false, wants_all: false, users: updates.iter().map(user).collect() }
    }

    /// The users of a node leave, all of them.
    pub(super) fn nobody(node: NodeId) -> Self {
        Self { node, members_max: 0, is_complete: true, wants_all: false, users: Vec::new() }
    }
}
