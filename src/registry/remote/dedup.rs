//! Recognizes events of other nodes that have come before. Channels and views have one [`Dedup`] each, and drop them.

use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::registry::remote::outgoing::ROUND_COMMANDS_MAX;

/// After a lost link a node sends one round of events again. A number further back is a new event: the greater number
/// was not the node's own.
const REPEATED_MAX: u64 = 2 * ROUND_COMMANDS_MAX as u64;

/// The last event of each other node.
#[derive(Debug, Default)]
pub(crate) struct Dedup(Vec<(NodeId, u64)>);

/// The meaning of an event's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The event is new.
    New,
    /// The event has come before.
    Duplicate,
    /// The event is new, and the last one cannot have been of its node.
    Implausible,
}

impl Dedup {
    /// An event of a node has come.
    pub(crate) fn check(&mut self, node: NodeId, number: u64) -> Arrival {
        match self.0.iter_mut().find(|(known, _)| *known == node) {
            Some((_, last)) if *last >= number && *last - number < REPEATED_MAX => Arrival::Duplicate,
            Some((_, last)) => {
                let is_next = *last < number;
                *last = number;
                if is_next { Arrival::New } else { Arrival::Implausible }
            }
            None => {
                // The oldest is the first that may be forgotten.
                self.0.drain(..(self.0.len() + 1).saturating_sub(NODES_MAX));
                self.0.push((node, number));
                Arrival::New
            }
        }
    }

    /// An event is known in another way, and may be an old one.
    pub(crate) fn skip(&mut self, node: NodeId, number: u64) {
        if !self.0.iter().any(|(known, last)| *known == node && *last >= number) {
            self.check(node, number);
        }
    }

    /// Whether an event of a node has come.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.0.iter().any(|(known, _)| *known == node)
    }

    /// The last event of each node.
    pub(crate) fn origins(&self) -> impl Iterator<Item = Origin> {
        self.0.iter().filter_map(|&(node, number)| Origin::new(node, number))
    }

    /// The node has left and sends no more events.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.retain(|(known, _)| *known != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_somebody_else_silences_a_node_for_one_event_at_most() {
        let (mut dedup, node) = (Dedup::default(), NodeId::random());
        assert_eq!(
            [1, 2, 2, 1].map(|number| dedup.check(node, number)),
            [Arrival::New, Arrival::New, Arrival::Duplicate, Arrival::Duplicate]
        );
        dedup.check(node, 1 << 53);
        assert_eq!(
            [3, 4, 3].map(|number| dedup.check(node, number)),
            [Arrival::Implausible, Arrival::New, Arrival::Duplicate]
        );
    }
}
