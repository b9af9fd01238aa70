//! The way to the other nodes by Redis: topics of pub/sub, and keys that scripts change.
//! `link` serves it.

pub mod answers;
mod commands;
pub(super) mod directory;
mod history;
mod records;
mod scripts;
mod views;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use redis::PushInfo;
use redis::PushKind;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

use crate::cluster::Cluster;
use crate::cluster::bus::Answer;
use crate::cluster::bus::Bus;
use crate::cluster::bus::Mirrored;
use crate::cluster::bus::Outdated;
use crate::cluster::listener::Listener;
use crate::cluster::listener::OpenTopic;
use crate::cluster::over_redis::directory::RedisDirectory;
use crate::cluster::over_redis::scripts::Scripts;
use crate::cluster::peers::Peers;
use crate::cluster::way::RedisWay;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::redis::connection::ANSWER_TIME;
use crate::redis::connection::RedisConnection;
use crate::redis::error::fault;
use crate::redis::error::is_full;
use crate::redis::error::is_no_use;
use crate::redis::lease;
use crate::redis::lease::LEASE;
use crate::redis::lease::LEASE_SCRIPT;
use crate::redis::lease::Leases;
use crate::redis::script;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;

/// The connections of one link.
pub(super) struct OverRedis {
    way: Arc<RedisWay>,
    cluster: Arc<Cluster>,
    listener: Arc<Listener>,
    scripts: Scripts,
    /// Sends commands.
    out: RedisConnection,
    /// Receives what other nodes publish, on a runtime of its own: it blocks while the shards' inboxes are full.
    receiver: RedisConnection,
    runtime: Handle,
    /// Receives events for group views, over a Redis Cluster.
    views_receiver: OnceCell<RedisConnection>,
    /// `apps_added` when this node recorded its apps.
    apps_recorded: AtomicU64,
    /// Ends the tasks of this link, also of one that never served.
    _ends: DropGuard,
}

impl Bus for OverRedis {
    type Way = RedisWay;
    type Directory = RedisDirectory;
    type Error = redis::RedisError;

    async fn open(
        way: &Arc<RedisWay>,
        listener: &Arc<Listener>,
        runtime: &Handle,
    ) -> RedisResult<(Self, RedisDirectory)> {
        let cluster = &listener.cluster;
        let on_push = {
            let (way, listener) = (Arc::clone(way), Arc::clone(listener));
            move |push| on_push(&way, &listener, push)
        };
        let receiver = RedisConnection::open_on(runtime, &way.options, on_push).await?;
        let mut out = RedisConnection::open(&way.options, |_| ()).await?;
        if !out.is_with(&receiver) {
            return Err(fault("the Sentinels have made another server the master meanwhile"));
        }
        let (member, cache) = (include_str!("over_redis/member.lua"), include_str!("over_redis/cache.lua"));
        let (last_events, append, places) = (
            include_str!("over_redis/last_events.lua"),
            include_str!("over_redis/append.lua"),
            include_str!("over_redis/places.lua"),
        );
        let sources = [member, cache, last_events, append, places, LEASE_SCRIPT];
        let [member, cache, last_events, append, places, lease] = script::load(&mut out, sources).await?;
        let scripts = Scripts { member, cache, last_events, append, places, lease, publish: out.publish() };
        let bus = Self {
            way: Arc::clone(way),
            cluster: Arc::clone(cluster),
            listener: Arc::clone(listener),
            scripts,
            out,
            receiver,
            runtime: runtime.clone(),
            views_receiver: OnceCell::new(),
            apps_recorded: AtomicU64::new(0),
            _ends: listener.lost.clone().drop_guard(),
        };
        cluster.on_leases(&bus.renew().await?, true);
        bus.receiver.clone().subscribe(&[None, Some(cluster.node())].map(|node| way.names.control(node))).await?;
        // Before the others can answer the hello.
        cluster.update_peers(Peers::relinked);
        bus.announce(&Envelope::Hello(cluster.node(), cluster.node()), None).await?;
        let received = timeout(ANSWER_TIME, listener.own_hello.notified()).await;
        received.map_err(|_| fault("what is published is not heard; does the user's ACL allow these channels?"))?;
        bus.warn_of_soketi().await?;
        bus.leave_an_old_master();
        let directory = RedisDirectory::new(bus.out.clone(), Arc::clone(way));
        Ok((bus, directory))
    }

