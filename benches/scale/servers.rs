//! The Redis servers of a run, which end with it.

use anyhow::Result;
use gema::config::ClusterDriver;
use gema::config::Config;
use support::redis_kinds::RedisCluster;
use support::redis_kinds::Server;
use support::redis_server::TestRedis;

use crate::meter::Meter;
use crate::options::Kind;

/// One Redis, or three masters.
pub(crate) enum Servers {
    Alone(TestRedis),
    Cluster(RedisCluster),
}

impl Servers {
    pub(crate) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Alone => Self::Alone(TestRedis::start().await),
            Kind::Cluster => Self::Cluster(RedisCluster::start()),
        }
    }

    /// Makes these servers those of a node.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.cluster.driver = ClusterDriver::Redis;
        config.cluster.name = "scale".to_owned();
        match self {
            Self::Alone(redis) => redis.point(config),
            Self::Cluster(cluster) => {
                config.redis.cluster_nodes = cluster.masters.iter().map(Server::address).collect();
            }
        }
    }

    pub(crate) fn meter(&self) -> Result<Meter> {
        Meter::connect(&match self {
            Self::Alone(redis) => vec![redis.port()],
            Self::Cluster(cluster) => cluster.masters.iter().map(|master| master.port).collect(),
        })
    }

    /// Cuts all links, forgets everything, and answers nobody. One Redis ends; the masters of a Redis Cluster stand still,
    /// since new ones would have to be made a cluster first.
    pub(crate) fn stop(&mut self) {
        match self {
            Self::Alone(redis) => redis.kill(),
            Self::Cluster(cluster) => {
                for master in &cluster.masters {
                    master.cli(&["FLUSHALL"]);
                    master.cli(&["SCRIPT", "FLUSH"]);
                    master.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                    master.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
                    master.pause();
                }
            }
        }
    }

    /// The servers answer again, empty.
    pub(crate) async fn restart(&mut self) {
        match self {
            Self::Alone(redis) => redis.restart().await,
            Self::Cluster(cluster) => cluster.masters.iter().for_each(Server::resume),
        }
    }
}
