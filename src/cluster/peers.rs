//! The other nodes, each with its state: alive, listening, draining or gone.
//! `lease` enters who has a lease, `listener` what the nodes announce. The link and the registry act on it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::limiter::Bucket;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::LEASE;

/// Nodes a second that are removed from the channels one by one; further ones are removed together.
const REMOVALS_MAX: u32 = 16;
/// Nodes that are known of. Anybody who can write to Redis may announce any number of them.
const KNOWN_MAX: usize = 2 * NODES_MAX;

/// The other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    nodes: BTreeMap<NodeId, Peer>,
    removals: Bucket,
}

/// The state of another node, as this one knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Peer {
    /// It has a lease, or has announced itself since the last renewal.
    Live {
        /// It has announced over the present link that it listens to all that matters to it.
        listens: bool,
        /// It is about to close its connections.
        is_draining: bool,
    },
    /// It has no lease. Its counts are believed for as long as a lease is.
    Unconfirmed {
        since: Instant,
        /// It lived when the last link was lost, and may be about to return.
        is_awaited: bool,
    },
    /// It was announced gone, and is to be removed from the channels together with others. `has_left`: it has announced
    /// that itself.
    Gone { has_left: bool },
}

/// The removal of a node that was announced gone.
#[derive(Debug, PartialEq)]
pub(super) enum Removal {
    /// Remove it from the channels.
    Now,
    /// [`Peers::expire`] returns it.
    Later,
    /// Nothing, since too many nodes have been announced.
    Implausible,
}

impl Peers {
    pub(super) fn new(now: Instant) -> Self {
        Self { nodes: BTreeMap::new(), removals: Bucket::of(REMOVALS_MAX, now) }
    }

    /// A node has announced itself.
    pub(super) fn joined(&mut self, node: NodeId) {
        if self.has_capacity(node) && !self.is_live(node) {
            self.nodes.insert(node, Peer::Live { listens: false, is_draining: false });
        }
    }

    /// A node listens to all that matters to it.
    pub(super) fn listening(&mut self, node: NodeId) {
        if let Some(Peer::Live { listens, .. }) = self.nodes.get_mut(&node) {
            *listens = true;
        }
    }

    /// A node is about to close its connections.
    pub(super) fn draining(&mut self, node: NodeId) {
        if let Some(Peer::Live { is_draining, .. }) = self.nodes.get_mut(&node) {
            *is_draining = true;
        }
    }

    /// Node `by` has announced that a node is gone, which may be itself.
    pub(super) fn gone(&mut self, by: NodeId, node: NodeId, now: Instant) -> Removal {
        if self.removals.take(1, now).is_ok() {
            self.nodes.remove(&node);
            return Removal::Now;
        }
        if !self.has_capacity(node) {
            return Removal::Implausible;
        }
        let peer = self.nodes.entry(node).or_insert(Peer::Gone { has_left: false });
        let has_left = by == node || *peer == Peer::Gone { has_left: true };
        *peer = Peer::Gone { has_left };
        Removal::Later
    }

    /// Whether to believe how many connections a node has.
    pub(super) fn counted(&mut self, node: NodeId, now: Instant) -> bool {
        let has_capacity = self.has_capacity(node);
        if has_capacity {
            self.nodes.entry(node).or_insert(Peer::Unconfirmed { since: now, is_awaited: false });
        }
        has_capacity
    }

    /// These nodes have leases, or had one and have not been removed yet. Over a new link those that lived before and
    /// have none are awaited.
    pub(super) fn leased(&mut self, leased: &BTreeSet<NodeId>, is_link_new: bool, now: Instant) {
        for (node, peer) in &mut self.nodes {
            if matches!(peer, Peer::Live { .. }) && !leased.contains(node) {
                *peer = Peer::Unconfirmed { since: now, is_awaited: is_link_new };
            }
        }
        for node in leased {
            if !self.is_live(*node) {
                self.nodes.insert(*node, Peer::Live { listens: false, is_draining: false });
            }
        }
    }

    /// Over a new link every node has to announce again that it listens.
    pub(super) fn relinked(&mut self) {
        for peer in self.nodes.values_mut() {
            if let Peer::Live { listens, .. } = peer {
                *listens = false;
            }
        }
    }

