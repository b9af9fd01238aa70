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
    events: LinkedHashMap<Arc<str>, LastEvent>,
}

/// The last event of a key.
#[derive(Debug, Clone)]
pub(super) struct LastEvent {
    pub(super) frame: Frame,
    /// When it was delivered.
    pub(super) since: Instant,
    /// Its place among everything that the channel has delivered.
    pub(super) place: u64,
}

impl LastEvents {
    pub(super) fn new(rule: &Snapshot, keys_max: usize) -> Self {
        let max_age = Duration::from_secs(rule.max_age_seconds.into());
        Self { max_age, keys_max, events: LinkedHashMap::new() }
    }

    /// Keeps an event that has been delivered.
    pub(super) fn put(&mut self, id: &Arc<str>, event: LastEvent) {
        self.events.remove(id);
        if self.events.len() >= self.keys_max {
            self.events.pop_front();
        }
        self.events.insert(Arc::clone(id), event);
    }

    /// Takes all events out, each with its name and key.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Arc<str>, LastEvent)> {
        std::mem::take(&mut self.events).into_iter()
    }

    /// The events that are not too old, the oldest first.
    pub(super) fn events(&mut self, now: Instant) -> impl Iterator<Item = LastEvent> {
        self.forget_old(now);
        self.events.values().cloned()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_old(now);
        self.events.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, event)) = self.events.front() {
            if event.since + self.max_age > now {
                break;
            }
            self.events.pop_front();
        }
    }
}
