//! Which events of other nodes have been heard.

use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::registry::outgoing::ROUND_ORDERS_MAX;

/// After a lost link a node sends again what was on its way, which is one round. A number that lies further back is new:
/// somebody else has used a greater one under the node's name.
const AGAIN_MAX: u64 = 2 * ROUND_ORDERS_MAX as u64;

/// The last event of each other node.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<(NodeId, u64)>);

/// What an event is by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It has not been heard before.
    New,
    /// It has.
    Old,
    /// It has not, and what was heard before it cannot have been of its node.
    Implausible,
}

impl Seen {
    /// Notes an event of a node.
    pub(super) fn hear(&mut self, node: NodeId, number: u64) -> News {
        match self.0.iter_mut().find(|(known, _)| *known == node) {
            Some((_, last)) if *last >= number && *last - number < AGAIN_MAX => News::Old,
            Some((_, last)) => {
                let is_next = *last < number;
                *last = number;
                if is_next { News::New } else { News::Implausible }
            }
            None => {
                // The oldest is the first that may be forgotten.
                self.0.drain(..(self.0.len() + 1).saturating_sub(NODES_MAX));
                self.0.push((node, number));
                News::New
            }
        }
    }

    /// Notes an event that is not told, and may be one of long ago.
    pub(super) fn note(&mut self, node: NodeId, number: u64) {
        if !self.0.iter().any(|(known, last)| *known == node && *last >= number) {
            self.hear(node, number);
        }
    }

    /// Whether anything of a node is noted.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.0.iter().any(|(known, _)| *known == node)
    }

    /// A node will send nothing more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.retain(|(known, _)| *known != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_somebody_else_silences_a_node_for_one_event_at_most() {
        let (mut seen, node) = (Seen::default(), NodeId::random());
        assert_eq!([1, 2, 2, 1].map(|number| seen.hear(node, number)), [News::New, News::New, News::Old, News::Old]);
        seen.hear(node, 1 << 53);
        assert_eq!([3, 4, 3].map(|number| seen.hear(node, number)), [News::Implausible, News::New, News::Old]);
    }
}
