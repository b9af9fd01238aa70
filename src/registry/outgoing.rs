//! What flows up to the other nodes: one queue, filled under the locks of the channels, emptied by the cluster.
//! So other nodes hear of a channel in the order in which things happened here.

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
use crate::protocol::envelope::Topic;
use crate::registry::inbox::Event;

/// Something for the cluster to do.
#[derive(Debug)]
pub struct Order {
    /// The app's id.
    pub app: Arc<str>,
    /// What it is about.
    pub topic: Topic,
    /// What to do.
    pub task: Task,
}

/// See [`Order`].
#[derive(Debug)]
pub enum Task {
    /// Hand an event to the other nodes with subscribers.
    Publish(Publish),
    /// Begin to hear of the topic. The number ties the answer to who asked.
    Listen(u64),
    /// Hear of it no longer.
    Forget,
    /// A user's first connection came, or the last one went.
    Member(Placement),
    /// Tell how many connections are on the channel here.
    Count,
}

impl Task {
    /// Begin to hear of a topic; comes with the number of this order.
    pub(super) fn listen() -> (u64, Self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (number, Self::Listen(number))
    }
}

/// An event for other nodes.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Grows with each event of this node.
    pub number: u64,
    /// The event.
    pub event: Event,
    /// How long a cache channel remembers it.
    pub cache_for: Option<Duration>,
}

/// A user's first connection on this node, or the end of the last one.
#[derive(Debug)]
pub struct Placement {
    /// Ties the answer to those who wait for it.
    pub number: u64,
    /// The user.
    pub user_id: Arc<str>,
    /// JSON about a user that comes; none for one that goes.
    pub user_info: Option<Arc<str>>,
    /// See [`crate::protocol::envelope::Change::since`]; 0 for from now on.
    pub since: u64,
    /// Distinct users that the channel may have.
    pub members_max: usize,
}

/// What one round trip to Redis carries at most.
pub(super) const ROUND_ORDERS_MAX: usize = 2000;
/// See [`ROUND_ORDERS_MAX`]; a single event may be larger.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// When publishers have to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Bytes of memory for the events that may wait for the link.
    pub bytes_max: usize,
    /// How long the link may be away.
    pub time: Duration,
}

/// What waits for the other nodes to hear it.
#[derive(Debug)]
pub struct Outgoing {
    node: NodeId,
    patience: Patience,
    queue: Mutex<Queue>,
    /// Memory for the events in the queue and for those under way. Changes under the queue's lock.
    bytes: AtomicUsize,
    linked: AtomicBool,
    filled: Notify,
    views: Notify,
    implausible: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    orders: VecDeque<Order>,
    under_way: usize,
    numbers: u64,
    lost_at: Option<Instant>,
    /// Whether there has been a link at all.
    joined: bool,
    /// Events forgotten before there was a link.
    unheard: u64,
}

