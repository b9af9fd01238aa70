//! Keepalive: pings silent clients, and closes those whose pong or sign-in does not come in time.
//! The shard calls it at each tick, for the connections that `wheel` wakes.

use crate::protocol::code::NOT_AUTHORIZED;
use crate::protocol::code::PONG_MISSING;
use crate::protocol::frame::Frame;
use crate::refusal;
use crate::registry::address::Slot;
use crate::shard::Shard;
use crate::shard::connection::Keepalive;
use crate::shard::connection::Phase;
use crate::shard::connection::index_of;
use crate::shard::outbox::Piece;
use crate::shard::wheel::Tick;
use crate::shard::wheel::Wheel;

impl Shard {
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
            if self.eviction_due {
                self.evict_behind();
            }
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
            session.count_refusal(refusal::Cause::NotAuthorized, None, &NOT_AUTHORIZED.reason);
            return self.close(slot, &NOT_AUTHORIZED);
        }
        let (ping, pong) = (settings.ping_seconds.duration(), settings.pong_seconds.duration());
        match *keepalive {
            Keepalive::Pinged(at) if at <= now => {
                // The ping may still wait behind other frames, or its answer may not have been read.
                let idle_time = self.now.saturating_duration_since(connection.last_progress);
                let takes = !connection.outbox.is_empty() && idle_time < settings.slow_seconds.duration();
                if !(takes || connection.is_unread || self.was_away) {
                    return self.close(slot, &PONG_MISSING);
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
}
