//! Slow readers: closes connections that do not read what is sent to them, with `TOO_SLOW` (4100).
//! The shard calls it after each turn's writes and at each tick. Frames are shared, so a backlog costs little at first:
//! time decides, not bytes.

use std::time::Duration;
use std::time::Instant;

use crate::metrics::DropCause;
use crate::protocol::code::TOO_SLOW;
use crate::refusal;
use crate::registry::address::Slot;
use crate::shard::Shard;
use crate::shard::connection::Phase;
use crate::shard::time_slice::TimeSlice;

/// Connections without progress for so long are closed first when the process holds too much memory.
const STALLED_TIME: Duration = Duration::from_secs(1);
/// A connection with less than this part of `outbox_bytes_max` frees little memory.
const SMALL_PART: usize = 16;
/// The pause after a search that freed too little.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// A connection whose outbox exceeds `outbox_bytes_max`.
#[derive(Debug)]
pub(super) struct Lagging {
    slot: Slot,
    since: Instant,
}

impl Shard {
    /// Notes a connection whose outbox exceeds the limit.
    #[cold]
    pub(super) fn mark_lagging(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.session().is_none() {
            return;
        }
        if connection.outbox.backlog() > self.node.connections().hard_bytes_max() {
            self.over_limit.push(slot);
        }
        if !std::mem::replace(&mut connection.is_lagging, true) {
            self.lagging.push(Lagging { slot, since: self.now });
        }
    }

    /// Closes lagging connections that have made no progress for `slow_seconds`, for one time slice.
    pub(super) fn evict_stalled(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, time_max) = (settings.outbox_bytes_max, settings.slow_seconds.duration());
        let mut lagging = std::mem::take(&mut self.lagging);
        let mut slice = TimeSlice::begin(1);
        self.eviction_due = false;
        lagging.retain(|&Lagging { slot, since }| {
            let Some(connection) = self.connections.get_mut(slot) else { return false };
            connection.is_lagging = connection.session().is_some() && connection.outbox.cost() > bytes_max;
            let is_late = self.now.saturating_duration_since(since.max(connection.last_progress)) >= time_max;
            // A socket that is writable again has not been written to yet.
            if connection.is_lagging && connection.blocked && is_late && !self.eviction_due {
                connection.is_lagging = false;
                self.evict(slot, refusal::Cause::SlowReader);
                self.eviction_due = slice.is_over();
                return false;
            }
            connection.is_lagging
        });
        // Closing may have made other connections lag.
        lagging.append(&mut self.lagging);
        self.lagging = lagging;
    }

    /// Closes connections above the hard limit after they have been written to, for one time slice.
    pub(super) fn evict_over_limit(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, unblocked_max) = (settings.hard_bytes_max(), settings.waiting_bytes_max);
        let mut over_limit = std::mem::take(&mut self.over_limit);
        over_limit.sort_unstable();
        over_limit.dedup();
        let (mut slice, mut is_over) = (TimeSlice::begin(1), false);
        for slot in over_limit {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            let backlog = connection.outbox.backlog();
            // The socket may have taken what this turn queued, or takes it when TLS has encrypted it.
            if backlog <= bytes_max {
                continue;
            }
            if is_over || (!connection.blocked && backlog <= unblocked_max) {
                self.over_limit.push(slot);
                continue;
            }
            self.evict(slot, refusal::Cause::SlowBacklog);
            is_over = slice.is_over();
        }
        self.report_outboxes();
        if self.excess() > 0 && self.now >= self.next_search {
            self.free_memory();
        }
    }

    /// By how much all slow readers exceed the memory limit of the process.
    fn excess(&self) -> usize {
        let memory = usize::try_from(self.node.metrics().outbox_memory_bytes.get()).unwrap_or(0);
        memory.saturating_sub(self.node.connections().waiting_bytes_max)
    }

    /// Closes the slowest readers until the process is below its memory limit: first stalled ones with a large outbox.
    /// If that is not enough and this shard holds more than its part, also others, those with small outboxes last.
    fn free_memory(&mut self) {
        let settings = self.node.connections();
        let (bytes_max, small_max) = (settings.waiting_bytes_max, settings.outbox_bytes_max / SMALL_PART);
        let share = bytes_max / self.node.inboxes().shards();
        let slots: Vec<Slot> = self.connections.keys().collect();
        let mut waiting: Vec<(bool, Instant, Slot)> = Vec::new();
        for slot in slots {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if connection.session().is_some() && !connection.outbox.is_empty() {
                waiting.push((connection.outbox.cost() <= small_max, connection.last_progress, slot));
            }
        }
        waiting.sort_unstable();
        let mut slice = TimeSlice::begin(1);
        for (is_small, last_progress, slot) in waiting {
            let excess = self.excess();
            let is_stalled = !is_small && self.now.saturating_duration_since(last_progress) >= STALLED_TIME;
            if excess == 0 || !(is_stalled || (excess > bytes_max / 4 && self.memory() > share)) {
                break;
            }
            self.evict(slot, refusal::Cause::SlowMemory);
            self.report_outboxes();
            if slice.is_over() {
                // The closed connections cause another turn, which continues.
                return;
            }
        }
        if self.excess() > 0 {
            self.next_search = self.now + SEARCH_PAUSE;
        }
    }

    /// Closes a connection that cannot keep up. Frames that have not been begun are dropped and counted.
    pub(super) fn evict(&mut self, slot: Slot, why: refusal::Cause) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Phase::Open(session, _) = &connection.phase else { return };
        let before = connection.outbox.load();
        session.meters().dropped(DropCause::SlowReader, connection.outbox.forget() as u64);
        session.count_refusal(why, None, &format_args!("{} bytes waited for it", before.bytes));
        self.load.follow(before, connection.outbox.load());
        connection.has_lost_frames = true;
        // The kernel took no more than its low-water mark; now it may take the rest.
        let _ = socket2::SockRef::from(&*connection.socket.tcp()).set_tcp_notsent_lowat(u32::MAX);
        connection.blocked = false;
        let is_begun = connection.outbox.load().bytes > self.node.connections().outbox_bytes_max;
        self.fail(slot, &TOO_SLOW);
        if is_begun {
            // Such a slow client would not read the close behind the rest of this frame.
            self.remove(slot);
        } else {
            self.unwritten.push(slot);
        }
    }
}
