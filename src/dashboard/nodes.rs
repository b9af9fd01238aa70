//! The nodes of a cluster, as their pages tell each other: a status in Redis every two seconds, and questions over the
//! bus.
//! `Dashboard::run_with_others` keeps the table; the state, the sampler and the searches read it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::cluster::NodeStatus;
use crate::dashboard::Dashboard;
use crate::dashboard::answer::Failure;
use crate::dashboard::connections;
use crate::dashboard::now::Now;
use crate::dashboard::state;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::PageMessage;
use crate::registry::connections::Wanted;
use crate::watch::now_ms;

/// How often a status is written and the others are read.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// A node whose status is older has hung, or is cut off.
const LOST_AFTER: Duration = Duration::from_secs(7);
/// How long a lost node is shown.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Problems in a status: the newest.
const PROBLEMS_MAX: usize = 50;
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
    /// Its last status; null if it has no page.
    status: Value,
    /// When that was new.
    reported: Instant,
    reported_ms: u64,
    /// It was among the living at the last look.
    is_live: bool,
}

impl OtherNode {
    fn is_lost(&self, now: Instant) -> bool {
        let is_silent = !self.status.is_null() && now.saturating_duration_since(self.reported) >= LOST_AFTER;
        !self.is_live || is_silent
    }

    fn is_draining(&self) -> bool {
        self.status["draining"] == true
    }
}

impl Nodes {
    /// Grows with each look at Redis.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The nodes that are listed.
    fn known(&self) -> Vec<NodeId> {
        self.others.keys().copied().collect()
    }

    /// Takes what Redis has of the nodes.
    fn update(&mut self, statuses: Vec<NodeStatus>, now: Instant) {
        self.version += 1;
        for node in self.others.values_mut() {
            node.is_live = false;
        }
        for NodeStatus { node: id, is_live, status } in statuses {
            let status = status.and_then(|text| serde_json::from_str(&text).ok()).filter(Value::is_object);
            let new = || OtherNode { status: Value::Null, reported: now, reported_ms: now_ms(), is_live };
            let node = self.others.entry(id).or_insert_with(new);
            node.is_live = is_live;
            let Some(status) = status else { continue };
            if status["at_ms"] != node.status["at_ms"] {
                (node.reported, node.reported_ms) = (now, now_ms());
            }
            node.status = status;
        }
        // A node that has drained has left as it should.
        self.others.retain(|_, node| {
            node.is_live || (!node.is_draining() && now.saturating_duration_since(node.reported) < FORGOTTEN_AFTER)
        });
    }

    /// The figures of the nodes that report.
    pub(super) fn figures(&self, now: Instant) -> Vec<Now> {
        let up = self.others.values().filter(|node| !node.is_lost(now));
        up.filter_map(|node| serde_json::from_value(node.status["now"].clone()).ok()).collect()
    }

    /// How many nodes report, and the names of those that do not any more.
    pub(super) fn counts(&self, now: Instant) -> (usize, Vec<String>) {
        let lost = self.others.iter().filter(|(_, node)| node.is_lost(now));
        let lost: Vec<String> = lost.map(|(id, node)| name(*id, node)).collect();
        (self.others.len() - lost.len(), lost)
    }

    /// The nodes for the page.
    pub(super) fn shown(&self, now: Instant) -> Vec<Value> {
        self.others.iter().map(|(id, node)| shown(*id, node, now)).collect()
    }

    /// The problems of the other nodes.
    pub(super) fn problems(&self) -> Vec<Value> {
        self.others.values().filter_map(|node| node.status["problems"].as_array()).flatten().cloned().collect()
    }

    /// The nodes whose pages can be asked.
    fn asked(&self, now: Instant) -> Vec<NodeId> {
        self.others.iter().filter(|(_, node)| !node.status.is_null() && !node.is_lost(now)).map(|(id, _)| *id).collect()
    }
}

fn name(id: NodeId, node: &OtherNode) -> String {
    node.status["name"].as_str().map_or_else(|| id.to_string(), str::to_owned)
}

fn shown(id: NodeId, node: &OtherNode, now: Instant) -> Value {
    let state = match () {
        () if node.is_lost(now) => "lost",
        () if node.is_draining() => "draining",
        () => "up",
    };
    let mut shown = json!({ "id": id.to_string(), "name": name(id, node), "this": false, "state": state });
    shown["seen_ms"] = node.reported_ms.into();
    for field in [
        "address",
        "version",
        "started_ms",
        "connections",
        "channels",
        "events_per_second",
        "deliveries_per_second",
        "cpu",
        "memory_bytes",
    ] {
        shown[field] = node.status[field].clone();
    }
    shown
}

