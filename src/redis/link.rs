//! Keeps a link to Redis: opens it, and opens it again whenever it is lost. The cluster, webhooks, shared rate limits
//! and Laravel's events each keep one.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use redis::RedisError;
use redis::RedisResult;
use tokio::sync::oneshot;
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
pub async fn run<L, O, S>(
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
                warn(options, purpose, event, &error);
                logged.push(cause);
            }
        }
        if is_stable {
            pause = *RETRY.start();
            continue;
        }
        // Nodes that lost Redis together do not come back in the same moment.
        let jitter = rand::random_range(0.75..1.25);
        stop.run_until_cancelled(tokio::time::sleep(pause.mul_f64(jitter))).await;
        pause = (pause * 2).min(*RETRY.end());
    }
}

/// A link that many tasks use while [`CurrentLink::run`] keeps it.
#[derive(Debug)]
pub struct CurrentLink<L> {
    /// The link, and the way to report that it fails.
    link: Mutex<Option<(Arc<L>, oneshot::Sender<RedisError>)>>,
    /// Cancelled after the first attempt to open it.
    tried: CancellationToken,
}

impl<L> Default for CurrentLink<L> {
    fn default() -> Self {
        Self { link: Mutex::new(None), tried: CancellationToken::new() }
    }
}

impl<L> CurrentLink<L> {
    /// The link. `None` while Redis is away.
    pub fn get(&self) -> Option<Arc<L>> {
        self.link.lock().as_ref().map(|(link, _)| Arc::clone(link))
    }

    /// Whether this link is still in use.
    pub fn is(&self, link: &Arc<L>) -> bool {
        self.link.lock().as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, link))
    }

    /// Gives up a link that fails, so that a new one is opened.
    pub fn fail(&self, link: &Arc<L>, error: RedisError) {
        if let Some((_, failed)) = self.link.lock().take_if(|(current, _)| Arc::ptr_eq(current, link)) {
            // The task that keeps the link ends with the process only.
            let _ = failed.send(error);
        }
    }

    /// Waits until the first link is open, or the first attempt has failed.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Keeps a link until `stop` is cancelled. `probe` ends when the link fails without a report.
    pub async fn run<O, P>(
        &self,
        (options, purpose): (&config::Redis, &Purpose),
        stop: &CancellationToken,
        open: impl Fn() -> O,
        probe: impl Fn(Arc<L>) -> P,
    ) where
        O: Future<Output = RedisResult<L>>,
        P: Future<Output = RedisError>,
    {
        let open = || async {
            let _tried = self.tried.clone().drop_guard();
            open().await
        };
        let serve = |link| async {
            let (link, (report, failed)) = (Arc::new(link), oneshot::channel());
            *self.link.lock() = Some((Arc::clone(&link), report));
            let error = tokio::select! {
                Ok(error) = failed => Err(error),
                error = probe(link) => Err(error),
                () = stop.cancelled() => Ok(()),
            };
            *self.link.lock() = None;
            error
        };
        run(options, purpose, stop, open, serve).await;
    }
}

fn warn(options: &config::Redis, purpose: &Purpose, event: &str, error: &RedisError) {
    let acl_advice = purpose.acl_advice.filter(|_| error.code() == Some("NOPERM"));
    let (place, advice) = (options.place(), acl_advice.or(advice(error, options)));
    tracing::warn!(place, %error, advice, "{event}; {}", purpose.meanwhile);
}
