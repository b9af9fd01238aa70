//! A clock that stands still while this machine has no time for the tests: for promises that are made in seconds.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How often the clock is watched.
const TICK: Duration = Duration::from_millis(10);
/// A tick may be so late on any machine.
const LATE_MIN: Duration = Duration::from_millis(2);

/// What a thread that wants to run at each tick has waited for longer than it wanted to, in microseconds.
static LATE_MICROS: AtomicU64 = AtomicU64::new(0);

static BEGAN: LazyLock<Instant> = LazyLock::new(|| {
    thread::spawn(|| {
        loop {
            let began = Instant::now();
            thread::sleep(TICK);
            let late = began.elapsed().saturating_sub(TICK);
            if late > LATE_MIN {
                LATE_MICROS.fetch_add(late.as_micros().try_into().unwrap(), Ordering::Relaxed);
            }
        }
    });
    Instant::now()
});

/// The time since the first call.
pub fn now() -> Duration {
    BEGAN.elapsed().saturating_sub(Duration::from_micros(LATE_MICROS.load(Ordering::Relaxed)))
}
