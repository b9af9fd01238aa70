//! One monotonic clock for both threads of the tool.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A second, in the unit of [`now`].
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since the tool first looked.
pub(crate) fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// Whole nanoseconds of a length given in seconds.
pub(crate) fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

/// Sleeps until the clock shows `time`; not at all if it is past.
pub(crate) fn sleep_until(time: u64) {
    std::thread::sleep(Duration::from_nanos(time.saturating_sub(now())));
}
