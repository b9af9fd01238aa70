//! Mirrors the events of other nodes to the group views of this one.
//! `link` runs it. Events that come this way are for views only; a channel's subscribers get them by its topic.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;

use crate::cluster::bus::Bus;
use crate::cluster::link::ClusterLink;
use crate::cluster::listener::Listener;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::Topic;
use crate::protocol::numbered::EventNumber;

impl<B: Bus> ClusterLink<B> {
    /// Subscribes again whenever the views have changed.
    pub(super) async fn follow_views(&self) -> Result<Infallible, B::Error> {
        loop {
            self.cluster.outgoing.views_changed().await;
            self.subscribe_views().await?;
        }
    }

    /// Subscribes to what the views mirror now.
    pub(super) async fn subscribe_views(&self) -> Result<(), B::Error> {
        let mirrored: Vec<_> = self.cluster.apps().into_iter().map(|app| (app.mirrored_patterns(), app)).collect();
        self.bus.mirror(&mirrored).await?;
        for (patterns, app) in &mirrored {
            app.on_patterns_subscribed(patterns, Instant::now());
        }
        Ok(())
    }
}

impl Listener {
    /// Handles a message on the topic of this name, which is mirrored. It comes once for each pattern that matches.
    pub(super) fn on_mirrored(&self, of: Option<(String, Topic)>, name: &[u8], message: &Bytes) {
        let cluster = &self.cluster;
        let numbered = EventNumber::taken_from(message);
        let message = numbered.as_ref().map_or(message, |(_, message)| message);
        let is_own = message.starts_with(self.own_event.as_bytes());
        let Some((app, Topic::Channel(channel))) = of.filter(|_| !is_own) else { return };
        let Some(app) = cluster.app(&app).filter(|_| !self.lost.is_cancelled()) else { return };
        match Envelope::decode(message) {
            Ok(Envelope::Event(_)) if !cluster.inboxes.wait_for_capacity() => {
                cluster.meters.dropped(PeerDropCause::Overloaded, 1)
            }
            Ok(Envelope::Event(event)) => {
                if app.on_mirrored_event(&channel, event, cluster.way.delivers_in_sequence(), Instant::now()) {
                    cluster.meters.received(1);
                }
            }
            Ok(_) => (),
            Err(error) => self.reject(name, error),
        }
    }
}