impl Dashboard {
    /// Tells the pages of the other nodes about this one, and answers their questions, until `stop`.
    pub async fn run_with_others(self: Arc<Self>, stop: CancellationToken) {
        let Some(cluster) = self.node().cluster().cloned() else { return };
        let mut questions = cluster.page_questions();
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
                self.answer_all(&cluster, &mut questions),
            )
        };
        stop.run_until_cancelled(work).await;
    }

    async fn exchange(&self, cluster: &Cluster) {
        cluster.write_status(&self.status().to_string()).await;
        let known = self.nodes.lock().known();
        let statuses = cluster.statuses(&known).await;
        // Without Redis nothing is known of the others, which the sentence tells.
        if let Some(statuses) = statuses {
            self.nodes.lock().update(statuses, Instant::now());
        }
    }

    /// Tells the others at once that this node drains.
    pub async fn announce_draining(&self) {
        if let Some(cluster) = self.node().cluster() {
            let told = async { cluster.write_status(&self.status().to_string()).await };
            let _ = tokio::time::timeout(LAST_STATUS_TIME, told).await;
        }
    }

    /// This node for the others.
    fn status(&self) -> Value {
        let sampled = self.sampled();
        let mut status = self.this_node(&sampled);
        let problems = self.watch().problems.lock().since(0);
        let id = self.id();
        let problems: Vec<Value> = problems.iter().take(PROBLEMS_MAX).map(|one| state::problem(one, &id)).collect();
        status["at_ms"] = now_ms().into();
        status["draining"] = self.node().is_draining().into();
        status["now"] = json!(sampled.own);
        status["problems"] = problems.into();
        status
    }

    async fn answer_all(&self, cluster: &Cluster, questions: &mut mpsc::Receiver<PageMessage>) {
        while let Some(question) = questions.recv().await {
            let asked = serde_json::from_str(&question.text).unwrap_or_default();
            let answer = self.answer_other(&asked).await;
            cluster.answer_page(&question, &answer.to_string());
        }
    }

    /// The answer to another page, which has checked the role of whoever asks.
    async fn answer_other(&self, asked: &Value) -> Value {
        let limit = asked["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default();
        match asked["path"].as_str().unwrap_or_default() {
            "state" => self.own_state(),
            "history" => self.own_history(asked["range"].as_str().unwrap_or_default()).unwrap_or_default(),
            "connections" => {
                let wanted: Wanted = serde_json::from_value(asked["wanted"].clone()).unwrap_or_default();
                self.own_connections(wanted, limit.min(connections::CONNECTIONS_MAX)).await
            }
            "close" => {
                let (app, socket) = (asked["app"].as_str(), asked["socket"].as_str());
                let closed = match app.zip(socket) {
                    Some((app, socket)) => self.close_own_socket(app, socket.to_owned()).await,
                    None => 0,
                };
                json!({ "closed": closed })
            }
            "drain" => {
                self.drain.cancel();
                json!({ "node": self.id() })
            }
            _ => Value::Null,
        }
    }

    /// Asks the page of another node.
    pub(super) async fn ask(&self, node: &str, question: &Value) -> Result<Value, Failure> {
        let none = || Failure::not_found("There is no such node. State lists the ids of all nodes.");
        let id = NodeId::parse(node).ok_or_else(none)?;
        let cluster = self.node().cluster().ok_or_else(none)?;
        if !self.nodes.lock().others.contains_key(&id) {
            return Err(none());
        }
        let answer = cluster.ask_page(id, &question.to_string()).await;
        answer.and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| {
            let text = "This node does not answer. It hangs, or has no dashboard.token of its own.";
            Failure::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, text).retry_after(2)
        })
    }

    /// Asks the pages of all other nodes at once. Returns the answers, and the nodes that gave none.
    pub(super) async fn ask_all(&self, question: &Value) -> (Vec<Value>, Vec<String>) {
        let nodes = self.nodes.lock().asked(Instant::now());
        let ask = async |node: NodeId| (node, self.ask(&node.to_string(), question).await);
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        for (node, answer) in join_all(nodes.into_iter().map(ask)).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(_) => silent.push(node.to_string()),
            }
        }
        (answers, silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(at_ms: u64, draining: bool) -> Option<String> {
        let now = json!({ "connections": 3 });
        Some(json!({ "name": "web-2", "at_ms": at_ms, "draining": draining, "now": now }).to_string())
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
        nodes.update(all.into_iter().chain([live(bare, None)]).collect(), begin);
        assert_eq!(nodes.counts(at(1)), (4, vec![]));
        assert_eq!(nodes.figures(at(1)).iter().map(|now| now.connections).sum::<u64>(), 9);
        // The first says nothing new. The second is gone, and the third drained and left between two looks. The last has
        // no page.
        let left = gone(leaves, status(2, true));
        nodes.update(vec![live(hangs, status(1, false)), gone(drains, None), left, live(bare, None)], at(8));
        assert_eq!(nodes.counts(at(8)), (1, vec!["web-2".to_owned()]));
        let states: Vec<Value> = nodes.shown(at(8)).iter().map(|node| node["state"].clone()).collect();
        assert!(states.contains(&json!("lost")) && states.contains(&json!("up")) && states.len() == 2);
        nodes.update(vec![live(hangs, status(2, false)), live(bare, None)], at(9));
        assert_eq!(nodes.counts(at(9)), (2, vec![]));
        nodes.update(vec![gone(hangs, status(2, false))], at(10));
        assert_eq!(nodes.counts(at(10)).1.len(), 2);
        nodes.update(vec![], at(10 + 600));
        assert_eq!(nodes.counts(at(610)), (0, vec![]));
    }
}
