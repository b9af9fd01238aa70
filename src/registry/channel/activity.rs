//! How busy a channel is, for the operator's page.
//! A channel has it only where there is a page.

use std::time::Duration;
use std::time::Instant;

/// The time over which events are averaged.
const PERIOD: Duration = Duration::from_secs(5);

/// The events of a channel on this node.
#[derive(Debug, Clone, Copy)]
pub struct Activity {
    /// When the last one came.
    pub last: Instant,
    began: Instant,
    count: u32,
    /// Of the period before.
    per_second: f32,
}

impl Activity {
    /// The first event.
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, began: now, count: 0, per_second: 0.0 }
    }

    /// Counts an event.
    pub(super) fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed >= PERIOD {
            self.per_second = self.count as f32 / passed.as_secs_f32();
            (self.began, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
    }

    /// Events each second, of the present period if it is long enough, else of the one before.
    pub fn per_second(&self, now: Instant) -> f32 {
        let passed = now.saturating_duration_since(self.began);
        let present = self.count as f32 / passed.as_secs_f32().max(1.0);
        if passed >= PERIOD / 2 { present } else { self.per_second.max(present) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_with_events_and_falls_without() {
        let begin = Instant::now();
        let at = |seconds: f32| begin + Duration::from_secs_f32(seconds);
        let mut activity = Activity::new(begin);
        (0..100).for_each(|number| activity.count(at(number as f32 / 10.0)));
        let rate = activity.per_second(at(10.0));
        assert!((9.0..11.0).contains(&rate), "{rate}");
        assert!(activity.per_second(at(60.0)) < 1.0);
        assert_eq!(activity.last, at(9.9));
    }
}
