//! Limits that hold for all nodes together: token buckets in Redis, on a connection of their own, so that nodes can
//! have limits in common that are no cluster otherwise.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::IntCounter;
use redis::RedisError;
use redis::RedisResult;
use redis::cmd;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::connection::Backoff;
use crate::cluster::connection::Connection;
use crate::cluster::connection::advice;
use crate::cluster::link::PING;
use crate::cluster::names::Names;
use crate::config;

/// How long a request waits for Redis, once; the link is given up then, and nobody waits any more.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The buckets of all nodes.
pub struct Rates {
    names: Names,
    options: config::Redis,
    /// Cancelled by the outcome of the first try to make a link.
    tried: CancellationToken,
    link: Mutex<Option<Link>>,
    lost: Notify,
    /// Counts what each node has to decide for itself.
    local: IntCounter,
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    /// The hash of the script.
    script: String,
}

/// What a bucket has given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// As many tokens as wanted, or at least as needed, or none.
    pub tokens: u32,
    /// Tokens that it still has.
    pub left: f32,
}

/// How many tokens to take from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// What fills up in a second.
    pub per_second: u32,
    /// So many or none.
    pub needed: u32,
    /// So many where they are there.
    pub wanted: u32,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rates").field("is_linked", &self.link.lock().is_some()).finish_non_exhaustive()
    }
}

impl Rates {
    /// The buckets of the nodes with this cluster's name, without a link yet.
    pub fn new(cluster: &config::Cluster, redis: &config::Redis, local: IntCounter) -> Self {
        Self {
            names: Names::new(&cluster.name, &redis.key_prefix),
            options: redis.clone(),
            tried: CancellationToken::new(),
            link: Mutex::new(None),
            lost: Notify::new(),
            local,
        }
    }

    /// Keeps a link until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_link()).await;
    }

    /// Ends when the first link is made, or when the first try has failed.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Takes tokens from the bucket for this `kind` of request to an app. Nothing when Redis is away.
    pub async fn take(&self, app: &str, kind: &str, demand: Demand) -> Option<Taken> {
        let link = self.link.lock().clone();
        if let Some(link) = link {
            match link.take(&self.names.rate(app, kind), demand).await {
                Ok(taken) => return Some(taken),
                Err(error) => self.lose(&error),
            }
        }
        self.local.inc();
        None
    }

    async fn keep_link(&self) {
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            let opened = self.open().await;
            *self.link.lock() = opened.as_ref().ok().cloned();
            self.tried.cancel();
            match opened {
                Ok(link) => {
                    told = true;
                    tracing::info!("limits per second hold for all nodes together");
                    let since = Instant::now();
                    self.watch(link).await;
                    if since.elapsed() > Backoff::STABLE {
                        backoff = Backoff::default();
                    }
                }
                Err(error) if !told => {
                    told = true;
                    self.tell_of(&error);
                }
                Err(error) => tracing::debug!(%error, "limits per second still hold for each node"),
            }
            backoff.pause().await;
        }
    }

    /// A link that has proved to work.
    async fn open(&self) -> RedisResult<Link> {
        let mut connection = Connection::open(&self.options, |_| ()).await?;
        let load = cmd("SCRIPT").arg("LOAD").arg(include_str!("rate.lua")).take();
        let script = redis::from_redis_value(connection.ask_one(load).await?)?;
        let link = Link { connection, script };
        self.probe(&link).await?;
        Ok(link)
    }

    /// Ends when the link is lost.
    async fn watch(&self, link: Link) {
        let probes = async {
            loop {
                sleep(PING).await;
                if let Err(error) = self.probe(&link).await {
                    self.lose(&error);
                }
            }
        };
        tokio::select! {
            () = self.lost.notified() => (),
            () = probes => (),
        }
    }

    /// Asks for nothing, which Redis refuses, too, when it cannot write.
    async fn probe(&self, link: &Link) -> RedisResult<()> {
        let nothing = Demand { per_second: 1, needed: 0, wanted: 0 };
        link.take(&self.names.rate("rates", "probe"), nothing).await.map(|_| ())
    }

    fn lose(&self, error: &RedisError) {
        if self.link.lock().take().is_some() {
            self.tell_of(error);
            self.lost.notify_one();
        }
    }

    fn tell_of(&self, error: &RedisError) {
        let (place, advice) = (self.options.place(), advice(error, &self.options));
        tracing::warn!(place, %error, advice, "Redis is away; limits per second hold for each node meanwhile");
    }
}

impl Link {
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