    /// Nodes that have not returned are awaited no longer.
    pub(super) fn stop_awaiting(&mut self) {
        for peer in self.nodes.values_mut() {
            if let Peer::Unconfirmed { is_awaited, .. } = peer {
                *is_awaited = false;
            }
        }
    }

    /// Takes out the nodes that are to be removed from the channels, each with whether it has announced that itself.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(NodeId, bool)> {
        let removal = |(node, peer): (&NodeId, &mut Peer)| match *peer {
            Peer::Gone { has_left } => Some((*node, has_left)),
            Peer::Unconfirmed { since, .. } if now.saturating_duration_since(since) >= LEASE => Some((*node, false)),
            _ => None,
        };
        let removed: Vec<_> = self.nodes.iter_mut().filter_map(removal).collect();
        self.nodes.retain(|node, _| removed.binary_search_by_key(node, |(node, _)| *node).is_err());
        removed
    }

    /// The nodes that live.
    pub(super) fn live(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|(_, peer)| matches!(peer, Peer::Live { .. })).map(|(node, _)| *node)
    }

    /// Whether a node lives and does not drain.
    pub(super) fn has_staying(&self) -> bool {
        self.nodes.values().any(|peer| matches!(peer, Peer::Live { is_draining: false, .. }))
    }

    /// Whether every node listens that lives or is awaited.
    pub(super) fn all_listen(&self) -> bool {
        self.nodes.values().all(|peer| match *peer {
            Peer::Live { listens, .. } => listens,
            Peer::Unconfirmed { is_awaited, .. } => !is_awaited,
            Peer::Gone { .. } => true,
        })
    }

    fn is_live(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Peer::Live { .. }))
    }

    fn has_capacity(&self, node: NodeId) -> bool {
        self.nodes.len() < KNOWN_MAX || self.nodes.contains_key(&node)
    }
}

impl Cluster {
    /// Changes what is known of the peers, and wakes up the tasks that wait for a change.
    pub(super) fn update_peers<R>(&self, change: impl FnOnce(&mut Peers) -> R) -> R {
        let result = change(&mut self.peers.lock());
        self.peers_changed.notify_waiters();
        result
    }

    /// Waits until the peers are so.
    pub(super) async fn peers_become(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.peers_changed.notified();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }

    /// Node `by` has announced that a node is gone.
    pub(super) fn on_gone(&self, by: NodeId, node: NodeId) {
        let now = Instant::now();
        match self.update_peers(|peers| peers.gone(by, node, now)) {
            Removal::Now => self.remove_nodes(&[(node, by == node)]),
            Removal::Later => (),
            Removal::Implausible => self.outgoing.report_implausible(),
        }
    }

    /// Whether to believe how many connections a node has.
    pub(super) fn believes_count(&self, node: NodeId) -> bool {
        let is_believed = self.peers.lock().counted(node, Instant::now());
        if !is_believed {
            self.outgoing.report_implausible();
        }
        is_believed
    }

    /// Removes the nodes that are gone from all channels. Called after each renewal of the lease.
    pub(super) fn expire_peers(&self) {
        let gone = self.update_peers(|peers| peers.expire(Instant::now()));
        if !gone.is_empty() {
            self.remove_nodes(&gone);
        }
    }

    /// Logs how many implausible numbers were left out since the last call.
    pub(super) fn log_implausible(&self) {
        let left_out = self.outgoing.take_implausible();
        if left_out > 0 {
            self.meters.dropped(PeerDropCause::Implausible, left_out);
            tracing::warn!(
                left_out,
                cluster = self.way.start(),
                "numbers of other nodes cannot be true and are left out; other software must not write under this name"
            );
        }
    }

