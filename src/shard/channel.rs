//! A channel on one shard: its subscribers and its pending events.
//! `delivery` appends events and flushes them.

use indexmap::IndexSet;

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use crate::metrics::AppMeters;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Slot;
use crate::registry::inbox::Event;
use crate::shard::batch::Batch;
use crate::shard::behind::Behind;

/// Pending bytes beyond which a channel does not wait for the end of the turn.
const PENDING_BYTES_MAX: usize = 256 * 1024;

/// A channel while it has subscribers on this shard.
#[derive(Debug)]
pub(super) struct Channel {
    /// The counters of the app.
    pub(super) meters: Arc<AppMeters>,
    /// The subscribed connections.
    pub(super) subscribers: IndexSet<Slot>,
    pending: Vec<Event>,
    pending_bytes: usize,
    /// Connections that joined since the last flush, with the number of events that were pending.
    joined_late: Vec<(Slot, usize)>,
    /// The number of the last event that went out and that the history keeps.
    pub(super) flushed: u64,
    /// Subscribers that are behind, if there are any.
    pub(super) behind: Option<Box<Behind>>,
}

/// The events of one flush, and the connections that do not get all of them.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) batch: Batch,
    /// The same in compressed frames, once a subscriber takes it; `None` if no frame gets smaller.
    pub(super) compressed: OnceCell<Option<Batch>>,
    pub(super) events: Vec<Event>,
    joined_late: Vec<(Slot, usize)>,
    excluded: Vec<(SocketId, usize)>,
}

impl Channel {
    pub(super) fn new(meters: Arc<AppMeters>) -> Self {
        Self {
            meters,
            subscribers: IndexSet::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            joined_late: Vec::new(),
            flushed: 0,
            behind: None,
        }
    }

    /// Adds a connection, which gets every event from now on.
    pub(super) fn join(&mut self, slot: Slot) {
        self.subscribers.insert(slot);
        if !self.pending.is_empty() {
            self.joined_late.push((slot, self.pending.len()));
        }
    }

    /// Appends an event. Returns whether it is the first one since the last flush.
    pub(super) fn push(&mut self, event: Event) -> bool {
        self.pending_bytes += event.frame.bytes().len();
        self.pending.push(event);
        self.pending.len() == 1
    }

    /// Whether so much is pending that it should go out now.
    pub(super) fn is_heavy(&self) -> bool {
        self.pending_bytes > PENDING_BYTES_MAX
    }

    /// The number of subscribers.
    pub(super) fn subscriber_count(&self) -> usize {
        self.subscribers.len()
    }

    /// Removes a connection. Returns the pending events that it still gets.
    pub(super) fn leave(&mut self, slot: Slot, socket_id: Option<SocketId>) -> Vec<Event> {
        self.subscribers.swap_remove(&slot);
        if self.pending.is_empty() {
            return Vec::new();
        }
        let from = self
            .joined_late
            .iter()
            .position(|(joined_late, _)| *joined_late == slot)
            .map_or(0, |at| self.joined_late.swap_remove(at).1);
        let Some(socket_id) = socket_id else { return Vec::new() };
        let own = self.pending[from..].iter().filter(|event| event.except != Some(socket_id));
        own.cloned().collect()
    }

    /// Takes everything that is pending.
    pub(super) fn take(&mut self) -> Flush {
        let events = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.flushed = events.iter().map(|event| event.number).fold(self.flushed, u64::max);
        let mut joined_late = std::mem::take(&mut self.joined_late);
        joined_late.sort_unstable();
        let mut excluded: Vec<(SocketId, usize)> =
            events.iter().enumerate().filter_map(|(at, event)| event.except.map(|except| (except, at))).collect();
        excluded.sort_unstable();
        let frames: Vec<_> = events.iter().map(|event| &event.frame).collect();
        Flush { batch: Batch::new(&frames), compressed: OnceCell::new(), joined_late, excluded, events }
    }
}

impl Flush {
    /// Whether all subscribers get all events, as they mostly do.
    pub(super) fn is_plain(&self) -> bool {
        self.joined_late.is_empty() && self.excluded.is_empty()
    }

    /// Whether a flow rule has thinned events, so that a reader may be behind.
    pub(super) fn is_thinned(&self) -> bool {
        self.events.iter().any(|event| event.flow_key.is_some())
    }

    /// Whether all events may wait for a reader that is behind: only the last one of each key counts then.
    pub(super) fn can_wait(&self) -> bool {
        self.events.iter().all(|event| event.flow_key.is_some())
    }

    /// The place of the first event for one subscriber.
    pub(super) fn first_for(&self, slot: Slot) -> usize {
        let joined_late = self.joined_late.binary_search_by_key(&slot, |&(joined_late, _)| joined_late);
        joined_late.map_or(0, |at| self.joined_late[at].1)
    }

    /// The ranges of one subscriber in `batch`, which holds a form of each event; `None` for everything.
    pub(super) fn part(&self, slot: Slot, socket_id: SocketId, batch: &Batch) -> Option<Vec<Range<usize>>> {
        let joined_late = self.joined_late.binary_search_by_key(&slot, |&(joined_late, _)| joined_late);
        let first_excluded = self.excluded.partition_point(|&(id, _)| id < socket_id);
        let excluded = self.excluded[first_excluded..].iter().take_while(|(id, _)| *id == socket_id).map(|&(_, at)| at);
        if joined_late.is_err() && excluded.clone().next().is_none() {
            return None;
        }
        Some(batch.pieces(joined_late.map_or(0, |at| self.joined_late[at].1), excluded))
    }
}
