//! The socket loop, one per core. A shard owns its connections: no lock, no task and no timer of their own.
//!
//! A turn: inbox, sockets, timers, then what is pending on channels, in a flood a little later (`gather`), then what is
//! left in outboxes.

mod batch;
mod channel;
mod closing;
mod connection;
mod delivery;
mod gather;
mod outbox;
mod reading;
mod share;
mod slow;
mod socket;
mod table;
mod wheel;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::node::Node;
use crate::protocol::code::Close;
use crate::registry::address::ShardIndex;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::ShardMessage;
use crate::session::Answer;
use crate::shard::batch::KeptBytes;
use crate::shard::batch::SharedFrames;
use crate::shard::channel::Channel;
use crate::shard::closing::Drain;
use crate::shard::connection::Connection;
use crate::shard::outbox::Load;
use crate::shard::reading::read_later;
use crate::shard::share::Share;
use crate::shard::slow::Lagging;
use crate::shard::table::Table;
use crate::shard::wheel::Wheel;

/// Readiness events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Letters after which the clock is looked at.
const MESSAGES: u32 = 32;
/// One read buffer for all connections of a shard.
const READ_BYTES: usize = 64 * 1024;

/// One thread's connections and everything that belongs to them.
#[derive(Debug)]
pub struct Shard {
    index: ShardIndex,
    node: Arc<Node>,
    /// Readiness of all sockets; to tokio it is a single descriptor.
    poll: AsyncFd<mio::Poll>,
    events: mio::Events,
    connections: Table<Connection>,
    channels: HashMap<ChannelId, Channel>,
    /// Channels that something is pending on.
    pending: Vec<ChannelId>,
    /// Connections whose outbox got something in this turn.
    unwritten: Vec<Slot>,
    /// Connections that may have more to read, each once.
    unread: VecDeque<Slot>,
    /// When the connection that is being read has used up its time.
    read_until: Instant,
    /// Messages until the clock is looked at.
    unclocked: u32,
    /// How long the last turn took to write.
    wrote_for: Duration,
    /// Connections with more in their outbox than may wait for anybody.
    evicted: Vec<Slot>,
    /// Connections with so much in their outbox that time counts.
    lagging: Vec<Lagging>,
    /// The lagging connections are to be judged.
    judging: bool,
    /// The last tick has not judged them.
    postponed: bool,
    /// The shard has missed a tick: what clients have done meanwhile may not be known yet.
    was_away: bool,
    /// When to search again for somebody to close, since all together hold too much memory.
    next_search: Instant,
    /// Connections that somebody wants closed.
    closing: Vec<(Slot, Close)>,
    /// Connections whose socket failed while it was written to.
    broken: Vec<Slot>,
    wheel: Wheel,
    now: Instant,
    drain: Option<Drain>,
    buffer: Vec<u8>,
    answers: Vec<Answer>,
    /// What has been taken out of the inbox and not been looked at.
    messages: VecDeque<ShardMessage>,
    /// What waits in all outboxes.
    load: Load,
    /// What waits in several of them, once.
    kept: KeptBytes,
    /// The frames among them that no batch holds.
    shared: SharedFrames,
    /// What the gauges of all shards know of that.
    load_reported: Load,
}

impl Shard {
    /// A shard without connections. Must be called inside a tokio runtime.
    pub fn new(index: ShardIndex, node: Arc<Node>) -> io::Result<Self> {
        let now = Instant::now();
        #[expect(deprecated, reason = "its successor is unsafe; the poll is owned, so the descriptor lives as long")]
        let poll = AsyncFd::with_interest(mio::Poll::new()?, Interest::READABLE)?;
        Ok(Self {
            index,
            node,
            poll,
            events: mio::Events::with_capacity(EVENTS_MAX),
            connections: Table::new(),
            channels: HashMap::new(),
            pending: Vec::new(),
            unwritten: Vec::new(),
            unread: VecDeque::new(),
            read_until: now,
            unclocked: 0,
            wrote_for: Duration::ZERO,
            evicted: Vec::new(),
            lagging: Vec::new(),
            judging: false,
            postponed: false,
            was_away: false,
            next_search: now,
            closing: Vec::new(),
            broken: Vec::new(),
            wheel: Wheel::new(now),
            now,
            drain: None,
            buffer: vec![0; READ_BYTES],
            answers: Vec::new(),
            messages: VecDeque::new(),
            load: Load::default(),
            kept: KeptBytes::default(),
            shared: SharedFrames::default(),
            load_reported: Load::default(),
        })
    }

