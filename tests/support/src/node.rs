//! Nodes of a cluster, each a process of its own.

use std::fmt::Debug;
use std::time::Duration;
use std::time::Instant;

use crate::barrier::Figures;
use crate::bus::Bus;
use crate::client::Client;
use crate::client::PATIENCE;
use crate::http;
use crate::http::Answer;
use crate::http::Api;
use crate::pace;
use crate::process::Process;
use crate::redis_server::cluster_name;
use crate::sequence::Listener;
use crate::sequence::Publisher;
use crate::server::APP_ID;
use crate::server::APP_KEY;
use crate::server::APP_SECRET;

/// A dead node's members have left everywhere after this time at the latest.
pub const GONE_MAX: Duration = Duration::from_secs(30);
/// A node has noticed after this time that the bus is away, however it went.
pub const NOTICED_MAX: Duration = Duration::from_secs(10);
/// A client gets its answer within this time, with the bus or without.
pub const ANSWERED_MAX: Duration = Duration::from_secs(2);
/// After this time everything is as it should be again once the bus, or a node, has come back.
pub const BACK_MAX: Duration = Duration::from_secs(10);
/// Takes the time of a debug build and of everything else that runs here into account; locally there is nothing to
/// wait for.
pub const LOCAL_MAX: Duration = Duration::from_millis(500);

/// How to reach the other nodes, and what else all nodes are told.
#[derive(Clone)]
pub struct Cluster {
    variables: Vec<(&'static str, String)>,
}

impl Cluster {
    pub fn on<'a>(bus: impl Into<Bus<'a>>) -> Self {
        let mut variables = bus.into().variables();
        variables.extend([
            ("GEMA_CLUSTER_NAME", cluster_name()),
            ("GEMA_METRICS_ENABLED", "true".to_owned()),
            ("GEMA_SERVER_WORKERS", "2".to_owned()),
            ("GEMA_SERVER_DRAIN_SECONDS", "1".to_owned()),
            ("GEMA_LOG_LEVEL", "debug".to_owned()),
            // Most clients of a test read nothing for long, so they answer no ping.
            ("GEMA_CONNECTIONS_PING_SECONDS", "86400".to_owned()),
        ]);
        Self { variables }
    }

    /// The same where something is different.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.retain(|(own, _)| *own != name);
        variables.push((name, value.to_owned()));
        Self { variables }
    }

    /// The same by another way, such as a proxy.
    pub fn over(&self, port: u16) -> Self {
        match self.variables.iter().any(|(name, _)| *name == "GEMA_NATS_SERVERS") {
            true => self.with("GEMA_NATS_SERVERS", &format!("127.0.0.1:{port}")),
            false => self.with("GEMA_REDIS_PORT", &port.to_string()),
        }
    }

    /// Where Redis tells the events of a channel.
    pub fn topic(&self, channel: &str) -> String {
        self.key(&format!("{{{APP_ID}:{channel}}}"))
    }

    /// A key of this cluster on Redis.
    pub fn key(&self, rest: &str) -> String {
        let name = self.variables.iter().find(|(name, _)| *name == "GEMA_CLUSTER_NAME").unwrap();
        format!("{}:{rest}", name.1)
    }

    /// Starts one node.
    pub async fn node(&self) -> Node {
        let variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Node(Process::start(&variables).await)
    }

    /// Starts so many; each knows of all others.
    pub async fn nodes<const COUNT: usize>(&self) -> [Node; COUNT] {
        let mut nodes = Vec::new();
        for _ in 0..COUNT {
            nodes.push(self.node().await);
        }
        know_each_other(&nodes).await;
        nodes.try_into().ok().expect("so many were started")
    }
}

/// Waits until each of these nodes knows of all of them, and of no other.
pub async fn know_each_other(nodes: impl IntoIterator<Item = &Node>) {
    let nodes: Vec<&Node> = nodes.into_iter().collect();
    for node in &nodes {
        node.becomes("gema_cluster_nodes", "", GONE_MAX, |now| now == nodes.len() as f64).await;
    }
}

/// A running node. Ends with the test.
pub struct Node(Process);

impl Node {
    /// The process itself.
    pub fn process(&self) -> &Process {
        &self.0
    }

    /// The same, for those who need nothing else.
    pub fn into_process(self) -> Process {
        self.0
    }

    /// An established connection.
    pub async fn connect(&self) -> Client {
        let mut client = Client::open(self.0.address, &format!("/app/{APP_KEY}?protocol=7"), &[]).await;
        client.established().await;
        client
    }

    /// A connection on a channel.
    pub async fn subscribed(&self, channel: &str) -> Client {
        let mut client = self.connect().await;
        client.subscribe(channel).await;
        client
    }

