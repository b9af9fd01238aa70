//! A real server for one test, and what its application would do.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::AppEntry;
use gema::config::Config;
use gema::protocol::signature::Signer;
use gema::server::Drained;
use gema::server::Server;

use crate::barrier::Barrier;
use crate::barrier::Figures;
use crate::bus::Bus;
use crate::certificates::Authority;
use crate::client::Client;
use crate::client::PATIENCE;
use crate::http::Api;
use crate::redis_server::cluster_name;
use crate::tunnel::Tunnel;

pub const APP_ID: &str = "app-id";
pub const APP_KEY: &str = "app-key";
pub const APP_SECRET: &str = "app-secret";

/// A server on free ports of the loopback. Ends with the test.
///
/// With `GEMA_TEST_NODES=2` in the environment it consists of two nodes, and connections and API calls go to one
/// after the other, so that every test is one of several nodes, too; with `GEMA_TEST_BUS=nats` they meet in NATS. With `GEMA_TEST_TLS=1` its main port speaks TLS,
/// and everybody gets there through a tunnel.
pub struct TestServer {
    config: Config,
    nodes: Vec<Server>,
    /// To each node, where they speak TLS.
    tunnels: Vec<Tunnel>,
    cluster: String,
    barrier: Option<Arc<Barrier>>,
    /// Counts connections.
    connections: AtomicUsize,
    /// Counts API calls. It starts at the second node: what the first connection made happen is to be seen there.
    calls: Arc<AtomicUsize>,
}

impl TestServer {
    /// A server with Soketi's default app, where client events are allowed.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with changes to the configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        match nodes() {
            0 | 1 => Self::start_single_with(change).await,
            nodes => Self::start_cluster_with(nodes, change).await,
        }
    }

    /// One node, whatever the environment says: for tests of what each node does for itself.
    pub async fn start_single() -> Self {
        Self::start_single_with(|_| ()).await
    }

    /// The same with changes to the configuration.
    pub async fn start_single_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = configuration();
        change(&mut config);
        let nodes = vec![start(&config).await];
        Self {
            tunnels: tunnels(&nodes, &config),
            nodes,
            config,
            cluster: String::new(),
            barrier: None,
            connections: AtomicUsize::new(0),
            calls: Arc::default(),
        }
    }

    /// So many nodes on the bus that all tests share.
    pub async fn start_cluster(nodes: usize) -> Self {
        Self::start_cluster_with(nodes, |_| ()).await
    }

    /// The same with changes to the configuration.
    pub async fn start_cluster_with(nodes: usize, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_cluster_on(Bus::shared().await, nodes, change).await
    }

    /// The same on a bus of the test's own.
    pub async fn start_cluster_on<'a>(bus: impl Into<Bus<'a>>, count: usize, change: impl FnOnce(&mut Config)) -> Self {
        let (bus, cluster) = (bus.into(), cluster_name());
        let mut config = configuration();
        bus.configure(&mut config, &cluster);
        change(&mut config);
        let nodes = join_all((0..count).map(|_| start(&config))).await;
        let server = Self {
            barrier: Some(Arc::new(Barrier::new(metrics_ports(&nodes), bus, &cluster).await)),
            tunnels: tunnels(&nodes, &config),
            config,
            nodes,
            cluster,
            connections: AtomicUsize::new(0),
            calls: Arc::new(AtomicUsize::new(1)),
        };
        for node in 0..count {
            server.figure_becomes(node, "gema_cluster_nodes", "", count as f64).await;
        }
        server
    }

    /// Changes the configuration as SIGHUP would, on all nodes.
    pub async fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        for node in &self.nodes {
            // A certificate that cannot be used changes nothing.
            let _ = node.reload(&self.config).await;
        }
    }

    /// How many there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The first node's.
    pub fn address(&self) -> SocketAddr {
        self.address_at(0)
    }

    /// The first node's.
    pub fn metrics_address(&self) -> SocketAddr {
        self.nodes[0].metrics_address()
    }

    /// Each node's.
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        metrics_ports(&self.nodes)
    }

    /// Where clients without TLS connect.
    pub fn address_at(&self, node: usize) -> SocketAddr {
        self.tunnels.get(node).map_or_else(|| self.nodes[node].address(), Tunnel::address)
    }

    /// The first node's main port itself.
    pub fn port(&self) -> SocketAddr {
        self.nodes[0].address()
    }

    /// The name that the nodes of this server have in common.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// An established connection to the default app.
    pub async fn connect(&self) -> Client {
        self.connect_to(APP_KEY).await
    }

    /// An established connection to the app with this key.
    pub async fn connect_to(&self, key: &str) -> Client {
        self.established(self.next_node(), key).await
    }

    /// An established connection to the default app on this node.
    pub async fn connect_at(&self, node: usize) -> Client {
        self.established(node, APP_KEY).await
    }

    async fn established(&self, node: usize, key: &str) -> Client {
        let path = format!("/app/{key}?protocol=7&client=js&version=8.6.0&flash=false");
        let mut client = self.open_at(node, &path, &[]).await;
        client.established().await;
        client
    }

    /// A WebSocket on any path; nothing has been received yet.
    pub async fn open(&self, path_and_query: &str) -> Client {
        self.open_with(path_and_query, &[]).await
    }

    /// A WebSocket with further request headers.
    pub async fn open_with(&self, path_and_query: &str, headers: &[(&str, &str)]) -> Client {
        self.open_at(self.next_node(), path_and_query, headers).await
    }

    async fn open_at(&self, node: usize, path_and_query: &str, headers: &[(&str, &str)]) -> Client {
        self.quiet().await;
        let mut client = Client::open(self.address_at(node), path_and_query, headers).await;
        client.barrier.clone_from(&self.barrier);
        client
    }

    fn next_node(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed) % self.nodes.len()
    }

    /// The default app's back end.
    pub fn api(&self) -> Api {
        self.api_of(APP_ID, APP_KEY, APP_SECRET)
    }

    /// The back end of another app.
    pub fn api_of(&self, id: &str, key: &str, secret: &str) -> Api {
        let addresses = (0..self.nodes.len()).map(|node| self.address_at(node)).collect();
        let api = Api::new(self.address(), id, key, secret);
        api.at_nodes(addresses, Arc::clone(&self.calls), self.barrier.clone())
    }

    /// The default app's back end, at one node and without waiting for what is on its way between the nodes.
    pub fn api_at(&self, node: usize) -> Api {
        Api::new(self.address_at(node), APP_ID, APP_KEY, APP_SECRET)
    }

    /// Waits until whatever has been accepted on any node has been handled on all of them.
    pub async fn quiet(&self) {
        if let Some(barrier) = &self.barrier {
            barrier.pass().await;
        }
    }

    /// What the default app's series of this name says now, on all nodes together; 0 when there is none. Of those
    /// with a `cause`, name it.
    pub async fn metric(&self, name: &str, cause: Option<&str>) -> f64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            let figures = Figures::of(node.metrics_address()).await;
            sum += figures.of_app(name, APP_ID, cause).unwrap_or_default();
        }
        sum
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

    /// What one node's series of this name with this label say now, such as `direction="in"`.
    pub async fn figure(&self, node: usize, name: &str, label: &str) -> f64 {
        Figures::of(self.nodes[node].metrics_address()).await.sum(name, label)
    }

    /// Waits until that is so.
    pub async fn figure_becomes(&self, node: usize, name: &str, label: &str, value: f64) {
        Figures::become_so(self.nodes[node].metrics_address(), name, label, PATIENCE, |now| now == value).await;
    }

    /// Stops one node, as SIGTERM would; those behind it move up.
    pub async fn drain_at(&mut self, node: usize) -> Drained {
        self.nodes.remove(node).drain().await
    }

    /// Stops as SIGTERM would; several nodes at the same time.
    pub async fn drain(mut self) -> Drained {
        let all = join_all(std::mem::take(&mut self.nodes).into_iter().map(Server::drain)).await;
        let together = |a: Drained, b: Drained| Drained {
            connections: a.connections + b.connections,
            left: a.left + b.left,
            took: a.took.max(b.took),
        };
        all.into_iter().reduce(together).expect("there is a node")
    }
}

