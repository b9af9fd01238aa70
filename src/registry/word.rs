//! What the registry and the cluster say to each other of a topic.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::identity::Member;
use crate::registry::replica::Entry;

/// Word from another node, or from this one by way of the others.
#[derive(Debug)]
pub enum Heard {
    /// An event.
    Event(RemoteEvent),
    /// Somebody came or went.
    Member(Change),
    /// How many connections a node has on the channel.
    Count(NodeId, u32),
}

/// What the nodes together know of a topic at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The version of the members.
    pub version: u64,
    /// The members, on whichever node.
    pub entries: Vec<Entry>,
    /// Users of this node that did not fit in.
    pub refused: Vec<Arc<str>>,
    /// Subscriptions on the other nodes.
    pub counts: Vec<(NodeId, u32)>,
    /// The remembered event, and how long it will be.
    pub cached: Option<(RemoteEvent, Duration)>,
}

/// What this node has to say when it begins to listen to a topic.
#[derive(Debug, Default)]
pub struct Own {
    /// Its users, each with [`Change::since`]; 0 where the others do not know it yet.
    pub members: Vec<(Member, u64)>,
    /// Distinct users that the topic may have.
    pub members_max: usize,
    /// Whether the number of subscribers on other nodes matters.
    pub counted: bool,
}

/// How an order has ended.
#[derive(Debug, Clone, Copy)]
pub enum Placed {
    /// The change has this version, or was no change at this version.
    At(u64),
    /// There are as many members as there may be.
    Refused,
    /// It could not be written.
    Failed,
}
