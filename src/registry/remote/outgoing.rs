//! The queue of commands for the other nodes. The registry fills it under the locks of channels and users, so other
//! nodes get the changes of a channel in the order in which they happened. `cluster/link.rs` takes the commands out.
//! While Redis is away, events wait here within limits; beyond them publishers are refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::registry::inbox::Event;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::Publish;

/// The most commands in one round trip to Redis.
pub(crate) const ROUND_COMMANDS_MAX: usize = 2000;
/// The most bytes of events and snapshots in one round trip; a single one may be larger.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Beyond these limits publishers have to wait.
#[derive(Debug, Default, Clone, Copy)]
pub struct BufferLimits {
    /// Bytes of memory for the events that may wait for the link.
    pub bytes_max: usize,
    /// How long the link may be away.
    pub time: Duration,
}

/// The commands for the other nodes that wait or are in flight.
#[derive(Debug, Default)]
pub struct Outgoing {
    node: NodeId,
    limits: BufferLimits,
    queue: Mutex<Queue>,
    /// Memory of the events that wait or are in flight. Changes under the queue's lock.
    bytes: AtomicUsize,
    linked: AtomicBool,
    filled: Notify,
    views: Notify,
    implausible: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    in_flight: usize,
    numbers: u64,
    lost_at: Option<Instant>,
    linked_at: Option<Instant>,
    /// Whether there has ever been a link.
    joined: bool,
    /// Events dropped before there was a link.
    dropped: u64,
}

