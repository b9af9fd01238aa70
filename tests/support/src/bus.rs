//! The program in which the nodes of a test meet: Redis, or NATS with `GEMA_TEST_BUS=nats` in the environment.
//!
//! A test that is about the nodes takes a [`TestBus`]. One that is about Redis itself takes a
//! [`TestRedis`](crate::redis_server::TestRedis), and is left out over NATS.

use gema::config::Config;
use redis::aio::MultiplexedConnection;

use crate::nats_server::NatsClient;
use crate::nats_server::TestNats;
use crate::redis_server::TestRedis;
use crate::redis_server::run;

/// Whether the nodes meet in NATS.
pub fn is_nats() -> bool {
    match std::env::var("GEMA_TEST_BUS").as_deref() {
        Ok("nats") => true,
        Ok("redis" | "") | Err(_) => false,
        Ok(other) => panic!("GEMA_TEST_BUS is {other:?}; it must be redis or nats"),
    }
}

/// One of a test's own. It can be killed, paused, locked and emptied without harming anybody else.
pub enum TestBus {
    Redis(TestRedis),
    Nats(TestNats),
}

/// A bus that a test has, by its kind.
#[derive(Clone, Copy)]
pub enum Bus<'a> {
    Redis(&'a TestRedis),
    Nats(&'a TestNats),
}

impl<'a> From<&'a TestRedis> for Bus<'a> {
    fn from(redis: &'a TestRedis) -> Self {
        Self::Redis(redis)
    }
}

impl<'a> From<&'a TestNats> for Bus<'a> {
    fn from(nats: &'a TestNats) -> Self {
        Self::Nats(nats)
    }
}

impl<'a> From<&'a TestBus> for Bus<'a> {
    fn from(bus: &'a TestBus) -> Self {
        match bus {
            TestBus::Redis(redis) => Self::Redis(redis),
            TestBus::Nats(nats) => Self::Nats(nats),
        }
    }
}

impl TestBus {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with a password, or a token.
    pub async fn start_with(password: &str) -> Self {
        match is_nats() {
            true => Self::Nats(TestNats::start_with(password).await),
            false => Self::Redis(TestRedis::start_with(password).await),
        }
    }

    /// One that does not run yet, with a port of its own.
    pub fn absent() -> Self {
        if is_nats() { Self::Nats(TestNats::absent("")) } else { Self::Redis(TestRedis::absent("")) }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Redis(redis) => redis.port(),
            Self::Nats(nats) => nats.port(),
        }
    }

    /// Starts it, empty, on its own port.
    pub async fn restart(&mut self) {
        match self {
            Self::Redis(redis) => redis.restart().await,
            Self::Nats(nats) => nats.restart().await,
        }
    }

    /// The same; from now on only this password lets anybody in.
    pub async fn restart_with(&mut self, password: &str) {
        match self {
            Self::Redis(redis) => redis.restart_with(password).await,
            Self::Nats(nats) => nats.restart_with(password).await,
        }
    }

    /// Ends it, between two messages.
    pub fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Nats(nats) => nats.stop(),
        }
    }

    /// It answers nobody any more, but its connections stay.
    pub fn pause(&self) {
        match self {
            Self::Redis(redis) => redis.pause(),
            Self::Nats(nats) => nats.pause(),
        }
    }

    pub fn resume(&self) {
        match self {
            Self::Redis(redis) => redis.resume(),
            Self::Nats(nats) => nats.resume(),
        }
    }
}

impl Bus<'_> {
    /// The one that all tests of this process share.
    pub async fn shared() -> Self {
        match is_nats() {
            true => Self::Nats(TestNats::shared().await),
            false => Self::Redis(TestRedis::shared().await),
        }
    }

    /// Makes it the one between the nodes of a cluster.
    pub fn configure(self, config: &mut Config, cluster: &str) {
        match self {
            Self::Redis(redis) => redis.configure(config, cluster),
            Self::Nats(nats) => nats.configure(config, cluster),
        }
    }

    /// The variables that make it the one between nodes.
    pub fn variables(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis(redis) => vec![
                ("GEMA_CLUSTER_DRIVER", "redis".to_owned()),
                ("GEMA_REDIS_HOST", "127.0.0.1".to_owned()),
                ("GEMA_REDIS_PORT", redis.port().to_string()),
                ("GEMA_REDIS_PASSWORD", redis.password.clone()),
            ],
            Self::Nats(nats) => vec![
                ("GEMA_CLUSTER_DRIVER", "nats".to_owned()),
                ("GEMA_NATS_SERVERS", format!("127.0.0.1:{}", nats.port())),
                ("GEMA_NATS_TOKEN", nats.token.clone()),
            ],
        }
    }

    /// A connection of the test.
    pub async fn connection(self) -> Voice {
        match self {
            Self::Redis(redis) => Voice::Redis(redis.connection().await),
            Self::Nats(nats) => Voice::Nats(nats.connection().await),
        }
    }
}

/// A connection that speaks to all nodes of a cluster.
pub enum Voice {
    Redis(MultiplexedConnection),
    Nats(NatsClient),
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Voice(..)")
    }
}

impl Voice {
    /// Publishes where the nodes of a cluster speak to each other.
    pub async fn speak(&mut self, cluster: &str, message: &str) {
        match self {
            Self::Redis(redis) => drop(run::<u64>(redis, &["PUBLISH", &format!("{cluster}:nodes"), message]).await),
            Self::Nats(nats) => {
                nats.publish(&format!("{}.nodes", cluster.replace('-', "-2d")), message.as_bytes())
                    .await
                    .expect("NATS takes a message");
            }
        }
    }
}
