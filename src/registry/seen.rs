//! Which events of other nodes have been heard.

use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;

/// The last event of each other node.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<(NodeId, u64)>);

impl Seen {
    /// Notes an event of a node. False when it has been heard before.
    pub(super) fn is_new(&mut self, node: NodeId, number: u64) -> bool {
        match self.0.iter_mut().find(|(known, _)| *known == node) {
            Some((_, last)) if *last >= number => false,
            Some((_, last)) => {
                *last = number;
                true
            }
            None => {
                // The oldest is the first that may be forgotten.
                self.0.drain(..(self.0.len() + 1).saturating_sub(NODES_MAX));
                self.0.push((node, number));
                true
            }
        }
    }

    /// A node will send nothing more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.retain(|(known, _)| *known != node);
    }
}
