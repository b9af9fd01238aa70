//! The endpoints' queues in Redis: one stream for each endpoint, which outlives the nodes.
//! `dispatch` puts events in; `delivery` takes them out. One node at a time delivers a stream; when it crashes, another
//! one continues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use redis::Cmd;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::sync::Mutex;

use crate::config;
use crate::protocol::envelope::NodeId;
use crate::redis::connection::Connection;
use crate::redis::names::Names;
use crate::redis::script;
use crate::webhook::batch::Batch;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::notification::ANNOUNCE_SCRIPT;
use crate::webhook::notification::Bounds;
use crate::webhook::notification::Notification;
use crate::webhook::notification::Outcome;
use crate::webhook::notification::warn_rejected;

/// How long a silent node keeps a stream.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// The pause between attempts to reach Redis.
const RETRY: Duration = Duration::from_secs(1);

/// The streams of all endpoints, over one connection.
pub(super) struct Streams {
    names: Names,
    options: config::Redis,
    node: NodeId,
    state: Mutex<LinkState>,
    /// An error of Redis on this link has been logged.
    has_refused: AtomicBool,
}

enum LinkState {
    Connected(StreamLink),
    Disconnected(Option<Instant>),
}

#[derive(Clone)]
struct StreamLink {
    connection: Connection,
    announce: String,
    take: String,
    acknowledge: String,
    renew: String,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn new(cluster: &config::Cluster, redis: &config::Redis) -> Self {
        Self {
            names: Names::new(&cluster.name, &redis.key_prefix),
            options: redis.clone(),
            node: NodeId::random(),
            state: Mutex::new(LinkState::Disconnected(None)),
            has_refused: AtomicBool::new(false),
        }
    }

    /// Puts events into streams within these bounds. `None` when Redis is away.
    pub(super) async fn put(&self, notifications: &[Notification], bounds: Option<Bounds>) -> Option<Vec<Outcome>> {
        let command = |link: &StreamLink, notification: &Notification| {
            notification.command(&link.announce, &self.names, None, bounds)
        };
        let answers =
            self.send(|link| notifications.iter().map(|notification| command(link, notification)).collect()).await?;
        warn_rejected(&answers);
        Some(answers.iter().map(|answer| Outcome::read(answer, true)).collect())
    }

    /// Takes the first events of a stream. `None` when another node delivers it, or when Redis is away.
    pub(super) async fn take(&self, endpoint: &Endpoint, events_max: usize) -> Option<Batch> {
        let keys = [self.stream_key(endpoint), self.owner_key(endpoint)];
        let command = |link: &StreamLink| evaluate(&link.take, &keys).arg(self.node.to_string()).arg(events_max).take();
        Batch::parse(self.send_one(|link| command(link).arg(LEASE.as_millis() as u64).take()).await?)
    }

    /// Removes delivered events. False when another node has taken over, or when Redis is away.
    pub(super) async fn acknowledge(&self, endpoint: &Endpoint, ids: &[String]) -> bool {
        let keys = [self.stream_key(endpoint), self.owner_key(endpoint)];
        let acknowledged =
            self.send_one(|link| evaluate(&link.acknowledge, &keys).arg(self.node.to_string()).arg(ids).take());
        acknowledged.await == Some(Value::Int(1))
    }

    /// Renews this node's lease of a stream. False when another node has it.
    pub(super) async fn renew(&self, endpoint: &Endpoint) -> bool {
        self.lease(endpoint, LEASE).await
    }

    /// Gives the lease up, so that another node may take over.
    pub(super) async fn release(&self, endpoint: &Endpoint) {
        self.lease(endpoint, Duration::ZERO).await;
    }

    async fn lease(&self, endpoint: &Endpoint, time: Duration) -> bool {
        let (owner, node, millis) = ([self.owner_key(endpoint)], self.node.to_string(), time.as_millis() as u64);
        self.send_one(|link| evaluate(&link.renew, &owner).arg(node).arg(millis).take()).await == Some(Value::Int(1))
    }

