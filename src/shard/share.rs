//! HTTP lives on the same thread, and gets its share of it.

use std::time::Duration;
use std::time::Instant;

use tokio::task::yield_now;

/// How long a step of a turn goes on before HTTP has its share.
const STEP_TIME: Duration = Duration::from_millis(4);

/// A step of a turn that may take long.
#[derive(Debug)]
pub(super) struct Share {
    began: Instant,
    /// After how many pieces of work the clock is looked at.
    every: u32,
    left: u32,
}

impl Share {
    /// A step whose pieces of work are so short that the clock is looked at after `every` of them.
    pub(super) fn begin(every: u32) -> Self {
        Self { began: Instant::now(), every, left: every }
    }

    /// One more piece of work is done. Tells whether the step has gone on for long enough.
    pub(super) fn is_used_up(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.left = self.every;
        self.began.elapsed() >= STEP_TIME
    }

    /// One more piece of work is done. If the step has gone on for long enough, HTTP has its share.
    pub(super) async fn give(&mut self) {
        if self.is_used_up() {
            yield_now().await;
            self.began = Instant::now();
        }
    }
}
