//! Scenarios with a limit in time, on machines that are busy with much else.

use std::panic::AssertUnwindSafe;
use std::panic::resume_unwind;
use std::time::Duration;
use std::time::Instant;

use futures_util::FutureExt;

/// The factors by which the attempts lengthen their times.
const FACTORS: [u32; 5] = [1, 2, 4, 8, 16];

/// Repeats a scenario, with everything made anew, until it is in time. `Err` tells what took too long: a fault of the
/// server makes each attempt late, a busy machine only some. Each attempt gets the factor for its times.
pub async fn in_time<T>(scenario: impl AsyncFn(u32) -> Result<T, String>) -> T {
    let mut late = Vec::new();
    for factor in FACTORS {
        match scenario(factor).await {
            Ok(result) => return result,
            Err(what) => late.push(what),
        }
    }
    panic!("each attempt was too late: {late:#?}");
}

/// Does what must be done within this time. It may fail only after this time, which is `Err`.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let began = Instant::now();
    unless_late(|| began.elapsed() >= time, work).await
}

/// Does something that may fail only if it was too late, which is `Err`.
pub async fn unless_late<T>(is_late: impl FnOnce() -> bool, work: impl Future<Output = T>) -> Result<T, String> {
    let began = Instant::now();
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => Ok(result),
        Err(_) if is_late() => Err(format!("it was too late after {:?}", began.elapsed())),
        Err(panic) => resume_unwind(panic),
    }
}
