//! The members of a topic, as they are stored under one key. A node changes them by compare-and-set: each change has the
//! next version.
//! `records` stores them.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use indexmap::IndexSet;

use crate::cluster::member_changes::MemberChanges;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::MAGIC;
use crate::protocol::envelope::NUMBER_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::json;
use crate::protocol::identity::Member;
use crate::registry::remote::roster::RosterEntry;

/// The members of a topic on all nodes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Members {
    /// Grows by one with each change.
    pub(super) version: u64,
    entries: Vec<Entry>,
}

/// One user on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    node: NodeId,
    user_id: Arc<str>,
    /// See [`Change::since`].
    since: u64,
    user_info: Arc<str>,
}

/// The effect of some changes.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// The changes that the other nodes have to know.
    pub(super) changes: Vec<Change>,
    /// Users that do not fit.
    pub(super) refused: Vec<Arc<str>>,
    /// There was no room for further ones.
    pub(super) is_partial: bool,
}

impl Members {
    /// Nobody, at this version.
    pub(super) fn nobody(version: u64) -> Self {
        Self { version, entries: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a node has users here.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.entries.iter().any(|entry| entry.node == node)
    }

    /// Whether a node has this user here.
    pub(super) fn has_user(&self, node: NodeId, user_id: &str) -> bool {
        self.entries.iter().any(|entry| entry.node == node && *entry.user_id == *user_id)
    }

    /// The members as the registry knows them.
    pub(super) fn roster(&self) -> Vec<RosterEntry> {
        let entry = |Entry { node, user_id, since, user_info }: &Entry| {
            let member = Member { user_id: Arc::clone(user_id), user_info: Arc::clone(user_info) };
            RosterEntry { node: *node, since: *since, member }
        };
        self.entries.iter().map(entry).collect()
    }

    /// Distinct users in the order in which they came, without those of `departures` that are on one node only.
    pub(super) fn users(&self, departures: &[Arc<str>]) -> IndexSet<Arc<str>> {
        let mut users: IndexSet<Arc<str>> = self.entries.iter().map(|entry| Arc::clone(&entry.user_id)).collect();
        for user_id in departures {
            if self.entries.iter().filter(|entry| entry.user_id == *user_id).count() == 1 {
                users.shift_remove(user_id);
            }
        }
        users
    }

    /// Makes changes in their order, until those that were made take so many bytes.
    pub(super) fn apply(&mut self, changes: &MemberChanges<'_>, by: NodeId, bytes_max: usize) -> Applied {
        let (mut applied, mut bytes) = (Applied::default(), 0);
        let named: HashSet<&str> = changes.users.iter().map(|(user_id, ..)| *user_id).collect();
        let mut gone = Vec::new();
        if changes.is_complete {
            let others = self.entries.iter().filter(|entry| entry.node == changes.node);
            gone.extend(
                others.filter(|entry| !named.contains(&*entry.user_id)).map(|entry| Arc::clone(&entry.user_id)),
            );
        }
        let gone = gone.iter().map(|user_id| (&**user_id, "", None));
        for (user_id, user_info, since) in changes.users.iter().copied().chain(gone) {
            if bytes > bytes_max {
                applied.is_partial = true;
                break;
            }
            let change = match user_info {
                "" => self.remove(changes.node, user_id),
                user_info => self.add(changes, (user_id, user_info, since), &mut applied.refused),
            };
            let Some(since) = change else { continue };
            bytes += user_id.len() + user_info.len() + 64;
            let user_info = (!user_info.is_empty()).then(|| user_info.into());
            let (version, node, user_id) = (self.version, changes.node, user_id.into());
            applied.changes.push(Change { by, version, node, since, user_id, user_info });
        }
        applied
    }

    /// Returns the version since when the user counts; `None` if nothing changes.
    fn add(
        &mut self,
        changes: &MemberChanges<'_>,
        (user_id, user_info, since): (&str, &str, Option<u64>),
        refused: &mut Vec<Arc<str>>,
    ) -> Option<u64> {
        let before = self.entries.iter().position(|entry| entry.node == changes.node && *entry.user_id == *user_id);
        if let Some(entry) = before.map(|place| &self.entries[place]) {
            if *entry.user_info == *user_info && since.is_none_or(|since| since == entry.since) {
                return None;
            }
        } else if !self.entries.iter().any(|entry| *entry.user_id == *user_id) {
            let users: HashSet<&str> = self.entries.iter().map(|entry| &*entry.user_id).collect();
            if users.len() >= changes.members_max {
                refused.push(user_id.into());
                return None;
            }
        }
        self.version += 1;
        let since = since.filter(|&since| since > 0).unwrap_or(self.version);
        let entry = Entry { node: changes.node, user_id: user_id.into(), since, user_info: user_info.into() };
        match before {
            Some(place) => self.entries[place] = entry,
            None => self.entries.push(entry),
        }
        Some(since)
    }

    fn remove(&mut self, node: NodeId, user_id: &str) -> Option<u64> {
        let place = self.entries.iter().position(|entry| entry.node == node && *entry.user_id == *user_id)?;
        self.entries.remove(place);
        self.version += 1;
        Some(0)
    }

    /// The bytes that are stored.
    pub(super) fn encode(&self) -> String {
        let mut text = format!("{MAGIC}members {}\n", self.version);
        for Entry { node, user_id, since, user_info } in &self.entries {
            let (ids, infos) = (user_id.len(), user_info.len());
            writeln!(text, "{node} {since} {ids} {infos}").expect("a string takes everything");
            text.extend([&**user_id, &**user_info]);
        }
        text
    }

    /// Reads what a node has stored; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix(MAGIC)?.strip_prefix("members ")?;
        let (version, mut rest) = text.split_once('\n')?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (head, after) = rest.split_once('\n')?;
            let mut fields = head.split(' ');
            let (node, since) = (NodeId::parse(fields.next()?)?, number(fields.next()?)?);
            let (ids, infos): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (user_id, after) = after.split_at_checked(ids)?;
            let (user_info, after) = after.split_at_checked(infos)?;
            entries.push(Entry { node, user_id: user_id.into(), since, user_info: json(user_info)? });
            rest = after;
        }
        Some(Self { version: number(version)?, entries })
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&number| number <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join<'a>(node: NodeId, users: Vec<(&'a str, &'a str, Option<u64>)>) -> MemberChanges<'a> {
        MemberChanges { node, members_max: 2, is_complete: false, wants_all: false, users }
    }

