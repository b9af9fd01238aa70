//! Lines in the log about messages that are dropped: never more of them than somebody can read.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::ingest::Dropped;
use crate::metrics::Unfit;

/// Between two lines with the same cause.
const SILENCE: Duration = Duration::from_secs(10);

/// What has been said of each cause.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<HashMap<Unfit, Said>>);

#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    /// Messages dropped since then.
    dropped: u64,
}

impl Said {
    /// Counts a message. When it is time for a line, returns how many it is about.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.dropped += 1;
        if self.at.is_some_and(|at| now.duration_since(at) < SILENCE) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

impl Complaints {
    /// Tells of a message, or of all since the last time.
    pub(super) fn tell_of(&self, why: &Dropped, redis_channel: &[u8], now: Instant) {
        let unfit = why.unfit();
        let Some(dropped) = self.0.lock().entry(unfit).or_default().count(now) else { return };
        let channel: String = String::from_utf8_lossy(redis_channel).chars().take(100).collect();
        match unfit {
            Unfit::Foreign => tracing::debug!(channel, dropped, "a message in Redis is {why}"),
            Unfit::Encrypted => tracing::error!(
                channel,
                dropped,
                "an event from Redis is dropped: it is {why}; use Laravel's pusher driver for encrypted channels"
            ),
            _ => tracing::warn!(channel, dropped, "an event from Redis is dropped: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_is_counted_until_it_is_time_for_a_line() {
        let (mut said, now) = (Said::default(), Instant::now());
        assert_eq!(said.count(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(said.count(now + SILENCE / 2), None);
        }
        assert_eq!(said.count(now + SILENCE), Some(1001));
        assert_eq!(said.count(now + SILENCE), None);
    }
}
