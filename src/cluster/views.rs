//! Mirrors the events of other nodes to the group views of this one. It subscribes to patterns of topics or, over a
//! Redis Cluster, to single topics.
//! `link` runs it. Events that come this way are for views only; a channel's subscribers get them by its topic.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use redis::PushInfo;
use redis::PushKind;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;

use crate::cluster::link::ClusterLink;
use crate::cluster::listener::Listener;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::Topic;
use crate::protocol::numbered::EventNumber;
use crate::redis::connection::RedisConnection;

impl ClusterLink {
    /// Subscribes again whenever the views have changed.
    pub(super) async fn follow_views(&self) -> RedisResult<Infallible> {
        loop {
            self.cluster.outgoing.views_changed().await;
            self.subscribe_views().await?;
        }
    }

    /// Subscribes to what the views mirror now.
    pub(super) async fn subscribe_views(&self) -> RedisResult<()> {
        let cluster = &self.cluster;
        let patterns_by_app: Vec<_> = cluster.apps().into_iter().map(|app| (app.mirrored_patterns(), app)).collect();
        let topics = patterns_by_app.iter().flat_map(|(patterns, app)| {
            patterns.iter().flat_map(|pattern| match cluster.has_patterns() {
                true => vec![cluster.names.glob(app.id(), pattern)],
                false => cluster.names.variants(app.id(), pattern),
            })
        });
        let topics: BTreeSet<String> = topics.collect();
        let before = std::mem::replace(&mut *self.listener.mirrored.lock(), topics.clone());
        let new: Vec<String> = topics.difference(&before).cloned().collect();
        let old: Vec<String> = before.difference(&topics).cloned().collect();
        self.subscribe_mirrored(&new).await?;
        for (patterns, app) in &patterns_by_app {
            app.on_patterns_subscribed(patterns, Instant::now());
        }
        if !old.is_empty() {
            self.unsubscribe_mirrored(&old, topics.is_empty()).await?;
        }
        Ok(())
    }

    async fn subscribe_mirrored(&self, topics: &[String]) -> RedisResult<()> {
        if !self.cluster.has_patterns() {
            return self.views_receiver().await?.subscribe(topics).await;
        }
        let mut receiver = self.receiver.clone();
        match receiver.psubscribe(topics).await {
            Err(error) if is_forbidden(&error) => (),
            done => return done,
        }
        // A user whose ACL allows one cluster may subscribe to the pattern for all of it, but not for a part.
        let everything = self.cluster.names.everything();
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
        if !self.cluster.has_patterns() {
            return self.views_receiver().await?.unsubscribe(topics).await;
        }
        let everything = all.then(|| self.cluster.names.everything());
        let topics: Vec<String> = topics.iter().cloned().chain(everything).collect();
        self.receiver.clone().punsubscribe(&topics).await
    }

    /// The connection for the views of a Redis Cluster, opened at the first view. A connection receives a topic only
    /// once, so it cannot serve a channel and its views.
    async fn views_receiver(&self) -> RedisResult<RedisConnection> {
        let open = || {
            let listener = Arc::clone(&self.listener);
            let on_push = move |push| listener.on_views_push(push);
            RedisConnection::open_on(&self.receiver_runtime, &self.cluster.options, on_push)
        };
        self.views_receiver.get_or_try_init(open).await.cloned()
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

impl Listener {
    /// Handles a push message of Redis on the connection for views.
    fn on_views_push(&self, push: PushInfo) {
        let mut data = push.data.into_iter();
        match (push.kind, data.next(), data.next()) {
            (PushKind::SMessage, Some(Value::BulkString(topic)), Some(Value::BulkString(message))) => {
                self.on_mirrored(&topic, &message.into());
            }
            (PushKind::Disconnection, ..) => self.lost.cancel(),
            // The topic's slot has moved.
            (PushKind::SUnsubscribe, Some(Value::BulkString(topic)), _)
                if std::str::from_utf8(&topic).is_ok_and(|topic| self.mirrored.lock().contains(topic)) =>
            {
                self.lost.cancel();
            }
            _ => (),
        }
    }

    /// Handles a message on a topic that is mirrored. It comes once for each pattern that matches.
    pub(super) fn on_mirrored(&self, topic: &[u8], message: &Bytes) {
        let cluster = &self.cluster;
        let numbered = EventNumber::taken_from(message);
        let message = numbered.as_ref().map_or(message, |(_, message)| message);
        let is_own = message.starts_with(self.own_event.as_bytes());
        let Some((app, Topic::Channel(name))) = cluster.names.read(topic).filter(|_| !is_own) else { return };
        let Some(app) = cluster.app(&app).filter(|_| !self.lost.is_cancelled()) else { return };
        match Envelope::decode(message) {
            Ok(Envelope::Event(_)) if !cluster.inboxes.wait_for_capacity() => {
                cluster.meters.dropped(PeerDropCause::Overloaded, 1)
            }
            Ok(Envelope::Event(event)) => {
                if app.on_mirrored_event(&name, event, cluster.has_patterns(), Instant::now()) {
                    cluster.meters.received(1);
                }
            }
            Ok(_) => (),
            Err(error) => self.reject(topic, error),
        }
    }
}
