//! The members of one presence channel, and the text of their list. `channel` changes them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::protocol::envelope::NodeId;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::registry::address::Address;
use crate::registry::remote::roster::Effect;
use crate::registry::remote::roster::Roster;

/// The members of a presence channel. A user counts once, with any number of connections.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) roster: Roster,
    /// Users with connections on this node, including those that wait to join.
    pub(super) local: HashMap<Arc<str>, LocalUser>,
    /// Users of this node in the roster without connections here: their removal is on its way.
    departing: HashSet<Arc<str>>,
    list: Option<MemberList>,
}

/// One user's connections on this node.
#[derive(Debug)]
pub(super) struct LocalUser {
    /// The newest connections, whose `user_info` counts.
    newest: SameInfo,
    /// Earlier connections, oldest first.
    earlier: Vec<SameInfo>,
    /// One of the connections has joined. Before that, the user may still be refused.
    pub(super) admitted: bool,
    /// The last update that adds the user or changes its `user_info`, while it is in flight.
    pub(super) update: Option<u64>,
}

/// Successive connections of a user with the same `user_info`.
#[derive(Debug)]
struct SameInfo {
    user_info: Arc<str>,
    /// See [`crate::protocol::envelope::Change::since`]; 0 before it is in the roster.
    since: u64,
    /// The update that brings it into the roster; 0 for none.
    update: u64,
    connections: HashSet<Address>,
}

/// The effect of a connection's end on its user.
#[derive(Debug)]
pub(super) enum Departure {
    /// It was the last connection here.
    User(LocalUser),
    /// Another `user_info` counts.
    Info,
    /// None.
    Unchanged,
}

impl SameInfo {
    fn new(user_info: &Arc<str>, address: Address) -> Self {
        Self { user_info: Arc::clone(user_info), since: 0, update: 0, connections: HashSet::from([address]) }
    }
}

impl LocalUser {
    /// The user's `user_info` and its version, which is 0 before it is in the roster.
    pub(super) fn info(&self) -> (&Arc<str>, u64) {
        (&self.newest.user_info, self.newest.since)
    }

    /// The update of this number brings the newest `user_info` into the roster.
    pub(super) fn on_update(&mut self, number: u64) {
        self.update = Some(number);
        self.newest.update = number;
    }

    /// The roster has the update of this number since this version.
    pub(super) fn on_updated(&mut self, number: u64, since: u64) {
        let all = self.earlier.iter_mut().chain([&mut self.newest]);
        for same in all.filter(|same| same.update == number && same.since == 0) {
            same.since = since;
        }
    }
}

/// `ids` and `hash` of the member list, escaped for the `data` string. Grows with each new member, and is made anew after
/// a member left.
#[derive(Debug, Default)]
struct MemberList {
    ids: Vec<u8>,
    hash: Vec<u8>,
}

