//! Keeps a link to Redis, and logs with a remedy why there is none.
//! The cluster, webhooks, shared rate limits and Laravel's events each keep one.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::RedisError;
use redis::RedisResult;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::link;
use crate::link::Purpose;
use crate::redis::error::advice;

/// Keeps a link to Redis, see [`link::run`].
pub async fn run<L, O, S>(
    options: &config::Redis,
    purpose: &Purpose,
    stop: &CancellationToken,
    open: impl Fn() -> O,
    serve: impl Fn(L) -> S,
) where
    O: Future<Output = RedisResult<L>>,
    S: Future<Output = RedisResult<()>>,
{
    let warn = |event: &'static str, error: &RedisError| warn(options, purpose, event, error);
    link::run(purpose, stop, warn, open, serve).await;
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

/// Logs an event of a purpose with its cause and, if there is one, a remedy.
pub fn warn(options: &config::Redis, purpose: &Purpose, event: &str, error: &RedisError) {
    let acl_advice = purpose.acl_advice.filter(|_| error.code() == Some("NOPERM"));
    let (place, advice) = (options.place(), acl_advice.or(advice(error, options)));
    tracing::warn!(place, %error, advice, "{event}; {}", purpose.meanwhile);
}
