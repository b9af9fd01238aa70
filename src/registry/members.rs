//! The members of one presence channel, with the text of their list kept ready.

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

/// Who is on a presence channel. A user counts once, however many connections they have on it.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) roster: Roster,
    /// Users with connections on this node, those that still wait to be members included.
    pub(super) here: HashMap<Arc<str>, Here>,
    /// Users that this node holds although none of their connections is here: the others have not heard of it yet.
    left: HashSet<Arc<str>>,
    listed: Option<Listed>,
}

/// One user's connections on this node.
#[derive(Debug)]
pub(super) struct Here {
    /// What these tell about the user holds.
    newest: Run,
    /// The earlier ones, oldest first.
    before: Vec<Run>,
    /// One of them has joined; before that the user may still find no room.
    pub(super) admitted: bool,
    /// The last order that makes the user a member, or tells something else about it, while it is under way.
    pub(super) order: Option<u64>,
}

/// Connections that have come one after the other and tell the same about their user.
#[derive(Debug)]
struct Run {
    user_info: Arc<str>,
    /// See [`crate::protocol::envelope::Change::since`]; 0 while the others do not know it.
    since: u64,
    /// The order that tells the others; 0 for none.
    order: u64,
    connections: HashSet<Address>,
}

/// What the end of a connection means for its user.
#[derive(Debug)]
pub(super) enum Departed {
    /// It was the last one here.
    Last(Here),
    /// From now on something else is told about the user.
    Changed,
    /// Nothing.
    Same,
}

impl Run {
    fn new(user_info: &Arc<str>, address: Address) -> Self {
        Self { user_info: Arc::clone(user_info), since: 0, order: 0, connections: HashSet::from([address]) }
    }
}

impl Here {
    fn new(member: &Member, address: Address) -> Self {
        let newest = Run::new(&member.user_info, address);
        Self { newest, before: Vec::new(), admitted: false, order: None }
    }

    /// What is told about the user, and since when; 0 while the others do not know it.
    pub(super) fn tells(&self) -> (&Arc<str>, u64) {
        (&self.newest.user_info, self.newest.since)
    }

    /// This order tells it to the others.
    pub(super) fn ordered(&mut self, number: u64) {
        self.order = Some(number);
        self.newest.order = number;
    }

    /// The others know what the order of this number has told.
    pub(super) fn told(&mut self, order: u64, since: u64) {
        let runs = self.before.iter_mut().chain([&mut self.newest]);
        for run in runs.filter(|run| run.order == order && run.since == 0) {
            run.since = since;
        }
    }
}

/// `ids` and `hash` of the member list, escaped for the `data` string. Grows with each newcomer, is made
/// anew after somebody left.
#[derive(Debug, Default)]
struct Listed {
    ids: Vec<u8>,
    hash: Vec<u8>,
}

