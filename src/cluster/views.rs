//! What views of this node see happens on the other nodes, too: their topics are listened to by patterns or, over a
//! Redis Cluster, one by one. What is heard so is for the views alone; a channel's own subscribers hear it by the
//! channel's topic.

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

use crate::cluster::link::Link;
use crate::cluster::listener::Listener;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::Topic;
use crate::redis::connection::Connection;

impl Link {
    /// Listens to what the views see, as it changes.
    pub(super) async fn keep_watching(&self) -> RedisResult<Infallible> {
        loop {
            self.cluster.outgoing.views_changed().await;
            self.watch().await?;
        }
    }

    /// Listens to what the views see now.
    pub(super) async fn watch(&self) -> RedisResult<()> {
        let cluster = &self.cluster;
        let seen: Vec<_> = cluster.apps().into_iter().map(|app| (app.mirrored_patterns(), app)).collect();
        let topics = seen.iter().flat_map(|(patterns, app)| {
            patterns.iter().flat_map(|pattern| match cluster.hears_patterns() {
                true => vec![cluster.names.glob(app.id(), pattern)],
                false => cluster.names.variants(app.id(), pattern),
            })
        });
        let topics: BTreeSet<String> = topics.collect();
        let before = std::mem::replace(&mut *self.listener.watched.lock(), topics.clone());
        let new: Vec<String> = topics.difference(&before).cloned().collect();
        let old: Vec<String> = before.difference(&topics).cloned().collect();
        self.begin(&new).await?;
        for (patterns, app) in &seen {
            app.on_patterns_subscribed(patterns, Instant::now());
        }
        if !old.is_empty() {
            self.end_watching(&old, topics.is_empty()).await?;
        }
        Ok(())
    }

    async fn begin(&self, topics: &[String]) -> RedisResult<()> {
        if !self.cluster.hears_patterns() {
            return self.watching().await?.subscribe(topics).await;
        }
        let mut receiver = self.receiver.clone();
        match receiver.psubscribe(topics).await {
            Err(error) if is_forbidden(&error) => (),
            done => return done,
        }
        // Who may listen to one cluster only may not listen to a part of it by a pattern, but to all of it.
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

    async fn end_watching(&self, topics: &[String], all: bool) -> RedisResult<()> {
        if !self.cluster.hears_patterns() {
            return self.watching().await?.unsubscribe(topics).await;
        }
        let everything = all.then(|| self.cluster.names.everything());
        let topics: Vec<String> = topics.iter().cloned().chain(everything).collect();
        self.receiver.clone().punsubscribe(&topics).await
    }

    /// Hears single topics for the views of a Redis Cluster: a connection hears a topic but once, be it for a channel
    /// or for views, so this one is made for views as soon as there are any.
    async fn watching(&self) -> RedisResult<Connection> {
        let open = || {
            let hears = Arc::clone(&self.listener);
            Connection::open_on(&self.receiver_runtime, &self.cluster.options, move |push| hears.hear_for_views(push))
        };
        self.watching.get_or_try_init(open).await.cloned()
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

impl Listener {
    /// What Redis says unasked on a connection for views.
    fn hear_for_views(&self, push: PushInfo) {
        let mut data = push.data.into_iter();
        match (push.kind, data.next(), data.next()) {
            (PushKind::SMessage, Some(Value::BulkString(topic)), Some(Value::BulkString(message))) => {
                self.on_seen(&topic, &message.into());
            }
            (PushKind::Disconnection, ..) => self.lost.cancel(),
            // The topic's slot has moved.
            (PushKind::SUnsubscribe, Some(Value::BulkString(topic)), _)
                if std::str::from_utf8(&topic).is_ok_and(|topic| self.watched.lock().contains(topic)) =>
            {
                self.lost.cancel();
            }
            _ => (),
        }
    }

    /// Word on a topic that views see; once for each pattern that matches.
    pub(super) fn on_seen(&self, topic: &[u8], message: &Bytes) {
        let cluster = &self.cluster;
        let is_own = message.starts_with(self.own_event.as_bytes());
        let Some((app, Topic::Channel(name))) = cluster.names.read(topic).filter(|_| !is_own) else { return };
        let Some(app) = cluster.app(&app).filter(|_| !self.lost.is_cancelled()) else { return };
        match Envelope::decode(message) {
            Ok(Envelope::Event(_)) if !cluster.inboxes.wait_for_capacity() => {
                cluster.meters.dropped(PeerDropCause::Overloaded, 1)
            }
            Ok(Envelope::Event(event)) => {
                if app.on_mirrored_event(&name, event, cluster.hears_patterns(), Instant::now()) {
                    cluster.meters.received(1);
                }
            }
            Ok(_) => (),
            Err(error) => self.refuse(topic, error),
        }
    }
}
