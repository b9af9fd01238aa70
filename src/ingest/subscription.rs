//! The Redis connection that is subscribed to Laravel's events, with its reconnects.
//! `Ingest::run` runs it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use redis::PushInfo;
use redis::PushKind;
use redis::RedisResult;
use redis::Value;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ingest::Ingest;
use crate::link::Purpose;
use crate::redis::connection::PING;
use crate::redis::connection::open_one;
use crate::redis::connection::superseded;
use crate::redis::error::fault;
use crate::redis::link;
use crate::redis::sentinel::Master;

/// One subscribed connection.
struct Subscription {
    redis: MultiplexedConnection,
    /// There if Sentinels have named it.
    master: Option<Master>,
    state: Arc<SubscriptionState>,
}

/// The state that the receiving callback shares with its connection.
#[derive(Default)]
struct SubscriptionState {
    /// Cancelled when the connection is lost; later messages are ignored.
    lost: CancellationToken,
    /// A message has come since the last test.
    has_input: AtomicBool,
}

const PURPOSE: Purpose = Purpose {
    absent: "Laravel's redis broadcaster cannot be listened to",
    lost: "the connection to Laravel's redis broadcaster is lost",
    meanwhile: "its events do not arrive meanwhile",
    acl_advice: Some("the user's ACL must allow &PREFIX* for each prefix"),
};

/// Keeps a subscribed connection until `stop` is cancelled.
pub(super) async fn run(ingest: &Arc<Ingest>, stop: &CancellationToken) {
    let open = || async {
        let _tried = ingest.tried.clone().drop_guard();
        Subscription::open(ingest).await
    };
    let serve = |subscription| serve(ingest, subscription, stop);
    link::run(&ingest.redis, &PURPOSE, stop, open, serve).await;
}

async fn serve(ingest: &Ingest, subscription: Subscription, stop: &CancellationToken) -> RedisResult<()> {
    tracing::info!("listening to Laravel's redis broadcaster");
    let outcome = stop.run_until_cancelled(subscription.serve(&ingest.redis)).await.unwrap_or(Ok(()));
    subscription.state.lost.cancel();
    ingest.meters.up.set(0);
    outcome
}

impl Subscription {
    async fn open(ingest: &Arc<Ingest>) -> RedisResult<Self> {
        let state = Arc::new(SubscriptionState::default());
        let (receiver, own_state) = (Arc::clone(ingest), Arc::clone(&state));
        let (mut redis, master) = open_one(&ingest.redis, move |push| own_state.on_push(push, &receiver)).await?;
        redis.psubscribe(ingest.patterns()).await?;
        ingest.meters.up.set(1);
        Ok(Self { redis, master, state })
    }

    /// Waits until the connection is lost.
    async fn serve(&self, options: &config::Redis) -> RedisResult<()> {
        tokio::select! {
            lost = self.watch() => lost.map(|never| match never {}),
            error = superseded(options, self.master.as_ref()) => Err(error),
            () = self.state.lost.cancelled() => Err(fault("Redis has ended it, or a subscription")),
        }
    }

    /// Tests an idle connection. One with messages lives, however late its answer would be.
    async fn watch(&self) -> RedisResult<Infallible> {
        let mut redis = self.redis.clone();
        loop {
            tokio::time::sleep(PING).await;
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
