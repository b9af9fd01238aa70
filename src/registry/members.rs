//! The members of one presence channel, with the text of their list kept ready.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;

/// Who is on a presence channel. A user counts once, however many connections they have on it.
#[derive(Debug, Default)]
pub(super) struct Members {
    present: IndexMap<Arc<str>, Present>,
    listed: Option<Listed>,
}

#[derive(Debug)]
struct Present {
    user_info: Arc<str>,
    connections: u32,
}

/// `ids` and `hash` of the member list, escaped for the `data` string. Grows with each newcomer, is made
/// anew after somebody left.
#[derive(Debug, Default)]
struct Listed {
    ids: Vec<u8>,
    hash: Vec<u8>,
}

impl Members {
    /// Distinct users.
    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.present.keys()
    }

    /// Whether this user is here already.
    pub(super) fn contains(&self, user_id: &str) -> bool {
        self.present.contains_key(user_id)
    }

    /// One more connection of this user. True when it is their first.
    pub(super) fn join(&mut self, member: &Member) -> bool {
        if let Some(present) = self.present.get_mut(&member.user_id) {
            present.connections += 1;
            return false;
        }
        if let Some(listed) = &mut self.listed {
            listed.push(&member.user_id, &member.user_info);
        }
        let present = Present { user_info: Arc::clone(&member.user_info), connections: 1 };
        self.present.insert(Arc::clone(&member.user_id), present);
        true
    }

    /// One connection of this user less. True when it was their last.
    pub(super) fn leave(&mut self, user_id: &str) -> bool {
        let Some(present) = self.present.get_mut(user_id) else { return false };
        present.connections -= 1;
        if present.connections > 0 {
            return false;
        }
        self.present.swap_remove(user_id);
        self.listed = None;
        true
    }

    /// The success frame with the current list.
    pub(super) fn succeeded(&mut self, channel: &str) -> Frame {
        let listed = self.listed.get_or_insert_with(|| {
            let mut listed = Listed::default();
            for (user_id, present) in &self.present {
                listed.push(user_id, &present.user_info);
            }
            listed
        });
        event::presence_succeeded(channel, self.present.len(), &listed.ids, &listed.hash)
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
