//! Closes connections, in all ways: by us, by the peer, by a timeout, in a drain.
//! Every way ends the session in `end_session` or `remove`, so no channel is forgotten.

use std::time::Duration;
use std::time::Instant;

use crate::metrics::DropCause;
use crate::protocol::code::Close;
use crate::protocol::frame::Frame;
use crate::refusal;
use crate::registry::address::Slot;
use crate::session;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::connection::Keepalive;
use crate::shard::connection::OnceSent;
use crate::shard::connection::Phase;
use crate::shard::connection::index_of;
use crate::shard::outbox::Load;
use crate::shard::outbox::Piece;
use crate::shard::wheel::Tick;
use crate::shard::wheel::Wheel;

/// Closing all connections, spread over some time.
#[derive(Debug)]
pub(super) struct Drain {
    began: Instant,
    duration: Duration,
    /// The close code and reason for the connections.
    pub(super) close: Close,
    remaining: Vec<Slot>,
    total: usize,
}

impl Drain {
    /// The interval between two steps.
    pub(super) const STEP: Duration = Duration::from_millis(20);
}

impl Shard {
    /// Closes a connection from our side: pending events, then the close frame, then the peer's answer.
    pub(super) fn close(&mut self, slot: Slot, close: &Close) {
        let Some(session) = self.end_session(slot) else { return };
        for frame in session.closing_frames(close) {
            self.queue(slot, Piece::own(frame.bytes().clone()));
        }
    }

    /// Closes a connection whose peer broke the protocol or is too slow, without waiting for its answer (RFC 6455,
    /// 7.1.7). Further input is read for a while, since a reset would overtake the close frame.
    pub(super) fn fail(&mut self, slot: Slot, close: &Close) {
        self.close(slot, close);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.once_sent(OnceSent::ShutDown);
        }
    }

    /// Handles a close frame of the peer: its own, or the answer to ours.
    pub(super) fn on_close(&mut self, slot: Slot, code: Option<u16>) {
        if self.end_session(slot).is_some() {
            self.queue(slot, Piece::own(Frame::close_answer(code).bytes().clone()));
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.once_sent(OnceSent::Remove);
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
            session.end(&self.node, self.now);
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
    fn end_session(&mut self, slot: Slot) -> Option<Session> {
        self.connections.get_mut(slot)?.session_mut()?.end(&self.node, self.now);
        self.take_messages();
        let until = self.close_deadline();
        let closing = Phase::Closing { until, once_sent: OnceSent::Wait };
        let Phase::Open(session, _) = std::mem::replace(&mut self.connections.get_mut(slot)?.phase, closing) else {
            return None;
        };
        self.wheel.wake(slot, until);
        Some(session)
    }

    /// Handles the connections whose deadline has come.
    pub(super) fn wake_due(&mut self, more_events: bool) {
        let before = self.wheel.now();
        let due = self.wheel.advance(self.now);
        let ticks = self.wheel.now() - before;
        self.was_away = ticks > 1;
        for slot in due {
            self.check_deadlines(slot);
        }
        if ticks > 0 {
            // A socket may be writable without the shard knowing it yet. The next tick checks in any case.
            self.eviction_postponed = (self.was_away || more_events) && !self.eviction_postponed;
            self.eviction_due = !self.eviction_postponed;
        }
        if self.eviction_due {
            self.evict_stalled();
        }
    }

    /// Does what is due for a connection, and sets its next wake-up.
    pub(super) fn check_deadlines(&mut self, slot: Slot) {
        let now = self.wheel.now();
        let settings = self.node.connections();
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let (session, keepalive) = match &mut connection.phase {
            Phase::Closing { until, .. } if *until <= now => return self.remove(slot),
            Phase::Closing { until, .. } => return self.wheel.wake(slot, *until),
            Phase::Open(session, keepalive) => (session, keepalive),
        };
        let timeout = session.authorization_timeout();
        let authorized_by = timeout.map_or(Tick::MAX, |timeout| Wheel::after(connection.opened, timeout));
        if authorized_by <= now {
            session.count_refusal(refusal::Cause::NotAuthorized, None, &session::NOT_AUTHORIZED.reason);
            return self.close(slot, &session::NOT_AUTHORIZED);
        }
        let (ping, pong) = (settings.ping_seconds.duration(), settings.pong_seconds.duration());
        match *keepalive {
            Keepalive::Pinged(at) if at <= now => {
                // The ping may still wait behind other frames, or its answer may not have been read.
                let idle_time = self.now.saturating_duration_since(connection.last_progress);
                let takes = !connection.outbox.is_empty() && idle_time < settings.slow_seconds.duration();
                if !(takes || connection.is_unread || self.was_away) {
                    return self.close(slot, &session::PONG_MISSING);
                }
                let at = Wheel::after(now, pong);
                *keepalive = Keepalive::Pinged(at);
                return self.wheel.wake(slot, at.min(authorized_by));
            }
            // The answer may come early, so that the next ping is due before this deadline.
            Keepalive::Pinged(at) => {
                return self.wheel.wake(slot, at.min(authorized_by).min(Wheel::after(now, ping)));
            }
            Keepalive::Alive => (),
        }
        // Connections that came together are not pinged at the same time.
        let jitter = index_of(slot) % (ping.as_secs() / 10 + 1) as Tick;
        let quiet_until = Wheel::after(connection.last_input, ping) - jitter;
        if quiet_until > now {
            return self.wheel.wake(slot, quiet_until.min(authorized_by));
        }
        let answered_by = Wheel::after(now, pong);
        *keepalive = Keepalive::Pinged(answered_by);
        self.wheel.wake(slot, answered_by.min(authorized_by).min(Wheel::after(now, ping)));
        self.queue(slot, Piece::own(Frame::ping().bytes().clone()));
    }

    /// Starts to close all connections, or changes how.
    pub(super) fn start_drain(&mut self, duration: Duration, close: Close) {
        let remaining: Vec<Slot> = self.connections.keys().collect();
        self.drain = Some(Drain { began: self.now, duration, close, total: remaining.len(), remaining });
    }

    /// Closes connections in proportion to the time that has passed.
    pub(super) fn drain_step(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let passed = self.now.duration_since(drain.began).as_secs_f64();
        let share = if drain.duration.is_zero() { 1.0 } else { (passed / drain.duration.as_secs_f64()).min(1.0) };
        let keep = ((1.0 - share) * drain.total as f64).floor() as usize;
        let closing = drain.remaining.split_off(keep.min(drain.remaining.len()));
        let close = drain.close.clone();
        for slot in closing {
            self.close(slot, &close);
        }
    }
}
