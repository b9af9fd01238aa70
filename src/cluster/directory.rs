//! The records of all nodes, for questions beside the queue.
//! `query`, `page` and `idempotency` ask it while there is a link.

use std::time::Duration;

use bytes::Bytes;

use crate::cluster::bus::Departures;
use crate::cluster::bus::Occupied;
use crate::cluster::over_nats::directory::NatsDirectory;
use crate::cluster::over_redis::directory::RedisDirectory;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::idempotency::RequestId;

/// A place for the records of all nodes. Clones share it. No answer is `None`.
#[derive(Clone)]
pub(super) enum Directory {
    Redis(RedisDirectory),
    Nats(NatsDirectory),
}

impl From<RedisDirectory> for Directory {
    fn from(redis: RedisDirectory) -> Self {
        Self::Redis(redis)
    }
}

impl From<NatsDirectory> for Directory {
    fn from(nats: NatsDirectory) -> Self {
        Self::Nats(nats)
    }
}

impl Directory {
    /// The connections of each of these nodes on a channel.
    pub(super) async fn connections(&self, app: &str, channel: &ChannelName, nodes: &[NodeId]) -> Option<Vec<usize>> {
        match self {
            Self::Redis(redis) => redis.connections(app, channel, nodes).await,
            Self::Nats(nats) => nats.connections(app, channel, nodes).await,
        }
    }

    /// The occupied channels of each of these nodes, for each of these apps.
    pub(super) async fn channels(&self, apps: &[&str], nodes: &[NodeId]) -> Option<Vec<Vec<Occupied>>> {
        match self {
            Self::Redis(redis) => redis.channels(apps, nodes).await,
            Self::Nats(nats) => nats.channels(apps, nodes).await,
        }
    }

    /// How many distinct users each presence channel has on all nodes.
    pub(super) async fn user_counts(&self, app: &str, of: &[(&ChannelName, Departures)]) -> Option<Vec<usize>> {
        match self {
            Self::Redis(redis) => redis.user_counts(app, of).await,
            Self::Nats(nats) => nats.user_counts(app, of).await,
        }
    }

    /// The distinct users of a presence channel on all nodes.
    pub(super) async fn users(&self, app: &str, channel: &ChannelName, departures: &Departures) -> Option<Vec<String>> {
        match self {
            Self::Redis(redis) => redis.users(app, channel, departures).await,
            Self::Nats(nats) => nats.users(app, channel, departures).await,
        }
    }

    /// The event of a cache channel, and how long it still is.
    pub(super) async fn cached(&self, app: &str, channel: &ChannelName) -> Option<Option<(RemoteEvent, Duration)>> {
        match self {
            Self::Redis(redis) => redis.cached(app, channel).await,
            Self::Nats(nats) => nats.cached(app, channel).await,
        }
    }

    /// Stores the status of a node for some seconds.
    pub(super) async fn write_status(&self, node: NodeId, status: &str) {
        match self {
            Self::Redis(redis) => redis.write_status(node, status).await,
            Self::Nats(nats) => nats.write_status(node, status).await,
        }
    }

    /// The last status of each of these nodes.
    pub(super) async fn statuses(&self, nodes: &[NodeId]) -> Option<Vec<Option<String>>> {
        match self {
            Self::Redis(redis) => redis.statuses(nodes).await,
            Self::Nats(nats) => nats.statuses(nodes).await,
        }
    }

    /// Stores the hash of a request's body for some time, unless there is something. Returns what is there then.
    pub(super) async fn claim(&self, id: &RequestId, hash: &[u8], time: Duration) -> Option<Result<(), Bytes>> {
        match self {
            Self::Redis(redis) => redis.claim(id, hash, time).await,
            Self::Nats(nats) => nats.claim(id, hash, time).await,
        }
    }

    /// Replaces what is stored of a request. False when that was not done.
    pub(super) async fn store_answer(&self, id: &RequestId, value: Vec<u8>, time: Duration) -> bool {
        match self {
            Self::Redis(redis) => redis.store_answer(id, value, time).await,
            Self::Nats(nats) => nats.store_answer(id, value, time).await,
        }
    }

    /// Forgets a request.
    pub(super) async fn release(&self, id: &RequestId) {
        match self {
            Self::Redis(redis) => redis.release(id).await,
            Self::Nats(nats) => nats.release(id).await,
        }
    }
}
