//! Snapshots: the last event of each key, for who joins. In a cluster they tell which of them Redis lacks, for those who
//! join at another node.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hashlink::LinkedHashMap;

use crate::flow::rule::Snapshot;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::frame::Frame;

/// The last event of each key that the channel's subscribers have got.
#[derive(Debug)]
pub(super) struct LastEvents {
    max_age: Duration,
    keys_max: usize,
    /// In the order of delivery, so the oldest is the first.
    events: LinkedHashMap<Arc<str>, LastEvent>,
    /// Keys of which this node has accepted an event that the subscribers have not got yet.
    accepted: LinkedHashMap<Arc<str>, ()>,
    /// Keys that Redis may lack. Those that wait for another node to store them come with the place of their last event.
    unstored: LinkedHashMap<Arc<str>, Option<u64>>,
}

/// The last event of a key.
#[derive(Debug, Clone)]
pub(super) struct LastEvent {
    pub(super) frame: Frame,
    /// When it was delivered.
    pub(super) since: Instant,
    /// When this node got it; like `since` for one that Redis had stored.
    pub(super) accepted: Instant,
    /// Its place among everything that the channel has delivered.
    pub(super) place: u64,
    pub(super) origin: Option<Origin>,
}

impl LastEvents {
    pub(super) fn new(rule: &Snapshot, keys_max: usize) -> Self {
        let max_age = Duration::from_secs(rule.max_age_seconds.into());
        let (events, accepted, unstored) = Default::default();
        Self { max_age, keys_max, events, accepted, unstored }
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

    /// The last event of a key.
    pub(super) fn get(&self, id: &str) -> Option<&LastEvent> {
        self.events.get(id)
    }

    /// Removes the last event of a key.
    pub(super) fn remove(&mut self, id: &str) {
        self.events.remove(id);
    }

    /// When the oldest event was delivered, if there is room for no older one.
    pub(super) fn oldest_if_full(&self) -> Option<Instant> {
        let (_, oldest) = self.events.front().filter(|_| self.events.len() >= self.keys_max)?;
        Some(oldest.since)
    }

    /// Redis may lack the events that `is_lacking` chooses. The next events of their keys have to be stored, too. One may
    /// be pending here and stored by another node already, and then an older one takes its place.
    pub(super) fn mark_where(&mut self, is_lacking: impl Fn(&Arc<str>, &LastEvent) -> bool) {
        let lacking = self.events.iter().filter(|(id, event)| event.origin.is_some() && is_lacking(id, event));
        let ids: Vec<_> = lacking.map(|(id, _)| Arc::clone(id)).collect();
        for id in &ids {
            self.mark_unstored(id);
            self.accept(id);
        }
    }

    /// How long an event is kept.
    pub(super) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// The most keys.
    pub(super) fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// This node has accepted an event of a key, which may come out later or in another one.
    pub(super) fn accept(&mut self, id: &str) {
        if !self.accepted.contains_key(id) {
            if self.accepted.len() >= self.keys_max {
                self.accepted.pop_front();
            }
            self.accepted.insert(id.into(), ());
        }
    }

    /// An event of a key has come out. It has to be stored if this node has accepted an event of the key since the last
    /// one.
    pub(super) fn come_out(&mut self, id: &Arc<str>) {
        if self.accepted.remove(id).is_some() {
            self.mark_unstored(id);
        }
    }

    /// Whether Redis may lack the last event of a key.
    pub(super) fn is_unstored(&self, id: &str) -> bool {
        self.unstored.contains_key(id)
    }

    /// Redis may lack the last event of a key.
    pub(super) fn mark_unstored(&mut self, id: &Arc<str>) {
        if !self.unstored.contains_key(id) {
            if self.unstored.len() >= self.keys_max {
                // Its event is the first that is forgotten, too.
                self.unstored.pop_front();
            }
            self.unstored.insert(Arc::clone(id), None);
        }
    }

    /// Whether Redis may lack an event.
    pub(super) fn has_unstored(&self) -> bool {
        !self.unstored.is_empty()
    }

    /// Takes the events to store, as far as their frames fit into `bytes`. That of another node is left to it, unless it
    /// is still the last one at the next call.
    pub(super) fn take_unstored(&mut self, node: NodeId, bytes: &mut usize) -> Vec<(Arc<str>, LastEvent)> {
        let mut taken = Vec::new();
        for _ in 0..self.unstored.len() {
            let next = if *bytes > 0 { self.unstored.pop_front() } else { None };
            let Some((id, seen)) = next else { break };
            let Some(event) = self.events.get(&id) else { continue };
            // Without an origin it is an event that each node gets by itself.
            let Some(origin) = event.origin else { continue };
            if origin.node == node || seen == Some(event.place) {
                *bytes = bytes.saturating_sub(event.frame.bytes().len());
                taken.push((id, event.clone()));
            } else {
                let place = event.place;
                self.unstored.insert(id, Some(place));
            }
        }
        taken
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
