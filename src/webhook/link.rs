//! The connection of webhooks to Redis: no command waits for input, so one is enough.
//! `Webhooks::run` keeps it, from the first endpoint on; `directory` and `stream` send commands over it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use redis::Cmd;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::link::Purpose;
use crate::redis::connection::PING;
use crate::redis::connection::RedisConnection;
use crate::redis::lease::LEASE_SCRIPT;
use crate::redis::link::CurrentLink;
use crate::redis::names::Names;
use crate::redis::script;
use crate::webhook::notification::ANNOUNCE_SCRIPT;

/// The log of nodes whose events wait in Redis.
const STORED: Purpose = Purpose {
    absent: "there is no link to Redis for webhooks",
    lost: "webhooks lose Redis",
    meanwhile: "their events wait in the memory of this node meanwhile",
    acl_advice: None,
};
/// The log of nodes whose events wait in memory anyway.
const SHARED: Purpose = Purpose { meanwhile: "each node decides by itself meanwhile which events it sends", ..STORED };

/// Redis, as webhooks use it.
#[derive(Debug)]
pub(super) struct WebhookRedis {
    pub(super) names: Names,
    options: config::Redis,
    purpose: &'static Purpose,
    pub(super) link: CurrentLink<WebhookLink>,
    /// Cancelled at the first endpoint. Before it nothing needs Redis.
    needed: CancellationToken,
}

/// One link, with the hashes of its scripts.
#[derive(Debug)]
pub(super) struct WebhookLink {
    pub(super) connection: RedisConnection,
    pub(super) announce: String,
    pub(super) lease: String,
    pub(super) take: String,
    pub(super) acknowledge: String,
    pub(super) renew: String,
    pub(super) since: Instant,
    /// An error of Redis on this link has been logged.
    pub(super) has_refused: AtomicBool,
}

impl WebhookRedis {
    /// Redis without a link. `stored` when events wait there.
    pub(super) fn new(cluster: &config::Cluster, redis: &config::Redis, stored: bool) -> Self {
        let (link, needed) = (CurrentLink::default(), CancellationToken::new());
        let purpose = if stored { &STORED } else { &SHARED };
        Self { names: Names::new(&cluster.name, &redis.key_prefix), options: redis.clone(), purpose, link, needed }
    }

    /// From now on a link is needed.
    pub(super) fn need(&self) {
        self.needed.cancel();
    }

    /// Whether a link is needed.
    pub(super) fn is_needed(&self) -> bool {
        self.needed.is_cancelled()
    }

    /// Keeps a link until `stop` is cancelled, once it is needed.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let open = || async {
            self.needed.cancelled().await;
            WebhookLink::open(&self.options).await
        };
        self.link.run((&self.options, self.purpose), stop, open, |link| self.failed_probe(link)).await;
    }

    /// Probes a link until a probe fails. A key of webhooks is asked for, since in a Redis Cluster the other masters do
    /// not matter.
    async fn failed_probe(&self, link: Arc<WebhookLink>) -> RedisError {
        tracing::info!("webhooks are linked to Redis");
        let mut connection = link.connection.clone();
        let probes = async {
            loop {
                tokio::time::sleep(PING).await;
                let probe = cmd("EXISTS").arg(self.names.webhook_leases()).take();
                if let Err(error) = connection.ask_one(probe).await {
                    return error;
                }
            }
        };
        tokio::select! {
            error = probes => error,
            error = link.connection.superseded(&self.options) => error,
        }
    }

    /// Sends commands over a link, which is given up if it fails. `None` then.
    pub(super) async fn ask(&self, link: &Arc<WebhookLink>, commands: Vec<Cmd>) -> Option<Vec<RedisResult<Value>>> {
        let answers = link.connection.clone().ask_each(commands).await;
        answers.map_err(|error| self.link.fail(link, error)).ok()
    }
}

impl WebhookLink {
    async fn open(options: &config::Redis) -> RedisResult<Self> {
        let mut connection = RedisConnection::open(options, |_| ()).await?;
        let sources = [
            ANNOUNCE_SCRIPT,
            LEASE_SCRIPT,
            include_str!("take.lua"),
            include_str!("acknowledge.lua"),
            include_str!("renew.lua"),
        ];
        let [announce, lease, take, acknowledge, renew] = script::load(&mut connection, sources).await?;
        let (since, has_refused) = (Instant::now(), AtomicBool::new(false));
        Ok(Self { connection, announce, lease, take, acknowledge, renew, since, has_refused })
    }
}