    fn apply(members: &mut Members, changes: &MemberChanges<'_>) -> Applied {
        members.apply(changes, changes.node, 1 << 20)
    }

    #[test]
    fn each_change_has_the_next_version() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let mut members = Members::nobody(7);
        let applied = apply(&mut members, &join(a, vec![("u", "{}", Some(0)), ("v", "[1]", Some(0)), ("u", "", None)]));
        let versions: Vec<_> = applied.changes.iter().map(|change| (change.version, change.since)).collect();
        assert_eq!(versions, [(8, 8), (9, 9), (10, 0)]);
        // Nothing new, and a user that is here already.
        assert!(apply(&mut members, &join(a, vec![("v", "[1]", None), ("w", "", None)])).changes.is_empty());
        assert_eq!(apply(&mut members, &join(b, vec![("v", "[2]", Some(4))])).changes[0].since, 4);
        assert_eq!((members.version, members.users(&[]).len(), members.has(b)), (11, 1, true));
        assert!(members.users(&["v".into()]).contains("v"));
    }

    #[test]
    fn a_full_topic_takes_users_that_it_has() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let mut members = Members::nobody(0);
        apply(&mut members, &join(a, vec![("u", "{}", Some(0)), ("v", "{}", Some(0))]));
        let applied = apply(&mut members, &join(b, vec![("w", "{}", Some(0)), ("v", "{}", Some(0))]));
        assert_eq!((applied.changes.len(), applied.refused), (1, vec!["w".into()]));
    }

    #[test]
    fn users_of_a_node_that_are_not_named_have_left() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let mut members = Members::nobody(0);
        apply(&mut members, &join(a, vec![("u", "{}", Some(0)), ("v", "{}", Some(0))]));
        apply(&mut members, &join(b, vec![("u", "{}", Some(0))]));
        let changes = MemberChanges { is_complete: true, ..join(a, vec![("v", "{}", None)]) };
        assert_eq!(apply(&mut members, &changes).changes.len(), 1);
        assert_eq!(apply(&mut members, &MemberChanges::nobody(b)).changes.len(), 1);
        assert_eq!(members.users(&[]), IndexSet::from(["v".into()]));
        assert!(members.users(&["v".into()]).is_empty());
    }

    #[test]
    fn many_changes_are_made_in_parts() {
        let a = NodeId::random();
        let mut members = Members::nobody(0);
        let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let users = names.iter().map(|name| (&**name, "{}", None)).collect();
        let changes = MemberChanges { members_max: 1000, ..join(a, users) };
        let mut parts = Vec::new();
        loop {
            let applied = members.apply(&changes, a, 1000);
            parts.push(applied.changes.len());
            if !applied.is_partial {
                break;
            }
        }
        assert!(parts.len() > 3 && parts.iter().sum::<usize>() == 100, "{parts:?}");
    }

    #[test]
    fn only_what_a_node_has_stored_is_read() {
        let a = NodeId::random();
        let mut members = Members::nobody(5);
        apply(&mut members, &join(a, vec![("ü\n1 2", r#"{"a":"ö"}"#, Some(0)), ("v", "1", Some(0))]));
        let stored = members.encode();
        assert_eq!(Members::decode(stored.as_bytes()), Some(members));
        assert_eq!(Members::decode(b"gema/1 members 9\n"), Some(Members::nobody(9)));
        for end in 1..stored.len() {
            assert_eq!(Members::decode(&stored.as_bytes()[..end]).filter(|read| read.entries.len() > 1), None, "{end}");
        }
        for foreign in ["", "gema/2 members 1\n", "gema/1 members -1\n", "gema/1 members 1\nx 1 1 1\nab"] {
            assert_eq!(Members::decode(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