impl Members {
    /// Adds a connection of a user on this node. Returns whether the roster has to change.
    pub(super) fn add(&mut self, member: &Member, address: Address) -> bool {
        self.departing.remove(&member.user_id);
        let local = match self.local.entry(Arc::clone(&member.user_id)) {
            Entry::Vacant(place) => {
                let newest = SameInfo::new(&member.user_info, address);
                place.insert(LocalUser { newest, earlier: Vec::new(), admitted: false, update: None });
                return true;
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        let known = self.roster.user_info(&member.user_id);
        // The `user_info` of an update in flight will be the newest.
        let counts = local.update.is_some() || known.is_none_or(|known| *known == member.user_info);
        if counts && local.newest.user_info == member.user_info {
            local.newest.connections.insert(address);
            return false;
        }
        let earlier = std::mem::replace(&mut local.newest, SameInfo::new(&member.user_info, address));
        local.earlier.push(earlier);
        true
    }

    /// Adds a local user to the roster without the other nodes, or changes its `user_info` there.
    pub(super) fn update_roster(&mut self, node: NodeId, user_id: &str) -> Option<Effect> {
        let (user_id, _) = self.local.get_key_value(user_id)?;
        let user_id = Arc::clone(user_id);
        let newest = &mut self.local.get_mut(&user_id)?.newest;
        if newest.since == 0 {
            newest.since = self.roster.next_since(&user_id);
        }
        let member = Member { user_id, user_info: Arc::clone(&newest.user_info) };
        self.roster.add(node, newest.since, &member)
    }

    /// The roster has a user of this node since this version.
    pub(super) fn on_snapshot(&mut self, member: &Member, since: u64) {
        if let Some(local) = self.local.get_mut(&member.user_id)
            && local.newest.since == 0
            && local.newest.user_info == member.user_info
        {
            local.newest.since = since;
        }
    }

    /// Users that left this node and are on no other node, while their removal is on its way.
    pub(super) fn pending_departures(&self, node: NodeId) -> Vec<Arc<str>> {
        self.departing.iter().filter(|user_id| self.roster.is_only_on(node, user_id)).cloned().collect()
    }

    /// Call this after each change of a user's connections here or of the user's place in the roster.
    pub(super) fn check_departing(&mut self, node: NodeId, user_id: &str) {
        if self.roster.is_on(node, user_id) && !self.local.contains_key(user_id) {
            self.departing.insert(user_id.into());
        } else {
            self.departing.remove(user_id);
        }
    }

    /// Like [`Self::check_departing`], for all users of a node.
    pub(super) fn check_all_departing(&mut self, node: NodeId) {
        let users = self.roster.users_on(node).into_iter();
        self.departing = users.filter(|user_id| !self.local.contains_key(user_id)).collect();
    }

    /// A connection of a user has joined. Returns whether it is the first one here.
    pub(super) fn is_admitted_first(&mut self, user_id: &str) -> bool {
        self.local.get_mut(user_id).is_some_and(|local| !std::mem::replace(&mut local.admitted, true))
    }

    /// Removes a connection of a user on this node.
    pub(super) fn remove(&mut self, node: NodeId, user_id: &str, address: Address) -> Departure {
        let departure = self.remove_connection(user_id, address);
        if matches!(departure, Departure::User(_)) {
            self.check_departing(node, user_id);
        }
        departure
    }

    fn remove_connection(&mut self, user_id: &str, address: Address) -> Departure {
        let Some(local) = self.local.get_mut(user_id) else { return Departure::Unchanged };
        if !local.newest.connections.remove(&address) {
            let found = local.earlier.iter_mut().rposition(|same| same.connections.remove(&address));
            if let Some(empty) = found.filter(|&found| local.earlier[found].connections.is_empty()) {
                local.earlier.remove(empty);
            }
            return Departure::Unchanged;
        }
        if !local.newest.connections.is_empty() {
            return Departure::Unchanged;
        }
        match local.earlier.pop() {
            Some(earlier) => {
                local.newest = earlier;
                Departure::Info
            }
            None => self.local.remove(user_id).map_or(Departure::Unchanged, Departure::User),
        }
    }

    /// Updates the text of the list after a change of the roster.
    pub(super) fn update_list(&mut self, effect: &Effect) {
        match effect {
            Effect::Added(member) => {
                if let Some(list) = &mut self.list {
                    list.push(&member.user_id, &member.user_info);
                }
            }
            Effect::Removed(_) | Effect::Changed => self.list = None,
        }
    }

    /// The frame that answers a joiner, with the list.
    pub(super) fn succeeded(&mut self, channel: &str) -> Frame {
        let list = self.list.get_or_insert_with(|| {
            let mut list = MemberList::default();
            for (user_id, user_info) in self.roster.iter() {
                list.push(user_id, user_info);
            }
            list
        });
        event::presence_succeeded(channel, self.roster.count(), &list.ids, &list.hash)
    }
}

impl MemberList {
    fn push(&mut self, user_id: &str, user_info: &str) {
        let separator: &[u8] = if self.ids.is_empty() { b"" } else { b"," };
        self.ids.extend_from_slice(separator);
        self.hash.extend_from_slice(separator);
        let id = serde_json::Value::from(user_id).to_string();
        escape(&mut self.ids, &id);
        escape(&mut self.hash, &id);
        self.hash.push(b':');
        escape(&mut self.hash, user_info);
    }
}

/// `json` as it stands inside a JSON string.
fn escape(out: &mut Vec<u8>, json: &str) {
    let quoted = serde_json::Value::from(json).to_string();
    out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::Change;
    use crate::registry::remote::roster::RosterEntry as Known;

    #[test]
    fn a_departure_is_pending_until_its_removal_has_come() {
        let [here, there] = [(); 2].map(|()| NodeId::random());
        let slot = crate::registry::address::Slot::default();
        let (mut members, address) = (Members::default(), Address { shard: 0, slot });
        let member = Member { user_id: "ada".into(), user_info: "1".into() };
        let ada = || vec![Arc::clone(&member.user_id)];
        members.add(&member, address);
        members.update_roster(here, "ada");
        assert_eq!(members.pending_departures(here), Vec::<Arc<str>>::new());
        members.remove(here, "ada", address);
        assert_eq!(members.pending_departures(here), ada());
        // It is on another node, too, and then no longer.
        members.roster.add(there, 1, &member);
        assert!(members.pending_departures(here).is_empty());
        members.roster.remove(there, "ada");
        assert_eq!(members.pending_departures(here), ada());
        // It comes back and leaves again, until the change passes by.
        members.add(&member, address);
        assert!(members.pending_departures(here).is_empty());
        members.remove(here, "ada", address);
        assert_eq!(members.pending_departures(here), ada());
        let change = Change {
            by: here,
            version: 1,
            node: here,
            since: 0,
            user_id: Arc::clone(&member.user_id),
            user_info: None,
        };
        members.roster.apply(&change).unwrap();
        members.check_departing(here, "ada");
        assert!(members.pending_departures(here).is_empty() && members.departing.is_empty());
        // A snapshot has it on this node.
        let known = Known { node: here, since: 1, member: member.clone() };
        members.roster.merge(2, &[known], here);
        members.check_all_departing(here);
        assert_eq!(members.pending_departures(here), ada());
    }
}
