//! A time slice: how long a step of a turn may run before HTTP, on the same thread, runs.
//! Every step of a turn that may take long uses one.

use std::time::Duration;
use std::time::Instant;

use tokio::task::yield_now;

/// The length of a slice.
const STEP_TIME: Duration = Duration::from_millis(4);

/// The time of one step.
#[derive(Debug)]
pub(super) struct TimeSlice {
    began: Instant,
    /// Pieces of work between two looks at the clock.
    every: u32,
    left: u32,
}

impl TimeSlice {
    /// Begins a slice that looks at the clock after every `every` pieces of work.
    pub(super) fn begin(every: u32) -> Self {
        Self { began: Instant::now(), every, left: every }
    }

    /// Counts a piece of work. Returns whether the slice is over.
    pub(super) fn is_over(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.left = self.every;
        self.began.elapsed() >= STEP_TIME
    }

    /// Counts a piece of work. If the slice is over, lets HTTP run and begins a new one.
    pub(super) async fn yield_if_over(&mut self) {
        if self.is_over() {
            yield_now().await;
            self.began = Instant::now();
        }
    }
}