    /// Marks in Redis whether events wait for an endpoint, for nodes that do not know its app.
    pub(super) async fn mark_waiting(&self, endpoint: &Endpoint, is_waiting: bool) -> bool {
        let mark = format!("{}:{}", endpoint.stream_name(), endpoint.app);
        let mut command = cmd(if is_waiting { "SADD" } else { "SREM" });
        command.arg(self.names.webhook_queues()).arg(mark);
        self.send_one(|_| command).await.is_some()
    }

    /// The apps with marked endpoints. `None` when Redis is away.
    pub(super) async fn marked_apps(&self) -> Option<BTreeSet<Arc<str>>> {
        let answer = self.send_one(|_| cmd("SMEMBERS").arg(self.names.webhook_queues()).take()).await?;
        let marks: Vec<Vec<u8>> = redis::from_redis_value(answer).unwrap_or_default();
        let app = |mark: &Vec<u8>| Some(std::str::from_utf8(mark).ok()?.split_once(':')?.1.into());
        Some(marks.iter().filter_map(app).collect())
    }

    /// Whether the last command got an answer.
    pub(super) async fn is_connected(&self) -> bool {
        matches!(&*self.state.lock().await, LinkState::Connected(_))
    }

    fn stream_key(&self, endpoint: &Endpoint) -> String {
        self.names.webhook_queue(&endpoint.app, endpoint.stream_name())
    }

    fn owner_key(&self, endpoint: &Endpoint) -> String {
        self.names.webhook_owner(&endpoint.app, endpoint.stream_name())
    }

    /// Sends one command. Redis' error for one endpoint's keys does not affect other endpoints.
    async fn send_one(&self, command: impl FnOnce(&StreamLink) -> Cmd) -> Option<Value> {
        let answer = self.send(|link| vec![command(link)]).await?.pop()?;
        if let Err(error) = &answer
            && !self.has_refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "Redis refuses something that webhooks need");
        }
        answer.ok()
    }

    async fn send(&self, commands: impl FnOnce(&StreamLink) -> Vec<Cmd>) -> Option<Vec<RedisResult<Value>>> {
        let mut link = self.link().await?;
        match link.connection.ask_each(commands(&link)).await {
            Ok(answers) => Some(answers),
            Err(error) => {
                let mut state = self.state.lock().await;
                if matches!(&*state, LinkState::Connected(_)) {
                    warn_disconnected(&self.options.place(), &error);
                }
                *state = LinkState::Disconnected(Some(Instant::now()));
                None
            }
        }
    }

    async fn link(&self) -> Option<StreamLink> {
        let mut state = self.state.lock().await;
        match &*state {
            LinkState::Connected(link) => return Some(link.clone()),
            LinkState::Disconnected(Some(lost)) if lost.elapsed() < RETRY => return None,
            LinkState::Disconnected(_) => (),
        }
        match self.open().await {
            Ok(link) => {
                self.has_refused.store(false, Ordering::Relaxed);
                *state = LinkState::Connected(link.clone());
                Some(link)
            }
            Err(error) => {
                if matches!(&*state, LinkState::Disconnected(None)) {
                    warn_disconnected(&self.options.place(), &error);
                }
                *state = LinkState::Disconnected(Some(Instant::now()));
                None
            }
        }
    }

    async fn open(&self) -> RedisResult<StreamLink> {
        let mut connection = Connection::open(&self.options, |_| ()).await?;
        let sources =
            [ANNOUNCE_SCRIPT, include_str!("take.lua"), include_str!("acknowledge.lua"), include_str!("renew.lua")];
        let [announce, take, acknowledge, renew] = script::load(&mut connection, sources).await?;
        Ok(StreamLink { connection, announce, take, acknowledge, renew })
    }
}

fn evaluate(hash: &str, keys: &[String]) -> Cmd {
    cmd("EVALSHA").arg(hash).arg(keys.len()).arg(keys).take()
}

fn warn_disconnected(place: &str, error: &RedisError) {
    tracing::warn!(place, %error, "Redis does not take webhooks; what happens meanwhile waits in the memory of this node");
}
