//! The numbers of a channel's events in a cluster and the places of users, as Redis has them.
//! `shared` decides by them; `registry` and `cluster` hand them on.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::history::log::Position;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::numbered::Epoch;
use crate::protocol::numbered::EventNumber;
use crate::protocol::socket_id::SocketId;

/// Events of a node without a number that are remembered: it sends at most so many again after a lost link.
const UNNUMBERED_MAX: usize = 4096;

/// The numbers of a channel, as this node knows them.
#[derive(Debug)]
pub(super) struct SharedHistory {
    pub(super) epoch: Epoch,
    /// All events up to this number have come.
    pub(super) received: u64,
    /// For each of the last ticks the last event on this node, and `received`.
    pub(super) ticks: VecDeque<(Position, u64)>,
    pub(super) tick: u64,
    /// Which events of each other node have come.
    pub(super) come_of: HashMap<NodeId, Come>,
    /// The event with the number `received`, if this node has heard it.
    pub(super) last: Option<Origin>,
    /// The last gap that was announced to everybody, and the epoch of places before it: none that is.
    pub(super) gap: Option<(Position, Epoch)>,
    /// Places that were taken while Redis was away.
    pub(super) taken: Vec<(Arc<str>, SocketId)>,
    /// The number that is written for all connections that follow this node, and when.
    pub(super) followed: Option<(u64, Instant)>,
}

/// Events of a node that have come.
#[derive(Debug, Default)]
pub(super) struct Come {
    /// The last one with a number.
    last: u64,
    /// Later ones without a number, in their order. The node may send them again, with one.
    unnumbered: VecDeque<u64>,
}

/// A place as Redis knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPlace {
    /// Everything up to here has arrived.
    pub number: EventNumber,
    /// When that was known.
    pub since: Instant,
}

/// The place of one connection of a known user, for Redis.
#[derive(Debug)]
pub struct PlaceChange {
    /// The user.
    pub user: Arc<str>,
    /// The connection.
    pub socket_id: SocketId,
    /// The place.
    pub state: PlaceState,
}

/// See [`PlaceChange`].
#[derive(Debug, Clone, Copy)]
pub enum PlaceState {
    /// There is none any more.
    Ended,
    /// The connection is open, and has got everything that the node reports for all such connections.
    Follows,
    /// The connection is open, and its client has confirmed no more than this for a while.
    Behind(SharedPlace),
    /// The connection was cut off. `place` is how far it had got; none if Redis knows better. A silent one had not
    /// answered for long.
    Left {
        /// How far it had got.
        place: Option<SharedPlace>,
        /// It had not answered for long.
        is_silent: bool,
    },
}

/// Places for Redis.
#[derive(Debug, Default)]
pub struct Places {
    /// The place of all connections that follow this node.
    pub followed: Option<SharedPlace>,
    /// Places of single connections.
    pub changes: Vec<PlaceChange>,
}

/// An event that Redis has stored.
#[derive(Debug, Clone)]
pub struct HistoryEvent {
    /// Its number.
    pub number: u64,
    /// When it was published.
    pub at: Instant,
    /// The event.
    pub event: RemoteEvent,
}

/// The place of an earlier connection of a user, as Redis has found it.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The connection, if it is known.
    pub socket_id: Option<SocketId>,
    /// Its place.
    pub place: SharedPlace,
    /// Whether all nodes send the same events, so that the number says what is missing.
    pub is_numbered: bool,
}

/// How the number of an event fits to those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one.
    Next,
    /// Nothing is missing, and the number says nothing.
    Unnumbered,
    /// Events before it are missing.
    Hole,
}

impl SharedHistory {
    /// Begins at this number.
    pub(super) fn begin(epoch: Epoch, received: u64) -> Self {
        let (ticks, taken, come_of) = (VecDeque::new(), Vec::new(), HashMap::new());
        Self { epoch, received, come_of, last: None, ticks, tick: 0, gap: None, taken, followed: None }
    }

    /// Whether an event with a number is new. A node that has lost its link may send it twice.
    pub(super) fn is_new(&mut self, node: NodeId, number: u64) -> bool {
        let Come { last, unnumbered } = self.come_of(node);
        let is_new = number > *last && !unnumbered.contains(&number);
        *last = number.max(*last);
        // The node sends none again that is before this one.
        while unnumbered.front().is_some_and(|earlier| *earlier <= number) {
            unnumbered.pop_front();
        }
        is_new
    }

    /// An event has come without a number.
    pub(super) fn note_unnumbered(&mut self, Origin { node, number }: Origin) {
        let unnumbered = &mut self.come_of(node).unnumbered;
        if unnumbered.len() >= UNNUMBERED_MAX {
            unnumbered.pop_front();
        }
        unnumbered.push_back(number.get());
    }

    fn come_of(&mut self, node: NodeId) -> &mut Come {
        if self.come_of.len() >= NODES_MAX && !self.come_of.contains_key(&node) {
            self.come_of.clear();
        }
        self.come_of.entry(node).or_default()
    }

    /// A number of the present epoch.
    pub(super) fn number(&self, number: u64) -> EventNumber {
        EventNumber { epoch: self.epoch, number }
    }
}
