//! The deadlines of the flows of all apps: one heap, and one thread that sleeps until the nearest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::protocol::channel::ChannelName;
use crate::registry::total::ChannelTotal;

/// Flows of all apps before the other nodes and of views. They come with the names of published events, so nothing else
/// bounds them.
pub(super) const FLOWS_MAX: usize = 65_536;

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
#[derive(Debug)]
pub struct Deadlines {
    heap: Mutex<BinaryHeap<Reverse<(Instant, Due)>>>,
    earlier: Notify,
    /// See [`FLOWS_MAX`].
    pub(super) flows: Arc<ChannelTotal>,
    has_ended: AtomicBool,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            heap: Mutex::default(),
            earlier: Notify::default(),
            flows: ChannelTotal::new(FLOWS_MAX),
            has_ended: AtomicBool::new(false),
        }
    }
}

impl Deadlines {
    /// From now on no app takes flow rules: the process stops.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
    }

    /// Whether no app takes flow rules any more.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

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

    /// Calls `f` for each channel when it is due, without end. A panic costs this turn of this channel, and is counted.
    pub async fn run(&self, panics: &IntCounter, f: impl Fn(&Due)) {
        loop {
            for due in self.due().await {
                if catch_unwind(AssertUnwindSafe(|| f(&due))).is_err() {
                    panics.inc();
                }
            }
        }
    }

    /// Waits until something is due, and takes it out.
    async fn due(&self) -> Vec<Due> {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_turn_of_one_channel() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        let due = |channel: &str| Due {
            app: "app".into(),
            channel: ChannelName::parse(channel, 20).unwrap(),
            receivers: Receivers::Subscribers,
        };
        for channel in ["a", "broken", "c"] {
            deadlines.add(now, due(channel));
        }
        let (panics, ran) = (IntCounter::new("panics", "Panics").unwrap(), RefCell::new(Vec::new()));
        let all_ran = Notify::new();
        let turn = |due: &Due| {
            assert_ne!(due.channel.as_str(), "broken");
            ran.borrow_mut().push(due.channel.as_str().to_owned());
            match ran.borrow().len() {
                // The task has taken all three by now, and goes on.
                2 => deadlines.add(now, Due { receivers: Receivers::Views, ..due.clone() }),
                3 => all_ran.notify_one(),
                _ => (),
            }
        };
        tokio::select! {
            () = deadlines.run(&panics, turn) => (),
            () = all_ran.notified() => (),
        }
        assert_eq!((&**ran.borrow(), panics.get()), (&["a", "c", "c"].map(String::from)[..], 1));
    }
}
