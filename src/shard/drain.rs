//! The drain: closes all connections of the shard, spread over the time that `server` allows.
//! The shard calls it once per turn.

use std::time::Duration;
use std::time::Instant;

use crate::protocol::code::Close;
use crate::registry::address::Slot;
use crate::shard::Shard;

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
