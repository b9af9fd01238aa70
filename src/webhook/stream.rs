//! The endpoints' queues in Redis: one stream for each endpoint, which outlives the nodes.
//! `dispatch` puts events in; `delivery` takes them out. One node at a time delivers a stream; when it crashes, another
//! one continues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;
use redis::Value;
use redis::cmd;

use crate::protocol::envelope::NodeId;
use crate::webhook::batch::Batch;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::link::WebhookLink;
use crate::webhook::link::WebhookRedis;
use crate::webhook::notification::Bounds;
use crate::webhook::notification::Notification;
use crate::webhook::notification::Outcome;
use crate::webhook::notification::warn_rejected;

/// How long a silent node keeps a stream.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// The streams of all endpoints.
#[derive(Debug)]
pub(super) struct Streams {
    redis: Arc<WebhookRedis>,
    node: NodeId,
}

impl Streams {
    pub(super) fn new(redis: Arc<WebhookRedis>) -> Self {
        Self { redis, node: NodeId::random() }
    }

    /// Puts events into streams within these bounds. `None` when Redis is away.
    pub(super) async fn put(&self, notifications: &[Notification], bounds: Option<Bounds>) -> Option<Vec<Outcome>> {
        let link = self.redis.link.get()?;
        let command =
            |notification: &Notification| notification.command(&link.announce, &self.redis.names, None, bounds);
        let answers = self.redis.ask(&link, notifications.iter().map(command).collect()).await?;
        warn_rejected(&answers);
        Some(answers.iter().map(|answer| Outcome::read(answer, true)).collect())
    }

    /// Takes the first events of a stream. `None` when another node delivers it, or when Redis is away.
    pub(super) async fn take(&self, endpoint: &Endpoint, events_max: usize) -> Option<Batch> {
        let keys = [self.stream_key(endpoint), self.owner_key(endpoint)];
        let command =
            |link: &WebhookLink| evaluate(&link.take, &keys).arg(self.node.to_string()).arg(events_max).take();
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
        command.arg(self.redis.names.webhook_queues()).arg(mark);
        self.send_one(|_| command).await.is_some()
    }

    /// The apps with marked endpoints. `None` when Redis is away.
    pub(super) async fn marked_apps(&self) -> Option<BTreeSet<Arc<str>>> {
        let answer = self.send_one(|_| cmd("SMEMBERS").arg(self.redis.names.webhook_queues()).take()).await?;
        let marks: Vec<Vec<u8>> = redis::from_redis_value(answer).unwrap_or_default();
        let app = |mark: &Vec<u8>| Some(std::str::from_utf8(mark).ok()?.split_once(':')?.1.into());
        Some(marks.iter().filter_map(app).collect())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.redis.link.get().is_some()
    }

    fn stream_key(&self, endpoint: &Endpoint) -> String {
        self.redis.names.webhook_queue(&endpoint.app, endpoint.stream_name())
    }

    fn owner_key(&self, endpoint: &Endpoint) -> String {
        self.redis.names.webhook_owner(&endpoint.app, endpoint.stream_name())
    }

    /// Sends one command. Redis' error for one endpoint's keys does not affect other endpoints.
    async fn send_one(&self, command: impl FnOnce(&WebhookLink) -> Cmd) -> Option<Value> {
        let link = self.redis.link.get()?;
        let answer = self.redis.ask(&link, vec![command(&link)]).await?.pop()?;
        if let Err(error) = &answer
            && !link.has_refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "Redis refuses something that webhooks need");
        }
        answer.ok()
    }
}

fn evaluate(hash: &str, keys: &[String]) -> Cmd {
    cmd("EVALSHA").arg(hash).arg(keys.len()).arg(keys).take()
}
