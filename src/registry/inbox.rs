//! The inboxes of the shards: one for each, which anybody fills and the shard empties.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use rustls::ServerConnection;
use tokio::sync::Notify;

use crate::history::reader::Reader;
use crate::protocol::channel::ChannelName;
use crate::protocol::code::Close;
use crate::protocol::connect::ConnectRequest;
pub use crate::protocol::event::Event;
use crate::protocol::frame::Frame;
use crate::registry::address::Address;
use crate::registry::address::ShardIndex;
use crate::registry::address::Slot;
use crate::registry::connections::ConnectionQuery;

/// The id of a channel or view while it has subscribers; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u64);

impl ChannelId {
    /// A new one.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Something for a shard to do.
#[derive(Debug)]
pub enum ShardMessage {
    /// A WebSocket that has been upgraded.
    Connect(Box<Upgraded>),
    /// An event for the shard's subscribers of a channel.
    Event(ChannelId, Event),
    /// A connection has joined a channel: these frames, then the channel's events.
    Joined(Slot, ChannelId, Vec<Frame>),
    /// A connection has joined a channel with a view: the view's events from now on.
    Mirror(Slot, ChannelId),
    /// A connection has left a channel or a view: the channel's events so far, then no more.
    Unsubscribed(Slot, ChannelId),
    /// A connection cannot join a channel, because there are as many members as there may be.
    Refused(Slot, ChannelName),
    /// The client of a connection has to confirm the channel's events.
    Track(Slot, ChannelId, Arc<Reader>),
    /// A frame for one connection.
    Send(Slot, Frame),
    /// Close one connection.
    Close(Slot, Close),
    /// Answer the operator about connections.
    List(Box<ConnectionQuery>),
    /// Close the connections of the app with this id.
    CloseApp(Arc<str>, Close),
    /// Close all connections this way, spread over this time, refuse whoever comes, and end.
    Drain(Duration, Close),
}

impl ShardMessage {
    /// The memory that it takes.
    fn cost(&self) -> usize {
        let bytes = match self {
            Self::Event(_, event) => event.frame.bytes().len(),
            Self::Send(_, frame) => frame.bytes().len(),
            Self::Joined(_, _, frames) => frames.iter().map(|frame| frame.bytes().len()).sum(),
            _ => 0,
        };
        MESSAGE_COST + bytes
    }
}

/// A connection that hyper gave back after the upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection, non-blocking.
    pub stream: std::net::TcpStream,
    /// Its TLS, if it has any, with decrypted bytes that nobody has read.
    pub tls: Option<Box<ServerConnection>>,
    /// The answer to the upgrade, which goes out with the first frame.
    pub answer: Vec<u8>,
    /// Bytes that hyper has already read.
    pub read_ahead: Bytes,
    /// The client's request.
    pub request: ConnectRequest,
    /// Whether it negotiated compression.
    pub compresses: bool,
    /// Dropped when the socket closes: the permit of its address.
    pub permit: Option<Box<dyn Permit>>,
}

/// Something that counts while it is there.
pub trait Permit: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Permit for T {}

/// The cost of a message besides its frames: its place in a queue that grows by doubling, and the allocations.
const MESSAGE_COST: usize = 2 * size_of::<ShardMessage>();
/// Bytes that may wait for one shard. Beyond it publishers get 503.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long events that cannot be refused wait for a shard that lags so far behind.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// One shard's inbox: swapped out whole, with one wake-up however much it holds.
#[derive(Debug, Default)]
struct Inbox {
    messages: Mutex<Vec<ShardMessage>>,
    waiting_bytes: AtomicUsize,
    filled: Notify,
}

/// The inboxes of all shards.
#[derive(Debug)]
pub struct Inboxes {
    shards: Vec<Inbox>,
    /// Bytes of the smallest frame that may be compressed; `None` if none may.
    compressed_bytes_min: Option<usize>,
    /// The last wait for capacity was in vain.
    is_stuck: AtomicBool,
}

/// Puts messages into inboxes under a lock, and wakes the shards once the lock is released.
#[derive(Debug)]
#[must_use = "a shard that is not woken may sleep over its messages"]
pub(crate) struct InboxWriter<'a> {
    inboxes: &'a Inboxes,
    /// Shards to wake, as bits.
    sleeping: u64,
}

