//! The records of nodes in Redis. Removes those that are no longer true: of crashed nodes, of this node when it stops, and
//! what this node could not remove earlier.
//! `over_redis` calls it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::bus::RENEW;
use crate::cluster::member_changes::MemberChanges;
use crate::cluster::over_redis::OverRedis;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::redis::error::is_full;
use crate::redis::lease::LEASE;
use crate::redis::names;
use crate::redis::value::texts;
use crate::registry::AppState;

/// Topics of a crashed node that are cleared in one round trip.
const CLEARED_AT_ONCE: usize = 500;

impl OverRedis {
    /// Removes crashed nodes, unless another survivor does.
    pub(super) async fn remove_crashed(&self, crashed: &[NodeId]) -> RedisResult<()> {
        let (lock, mut out) = (self.way.names.cleanup_lock(), self.out.clone());
        let mut take = cmd("SET");
        take.arg(&lock).arg(self.cluster.node().to_string()).arg("NX").arg("PX").arg(LEASE.as_millis() as u64);
        if out.ask_one(take).await? == Value::Nil {
            return Ok(());
        }
        let removed = tokio::select! {
            removed = self.remove_each(crashed) => removed,
            lost = self.renew_lock(&lock) => lost.map(|never| match never {}),
        };
        out.ask_one(cmd("DEL").arg(lock).take()).await?;
        match removed {
            Err(error) if is_full(&error) => Ok(()),
            removed => removed,
        }
    }

    async fn renew_lock(&self, lock: &str) -> RedisResult<Infallible> {
        loop {
            tokio::time::sleep(RENEW).await;
            self.out.clone().ask_one(cmd("PEXPIRE").arg(lock).arg(LEASE.as_millis() as u64).take()).await?;
        }
    }

    async fn remove_each(&self, crashed: &[NodeId]) -> RedisResult<()> {
        for &node in crashed {
            tracing::warn!(%node, "a node is dead; its connections no longer count");
            self.remove(node).await?;
        }
        Ok(())
    }

    /// Removes the records of a node, and announces that it is gone. While Redis has no memory for that, the records
    /// stay, so that somebody can remove them later.
    pub(super) async fn remove(&self, node: NodeId) -> RedisResult<()> {
        let (names, mut out) = (&self.way.names, self.out.clone());
        let apps = out.ask_one(cmd("SMEMBERS").arg(names.apps(node)).take()).await?;
        for app in texts(&apps) {
            self.clear_topics(node, &app, self.topics_of(node, &app).await?).await?;
            out.ask_one(cmd("DEL").arg(names.topics(node, &app)).take()).await?;
        }
        let gone = Envelope::Gone(self.cluster.node(), node).encode();
        out.ask(vec![
            cmd("DEL").arg(names.apps(node)).take(),
            cmd("ZREM").arg(names.leases()).arg(node.to_string()).take(),
            cmd(self.scripts.publish).arg(names.control(None)).arg(gone).take(),
        ])
        .await?;
        Ok(())
    }

    /// The topics that a node has recorded for an app.
    async fn topics_of(&self, node: NodeId, app: &str) -> RedisResult<Vec<Topic>> {
        let fields = self.out.clone().ask_one(cmd("HKEYS").arg(self.way.names.topics(node, app)).take()).await?;
        Ok(texts(&fields).iter().filter_map(|field| names::topic_of(field)).collect())
    }

    /// Removes the users of a node from these topics.
    async fn clear_topics(&self, node: NodeId, app: &str, mut topics: Vec<Topic>) -> RedisResult<()> {
        topics.retain(|topic| match topic {
            Topic::Channel(name) => name.kind().presence,
            Topic::User(_) => true,
        });
        let nobody = MemberChanges::nobody(node);
        for some in topics.chunks(CLEARED_AT_ONCE) {
            let each = some.iter().map(|topic| self.change_members(app, topic, &nobody));
            for answer in self.out.clone().ask(each.collect()).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Removes records of this node that are no longer true.
    pub(super) async fn clear_own(&self) -> RedisResult<()> {
        let (cluster, me) = (&self.cluster, self.cluster.node());
        for app in cluster.apps() {
            let mut topics = self.topics_of(me, app.id()).await?;
            topics.retain(|topic| app.local_topic(topic).members.is_empty());
            match self.clear_topics(me, app.id(), topics).await {
                // The records stay.
                Err(error) if is_full(&error) => {
                    cluster.note_refused();
                    continue;
                }
                cleared => cleared?,
            }
            self.out.clone().ask_one(cmd("DEL").arg(self.way.names.topics(me, app.id())).take()).await?;
        }
        self.record_apps().await
    }

    /// Records which apps this node has, so that others can find its records.
    pub(super) async fn record_apps(&self) -> RedisResult<()> {
        self.apps_recorded.store(self.cluster.apps_added(), Ordering::Relaxed);
        let names = &self.way.names;
        let record = |app: &Arc<AppState>| cmd("SADD").arg(names.apps(self.cluster.node())).arg(&**app.id()).take();
        self.out.clone().ask(self.cluster.apps().iter().map(record).collect()).await?;
        Ok(())
    }
}
