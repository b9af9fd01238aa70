//! Redis alone, behind Sentinels, or as a Redis Cluster, and what can happen to each.

use std::time::Duration;
use std::time::Instant;

use support::redis_kinds::RedisCluster;
use support::redis_kinds::Watched;
use support::redis_server::TestRedis;

use crate::history::Kind;
use crate::schedule::Action;
use crate::world::LARAVELS;

/// What Sentinels call the master.
const MASTER: &str = "shop";
/// Until Sentinels have ended a failover, or do not begin one.
const SETTLED_MAX: Duration = Duration::from_secs(20);

pub enum Redis {
    Alone(TestRedis),
    Sentinels(Watched),
    Cluster(RedisCluster),
}

impl Redis {
    pub async fn start(kind: &str) -> Self {
        match kind {
            "alone" => Self::Alone(TestRedis::start().await),
            "sentinel" => Self::Sentinels(tokio::task::block_in_place(|| Watched::start("", ""))),
            "cluster" => Self::Cluster(tokio::task::block_in_place(RedisCluster::start)),
            other => panic!("GEMA_TEST_REDIS is alone, sentinel or cluster, not {other}"),
        }
    }

    /// Where it is reached through proxies, and by Laravel.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Alone(redis) => Some(redis.port()),
            _ => None,
        }
    }

    /// The lines of `[redis]` and `[ingest]`, for a node that reaches a Redis alone at this port.
    pub fn settings(&self, port: Option<u16>) -> String {
        match self {
            Self::Alone(redis) => {
                let port = port.unwrap_or(redis.port());
                format!("host = \"127.0.0.1\"\nport = {port}\n[ingest]\nprefixes = [\"{LARAVELS}=shop\"]")
            }
            Self::Sentinels(redis) => {
                format!("sentinels = [\"{}\"]\nsentinel_master = \"{MASTER}\"", redis.sentinel.address())
            }
            Self::Cluster(redis) => {
                let nodes = redis.masters.iter().map(|master| format!("\"{}\"", master.address()));
                format!("cluster_nodes = [{}]", nodes.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Does it, and tells what it may have cost.
    pub async fn suffer(&mut self, action: &Action) -> Kind {
        match (action, &mut *self) {
            (Action::RedisKill { away }, Self::Alone(redis)) => {
                // It waits for the end of Redis.
                tokio::task::block_in_place(|| redis.kill());
                tokio::time::sleep(*away).await;
                redis.restart().await;
                Kind::Loss
            }
            (Action::RedisKill { away: time } | Action::RedisStop { time }, _) => self.stop(*time).await,
            (Action::RedisFull { time }, _) => {
                self.limit("1").await;
                tokio::time::sleep(*time).await;
                self.limit("0").await;
                Kind::Members
            }
            _ => unreachable!("Redis suffers nothing else"),
        }
    }

    /// A server does nothing for this time. Sentinels make another one the master, which may know less.
    async fn stop(&self, time: Duration) -> Kind {
        match self {
            Self::Alone(redis) => {
                redis.pause();
                tokio::time::sleep(time).await;
                redis.resume();
                Kind::Link
            }
            Self::Sentinels(redis) => {
                let named = redis.named();
                let master = if named == redis.master.port { &redis.master } else { &redis.replica };
                master.pause();
                tokio::time::sleep(time).await;
                master.resume();
                // Sentinels finish what they have begun. It answers all the while, and calls itself the master.
                let began = Instant::now();
                while !redis.is_settled() && began.elapsed() < SETTLED_MAX {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                if redis.named() == named { Kind::Link } else { Kind::Loss }
            }
            Self::Cluster(redis) => {
                let master = &redis.masters[time.as_millis() as usize % redis.masters.len()];
                master.pause();
                tokio::time::sleep(time).await;
                master.resume();
                Kind::Link
            }
        }
    }

    async fn limit(&self, bytes: &str) {
        let settings = [("maxmemory-policy", "noeviction"), ("maxmemory", bytes)];
        for (name, value) in settings {
            let words = ["CONFIG", "SET", name, value];
            match self {
                Self::Alone(redis) => redis.run::<()>(&words).await,
                Self::Sentinels(redis) => [&redis.master, &redis.replica].iter().for_each(|one| drop(one.cli(&words))),
                Self::Cluster(redis) => redis.masters.iter().for_each(|one| drop(one.cli(&words))),
            }
        }
    }
}