impl Outgoing {
    /// An empty queue without a link.
    pub fn new(node: NodeId, limits: BufferLimits) -> Self {
        Self { node, limits, ..Self::default() }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The number of the last event.
    pub(crate) fn last_number(&self) -> u64 {
        self.queue.lock().numbers
    }

    /// Whether there is a link to the other nodes. Without one this node decides alone.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Since when there has been a link, now or the last time.
    pub(crate) fn linked_at(&self) -> Option<Instant> {
        self.queue.lock().linked_at
    }

    /// Whether publishers must wait: too much waits for the link, or the link has been away too long.
    pub fn is_full(&self) -> bool {
        if self.is_linked() && self.bytes.load(Ordering::Relaxed) <= self.limits.bytes_max {
            return false;
        }
        let queue = self.queue.lock();
        let too_long = queue.joined && queue.lost_at.is_some_and(|lost| lost.elapsed() > self.limits.time);
        too_long || (queue.joined && self.bytes.load(Ordering::Relaxed) > self.limits.bytes_max)
    }

    /// Appends a command. Without a link only events wait: the next link gets the whole state of this node.
    pub(crate) fn push(&self, command: Command) {
        let mut queue = self.queue.lock();
        if self.is_linked() {
            queue.commands.push_back(command);
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// Appends an event. Returns its place in the cluster.
    pub(crate) fn publish(
        &self,
        app: &Arc<str>,
        channel: &ChannelName,
        event: &Event,
        cache_for: Option<Duration>,
    ) -> Option<Origin> {
        let mut queue = self.queue.lock();
        if !queue.joined && self.bytes.load(Ordering::Relaxed) > self.limits.bytes_max {
            // No node has ever had a message of this one, so none misses the events.
            queue.dropped += queue.commands.len() as u64;
            queue.commands.clear();
            self.bytes.store(0, Ordering::Relaxed);
        }
        queue.numbers += 1;
        let number = queue.numbers;
        let publish = Publish { number, event: event.clone(), cache_for };
        let topic = Topic::Channel(channel.clone());
        let command = Command { app: Arc::clone(app), topic, operation: Operation::Publish(publish) };
        self.bytes.fetch_add(command.event_cost(), Ordering::Relaxed);
        queue.commands.push_back(command);
        drop(queue);
        self.filled.notify_one();
        Origin::new(self.node, number)
    }

    /// Takes the commands for one round trip, which are in flight from now on.
    pub fn take(&self) -> Vec<Command> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fits = |command: &&Command| {
            bytes += command.round_cost();
            bytes <= ROUND_BYTES_MAX
        };
        let count =
            queue.commands.iter().take(ROUND_COMMANDS_MAX).take_while(fits).count().max(1).min(queue.commands.len());
        queue.in_flight += count;
        queue.commands.drain(..count).collect()
    }

    /// Puts taken commands back, before all others.
    pub fn requeue(&self, commands: Vec<Command>) {
        let mut queue = self.queue.lock();
        queue.in_flight -= commands.len();
        queue.push_front(commands);
    }

    /// Commands in flight have been carried out.
    pub fn complete(&self, commands: &[Command]) {
        let cost = commands.iter().map(Command::event_cost).sum();
        let mut queue = self.queue.lock();
        queue.in_flight -= commands.len();
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    /// Waits until there is a command.
    pub async fn filled(&self) {
        loop {
            if !self.queue.lock().commands.is_empty() {
                return;
            }
            self.filled.notified().await;
        }
    }

    /// The patterns of this node's views have changed.
    pub(crate) fn notify_views_changed(&self) {
        self.views.notify_one();
    }

    /// Waits until the patterns of views have changed since the last call.
    pub async fn views_changed(&self) {
        self.views.notified().await;
    }

    /// Counts an implausible message, which was ignored.
    pub fn report_implausible(&self) {
        self.implausible.fetch_add(1, Ordering::Relaxed);
    }

    /// Implausible messages since the last call.
    pub fn take_implausible(&self) -> u64 {
        self.implausible.swap(0, Ordering::Relaxed)
    }

    /// Accepts all commands from now on. Returns whether there has been a link before.
    pub fn link(&self) -> bool {
        let mut queue = self.queue.lock();
        self.linked.store(true, Ordering::Release);
        (queue.lost_at, queue.linked_at) = (None, Some(Instant::now()));
        std::mem::replace(&mut queue.joined, true)
    }

    /// The link is lost. Events stay for the next link, those of `in_flight` included: they may not have arrived.
    pub fn unlink(&self, in_flight: Vec<Command>) {
        let mut queue = self.queue.lock();
        self.linked.store(false, Ordering::Release);
        queue.lost_at.get_or_insert_with(Instant::now);
        queue.in_flight = 0;
        queue.push_front(in_flight);
        queue.commands.retain(Command::is_event);
    }

    /// Commands that wait or are in flight, and the memory of their events.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.commands.len() + queue.in_flight, self.bytes.load(Ordering::Relaxed))
    }

    /// Events dropped before there was a link, since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().dropped)
    }
}

impl Queue {
    fn push_front(&mut self, commands: Vec<Command>) {
        for command in commands.into_iter().rev() {
            self.commands.push_front(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::channel::StoredEvent;
    use crate::protocol::event;
    use crate::registry::remote::command::StoreEvents;

    #[test]
    fn a_round_has_few_snapshots() {
        let outgoing = Outgoing::new(NodeId::random(), BufferLimits { bytes_max: 1 << 20, time: Duration::ZERO });
        outgoing.link();
        let topic = Topic::Channel(ChannelName::parse("scada", 200).unwrap());
        let frame = event::published("scada", "e", &format!("\"{}\"", "x".repeat(1 << 20)));
        let store = || {
            let origin = Origin::new(NodeId::random(), 1).unwrap();
            let event = StoredEvent { field: String::new(), origin, since: Instant::now(), frame: frame.clone() };
            let store = StoreEvents { events: vec![event], time: Duration::ZERO, keys_max: 1, known: Vec::new() };
            Operation::StoreEvents(Box::new(store))
        };
        let operations: [&dyn Fn() -> Operation; 4] =
            [&|| Operation::open(true).1, &|| Operation::fetch_events().1, &|| Operation::open(false).1, &store];
        let rounds = operations.map(|operation| {
            for _ in 0..100 {
                outgoing.push(Command { app: "app-id".into(), topic: topic.clone(), operation: operation() });
            }
            let mut taken = Vec::new();
            while outgoing.waiting().0 > 0 {
                let commands = outgoing.take();
                taken.push(commands.len());
                outgoing.complete(&commands);
            }
            taken
        });
        assert_eq!(rounds.map(|round| round[0]), [16, 16, 100, 3]);
        assert_eq!(outgoing.waiting(), (0, 0));
    }
}
