//! Who reads too slowly. Frames are shared, so a backlog costs little until it lasts: time decides, not bytes.

use std::time::Duration;
use std::time::Instant;

use crate::metrics::Cause;
use crate::refusal;
use crate::registry::address::Slot;
use crate::session;
use crate::shard::Shard;

/// Who has taken nothing for so long goes first when all together hold too much memory.
const STALLED_TIME: Duration = Duration::from_secs(1);
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

    /// Closes those that have taken nothing for too long while too much waits for them. Call it at each tick.
    pub(super) fn judge_lagging(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, time_max) = (settings.outbox_bytes_max, settings.slow_seconds.duration());
        let mut lagging = std::mem::take(&mut self.lagging);
        lagging.retain(|&Lagging { slot, since }| {
            let Some(connection) = self.connections.get_mut(slot) else { return false };
            connection.lags = connection.session.is_some() && connection.outbox.cost() > bytes_max;
            if connection.lags && self.now.saturating_duration_since(since.max(connection.took)) >= time_max {
                connection.lags = false;
                self.evict(slot, refusal::Cause::SlowReader);
                return false;
            }
            connection.lags
        });
        // Who was closed can have made others lag.
        lagging.append(&mut self.lagging);
        self.lagging = lagging;
    }

    /// Closes those that have more waiting than anybody may, now that they have been written to.
    pub(super) fn judge(&mut self) {
        let bytes_max = self.node.connections().hard_bytes_max();
        for slot in std::mem::take(&mut self.evicted) {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            // The socket may have taken in the meantime what this turn put in.
            if connection.outbox.backlog() > bytes_max {
                self.evict(slot, refusal::Cause::SlowBacklog);
            }
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

    /// Closes the slowest until all together hold no more than they may: who has stalled, and when that is not
    /// enough and most of it is held here, others, too.
    fn shed(&mut self) {
        let bytes_max = self.node.connections().waiting_bytes_max;
        let share = bytes_max / self.node.inboxes().shards();
        let slots: Vec<Slot> = self.connections.slots().collect();
        let mut waiting: Vec<(Instant, Slot)> = Vec::new();
        for slot in slots {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if connection.session.is_some() && !connection.outbox.is_empty() {
                waiting.push((connection.took, slot));
            }
        }
        waiting.sort_unstable();
        for (took, slot) in waiting {
            let excess = self.excess();
            let is_stalled = self.now.saturating_duration_since(took) >= STALLED_TIME;
            if excess == 0 || !(is_stalled || (excess > bytes_max / 4 && self.memory() > share)) {
                break;
            }
            self.evict(slot, refusal::Cause::SlowMemory);
            self.report_outboxes();
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
