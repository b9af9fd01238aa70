//! Readers that are behind on a channel whose events a flow rule thins. Their sockets take no more, so they get nothing
//! of the channel until their outboxes are empty. Then they get the last event of each key.
//! `delivery` and `keepalive` call it.

use crate::protocol::frame::payload_len;
use crate::refusal;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::shard::Shard;
use crate::shard::channel::Flush;

impl Shard {
    /// Whether a connection's socket takes no more, so that it gets what can wait later.
    pub(super) fn is_blocked(&self, slot: Slot) -> bool {
        let connection = self.connections.get(slot).filter(|connection| connection.session().is_some());
        connection.is_some_and(|connection| {
            let waits = connection.blocked || (connection.is_behind && !connection.is_sent());
            waits && !connection.has_lost_frames
        })
    }

    /// Lets the kernel buffer little for a connection on a thinned channel: what it has taken cannot be replaced by newer
    /// events any more.
    pub(super) fn limit_unsent(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot).filter(|connection| !connection.has_limited_unsent)
        else {
            return;
        };
        connection.has_limited_unsent = true;
        connection.socket.limit_unsent();
    }

    /// Notes the subscribers that lack a flush, and when they have to be checked.
    #[cold]
    pub(super) fn fall_behind(&mut self, id: ChannelId, flush: &Flush, readers: &[(Slot, usize)]) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        for event in &flush.events {
            if let Some(key) = &event.flow_key {
                channel.meters.behind(&key.rule, readers.len() as u64);
            }
        }
        let behind = channel.behind.get_or_insert_default();
        for &(slot, _) in readers.iter().filter(|(slot, _)| !behind.has(*slot)) {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.is_behind = true;
                let channels = self.behind.entry(slot).or_default();
                if !channels.contains(&id) {
                    channels.push(id);
                }
            }
        }
        behind.add(&flush.events, readers);
        for slot in behind.overdue() {
            self.catch_up_on(slot, id);
        }
    }

    /// Gives a connection whose outbox is empty the last events of the channels on which it was behind.
    #[cold]
    pub(super) fn catch_up(&mut self, slot: Slot) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.is_behind = false;
        }
        for id in self.behind.remove(&slot).unwrap_or_default() {
            self.catch_up_on(slot, id);
        }
    }

    /// Gives a connection the last events of one channel, if it was behind.
    pub(super) fn catch_up_on(&mut self, slot: Slot, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(behind) = channel.behind.as_mut().filter(|behind| behind.has(slot)) else { return };
        let connection = self.connections.get(slot).filter(|connection| !connection.has_lost_frames);
        let session = connection.and_then(|connection| connection.session());
        let events = behind.take(slot, session.map(|session| session.socket_id()));
        if behind.is_empty() {
            channel.behind = None;
        }
        for event in events {
            let frame = self.frame_for(slot, &event);
            if let Some(session) = self.connections.get(slot).and_then(|connection| connection.session()) {
                session.meters().deliveries.inc();
                session.meters().messages_sent.inc();
                session.meters().transmitted_bytes.inc_by(payload_len(frame.bytes()) as u64);
            }
            let piece = self.shared.piece(frame.bytes(), &self.shared_bytes);
            self.queue(slot, piece);
        }
    }

    /// Closes readers that have been behind for `behind_seconds` while their sockets took nothing.
    pub(super) fn evict_behind(&mut self) {
        let time_max = self.node.connections().behind_seconds.duration();
        let is_stalled = |slot: &Slot| {
            let connection = self.connections.get(*slot);
            let is_late = |since| self.now.saturating_duration_since(since) >= time_max;
            connection.is_some_and(|connection| connection.blocked && is_late(connection.last_progress))
        };
        for slot in self.behind.keys().copied().filter(is_stalled).collect::<Vec<_>>() {
            self.evict(slot, refusal::Cause::SlowReader);
        }
        self.behind
            .retain(|slot, _| self.connections.get(*slot).is_some_and(|connection| connection.session().is_some()));
    }
}
