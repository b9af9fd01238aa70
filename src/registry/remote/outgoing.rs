//! The queue of commands for the other nodes. The registry fills it under the locks of channels and users, so other
//! nodes get the changes of a channel in the order in which they happened. `cluster/link.rs` takes the commands out.
//! While Redis is away, events wait here within limits. Beyond them publishers are refused, or, as the operator wants it,
//! the oldest events are dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::registry::inbox::Event;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::Publish;
use crate::registry::remote::missed::Missed;

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
    /// Publishers are never refused: events that do not fit are dropped.
    is_never_full: bool,
    queue: Mutex<Queue>,
    /// Memory of the events that wait or are in flight. Changes under the queue's lock.
    bytes: AtomicUsize,
    linked: AtomicBool,
    /// Since when there has been a link, now or the last time.
    linked_at: RwLock<Option<Instant>>,
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
    /// Whether there has ever been a link.
    joined: bool,
    /// Events dropped before there was a link.
    dropped: u64,
    /// Events dropped because they did not fit.
    missed: Missed,
}

impl Outgoing {
    /// An empty queue without a link.
    pub fn new(node: NodeId, limits: BufferLimits) -> Self {
        Self { node, limits, ..Self::default() }
    }

    /// A queue that refuses no publisher: the oldest events give way.
    pub fn never_full(self) -> Self {
        Self { is_never_full: true, ..self }
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
        *self.linked_at.read()
    }

