//! How the nodes of a cluster reach each other, as it is configured.

use std::sync::Arc;

use crate::config;
use crate::config::ClusterDriver;
use crate::nats::subjects::Subjects;
use crate::protocol::envelope::NodeId;
use crate::redis::names::Names;

/// A way to the other nodes.
#[derive(Debug)]
pub(super) enum Way {
    Redis(Arc<RedisWay>),
    Nats(Arc<NatsWay>),
}

/// A Redis that the nodes share.
#[derive(Debug)]
pub(super) struct RedisWay {
    pub(super) options: config::Redis,
    pub(super) names: Names,
}

/// A NATS that the nodes share.
#[derive(Debug)]
pub(super) struct NatsWay {
    pub(super) options: config::Nats,
    pub(super) names: Subjects,
}

impl Way {
    pub(super) fn new(cluster: &config::Cluster, redis: &config::Redis, nats: &config::Nats) -> Self {
        if cluster.driver == ClusterDriver::Nats {
            let names = Subjects::new(&cluster.name, &nats.prefix);
            return Self::Nats(Arc::new(NatsWay { options: nats.clone(), names }));
        }
        let names = Names::new(&cluster.name, &redis.key_prefix);
        Self::Redis(Arc::new(RedisWay { options: redis.clone(), names }))
    }

    /// The topics of messages between nodes: for all, and for this one.
    pub(super) fn control(&self, node: NodeId) -> [String; 2] {
        let both = [None, Some(node)];
        match self {
            Self::Redis(way) => both.map(|node| way.names.control(node)),
            Self::Nats(way) => both.map(|node| way.names.control(node)),
        }
    }

    /// The beginning of all names of the cluster.
    pub(super) fn start(&self) -> &str {
        match self {
            Self::Redis(way) => way.names.start(),
            Self::Nats(way) => way.names.start(),
        }
    }

    /// Whether nodes can subscribe to patterns of topics. A Redis Cluster has none.
    pub(super) fn has_patterns(&self) -> bool {
        match self {
            Self::Redis(way) => way.has_patterns(),
            Self::Nats(_) => true,
        }
    }

    /// Whether messages of all topics that match a pattern come in the order in which their node has accepted them. Over
    /// NATS an event may wait for something else of its channel.
    pub(super) fn delivers_in_sequence(&self) -> bool {
        match self {
            Self::Redis(way) => way.has_patterns(),
            Self::Nats(_) => false,
        }
    }
}

impl RedisWay {
    pub(super) fn has_patterns(&self) -> bool {
        self.options.cluster_nodes.is_empty()
    }
}
