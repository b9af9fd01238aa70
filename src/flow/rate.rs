//! A rate: so many events of a channel per second, with a token bucket. Beyond it the newest event of each key waits, or
//! events are dropped.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use hashlink::LinkedHashMap;

use crate::flow::rule::Over;
use crate::flow::rule::Rate;
use crate::flow::thinning::Buffered;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;

/// The bucket of a channel, and what waits for its tokens.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// The time of one token.
    interval: Duration,
    /// The time that a full bucket is ahead.
    depth: Duration,
    over: Over,
    keys_max: usize,
    /// When the bucket is full again.
    full_at: Instant,
    /// The newest event of each key. The key that has waited longest is the first.
    waiting: LinkedHashMap<Arc<str>, Buffered>,
}

impl RateLimit {
    pub(super) fn new(rule: &Rate, keys_max: usize, now: Instant) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / rule.per_second).unwrap_or(Duration::MAX / 2);
        let burst = rule.burst.unwrap_or(rule.per_second.ceil() as u32).max(1);
        Self {
            interval,
            depth: interval.saturating_mul(burst - 1),
            over: rule.over,
            keys_max,
            full_at: now,
            waiting: LinkedHashMap::new(),
        }
    }

    /// Takes a token if there is one.
    fn take_token(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now);
        let is_there = full_at - now <= self.depth;
        if is_there {
            self.full_at = full_at + self.interval;
        }
        is_there
    }
}

impl Thinning for RateLimit {
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) {
        if let Some(buffered) = self.waiting.get_mut(item.id) {
            sink.counts.add(Outcome::Replaced);
            *buffered = Buffered::of(item);
            return;
        }
        if self.waiting.is_empty() && self.take_token(now.instant) {
            return sink.deliver(&item.id.into(), Buffered::of(item));
        }
        if self.over == Over::Drop {
            return sink.counts.add(Outcome::Dropped);
        }
        if self.waiting.len() >= self.keys_max
            && let Some((id, buffered)) = self.waiting.pop_front()
        {
            sink.counts.add(Outcome::Early);
            sink.deliver(&id, buffered);
        }
        self.waiting.insert(item.id.into(), Buffered::of(item));
    }

    fn run_due(&mut self, now: Now, sink: &mut Sink) {
        while !self.waiting.is_empty() && self.take_token(now.instant) {
            if let Some((id, buffered)) = self.waiting.pop_front() {
                sink.deliver(&id, buffered);
            }
        }
    }

    fn flush(&mut self, _now: Now, sink: &mut Sink) {
        while let Some((id, buffered)) = self.waiting.pop_front() {
            sink.deliver(&id, buffered);
        }
    }

    fn next(&self) -> Option<Instant> {
        let next = self.full_at.checked_sub(self.depth).unwrap_or(self.full_at);
        (!self.waiting.is_empty()).then_some(next)
    }

    fn is_pending(&self, id: &str) -> bool {
        self.waiting.contains_key(id)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}
