//! The readers of one channel that are behind, and the last event of each key that they lack.
//! `channel` holds it, and `catch_up` fills and empties it.

use std::collections::HashMap;
use std::sync::Arc;

use hashlink::LinkedHashMap;

use crate::protocol::event::FlowKey;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Slot;
use crate::registry::inbox::Event;

/// Bytes of events that may wait for the readers that are behind. Beyond it they wait in the outboxes.
const BYTES_MAX: usize = 1024 * 1024;

/// The last event of each key since the first of the readers fell behind.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The readers, each with the number of the first event that it lacks.
    readers: HashMap<Slot, u64>,
    /// In the order of publishing.
    last_events: LinkedHashMap<Arc<FlowKey>, LastEvent>,
    /// Events so far.
    events: u64,
    /// Bytes of the last events.
    bytes: usize,
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
                let old = self.last_events.remove(key);
                self.bytes -= old.map_or(0, |old| old.event.frame.bytes().len());
                self.bytes += event.frame.bytes().len();
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

    /// The readers, if so much waits for them that the ordinary limits have to judge them.
    pub(super) fn overdue(&self) -> Vec<Slot> {
        if self.bytes <= BYTES_MAX { Vec::new() } else { self.readers.keys().copied().collect() }
    }

    /// The events that a reader lacks. It is behind no more.
    pub(super) fn take(&mut self, slot: Slot, socket_id: Option<SocketId>) -> Vec<Event> {
        let (Some(first), Some(socket_id)) = (self.readers.remove(&slot), socket_id) else { return Vec::new() };
        let is_lacking = |last: &&LastEvent| last.number >= first && last.event.except != Some(socket_id);
        self.last_events.values().filter(is_lacking).map(|last| last.event.clone()).collect()
    }
}
