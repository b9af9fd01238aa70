//! What flows down to the shards: one inbox for each, filled by anybody, emptied by its shard.

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

use crate::protocol::channel::ChannelName;
use crate::protocol::code::Close;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::frame::Frame;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Address;
use crate::registry::address::ShardIndex;
use crate::registry::address::Slot;

/// A channel, or a view of channels, while it has subscribers; never used again for another one.
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
    /// A frame for one connection.
    Send(Slot, Frame),
    /// Close one connection.
    Close(Slot, Close),
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

/// One event on its way to the subscribers of a channel.
#[derive(Debug, Clone)]
pub struct Event {
    /// The same bytes for everybody.
    pub frame: Frame,
    /// The connection that must not get it.
    pub except: Option<SocketId>,
    /// When it was accepted.
    pub accepted: Instant,
}

/// A connection that hyper gave back after the upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection, non-blocking.
    pub stream: std::net::TcpStream,
    /// Its TLS, with what has been decrypted and not been read, if it has any.
    pub tls: Option<Box<ServerConnection>>,
    /// The answer to the upgrade, which goes out with the first frame.
    pub answer: Vec<u8>,
    /// What hyper had already read of it.
    pub read_ahead: Bytes,
    /// What the client said about itself.
    pub request: ConnectRequest,
    /// Kept as long as the socket is open, and then dropped: its place among those of its address.
    pub permit: Option<Box<dyn Permit>>,
}

/// Something that counts while it is there.
pub trait Permit: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Permit for T {}

/// The cost of a message besides its frames: its place in a queue that grows by doubling, and the allocations.
const MESSAGE_COST: usize = 2 * size_of::<ShardMessage>();
/// What may wait for one shard, in bytes. Beyond it publishers are told to come back later.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long what cannot be refused waits for shards that lag so far behind.
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
    /// Somebody has waited for room in vain.
    hopeless: AtomicBool,
}

/// Shards that sleep although their inbox has been filled, as bits. Wake them once no lock is permit.
#[derive(Debug, Default)]
#[must_use = "a shard that is not woken may sleep over its messages"]
pub struct Sleepers(u64);

impl Sleepers {
    /// Wakes them.
    pub fn wake(self, inboxes: &Inboxes) {
        let mut bits = self.0;
        while bits != 0 {
            inboxes.shards[bits.trailing_zeros() as usize].filled.notify_one();
            bits &= bits - 1;
        }
    }
}

impl Inboxes {
    /// Empty inboxes for so many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Inbox::default()).collect(), hopeless: AtomicBool::new(false) }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Puts a message into a shard's inbox without waking it.
    pub fn put(&self, shard: ShardIndex, message: ShardMessage, sleepers: &mut Sleepers) {
        let inbox = &self.shards[shard];
        let mut messages = inbox.messages.lock();
        inbox.waiting_bytes.fetch_add(message.cost(), Ordering::Relaxed);
        if messages.is_empty() {
            sleepers.0 |= 1 << shard;
        }
        messages.push(message);
    }

    /// Puts a message into a shard's inbox and wakes it.
    pub fn send(&self, shard: ShardIndex, message: ShardMessage) {
        let mut sleepers = Sleepers::default();
        self.put(shard, message, &mut sleepers);
        sleepers.wake(self);
    }

    /// Puts a message for one connection.
    pub(super) fn put_to(&self, address: Address, message: impl FnOnce(Slot) -> ShardMessage, sleepers: &mut Sleepers) {
        self.put(usize::from(address.shard), message(address.slot), sleepers);
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
            if self.hopeless.load(Ordering::Relaxed) || began.elapsed() > WAIT_MAX {
                self.hopeless.store(true, Ordering::Relaxed);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.hopeless.store(false, Ordering::Relaxed);
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
        inboxes.send(1, ShardMessage::Event(ChannelId(0), Event { frame, except: None, accepted: Instant::now() }));
        // The second time nobody waits, or this test would take hours.
        for _ in 0..10_000 {
            assert!(!inboxes.wait_for_capacity());
        }
        inboxes.take(1, Vec::new());
        // What costs more than its content counts, too.
        let slot = Slot { index: 0, generation: 0 };
        for _ in 0..=WAITING_BYTES_MAX / MESSAGE_COST {
            inboxes.send(1, ShardMessage::Send(slot, Frame::ping()));
        }
        assert!(inboxes.is_full());
        inboxes.take(1, Vec::new());
        assert!(inboxes.wait_for_capacity() && !inboxes.hopeless.load(Ordering::Relaxed));
    }
}
