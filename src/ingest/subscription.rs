//! The Redis connection that is subscribed to Laravel's events, with its reconnects.
//! `Ingest::run` runs it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use redis::PushInfo;
use redis::PushKind;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio_util::sync::CancellationToken;

use crate::cluster::connection;
use crate::cluster::connection::Backoff;
use crate::ingest::Ingest;

/// Without input for this long, the connection is tested with a PING.
const IDLE_TIME: Duration = Duration::from_secs(2);

/// One subscribed connection.
struct Subscription {
    redis: MultiplexedConnection,
    state: Arc<SubscriptionState>,
    since: Instant,
}

/// The state that the receiving callback shares with its connection.
#[derive(Default)]
struct SubscriptionState {
    /// Cancelled when the connection is lost; later messages are ignored.
    lost: CancellationToken,
    /// A message has come since the last test.
    has_input: AtomicBool,
}

/// Keeps a subscribed connection until `stop` is cancelled.
pub(super) async fn run(ingest: &Arc<Ingest>, stop: &CancellationToken) {
    let mut backoff = Backoff::default();
    let mut is_logged = false;
    while !stop.is_cancelled() {
        let opened = stop.run_until_cancelled(Subscription::open(ingest)).await;
        ingest.tried.cancel();
        match opened {
            Some(Ok(link)) => {
                is_logged = true;
                tracing::info!("listening to Laravel's redis broadcaster");
                if let Some(Err(error)) = stop.run_until_cancelled(link.serve()).await {
                    report(&error, "the connection to Laravel's redis broadcaster is lost", ingest);
                }
                link.state.lost.cancel();
                ingest.meters.up.set(0);
                if link.since.elapsed() > Backoff::STABLE {
                    backoff = Backoff::default();
                    continue;
                }
            }
            Some(Err(error)) if !is_logged => {
                is_logged = true;
                report(&error, "Laravel's redis broadcaster cannot be listened to", ingest);
            }
            Some(Err(error)) => tracing::debug!(%error, "Laravel's redis broadcaster still cannot be listened to"),
            None => return,
        }
        stop.run_until_cancelled(backoff.pause()).await;
    }
}

fn report(error: &RedisError, what: &str, ingest: &Ingest) {
    let forbidden = (error.code() == Some("NOPERM")).then_some("the user's ACL must allow &PREFIX* for each prefix");
    let advice = forbidden.or(connection::advice(error, &ingest.redis));
    tracing::warn!(place = ingest.redis.place(), %error, advice, "{what}; its events do not arrive meanwhile");
}

impl Subscription {
    async fn open(ingest: &Arc<Ingest>) -> RedisResult<Self> {
        let state = Arc::new(SubscriptionState::default());
        let (receiver, own_state) = (Arc::clone(ingest), Arc::clone(&state));
        let mut redis = connection::open_one(&ingest.redis, move |push| own_state.on_push(push, &receiver)).await?;
        redis.psubscribe(ingest.patterns()).await?;
        ingest.meters.up.set(1);
        Ok(Self { redis, state, since: Instant::now() })
    }

    /// Waits until the connection is lost.
    async fn serve(&self) -> RedisResult<Infallible> {
        tokio::select! {
            lost = self.watch() => lost,
            () = self.state.lost.cancelled() => Err(io::Error::other("Redis has ended it, or a subscription").into()),
        }
    }

    /// Tests an idle connection. One with messages lives, however late its answer would be.
    async fn watch(&self) -> RedisResult<Infallible> {
        let mut redis = self.redis.clone();
        loop {
            tokio::time::sleep(IDLE_TIME).await;
            if !self.state.has_input.swap(false, Ordering::Relaxed) {
                cmd("PING").query_async::<Value>(&mut redis).await?;
            }
        }
    }
}

impl SubscriptionState {
    /// Handles a push message of Redis.
    fn on_push(&self, push: PushInfo, ingest: &Ingest) {
        if self.lost.is_cancelled() {
            return;
        }
        match (push.kind, push.data.as_slice()) {
            (PushKind::PMessage, [_, Value::BulkString(channel), Value::BulkString(message)]) => {
                self.has_input.store(true, Ordering::Relaxed);
                ingest.on_message(channel, message);
            }
            // Nothing here unsubscribes, so Redis has ended it.
            (PushKind::Disconnection | PushKind::PUnsubscribe, _) => self.lost.cancel(),
            _ => (),
        }
    }
}
