//! The state of a channel that concerns other nodes. Each [`Channel`](crate::registry) has one where there are other
//! nodes.

use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::registry::remote::command::Operation;
use crate::registry::remote::dedup::Dedup;
use crate::registry::remote::history::RemoteHistory;
use crate::registry::remote::joiners::Joiners;
use crate::registry::remote::marked::Marked;
use crate::registry::remote::message::FetchedEvents;
use crate::registry::remote::topic::RemoteTopic;
use crate::registry::scope::Scope;

/// A link that has lasted so long has carried what waited for it.
const WAITED_TIME: Duration = Duration::from_secs(5);
/// How long a channel without subscribers stays subscribed to its topic.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// The state that a channel shares with other nodes, and its joiners.
#[derive(Debug, Default)]
pub(crate) struct RemoteChannel {
    pub(crate) topic: RemoteTopic,
    pub(crate) joiners: Joiners,
    pub(crate) counts: RemoteCounts,
    pub(crate) dedup: Dedup,
    pub(crate) stored: RemoteEvents,
    pub(crate) history: RemoteHistory,
    /// When the last connection left.
    pub(crate) idle_since: Option<Instant>,
}

/// The part of the channel's snapshot that Redis stores, for who joins at another node.
#[derive(Debug, Default)]
pub(crate) struct RemoteEvents {
    /// Since when this node has received all that was published.
    pub(crate) received_since: Option<Instant>,
    /// Since when events of this node have waited for the link, if they have.
    pub(crate) unlinked_at: Option<Instant>,
    /// How often it has taken over what Redis has stored since then.
    pub(crate) fetches: usize,
    /// Events that are fetched while the topic is open.
    pub(crate) fetching: Option<Box<Marked<FetchedEvents>>>,
    /// Commands to store events that are in flight.
    pub(crate) storing: usize,
    /// The last stored events of nodes that may send no more.
    pub(crate) known: Vec<Origin>,
}

/// The numbers of connections on the other nodes.
#[derive(Debug, Default)]
pub(crate) struct RemoteCounts {
    pub(crate) nodes: Vec<(NodeId, u32)>,
    /// Subscribers get the number of subscribers.
    pub(crate) are_announced: bool,
    /// A command to publish this node's number is in flight.
    pub(crate) is_publishing: bool,
}

impl RemoteChannel {
    /// Of a new channel. Without a link its events wait.
    pub(crate) fn new(is_linked: bool, now: Instant) -> Self {
        let mut new = Self::default();
        if !is_linked {
            new.stored.on_unlinked(now);
        }
        new
    }

    /// Whether a channel without subscribers may be removed.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        let is_over = self.idle_since.is_none_or(|since| now.saturating_duration_since(since) >= IDLE_TIME);
        is_over && self.joiners.is_empty() && self.history.is_empty()
    }

    /// Publishes the number of connections on this node, unless that is in flight.
    pub(crate) fn publish_count(&mut self, name: &ChannelName, scope: &Scope<'_>) {
        if !self.topic.is_opening() && !self.counts.is_publishing && scope.is_linked() {
            self.counts.is_publishing = true;
            scope.command(Topic::Channel(name.clone()), Operation::PublishCount);
        }
    }
}

impl RemoteEvents {
    /// The link is lost. From the next one on this node takes over what it misses until then.
    pub(crate) fn on_unlinked(&mut self, now: Instant) {
        let lasted = self.received_since.map(|since| now.saturating_duration_since(since));
        self.unlinked_at = self.unlinked_at.filter(|_| lasted.is_none_or(|time| time < WAITED_TIME)).or(Some(now));
        (self.received_since, self.fetches, self.fetching, self.storing) = (None, 0, None, 0);
    }

    /// Waits for the answer to the command of this number and its mark.
    pub(crate) fn fetch(&mut self, number: u64) -> &mut Marked<FetchedEvents> {
        self.fetching.insert(Box::new(Marked::new(number)))
    }

    /// The command of this number has an answer, or has failed. Returns the events if everything has come that was
    /// published before them.
    pub(crate) fn on_fetched(&mut self, number: u64, events: Option<FetchedEvents>) -> Option<FetchedEvents> {
        let fetching = self.fetching.as_mut().filter(|fetching| fetching.is_of(number))?;
        let Some(events) = events else {
            self.fetching = None;
            return None;
        };
        fetching.on_answer(events).inspect(|_| self.fetching = None)
    }

    /// The mark of the command of this number has come. Returns the events if they have come, too.
    pub(crate) fn on_mark(&mut self, number: u64) -> Option<FetchedEvents> {
        let fetching = self.fetching.as_mut().filter(|fetching| fetching.is_of(number))?;
        fetching.on_mark().inspect(|_| self.fetching = None)
    }
}

impl RemoteCounts {
    /// Connections on the other nodes.
    pub(crate) fn total(&self) -> usize {
        self.nodes.iter().map(|(_, count)| *count as usize).sum()
    }

    /// Whether no other node with connections comes before this one.
    pub(crate) fn is_first(&self, node: NodeId) -> bool {
        self.nodes.iter().all(|(other, _)| node < *other)
    }

    /// Sets a node's number. Returns whether the subscribers have to get the new total.
    pub(crate) fn set(&mut self, node: NodeId, count: u32) -> bool {
        let before = self.nodes.iter().find(|(known, _)| *known == node).map_or(0, |(_, count)| *count);
        self.nodes.retain(|(known, _)| *known != node);
        if count > 0 && self.nodes.len() < NODES_MAX {
            self.nodes.push((node, count));
        }
        count != before && self.are_announced
    }
}
