//! A real server for one test, and what its application would do.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use gema::config::AppEntry;
use gema::config::Config;
use gema::protocol::signature::Signer;
use gema::server::Drained;
use gema::server::Server;

use crate::client::Client;
use crate::client::PATIENCE;
use crate::http::Api;
use crate::http::request;

pub const APP_ID: &str = "app-id";
pub const APP_KEY: &str = "app-key";
pub const APP_SECRET: &str = "app-secret";

/// A server on free ports of the loopback. Ends with the test.
pub struct TestServer {
    server: Server,
}

impl TestServer {
    /// A server with Soketi's default app, where client events are allowed.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with changes to the configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.server.host = Ipv4Addr::LOCALHOST.into();
        config.server.port = 0;
        config.server.workers = 2;
        config.metrics.host = Ipv4Addr::LOCALHOST.into();
        config.metrics.port = 0;
        config.metrics.enabled = true;
        config.limits.enable_client_messages = true;
        config.apps = vec![AppEntry::new(APP_ID, APP_KEY, APP_SECRET)];
        change(&mut config);
        assert_eq!(config.validate(), Vec::<String>::new());
        Self { server: Server::start(&config).await.expect("the server starts") }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.server.metrics_address()
    }

    /// An established connection to the default app.
    pub async fn connect(&self) -> Client {
        self.connect_to(APP_KEY).await
    }

    /// An established connection to the app with this key.
    pub async fn connect_to(&self, key: &str) -> Client {
        let mut client = self.open(&format!("/app/{key}?protocol=7&client=js&version=8.6.0&flash=false")).await;
        client.established().await;
        client
    }

    /// A WebSocket on any path; nothing has been received yet.
    pub async fn open(&self, path_and_query: &str) -> Client {
        Client::open(self.address(), path_and_query, &[]).await
    }

    /// A WebSocket with further request headers.
    pub async fn open_with(&self, path_and_query: &str, headers: &[(&str, &str)]) -> Client {
        Client::open(self.address(), path_and_query, headers).await
    }

    /// The default app's back end.
    pub fn api(&self) -> Api {
        Api::new(self.address(), APP_ID, APP_KEY, APP_SECRET)
    }

    /// The back end of another app.
    pub fn api_of(&self, id: &str, key: &str, secret: &str) -> Api {
        Api::new(self.address(), id, key, secret)
    }

    /// What the default app's series of this name says now; 0 when there is none. Of those with a `cause`, name it.
    pub async fn metric(&self, name: &str, cause: Option<&str>) -> f64 {
        let text = request(self.metrics_address(), "GET", "/metrics", &[], b"").await.body;
        let cause = cause.map(|cause| format!("cause=\"{cause}\","));
        let start = format!("{name}{{app_id=\"{APP_ID}\",{}port=", cause.unwrap_or_default());
        let line = text.lines().find(|line| line.starts_with(&start));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Waits until that is so.
    pub async fn metric_becomes(&self, name: &str, cause: Option<&str>, value: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name, cause).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < until, "{name} {cause:?} is {now}, not {value}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops as SIGTERM would.
    pub async fn drain(self) -> Drained {
        self.server.drain().await
    }
}

/// A token of the default app for joining a channel, with or without `channel_data`.
pub fn channel_auth(socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
    let signed = match channel_data {
        Some(data) => format!("{socket_id}:{channel}:{data}"),
        None => format!("{socket_id}:{channel}"),
    };
    token(APP_KEY, APP_SECRET, &signed)
}

/// A token of the default app for signing in.
pub fn user_auth(socket_id: &str, user_data: &str) -> String {
    token(APP_KEY, APP_SECRET, &format!("{socket_id}::user::{user_data}"))
}

/// `key:signature`.
pub fn token(key: &str, secret: &str, signed: &str) -> String {
    format!("{key}:{}", Signer::new(secret.as_bytes()).sign(&[signed.as_bytes()]))
}
