//! How the nodes of a cluster reach each other, as it is configured.

use std::sync::Arc;

use crate::config;
use crate::redis::names::Names;

/// A way to the other nodes.
#[derive(Debug)]
pub(super) enum Way {
    Redis(Arc<RedisWay>),
}

/// A Redis that the nodes share.
#[derive(Debug)]
pub(super) struct RedisWay {
    pub(super) options: config::Redis,
    pub(super) names: Names,
}

impl Way {
    pub(super) fn new(cluster: &config::Cluster, redis: &config::Redis) -> Self {
        let names = Names::new(&cluster.name, &redis.key_prefix);
        Self::Redis(Arc::new(RedisWay { options: redis.clone(), names }))
    }

    /// The topic of messages between nodes.
    pub(super) fn control(&self) -> String {
        match self {
            Self::Redis(way) => way.names.control(),
        }
    }

    /// The beginning of all names of the cluster.
    pub(super) fn start(&self) -> &str {
        match self {
            Self::Redis(way) => way.names.start(),
        }
    }

    /// Whether nodes can subscribe to patterns of topics. A Redis Cluster has none.
    pub(super) fn has_patterns(&self) -> bool {
        match self {
            Self::Redis(way) => way.has_patterns(),
        }
    }
}

impl RedisWay {
    pub(super) fn has_patterns(&self) -> bool {
        self.options.cluster_nodes.is_empty()
    }
}
