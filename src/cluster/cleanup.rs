//! Removes what is no longer true, and publishes again what was refused.
//! `link` runs it beside the queue.

use std::convert::Infallible;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::cluster::bus::Bus;
use crate::cluster::bus::Outdated;
use crate::cluster::link::ClusterLink;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::LEASE;

/// How long nothing must have been refused before this node publishes its state again.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);

impl<B: Bus> ClusterLink<B> {
    /// Removes crashed nodes, and repeats what was refused. Both may take longer than a lease.
    pub(super) async fn clean_up(&self, mut reports: watch::Receiver<Vec<NodeId>>) -> Result<Infallible, B::Error> {
        loop {
            // `watch_leases` reports as long as there is this link.
            let _ = reports.changed().await;
            self.repeat_refused().await?;
            let crashed = reports.borrow().clone();
            // After a time without a link every lease has ended, and the nodes come back one after the other.
            if self.since.elapsed() > LEASE && !crashed.is_empty() {
                self.bus.clear(Outdated::Crashed(&crashed)).await?;
                // A report that came meanwhile may name nodes that are removed now.
                reports.mark_unchanged();
            }
        }
    }

    /// Publishes this node's state again, once everything has been taken for a while.
    async fn repeat_refused(&self) -> Result<(), B::Error> {
        let refused_at = *self.cluster.refused_at.lock();
        if refused_at.is_none_or(|at| at.elapsed() < REFUSED_PAUSE) {
            return Ok(());
        }
        self.bus.clear(Outdated::Own).await?;
        // Until now the records had to stay.
        self.cluster.refused_at.lock().take_if(|at| Some(*at) == refused_at);
        self.cluster.publish_state();
        Ok(())
    }
}

impl Cluster {
    /// Something was refused for lack of memory, which must be published again.
    pub(super) fn note_refused(&self) {
        *self.refused_at.lock() = Some(Instant::now());
    }
}
