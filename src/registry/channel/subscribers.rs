//! The connections of a channel that get the same frames, as numbers for each shard.
//! A channel has those of Pusher's clients and, if there are any, those of raw ones.

use crate::registry::address::Address;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::registry::inbox::InboxWriter;

/// Connections that a shard knows by one id.
#[derive(Debug)]
pub(super) struct Subscribers {
    id: ChannelId,
    /// How many there are on each shard.
    counts: Box<[u32]>,
}

impl Subscribers {
    /// Nobody so far.
    pub(super) fn new(shards: usize) -> Self {
        Self { id: ChannelId::next(), counts: vec![0; shards].into() }
    }

    /// The id for their shards.
    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// How many there are on this node.
    pub(super) fn count(&self) -> usize {
        self.counts.iter().map(|&count| count as usize).sum()
    }

    /// Counts a connection; returns the id for its shard.
    pub(super) fn add(&mut self, address: Address) -> ChannelId {
        self.counts[usize::from(address.shard)] += 1;
        self.id
    }

    /// Ceases to count a connection; returns the id for its shard.
    pub(super) fn remove(&mut self, address: Address) -> ChannelId {
        self.counts[usize::from(address.shard)] -= 1;
        self.id
    }

    /// Puts an event into the inbox of each shard that has some of them.
    pub(super) fn announce(&self, event: &Event, inboxes: &mut InboxWriter<'_>) {
        let counts = self.counts.iter().enumerate();
        let shards = counts.filter(|(_, count)| **count > 0).map(|(shard, _)| shard);
        inboxes.put_event(shards, self.id, event);
    }
}
