//! Messages between the registry and the cluster about a topic.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::flow::channel::StoredEvent;
use crate::history::channel::Missed;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::protocol::numbered::EventNumber;
use crate::registry::inbox::Event;
use crate::registry::remote::roster::RosterEntry;

/// A message of another node, or of this one by way of Redis.
#[derive(Debug)]
pub enum NodeMessage {
    /// An event. On a channel with a history it has a number.
    Event(RemoteEvent, Option<EventNumber>),
    /// The number that an event of this node has got; its number here comes first.
    OwnNumber(u64, EventNumber),
    /// A change of a member.
    Member(Change),
    /// The connections that a node has on the channel.
    Count(NodeId, u32),
    /// Another node has dropped events of the channel.
    Missed {
        /// How many.
        missed: Missed,
        /// Everything until then has come.
        since: Instant,
    },
    /// Everything has come that was published before the topic's state, which the command of this number has fetched.
    Mark(u64),
}

impl Event {
    /// An event that another node has accepted.
    pub(crate) fn of_node(event: RemoteEvent, now: Instant) -> Self {
        let origin = Origin::new(event.node, event.number);
        Self { origin, partial: event.partial, ..Self::new(event.frame, event.except, now) }
    }
}

/// The state of a topic on all nodes at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The version of the members; 0 if nobody is there, and the next change may have any version.
    pub version: u64,
    /// The members on all nodes.
    pub entries: Vec<RosterEntry>,
    /// Users of this node that were refused: the channel is full.
    pub refused: Vec<Arc<str>>,
    /// Subscriptions on the other nodes.
    pub counts: Vec<(NodeId, u32)>,
    /// The cached event, and how long it still is.
    pub cached: Option<(RemoteEvent, Duration)>,
    /// The last events of a channel with a flow rule's snapshot, if they were asked for.
    pub last_events: Option<Vec<StoredEvent>>,
}

/// Events that Redis has stored of a channel.
#[derive(Debug, Default)]
pub(crate) struct FetchedEvents {
    /// See [`Snapshot::last_events`].
    pub(crate) last_events: Vec<StoredEvent>,
    /// The cached event, and how long it is cached.
    pub(crate) cached: Option<(Frame, Instant)>,
}

/// The part of a topic that is on this node.
#[derive(Debug, Default)]
pub struct LocalTopic {
    /// The users, each with [`Change::since`], which is 0 before the first update.
    pub members: Vec<(Member, u64)>,
    /// Distinct users that the topic may have on all nodes.
    pub members_max: usize,
    /// Whether the number of subscribers on other nodes matters.
    pub counted: bool,
    /// How long the snapshot of a flow rule is stored, and how many keys it has.
    pub snapshot: Option<(Duration, usize)>,
}

/// How the command to update a member has ended.
#[derive(Debug, Clone, Copy)]
pub enum UpdateOutcome {
    /// The roster has the change at this version.
    Applied(u64),
    /// The channel has as many members as it may have.
    Full,
    /// It could not be written.
    Failed,
}
