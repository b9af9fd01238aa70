//! Samples: one of so many events of each key, and the last one after a silence if that is wanted.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hashlink::LinkedHashMap;

use crate::flow::rule::Sample;
use crate::flow::thinning::Buffered;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;

/// The silence after which the last event is delivered.
const SILENCE: Duration = Duration::from_secs(1);

/// The counts of a channel's keys, and the last events that may still be delivered.
#[derive(Debug)]
pub(super) struct Sampling {
    every: u32,
    trailing: bool,
    keys_max: usize,
    /// Events since the last one that was delivered, with that one. The key that has been silent longest is the first.
    counts: LinkedHashMap<Arc<str>, u32>,
    /// The last events that were not delivered, and when they came; the earliest is the first.
    waiting: LinkedHashMap<Arc<str>, (Buffered, Instant)>,
}

impl Sampling {
    pub(super) fn new(rule: &Sample, keys_max: usize) -> Self {
        let (counts, waiting) = (LinkedHashMap::new(), LinkedHashMap::new());
        Self { every: rule.every.max(1), trailing: rule.trailing, keys_max, counts, waiting }
    }

    /// Takes the key out that has been silent longest. Its next event is a first one again.
    fn remove_first(&mut self, sink: &mut Sink) {
        let Some((id, _)) = self.counts.pop_front() else { return };
        sink.counts.add(Outcome::Early);
        if let Some((buffered, _)) = self.waiting.remove(&id) {
            sink.deliver(&id, buffered);
        }
    }

    fn deliver_first(&mut self, sink: &mut Sink) {
        if let Some((id, (buffered, _))) = self.waiting.pop_front() {
            sink.deliver(&id, buffered);
        }
    }
}

impl Thinning for Sampling {
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) {
        let known = self.counts.remove_entry(item.id);
        if known.is_none() && self.counts.len() >= self.keys_max {
            self.remove_first(sink);
        }
        let (id, count) = known.unwrap_or_else(|| (item.id.into(), 0));
        if self.waiting.remove(&id).is_some() {
            sink.counts.add(Outcome::Dropped);
        }
        if count == 0 {
            sink.deliver(&id, Buffered::of(item));
        } else if self.trailing {
            self.waiting.insert(Arc::clone(&id), (Buffered::of(item), now.instant));
        } else {
            sink.counts.add(Outcome::Dropped);
        }
        self.counts.insert(id, (count + 1) % self.every);
    }

    fn run_due(&mut self, now: Now, sink: &mut Sink) {
        while self.next().is_some_and(|next| next <= now.instant) {
            self.deliver_first(sink);
        }
    }

    fn flush(&mut self, _now: Now, sink: &mut Sink) {
        while !self.waiting.is_empty() {
            self.deliver_first(sink);
        }
    }

    fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, (_, came))| *came + SILENCE)
    }

    fn is_pending(&self, id: &str) -> bool {
        self.waiting.contains_key(id)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}
