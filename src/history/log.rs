//! The last events of a channel, numbered, within the bounds of its rule and of its app.
//! `channel` appends to it and reads what somebody has missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::history::rule::HistoryRule;
use crate::protocol::frame::Frame;
use crate::protocol::socket_id::SocketId;

/// The memory of an event besides its frame.
const OVERHEAD: usize = 128;

/// The number of an event on its channel and node, counted from one; also the place behind it. 0 is the place before
/// all events.
pub type Position = u64;

/// The bytes of all histories of an app.
#[derive(Debug)]
pub struct HistoryBytes {
    max: AtomicUsize,
    used: AtomicUsize,
    evicted: AtomicU64,
    /// The highest number of a log that is gone. Shards may still know it, so a new log begins there.
    numbered: AtomicU64,
}

/// The last events of a channel.
#[derive(Debug)]
pub(super) struct EventLog {
    entries: VecDeque<Entry>,
    /// The number of the last event, kept or not.
    last: Position,
    bytes: usize,
    of_app: Arc<HistoryBytes>,
}

#[derive(Debug)]
struct Entry {
    frame: Frame,
    /// The connection that must not get it.
    except: Option<SocketId>,
    at: Instant,
}

impl Default for HistoryBytes {
    fn default() -> Self {
        Self {
            max: AtomicUsize::new(usize::MAX),
            used: AtomicUsize::default(),
            evicted: AtomicU64::default(),
            numbered: AtomicU64::default(),
        }
    }
}

impl HistoryBytes {
    /// Bounds them from the next event on.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Bytes of the kept events, with what they cost besides their frames.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Events dropped because the app has no more bytes, since the last call.
    pub fn take_evicted(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.used() > self.max.load(Ordering::Relaxed)
    }
}

impl EventLog {
    pub(super) fn new(of_app: Arc<HistoryBytes>) -> Self {
        let last = of_app.numbered.load(Ordering::Relaxed);
        Self { entries: VecDeque::new(), last, bytes: 0, of_app }
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    /// Whether no event is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends an event, and drops those beyond the bounds. Returns its number.
    pub(super) fn push(
        &mut self,
        (frame, except): (&Frame, Option<SocketId>),
        rule: &HistoryRule,
        now: Instant,
    ) -> Position {
        let cost = cost(frame);
        self.last += 1;
        self.bytes += cost;
        self.of_app.used.fetch_add(cost, Ordering::Relaxed);
        self.entries.push_back(Entry { frame: frame.clone(), except, at: now });
        while self.entries.len() > rule.events_max || self.bytes > rule.bytes_max {
            self.drop_first();
        }
        while self.of_app.is_full() && self.drop_first() {
            self.of_app.evicted.fetch_add(1, Ordering::Relaxed);
        }
        self.drop_old(rule, now);
        self.last
    }

    /// Drops events that are too old.
    pub(super) fn drop_old(&mut self, rule: &HistoryRule, now: Instant) {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(entry.at) > rule.time()) {
            self.drop_first();
        }
    }

    /// Drops all events.
    pub(super) fn clear(&mut self) {
        while self.drop_first() {}
        self.entries.shrink_to_fit();
    }

    /// The events after a place, without those that exclude this connection, and how many are not kept any more.
    pub(super) fn after(&self, position: Position, except: Option<SocketId>) -> (u64, Vec<Frame>) {
        let before_first = self.last - self.entries.len() as u64;
        let missed = before_first.saturating_sub(position);
        let from = usize::try_from(position.saturating_sub(before_first)).unwrap_or(usize::MAX);
        let own = self.entries.iter().skip(from).filter(|entry| except.is_none() || entry.except != except);
        (missed, own.map(|entry| entry.frame.clone()).collect())
    }

    fn drop_first(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        let cost = cost(&entry.frame);
        self.bytes -= cost;
        self.of_app.used.fetch_sub(cost, Ordering::Relaxed);
        true
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.of_app.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of_app.numbered.fetch_max(self.last, Ordering::Relaxed);
    }
}

fn cost(frame: &Frame) -> usize {
    frame.bytes().len() + OVERHEAD
}
