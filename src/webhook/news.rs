//! What is to be told, to whom, and what becomes of it.

use std::sync::Arc;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::Names;
use crate::protocol::envelope::NodeId;
use crate::protocol::webhook::Event;
use crate::webhook::Webhooks;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::leaving::Left;

/// The script that [`News::command`] calls.
pub(super) const TELL_SCRIPT: &str = include_str!("tell.lua");

/// What may wait in Redis for an endpoint.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct News {
    pub(super) what: Left,
    /// Whether a node begins to have it or ceases to; of what other nodes have no say in neither.
    pub(super) begins: Option<bool>,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// The event as it stands in a body.
    pub(super) text: Arc<str>,
    pub(super) since: Instant,
}

/// What has become of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Another node has the same.
    Old,
    /// They wait in Redis, where each endpoint's stream has dropped so many events for them.
    Stored(Vec<u64>),
    /// Redis is there and does not take them.
    Refused,
    /// They are to wait on this node.
    Ours,
}

impl News {
    /// Something has happened.
    pub(super) fn of(what: Left, event: &Event, webhooks: &Webhooks) -> Self {
        let mut endpoints = webhooks.endpoints_of(&what.app);
        endpoints.retain(|endpoint| endpoint.wants(event.kind(), what.channel.as_str()));
        let text = if endpoints.is_empty() { String::new() } else { event.encode(what.channel.as_str()) };
        Self { what, begins: None, endpoints, text: text.into(), since: Instant::now() }
    }

    /// A node begins to have something, or ceases to.
    pub(super) fn of_turn(what: Left, begins: bool, webhooks: &Webhooks) -> Self {
        let event = match (&what.user_id, begins) {
            (None, true) => Event::ChannelOccupied,
            (None, false) => Event::ChannelVacated,
            (Some(user_id), true) => Event::MemberAdded(Arc::clone(user_id)),
            (Some(user_id), false) => Event::MemberRemoved(Arc::clone(user_id)),
        };
        Self { begins: Some(begins), ..Self::of(what, &event, webhooks) }
    }

    /// Nobody is to hear of it.
    pub(super) fn silent(self) -> Self {
        Self { endpoints: Vec::new(), ..self }
    }

    /// The call of [`TELL_SCRIPT`] as `node`; where there is none, all is news. With `bounds` it puts the event
    /// into the endpoints' streams.
    pub(super) fn command(&self, hash: &str, names: &Names, node: Option<NodeId>, bounds: Option<Bounds>) -> Cmd {
        let Left { app, channel, user_id } = &self.what;
        let queue = |endpoint: &Arc<Endpoint>| names.webhook_queue(app, endpoint.stream());
        let streams: Vec<String> = bounds.iter().flat_map(|_| self.endpoints.iter().map(queue)).collect();
        let node = node.filter(|_| self.begins.is_some()).map(|node| node.to_string()).unwrap_or_default();
        let mut command = cmd("EVALSHA");
        command.arg(hash).arg(1 + streams.len()).arg(names.holders(app, channel, user_id.as_deref())).arg(streams);
        command.arg(node).arg(u8::from(self.begins == Some(true))).arg(&*self.text);
        let Bounds { events, bytes } = bounds.unwrap_or_default();
        command.arg(events).arg(bytes);
        command
    }
}

impl Outcome {
    /// What [`TELL_SCRIPT`] has answered; `stored` when it was to put the event into streams.
    pub(super) fn read(answer: &RedisResult<Value>, stored: bool) -> Self {
        match answer.clone().map(redis::from_redis_value::<Option<Vec<u64>>>) {
            Ok(Ok(None)) => Self::Old,
            Ok(Ok(Some(dropped))) if stored => Self::Stored(dropped),
            Err(_) if stored => Self::Refused,
            _ => Self::Ours,
        }
    }
}

/// Tells the operator of what Redis refuses, once for all that was said together.
pub(super) fn complain_of(answers: &[RedisResult<Value>]) {
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        tracing::warn!(%error, "Redis refuses something that webhooks need; what it was for is lost");
    }
}
