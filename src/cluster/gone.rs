//! Nodes that are no longer there: what they have said counts no more. Somebody else may say that of them or in their
//! names, so it costs little however often it is said.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::limiter::Bucket;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::LEASE;

/// Nodes a second that are looked for in all channels one by one; further ones are looked for together.
const ONE_BY_ONE_MAX: u32 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Gone {
    bucket: Bucket,
    /// To be looked for together, each with whether it has said itself that it leaves.
    waiting: BTreeMap<NodeId, bool>,
    /// Nodes that have told numbers of connections, with the time since when they are not among those that live.
    counted: HashMap<NodeId, Option<Instant>>,
}

impl Gone {
    pub(super) fn new() -> Self {
        let bucket = Bucket::of(ONE_BY_ONE_MAX, Instant::now());
        Self { bucket, waiting: BTreeMap::new(), counted: HashMap::new() }
    }
}

impl Cluster {
    /// A node is gone, says another one or it itself.
    pub(super) fn on_gone(&self, by: NodeId, node: NodeId) {
        self.peers.lock().remove(&node);
        self.missed.lock().remove(&node);
        self.fewer.notify_one();
        let (has_left, now) = (by == node, Instant::now());
        let mut gone = self.gone.lock();
        gone.counted.remove(&node);
        if gone.waiting.is_empty() && gone.bucket.take(1, now).is_ok() {
            drop(gone);
            self.forget_nodes(&[(node, has_left)]);
        } else if gone.waiting.len() < NODES_MAX || gone.waiting.contains_key(&node) {
            *gone.waiting.entry(node).or_default() |= has_left;
        } else {
            self.outgoing.report_implausible();
        }
    }

    /// A node has spoken after it was said to be gone: it tells anew what is there, and that stays.
    pub(super) fn is_back(&self, node: NodeId) {
        self.gone.lock().waiting.remove(&node);
    }

    /// Whether to believe a node that tells how many connections it has.
    pub(super) fn lets_count(&self, node: NodeId) -> bool {
        let counted = &mut self.gone.lock().counted;
        let known = counted.len() < NODES_MAX || counted.contains_key(&node);
        if known {
            counted.entry(node).or_default();
        } else {
            self.outgoing.report_implausible();
        }
        known
    }

    /// Forgets those that were said to be gone too fast, and those that have told numbers and do not live. Call it as
    /// often as it is known who lives.
    pub(super) fn forget_gone(&self) {
        let peers = self.peers.lock().clone();
        let mut gone = self.gone.lock();
        let mut nodes: Vec<(NodeId, bool)> = std::mem::take(&mut gone.waiting).into_iter().collect();
        gone.counted.retain(|node, missing| {
            if peers.contains(node) {
                *missing = None;
                return true;
            }
            let stays = missing.get_or_insert_with(Instant::now).elapsed() < LEASE;
            if !stays {
                nodes.push((*node, false));
            }
            stays
        });
        drop(gone);
        if !nodes.is_empty() {
            self.forget_nodes(&nodes);
        }
    }

    /// Tells the operator of what could not be true since the last time.
    pub(super) fn tell_of_doubts(&self) {
        let left_out = self.outgoing.take_implausible();
        if left_out > 0 {
            self.meters.dropped(PeerDropCause::Implausible, left_out);
            tracing::warn!(
                left_out,
                cluster = self.names.start(),
                "numbers from Redis cannot be true and are left out; other software must not write under this name"
            );
        }
    }

    fn forget_nodes(&self, nodes: &[(NodeId, bool)]) {
        for app in self.apps() {
            app.remove_nodes(nodes, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::registry::inbox::Inboxes;

    #[test]
    fn a_node_that_has_spoken_since_is_not_forgotten_later() {
        let (config, meters) = (Config::default(), Metrics::new("soketi_", 6001, true).cluster.unwrap());
        let cluster = Cluster::new(&config.cluster, &config.redis, Arc::new(Inboxes::new(1)), meters);
        for _ in 0..ONE_BY_ONE_MAX + 1 {
            let node = NodeId::random();
            cluster.on_gone(node, node);
        }
        let node = NodeId::random();
        cluster.on_gone(NodeId::random(), node);
        assert!(cluster.gone.lock().waiting.contains_key(&node));
        cluster.meet(node);
        assert!(!cluster.gone.lock().waiting.contains_key(&node));
    }
}
