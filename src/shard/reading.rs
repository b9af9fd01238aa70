//! Reading: from bytes to messages, and the session's actions.
//! The shard calls it once per turn, or more often when writes take long.

use std::collections::VecDeque;
use std::io;
use std::io::Read;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::code::Close;
use crate::protocol::frame::Frame;
use crate::protocol::frame::Message;
use crate::registry::address::Slot;
use crate::session::Action;
use crate::session::Session;
use crate::shard::READ_BYTES;
use crate::shard::Shard;
use crate::shard::connection::ClientConnection;
use crate::shard::connection::Keepalive;
use crate::shard::connection::Phase;

/// Reads of one connection in a row; then other connections come first.
const READS: usize = 4;
/// The time for the messages of one connection in a row. The rest waits in its decoder.
const CONNECTION_TIME: Duration = Duration::from_micros(100);
/// The time for all connections, so that HTTP gets its part.
const STEP_TIME: Duration = Duration::from_millis(1);
/// The longest time that a turn reads in several steps.
const TURN_TIME: Duration = Duration::from_millis(8);
/// Messages between two looks at the clock.
const MESSAGES: u32 = 8;
/// After a message of this size the clock is looked at: it may have come compressed, in a few bytes.
const LONG_BYTES: usize = 4096;

/// Appends a connection to those that wait to be read, unless it is one of them.
pub(super) fn read_later(unread: &mut VecDeque<Slot>, connection: &mut ClientConnection, slot: Slot) {
    if !std::mem::replace(&mut connection.is_unread, true) {
        unread.push_back(slot);
    }
}

impl Shard {
    /// Appends a connection to those that wait to be read.
    pub(super) fn read_later(&mut self, slot: Slot) {
        if let Some(connection) = self.connections.get_mut(slot) {
            read_later(&mut self.unread, connection, slot);
        }
    }

    /// Reads for as long as the last turn wrote, since what is read together is written together. HTTP runs in between.
    pub(super) async fn read_on(&mut self) {
        let until = Instant::now() + self.wrote_for.min(TURN_TIME);
        while !self.unread.is_empty() && Instant::now() < until {
            tokio::task::yield_now().await;
            self.read_all();
        }
    }

    /// Reads connections one after the other, for one time slice.
    pub(super) fn read_all(&mut self) {
        let mut now = Instant::now();
        let until = now + STEP_TIME;
        for _ in 0..self.unread.len() {
            let Some(slot) = self.unread.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            connection.is_unread = false;
            self.read_until = now + CONNECTION_TIME;
            self.read(slot);
            now = Instant::now();
            if now >= until {
                return;
            }
        }
    }

