//! Renews the lease of this node, and reads the leases of the others: a node without one has crashed.
//! `link` runs it beside the queue; `cleanup` gets the crashed nodes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Instant;

use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::cluster::bus::Bus;
use crate::cluster::bus::RENEW;
use crate::cluster::link::ClusterLink;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::Leases;
use crate::redis::lease::Suspects;

impl<B: Bus> ClusterLink<B> {
    /// Renews the lease, and reports who has crashed.
    pub(super) async fn watch_leases(&self, crashed: watch::Sender<Vec<NodeId>>) -> Result<Infallible, B::Error> {
        let mut suspects = Suspects::default();
        loop {
            tokio::time::sleep(RENEW).await;
            let leases = self.bus.renew_lease().await?;
            self.cluster.log_implausible();
            if leases.living.is_empty() {
                self.cluster.note_refused();
                suspects = Suspects::default();
                continue;
            }
            self.cluster.on_leases(&leases, false);
            self.cluster.expire_peers();
            if leases.added {
                tracing::warn!("the other nodes took this one for dead; it tells them anew what is here");
                self.cluster.publish_state();
            }
            crashed.send_replace(suspects.crashed(leases.ended));
        }
    }
}

impl Cluster {
    /// These nodes live, or have crashed and were not removed yet.
    pub(super) fn on_leases(&self, leases: &Leases, is_link_new: bool) {
        let me = self.node();
        if leases.living.contains(&me) {
            let others = leases.living.iter().chain(&leases.ended).filter(|node| **node != me);
            let others: BTreeSet<NodeId> = others.copied().take(NODES_MAX).collect();
            self.update_peers(|peers| peers.leased(&others, is_link_new, Instant::now()));
        }
    }

    /// Publishes everything that is on this node again.
    pub(super) fn publish_state(&self) {
        for app in self.apps() {
            app.on_linked(Instant::now());
        }
    }
}
