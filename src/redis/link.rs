//! Keeps a link to Redis: opens it, and opens it again whenever it is lost. The cluster, shared rate limits and Laravel's
//! events each keep one.

use std::ops::RangeInclusive;
use std::time::Duration;
use std::time::Instant;

use redis::RedisError;
use redis::RedisResult;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::redis::error::advice;

/// Shortest and longest pause between two attempts to connect.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);
/// A link that held for this long is opened again at once.
const STABLE: Duration = *RETRY.end();
/// Different errors that are logged in one outage.
const LOGGED_MAX: usize = 16;

/// A link in the words of the log.
#[derive(Debug)]
pub struct Purpose {
    /// Logged when the link cannot be opened.
    pub absent: &'static str,
    /// Logged when the link is lost.
    pub lost: &'static str,
    /// Describes what happens without the link.
    pub meanwhile: &'static str,
    /// The remedy when Redis does not permit a command.
    pub acl_advice: Option<&'static str>,
}

/// Opens a link, serves it until it is lost, and opens it again, until `stop` is cancelled. `serve` decides itself what
/// it still does then.
pub async fn keep<L, O, S>(
    options: &config::Redis,
    purpose: &Purpose,
    stop: &CancellationToken,
    open: impl Fn() -> O,
    serve: impl Fn(L) -> S,
) where
    // Not `AsyncFn`: the compiler cannot prove that its futures are `Send`.
    O: Future<Output = RedisResult<L>>,
    S: Future<Output = RedisResult<()>>,
{
    let mut pause = *RETRY.start();
    let mut logged: Vec<String> = Vec::new();
    while let Some(opened) = stop.run_until_cancelled(open()).await {
        match opened {
            Ok(link) => {
                logged.clear();
                let since = Instant::now();
                if let Err(error) = serve(link).await {
                    warn(options, purpose, purpose.lost, &error);
                }
                if since.elapsed() > STABLE {
                    pause = *RETRY.start();
                    continue;
                }
            }
            Err(error) => {
                let cause = error.to_string();
                if logged.contains(&cause) || logged.len() == LOGGED_MAX {
                    tracing::debug!(%error, "{}, still", purpose.absent);
                } else {
                    warn(options, purpose, purpose.absent, &error);
                    logged.push(cause);
                }
            }
        }
        // Nodes that lost Redis together do not come back in the same moment.
        let jitter = rand::random_range(0.75..1.25);
        stop.run_until_cancelled(tokio::time::sleep(pause.mul_f64(jitter))).await;
        pause = (pause * 2).min(*RETRY.end());
    }
}

fn warn(options: &config::Redis, purpose: &Purpose, event: &str, error: &RedisError) {
    let acl_advice = purpose.acl_advice.filter(|_| error.code() == Some("NOPERM"));
    let (place, advice) = (options.place(), acl_advice.or(advice(error, options)));
    tracing::warn!(place, %error, advice, "{event}; {}", purpose.meanwhile);
}