    async fn carry_out(&self, commands: &[&Command]) -> RedisResult<Vec<Answer>> {
        let cluster = &self.cluster;
        let (mut open, mut close) = (Vec::new(), Vec::new());
        for command in commands {
            let name = || self.way.names.topic(&command.app, &command.topic);
            match command.operation {
                Operation::Open { .. } => {
                    let name = name();
                    if let Some(app) = cluster.app(&command.app) {
                        self.listener.add(&name, OpenTopic { app, topic: command.topic.clone() });
                    }
                    close.retain(|other| *other != name);
                    open.push(name);
                }
                Operation::Close => close.push(name()),
                _ => (),
            }
        }
        let (mut receiver, mut out) = (self.receiver.clone(), self.out.clone());
        receiver.subscribe(&open).await?;
        if self.apps_recorded.load(Ordering::Relaxed) != cluster.apps_added() {
            self.record_apps().await?;
        }
        // Only now does this node receive everything that follows the state that it publishes and fetches.
        let (mut encoded, mut expected) = (Vec::new(), Vec::new());
        for command in commands {
            let before = encoded.len();
            let answer = self.encode(command, &mut encoded);
            expected.push((answer, encoded.len() - before));
        }
        let answers = out.ask(encoded).await?;
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err().filter(|error| is_no_use(error))) {
            // All of these are sent again over the next link. Nodes that have an event already know its number.
            return Err(error.clone());
        }
        let (mut answers, mut read) = (answers.as_slice(), Vec::with_capacity(commands.len()));
        for (expected, count) in &expected {
            let (own, rest) = answers.split_at_checked(*count).ok_or(fault("Redis has left out answers"))?;
            answers = rest;
            read.push(self.read(expected, own));
        }
        let after = commands.iter().zip(&read).filter_map(|(command, answer)| self.follow_up(command, answer));
        out.ask(after.collect()).await?;
        for name in &close {
            self.listener.remove(name);
        }
        receiver.unsubscribe(&close).await?;
        Ok(read)
    }

    async fn announce(&self, envelope: &Envelope, to: Option<NodeId>) -> RedisResult<()> {
        let command = cmd(self.scripts.publish).arg(self.way.names.control(to)).arg(envelope.encode()).take();
        self.out.clone().ask_one(command).await.map(|_| ())
    }

    async fn mirror(&self, patterns: &[Mirrored]) -> RedisResult<()> {
        self.subscribe_views(patterns).await
    }

    async fn renew_lease(&self) -> RedisResult<Leases> {
        // Connections that only receive.
        self.receiver.clone().ask_one(cmd("PING")).await?;
        if let Some(receiver) = self.views_receiver.get() {
            receiver.clone().ask_one(cmd("PING")).await?;
        }
        let leases = self.renew().await?;
        if leases.added {
            self.record_apps().await?;
        }
        Ok(leases)
    }

    async fn clear(&self, outdated: Outdated<'_>) -> RedisResult<()> {
        match outdated {
            Outdated::Crashed(nodes) => self.remove_crashed(nodes).await,
            Outdated::Own => self.clear_own().await,
            Outdated::Left => match self.remove(self.cluster.node()).await {
                Err(error) if is_full(&error) => {
                    tracing::warn!("Redis is out of memory: what was here counts until another node can remove it");
                    Ok(())
                }
                removed => removed,
            },
        }
    }
}

impl OverRedis {
    /// Ends the link when the Sentinels have made another server the master, although this one may still answer.
    fn leave_an_old_master(&self) {
        let (way, listener, out) = (Arc::clone(&self.way), Arc::clone(&self.listener), self.out.clone());
        self.runtime.spawn(async move {
            tokio::select! {
                error = out.superseded(&way.options) => listener.lose(error.to_string()),
                () = listener.lost.cancelled() => (),
            }
        });
    }

    async fn renew(&self) -> RedisResult<Leases> {
        let (mut out, leases) = (self.out.clone(), self.way.names.leases());
        lease::renew(&mut out, &self.scripts.lease, &leases, (self.cluster.node(), LEASE)).await
    }

    /// Warns of a Soketi server that seems to be meant as a part of this cluster.
    async fn warn_of_soketi(&self) -> RedisResult<()> {
        let topics = self.way.names.soketi();
        let answer = self.out.clone().ask_one(cmd("PUBSUB").arg("NUMSUB").arg(&topics[..]).take()).await?;
        let has_subscribers = |value: &Value| matches!(value, Value::Int(count) if *count > 0);
        let is_there = match &answer {
            Value::Array(parts) => parts.iter().any(has_subscribers),
            // From all masters of a Redis Cluster.
            Value::Map(topics) => topics.iter().any(|(_, count)| has_subscribers(count)),
            _ => false,
        };
        if is_there {
            tracing::warn!("a Soketi server uses the same Redis and prefix; it and gema do not hear each other");
        }
        Ok(())
    }
}

/// Handles a push message of Redis.
fn on_push(way: &RedisWay, listener: &Listener, push: PushInfo) {
    if listener.lost.is_cancelled() {
        return;
    }
    let mut data = push.data.into_iter();
    match (push.kind, data.next(), data.next()) {
        (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(topic)), Some(Value::BulkString(message))) => {
            listener.on_message(&topic, &message.into());
        }
        (PushKind::PMessage, _, Some(Value::BulkString(topic))) => {
            if let Some(Value::BulkString(message)) = data.next() {
                listener.on_mirrored(way.names.read(&topic), &topic, &message.into());
            }
        }
        (PushKind::Disconnection, ..) => listener.lost.cancel(),
        // Redis has taken a subscription away, such as when a slot of a Redis Cluster moves.
        (PushKind::Unsubscribe | PushKind::SUnsubscribe, Some(Value::BulkString(topic)), _)
            if listener.listens_to(&topic) =>
        {
            listener.lost.cancel();
        }
        _ => (),
    }
}
