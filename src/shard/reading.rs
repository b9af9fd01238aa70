//! From bytes to messages to answers.

use std::io;
use std::io::Read;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use crate::protocol::code::Close;
use crate::protocol::frame::Frame;
use crate::protocol::frame::Message;
use crate::registry::address::Slot;
use crate::session::Answer;
use crate::session::Session;
use crate::shard::READ_BYTES;
use crate::shard::Shard;
use crate::shard::connection::Watch;

/// Reads of one connection in one turn; who has more waits for the next.
const READS_PER_TURN: usize = 4;

impl Shard {
    /// Reads what a connection has sent. A fault of ours ends this connection, not the shard.
    pub(super) fn read(&mut self, slot: Slot) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_into(slot, &mut buffer)));
        self.buffer = buffer;
        if outcome.is_err() {
            self.node.metrics().panics.inc();
            self.answers.clear();
            self.remove(slot);
        }
    }

    fn read_into(&mut self, slot: Slot, buffer: &mut [u8]) {
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.connections.get_mut(slot) else { return };
            let hung_up = connection.hung_up;
            let session = connection.session.as_ref();
            if (connection.paused || session.is_some_and(Session::is_waiting)) && !hung_up {
                return;
            }
            connection.paused = false;
            if session.is_some_and(Session::has_deferred) {
                self.on_deferred(slot);
                continue;
            }
            if std::mem::take(&mut connection.fed) {
                self.digest(slot, &mut []);
                continue;
            }
            match connection.socket.read(buffer) {
                Ok(0) => {
                    // The answer to a close that came right before the end.
                    self.write(slot);
                    return self.remove(slot);
                }
                Ok(count) => {
                    let has_more = hung_up || connection.socket.has_more();
                    self.digest(slot, &mut buffer[..count]);
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
        self.unread.push(slot);
    }

    /// Decodes what has come in and acts on it.
    fn digest(&mut self, slot: Slot, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.heard = self.wheel.now();
        if matches!(connection.watch, Watch::Pong(_)) {
            connection.watch = Watch::Idle;
        }
        let mut decoder = std::mem::take(&mut connection.decoder);
        let bytes_max = self.node.connections().message_bytes_max;
        let outcome = decoder.decode(bytes, bytes_max, |message| self.on_message(slot, message));
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.decoder = decoder;
            connection.fed = connection.paused || connection.session.as_ref().is_some_and(Session::has_deferred);
        }
        if let Err(error) = outcome {
            if let Some(session) = self.connections.get_mut(slot).and_then(|connection| connection.session.as_ref()) {
                session.on_broken(error);
            }
            self.close(slot, &error.close());
        }
    }

    /// Returns whether to go on with the connection's next message.
    fn on_message(&mut self, slot: Slot, message: Message<'_>) -> bool {
        if let Message::Close(code) = message {
            self.on_close(slot, code);
            return false;
        }
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        let Some(session) = &mut connection.session else { return true };
        let mut answers = std::mem::take(&mut self.answers);
        let outcome = match message {
            Message::Text(text) => session.on_text(&self.node, &text, self.now, &mut answers),
            Message::Ping(payload) => {
                self.queue(slot, Frame::pong(payload).bytes().clone());
                ControlFlow::Continue(())
            }
            Message::Binary => {
                session.on_binary(&mut answers);
                ControlFlow::Continue(())
            }
            Message::Pong | Message::Close(_) => ControlFlow::Continue(()),
        };
        self.answer(slot, answers, outcome)
    }

    /// Acts on the message that had to wait for the answer to an earlier one.
    fn on_deferred(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(session) = &mut connection.session else { return };
        let mut answers = std::mem::take(&mut self.answers);
        let outcome = session.on_deferred(&self.node, self.now, &mut answers);
        self.answer(slot, answers, outcome);
    }

    /// Sends what a message has brought about. Returns whether to go on with the connection's next message.
    fn answer(&mut self, slot: Slot, mut answers: Vec<Answer>, outcome: ControlFlow<Close>) -> bool {
        for answer in answers.drain(..) {
            match answer {
                Answer::Send(frame) => self.send(slot, &frame),
                Answer::Arrived => _ = self.take_letters(),
            }
        }
        self.answers = answers;
        match outcome {
            ControlFlow::Continue(()) => !self.pause(slot),
            ControlFlow::Break(close) => {
                self.close(slot, &close);
                false
            }
        }
    }

    /// Lets a connection's next messages wait while many answers do, or while one of them does. Who asks for
    /// much at once and reads it is no slow reader. Nobody waits for a peer that has hung up.
    fn pause(&mut self, slot: Slot) -> bool {
        let enough = self.node.connections().outbox_bytes_max / 2;
        let Some(connection) = self.connections.get_mut(slot) else { return true };
        connection.paused = !connection.hung_up && connection.outbox.waiting() > enough;
        connection.paused || connection.session.as_ref().is_some_and(Session::has_deferred)
    }
}
