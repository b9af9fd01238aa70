//! Which nodes live. Each has a lease that it renews; when one has ended, a survivor removes what the node has
//! left behind, and everybody hears who is no longer there.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::cluster::link::Link;
use crate::cluster::orders::Scripts;
use crate::cluster::orders::Statement;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::redis::connection::Connection;
use crate::redis::error::fault;
use crate::redis::error::is_full;
use crate::redis::lease;
use crate::redis::lease::LEASE;
use crate::redis::lease::Leases;
use crate::redis::lease::Suspects;
use crate::redis::names;
use crate::redis::value::texts;
use crate::registry::AppState;

/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(2);
/// How long Redis must have refused nothing before it is told anew what it has refused.
const ROOMY: Duration = Duration::from_secs(3);
/// Topics of a dead node that are cleared in one round trip.
const CLEARED_AT_ONCE: usize = 500;

impl Link {
    /// Renews the lease, and tells who is dead.
    pub(super) async fn keep_lease(&self, tell: watch::Sender<Vec<NodeId>>) -> RedisResult<Infallible> {
        let mut suspects = Suspects::default();
        loop {
            tokio::time::sleep(RENEW).await;
            let leases = self.cluster.renew_lease(&self.scripts, &mut self.out.clone()).await?;
            self.cluster.tell_of_doubts();
            if leases.living.is_empty() {
                self.cluster.refuses();
                suspects = Suspects::default();
                continue;
            }
            self.cluster.know(&leases);
            self.cluster.forget_gone();
            if leases.added {
                tracing::warn!("the other nodes took this one for dead; it tells them anew what is here");
                self.note_apps().await?;
                for app in self.cluster.apps() {
                    app.on_linked(Instant::now());
                }
            }
            tell.send_replace(suspects.dead(leases.dead));
        }
    }

    /// Looks after the dead, and after what Redis had no room for. Both may take longer than a lease.
    pub(super) async fn tidy_up(&self, mut told: watch::Receiver<Vec<NodeId>>) -> RedisResult<Infallible> {
        while told.changed().await.is_ok() {
            self.make_up().await?;
            let dead = told.borrow().clone();
            // After a time without Redis every lease has ended, and the nodes come back one after the other.
            if self.since.elapsed() > LEASE && !dead.is_empty() {
                self.bury_all(&dead).await?;
                // What was told in the meantime may be of those who are buried now.
                told.mark_unchanged();
            }
        }
        Err(fault("nobody tells who is dead"))
    }

    /// Tells anew what is here and what is no longer here, once Redis has had room for everything for a while.
    async fn make_up(&self) -> RedisResult<()> {
        let refused = *self.cluster.refused.lock();
        if refused.is_none_or(|at| at.elapsed() < ROOMY) {
            return Ok(());
        }
        self.forget_past().await?;
        // Until then what is noted had to stay so.
        self.cluster.refused.lock().take_if(|at| Some(*at) == refused);
        for app in self.cluster.apps() {
            app.on_linked(Instant::now());
        }
        Ok(())
    }

    /// Removes what dead nodes have left behind, unless another survivor is about to.
    async fn bury_all(&self, dead: &[NodeId]) -> RedisResult<()> {
        let mut out = self.out.clone();
        let mut lock = cmd("SET");
        lock.arg(self.cluster.names.undertaker()).arg(self.cluster.node().to_string());
        lock.arg("NX").arg("PX").arg(LEASE.as_millis() as u64);
        if out.ask_one(lock).await? == Value::Nil {
            return Ok(());
        }
        let buried = tokio::select! {
            buried = self.bury_each(dead) => buried,
            lost = self.stay_undertaker() => lost.map(|never| match never {}),
        };
        out.ask_one(cmd("DEL").arg(self.cluster.names.undertaker()).take()).await?;
        match buried {
            Err(error) if is_full(&error) => Ok(()),
            buried => buried,
        }
    }

    async fn stay_undertaker(&self) -> RedisResult<Infallible> {
        loop {
            tokio::time::sleep(RENEW).await;
            let mut lock = cmd("PEXPIRE");
            lock.arg(self.cluster.names.undertaker()).arg(LEASE.as_millis() as u64);
            self.out.clone().ask_one(lock).await?;
        }
    }

    async fn bury_each(&self, dead: &[NodeId]) -> RedisResult<()> {
        for &node in dead {
            tracing::warn!(%node, "a node is dead; its connections no longer count");
            self.bury(node).await?;
        }
        Ok(())
    }