impl Outgoing {
    /// An empty queue without a link.
    pub fn new(node: NodeId, patience: Patience) -> Self {
        let (queue, bytes, linked) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        let (filled, views, implausible) = (Notify::new(), Notify::new(), AtomicU64::new(0));
        Self { node, patience, queue, bytes, linked, filled, views, implausible }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether there is a link to the other nodes. Without one everything is decided here.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Whether publishers must wait, because too much waits for the link already or it has been away too long.
    pub fn is_full(&self) -> bool {
        if self.is_linked() && self.bytes.load(Ordering::Relaxed) <= self.patience.bytes_max {
            return false;
        }
        let queue = self.queue.lock();
        let too_long = queue.joined && queue.lost_at.is_some_and(|lost| lost.elapsed() > self.patience.time);
        too_long || (queue.joined && self.bytes.load(Ordering::Relaxed) > self.patience.bytes_max)
    }

    /// Puts in an order. Without a link only events wait; the rest is told anew when it is back.
    pub(super) fn put(&self, order: Order) {
        let mut queue = self.queue.lock();
        if self.is_linked() {
            queue.orders.push_back(order);
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// Puts in an event.
    pub(super) fn publish(&self, app: &Arc<str>, channel: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        let mut queue = self.queue.lock();
        if !queue.joined && self.bytes.load(Ordering::Relaxed) > self.patience.bytes_max {
            // Nobody has ever heard of this node, so nobody misses what it has to say.
            queue.unheard += queue.orders.len() as u64;
            queue.orders.clear();
            self.bytes.store(0, Ordering::Relaxed);
        }
        queue.numbers += 1;
        let publish = Publish { number: queue.numbers, event: event.clone(), cache_for };
        let topic = Topic::Channel(channel.clone());
        let order = Order { app: Arc::clone(app), topic, task: Task::Publish(publish) };
        self.bytes.fetch_add(order.event_cost(), Ordering::Relaxed);
        queue.orders.push_back(order);
        drop(queue);
        self.filled.notify_one();
    }

    /// Takes what waits, at most as much as one round trip should carry, and counts it as under way.
    pub fn take(&self) -> Vec<Order> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fits = |order: &&Order| {
            bytes += order.event_cost();
            bytes <= ROUND_BYTES_MAX
        };
        let count = queue.orders.iter().take(ROUND_ORDERS_MAX).take_while(fits).count().max(1).min(queue.orders.len());
        queue.under_way += count;
        queue.orders.drain(..count).collect()
    }

    /// What was taken waits again, before all else.
    pub fn put_back(&self, orders: Vec<Order>) {
        let mut queue = self.queue.lock();
        queue.under_way -= orders.len();
        queue.put_first(orders);
    }

    /// Orders that were under way have been done.
    pub fn done(&self, orders: &[Order]) {
        let cost = orders.iter().map(Order::event_cost).sum();
        let mut queue = self.queue.lock();
        queue.under_way -= orders.len();
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    /// Ends when there is something to take.
    pub async fn filled(&self) {
        loop {
            if !self.queue.lock().orders.is_empty() {
                return;
            }
            self.filled.notified().await;
        }
    }

    /// Views of this node see other channels than before.
    pub(super) fn change_views(&self) {
        self.views.notify_one();
    }

    /// Ends when that has happened since it last ended.
    pub async fn views_changed(&self) {
        self.views.notified().await;
    }

    /// Something that cannot be true has been heard, and left out.
    pub fn doubt(&self) {
        self.implausible.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that has happened since the last time.
    pub fn take_implausible(&self) -> u64 {
        self.implausible.swap(0, Ordering::Relaxed)
    }

    /// From now on everything is told to the others. Returns whether it has been so before.
    pub fn link(&self) -> bool {
        let mut queue = self.queue.lock();
        self.linked.store(true, Ordering::Release);
        queue.lost_at = None;
        std::mem::replace(&mut queue.joined, true)
    }

    /// From now on everything is decided here. `under_way` are the orders that may not have been heard; of them
    /// and of those that wait the events are kept for the next link.
    pub fn unlink(&self, under_way: Vec<Order>) {
        let mut queue = self.queue.lock();
        self.linked.store(false, Ordering::Release);
        queue.lost_at.get_or_insert_with(Instant::now);
        queue.under_way = 0;
        queue.put_first(under_way);
        queue.orders.retain(Order::is_event);
    }

    /// Orders that wait or are under way, and what their events cost.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.orders.len() + queue.under_way, self.bytes.load(Ordering::Relaxed))
    }

    /// Events forgotten before there was a link, since the last time.
    pub fn take_unheard(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().unheard)
    }
}

impl Queue {
    fn put_first(&mut self, orders: Vec<Order>) {
        for order in orders.into_iter().rev() {
            self.orders.push_front(order);
        }
    }
}

impl Order {
    /// Whether it hands on an event.
    pub fn is_event(&self) -> bool {
        matches!(self.task, Task::Publish(_))
    }

    /// Bytes of memory that an event takes while it waits.
    fn event_cost(&self) -> usize {
        match &self.task {
            Task::Publish(publish) => size_of::<Self>() + publish.event.frame.bytes().len(),
            _ => 0,
        }
    }
}