impl Drop for TestServer {
    /// A server by itself is idle after its test. Nodes would go on to tell each other that they live.
    fn drop(&mut self) {
        if self.barrier.is_some() && !self.nodes.is_empty() {
            let nodes = std::mem::take(&mut self.nodes);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(join_all(nodes.into_iter().map(Server::drain)));
            });
        }
    }
}

/// The authority of every server that speaks TLS.
pub fn authority() -> &'static Authority {
    static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::self_signed);
    &AUTHORITY
}

fn tunnels(nodes: &[Server], config: &Config) -> Vec<Tunnel> {
    let nodes = nodes.iter().filter(|_| config.tls.is_enabled());
    let trust = Arc::new(authority().client());
    nodes.map(|node| Tunnel::start(node.address(), Arc::clone(&trust))).collect()
}

/// How many nodes a server has that is one to its test.
fn nodes() -> usize {
    std::env::var("GEMA_TEST_NODES").map_or(1, |nodes| nodes.parse().expect("GEMA_TEST_NODES is a number"))
}

fn configuration() -> Config {
    let mut config = Config::default();
    config.server.host = Ipv4Addr::LOCALHOST.into();
    config.server.port = 0;
    config.server.workers = 2;
    config.metrics.host = Ipv4Addr::LOCALHOST.into();
    config.metrics.port = 0;
    config.metrics.enabled = true;
    config.limits.enable_client_messages = true;
    if std::env::var_os("GEMA_TEST_TLS").is_some() {
        config.tls = authority().issue();
    }
    config.apps = vec![AppEntry::new(APP_ID, APP_KEY, APP_SECRET)];
    config
}

async fn start(config: &Config) -> Server {
    assert_eq!(config.validate(), []);
    Server::start(config).await.expect("the server starts")
}

fn metrics_ports(nodes: &[Server]) -> Vec<SocketAddr> {
    nodes.iter().map(Server::metrics_address).collect()
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
