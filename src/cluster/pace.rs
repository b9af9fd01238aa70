//! When to send the next commands to Redis: at once, or in a flood after they have gathered for a millisecond.
//! `link` asks after each round trip.

use std::time::Duration;
use std::time::Instant;

/// More commands than this within [`PAUSE`] are a flood.
const FLOOD_COMMANDS: usize = 4;
/// How long commands gather in a flood, so that many of them share a round: each round costs this process and Redis a
/// few system calls. Timers have this resolution, so it may be twice as long.
const PAUSE: Duration = Duration::from_millis(1);

/// Counts the commands of the latest rounds.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    commands: usize,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, commands: 0 }
    }

    /// How long to wait after a round of this many commands: not at all unless there is a flood.
    pub(super) fn pause_after(&mut self, commands: usize, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.since) > PAUSE {
            *self = Self::new(now);
        }
        self.commands += commands;
        (self.commands > FLOOD_COMMANDS).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_a_flood_commands_wait() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for millisecond in 0..100 {
            assert_eq!(pace.pause_after(1, start + Duration::from_millis(2 * millisecond)), None);
        }
        let now = start + Duration::from_secs(1);
        let pauses: Vec<bool> = (0..6).map(|_| pace.pause_after(1, now).is_some()).collect();
        assert_eq!(pauses, [false, false, false, false, true, true]);
        assert_eq!(pace.pause_after(100, now + Duration::from_secs(1)), Some(PAUSE));
        assert_eq!(pace.pause_after(1, now + Duration::from_secs(2)), None);
    }
}
