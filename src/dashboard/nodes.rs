//! The other nodes of a cluster, as their pages tell: a status of each in Redis every two seconds.
//! `Dashboard::run_with_others` keeps the table; the state, the sampler and the searches read it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::cluster::NodeStatus;
use crate::dashboard::Dashboard;
use crate::dashboard::now::Now;
use crate::dashboard::problem::ShownProblem;
use crate::dashboard::status::Status;
use crate::protocol::envelope::NodeId;
use crate::watch::now_ms;

/// How often a status is written and the others are read.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// A node whose status is older has hung, or is cut off.
const LOST_AFTER: Duration = Duration::from_secs(7);
/// How long a lost node is shown, unless another one takes its place before.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Lost nodes that are shown: more of them say nothing new.
const LOST_MAX: usize = 50;
/// How long the last status may take.
const LAST_STATUS_TIME: Duration = Duration::from_millis(300);

/// The other nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    others: BTreeMap<NodeId, OtherNode>,
    /// Grows with each look at Redis.
    version: u64,
}

/// Another node.
#[derive(Debug, Clone)]
struct OtherNode {
    /// Its last status; `None` if it has no page.
    status: Option<Status>,
    /// When that was new.
    reported: Instant,
    reported_ms: u64,
    /// It was among the living at the last look.
    is_live: bool,
    /// Another node has started in its place.
    is_replaced: bool,
}

impl OtherNode {
    fn is_lost(&self, now: Instant) -> bool {
        let is_silent = self.status.is_some() && now.saturating_duration_since(self.reported) >= LOST_AFTER;
        !self.is_live || is_silent
    }

    /// Whether the page shows it.
    fn is_shown(&self, now: Instant) -> bool {
        !(self.is_replaced && self.is_lost(now))
    }

    fn is_draining(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.draining)
    }

    fn name(&self, id: NodeId) -> String {
        self.status.as_ref().map_or_else(|| id.to_string(), |status| status.name.clone())
    }
}

impl Nodes {
    /// Grows with each look at Redis.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether there is such a node.
    pub(super) fn is_known(&self, id: NodeId) -> bool {
        self.others.contains_key(&id)
    }

    /// The nodes that are listed.
    fn known(&self) -> Vec<NodeId> {
        self.others.keys().copied().collect()
    }

    /// Takes what Redis has of the nodes. `own` is this node.
    fn update(&mut self, statuses: Vec<NodeStatus>, own: &Status, now: Instant) {
        self.version += 1;
        for node in self.others.values_mut() {
            node.is_live = false;
        }
        for NodeStatus { node: id, is_live, status } in statuses {
            let status = status.and_then(|text| Status::parse(&text));
            let new = || OtherNode { status: None, reported: now, reported_ms: now_ms(), is_live, is_replaced: false };
            let node = self.others.entry(id).or_insert_with(new);
            node.is_live = is_live;
            let Some(status) = status else { continue };
            if node.status.as_ref().is_none_or(|before| before.at_ms != status.at_ms) {
                (node.reported, node.reported_ms) = (now, now_ms());
            }
            node.status = Some(status);
        }
        // A node that has drained has left as it should.
        self.others.retain(|_, node| {
            node.is_live || (!node.is_draining() && now.saturating_duration_since(node.reported) < FORGOTTEN_AFTER)
        });
        self.find_replaced(own, now);
        self.forget_lost(now);
    }

    /// A node that was killed comes back with another id: it has the same name and address, and has started since.
    fn find_replaced(&mut self, own: &Status, now: Instant) {
        let is_replaced = |status: &Status| {
            let up = self.others.values().filter(|node| !node.is_lost(now)).filter_map(|node| node.status.as_ref());
            up.chain([own]).any(|other| other.replaces(status))
        };
        let lost = self.others.iter().filter(|(_, node)| node.is_lost(now));
        let replaced = lost.filter(|(_, node)| node.status.as_ref().is_some_and(is_replaced));
        let replaced: BTreeSet<NodeId> = replaced.map(|(id, _)| *id).collect();
        for (id, node) in &mut self.others {
            node.is_replaced = replaced.contains(id);
        }
        self.others.retain(|_, node| node.is_live || !node.is_replaced);
    }

    /// Forgets the longest lost nodes if there are many.
    fn forget_lost(&mut self, now: Instant) {
        let gone = self.others.iter().filter(|(_, node)| node.is_lost(now) && !node.is_live);
        let mut gone: Vec<(Instant, NodeId)> = gone.map(|(id, node)| (node.reported, *id)).collect();
        gone.sort_unstable();
        let over = gone.len().saturating_sub(LOST_MAX);
        let forgotten: BTreeSet<NodeId> = gone.into_iter().take(over).map(|(_, id)| id).collect();
        self.others.retain(|id, _| !forgotten.contains(id));
    }

