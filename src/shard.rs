//! A shard: one thread's socket loop with its connections. They have no lock, task or timer of their own.
//! `server` starts one per core.
//!
//! A turn: inbox, sockets, timers, pending events of channels (in a flood a little later, see `coalesce`), outboxes.

mod batch;
mod behind;
mod catch_up;
mod channel;
mod closing;
mod coalesce;
mod compression;
mod connection;
mod delivery;
mod drain;
mod keepalive;
mod list;
mod marks;
mod outbox;
mod reading;
mod slow;
mod socket;
mod time_slice;
mod wheel;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use indexmap::IndexSet;
use slotmap::SlotMap;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::deflate::Compressor;
use crate::protocol::deflate::Inflater;
use crate::registry::address::ShardIndex;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::ShardMessage;
use crate::session::Action;
use crate::shard::batch::SharedFrames;
use crate::shard::batch::WaitingBytes;
use crate::shard::channel::Channel;
use crate::shard::connection::ClientConnection;
use crate::shard::drain::Drain;
use crate::shard::outbox::Load;
use crate::shard::reading::read_later;
use crate::shard::slow::Lagging;
use crate::shard::time_slice::TimeSlice;
use crate::shard::wheel::Wheel;

/// Readiness events that one poll takes from the kernel.
const EVENTS_MAX: usize = 1024;
/// Shard messages between two looks at the clock.
const MESSAGES: u32 = 32;
/// One read buffer for all connections of a shard.
const READ_BYTES: usize = 64 * 1024;

