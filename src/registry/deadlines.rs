//! The deadlines of the flows of all apps: one heap, and one task of `node` that sleeps until the nearest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::protocol::channel::ChannelName;

/// The receivers of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receivers {
    /// All nodes, this one included: a rule thins before they get an event.
    Nodes,
    /// This node alone, with such a rule: each node gets the events by itself.
    Here,
    /// The channel's subscribers.
    Subscribers,
    /// Those who see the channel by a view.
    Views,
}

/// A channel with something to deliver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The app's id.
    pub app: Arc<str>,
    /// The channel.
    pub channel: ChannelName,
    /// The receivers.
    pub receivers: Receivers,
}

/// All deadlines, the nearest first.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Mutex<BinaryHeap<Reverse<(Instant, Due)>>>,
    earlier: Notify,
}

impl Deadlines {
    /// Adds a deadline.
    pub(super) fn add(&self, at: Instant, due: Due) {
        let mut heap = self.heap.lock();
        let is_earliest = heap.peek().is_none_or(|Reverse((first, _))| at < *first);
        heap.push(Reverse((at, due)));
        drop(heap);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    /// Waits until something is due, and takes it out.
    pub async fn due(&self) -> Vec<Due> {
        loop {
            let next = self.heap.lock().peek().map(|Reverse((at, _))| *at);
            let now = Instant::now();
            match next {
                Some(next) if next <= now => return self.take(now),
                Some(next) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(next.into()) => (),
                        () = self.earlier.notified() => (),
                    }
                }
                None => self.earlier.notified().await,
            }
        }
    }

    fn take(&self, now: Instant) -> Vec<Due> {
        let mut heap = self.heap.lock();
        let mut due = Vec::new();
        while heap.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            due.extend(heap.pop().map(|Reverse((_, due))| due));
        }
        due.sort_unstable();
        due.dedup();
        due
    }
}