impl InboxWriter<'_> {
    /// Puts a message into a shard's inbox.
    pub(super) fn put(&mut self, shard: ShardIndex, message: ShardMessage) {
        let inbox = &self.inboxes.shards[shard];
        let mut messages = inbox.messages.lock();
        inbox.waiting_bytes.fetch_add(message.cost(), Ordering::Relaxed);
        if messages.is_empty() {
            self.sleeping |= 1 << shard;
        }
        messages.push(message);
    }

    /// Puts an event into the inboxes of these shards.
    pub(super) fn put_event(&mut self, shards: impl Iterator<Item = ShardIndex>, id: ChannelId, event: &Event) {
        let bytes_min = self.inboxes.compressed_bytes_min;
        let may_compress = bytes_min.is_some_and(|bytes_min| event.frame.payload_len() >= bytes_min);
        let compressed = may_compress.then(Arc::default);
        for shard in shards {
            self.put(shard, ShardMessage::Event(id, Event { compressed: compressed.clone(), ..event.clone() }));
        }
    }

    /// Puts a message for one connection.
    pub(super) fn put_to(&mut self, address: Address, message: impl FnOnce(Slot) -> ShardMessage) {
        self.put(usize::from(address.shard), message(address.slot));
    }

    /// Wakes the shards whose inboxes were empty.
    pub(super) fn wake(self) {
        let mut bits = self.sleeping;
        while bits != 0 {
            self.inboxes.shards[bits.trailing_zeros() as usize].filled.notify_one();
            bits &= bits - 1;
        }
    }
}

impl Inboxes {
    /// Empty inboxes for so many shards.
    pub fn new(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Inbox::default()).collect();
        Self { shards, compressed_bytes_min: None, is_stuck: AtomicBool::new(false) }
    }

    /// The same inboxes, for events that may be compressed from so many bytes on.
    pub fn compressing(self, bytes_min: Option<usize>) -> Self {
        Self { compressed_bytes_min: bytes_min, ..self }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Starts to put messages under a lock.
    pub(super) fn writer(&self) -> InboxWriter<'_> {
        InboxWriter { inboxes: self, sleeping: 0 }
    }

    /// Puts a message into a shard's inbox and wakes the shard.
    pub fn send(&self, shard: ShardIndex, message: ShardMessage) {
        let mut writer = self.writer();
        writer.put(shard, message);
        writer.wake();
    }

    /// Whether some shard lags so far behind that publishers should wait.
    pub fn is_full(&self) -> bool {
        self.shards.iter().any(|inbox| inbox.waiting_bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX)
    }

    /// Blocks the thread until no shard lags so far behind. False when that takes too long; then until it is over
    /// nobody waits for it.
    pub fn wait_for_capacity(&self) -> bool {
        let began = Instant::now();
        while self.is_full() {
            if self.is_stuck.load(Ordering::Relaxed) || began.elapsed() > WAIT_MAX {
                self.is_stuck.store(true, Ordering::Relaxed);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.is_stuck.store(false, Ordering::Relaxed);
        true
    }

    /// Everything in a shard's inbox, by way of an empty vector that takes its place.
    pub fn take(&self, shard: ShardIndex, empty: Vec<ShardMessage>) -> Vec<ShardMessage> {
        let inbox = &self.shards[shard];
        let mut messages = inbox.messages.lock();
        inbox.waiting_bytes.store(0, Ordering::Relaxed);
        std::mem::replace(&mut *messages, empty)
    }

    /// Ends when a shard's inbox has been filled since it was last taken.
    pub async fn filled(&self, shard: ShardIndex) {
        self.shards[shard].filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event;

    #[test]
    fn nobody_waits_for_ever_for_a_shard_that_lags() {
        let inboxes = Inboxes::new(2);
        assert!(inboxes.wait_for_capacity());
        let frame = event::published("a", "e", &format!("\"{}\"", "x".repeat(WAITING_BYTES_MAX)));
        inboxes.send(1, ShardMessage::Event(ChannelId(0), Event::new(frame, None, Instant::now())));
        // The second time nobody waits, or this test would take hours.
        for _ in 0..10_000 {
            assert!(!inboxes.wait_for_capacity());
        }
        inboxes.take(1, Vec::new());
        // What costs more than its content counts, too.
        let slot = Slot::default();
        for _ in 0..=WAITING_BYTES_MAX / MESSAGE_COST {
            inboxes.send(1, ShardMessage::Send(slot, Frame::ping()));
        }
        assert!(inboxes.is_full());
        inboxes.take(1, Vec::new());
        assert!(inboxes.wait_for_capacity() && !inboxes.is_stuck.load(Ordering::Relaxed));
    }
}
