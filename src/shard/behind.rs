//! Readers that are behind on a channel whose events a flow rule thins: a socket that takes no more gets nothing of the
//! channel until its outbox is empty, and then the last event of each key. `delivery` and `slow` call it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hashlink::LinkedHashMap;

use crate::protocol::event::FlowKey;
use crate::protocol::frame::payload_len;
use crate::protocol::socket_id::SocketId;
use crate::refusal;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::shard::Shard;
use crate::shard::channel::Flush;
use crate::shard::outbox::Piece;

/// The last event of each key since the first of the readers fell behind.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The readers, each with the number of the first event that it lacks.
    readers: HashMap<Slot, u64>,
    /// In the order of publishing.
    last_events: LinkedHashMap<Arc<FlowKey>, LastEvent>,
    /// Events so far.
    events: u64,
}

#[derive(Debug)]
struct LastEvent {
    number: u64,
    event: Event,
}

impl Behind {
    /// Adds events, and readers that lack them from these places on.
    pub(super) fn add(&mut self, events: &[Event], readers: &[(Slot, usize)]) {
        for &(slot, first) in readers {
            self.readers.entry(slot).or_insert(self.events + first as u64);
        }
        for event in events {
            if let Some(key) = &event.flow_key {
                self.last_events.remove(key);
                let last = LastEvent { number: self.events, event: event.clone() };
                self.last_events.insert(Arc::clone(key), last);
            }
            self.events += 1;
        }
    }

    pub(super) fn has(&self, slot: Slot) -> bool {
        self.readers.contains_key(&slot)
    }

    /// Whether no reader is behind.
    pub(super) fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// The events that a reader lacks. It is behind no more.
    pub(super) fn take(&mut self, slot: Slot, socket_id: Option<SocketId>) -> Vec<Event> {
        let (Some(first), Some(socket_id)) = (self.readers.remove(&slot), socket_id) else { return Vec::new() };
        let is_lacking = |last: &&LastEvent| last.number >= first && last.event.except != Some(socket_id);
        self.last_events.values().filter(is_lacking).map(|last| last.event.clone()).collect()
    }
}

impl Shard {
    /// Whether a connection's socket takes no more, so that it gets what can wait later.
    pub(super) fn is_blocked(&self, slot: Slot) -> bool {
        let connection = self.connections.get(slot).filter(|connection| connection.session().is_some());
        connection.is_some_and(|connection| connection.blocked && !connection.has_lost_frames)
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
                self.behind.entry(slot).or_default().push(id);
            }
        }
        behind.add(&flush.events, readers);
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
        let frames: Vec<Bytes> = events.iter().map(|event| self.frame_for(slot, event).bytes().clone()).collect();
        let connection = self.connections.get(slot);
        if let Some(session) = connection.and_then(|connection| connection.session()) {
            let meters = session.meters();
            meters.deliveries.inc_by(frames.len() as u64);
            meters.messages_sent.inc_by(frames.len() as u64);
            let bytes: usize = frames.iter().map(|frame| payload_len(frame)).sum();
            meters.transmitted_bytes.inc_by(bytes as u64);
        }
        if !frames.is_empty() {
            self.queue(slot, Piece::own(frames.concat().into()));
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