    /// Removes what a node has left behind, and tells everybody. While Redis has no room for that, it remains known that
    /// the node has left something.
    pub(super) async fn bury(&self, node: NodeId) -> RedisResult<()> {
        let (names, mut out) = (&self.cluster.names, self.out.clone());
        let apps = out.ask_one(cmd("SMEMBERS").arg(names.apps(node)).take()).await?;
        for app in texts(&apps) {
            let fields = out.ask_one(cmd("HKEYS").arg(names.topics(node, &app)).take()).await?;
            let topics: Vec<Topic> = texts(&fields).iter().filter_map(|field| names::topic_of(field)).collect();
            self.clear(node, &app, topics).await?;
            out.ask_one(cmd("DEL").arg(names.topics(node, &app)).take()).await?;
        }
        let gone = Envelope::Gone(self.cluster.node(), node).encode();
        out.ask(vec![
            cmd("DEL").arg(names.apps(node)).take(),
            cmd("ZREM").arg(names.leases()).arg(node.to_string()).take(),
            cmd(self.scripts.publish).arg(names.control()).arg(gone).take(),
        ])
        .await?;
        Ok(())
    }

    /// A node has no users on these topics any more.
    async fn clear(&self, node: NodeId, app: &str, mut topics: Vec<Topic>) -> RedisResult<()> {
        topics.retain(|topic| match topic {
            Topic::Channel(name) => name.kind().presence,
            Topic::User(_) => true,
        });
        let nobody = || Statement { node, members_max: 0, whole: true, all: false, users: Vec::new() };
        for some in topics.chunks(CLEARED_AT_ONCE) {
            let each = some.iter().map(|topic| self.cluster.statement(&self.scripts, app, topic, &nobody()));
            for answer in self.out.clone().ask(each.collect()).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Removes what this node has said before its last link was lost, or before Redis was full; what is still so is said
    /// anew.
    pub(super) async fn forget_past(&self) -> RedisResult<()> {
        let (cluster, names, mut out) = (&self.cluster, &self.cluster.names, self.out.clone());
        let me = cluster.node();
        for app in cluster.apps() {
            let fields = out.ask_one(cmd("HKEYS").arg(names.topics(me, app.id())).take()).await?;
            let mut topics: Vec<Topic> = texts(&fields).iter().filter_map(|field| names::topic_of(field)).collect();
            topics.retain(|topic| app.local_topic(topic).members.is_empty());
            match self.clear(me, app.id(), topics).await {
                // They stay noted.
                Err(error) if is_full(&error) => {
                    cluster.refuses();
                    continue;
                }
                cleared => cleared?,
            }
            out.ask_one(cmd("DEL").arg(names.topics(me, app.id())).take()).await?;
        }
        self.note_apps().await
    }

    /// Notes which apps this node has, so that what it leaves behind can be found.
    pub(super) async fn note_apps(&self) -> RedisResult<()> {
        self.noted.store(self.cluster.added.load(Ordering::Acquire), Ordering::Relaxed);
        let names = &self.cluster.names;
        let note = |app: &Arc<AppState>| cmd("SADD").arg(names.apps(self.cluster.node())).arg(&**app.id()).take();
        self.out.clone().ask(self.cluster.apps().iter().map(note).collect()).await?;
        Ok(())
    }

    /// Warns of a Soketi server that seems to be meant as a part of this cluster.
    pub(super) async fn look_for_soketi(&self) -> RedisResult<()> {
        let topics = self.cluster.names.soketi();
        let answer = self.out.clone().ask_one(cmd("PUBSUB").arg("NUMSUB").arg(&topics[..]).take()).await?;
        let listeners = |value: &Value| matches!(value, Value::Int(count) if *count > 0);
        let listened_to = match &answer {
            Value::Array(parts) => parts.iter().any(listeners),
            // From all masters of a Redis Cluster.
            Value::Map(topics) => topics.iter().any(|(_, count)| listeners(count)),
            _ => false,
        };
        if listened_to {
            tracing::warn!("a Soketi server uses the same Redis and prefix; it and gema do not hear each other");
        }
        Ok(())
    }
}

impl Cluster {
    /// Redis has no room for something, which must be told anew.
    pub(super) fn refuses(&self) {
        *self.refused.lock() = Some(Instant::now());
    }

    /// These are the nodes that there are: those that live, and those that nobody has buried yet.
    pub(super) fn know(&self, leases: &Leases) {
        let me = self.node();
        if leases.living.contains(&me) {
            let others = leases.living.iter().chain(&leases.dead).filter(|node| **node != me);
            let others: BTreeSet<NodeId> = others.copied().take(NODES_MAX).collect();
            self.leaving.lock().retain(|node| others.contains(node));
            *self.peers.lock() = others;
            self.fewer.notify_one();
        }
    }

    /// Renews this node's lease. Returns the leases of all nodes.
    pub(super) async fn renew_lease(&self, scripts: &Scripts, out: &mut Connection) -> RedisResult<Leases> {
        lease::renew(out, &scripts.lease, &self.names.leases(), (self.node(), LEASE)).await
    }
}
