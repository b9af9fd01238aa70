//! Random disasters, and one judge of everything that was seen from outside. `tests/long/chaos/run` runs it for long.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod cases;
mod check;
mod history;
mod hooks;
mod node;
mod official;
mod page;
mod publisher;
mod redis;
mod run;
mod schedule;
mod world;

use std::time::Duration;

use crate::run::Plan;

/// The number in a variable.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// The seed of a run without one: what every change has to pass is the same each time.
const SEED: u64 = 93;

fn seed() -> u64 {
    let seed = number("GEMA_TEST_SEED").unwrap_or(SEED);
    println!("to see the same again: GEMA_TEST_SEED={seed}");
    seed
}

/// The kind of Redis that a variable names, or that a number stands for.
fn redis(number: u64) -> &'static str {
    const KINDS: [&str; 3] = ["alone", "sentinel", "cluster"];
    match std::env::var("GEMA_TEST_REDIS") {
        Ok(named) => {
            KINDS.into_iter().find(|kind| *kind == named).unwrap_or_else(|| panic!("{named} is none of {KINDS:?}"))
        }
        Err(_) => KINDS[number as usize % KINDS.len()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_for_half_a_minute_the_promises_hold() {
    let plan = Plan {
        seed: seed(),
        storm: Duration::from_secs(25),
        longest: Duration::from_secs(6),
        pages: 24,
        official: number("GEMA_TEST_OFFICIAL").unwrap_or(0) as usize,
        redis: redis(0),
    };
    run::run(&plan).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/long/chaos/run"]
async fn whatever_fails_for_long_the_promises_hold() {
    let minutes = number("GEMA_TEST_MINUTES").unwrap_or(10);
    let pages = number("GEMA_TEST_PAGES").unwrap_or(100);
    let official = number("GEMA_TEST_OFFICIAL").unwrap_or(pages / 20);
    let seed = seed();
    let plan = Plan {
        seed,
        storm: Duration::from_secs(60 * minutes),
        longest: Duration::from_secs(20),
        pages: pages as usize,
        official: official as usize,
        redis: redis(seed),
    };
    let outcome = run::run(&plan).await;
    if !outcome.broken().is_empty() {
        println!("{} faults, such as {}", outcome.broken().len(), outcome.broken()[0]);
        if let Some(tries) = number("GEMA_TEST_SHRINK") {
            run::shrink(&plan, tries).await;
        }
    }
    outcome.assert_sound(&plan);
}
