//! What views of this node see happens on the other nodes, too: patterns of topics are listened to for them.
//! What is heard by them is for the views alone; a channel's own subscribers hear it by the channel's topic.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use redis::RedisResult;

use crate::cluster::connection::Connection;
use crate::cluster::link::Link;
use crate::cluster::listener::Listener;
use crate::metrics::Dropped;
use crate::protocol::envelope::Envelope;
use crate::registry::outgoing::Topic;

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
        let (cluster, mut hearing) = (&self.cluster, self.hearing.clone());
        let seen: Vec<_> = cluster.apps().into_iter().map(|app| (app.seen_patterns(), app)).collect();
        let wanted: BTreeSet<String> = seen
            .iter()
            .flat_map(|(patterns, app)| patterns.iter().map(|pattern| cluster.names.glob(app.id(), pattern)))
            .collect();
        let before = std::mem::replace(&mut *self.watched.lock(), wanted.clone());
        let (new, old): (Vec<_>, Vec<_>) =
            (wanted.difference(&before).cloned().collect(), before.difference(&wanted).cloned().collect());
        if !new.is_empty() {
            self.begin(&mut hearing, &new).await?;
        }
        for (patterns, app) in &seen {
            app.watched(patterns, Instant::now());
        }
        if !old.is_empty() {
            hearing.punsubscribe(&old).await?;
        }
        if wanted.is_empty() && !before.is_empty() {
            hearing.punsubscribe(&[cluster.names.everything()]).await?;
        }
        Ok(())
    }

    /// A user of Redis who may listen to this cluster only may listen to no part of it by a pattern, but to all of it.
    async fn begin(&self, hearing: &mut Connection, globs: &[String]) -> RedisResult<()> {
        match hearing.psubscribe(globs).await {
            Err(error) if error.code() == Some("NOPERM") => {
                hearing.psubscribe(&[self.cluster.names.everything()]).await
            }
            done => done,
        }
    }
}

impl Listener {
    /// Word on a topic that a view's pattern matches; once for each pattern.
    pub(super) fn on_seen(&self, topic: &[u8], message: &Bytes) {
        let is_event = message.starts_with(self.event.as_bytes()) && !message.starts_with(self.own_event.as_bytes());
        let Some((app, Topic::Channel(name))) = self.cluster.names.read(topic).filter(|_| is_event) else { return };
        let Some(app) = self.cluster.app(&app) else { return };
        match Envelope::decode(message) {
            Ok(Envelope::Event(_)) if !self.has_room() => self.cluster.meters.dropped(Dropped::Overloaded, 1),
            Ok(Envelope::Event(event)) => {
                if app.see(&name, event, Instant::now()) {
                    self.cluster.meters.heard(1);
                }
            }
            Ok(_) => (),
            Err(error) => self.refuse(topic, error),
        }
    }
}
