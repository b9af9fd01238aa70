//! Subscribes to patterns of topics for group views or, over a Redis Cluster, to single topics.
//! `over_redis` calls it.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::PushInfo;
use redis::PushKind;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;

use crate::cluster::bus::Mirrored;
use crate::cluster::listener::Listener;
use crate::cluster::over_redis::OverRedis;
use crate::cluster::way::RedisWay;
use crate::redis::connection::RedisConnection;

impl OverRedis {
    /// Subscribes to what the views mirror now, and to nothing else.
    pub(super) async fn subscribe_views(&self, mirrored: &[Mirrored]) -> RedisResult<()> {
        let names = &self.way.names;
        let topics = mirrored.iter().flat_map(|(patterns, app)| {
            patterns.iter().flat_map(|pattern| match self.way.has_patterns() {
                true => vec![names.glob(app.id(), pattern)],
                false => names.variants(app.id(), pattern),
            })
        });
        let topics: BTreeSet<String> = topics.collect();
        let before = std::mem::replace(&mut *self.listener.mirrored.lock(), topics.clone());
        let new: Vec<String> = topics.difference(&before).cloned().collect();
        let old: Vec<String> = before.difference(&topics).cloned().collect();
        self.subscribe_mirrored(&new).await?;
        if !old.is_empty() {
            self.unsubscribe_mirrored(&old, topics.is_empty()).await?;
        }
        Ok(())
    }

    async fn subscribe_mirrored(&self, topics: &[String]) -> RedisResult<()> {
        if !self.way.has_patterns() {
            return self.views_receiver().await?.subscribe(topics).await;
        }
        let mut receiver = self.receiver.clone();
        match receiver.psubscribe(topics).await {
            Err(error) if is_forbidden(&error) => (),
            done => return done,
        }
        // A user whose ACL allows one cluster may subscribe to the pattern for all of it, but not for a part.
        let everything = self.way.names.everything();
        match receiver.psubscribe(std::slice::from_ref(&everything)).await {
            Err(error) if is_forbidden(&error) => {
                let advice = format!("the user of Redis needs &{everything} in its ACL, to the letter");
                tracing::warn!(%error, advice, "views see what is published on this node only");
                Ok(())
            }
            done => done,
        }
    }

    async fn unsubscribe_mirrored(&self, topics: &[String], all: bool) -> RedisResult<()> {
        if !self.way.has_patterns() {
            return self.views_receiver().await?.unsubscribe(topics).await;
        }
        let everything = all.then(|| self.way.names.everything());
        let topics: Vec<String> = topics.iter().cloned().chain(everything).collect();
        self.receiver.clone().punsubscribe(&topics).await
    }

    /// The connection for the views of a Redis Cluster, opened at the first view. A connection receives a topic only
    /// once, so it cannot serve a channel and its views.
    async fn views_receiver(&self) -> RedisResult<RedisConnection> {
        let open = || {
            let (way, listener) = (Arc::clone(&self.way), Arc::clone(&self.listener));
            let on_push = move |push| on_push(&way, &listener, push);
            RedisConnection::open_on(&self.runtime, &self.way.options, on_push)
        };
        self.views_receiver.get_or_try_init(open).await.cloned()
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Handles a push message of Redis on the connection for views.
fn on_push(way: &RedisWay, listener: &Listener, push: PushInfo) {
    let mut data = push.data.into_iter();
    match (push.kind, data.next(), data.next()) {
        (PushKind::SMessage, Some(Value::BulkString(topic)), Some(Value::BulkString(message))) => {
            listener.on_mirrored(way.names.read(&topic), &topic, &message.into());
        }
        (PushKind::Disconnection, ..) => listener.lost.cancel(),
        // The topic's slot has moved.
        (PushKind::SUnsubscribe, Some(Value::BulkString(topic)), _)
            if std::str::from_utf8(&topic).is_ok_and(|topic| listener.mirrored.lock().contains(topic)) =>
        {
            listener.lost.cancel();
        }
        _ => (),
    }
}
