//! The members of one presence channel, with the text of their list kept ready.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::registry::replica::Effect;
use crate::registry::replica::Replica;

/// Who is on a presence channel. A user counts once, however many connections they have on it.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) replica: Replica,
    /// Users with connections on this node, those that still wait to be members included.
    pub(super) here: HashMap<Arc<str>, Here>,
    listed: Option<Listed>,
}

/// One user's connections on this node.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) user_info: Arc<str>,
    pub(super) connections: u32,
    /// One of them has joined; before that the user may still find no room.
    pub(super) admitted: bool,
    /// The order that makes the user a member, while it is under way.
    pub(super) order: Option<u64>,
}

/// `ids` and `hash` of the member list, escaped for the `data` string. Grows with each newcomer, is made
/// anew after somebody left.
#[derive(Debug, Default)]
struct Listed {
    ids: Vec<u8>,
    hash: Vec<u8>,
}

impl Members {
    /// One more connection of this user on this node.
    pub(super) fn arrive(&mut self, member: &Member) -> &mut Here {
        let here = self.here.entry(Arc::clone(&member.user_id)).or_insert_with(|| Here {
            user_info: Arc::clone(&member.user_info),
            connections: 0,
            admitted: false,
            order: None,
        });
        here.connections += 1;
        here
    }

    /// A connection of this user on this node has joined. True when it is the first one.
    pub(super) fn is_admitted_first(&mut self, user_id: &str) -> bool {
        self.here.get_mut(user_id).is_some_and(|here| !std::mem::replace(&mut here.admitted, true))
    }

    /// One connection of this user on this node less. Returns what was known of the user when it was the last one.
    pub(super) fn depart(&mut self, user_id: &str) -> Option<Here> {
        let here = self.here.get_mut(user_id)?;
        here.connections -= 1;
        if here.connections > 0 {
            return None;
        }
        self.here.remove(user_id)
    }

    /// Keeps the text of the list in step with a change.
    pub(super) fn relist(&mut self, effect: &Effect) {
        match effect {
            Effect::Came(member) => {
                if let Some(listed) = &mut self.listed {
                    listed.push(&member.user_id, &member.user_info);
                }
            }
            Effect::Went(_) => self.listed = None,
        }
    }

    /// The success frame with the current list.
    pub(super) fn succeeded(&mut self, channel: &str) -> Frame {
        let listed = self.listed.get_or_insert_with(|| {
            let mut listed = Listed::default();
            for (user_id, user_info) in self.replica.iter() {
                listed.push(user_id, user_info);
            }
            listed
        });
        event::presence_succeeded(channel, self.replica.count(), &listed.ids, &listed.hash)
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
