//! One connection: its socket, its session, and what waits in either direction.

use std::time::Duration;
use std::time::Instant;

use mio::Interest;
use mio::Token;

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
use crate::shard::outbox::Outbox;
use crate::shard::outbox::Piece;
use crate::shard::socket::Socket;
use crate::shard::wheel::Tick;
use crate::shard::wheel::Wheel;

/// A connection in its shard's table.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// `None` once the connection is being closed.
    pub(super) session: Option<Session>,
    pub(super) decoder: Decoder,
    /// The decoder holds what has not been looked at: what hyper had read before it gave the connection
    /// back, or what came behind the message that made it wait.
    pub(super) fed: bool,
    /// Has so many answers waiting that its next messages wait, too.
    pub(super) paused: bool,
    pub(super) outbox: Outbox,
    /// The tick in which it began.
    pub(super) opened: Tick,
    /// The last tick in which something came in.
    pub(super) heard: Tick,
    /// What happens when nothing comes in.
    pub(super) watch: Watch,
    /// The socket takes no more until it says so.
    pub(super) blocked: bool,
    /// When the socket has last taken something, or when something began to wait for it, whichever is later.
    pub(super) took: Instant,
    /// So much waits that time counts.
    pub(super) lags: bool,
    /// It is among those that may have more to read.
    pub(super) is_unread: bool,
    /// The peer has closed its side, or the socket has failed.
    pub(super) hung_up: bool,
    /// Ends as soon as the outbox is empty.
    pub(super) finishing: bool,
    /// Tells the peer that nothing more will come as soon as the outbox is empty.
    pub(super) half_close: bool,
    /// Counts for its address as long as the socket is open, refused or not.
    _permit: Option<Box<dyn Permit>>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Anything; a ping is sent when nothing comes.
    Idle,
    /// The answer to a ping, until this tick.
    Pong(Tick),
    /// The end of the connection, by force at this tick.
    End(Tick),
}

/// The events of a socket carry its slot.
pub(super) fn slot_of(Token(token): Token) -> Slot {
    Slot { index: token as u32, generation: (token >> 32) as u32 }
}

fn token_of(slot: Slot) -> Token {
    Token((slot.generation as usize) << 32 | slot.index as usize)
}

impl Connection {
    fn new(socket: Socket, permit: Option<Box<dyn Permit>>, tick: Tick, now: Instant) -> Self {
        Self {
            socket,
            session: None,
            decoder: Decoder::default(),
            fed: false,
            paused: false,
            outbox: Outbox::default(),
            opened: tick,
            heard: tick,
            watch: Watch::Idle,
            blocked: false,
            took: now,
            lags: false,
            is_unread: false,
            hung_up: false,
            finishing: false,
            half_close: false,
            _permit: permit,
        }
    }

    /// Whether the network has taken all that was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.outbox.is_empty() && !self.socket.is_pending()
    }
}

impl Shard {
    /// Takes over a socket after the upgrade: establishes a connection, or refuses it.
    pub(super) fn adopt(&mut self, upgraded: Upgraded) {
        let is_secure = upgraded.tls.is_some();
        let mut socket = Socket::new(upgraded.stream, upgraded.tls);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.get_ref().registry();
        let (tick, now, permit) = (self.wheel.now(), self.now, upgraded.permit);
        let slot = self.connections.insert(|slot| {
            // A socket that cannot be watched never gets ready; the timer ends it.
            if let Err(error) = registry.register(socket.tcp(), token_of(slot), interest) {
                tracing::warn!(%error, "a connection cannot be watched");
            }
            Connection::new(socket, permit, tick, now)
        });
        self.node.socket_opened();
        let address = Address { shard: self.index as u16, slot };
        let opened = match &self.drain {
            Some(drain) => Err(drain.close.clone()),
            None => Session::open(&self.node, &upgraded.request, address),
        };
        match opened {
            Ok((session, established)) => self.establish(slot, session, &established),
            Err(close) => {
                for frame in session::refusal(&close) {
                    self.queue(slot, Piece::own(frame.bytes().clone()));
                }
                self.end_within(slot, self.node.connections().close_seconds.duration());
                if let Some(connection) = self.connections.get_mut(slot) {
                    // When there is no room, nobody waits for an answer to the close.
                    connection.finishing = close.code == CloseCode::OverCapacity || self.node.is_full();
                }
            }
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.fed = !upgraded.read_ahead.is_empty();
            connection.decoder.feed(&upgraded.read_ahead);
        }
        // What comes from now on, and what has come to the socket already, is an event of the poll.
        // What TLS has decrypted already is not.
        if is_secure || !upgraded.read_ahead.is_empty() {
            self.read_later(slot);
        }
        self.greet(slot, upgraded.answer);
    }

    fn establish(&mut self, slot: Slot, session: Session, established: &Frame) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.session = Some(session);
        }
        self.send(slot, established);
        self.look_after(slot);
    }

    /// The connection ends within this time, whatever the peer does.
    pub(super) fn end_within(&mut self, slot: Slot, time: Duration) {
        let at = Wheel::after(self.wheel.now(), time);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.watch = Watch::End(at);
            self.wheel.wake(slot, at);
        }
    }
}
