//! A notification: one encoded event with the endpoints that want it, and the Redis command that announces it.
//! `dispatch` makes them; `directory` and `stream` send the command.

use std::sync::Arc;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::protocol::envelope::NodeId;
use crate::protocol::webhook::Event;
use crate::redis::names::Names;
use crate::webhook::Webhooks;
use crate::webhook::debounce::Occupancy;
use crate::webhook::endpoint::Endpoint;

/// The script that [`Notification::command`] calls.
pub(super) const ANNOUNCE_SCRIPT: &str = include_str!("announce.lua");

/// The limits of an endpoint's stream in Redis.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// An event on its way to endpoints.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) occupancy: Occupancy,
    /// Whether this begins or ends the occupancy; `None` for events that concern this node alone.
    pub(super) transition: Option<Transition>,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// The event as JSON, as it goes into a request.
    pub(super) text: Arc<str>,
    pub(super) since: Instant,
}

/// Whether a node begins or ceases to have an [`Occupancy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    Began,
    Ended,
}

/// The result of announcing a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Another node has the channel or member, so this is no event.
    Duplicate,
    /// It waits in Redis; each endpoint's stream dropped this many events for it.
    Stored(Vec<u64>),
    /// Redis answers with an error.
    Rejected,
    /// It must wait in this node's memory.
    Local,
}

impl Notification {
    /// A notification for the endpoints that want this event.
    pub(super) fn new(occupancy: Occupancy, event: &Event, webhooks: &Webhooks) -> Self {
        let mut endpoints = webhooks.endpoints_of(&occupancy.app);
        endpoints.retain(|endpoint| endpoint.wants(event.kind(), occupancy.channel.as_str()));
        let text = if endpoints.is_empty() { String::new() } else { event.encode(occupancy.channel.as_str()) };
        Self { occupancy, transition: None, endpoints, text: text.into(), since: Instant::now() }
    }

    /// A notification that a node begins or ceases to have a channel or member.
    pub(super) fn of_transition(occupancy: Occupancy, transition: Transition, webhooks: &Webhooks) -> Self {
        let event = match (&occupancy.user_id, transition) {
            (None, Transition::Began) => Event::ChannelOccupied,
            (None, Transition::Ended) => Event::ChannelVacated,
            (Some(user_id), Transition::Began) => Event::MemberAdded(Arc::clone(user_id)),
            (Some(user_id), Transition::Ended) => Event::MemberRemoved(Arc::clone(user_id)),
        };
        Self { transition: Some(transition), ..Self::new(occupancy, &event, webhooks) }
    }

    /// Like this one, but for no endpoint.
    pub(super) fn without_endpoints(self) -> Self {
        Self { endpoints: Vec::new(), ..self }
    }

    /// Calls [`ANNOUNCE_SCRIPT`] as `node`; without a node every notification counts. With `bounds` the script puts the
    /// event into the endpoints' streams.
    pub(super) fn command(&self, hash: &str, names: &Names, node: Option<NodeId>, bounds: Option<Bounds>) -> Cmd {
        let Occupancy { app, channel, user_id } = &self.occupancy;
        let queue = |endpoint: &Arc<Endpoint>| names.webhook_queue(app, endpoint.stream_name());
        let streams: Vec<String> = bounds.iter().flat_map(|_| self.endpoints.iter().map(queue)).collect();
        let node = node.filter(|_| self.transition.is_some()).map(|node| node.to_string()).unwrap_or_default();
        let mut command = cmd("EVALSHA");
        command
            .arg(hash)
            .arg(1 + streams.len())
            .arg(names.webhook_nodes(app, channel, user_id.as_deref()))
            .arg(streams);
        command.arg(node).arg(u8::from(self.transition == Some(Transition::Began))).arg(&*self.text);
        let Bounds { events, bytes } = bounds.unwrap_or_default();
        command.arg(events).arg(bytes);
        command
    }
}

impl Outcome {
    /// Reads the script's answer; `stored` when it was to put the event into streams.
    pub(super) fn read(answer: &RedisResult<Value>, stored: bool) -> Self {
        match answer.clone().map(redis::from_redis_value::<Option<Vec<u64>>>) {
            Ok(Ok(None)) => Self::Duplicate,
            Ok(Ok(Some(dropped))) if stored => Self::Stored(dropped),
            Err(_) if stored => Self::Rejected,
            _ => Self::Local,
        }
    }
}

/// Logs what Redis refuses, once for all commands that were sent together.
pub(super) fn warn_rejected(answers: &[RedisResult<Value>]) {
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        tracing::warn!(%error, "Redis refuses something that webhooks need; what it was for is lost");
    }
}
