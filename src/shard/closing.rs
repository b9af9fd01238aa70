//! Closes a connection, whoever asks for it: the session, the peer, `keepalive`, `slow` or `drain`.
//! Every way ends the session in `end_session` or `remove`, so no channel is forgotten.

use crate::metrics::DropCause;
use crate::protocol::code::Close;
use crate::protocol::frame::Frame;
use crate::registry::address::Slot;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::connection::OnceSent;
use crate::shard::connection::Phase;
use crate::shard::outbox::Load;
use crate::shard::outbox::Piece;

impl Shard {
    /// Closes a connection from our side: pending events, then the close frame, then the peer's answer.
    pub(super) fn close(&mut self, slot: Slot, close: &Close) {
        let Some(session) = self.end_session(slot, true) else { return };
        for frame in session.closing_frames(close) {
            self.queue(slot, Piece::own(frame.bytes().clone()));
        }
    }

    /// Closes a connection whose peer broke the protocol or is too slow, without waiting for its answer (RFC 6455,
    /// 7.1.7). Further input is read for a while, since a reset would overtake the close frame.
    pub(super) fn fail(&mut self, slot: Slot, close: &Close) {
        self.close(slot, close);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.advance_to(OnceSent::ShutDown);
        }
    }

    /// Handles a close frame of the peer: its own, or the answer to ours.
    pub(super) fn on_close(&mut self, slot: Slot, code: Option<u16>) {
        // A client that has given up a dead line closes it, too, and does not read what comes then.
        let is_cut = self.is_unconfirmed_long(slot);
        if self.end_session(slot, is_cut).is_some() {
            self.queue(slot, Piece::own(Frame::close_answer(code).bytes().clone()));
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.advance_to(OnceSent::Remove);
        if connection.is_sent() {
            self.remove(slot);
        }
    }

    /// Forgets a connection at once.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(mut connection) = self.connections.remove(slot) else { return };
        let frames = connection.outbox.frames() as u64;
        if let Some(session) = connection.session_mut() {
            session.meters().dropped(DropCause::Disconnected, frames);
            // Its channels learn it from the inbox, and have no connection to hand pending events to.
            session.end(&self.node, true, self.now);
        }
        self.load.follow(connection.outbox.load(), Load::default());
        // Counted before the peer sees it: it may ask at once.
        self.node.socket_closed();
        connection.socket.finish();
        // The kernel forgets a closed descriptor anyway; mio asks to deregister it.
        let _ = self.poll.get_ref().registry().deregister(connection.socket.tcp());
    }

    /// Closes the connections in `closing`.
    pub(super) fn close_requested(&mut self) {
        for (slot, close) in std::mem::take(&mut self.closing) {
            self.close(slot, &close);
        }
    }

    /// Marks the connections of an app for closing.
    pub(super) fn close_app(&mut self, app_id: &str, close: &Close) {
        let slots: Vec<Slot> = self.connections.keys().collect();
        for slot in slots {
            let session = self.connections.get_mut(slot).and_then(|connection| connection.session());
            if session.is_some_and(|session| session.app_id() == app_id) {
                self.closing.push((slot, close.clone()));
            }
        }
    }

    /// Ends a session, queues what was sent to its channels before, and begins to close the connection.
    fn end_session(&mut self, slot: Slot, is_cut: bool) -> Option<Session> {
        self.connections.get_mut(slot)?.session_mut()?.end(&self.node, is_cut, self.now);
        // Messages may remove the connection, but do not close it.
        self.take_messages();
        let until = self.close_deadline();
        let closing = Phase::Closing { until, once_sent: OnceSent::Wait };
        let Phase::Open(session, _) = std::mem::replace(&mut self.connections.get_mut(slot)?.phase, closing) else {
            return None;
        };
        self.wheel.wake(slot, until);
        Some(session)
    }
}
