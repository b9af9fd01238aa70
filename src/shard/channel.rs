//! A channel's subscribers on one shard, and what is pending for them.

use indexmap::IndexSet;

use std::ops::Range;
use std::sync::Arc;

use crate::metrics::AppMeters;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Slot;
use crate::registry::inbox::Event;
use crate::shard::batch::Batch;

/// Pending bytes beyond which a channel does not wait for the end of the turn.
const PENDING_BYTES_MAX: usize = 256 * 1024;

/// A channel while it has subscribers on this shard.
#[derive(Debug)]
pub(super) struct Channel {
    /// What the app's traffic is counted in.
    pub(super) meters: Arc<AppMeters>,
    /// Who listens.
    pub(super) subscribers: IndexSet<Slot>,
    pending: Vec<Event>,
    pending_bytes: usize,
    /// Who joined since the last flush, and how many events were pending already.
    late: Vec<(Slot, usize)>,
}

/// What one flush sends, and to whom not all of it.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) batch: Batch,
    pub(super) events: Vec<Event>,
    late: Vec<(Slot, usize)>,
    holes: Vec<(SocketId, usize)>,
}

impl Channel {
    pub(super) fn new(meters: Arc<AppMeters>) -> Self {
        Self { meters, subscribers: IndexSet::new(), pending: Vec::new(), pending_bytes: 0, late: Vec::new() }
    }

    /// A connection hears every event from now on.
    pub(super) fn join(&mut self, slot: Slot) {
        self.subscribers.insert(slot);
        if !self.pending.is_empty() {
            self.late.push((slot, self.pending.len()));
        }
    }

    /// Appends an event. Returns whether it is the first one since the last flush.
    pub(super) fn push(&mut self, event: Event) -> bool {
        self.pending_bytes += event.frame.bytes().len();
        self.pending.push(event);
        self.pending.len() == 1
    }

    /// Whether so much is pending that it should go out at once.
    pub(super) fn is_heavy(&self) -> bool {
        self.pending_bytes > PENDING_BYTES_MAX
    }

    /// How many listen.
    pub(super) fn width(&self) -> usize {
        self.subscribers.len()
    }

    /// Forgets a connection; returns what is pending for it, if it is still there to take it.
    pub(super) fn leave(&mut self, slot: Slot, socket_id: Option<SocketId>) -> Vec<bytes::Bytes> {
        self.subscribers.swap_remove(&slot);
        if self.pending.is_empty() {
            return Vec::new();
        }
        let from = self.late.iter().position(|(late, _)| *late == slot).map_or(0, |at| self.late.swap_remove(at).1);
        let Some(socket_id) = socket_id else { return Vec::new() };
        let own = self.pending[from..].iter().filter(|event| event.except != Some(socket_id));
        own.map(|event| event.frame.bytes().clone()).collect()
    }

    /// Takes everything that is pending.
    pub(super) fn take(&mut self) -> Flush {
        let events = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        let mut holes: Vec<(SocketId, usize)> =
            events.iter().enumerate().filter_map(|(at, event)| event.except.map(|except| (except, at))).collect();
        holes.sort_unstable();
        let frames: Vec<_> = events.iter().map(|event| &event.frame).collect();
        Flush { batch: Batch::new(&frames), late, holes, events }
    }
}

impl Flush {
    /// Whether everybody gets everything, which is what mostly happens.
    pub(super) fn is_plain(&self) -> bool {
        self.late.is_empty() && self.holes.is_empty()
    }

    /// What one subscriber gets; `None` stands for all of it.
    pub(super) fn part(&self, slot: Slot, socket_id: SocketId) -> Option<Vec<Range<usize>>> {
        let late = self.late.binary_search_by_key(&slot, |&(late, _)| late);
        let first_hole = self.holes.partition_point(|&(id, _)| id < socket_id);
        let holes = self.holes[first_hole..].iter().take_while(|(id, _)| *id == socket_id).map(|&(_, at)| at);
        if late.is_err() && holes.clone().next().is_none() {
            return None;
        }
        Some(self.batch.pieces(late.map_or(0, |at| self.late[at].1), holes))
    }
}