    /// The figures of the nodes that report.
    pub(super) fn figures(&self, now: Instant) -> Vec<Now> {
        let up = self.others.values().filter(|node| !node.is_lost(now));
        up.filter_map(|node| Some(node.status.as_ref()?.now.clone())).collect()
    }

    /// How many nodes report, and the names of those that do not any more.
    pub(super) fn counts(&self, now: Instant) -> (usize, Vec<String>) {
        let shown: Vec<(&NodeId, &OtherNode)> = self.others.iter().filter(|(_, node)| node.is_shown(now)).collect();
        let lost = shown.iter().filter(|(_, node)| node.is_lost(now));
        let lost: Vec<String> = lost.map(|(id, node)| node.name(**id)).collect();
        (shown.len() - lost.len(), lost)
    }

    /// The nodes for the page.
    pub(super) fn shown(&self, now: Instant) -> Vec<Value> {
        let shown_nodes = self.others.iter().filter(|(_, node)| node.is_shown(now));
        shown_nodes.map(|(id, node)| shown(*id, node, now)).collect()
    }

    /// The problems of the other nodes.
    pub(super) fn problems(&self) -> Vec<ShownProblem> {
        let statuses = self.others.values().filter_map(|node| node.status.as_ref());
        statuses.flat_map(|status| status.problems.iter().cloned()).collect()
    }

    /// The nodes whose pages can be asked.
    pub(super) fn asked(&self, now: Instant) -> Vec<NodeId> {
        self.others.iter().filter(|(_, node)| node.status.is_some() && !node.is_lost(now)).map(|(id, _)| *id).collect()
    }
}

/// A node for the page. One without a page of its own has an id and a state only.
fn shown(id: NodeId, node: &OtherNode, now: Instant) -> Value {
    let state = match () {
        () if node.is_lost(now) => "lost",
        () if node.is_draining() => "draining",
        () => "up",
    };
    let status = node.status.as_ref();
    json!({
        "id": id.to_string(),
        "name": node.name(id),
        "this": false,
        "state": state,
        "seen_ms": node.reported_ms,
        "address": status.map(|status| &status.address),
        "version": status.map(|status| &status.version),
        "started_ms": status.map(|status| status.started_ms),
        "connections": status.map(|status| status.connections),
        "channels": status.map(|status| status.channels),
        "events_per_second": status.map(|status| status.events_per_second),
        "deliveries_per_second": status.map(|status| status.deliveries_per_second),
        "cpu": status.map(|status| status.cpu),
        "memory_bytes": status.map(|status| status.memory_bytes),
    })
}

