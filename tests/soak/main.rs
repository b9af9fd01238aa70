//! The days of a clinic group and of a control room, many times as fast: nothing may be lost, and nothing may grow.
//! `tests/long/soak/run` runs it for long.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod browser;
mod drift;
mod office;
mod plot;
mod run;
mod samples;
mod tally;

use std::time::Duration;

use crate::run::Plan;

/// The number in a variable.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn seed() -> u64 {
    number("GEMA_TEST_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_some_quick_hours_nothing_is_left_and_nothing_was_lost() {
    let plan = Plan { seed: seed(), browsers: 60, speed: 40.0, hour: Duration::from_secs(4), hours: 2, burst: 100 };
    run::run(&plan).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/long/soak/run"]
async fn after_many_days_nothing_is_left_and_nothing_was_lost() {
    let speed = number("GEMA_TEST_SPEED").unwrap_or(20);
    let hour = Duration::from_secs(3600 / speed);
    let minutes = number("GEMA_TEST_MINUTES").unwrap_or(60);
    let plan = Plan {
        seed: seed(),
        browsers: number("GEMA_TEST_PAGES").unwrap_or(1000) as usize,
        speed: speed as f64,
        hour,
        hours: (60 * minutes / hour.as_secs()) as usize,
        burst: 2000,
    };
    run::run(&plan).await.assert_sound(&plan);
}