    /// A connection that is a member of a presence channel.
    pub async fn member(&self, channel: &str, user_id: &str) -> Client {
        let mut client = self.connect().await;
        client.join(channel, user_id).await;
        client
    }

    pub fn api(&self) -> Api {
        Api::new(self.0.address, APP_ID, APP_KEY, APP_SECRET)
    }

    pub async fn publisher(&self, channel: &str, source: &str) -> Publisher {
        Publisher::new(self.0.address, self.api(), channel, source).await
    }

    pub async fn listener(&self, channel: &str, sources: usize) -> Listener {
        Listener::start(self.subscribed(channel).await, sources)
    }

    pub async fn figures(&self) -> Figures {
        Figures::of(self.0.metrics_address).await
    }

    pub async fn becomes(&self, name: &str, label: &str, patience: Duration, so: impl Fn(f64) -> bool) -> f64 {
        Figures::become_so(self.0.metrics_address, name, label, patience, so).await
    }

    /// Waits until it knows that the bus is there, or that it is not.
    pub async fn bus_is(&self, up: bool, patience: Duration) {
        let is_so =
            async || Figures::of(self.0.metrics_address).await.sum("gema_redis_up", "") == f64::from(u8::from(up));
        let until = pace::now() + patience;
        while !is_so().await {
            assert!(
                pace::now() < until,
                "gema_redis_up is not {} after {patience:?}; the node has logged:\n{}",
                u8::from(up),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn ready(&self) -> Answer {
        http::request(self.0.address, "GET", "/ready", &[], b"").await
    }

    /// Users of a presence channel by id, sorted, as the back end is told.
    pub async fn users(&self, channel: &str) -> Vec<String> {
        let answer = self.api().get(&format!("/channels/{channel}/users"), &[]).await.ok();
        let users = answer["users"].as_array().unwrap().iter();
        let mut users: Vec<String> = users.map(|user| user["id"].as_str().unwrap().to_owned()).collect();
        users.sort();
        users
    }

    /// Connections on a channel.
    pub async fn subscriptions(&self, channel: &str) -> u64 {
        let info = [("info", "subscription_count")];
        let answer = self.api().get(&format!("/channels/{channel}"), &info).await.ok();
        answer["subscription_count"].as_u64().unwrap()
    }

    /// A connection on one channel, and an event on it: both take no longer than they may, whatever the bus does. Of
    /// some events the quickest counts: of the others the machine may be the cause.
    pub async fn serves_locally(&self, channel: &str) {
        const EVENTS: usize = 5;
        let mut client = in_time("a subscription", ANSWERED_MAX, self.subscribed(channel)).await;
        let mut took = Vec::new();
        while !took.iter().any(|took| *took < LOCAL_MAX) {
            assert!(took.len() < EVENTS, "local events took {took:?}");
            let began = Instant::now();
            self.api().publish(channel, "e", "1").await;
            client.next_event("e").await;
            took.push(began.elapsed());
        }
    }

    /// An event that this node accepts reaches a client of the other one. Before they know each other it may not.
    pub async fn reaches(&self, other: &Self, channel: &str) {
        let mut client = other.subscribed(channel).await;
        self.api().publish(channel, "e", "1").await;
        client.next_event("e").await;
        client.close().await;
    }

    /// As SIGSTOP does: it does nothing any more, but its connections stay.
    pub fn pause(&self) {
        self.0.signal("STOP");
    }

    pub fn resume(&self) {
        self.0.signal("CONT");
    }

    /// As SIGTERM does.
    pub async fn stop(self) {
        self.0.terminate();
        self.0.stopped().await;
    }

    /// As SIGKILL does.
    pub async fn kill(mut self) {
        self.0.child.kill().await.unwrap();
    }

    /// What it has logged, as one text.
    pub fn log(&self) -> String {
        self.0.log.lines().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Waits until it is so.
pub async fn eventually(what: &str, patience: Duration, mut so: impl AsyncFnMut() -> bool) {
    let until = pace::now() + patience;
    while !so().await {
        assert!(pace::now() < until, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until it is what it should be.
pub async fn becomes<T: PartialEq + Debug>(what: &str, patience: Duration, mut is: impl AsyncFnMut() -> T, should: T) {
    let until = pace::now() + patience;
    loop {
        let is = is().await;
        if is == should {
            return;
        }
        assert!(pace::now() < until, "{what}: {is:?} instead of {should:?} after {patience:?}");
        // Many may ask at the same time.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets so much time of an outage pass.
pub async fn outlast(began: Instant, time: Duration) {
    tokio::time::sleep_until((began + time).into()).await;
}

/// An answer to a question of a client that may take longer than usual, but not longer than `PATIENCE`.
pub async fn in_time<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    let began = pace::now();
    let done = tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} takes for ever"));
    let took = pace::now().saturating_sub(began);
    assert!(took < limit, "{what} took {took:?}");
    done
}