    /// Reads one connection. A panic ends this connection, not the shard.
    fn read(&mut self, slot: Slot) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_into(slot, &mut buffer)));
        self.buffer = buffer;
        if outcome.is_err() {
            self.node.metrics().panics.inc();
            self.actions.clear();
            self.remove(slot);
        }
    }

    fn read_into(&mut self, slot: Slot, buffer: &mut [u8]) {
        for _ in 0..READS {
            let Some(connection) = self.connections.get_mut(slot) else { return };
            let hung_up = connection.hung_up;
            let is_waiting = connection.session().is_some_and(Session::is_waiting);
            if (connection.paused || is_waiting) && !hung_up {
                return;
            }
            connection.paused = false;
            if connection.session().is_some_and(Session::has_deferred) {
                self.on_deferred(slot);
                continue;
            }
            if std::mem::take(&mut connection.has_buffered_input) {
                if self.decode(slot, &mut []) {
                    break;
                }
                continue;
            }
            match connection.socket.read(buffer) {
                Ok(0) => {
                    // The answer to a close that came just before the end.
                    self.write(slot);
                    return self.remove(slot);
                }
                Ok(count) => {
                    let has_more = hung_up || connection.socket.has_more();
                    if self.decode(slot, &mut buffer[..count]) {
                        break;
                    }
                    // A short read means that there was no more, unless the peer has hung up behind it.
                    if count < buffer.len() && !has_more {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return self.remove(slot),
            }
        }
        self.read_later(slot);
    }

    /// Decodes input and acts on it. Returns whether the connection has used up its time.
    fn decode(&mut self, slot: Slot, bytes: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else { return true };
        connection.last_input = self.wheel.now();
        if let Phase::Open(_, keepalive) = &mut connection.phase {
            *keepalive = Keepalive::Alive;
        }
        let compresses = connection.compresses;
        let mut decoder = std::mem::take(&mut connection.decoder);
        let mut inflater = std::mem::take(&mut self.inflater);
        let bytes_max = self.node.connections().message_bytes_max;
        let mut is_over = false;
        let outcome = decoder.decode(bytes, bytes_max, compresses.then_some(&mut inflater), |message| {
            let goes_on = self.on_message(slot, message);
            is_over = self.is_time_over();
            goes_on && !is_over
        });
        self.inflater = inflater;
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.decoder = decoder;
            let has_deferred = connection.session().is_some_and(Session::has_deferred);
            connection.has_buffered_input = is_over || connection.paused || has_deferred;
        }
        if let Err(error) = outcome {
            if let Some(session) = self.connections.get_mut(slot).and_then(|connection| connection.session()) {
                session.on_broken(error);
            }
            self.fail(slot, &error.close());
        }
        is_over
    }

    /// Whether the connection that is being read has used up its time. Looks at the clock now and then.
    fn is_time_over(&mut self) -> bool {
        if let Some(left) = self.unclocked.checked_sub(1) {
            self.unclocked = left;
            return false;
        }
        self.unclocked = MESSAGES - 1;
        Instant::now() >= self.read_until
    }

    /// Handles one message. Returns whether to continue with the connection's next one.
    fn on_message(&mut self, slot: Slot, message: Message<'_>) -> bool {
        if let Message::Close(code) = message {
            self.on_close(slot, code);
            return false;
        }
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        let Some(session) = connection.session_mut() else { return true };
        let mut actions = std::mem::take(&mut self.actions);
        let outcome = match message {
            Message::Text(text) if text.len() > LONG_BYTES => {
                self.unclocked = 0;
                session.on_text(&self.node, &text, self.now, &mut actions)
            }
            Message::Text(text) => session.on_text(&self.node, &text, self.now, &mut actions),
            Message::Ping(payload) => {
                self.queue_pong(slot, &Frame::pong(payload));
                ControlFlow::Continue(())
            }
            Message::Binary => {
                self.unclocked = 0;
                session.on_binary(&mut actions);
                ControlFlow::Continue(())
            }
            Message::Pong(payload) => {
                self.on_pong(slot, payload);
                ControlFlow::Continue(())
            }
            Message::Close(_) => ControlFlow::Continue(()),
        };
        self.perform(slot, actions, outcome)
    }

    /// Handles the deferred message.
    fn on_deferred(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(session) = connection.session_mut() else { return };
        let mut actions = std::mem::take(&mut self.actions);
        let outcome = session.on_deferred(&self.node, self.now, &mut actions);
        self.perform(slot, actions, outcome);
    }

    /// Performs the actions of a message. Returns whether to continue with the connection's next one.
    fn perform(&mut self, slot: Slot, mut actions: Vec<Action>, outcome: ControlFlow<Close>) -> bool {
        for action in actions.drain(..) {
            match action {
                Action::Send(frame) => self.send(slot, &frame),
                Action::ReadInbox => {
                    self.take_messages();
                    // A join may take longer than anything else.
                    self.unclocked = 0;
                }
            }
        }
        self.actions = actions;
        match outcome {
            ControlFlow::Continue(()) => !self.pause(slot),
            ControlFlow::Break(close) => {
                self.close(slot, &close);
                false
            }
        }
    }

    /// Pauses a connection while many answers wait in its outbox, or while a message is deferred: a client that asks
    /// for much and reads it is no slow reader. A peer that has hung up is not paused.
    fn pause(&mut self, slot: Slot) -> bool {
        let enough = self.node.connections().outbox_bytes_max / 2;
        let Some(connection) = self.connections.get_mut(slot) else { return true };
        connection.paused = !connection.hung_up && connection.outbox.cost() > enough;
        connection.paused || connection.session().is_some_and(Session::has_deferred)
    }
}
