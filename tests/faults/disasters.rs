//! The same random coming and going as in `crashes`, while Redis, the way to it or a node fails for a time.

use std::time::Duration;
use std::time::Instant;

use crate::crashes::NODES;
use crate::crashes::Run;
use crate::crashes::seeds;
use crate::crashes::side_by_side;
use support::bus::TestBus;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::NOTICED_MAX;
use support::node::Node;
use support::node::know_each_other;
use support::node::outlast;
use support::proxy::Proxy;

/// Channels of each test without a number of them in the environment.
const RUNS: usize = 40;

/// Longer than a lease: the others have buried the node by then.
const ASLEEP: Duration = Duration::from_secs(20);

/// Nodes with some channels; all reach Redis through one proxy.
struct World {
    bus: TestBus,
    proxy: Proxy,
    nodes: Vec<Option<Node>>,
    runs: Vec<Run>,
}

impl World {
    async fn start() -> Self {
        let (seed, count) = seeds(RUNS);
        let bus = TestBus::start().await;
        let proxy = Proxy::start(bus.port()).await;
        let nodes = Cluster::on(&bus).over(proxy.port()).nodes::<NODES>().await;
        let nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
        let runs = side_by_side((seed..seed + count).map(|seed| Run::start(seed, &nodes))).await;
        let mut world = Self { bus, proxy, nodes, runs };
        world.changes().await;
        world
    }

    async fn changes(&mut self) {
        side_by_side(self.runs.iter_mut().map(|run| run.change(&self.nodes))).await;
    }

    async fn all_know(&self, up: bool) {
        for node in self.nodes.iter().flatten() {
            node.bus_is(up, if up { BACK_MAX } else { NOTICED_MAX }).await;
        }
    }

    /// It is over: everything is as it should be in the end, even if it goes on in the meantime.
    async fn is_right(&mut self) {
        self.changes().await;
        self.all_know(true).await;
        know_each_other(self.nodes.iter().flatten()).await;
        self.changes().await;
        side_by_side(self.runs.iter().map(|run| run.is_right(&self.nodes))).await;
    }
}

pub async fn however_the_bus_fails_every_observer_ends_with_the_truth() {
    let mut world = World::start().await;
    world.bus.kill();
    world.changes().await;
    world.bus.restart().await;
    world.is_right().await;

    // It has kept what it knew.
    world.bus.pause();
    world.changes().await;
    world.all_know(false).await;
    world.changes().await;
    world.bus.resume();
    world.is_right().await;
}

pub async fn however_the_way_to_the_bus_fails_every_observer_ends_with_the_truth() {
    const CUTS: usize = 5;
    let mut world = World::start().await;
    for _ in 0..CUTS {
        world.proxy.cut();
        world.changes().await;
    }
    world.is_right().await;

    world.proxy.freeze();
    world.changes().await;
    world.all_know(false).await;
    world.changes().await;
    // What was on its way arrives, and the connections that it came over do not.
    world.proxy.thaw();
    world.proxy.cut();
    world.is_right().await;
}

pub async fn however_long_a_node_sleeps_every_observer_ends_with_the_truth() {
    let mut world = World::start().await;
    for asleep in [ASLEEP / 4, ASLEEP] {
        let began = Instant::now();
        let node = world.nodes[0].take().expect("all nodes run");
        node.pause();
        world.changes().await;
        outlast(began, asleep).await;
        world.changes().await;
        node.resume();
        world.nodes[0] = Some(node);
        world.is_right().await;
    }
}
