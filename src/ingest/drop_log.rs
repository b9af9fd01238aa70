//! Logs dropped messages, at most one line per cause and interval.
//! `ingest` calls it for each message that it drops.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::ingest::IngestError;
use crate::metrics::IngestDropCause;

/// The interval between two lines of the same cause.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The last line of each cause.
#[derive(Debug, Default)]
pub(super) struct DropLog(Mutex<HashMap<IngestDropCause, LogInterval>>);

#[derive(Debug, Default)]
struct LogInterval {
    at: Option<Instant>,
    /// Messages dropped since that line.
    dropped: u64,
}

impl LogInterval {
    /// Counts a message. Returns how many to report, if a line is due.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.dropped += 1;
        if self.at.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

impl DropLog {
    /// Logs a dropped message, or all since the last line.
    pub(super) fn report(&self, why: &IngestError, redis_channel: &[u8], now: Instant) {
        let cause = why.cause();
        let Some(dropped) = self.0.lock().entry(cause).or_default().count(now) else { return };
        let channel: String = String::from_utf8_lossy(redis_channel).chars().take(100).collect();
        match cause {
            IngestDropCause::Foreign => tracing::debug!(channel, dropped, "a message in Redis is {why}"),
            IngestDropCause::Encrypted => tracing::error!(
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
        let (mut interval, now) = (LogInterval::default(), Instant::now());
        assert_eq!(interval.count(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(interval.count(now + LOG_INTERVAL / 2), None);
        }
        assert_eq!(interval.count(now + LOG_INTERVAL), Some(1001));
        assert_eq!(interval.count(now + LOG_INTERVAL), None);
    }
}
