//! The figures of the last 15 minutes by second, and of the last 24 hours by minute.
//! `dashboard` adds a sample each second.

/// The figures, as the page names them.
pub const SERIES: [&str; 12] = [
    "connections",
    "events",
    "deliveries",
    "bytes_out",
    "latency_p50_ms",
    "latency_p99_ms",
    "drops",
    "refusals",
    "slow",
    "channels",
    "thinned",
    "client_events",
];

/// One value of each series; none where there is nothing to tell, such as a latency without events.
pub type Sample = [f32; SERIES.len()];

const SECONDS: usize = 15 * 60;
const MINUTES: usize = 24 * 60;
/// A sample that was not taken.
const MISSING: Sample = [f32::NAN; SERIES.len()];

/// The figures of a process.
#[derive(Debug)]
pub struct History {
    seconds: Ring,
    minutes: Ring,
    /// Samples of the present minute, and how many there are of each series.
    sums: [(f64, u32); SERIES.len()],
}

/// The samples of equally long steps.
#[derive(Debug)]
struct Ring {
    samples: Vec<Sample>,
    /// The step of the newest sample, counted from 1970.
    last: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { seconds: Ring::new(SECONDS), minutes: Ring::new(MINUTES), sums: [(0.0, 0); SERIES.len()] }
    }
}

impl History {
    /// The memory that it takes.
    pub const BYTES: usize = {
        let bytes = (SECONDS + MINUTES) * size_of::<Sample>();
        assert!(bytes <= 1 << 20, "a node has two, and they must not take more than 2 MiB");
        bytes
    };

    /// Adds the sample of a second, counted from 1970.
    pub fn add(&mut self, second: u64, sample: Sample) {
        let minute = second / 60;
        if minute != self.minutes.last {
            self.sums = [(0.0, 0); SERIES.len()];
        }
        self.seconds.set(second, sample);
        for ((sum, count), value) in self.sums.iter_mut().zip(sample).filter(|(_, value)| !value.is_nan()) {
            *sum += f64::from(value);
            *count += 1;
        }
        self.minutes.set(minute, self.sums.map(|(sum, count)| (sum / f64::from(count)) as f32));
    }

    /// The seconds of a step, the second at which the newest one ends, and the samples, oldest first.
    pub fn minutes(&self) -> (u64, u64, Vec<Sample>) {
        (60, (self.minutes.last + 1) * 60, self.minutes.all())
    }

    /// Like `minutes`, by second.
    pub fn seconds(&self) -> (u64, u64, Vec<Sample>) {
        (1, self.seconds.last + 1, self.seconds.all())
    }
}

impl Ring {
    fn new(len: usize) -> Self {
        Self { samples: vec![MISSING; len], last: 0 }
    }

    fn index(&self, step: u64) -> usize {
        usize::try_from(step % self.samples.len() as u64).unwrap_or_default()
    }

    fn set(&mut self, step: u64, sample: Sample) {
        // Steps without a sample: the process was not up, or suspended. A clock that was set back begins anew.
        if step > self.last {
            let first = (self.last + 1).max(step.saturating_sub(self.samples.len() as u64));
            for missed in first..step {
                let index = self.index(missed);
                self.samples[index] = MISSING;
            }
        } else if step < self.last {
            self.samples.fill(MISSING);
        }
        let index = self.index(step);
        self.samples[index] = sample;
        self.last = step;
    }

    fn all(&self) -> Vec<Sample> {
        let oldest = self.index(self.last + 1);
        let (newer, older) = self.samples.split_at(oldest);
        older.iter().chain(newer).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second in 2025.
    const NOW: u64 = 1_764_510_000;

    fn sample(value: f32) -> Sample {
        [value; SERIES.len()]
    }

    fn first_series(samples: &[Sample]) -> Vec<Option<f32>> {
        samples.iter().map(|sample| Some(sample[0]).filter(|value| !value.is_nan())).collect()
    }

    #[test]
    fn the_newest_second_is_the_last_and_missed_ones_are_missing() {
        let mut history = History::default();
        for second in [0, 1, 4] {
            history.add(NOW + second, sample(second as f32));
        }
        let (step, end, samples) = history.seconds();
        assert_eq!((step, end, samples.len()), (1, NOW + 5, 900));
        assert_eq!(first_series(&samples)[895..], [Some(0.0), Some(1.0), None, None, Some(4.0)]);
        assert!(first_series(&samples)[..895].iter().all(Option::is_none));
    }

    #[test]
    fn a_minute_is_the_average_of_its_seconds() {
        let mut history = History::default();
        for second in 0..120 {
            history.add(NOW / 60 * 60 + second, sample(if second < 60 { 2.0 } else { (second % 2) as f32 }));
        }
        let (step, end, samples) = history.minutes();
        assert_eq!((step, end % 60, samples.len()), (60, 0, 1440));
        assert_eq!(first_series(&samples)[1438..], [Some(2.0), Some(0.5)]);
    }

    #[test]
    fn old_seconds_go_and_a_clock_that_leaps_leaves_nothing_wrong() {
        let mut history = History::default();
        (0..2000).for_each(|second| history.add(NOW + second, sample(second as f32)));
        let (_, _, samples) = history.seconds();
        assert_eq!((samples[0][0], samples[899][0]), (1100.0, 1999.0));
        history.add(NOW + 1_000_000, sample(1.0));
        assert_eq!(first_series(&history.seconds().2).iter().flatten().count(), 1);
        history.add(NOW, sample(3.0));
        assert_eq!(first_series(&history.seconds().2).iter().flatten().collect::<Vec<_>>(), [&3.0]);
    }
}
