//! All nodes of a run, and waiting for them.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use futures_util::future::join_all;
use gema::config::AppEntry;
use gema::config::Config;
use gema::protocol::channel::ChannelName;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use tokio::runtime::Runtime;

use crate::node::Client;
use crate::node::SimulatedNode;
use crate::servers::Servers;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often conditions are looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// The nodes of a run, with their Redis.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<SimulatedNode>,
    pub(crate) servers: Servers,
    config: Config,
    receiver: Option<Runtime>,
    /// Connections that stay.
    clients: Vec<Client>,
}

impl Fleet {
    /// Starts so many nodes with so many apps. `counted`: subscribers hear how many they are.
    pub(crate) async fn start(servers: Servers, (nodes, apps): (usize, usize), counted: bool) -> Result<Self> {
        let mut config = Config::default();
        config.connections.subscriptions_per_second = 0;
        config.connections.channels_max = 1_000_000;
        config.limits.max_presence_members_per_channel = 1_000_000;
        config.limits.enable_subscription_count = counted;
        let others = (1..apps).map(|app| AppEntry::new(&format!("app-{app}"), &format!("key-{app}"), "secret"));
        config.apps = [AppEntry::new(APP_ID, APP_KEY, APP_SECRET)].into_iter().chain(others).collect();
        servers.configure(&mut config);
        let receiver = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut fleet = Self { nodes: Vec::new(), servers, config, receiver: Some(receiver), clients: Vec::new() };
        fleet.add(nodes).await?;
        Ok(fleet)
    }

    /// Starts further nodes, and waits until all nodes know each other.
    pub(crate) async fn add(&mut self, nodes: usize) -> Result<()> {
        for _ in 0..nodes {
            let receiver = self.receiver.as_ref().expect("the fleet runs").handle();
            self.nodes.push(SimulatedNode::start(&self.config, receiver));
        }
        self.all_know_each_other().await
    }

    pub(crate) async fn all_know_each_other(&self) -> Result<()> {
        let count = self.nodes.len();
        until("all nodes know each other", || {
            self.nodes.iter().all(|node| node.cluster().is_linked() && node.known_nodes() == count)
        })
        .await?;
        self.settle().await
    }

    /// Waits until nothing is under way between the nodes and Redis.
    pub(crate) async fn settle(&self) -> Result<()> {
        for _ in 0..2 {
            until("nothing waits", || !self.nodes.iter().any(SimulatedNode::is_busy)).await?;
            tokio::time::sleep(4 * PAUSE).await;
        }
        Ok(())
    }

    /// Subscribes a connection of its own for each of these: a node, a channel and a user. Waits for all answers. The last
    /// connections may be taken with [`Fleet::take_clients`]; the others stay.
    pub(crate) async fn join(&mut self, joins: impl Iterator<Item = (usize, String, String)>) -> Result<()> {
        let mut expected = self.joins();
        for (node, channel, user_id) in joins {
            let mut client = self.nodes[node].connect();
            self.nodes[node].subscribe(&mut client, &channel, &user_id);
            self.clients.push(client);
            expected[node] += 1;
        }
        until("all joins are answered", || self.joins() == expected).await?;
        self.settle().await
    }

    fn joins(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.received().joins.load(Ordering::Relaxed)).collect()
    }

    /// The connections that have joined last.
    pub(crate) fn take_clients(&mut self, count: usize) -> Vec<Client> {
        self.clients.split_off(self.clients.len() - count)
    }

    /// Publishes so many events on one node, and waits until each of these nodes has them.
    pub(crate) async fn publish(
        &self,
        node: usize,
        channel: &str,
        (events, listeners): (usize, &[usize]),
    ) -> Result<()> {
        let name = ChannelName::parse(channel, usize::MAX)?;
        let count = |node: usize| self.nodes[node].received().events.load(Ordering::Relaxed);
        let expected: Vec<(usize, usize)> = listeners.iter().map(|&node| (node, count(node) + events)).collect();
        for _ in 0..events {
            self.nodes[node].publish(&name);
        }
        until("all events have arrived", || expected.iter().all(|&(node, events)| count(node) >= events)).await?;
        self.settle().await
    }

    /// Ends all nodes as they end when they are stopped.
    pub(crate) async fn end(mut self) {
        join_all(std::mem::take(&mut self.nodes).into_iter().map(SimulatedNode::stop)).await;
    }
}

impl Drop for Fleet {
    /// A runtime that is dropped waits for its threads, which tokio forbids here.
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.shutdown_background();
        }
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > end {
            bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
