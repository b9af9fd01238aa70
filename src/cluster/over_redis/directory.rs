//! The records of all nodes in Redis, and answers to repeated requests.
//! `Directory` calls it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::bus::Departures;
use crate::cluster::bus::Occupied;
use crate::cluster::over_redis::answers;
use crate::cluster::over_redis::answers::cached_event;
use crate::cluster::over_redis::answers::number;
use crate::cluster::way::RedisWay;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::idempotency::RequestId;
use crate::redis::connection::RedisConnection;
use crate::redis::names;
use crate::redis::value::text;
use crate::redis::value::texts;

/// How long a status stays in Redis. A node writes it more often.
const STATUS_TIME: Duration = Duration::from_secs(15);

/// A connection for questions.
#[derive(Clone)]
pub(in crate::cluster) struct RedisDirectory {
    pub(super) connection: RedisConnection,
    pub(super) way: Arc<RedisWay>,
}

impl RedisDirectory {
    pub(super) fn new(connection: RedisConnection, way: Arc<RedisWay>) -> Self {
        Self { connection, way }
    }

    pub(in crate::cluster) async fn connections(
        &self,
        app: &str,
        channel: &ChannelName,
        nodes: &[NodeId],
    ) -> Option<Vec<usize>> {
        let field = names::field(&Topic::Channel(channel.clone()));
        let ask = |node: &NodeId| cmd("HGET").arg(self.way.names.topics(*node, app)).arg(&field).take();
        let counts = self.ask(nodes.iter().map(ask).collect()).await?;
        Some(counts.iter().map(|count| number(count).unwrap_or_default()).collect())
    }

    pub(in crate::cluster) async fn channels(&self, apps: &[&str], nodes: &[NodeId]) -> Option<Vec<Vec<Occupied>>> {
        let pairs = apps.iter().flat_map(|app| nodes.iter().map(move |node| (*node, *app)));
        let ask = |(node, app)| cmd("HGETALL").arg(self.way.names.topics(node, app)).take();
        let answers = self.ask(pairs.map(ask).collect()).await?;
        let mut channels = answers.iter().map(answers::channels);
        Some(apps.iter().map(|_| channels.by_ref().take(nodes.len()).collect()).collect())
    }

    pub(in crate::cluster) async fn user_counts(
        &self,
        app: &str,
        of: &[(&ChannelName, Departures)],
    ) -> Option<Vec<usize>> {
        let mut commands = Vec::new();
        for (channel, departures) in of {
            let key = self.way.names.users(app, &Topic::Channel((*channel).clone()));
            commands.extend(nodes_of(&key, departures));
            commands.push(cmd("HLEN").arg(key).take());
        }
        let answers = self.ask(commands).await?;
        let mut answers = answers.iter();
        let count = |(_, departures): &(_, Departures)| {
            let left = if departures.is_empty() { 0 } else { still_there(answers.next()?, departures).count() };
            Some(number(answers.next()?).unwrap_or_default().saturating_sub(left))
        };
        of.iter().map(count).collect()
    }

    pub(in crate::cluster) async fn users(
        &self,
        app: &str,
        channel: &ChannelName,
        departures: &Departures,
    ) -> Option<Vec<String>> {
        let key = self.way.names.users(app, &Topic::Channel(channel.clone()));
        let mut commands: Vec<Cmd> = nodes_of(&key, departures).into_iter().collect();
        commands.push(cmd("HKEYS").arg(key).take());
        let answers = self.ask(commands).await?;
        let (users, before) = answers.split_last()?;
        let left: HashSet<&str> = before.iter().flat_map(|before| still_there(before, departures)).collect();
        let mut users = texts(users);
        users.retain(|user_id| !left.contains(&**user_id));
        Some(users)
    }

    pub(in crate::cluster) async fn cached(
        &self,
        app: &str,
        channel: &ChannelName,
    ) -> Option<Option<(RemoteEvent, Duration)>> {
        let key = self.way.names.cached(app, &Topic::Channel(channel.clone()));
        let ask = vec![cmd("GET").arg(&key).take(), cmd("PTTL").arg(key).take()];
        let answers = self.ask(ask).await?;
        let [cached, left] = answers.as_slice() else { return None };
        Some(cached_event(cached, left))
    }

    pub(in crate::cluster) async fn write_status(&self, node: NodeId, status: &str) {
        let key = self.way.names.status(node);
        self.ask(vec![cmd("SET").arg(key).arg(status).arg("PX").arg(STATUS_TIME.as_millis() as u64).take()]).await;
    }

    pub(in crate::cluster) async fn statuses(&self, nodes: &[NodeId]) -> Option<Vec<Option<String>>> {
        let ask = |node: &NodeId| cmd("GET").arg(self.way.names.status(*node)).take();
        let answers = self.ask(nodes.iter().map(ask).collect()).await?;
        Some(answers.iter().map(|answer| text(answer).map(str::to_owned)).collect())
    }

    pub(in crate::cluster) async fn claim(
        &self,
        id: &RequestId,
        hash: &[u8],
        time: Duration,
    ) -> Option<Result<(), Bytes>> {
        let key = self.way.names.request(id);
        let claim = cmd("SET").arg(&key).arg(hash).arg("NX").arg("PX").arg(time.as_millis() as u64).take();
        // The other node may give the request up between the two commands; then this one asks again.
        for _ in 0..2 {
            let commands = vec![claim.clone(), cmd("GET").arg(&key).take()];
            let answers = self.connection.clone().ask(commands).await.ok()?;
            match answers.as_slice() {
                [Ok(Value::Okay), _] => return Some(Ok(())),
                [_, Ok(Value::BulkString(stored))] => return Some(Err(Bytes::copy_from_slice(stored))),
                [Ok(Value::Nil), Ok(Value::Nil)] => (),
                _ => return None,
            }
        }
        None
    }

    pub(in crate::cluster) async fn store_answer(&self, id: &RequestId, value: Vec<u8>, time: Duration) -> bool {
        let key = self.way.names.request(id);
        let store = cmd("SET").arg(key).arg(value).arg("PX").arg(time.as_millis() as u64).take();
        matches!(self.connection.clone().ask_one(store).await, Ok(Value::Okay))
    }

    pub(in crate::cluster) async fn release(&self, id: &RequestId) {
        // Otherwise it expires.
        let _ = self.connection.clone().ask_one(cmd("DEL").arg(self.way.names.request(id)).take()).await;
    }

    async fn ask(&self, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let answers = self.connection.clone().ask(commands).await;
        let answers = answers.and_then(|answers| answers.into_iter().collect::<RedisResult<_>>());
        answers.inspect_err(|error| tracing::warn!(%error, "Redis does not tell what is on the other nodes")).ok()
    }
}

/// Asks on how many nodes these users are: before all else about the channel, and over the connection that carries
/// their changes, so that none of them goes in between.
fn nodes_of(users: &str, departures: &[Arc<str>]) -> Option<Cmd> {
    (!departures.is_empty())
        .then(|| cmd("HMGET").arg(users).arg(departures.iter().map(|user_id| &**user_id).collect::<Vec<_>>()).take())
}

/// Those of them that are on one node, which is this one: Redis does not know yet that they have left.
fn still_there<'a>(nodes: &Value, departures: &'a [Arc<str>]) -> impl Iterator<Item = &'a str> {
    let nodes = match nodes {
        Value::Array(nodes) => nodes.clone(),
        _ => Vec::new(),
    };
    departures.iter().zip(nodes).filter(|(_, nodes)| number(nodes) == Some(1)).map(|(user_id, _)| &**user_id)
}
