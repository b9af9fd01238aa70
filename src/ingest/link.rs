//! The connection on which Laravel's events come: made, kept, lost, made again.

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

/// How long nothing may come until the connection is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(2);

/// One connection.
struct Link {
    redis: MultiplexedConnection,
    state: Arc<State>,
    since: Instant,
}

/// What those who hear know of their connection.
#[derive(Default)]
struct State {
    /// From then on nothing counts that still comes from it.
    lost: CancellationToken,
    /// A message has come since somebody last asked.
    heard: AtomicBool,
}

/// Keeps a connection until `stop` is cancelled.
pub(super) async fn keep(ingest: &Arc<Ingest>, stop: &CancellationToken) {
    let mut backoff = Backoff::default();
    let mut told = false;
    while !stop.is_cancelled() {
        let opened = stop.run_until_cancelled(Link::open(ingest)).await;
        ingest.tried.cancel();
        match opened {
            Some(Ok(link)) => {
                told = true;
                tracing::info!("listening to Laravel's redis broadcaster");
                if let Some(Err(error)) = stop.run_until_cancelled(link.serve()).await {
                    tell_of(&error, "the connection to Laravel's redis broadcaster is lost", ingest);
                }
                link.state.lost.cancel();
                ingest.meters.up.set(0);
                if link.since.elapsed() > Backoff::STABLE {
                    backoff = Backoff::default();
                    continue;
                }
            }
            Some(Err(error)) if !told => {
                told = true;
                tell_of(&error, "Laravel's redis broadcaster cannot be listened to", ingest);
            }
            Some(Err(error)) => tracing::debug!(%error, "Laravel's redis broadcaster still cannot be listened to"),
            None => return,
        }
        stop.run_until_cancelled(backoff.pause()).await;
    }
}

fn tell_of(error: &RedisError, what: &str, ingest: &Ingest) {
    let forbidden = (error.code() == Some("NOPERM")).then_some("the user's ACL must allow &PREFIX* for each prefix");
    let advice = forbidden.or(connection::advice(error, &ingest.redis));
    tracing::warn!(place = ingest.redis.place(), %error, advice, "{what}; its events do not arrive meanwhile");
}

impl Link {
    async fn open(ingest: &Arc<Ingest>) -> RedisResult<Self> {
        let state = Arc::new(State::default());
        let (hears, of) = (Arc::clone(ingest), Arc::clone(&state));
        let mut redis = connection::open_one(&ingest.redis, move |push| of.hear(push, &hears)).await?;
        redis.psubscribe(ingest.patterns()).await?;
        ingest.meters.up.set(1);
        Ok(Self { redis, state, since: Instant::now() })
    }

    /// Ends when the connection is lost.
    async fn serve(&self) -> RedisResult<Infallible> {
        tokio::select! {
            lost = self.watch() => lost,
            () = self.state.lost.cancelled() => Err(io::Error::other("Redis has ended it, or a subscription").into()),
        }
    }

    /// Makes sure that the connection lives. One on which messages come does, however long an answer would take.
    async fn watch(&self) -> RedisResult<Infallible> {
        let mut redis = self.redis.clone();
        loop {
            tokio::time::sleep(QUIET).await;
            if !self.state.heard.swap(false, Ordering::Relaxed) {
                cmd("PING").query_async::<Value>(&mut redis).await?;
            }
        }
    }
}

impl State {
    /// What Redis says unasked.
    fn hear(&self, push: PushInfo, ingest: &Ingest) {
        if self.lost.is_cancelled() {
            return;
        }
        match (push.kind, push.data.as_slice()) {
            (PushKind::PMessage, [_, Value::BulkString(channel), Value::BulkString(message)]) => {
                self.heard.store(true, Ordering::Relaxed);
                ingest.hear(channel, message);
            }
            // Nobody here has asked for the end of a subscription.
            (PushKind::Disconnection | PushKind::PUnsubscribe, _) => self.lost.cancel(),
            _ => (),
        }
    }
}