    /// Whether publishers must wait: too much waits for the link, or the link has been away too long.
    pub fn is_full(&self) -> bool {
        let fits = self.is_linked() && self.bytes.load(Ordering::Relaxed) <= self.limits.bytes_max;
        if fits || self.is_never_full {
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
        if !queue.joined && !self.is_never_full && self.bytes.load(Ordering::Relaxed) > self.limits.bytes_max {
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
        if self.is_never_full {
            self.drop_excess(&mut queue);
        }
        drop(queue);
        self.filled.notify_one();
        Origin::new(self.node, number)
    }

    /// Drops events until the rest fits: those that have waited for too long, and the oldest beyond the bytes. Those in
    /// flight stay, and so does an event that is larger than all that may wait.
    fn drop_excess(&self, queue: &mut Queue) {
        let before = queue.missed.events();
        if !self.is_linked() {
            self.drop_outdated(queue);
        }
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        while bytes > self.limits.bytes_max {
            // With a link something else may stand first. To look for the oldest event behind it would take too long.
            let is_first = queue.commands.front().is_some_and(Command::is_event);
            let dropped = if is_first { queue.commands.pop_front() } else { queue.commands.pop_back() };
            match dropped {
                Some(event) if event.is_event() && event.event_cost() < bytes => {
                    bytes -= event.event_cost();
                    queue.missed.add(event);
                }
                dropped => {
                    queue.commands.extend(dropped);
                    break;
                }
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        if before == 0 && queue.missed.events() > 0 {
            tracing::warn!(
                "the other nodes miss events of this one until Redis keeps up again: more would wait than may \
                 (cluster.buffer_seconds, cluster.buffer_bytes_max)"
            );
        }
    }

    /// Drops events that have waited for too long.
    fn drop_outdated(&self, queue: &mut Queue) {
        let is_outdated = |command: &Command| command.has_waited_for(self.limits.time);
        while queue.commands.front().is_some_and(is_outdated) {
            let Some(event) = queue.commands.pop_front() else { return };
            self.bytes.fetch_sub(event.event_cost(), Ordering::Relaxed);
            queue.missed.add(event);
        }
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
        if queue.missed.events() > 0 && queue.commands.is_empty() && queue.in_flight == 0 {
            let reports = queue.end_outage();
            queue.commands.extend(reports);
            self.filled.notify_one();
        }
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
        *self.linked_at.write() = Some(Instant::now());
        self.linked.store(true, Ordering::Release);
        queue.lost_at = None;
        if self.is_never_full {
            self.drop_outdated(&mut queue);
            let reports = queue.end_outage();
            queue.push_front(reports);
        }
        std::mem::replace(&mut queue.joined, true)
    }

    /// The link is lost. Events stay for the next link, those of `in_flight` included: they may not have arrived.
    pub fn unlink(&self, in_flight: Vec<Command>) {
        let mut queue = self.queue.lock();
        self.linked.store(false, Ordering::Release);
        queue.lost_at.get_or_insert_with(Instant::now);
        queue.in_flight = 0;
        queue.push_front(in_flight);
        for command in std::mem::take(&mut queue.commands) {
            match command.is_event() {
                true => queue.commands.push_back(command),
                false => queue.missed.add(command),
            }
        }
    }

    /// Commands that wait or are in flight, and the memory of their events.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.commands.len() + queue.in_flight, self.bytes.load(Ordering::Relaxed))
    }

    /// Events that the other nodes miss since more had to wait than may. `None` where publishers are refused instead.
    pub fn missed(&self) -> Option<u64> {
        self.is_never_full.then(|| self.queue.lock().missed.events())
    }

    /// Events that the other nodes miss, since the last call. `None` where publishers are refused instead.
    pub fn take_missed(&self) -> Option<u64> {
        self.is_never_full.then(|| self.queue.lock().missed.take_uncounted())
    }

    /// Events dropped before there was a link, since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().dropped)
    }
}

impl Queue {
    /// All that waits is on its way. Returns reports to the other nodes of what they miss.
    fn end_outage(&mut self) -> Vec<Command> {
        let events = self.missed.end();
        if events > 0 {
            tracing::warn!(
                events,
                "the other nodes miss events that could not wait for Redis; it reports to them how many"
            );
        }
        self.missed.reports()
    }

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

    const SECOND: Duration = Duration::from_secs(1);

    /// A queue that is never full, where some of these events fit.
    fn never_full(events: usize) -> Outgoing {
        let bytes_max = events * cost();
        Outgoing::new(NodeId::random(), BufferLimits { bytes_max, time: Duration::from_secs(3600) }).never_full()
    }

    fn publish(outgoing: &Outgoing, channel: &str, bytes: usize, accepted: Instant) {
        let frame = event::published(channel, "e", &format!("\"{}\"", "x".repeat(bytes)));
        outgoing.publish(
            &"app-id".into(),
            &ChannelName::parse(channel, 200).unwrap(),
            &Event::of(frame, accepted),
            None,
        );
    }

    /// The memory of an event of 100 bytes.
    fn cost() -> usize {
        let outgoing = Outgoing::new(NodeId::random(), BufferLimits { bytes_max: usize::MAX, time: SECOND });
        publish(&outgoing, "a", 100, Instant::now());
        outgoing.waiting().1
    }

    fn close(outgoing: &Outgoing) {
        let topic = Topic::Channel(ChannelName::parse("b", 200).unwrap());
        outgoing.push(Command { app: "app-id".into(), topic, operation: Operation::Close });
    }

    /// The numbers of events, and reports of missed ones with their channels.
    fn shown(commands: &[Command]) -> Vec<String> {
        let shown = commands.iter().map(|Command { topic, operation, .. }| match (topic, operation) {
            (_, Operation::Publish(publish)) => publish.number.to_string(),
            (Topic::Channel(name), Operation::ReportMissed { events, .. }) => format!("{events} of {name}"),
            _ => "-".to_owned(),
        });
        shown.collect()
    }

    #[test]
    fn where_nobody_is_refused_the_oldest_events_give_way() {
        let (outgoing, now) = (never_full(3), Instant::now());
        for channel in ["a", "a", "b", "a", "a", "a"] {
            publish(&outgoing, channel, 100, now);
            assert!(!outgoing.is_full());
        }
        assert_eq!(
            (outgoing.waiting(), outgoing.missed(), outgoing.take_missed()),
            ((3, 3 * cost()), Some(3), Some(3))
        );
        publish(&outgoing, "a", 1000, now);
        publish(&outgoing, "a", 100, now);
        assert_eq!(outgoing.waiting().0, 1, "a large one leaves room for no other, and is the oldest then");
        outgoing.link();
        let commands = outgoing.take();
        let mut reports = shown(&commands);
        reports[..2].sort_unstable();
        assert_eq!(reports, ["1 of b", "6 of a", "8"], "the reports come before the rest");
        assert_eq!((outgoing.missed(), outgoing.take_missed(), outgoing.take_missed()), (Some(0), Some(4), Some(0)));
        outgoing.complete(&commands);
        assert_eq!((outgoing.waiting(), outgoing.take_dropped()), ((0, 0), 0));
    }

    #[test]
    fn events_that_have_waited_for_too_long_give_way() {
        let limits = BufferLimits { bytes_max: 1 << 20, time: Duration::from_secs(600) };
        let outgoing = Outgoing::new(NodeId::random(), limits).never_full();
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(Duration::from_secs(601)) else { return };
        publish(&outgoing, "a", 1, long_ago);
        assert_eq!(outgoing.missed(), Some(1));
        outgoing.link();
        outgoing.complete(&outgoing.take());
        publish(&outgoing, "a", 1, long_ago);
        assert_eq!((outgoing.missed(), outgoing.waiting().0), (Some(0), 1), "with a link none is too old");
        outgoing.unlink(outgoing.take());
        publish(&outgoing, "a", 1, now);
        assert_eq!((outgoing.missed(), outgoing.waiting().0), (Some(1), 1));
        outgoing.link();
        assert_eq!(shown(&outgoing.take()), ["1 of a", "3"]);
    }

    #[test]
    fn while_redis_is_slow_what_is_in_flight_stays() {
        let (outgoing, now) = (never_full(3), Instant::now());
        outgoing.link();
        (0..3).for_each(|_| publish(&outgoing, "a", 100, now));
        let in_flight = outgoing.take();
        publish(&outgoing, "a", 100, now);
        assert_eq!((outgoing.waiting().0, outgoing.missed()), (3, Some(1)));
        close(&outgoing);
        publish(&outgoing, "a", 100, now);
        assert_eq!((outgoing.waiting().0, outgoing.missed()), (4, Some(2)), "other commands stay, too");
        outgoing.complete(&in_flight);
        (0..3).for_each(|_| publish(&outgoing, "b", 100, now));
        let rest = outgoing.take();
        assert_eq!(shown(&rest), ["-", "6", "7", "8"]);
        outgoing.complete(&rest);
        let reports = outgoing.take();
        assert_eq!(
            (shown(&reports), outgoing.missed()),
            (vec!["2 of a".to_owned()], Some(0)),
            "once the rest has gone"
        );
        outgoing.unlink(reports);
        assert_eq!(outgoing.waiting(), (0, 0));
        outgoing.link();
        assert_eq!(shown(&outgoing.take()), ["2 of a"], "the link was lost before they knew");
    }

    #[test]
    fn an_event_larger_than_all_that_may_wait_is_sent_if_it_is_alone() {
        let (outgoing, now) = (never_full(1), Instant::now());
        outgoing.link();
        publish(&outgoing, "a", 10_000, now);
        assert_eq!((outgoing.waiting().0, outgoing.missed()), (1, Some(0)));
    }

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
