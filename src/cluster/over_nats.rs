//! The way to the other nodes by NATS: a subject for each topic, and buckets of JetStream that nodes change by
//! compare-and-set. A bucket gives to the topic's subject what is stored in it, so that a topic has one order.
//! `link` serves it.

mod commands;
pub(super) mod directory;
mod leases;
mod members;
mod receiver;
mod records;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::cluster::bus::Answer;
use crate::cluster::bus::Bus;
use crate::cluster::bus::Mirrored;
use crate::cluster::bus::Outdated;
use crate::cluster::listener::Listener;
use crate::cluster::over_nats::directory::NatsDirectory;
use crate::cluster::over_nats::receiver::Receiver;
use crate::cluster::over_nats::records::Records;
use crate::cluster::peers::Peers;
use crate::cluster::way::NatsWay;
use crate::nats::connection::ANSWER_TIME;
use crate::nats::connection::NatsConnection;
use crate::nats::error::NatsError;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::Leases;
use crate::registry::remote::command::Command;

/// The connections of one link.
pub(super) struct OverNats {
    cluster: Arc<Cluster>,
    listener: Arc<Listener>,
    /// Sends commands.
    records: Arc<Records>,
    /// Receives what other nodes publish, on a runtime of its own: it blocks while the shards' inboxes are full.
    receiver: Receiver,
}

impl Bus for OverNats {
    type Way = NatsWay;
    type Directory = NatsDirectory;
    type Error = NatsError;

    async fn open(
        way: &Arc<NatsWay>,
        listener: &Arc<Listener>,
        runtime: &Handle,
    ) -> Result<(Self, NatsDirectory), NatsError> {
        let cluster = &listener.cluster;
        let connection = NatsConnection::open(&way.options, "commands", listener.lost.clone()).await?;
        let records = Arc::new(Records::open(way, connection).await?);
        let receiver = Receiver::open(way, listener, runtime).await?;
        let bus = Self { cluster: Arc::clone(cluster), listener: Arc::clone(listener), records, receiver };
        cluster.on_leases(&bus.renew_lease().await?, true);
        for node in [None, Some(cluster.node())] {
            bus.receiver.listen(&way.names.control(node));
        }
        bus.receiver.settled().await?;
        // Before the others can answer the hello.
        cluster.update_peers(Peers::relinked);
        bus.announce(&Envelope::Hello(cluster.node(), cluster.node()), None).await?;
        let received = timeout(ANSWER_TIME, listener.own_hello.notified()).await;
        received.map_err(|_| NatsError("what is published is not heard; may the user subscribe to it?".to_owned()))?;
        let directory = NatsDirectory(Arc::clone(&bus.records));
        Ok((bus, directory))
    }

    async fn carry_out(&self, commands: &[&Command]) -> Result<Vec<Answer>, NatsError> {
        self.carry_out_all(commands).await
    }

    async fn announce(&self, envelope: &Envelope, to: Option<NodeId>) -> Result<(), NatsError> {
        let (connection, control) = (&self.records.connection, self.records.way.names.control(to));
        connection.publish(control, envelope.encode().into()).await?;
        connection.settled().await
    }

    async fn mirror(&self, patterns: &[Mirrored]) -> Result<(), NatsError> {
        let names = &self.records.way.names;
        let subjects = patterns
            .iter()
            .flat_map(|(patterns, app)| patterns.iter().flat_map(|pattern| names.matching(app.id(), pattern)));
        self.receiver.mirror(&subjects.collect()).await
    }

    async fn renew_lease(&self) -> Result<Leases, NatsError> {
        self.receiver.settled().await?;
        self.renew().await
    }

    async fn clear(&self, outdated: Outdated<'_>) -> Result<(), NatsError> {
        match outdated {
            Outdated::Crashed(nodes) => self.remove_crashed(nodes).await,
            Outdated::Own => self.clear_own().await,
            Outdated::Left => self.remove(self.cluster.node()).await,
        }
    }
}