impl Dashboard {
    /// Tells the pages of the other nodes about this one, and answers their questions, until `stop`.
    pub async fn run_with_others(self: Arc<Self>, stop: CancellationToken) {
        let Some(cluster) = self.node().cluster().cloned() else { return };
        let questions = cluster.page_questions();
        let mut interval = tokio::time::interval(STATUS_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let work = async {
            tokio::join!(
                async {
                    loop {
                        interval.tick().await;
                        self.exchange(&cluster).await;
                    }
                },
                self.answer_all(&cluster, questions),
            )
        };
        stop.run_until_cancelled(work).await;
    }

    async fn exchange(&self, cluster: &Cluster) {
        let own = self.status();
        cluster.write_status(&text(&own)).await;
        let known = self.nodes.lock().known();
        let statuses = cluster.statuses(&known).await;
        // Without Redis nothing is known of the others, which the sentence tells.
        if let Some(statuses) = statuses {
            self.nodes.lock().update(statuses, &own, Instant::now());
        }
    }

    /// Tells the others at once that this node drains.
    pub async fn announce_draining(&self) {
        if let Some(cluster) = self.node().cluster() {
            let told = async { cluster.write_status(&text(&self.status())).await };
            let _ = tokio::time::timeout(LAST_STATUS_TIME, told).await;
        }
    }
}

fn text(status: &Status) -> String {
    serde_json::to_string(status).expect("a status always becomes JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(at_ms: u64, draining: bool) -> Option<String> {
        let now = json!({ "connections": 3 });
        Some(json!({ "name": "web-2", "at_ms": at_ms, "draining": draining, "now": now }).to_string())
    }

    fn own() -> Status {
        Status { name: "web-1".to_owned(), ..Status::default() }
    }

    fn live(node: NodeId, status: Option<String>) -> NodeStatus {
        NodeStatus { node, is_live: true, status }
    }

    fn gone(node: NodeId, status: Option<String>) -> NodeStatus {
        NodeStatus { node, is_live: false, status }
    }

    #[test]
    fn a_node_that_hangs_or_vanishes_is_lost_and_one_that_drains_is_not() {
        let (mut nodes, begin) = (Nodes::default(), Instant::now());
        let [hangs, drains, leaves, bare] = [(); 4].map(|()| NodeId::random());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let all = [(hangs, false), (drains, true), (leaves, false)].map(|(node, drains)| live(node, status(1, drains)));
        nodes.update(all.into_iter().chain([live(bare, None)]).collect(), &own(), begin);
        assert_eq!(nodes.counts(at(1)), (4, vec![]));
        assert_eq!(nodes.figures(at(1)).iter().map(|now| now.connections).sum::<u64>(), 9);
        // The first says nothing new. The second is gone, and the third drained and left between two looks. The last has
        // no page.
        let left = gone(leaves, status(2, true));
        nodes.update(vec![live(hangs, status(1, false)), gone(drains, None), left, live(bare, None)], &own(), at(8));
        assert_eq!(nodes.counts(at(8)), (1, vec!["web-2".to_owned()]));
        let states: Vec<Value> = nodes.shown(at(8)).iter().map(|node| node["state"].clone()).collect();
        assert!(states.contains(&json!("lost")) && states.contains(&json!("up")) && states.len() == 2);
        nodes.update(vec![live(hangs, status(2, false)), live(bare, None)], &own(), at(9));
        assert_eq!(nodes.counts(at(9)), (2, vec![]));
        nodes.update(vec![gone(hangs, status(2, false))], &own(), at(10));
        assert_eq!(nodes.counts(at(10)).1.len(), 2);
        nodes.update(vec![], &own(), at(10 + 600));
        assert_eq!(nodes.counts(at(610)), (0, vec![]));
    }

    #[test]
    fn a_node_that_is_back_takes_the_place_of_the_one_that_was_killed() {
        let (mut nodes, begin) = (Nodes::default(), Instant::now());
        let [old, new, third] = [(); 3].map(|()| NodeId::random());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let status = |name: &str, started_ms: u64, at_ms: u64| {
            Some(
                json!({ "name": name, "address": "0.0.0.0:6001", "started_ms": started_ms, "at_ms": at_ms })
                    .to_string(),
            )
        };
        let seen = |seconds: u64| status("web-2", 100, 1000 + seconds);
        nodes.update(vec![live(old, seen(0)), live(third, status("web-3", 100, 1000))], &own(), begin);
        // It is killed. Its lease and status last for some time, also beside the new node.
        nodes.update(vec![live(old, seen(0)), live(third, status("web-3", 100, 1008))], &own(), at(8));
        assert_eq!(nodes.counts(at(8)), (1, vec!["web-2".to_owned()]));
        let others = |seconds: u64| {
            [live(new, status("web-2", 9000, 9000 + seconds)), live(third, status("web-3", 100, 1000 + seconds))]
        };
        nodes.update(others(10).into_iter().chain([live(old, seen(0))]).collect(), &own(), at(10));
        assert_eq!((nodes.counts(at(10)), nodes.shown(at(10)).len()), ((2, vec![]), 2));
        nodes.update(others(40).into_iter().collect(), &own(), at(40));
        assert!(!nodes.is_known(old));
        // On its own page, the node that is back does not see its forerunner, either.
        let own = Status::parse(&status("web-3", 20_000, 20_000).unwrap()).unwrap();
        nodes.update(vec![live(new, status("web-2", 9000, 9050))], &own, at(50));
        assert_eq!((nodes.counts(at(50)), nodes.is_known(third)), ((1, vec![]), false));
    }

    #[test]
    fn lost_nodes_are_bounded_and_the_newest_are_shown() {
        let (mut nodes, begin) = (Nodes::default(), Instant::now());
        for number in 0..200 {
            let node = live(NodeId::random(), status(number, false));
            nodes.update(vec![node], &own(), begin + Duration::from_secs(number));
        }
        assert_eq!(nodes.others.len(), 1 + LOST_MAX);
        let now = begin + Duration::from_secs(200);
        assert!(nodes.others.values().all(|node| now - node.reported < Duration::from_secs(60)));
    }
}