/// One thread's connections and their state.
#[derive(Debug)]
pub struct Shard {
    index: ShardIndex,
    node: Arc<Node>,
    /// The readiness of all sockets. tokio sees it as a single descriptor.
    poll: AsyncFd<mio::Poll>,
    events: mio::Events,
    connections: SlotMap<Slot, ClientConnection>,
    channels: HashMap<ChannelId, Channel>,
    /// Channels with pending events.
    pending: Vec<ChannelId>,
    /// Connections whose outbox got something in this turn.
    unwritten: Vec<Slot>,
    /// Connections that may have more to read, each once.
    unread: VecDeque<Slot>,
    /// When the connection that is being read has had its time.
    read_until: Instant,
    /// Messages until the next look at the clock.
    unclocked: u32,
    /// How long the last turn took to write.
    wrote_for: Duration,
    /// Connections whose outbox exceeds the hard limit.
    over_limit: Vec<Slot>,
    /// Connections that are closed unless their sockets make progress in time.
    lagging: Vec<Lagging>,
    /// Connections that are behind, with the channels.
    behind: HashMap<Slot, Vec<ChannelId>>,
    /// Connections whose clients have to confirm events.
    tracked: IndexSet<Slot>,
    /// When they are asked next.
    next_marks: Instant,
    /// The lagging connections have to be checked.
    eviction_due: bool,
    /// The last tick did not check them.
    eviction_postponed: bool,
    /// The shard has missed a tick, so it may not have seen what clients did meanwhile.
    was_away: bool,
    /// When to search again for connections to close because the process holds too much memory.
    next_search: Instant,
    /// Connections to close.
    closing: Vec<(Slot, Close)>,
    /// Connections whose socket failed during a write.
    broken: Vec<Slot>,
    wheel: Wheel,
    now: Instant,
    drain: Option<Drain>,
    buffer: Vec<u8>,
    actions: Vec<Action>,
    /// Messages out of the inbox that have not been handled.
    messages: VecDeque<ShardMessage>,
    /// The sum of all outboxes.
    load: Load,
    /// Bytes that several outboxes share, counted once.
    shared_bytes: WaitingBytes,
    /// The shared frames that belong to no batch.
    shared: SharedFrames,
    /// The part of the gauges that is this shard's.
    load_reported: Load,
    /// There once a connection has negotiated compression.
    compressor: Option<Compressor>,
    inflater: Inflater,
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
            connections: SlotMap::with_key(),
            channels: HashMap::new(),
            pending: Vec::new(),
            unwritten: Vec::new(),
            unread: VecDeque::new(),
            read_until: now,
            unclocked: 0,
            wrote_for: Duration::ZERO,
            over_limit: Vec::new(),
            lagging: Vec::new(),
            behind: HashMap::new(),
            tracked: IndexSet::new(),
            next_marks: now,
            eviction_due: false,
            eviction_postponed: false,
            was_away: false,
            next_search: now,
            closing: Vec::new(),
            broken: Vec::new(),
            wheel: Wheel::new(now),
            now,
            drain: None,
            buffer: vec![0; READ_BYTES],
            actions: Vec::new(),
            messages: VecDeque::new(),
            load: Load::default(),
            shared_bytes: WaitingBytes::default(),
            shared: SharedFrames::default(),
            load_reported: Load::default(),
            compressor: None,
            inflater: Inflater::default(),
        })
    }

    /// Runs until the shard has been drained and its last connection is gone.
    pub async fn run(&mut self) {
        loop {
            let (messages, more_events) = self.take_in();
            self.read_on().await;
            self.coalesce(messages).await;
            let busy = self.send_out().await || more_events;
            if self.is_drained() {
                return;
            }
            if busy {
                // Let HTTP on this thread run.
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
        self.send_marks();
        self.write_all().await;
        self.wrote_for = began.elapsed();
        self.evict_over_limit();
        let (ours, theirs) = (self.messages.len() + self.pending.len(), self.unread.len() + self.unwritten.len());
        ours + theirs + self.closing.len() + self.over_limit.len() > 0 || self.eviction_due
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

    fn is_drained(&self) -> bool {
        self.drain.is_some() && self.connections.is_empty() && self.messages.is_empty()
    }

    /// Handles messages of the inbox for one time slice. Returns how many.
    fn take_inbox(&mut self) -> usize {
        // The rest of the last turn comes first, so the shard never holds more than one inbox.
        if self.messages.is_empty() {
            self.empty_inbox();
        }
        let (before, mut slice) = (self.messages.len(), TimeSlice::begin(MESSAGES));
        while let Some(message) = self.messages.pop_front() {
            self.act_on(message);
            if slice.is_over() {
                break;
            }
        }
        let count = before - self.messages.len();
        self.close_requested();
        count
    }

    /// Handles all messages of the inbox. No handler calls this: that would put later messages before earlier ones.
    fn take_messages(&mut self) {
        self.empty_inbox();
        while let Some(message) = self.messages.pop_front() {
            self.act_on(message);
        }
    }

    fn empty_inbox(&mut self) {
        let mut empty = std::mem::take(&mut self.messages);
        if empty.is_empty() {
            // A burst must not keep its memory for good.
            empty.shrink_to(EVENTS_MAX);
            self.messages = self.node.inboxes().take(self.index, empty.into()).into();
        } else {
            self.messages = empty;
            self.messages.extend(self.node.inboxes().take(self.index, Vec::new()));
        }
    }

    fn act_on(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Connect(upgraded) => self.on_upgraded(*upgraded),
            ShardMessage::Event(channel, event) => self.on_event(channel, event),
            ShardMessage::Joined(slot, channel, frames) => self.on_joined(slot, channel, &frames),
            ShardMessage::Mirror(slot, view) => self.on_mirror(slot, view),
            ShardMessage::Unsubscribed(slot, channel) => self.on_unsubscribed(slot, channel),
            ShardMessage::Track(slot, channel, reader) => self.on_tracked(slot, channel, reader),
            ShardMessage::Refused(slot, channel) => self.on_refused(slot, &channel),
            ShardMessage::Send(slot, frame) => self.send(slot, &frame),
            // Closing handles the inbox once more, so it waits until this is done.
            ShardMessage::Close(slot, close) => self.closing.push((slot, close)),
            ShardMessage::List(query) => self.list(*query),
            ShardMessage::CloseApp(app, close) => self.close_app(&app, &close),
            ShardMessage::Drain(duration, close) => self.start_drain(duration, close),
        }
    }

    /// Asks the kernel which sockets are ready. Returns whether there may be more.
    fn take_events(&mut self) -> bool {
        self.events.clear();
        let events = &mut self.events;
        let mut count = 0;
        // Edge-triggered on both levels: clear the readiness only when the kernel had no more events.
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
