//! Keeps a link to a server that nodes share: opens it, and opens it again whenever it is lost.
//! The cluster, webhooks, shared rate limits and Laravel's events each keep one.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

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
/// it still does then. `warn` logs an event of the purpose with its cause, each once in an outage.
pub async fn run<L, O, S, E: Display>(
    purpose: &Purpose,
    stop: &CancellationToken,
    warn: impl Fn(&'static str, &E),
    open: impl Fn() -> O,
    serve: impl Fn(L) -> S,
) where
    // Not `AsyncFn`: the compiler cannot prove that its futures are `Send`.
    O: Future<Output = Result<L, E>>,
    S: Future<Output = Result<(), E>>,
{
    let mut pause = *RETRY.start();
    let mut logged: Vec<(&str, String)> = Vec::new();
    while let Some(opened) = stop.run_until_cancelled(open()).await {
        let (mut is_stable, mut event) = (false, purpose.absent);
        let outcome = match opened {
            Ok(link) => {
                let since = Instant::now();
                event = purpose.lost;
                let outcome = serve(link).await;
                is_stable = since.elapsed() > STABLE;
                outcome
            }
            Err(error) => Err(error),
        };
        if is_stable {
            logged.clear();
        }
        if let Err(error) = outcome {
            let cause = (event, error.to_string());
            if logged.contains(&cause) || logged.len() == LOGGED_MAX {
                tracing::debug!(%error, "{event}, again");
            } else {
                warn(event, &error);
                logged.push(cause);
            }
        }
        if is_stable {
            pause = *RETRY.start();
            continue;
        }
        // Nodes that lost the server together do not come back in the same moment.
        let jitter = rand::random_range(0.75..1.25);
        stop.run_until_cancelled(tokio::time::sleep(pause.mul_f64(jitter))).await;
        pause = (pause * 2).min(*RETRY.end());
    }
}
