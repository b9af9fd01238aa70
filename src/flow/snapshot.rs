//! Snapshots: the last event of each key, for who joins.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hashlink::LinkedHashMap;

use crate::flow::rule::Snapshot;
use crate::protocol::frame::Frame;

/// The last event of each key that the channel's subscribers have got.
#[derive(Debug)]
pub(super) struct LastEvents {
    max_age: Duration,
    keys_max: usize,
    /// In the order of delivery, so the oldest is the first.
    events: LinkedHashMap<Arc<str>, (Frame, Instant)>,
}

impl LastEvents {
    pub(super) fn new(rule: &Snapshot, keys_max: usize) -> Self {
        let max_age = Duration::from_secs(rule.max_age_seconds.into());
        Self { max_age, keys_max, events: LinkedHashMap::new() }
    }

    /// Keeps an event that has been delivered.
    pub(super) fn put(&mut self, id: &Arc<str>, frame: Frame, now: Instant) {
        self.events.remove(id);
        if self.events.len() >= self.keys_max {
            self.events.pop_front();
        }
        self.events.insert(Arc::clone(id), (frame, now));
    }

    /// Takes the events of another rule over.
    pub(super) fn take_over(&mut self, other: Self) {
        for (id, (frame, since)) in other.events {
            self.put(&id, frame, since);
        }
    }

    /// The events that are not too old, the oldest first.
    pub(super) fn frames(&mut self, now: Instant) -> impl Iterator<Item = (Frame, Instant)> {
        self.forget_old(now);
        self.events.values().cloned()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_old(now);
        self.events.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, (_, since))) = self.events.front() {
            if *since + self.max_age > now {
                break;
            }
            self.events.pop_front();
        }
    }
}
