//! One connection of a shard: its socket, its session and its buffers.
//! `on_upgraded` takes it from the HTTP side.

use std::time::Instant;

use mio::Interest;
use mio::Token;
use slotmap::Key;
use slotmap::KeyData;

use crate::protocol::code::CloseCode;
use crate::protocol::frame::Decoder;
use crate::protocol::frame::Frame;
use crate::registry::address::Address;
use crate::registry::address::Slot;
use crate::registry::inbox::Permit;
use crate::registry::inbox::Upgraded;
use crate::session;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::marks::Marks;
use crate::shard::outbox::Outbox;
use crate::shard::outbox::Piece;
use crate::shard::socket::Socket;
use crate::shard::wheel::Tick;
use crate::shard::wheel::Wheel;

/// A connection in its shard's table.
#[derive(Debug)]
pub(super) struct ClientConnection {
    pub(super) socket: Socket,
    pub(super) phase: Phase,
    pub(super) decoder: Decoder,
    /// The decoder holds input that has not been handled: hyper had read it before the upgrade, or it came behind a
    /// message that had to wait.
    pub(super) has_buffered_input: bool,
    /// So many answers wait in the outbox that further messages wait, too.
    pub(super) paused: bool,
    pub(super) outbox: Outbox,
    /// The tick of its start.
    pub(super) opened: Tick,
    /// The last tick with input.
    pub(super) last_input: Tick,
    /// The socket is not writable until the kernel reports it.
    pub(super) blocked: bool,
    /// When the socket last took bytes, or when the outbox ceased to be empty, whichever is later.
    pub(super) last_progress: Instant,
    /// It is in `lagging`: it is closed unless it makes progress in time.
    pub(super) is_lagging: bool,
    /// It is in the shard's `behind`.
    pub(super) is_behind: bool,
    /// Little waits in the kernel for it.
    pub(super) has_limited_unsent: bool,
    /// It is in `unread`.
    pub(super) is_unread: bool,
    /// The peer has closed its side, or the socket has failed.
    pub(super) hung_up: bool,
    /// It was too slow and has lost frames, so nothing but its close may follow.
    pub(super) has_lost_frames: bool,
    /// It negotiated compression.
    pub(super) compresses: bool,
    /// There if its client has to confirm events.
    pub(super) marks: Option<Box<Marks>>,
    /// Counts for its address while the socket is open, accepted or refused.
    _permit: Option<Box<dyn Permit>>,
}

/// The phases of a connection. One that is refused begins in the second.
#[derive(Debug)]
pub(super) enum Phase {
    /// The session handles its messages.
    Open(Session, Keepalive),
    /// Frames still go out, up to a close frame. The connection is removed at this tick at the latest.
    Closing { until: Tick, once_sent: OnceSent },
}

/// Whether a client still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keepalive {
    /// It has sent something; without further input, a ping is sent.
    Alive,
    /// It is to answer a ping until this tick.
    Pinged(Tick),
}

/// The step that follows once the outbox of a closing connection is empty. It only moves forward, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OnceSent {
    /// The peer's answer is awaited.
    Wait,
    /// The socket is shut down for writing: the peer broke the protocol or is too slow.
    ShutDown,
    /// The connection is removed.
    Remove,
}

/// The slot of the connection whose socket has this token.
pub(super) fn slot_of(Token(token): Token) -> Slot {
    KeyData::from_ffi(token as u64).into()
}

/// The connection's place in the table, counted from one.
pub(super) fn index_of(slot: Slot) -> u32 {
    slot.data().as_ffi() as u32
}

fn token_of(slot: Slot) -> Token {
    Token(slot.data().as_ffi() as usize)
}

impl ClientConnection {
    fn new(socket: Socket, phase: Phase, permit: Option<Box<dyn Permit>>, tick: Tick, now: Instant) -> Self {
        Self {
            socket,
            phase,
            decoder: Decoder::default(),
            has_buffered_input: false,
            paused: false,
            outbox: Outbox::default(),
            opened: tick,
            last_input: tick,
            blocked: false,
            last_progress: now,
            is_lagging: false,
            is_behind: false,
            has_limited_unsent: false,
            is_unread: false,
            hung_up: false,
            has_lost_frames: false,
            compresses: false,
            marks: None,
            _permit: permit,
        }
    }

    /// The session, unless the connection is being closed.
    pub(super) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Open(session, _) => Some(session),
            Phase::Closing { .. } => None,
        }
    }

    /// Same as `session`, to be changed.
    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Open(session, _) => Some(session),
            Phase::Closing { .. } => None,
        }
    }

    /// Moves the step of a closing connection forward. An open one stays as it is.
    pub(super) fn advance_to(&mut self, then: OnceSent) {
        if let Phase::Closing { once_sent, .. } = &mut self.phase {
            *once_sent = then.max(*once_sent);
        }
    }

    /// Whether the kernel has everything that was queued.
    pub(super) fn is_sent(&self) -> bool {
        self.outbox.is_empty() && !self.socket.is_pending()
    }
}

impl Shard {
    /// Takes over a socket after the upgrade, and establishes or refuses the connection.
    pub(super) fn on_upgraded(&mut self, upgraded: Upgraded) {
        let is_secure = upgraded.tls.is_some();
        if upgraded.compresses {
            self.start_compression();
        }
        let mut socket = Socket::new(upgraded.stream, upgraded.tls);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.get_ref().registry();
        let (tick, now, permit) = (self.wheel.now(), self.now, upgraded.permit);
        let until = self.close_deadline();
        let slot = self.connections.insert_with_key(|slot| {
            // A socket without registration never gets ready; the timer closes it.
            if let Err(error) = registry.register(socket.tcp(), token_of(slot), interest) {
                tracing::warn!(%error, "a connection cannot be watched");
            }
            let phase = Phase::Closing { until, once_sent: OnceSent::Wait };
            ClientConnection::new(socket, phase, permit, tick, now)
        });
        self.node.socket_opened();
        let address = Address { shard: self.index as u16, slot };
        let opened = match &self.drain {
            Some(drain) => Err(drain.close.clone()),
            None => Session::open(&self.node, &upgraded.request, address),
        };
        match opened {
            Ok((session, established)) => self.establish(slot, session, established.as_ref()),
            Err(close) => {
                for frame in session::refusal(&close) {
                    self.queue(slot, Piece::own(frame.bytes().clone()));
                }
                self.wheel.wake(slot, until);
                let is_full = close.code == CloseCode::OverCapacity || self.node.is_full();
                if let Some(connection) = self.connections.get_mut(slot).filter(|_| is_full) {
                    // Without capacity, do not wait for an answer to the close.
                    connection.advance_to(OnceSent::Remove);
                }
            }
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.compresses = upgraded.compresses;
            connection.has_buffered_input = !upgraded.read_ahead.is_empty();
            connection.decoder.feed(&upgraded.read_ahead);
        }
        // mio reports what is in the socket already and what comes. It does not know what TLS has decrypted.
        if is_secure || !upgraded.read_ahead.is_empty() {
            self.read_later(slot);
        }
        self.write_upgrade_response(slot, upgraded.answer);
    }

    fn establish(&mut self, slot: Slot, session: Session, established: Option<&Frame>) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.phase = Phase::Open(session, Keepalive::Alive);
        }
        if let Some(frame) = established {
            self.send(slot, frame);
        }
        self.check_deadlines(slot);
    }

    /// The tick at which a connection that begins to close now is removed, whatever the peer does.
    pub(super) fn close_deadline(&self) -> Tick {
        Wheel::after(self.wheel.now(), self.node.connections().close_seconds.duration())
    }
}