    fn remove_nodes(&self, nodes: &[(NodeId, bool)]) {
        for app in self.apps() {
            app.remove_nodes(nodes, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<const COUNT: usize>() -> [NodeId; COUNT] {
        std::array::from_fn(|_| NodeId::random())
    }

    fn leased(peers: &mut Peers, nodes: &[NodeId], is_link_new: bool, now: Instant) {
        peers.leased(&nodes.iter().copied().collect(), is_link_new, now);
    }

    /// Peers that remove nobody one by one any more.
    fn busy(now: Instant) -> Peers {
        let mut peers = Peers::new(now);
        for node in nodes::<{ REMOVALS_MAX as usize }>() {
            assert_eq!(peers.gone(node, node, now), Removal::Now);
        }
        peers
    }

    #[test]
    fn all_listen_when_every_live_node_has_announced_it_over_this_link() {
        let (now, [a, b]) = (Instant::now(), nodes());
        let mut peers = Peers::new(now);
        assert!(peers.all_listen());
        leased(&mut peers, &[a], true, now);
        peers.joined(b);
        peers.listening(a);
        assert!(!peers.all_listen());
        peers.listening(b);
        assert!(peers.all_listen());
        peers.relinked();
        assert!(!peers.all_listen());
    }

    #[test]
    fn a_node_that_lived_before_the_link_was_lost_is_awaited() {
        let (now, [a]) = (Instant::now(), nodes());
        let mut peers = Peers::new(now);
        peers.joined(a);
        leased(&mut peers, &[], true, now);
        assert!(!peers.all_listen() && peers.live().next().is_none());
        peers.stop_awaiting();
        assert!(peers.all_listen());
        leased(&mut peers, &[a], false, now);
        assert!(!peers.all_listen());
        leased(&mut peers, &[], false, now);
        assert!(peers.all_listen());
    }

    #[test]
    fn a_node_that_drains_does_not_stay() {
        let (now, [a]) = (Instant::now(), nodes());
        let mut peers = Peers::new(now);
        peers.draining(a);
        assert!(!peers.has_staying());
        peers.joined(a);
        assert!(peers.has_staying());
        peers.draining(a);
        leased(&mut peers, &[a], false, now);
        peers.joined(a);
        assert!(!peers.has_staying());
    }

    #[test]
    fn the_counts_of_a_node_without_a_lease_are_believed_for_the_time_of_a_lease() {
        let (now, [a, b]) = (Instant::now(), nodes());
        let mut peers = Peers::new(now);
        assert!(peers.counted(a, now) && peers.counted(b, now));
        assert_eq!(peers.expire(now + LEASE / 2), []);
        leased(&mut peers, &[b], false, now + LEASE / 2);
        assert_eq!(peers.expire(now + LEASE), [(a, false)]);
        leased(&mut peers, &[], false, now + LEASE);
        assert_eq!(peers.expire(now + LEASE), []);
        assert_eq!(peers.expire(now + 2 * LEASE), [(b, false)]);
    }

    #[test]
    fn nodes_that_were_announced_gone_too_fast_are_removed_together() {
        let (now, [a, b]) = (Instant::now(), nodes());
        let mut peers = busy(now);
        assert_eq!(peers.gone(a, a, now), Removal::Later);
        // Another node announces it, too. It has still left itself.
        assert_eq!([peers.gone(b, a, now), peers.gone(a, b, now)], [Removal::Later, Removal::Later]);
        let mut expected = [(a, true), (b, false)];
        expected.sort_unstable();
        assert_eq!(peers.expire(now), expected);
        assert_eq!(peers.expire(now), []);
    }

    #[test]
    fn a_node_that_is_back_is_not_removed_later() {
        let (now, [a, b, other]) = (Instant::now(), nodes());
        let mut peers = busy(now);
        assert_eq!([a, b].map(|node| peers.gone(other, node, now)), [Removal::Later, Removal::Later]);
        peers.joined(a);
        leased(&mut peers, &[a, b], false, now);
        assert_eq!(peers.expire(now), []);
    }

    #[test]
    fn however_many_nodes_are_announced_those_with_a_lease_are_known() {
        let (now, [a]) = (Instant::now(), nodes());
        let mut peers = busy(now);
        for _ in 0..KNOWN_MAX {
            assert!(peers.counted(NodeId::random(), now));
        }
        assert!(!peers.counted(a, now));
        assert_eq!(peers.gone(a, a, now), Removal::Implausible);
        leased(&mut peers, &[a], false, now);
        assert!(peers.counted(a, now) && peers.live().eq([a]));
    }
}
