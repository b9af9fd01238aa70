//! Answers questions from the records of all nodes.
//! `Directory` calls it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::future::try_join_all;

use crate::cluster::bus::Departures;
use crate::cluster::bus::Occupied;
use crate::cluster::over_nats::records::Record;
use crate::cluster::over_nats::records::Records;
use crate::nats::connection::Stored;
use crate::nats::error::NatsError;
use crate::nats::subjects::Bucket;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::CACHED_MS_MAX;
use crate::protocol::envelope::CONNECTIONS_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::idempotency::BodyHash;
use crate::protocol::idempotency::RequestId;

/// The records, for questions.
#[derive(Clone)]
pub(in crate::cluster) struct NatsDirectory(pub(super) Arc<Records>);

impl NatsDirectory {
    pub(in crate::cluster) async fn connections(
        &self,
        app: &str,
        channel: &ChannelName,
        nodes: &[NodeId],
    ) -> Option<Vec<usize>> {
        answered(self.0.connections(app, channel, nodes).await)
    }

    pub(in crate::cluster) async fn channels(&self, apps: &[&str], nodes: &[NodeId]) -> Option<Vec<Vec<Occupied>>> {
        answered(try_join_all(apps.iter().map(|app| self.channels_of(app, nodes))).await)
    }

    async fn channels_of(&self, app: &str, nodes: &[NodeId]) -> Result<Vec<Occupied>, NatsError> {
        let names = &self.0.way.names;
        let mut occupied = vec![Occupied::new(); nodes.len()];
        for record in self.0.all(Bucket::Directory, names.all_connections(None, Some(app))).await? {
            let Some((node, channel)) = names.connections_of(&record.subject) else { continue };
            let place = nodes.iter().position(|other| *other == node);
            if let (Some(place), Some(count)) = (place, number(&record).filter(|&count| count > 0)) {
                occupied[place].push((channel, count));
            }
        }
        Ok(occupied)
    }

    pub(in crate::cluster) async fn user_counts(
        &self,
        app: &str,
        of: &[(&ChannelName, Departures)],
    ) -> Option<Vec<usize>> {
        let count = |(channel, departures): &(&ChannelName, Departures)| {
            let (topic, departures) = (Topic::Channel((*channel).clone()), departures.clone());
            async move { Ok(self.0.members(app, &topic).await?.0.users(&departures).len()) }
        };
        answered(try_join_all(of.iter().map(count)).await)
    }

    pub(in crate::cluster) async fn users(
        &self,
        app: &str,
        channel: &ChannelName,
        departures: &Departures,
    ) -> Option<Vec<String>> {
        let (members, _) = answered(self.0.members(app, &Topic::Channel(channel.clone())).await)?;
        Some(members.users(departures).iter().map(|user_id| user_id.to_string()).collect())
    }

    pub(in crate::cluster) async fn cached(
        &self,
        app: &str,
        channel: &ChannelName,
    ) -> Option<Option<(RemoteEvent, Duration)>> {
        answered(self.0.cached(app, channel).await)
    }

    pub(in crate::cluster) async fn write_status(&self, node: NodeId, status: &str) {
        let subject = self.0.way.names.status(node);
        answered(self.0.put(subject, Bytes::copy_from_slice(status.as_bytes())).await);
    }

    pub(in crate::cluster) async fn statuses(&self, nodes: &[NodeId]) -> Option<Vec<Option<String>>> {
        let ask = |node: &NodeId| {
            let subject = self.0.way.names.status(*node);
            async move { self.0.get(Bucket::Leases, &subject).await }
        };
        let records = answered(try_join_all(nodes.iter().map(ask)).await)?;
        let text = |record: Record| String::from_utf8(record.payload.into()).ok();
        Some(records.into_iter().map(|record| record.and_then(text)).collect())
    }

    pub(in crate::cluster) async fn claim(
        &self,
        id: &RequestId,
        hash: &[u8],
        time: Duration,
    ) -> Option<Result<(), Bytes>> {
        let subject = self.0.way.names.request(id);
        let (mut before, payload) = (0, Bytes::copy_from_slice(hash));
        // The other node may give the request up between the two; then this one tries again.
        for _ in 0..3 {
            match answered(self.0.replace(subject.clone(), payload.clone(), before).await)? {
                Stored::At(_) => return Some(Ok(())),
                Stored::Full(_) => return None,
                Stored::Conflict => (),
            }
            let Some(record) = answered(self.0.get(Bucket::Requests, &subject).await)? else {
                before = 0;
                continue;
            };
            let age = self.0.now_micros().saturating_sub(record.stored_micros);
            let is_abandoned =
                record.payload.len() == BodyHash::LENGTH && u128::try_from(age).is_ok_and(|age| age > time.as_micros());
            if !is_abandoned {
                return Some(Err(record.payload));
            }
            before = record.number;
        }
        None
    }

    pub(in crate::cluster) async fn store_answer(&self, id: &RequestId, value: Vec<u8>, _time: Duration) -> bool {
        // The bucket has one time for all.
        matches!(self.0.put(self.0.way.names.request(id), value).await, Ok(Stored::At(_)))
    }

    pub(in crate::cluster) async fn release(&self, id: &RequestId) {
        // Otherwise it expires.
        let _ = self.0.remove(Bucket::Requests, self.0.way.names.request(id), None).await;
    }
}

impl Records {
    /// The connections of each of these nodes on a channel.
    pub(super) async fn connections(
        &self,
        app: &str,
        channel: &ChannelName,
        nodes: &[NodeId],
    ) -> Result<Vec<usize>, NatsError> {
        let ask = |node: &NodeId| {
            let subject = self.way.names.connections(*node, app, channel);
            async move { self.get(Bucket::Directory, &subject).await }
        };
        let records = join_all(nodes.iter().map(ask)).await;
        let count =
            |record: Result<Option<Record>, NatsError>| Ok(record?.as_ref().and_then(number).unwrap_or_default());
        records.into_iter().map(count).collect()
    }

    /// The event of a cache channel, and how long it still is.
    pub(super) async fn cached(
        &self,
        app: &str,
        channel: &ChannelName,
    ) -> Result<Option<(RemoteEvent, Duration)>, NatsError> {
        let subject = self.way.names.record(Bucket::Cached, app, &Topic::Channel(channel.clone()));
        let Some(record) = self.get(Bucket::Cached, &subject).await? else { return Ok(None) };
        let Ok(Envelope::Event(event)) = Envelope::decode(&record.payload) else { return Ok(None) };
        let age_ms =
            u64::try_from(self.now_micros().saturating_sub(record.stored_micros).max(0) / 1000).unwrap_or_default();
        let left = event.cached_for_ms.min(CACHED_MS_MAX).checked_sub(age_ms).filter(|&left| left > 0);
        Ok(left.map(|left| (event, Duration::from_millis(left))))
    }
}

/// A record as a number of connections.
fn number(record: &Record) -> Option<usize> {
    let count: u32 = std::str::from_utf8(&record.payload).ok()?.parse().ok()?;
    usize::try_from(count).ok().filter(|_| count <= CONNECTIONS_MAX)
}

fn answered<T>(answer: Result<T, NatsError>) -> Option<T> {
    answer.inspect_err(|error| tracing::warn!(%error, "NATS does not tell what is on the other nodes")).ok()
}
