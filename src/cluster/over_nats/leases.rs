//! The leases of nodes, and the records of those that have none any more.
//! The bus renews, and removes.

use std::collections::BTreeSet;
use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;

use crate::cluster::bus::Bus;
use crate::cluster::bus::RENEW;
use crate::cluster::member_changes::MemberChanges;
use crate::cluster::over_nats::OverNats;
use crate::cluster::over_nats::members::Members;
use crate::nats::connection::Stored;
use crate::nats::error::NatsError;
use crate::nats::subjects::Bucket;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::redis::lease::Leases;

/// Topics whose members are changed at the same time.
const CLEARED_AT_ONCE: usize = 64;

impl OverNats {
    /// Renews the lease of this node. Returns the leases of all.
    pub(super) async fn renew(&self) -> Result<Leases, NatsError> {
        let (records, me) = (&self.records, self.cluster.node());
        let lease = records.way.names.lease(me);
        if let Stored::Full(error) = records.put(lease.clone(), Bytes::new()).await? {
            let advice = NatsError(error.clone()).advice();
            tracing::warn!(error, advice, "JetStream has no memory left: it does not take what changes here");
            return Ok(Leases::default());
        }
        if let Some(record) = records.get(Bucket::Leases, &lease).await? {
            records.set_clock(&record);
        }
        let living = self.nodes(Bucket::Leases, "leases.").await?;
        let known = self.nodes(Bucket::Directory, "nodes.").await?;
        let added = !known.contains(&me);
        if added {
            records.put(records.way.names.node(me), Bytes::new()).await?;
        }
        let ended = known.difference(&living).copied().filter(|node| *node != me).collect();
        Ok(Leases { added, living: living.into_iter().collect(), ended })
    }

    /// The nodes that have a key in a bucket that begins so.
    async fn nodes(&self, bucket: Bucket, start: &str) -> Result<BTreeSet<NodeId>, NatsError> {
        let names = &self.records.way.names;
        let subjects = self.records.subjects(bucket, names.key(bucket, &format!("{start}*"))).await?;
        let node = |subject: &String| NodeId::parse(names.key_of(bucket, subject)?.strip_prefix(start)?);
        Ok(subjects.iter().filter_map(node).collect())
    }

    /// Removes crashed nodes, unless another survivor does.
    pub(super) async fn remove_crashed(&self, crashed: &[NodeId]) -> Result<(), NatsError> {
        let (records, lock) = (&self.records, self.records.way.names.cleanup_lock());
        let Stored::At(_) = records.replace(lock.clone(), self.cluster.node().to_string(), 0).await? else {
            return Ok(());
        };
        let removed = tokio::select! {
            removed = self.remove_each(crashed) => removed,
            lost = self.renew_lock(&lock) => lost.map(|never| match never {}),
        };
        records.remove(Bucket::Leases, lock, None).await?;
        removed
    }

    async fn renew_lock(&self, lock: &str) -> Result<Infallible, NatsError> {
        loop {
            tokio::time::sleep(RENEW).await;
            self.records.put(lock.to_owned(), self.cluster.node().to_string()).await?;
        }
    }

    async fn remove_each(&self, crashed: &[NodeId]) -> Result<(), NatsError> {
        for &node in crashed {
            tracing::warn!(%node, "a node is dead; its connections no longer count");
            self.remove(node).await?;
        }
        Ok(())
    }

    /// Removes the records of a node, and announces that it is gone.
    pub(super) async fn remove(&self, node: NodeId) -> Result<(), NatsError> {
        let (records, names) = (&self.records, &self.records.way.names);
        if !self.clear_members(node, |_, _| true).await? {
            // Somebody can remove them later.
            return Ok(());
        }
        records.remove(Bucket::Directory, names.all_connections(Some(node), None), None).await?;
        records.remove(Bucket::Directory, names.node(node), None).await?;
        records.remove(Bucket::Leases, names.lease(node), None).await?;
        self.announce(&Envelope::Gone(self.cluster.node(), node), None).await
    }

    /// Removes records of this node that are no longer true.
    pub(super) async fn clear_own(&self) -> Result<(), NatsError> {
        let (cluster, me) = (&self.cluster, self.cluster.node());
        if cluster.outgoing().linked_at().is_none() {
            // It has never had any.
            return Ok(());
        }
        let is_outdated =
            |app: &str, topic: &Topic| cluster.app(app).is_none_or(|app| app.local_topic(topic).members.is_empty());
        if !self.clear_members(me, is_outdated).await? {
            cluster.note_refused();
        }
        let connections = self.records.way.names.all_connections(Some(me), None);
        self.records.remove(Bucket::Directory, connections, None).await
    }

    /// Removes the users of a node from the topics that `is_outdated` chooses. False if there was no place left for that.
    async fn clear_members(&self, node: NodeId, is_outdated: impl Fn(&str, &Topic) -> bool) -> Result<bool, NatsError> {
        let names = &self.records.way.names;
        let all = self.records.all(Bucket::Directory, names.key(Bucket::Directory, "members.>")).await?;
        let topics = all.into_iter().filter_map(|record| {
            let topic = names.topic_of_record(Bucket::Directory, &record.subject)?;
            Members::decode(&record.payload)?.has(node).then_some(topic)
        });
        let cleared = topics.filter(|(app, topic)| is_outdated(app, topic)).map(|(app, topic)| async move {
            let nobody = MemberChanges::nobody(node);
            self.records.change_members(self.cluster.node(), (&app, &topic), nobody).await
        });
        let cleared: Vec<_> = stream::iter(cleared).buffer_unordered(CLEARED_AT_ONCE).try_collect().await?;
        Ok(cleared.iter().all(Result::is_ok))
    }
}
