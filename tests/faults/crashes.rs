//! Members come and go at random on three nodes, which crash and come back at random: in the end everybody knows who is
//! there, and nobody has been told anything that cannot be.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::stream;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use support::bus::TestBus;
use support::client::Client;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::Node;
use support::node::becomes;
use support::node::eventually;
use support::node::know_each_other;
use support::observer::Observer;

pub const NODES: usize = 3;
const USERS: u8 = 6;
/// What happens on a channel between two crashes.
const STEPS: usize = 12;
const CRASHES: usize = 2;
/// Channels without a number of them in the environment. Each is a run of its own; all suffer the same crashes.
const RUNS: usize = 200;

/// One channel with members and observers.
pub struct Run {
    channel: String,
    random: StdRng,
    /// By node.
    observers: Vec<Option<Observer>>,
    /// The crash that each of them came after.
    came_after: [usize; NODES],
    members: Vec<Member>,
}

struct Member {
    node: usize,
    user: String,
    client: Client,
}

impl Run {
    pub async fn start(seed: u64, nodes: &[Option<Node>]) -> Self {
        let channel = format!("presence-{seed}");
        let random = StdRng::seed_from_u64(seed);
        let observers = (0..NODES).map(|_| None).collect();
        let mut run = Self { channel, random, observers, came_after: [0; NODES], members: Vec::new() };
        for node in 0..NODES {
            run.observe(node, nodes, 0).await;
        }
        run
    }

    async fn observe(&mut self, node: usize, nodes: &[Option<Node>], crash: usize) {
        self.came_after[node] = crash;
        let user = format!("observer-{node}");
        self.observers[node] = Some(Observer::start(nodes[node].as_ref().unwrap(), &self.channel, &user).await);
    }

    /// Some come, some go, on all nodes that there are.
    pub async fn change(&mut self, nodes: &[Option<Node>]) {
        for _ in 0..STEPS {
            if self.members.is_empty() || self.random.random_bool(0.6) {
                let node = self.random.random_range(0..NODES);
                let Some(running) = &nodes[node] else { continue };
                let user = format!("user-{}", self.random.random_range(0..USERS));
                let client = running.member(&self.channel, &user).await;
                self.members.push(Member { node, user, client });
            } else {
                let index = self.random.random_range(0..self.members.len());
                if nodes[self.members[index].node].is_none() {
                    continue;
                }
                let mut gone = self.members.swap_remove(index);
                match self.random.random_range(0..3) {
                    0 => gone.client.unsubscribe(&self.channel).await,
                    1 => gone.client.close().await,
                    _ => drop(gone),
                }
            }
        }
    }

    /// In the moment of a crash some are just about to come or to leave there.
    async fn change_on(&mut self, dying: usize, node: &Node) {
        let mut late = node.connect().await;
        let channel_data = serde_json::json!({ "user_id": "late" }).to_string();
        late.send_subscribe(&self.channel, Some(&channel_data)).await;
        self.members.push(Member { node: dying, user: "late".to_owned(), client: late });
        for member in self.members.iter_mut().filter(|member| member.node == dying) {
            if self.random.random_bool(0.3) {
                member.client.unsubscribe(&self.channel).await;
            }
        }
    }

    fn lose(&mut self, node: usize) {
        self.observers[node] = None;
        self.members.retain(|member| member.node != node);
    }

    /// Who has been there for the same time has been told the same.
    async fn was_told_the_same(&self) {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            if self.came_after[one] == self.came_after[other] {
                let told = |node: usize| {
                    let mut news = self.observers[node].as_ref().unwrap().all_news();
                    // They saw each other come, or not.
                    news.retain(|user, _| !user.starts_with("observer-"));
                    news
                };
                let what = format!(
                    "on {} nodes {one} and {other} tell the same: {:?} {:?}",
                    self.channel,
                    told(one),
                    told(other)
                );
                eventually(&what, BACK_MAX, async || told(one) == told(other)).await;
            }
        }
    }

    /// Waits until everybody knows the truth.
    pub async fn is_right(&self, nodes: &[Option<Node>]) {
        let observers = (0..NODES).filter(|node| self.observers[*node].is_some());
        let present: BTreeSet<String> = self.members.iter().map(|member| member.user.clone()).collect();
        let present: Vec<String> = observers.map(|node| format!("observer-{node}")).chain(present).collect();
        let mut sorted = present.clone();
        sorted.sort();
        for (observer, node) in self.observers.iter().zip(nodes) {
            let (Some(observer), Some(node)) = (observer, node) else { continue };
            observer.sees(&present, GONE_MAX).await;
            let what = format!("the list of {}", self.channel);
            becomes(&what, GONE_MAX, async || node.users(&self.channel).await, sorted.clone()).await;
            let connections = self.members.len() + self.observers.iter().flatten().count();
            let what = format!("the count of {}", self.channel);
            becomes(&what, GONE_MAX, async || node.subscriptions(&self.channel).await, connections as u64).await;
        }
    }
}

/// Does all of this, so much of it at a time that two cores still answer everybody within a client's patience.
pub async fn side_by_side<T>(work: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    const AT_A_TIME: usize = 32;
    stream::iter(work).buffered(AT_A_TIME).collect().await
}

/// The first seed and the number of runs: from the environment, or this number and a new seed.
pub fn seeds(runs: usize) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = number("GEMA_TEST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let count = number("GEMA_TEST_RUNS").unwrap_or(runs as u64);
    println!("{count} runs; to see the same again: GEMA_TEST_SEED={seed} GEMA_TEST_RUNS={count}");
    (seed, count)
}

pub async fn however_nodes_crash_every_observer_ends_with_the_truth() {
    let (seed, count) = seeds(RUNS);
    let mut random = StdRng::seed_from_u64(seed);
    let bus = TestBus::start().await;
    let cluster = Cluster::on(&bus);
    let mut nodes: Vec<Option<Node>> = cluster.nodes::<NODES>().await.into_iter().map(Some).collect();
    let mut runs = side_by_side((seed..seed + count).map(|seed| Run::start(seed, &nodes))).await;
    for crash in 1..=CRASHES {
        side_by_side(runs.iter_mut().map(|run| run.change(&nodes))).await;
        let dying = random.random_range(0..NODES);
        let node = nodes[dying].take().expect("all nodes run");
        side_by_side(runs.iter_mut().map(|run| run.change_on(dying, &node))).await;
        // The observers there end with it.
        for run in &mut runs {
            run.observers[dying] = None;
        }
        node.kill().await;
        for run in &mut runs {
            run.lose(dying);
        }
        // The others go on before they know of it.
        side_by_side(runs.iter_mut().map(|run| run.change(&nodes))).await;
        let early = random.random_bool(0.5);
        if !early {
            know_each_other(nodes.iter().flatten()).await;
            side_by_side(runs.iter().map(|run| run.is_right(&nodes))).await;
        }
        nodes[dying] = Some(cluster.node().await);
        know_each_other(nodes.iter().flatten()).await;
        side_by_side(runs.iter_mut().map(|run| run.observe(dying, &nodes, crash))).await;
        side_by_side(runs.iter_mut().map(|run| run.change(&nodes))).await;
        side_by_side(runs.iter().map(|run| run.is_right(&nodes))).await;
        for run in &runs {
            run.was_told_the_same().await;
        }
    }
}