    /// Turns until it has been drained and its last connection is gone.
    pub async fn run(&mut self) {
        loop {
            let (messages, more_events) = self.take_in();
            self.read_on().await;
            self.gather(messages).await;
            let busy = self.send_out().await || more_events;
            if self.is_done() {
                return;
            }
            if busy {
                // HTTP on the same thread gets its share.
                tokio::task::yield_now().await;
            } else {
                self.sleep().await;
            }
        }
    }

    /// The first half of a turn. Returns how many messages came, and whether the kernel may know of more events.
    fn take_in(&mut self) -> (usize, bool) {
        self.now = Instant::now();
        let messages = self.take_inbox();
        let more_events = self.take_events();
        self.read_all();
        self.wake_due(more_events);
        self.drain_step();
        (messages, more_events)
    }

    /// The second half. Returns whether there is more to do at once.
    async fn send_out(&mut self) -> bool {
        let began = Instant::now();
        self.flush_all().await;
        self.write_all().await;
        self.wrote_for = began.elapsed();
        self.judge();
        let (ours, theirs) = (self.messages.len() + self.pending.len(), self.unread.len() + self.unwritten.len());
        ours + theirs + self.closing.len() + self.evicted.len() > 0 || self.judging
    }

    async fn sleep(&mut self) {
        let until = match &self.drain {
            Some(_) => (self.now + Drain::STEP).min(self.wheel.next()),
            None => self.wheel.next(),
        };
        tokio::select! {
            () = self.node.inboxes().filled(self.index) => (),
            // The next turn takes the events and clears the readiness.
            _ = self.poll.readable() => (),
            () = tokio::time::sleep_until(until.into()) => (),
        }
    }

    fn is_done(&self) -> bool {
        self.drain.is_some() && self.connections.len() == 0 && self.messages.is_empty()
    }

    /// Does what the inbox asks for, as far as a step of a turn goes. Returns how many messages there were.
    fn take_inbox(&mut self) -> usize {
        // What is left of the last turn comes first, so no more is taken out than may be in.
        if self.messages.is_empty() {
            self.empty_inbox();
        }
        let (before, mut share) = (self.messages.len(), Share::begin(MESSAGES));
        while let Some(message) = self.messages.pop_front() {
            self.act_on(message);
            if share.is_used_up() {
                break;
            }
        }
        let count = before - self.messages.len();
        self.close_asked();
        count
    }

    /// Does all that the inbox asks for. Nothing in it does so again: that would put later messages before earlier ones.
    fn take_messages(&mut self) {
        self.empty_inbox();
        while let Some(message) = self.messages.pop_front() {
            self.act_on(message);
        }
    }

    fn empty_inbox(&mut self) {
        let mut empty = std::mem::take(&mut self.messages);
        if empty.is_empty() {
            // A burst must not keep its room for good.
            empty.shrink_to(EVENTS_MAX);
            self.messages = self.node.inboxes().take(self.index, empty.into()).into();
        } else {
            self.messages = empty;
            self.messages.extend(self.node.inboxes().take(self.index, Vec::new()));
        }
    }

    fn act_on(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Connect(upgraded) => self.adopt(*upgraded),
            ShardMessage::Event(channel, event) => self.on_event(channel, event),
            ShardMessage::Joined(slot, channel, frames) => self.on_joined(slot, channel, &frames),
            ShardMessage::Mirror(slot, view) => self.on_mirror(slot, view),
            ShardMessage::Unsubscribed(slot, channel) => self.on_unsubscribed(slot, channel),
            ShardMessage::Refused(slot, channel) => self.on_refused(slot, &channel),
            ShardMessage::Send(slot, frame) => self.send(slot, &frame),
            // Closing empties the inbox once more, so it waits until this is done.
            ShardMessage::Close(slot, close) => self.closing.push((slot, close)),
            ShardMessage::CloseApp(app, close) => self.close_app(&app, &close),
            ShardMessage::Drain(over, close) => self.start_drain(over, close),
        }
    }

    /// Asks the kernel which sockets are ready. Returns whether it may know more.
    fn take_events(&mut self) -> bool {
        self.events.clear();
        let events = &mut self.events;
        let mut count = 0;
        // Edge-triggered on both levels: readiness may be cleared only when the kernel had no more to tell.
        let outcome = self.poll.try_io_mut(Interest::READABLE, |poll| {
            match poll.poll(events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
                polled => polled?,
            }
            count = events.iter().count();
            if count < EVENTS_MAX { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(true) }
        });
        for event in &self.events {
            let slot = connection::slot_of(event.token());
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if event.is_read_closed() || event.is_error() {
                connection.hung_up = true;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                read_later(&mut self.unread, connection, slot);
            }
            if event.is_writable() && connection.blocked {
                connection.blocked = false;
                self.unwritten.push(slot);
            }
        }
        match outcome {
            Ok(more) => more,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::error!(%error, "the system does not tell which sockets are ready");
                }
                false
            }
        }
    }
}