impl Members {
    /// One more connection of this user on this node. Returns whether it tells anything new.
    pub(super) fn arrive(&mut self, member: &Member, address: Address) -> bool {
        self.left.remove(&member.user_id);
        let here = match self.here.entry(Arc::clone(&member.user_id)) {
            Entry::Vacant(place) => {
                place.insert(Here::new(member, address));
                return true;
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        let known = self.roster.user_info(&member.user_id);
        // What is on its way to the others will be the newest there.
        let holds = here.order.is_some() || known.is_none_or(|known| *known == member.user_info);
        if holds && here.newest.user_info == member.user_info {
            here.newest.connections.insert(address);
            return false;
        }
        let before = std::mem::replace(&mut here.newest, Run::new(&member.user_info, address));
        here.before.push(before);
        true
    }

    /// What this node tells about a user counts, without the others.
    pub(super) fn place(&mut self, node: NodeId, user_id: &str) -> Option<Effect> {
        let (user_id, _) = self.here.get_key_value(user_id)?;
        let user_id = Arc::clone(user_id);
        let newest = &mut self.here.get_mut(&user_id)?.newest;
        if newest.since == 0 {
            newest.since = self.roster.next_since(&user_id);
        }
        let member = Member { user_id, user_info: Arc::clone(&newest.user_info) };
        self.roster.add(node, newest.since, &member)
    }

    /// The others know this about a user here.
    pub(super) fn is_known(&mut self, member: &Member, since: u64) {
        if let Some(here) = self.here.get_mut(&member.user_id)
            && here.newest.since == 0
            && here.newest.user_info == member.user_info
        {
            here.newest.since = since;
        }
    }

    /// Users that have left this node, and that no other one has, while the others have not heard of it.
    pub(super) fn pending_departures(&self, node: NodeId) -> Vec<Arc<str>> {
        self.left.iter().filter(|user_id| self.roster.is_only_on(node, user_id)).cloned().collect()
    }

    /// Whether this node holds a user, or has connections of it, may have changed. Call it after whatever changes that.
    pub(super) fn note_left(&mut self, node: NodeId, user_id: &str) {
        if self.roster.is_on(node, user_id) && !self.here.contains_key(user_id) {
            self.left.insert(user_id.into());
        } else {
            self.left.remove(user_id);
        }
    }

    /// Same as [`Self::note_left`], but for all users of a node.
    pub(super) fn note_all_left(&mut self, node: NodeId) {
        let held = self.roster.users_on(node).into_iter();
        self.left = held.filter(|user_id| !self.here.contains_key(user_id)).collect();
    }

    /// A connection of this user on this node has joined. True when it is the first one.
    pub(super) fn is_admitted_first(&mut self, user_id: &str) -> bool {
        self.here.get_mut(user_id).is_some_and(|here| !std::mem::replace(&mut here.admitted, true))
    }

    /// One connection of this user on this node less.
    pub(super) fn depart(&mut self, node: NodeId, user_id: &str, address: Address) -> Departed {
        let departed = self.take(user_id, address);
        if matches!(departed, Departed::Last(_)) {
            self.note_left(node, user_id);
        }
        departed
    }

    fn take(&mut self, user_id: &str, address: Address) -> Departed {
        let Some(here) = self.here.get_mut(user_id) else { return Departed::Same };
        if !here.newest.connections.remove(&address) {
            let run = here.before.iter_mut().rposition(|run| run.connections.remove(&address));
            if let Some(run) = run.filter(|&run| here.before[run].connections.is_empty()) {
                here.before.remove(run);
            }
            return Departed::Same;
        }
        if !here.newest.connections.is_empty() {
            return Departed::Same;
        }
        match here.before.pop() {
            Some(before) => {
                here.newest = before;
                Departed::Changed
            }
            None => self.here.remove(user_id).map_or(Departed::Same, Departed::Last),
        }
    }

    /// Keeps the text of the list in step with a change.
    pub(super) fn relist(&mut self, effect: &Effect) {
        match effect {
            Effect::Added(member) => {
                if let Some(listed) = &mut self.listed {
                    listed.push(&member.user_id, &member.user_info);
                }
            }
            Effect::Removed(_) | Effect::Changed => self.listed = None,
        }
    }

    /// The success frame with the current list.
    pub(super) fn succeeded(&mut self, channel: &str) -> Frame {
        let listed = self.listed.get_or_insert_with(|| {
            let mut listed = Listed::default();
            for (user_id, user_info) in self.roster.iter() {
                listed.push(user_id, user_info);
            }
            listed
        });
        event::presence_succeeded(channel, self.roster.count(), &listed.ids, &listed.hash)
    }
}

impl Listed {
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
    fn who_has_left_is_known_until_the_others_have_heard_of_it() {
        let [here, there] = [(); 2].map(|()| NodeId::random());
        let slot = crate::registry::address::Slot { index: 0, generation: 0 };
        let (mut members, address) = (Members::default(), Address { shard: 0, slot });
        let member = Member { user_id: "ada".into(), user_info: "1".into() };
        let ada = || vec![Arc::clone(&member.user_id)];
        members.arrive(&member, address);
        members.place(here, "ada");
        assert_eq!(members.pending_departures(here), Vec::<Arc<str>>::new());
        members.depart(here, "ada", address);
        assert_eq!(members.pending_departures(here), ada());
        // It is on another node, too, and then no longer.
        members.roster.add(there, 1, &member);
        assert!(members.pending_departures(here).is_empty());
        members.roster.remove(there, "ada");
        assert_eq!(members.pending_departures(here), ada());
        // It comes back and leaves again, until the change passes by.
        members.arrive(&member, address);
        assert!(members.pending_departures(here).is_empty());
        members.depart(here, "ada", address);
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
        members.note_left(here, "ada");
        assert!(members.pending_departures(here).is_empty() && members.left.is_empty());
        // A comparison says that it is still here.
        let known = Known { node: here, since: 1, member: member.clone() };
        members.roster.merge(2, &[known], here);
        members.note_all_left(here);
        assert_eq!(members.pending_departures(here), ada());
    }
}
