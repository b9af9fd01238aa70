//! The token buckets in Redis of rate limits that nodes share. They have a connection of their own, so that nodes can share
//! them without being a cluster. `node` takes tokens here.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use redis::RedisError;
use redis::RedisResult;
use redis::cmd;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::link::Purpose;
use crate::redis::connection::PING;
use crate::redis::connection::RedisConnection;
use crate::redis::link::CurrentLink;
use crate::redis::names::Names;
use crate::redis::script;

/// How long a request waits for Redis, once; the link is given up then, and nobody waits any more.
const ANSWER_TIME: Duration = Duration::from_secs(1);

const PURPOSE: Purpose = Purpose {
    absent: "there is no link to Redis for limits per second",
    lost: "the link to Redis for limits per second is lost",
    meanwhile: "they hold for each node meanwhile",
    acl_advice: None,
};

/// The buckets of all nodes.
pub struct Rates {
    names: Names,
    options: config::Redis,
    link: CurrentLink<RateLink>,
    /// Counts what each node has to decide for itself.
    local: IntCounter,
}

struct RateLink {
    connection: RedisConnection,
    /// The hash of the script.
    script: String,
}

/// The answer of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// Tokens taken: up to those wanted, at least those needed, or none.
    pub tokens: u32,
    /// Tokens that it still has.
    pub left: f32,
}

/// How many tokens to take from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Tokens that the bucket gains in a second.
    pub per_second: u32,
    /// Tokens that must be there. Otherwise none is taken.
    pub needed: u32,
    /// Tokens to take if the bucket has them.
    pub wanted: u32,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rates").field("is_linked", &self.link.get().is_some()).finish_non_exhaustive()
    }
}

impl Rates {
    /// The buckets of the nodes with this cluster's name, without a link yet.
    pub fn new(cluster: &config::Cluster, redis: &config::Redis, local: IntCounter) -> Self {
        Self {
            names: Names::new(&cluster.name, &redis.key_prefix),
            options: redis.clone(),
            link: CurrentLink::default(),
            local,
        }
    }

    /// Keeps a link until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let open = || self.open();
        let probe = |link| self.failed_probe(link);
        self.link.run((&self.options, &PURPOSE), &stop, open, probe).await;
    }

    /// Ends when the first link is made, or when the first try has failed.
    pub async fn tried(&self) {
        self.link.tried().await;
    }

    /// Takes tokens from the bucket for this `kind` of request to an app. Nothing when Redis is away.
    pub async fn take(&self, app: &str, kind: &str, demand: Demand) -> Option<Taken> {
        if let Some(link) = self.link.get() {
            match link.take(&self.names.rate(app, kind), demand).await {
                Ok(taken) => return Some(taken),
                Err(error) => self.link.fail(&link, error),
            }
        }
        self.local.inc();
        None
    }

    /// Opens a link and proves that it works.
    async fn open(&self) -> RedisResult<RateLink> {
        let mut connection = RedisConnection::open(&self.options, |_| ()).await?;
        let [script] = script::load(&mut connection, [include_str!("shared.lua")]).await?;
        let link = RateLink { connection, script };
        self.probe(&link).await?;
        Ok(link)
    }

    /// Probes a link until a probe fails.
    async fn failed_probe(&self, link: Arc<RateLink>) -> RedisError {
        tracing::info!("limits per second hold for all nodes together");
        let probes = async {
            loop {
                sleep(PING).await;
                if let Err(error) = self.probe(&link).await {
                    return error;
                }
            }
        };
        tokio::select! {
            error = probes => error,
            error = link.connection.superseded(&self.options) => error,
        }
    }

    /// Asks for nothing, which Redis refuses, too, when it cannot write.
    async fn probe(&self, link: &RateLink) -> RedisResult<()> {
        let nothing = Demand { per_second: 1, needed: 0, wanted: 0 };
        link.take(&self.names.rate("rates", "probe"), nothing).await.map(|_| ())
    }
}

impl RateLink {
    async fn take(&self, key: &str, demand: Demand) -> RedisResult<Taken> {
        let Demand { per_second, needed, wanted } = demand;
        let mut command = cmd("EVALSHA");
        command.arg(&self.script).arg(1).arg(key).arg(per_second).arg(needed).arg(wanted);
        let mut connection = self.connection.clone();
        let answer = timeout(ANSWER_TIME, connection.ask_one(command)).await.map_err(std::io::Error::from)??;
        let (tokens, left): (u32, f32) = redis::from_redis_value(answer)?;
        // Zero in the place of what is no number.
        Ok(Taken { tokens: tokens.min(wanted), left: left.max(0.0) })
    }
}
