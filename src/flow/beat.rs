//! The beat of a channel: windows of different keys end together, so that one write carries all of them.

use std::time::Duration;
use std::time::Instant;

/// Moments at equal intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    first: Instant,
    window: Duration,
}

impl Beat {
    pub(super) fn new(first: Instant, window: Duration) -> Self {
        Self { first, window }
    }

    /// The earliest beat that is not before `time`.
    pub(super) fn at_or_after(&self, time: Instant) -> Instant {
        let window = self.window.as_nanos();
        let since = time.saturating_duration_since(self.first).as_nanos();
        match since % window {
            0 => time.max(self.first),
            // Less than a window, which fits.
            rest => time + Duration::from_nanos((window - rest) as u64),
        }
    }

    /// The earliest beat after `time`.
    pub(super) fn after(&self, time: Instant) -> Instant {
        self.at_or_after(time + Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_a_window_apart() {
        let (first, ms) = (Instant::now(), Duration::from_millis);
        let beat = Beat::new(first, ms(250));
        for (time, at_or_after, after) in [(0, 0, 250), (1, 250, 250), (250, 250, 500), (999, 1000, 1000)] {
            assert_eq!(beat.at_or_after(first + ms(time)), first + ms(at_or_after), "{time}");
            assert_eq!(beat.after(first + ms(time)), first + ms(after), "{time}");
        }
        assert_eq!(beat.at_or_after(first - ms(1)), first);
    }
}
