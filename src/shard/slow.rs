//! Who reads too slowly. Frames are shared, so a backlog costs little until it lasts: time decides, not bytes.

use std::time::Duration;
use std::time::Instant;

use crate::metrics::Cause;
use crate::refusal;
use crate::registry::address::Slot;
use crate::session;
use crate::shard::Shard;
use crate::shard::share::Share;

/// Who has taken nothing for so long goes first when all together hold too much memory.
const STALLED_TIME: Duration = Duration::from_secs(1);
/// Closing a connection frees little when no more than this part of `outbox_bytes_max` waits for it.
const SMALL_PART: usize = 16;
/// How long to wait until the next search when nobody could be found.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// A connection for which so much waits that time counts.
#[derive(Debug)]
pub(super) struct Lagging {
    slot: Slot,
    since: Instant,
}

impl Shard {
    /// A connection has more in its outbox than may wait for long.
    #[cold]
    pub(super) fn lag(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.session.is_none() {
            return;
        }
        if connection.outbox.backlog() > self.node.connections().hard_bytes_max() {
            self.evicted.push(slot);
        }
        if !std::mem::replace(&mut connection.lags, true) {
            self.lagging.push(Lagging { slot, since: self.now });
        }
    }

    /// Closes those that have taken nothing for too long while too much waits for them, as far as a step of a turn
    /// goes.
    pub(super) fn judge_lagging(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, time_max) = (settings.outbox_bytes_max, settings.slow_seconds.duration());
        let mut lagging = std::mem::take(&mut self.lagging);
        let mut share = Share::begin(1);
        self.judging = false;
        lagging.retain(|&Lagging { slot, since }| {
            let Some(connection) = self.connections.get_mut(slot) else { return false };
            connection.lags = connection.session.is_some() && connection.outbox.cost() > bytes_max;
            let is_late = self.now.saturating_duration_since(since.max(connection.took)) >= time_max;
            // A socket that takes more again has not been written to yet.
            if connection.lags && connection.blocked && is_late && !self.judging {
                connection.lags = false;
                self.evict(slot, refusal::Cause::SlowReader);
                self.judging = share.is_used_up();
                return false;
            }
            connection.lags
        });
        // Who was closed can have made others lag.
        lagging.append(&mut self.lagging);
        self.lagging = lagging;
    }

    /// Closes those that have more waiting than anybody may, now that they have been written to, as far as a step of a
    /// turn goes.
    pub(super) fn judge(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, unblocked_max) = (settings.hard_bytes_max(), settings.waiting_bytes_max);
        let mut evicted = std::mem::take(&mut self.evicted);
        evicted.sort_unstable();
        evicted.dedup();
        let (mut share, mut is_over) = (Share::begin(1), false);
        for slot in evicted {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            let backlog = connection.outbox.backlog();
            // The socket may have taken in the meantime what this turn put in, or take it as soon as it is encrypted.
            if backlog <= bytes_max {
                continue;
            }
            if is_over || (!connection.blocked && backlog <= unblocked_max) {
                self.evicted.push(slot);
                continue;
            }
            self.evict(slot, refusal::Cause::SlowBacklog);
            is_over = share.is_used_up();
        }
        self.report_outboxes();
        if self.excess() > 0 && self.now >= self.next_search {
            self.shed();
        }
    }

    /// By how much the slow readers of the process hold more memory than they may.
    fn excess(&self) -> usize {
        let held = usize::try_from(self.node.metrics().outbox_memory_bytes.get()).unwrap_or(0);
        held.saturating_sub(self.node.connections().waiting_bytes_max)
    }

    /// Closes the slowest until all together hold no more than they may: who has stalled and has much waiting, and when
    /// that is not enough and most of it is held here, others, too, those with little waiting last.
    fn shed(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, small_max) = (settings.waiting_bytes_max, settings.outbox_bytes_max / SMALL_PART);
        let share = bytes_max / self.node.inboxes().shards();
        let slots: Vec<Slot> = self.connections.slots().collect();
        let mut waiting: Vec<(bool, Instant, Slot)> = Vec::new();
        for slot in slots {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if connection.session.is_some() && !connection.outbox.is_empty() {
                waiting.push((connection.outbox.cost() <= small_max, connection.took, slot));
            }
        }
        waiting.sort_unstable();
        let mut step = Share::begin(1);
        for (is_small, took, slot) in waiting {
            let excess = self.excess();
            let is_stalled = !is_small && self.now.saturating_duration_since(took) >= STALLED_TIME;
            if excess == 0 || !(is_stalled || (excess > bytes_max / 4 && self.memory() > share)) {
                break;
            }
            self.evict(slot, refusal::Cause::SlowMemory);
            self.report_outboxes();
            if step.is_used_up() {
                // What was closed makes for another turn, which goes on.
                return;
            }
        }
        if self.excess() > 0 {
            self.next_search = self.now + SEARCH_PAUSE;
        }
    }

    /// Closes a connection that cannot keep up: what it has not begun to read is forgotten and counted.
    fn evict(&mut self, slot: Slot, why: refusal::Cause) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(session) = &connection.session else { return };
        let before = connection.outbox.load();
        session.meters().dropped(Cause::SlowReader, connection.outbox.forget() as u64);
        session.refused(why, None, &format_args!("{} bytes waited for it", before.bytes));
        self.load.follow(before, connection.outbox.load());
        connection.half_close = true;
        // The kernel took no more than the low-water mark; now it may take the few bytes that are left.
        let _ = socket2::SockRef::from(&*connection.socket.tcp()).set_tcp_notsent_lowat(u32::MAX);
        connection.blocked = false;
        let is_begun = connection.outbox.load().bytes > self.node.connections().outbox_bytes_max;
        self.close(slot, &session::TOO_SLOW);
        if is_begun {
            // Behind the rest of such a frame nobody who is so slow would read the close.
            self.remove(slot);
        } else {
            self.unwritten.push(slot);
        }
    }
}
