//! A timer wheel with ticks of one second, for all connections of a shard.
//! `keepalive` wakes connections with it.

use std::time::Duration;
use std::time::Instant;

use crate::registry::address::Slot;

/// Seconds since the shard started.
pub(super) type Tick = u32;

/// Ticks of one round; later deadlines take more than one round.
const SPOKES: usize = 256;
/// The length of a tick.
const TICK: Duration = Duration::from_secs(1);

/// Wakes connections at a tick. One that is woken too early, because its deadline moved, is put back.
#[derive(Debug)]
pub(super) struct Wheel {
    began: Instant,
    now: Tick,
    spokes: Vec<Vec<Slot>>,
}

impl Wheel {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, now: 0, spokes: vec![Vec::new(); SPOKES] }
    }

    /// The current tick.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    /// When the next tick begins.
    pub(super) fn next(&self) -> Instant {
        self.began + TICK * (self.now + 1)
    }

    /// The first tick at which `time` has passed since any moment of the tick `since`.
    pub(super) fn after(since: Tick, time: Duration) -> Tick {
        let ticks = time.as_secs() + u64::from(time.subsec_nanos() > 0) + 1;
        since.saturating_add(Tick::try_from(ticks).unwrap_or(Tick::MAX))
    }

    /// Wakes the connection at this tick or somewhat before.
    pub(super) fn wake(&mut self, slot: Slot, at: Tick) {
        let ahead = at.saturating_sub(self.now).clamp(1, SPOKES as Tick - 1);
        self.spokes[(self.now.wrapping_add(ahead)) as usize % SPOKES].push(slot);
    }

    /// Advances to the tick of `now`. Returns the connections to wake.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Slot> {
        let mut due = Vec::new();
        while now >= self.next() {
            self.now += 1;
            due.append(&mut self.spokes[self.now as usize % SPOKES]);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_woken_once_at_its_tick() {
        let began = Instant::now();
        let mut wheel = Wheel::new(began);
        let slot = Slot::default();
        let at = Wheel::after(wheel.now(), Duration::from_secs(3));
        wheel.wake(slot, at);
        assert!(wheel.advance(began + TICK * 3).is_empty());
        assert_eq!(wheel.advance(began + TICK * at), [slot]);
        assert!(wheel.advance(began + TICK * 600).is_empty());
    }
}
