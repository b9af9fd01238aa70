//! Asks Redis for the state of the other nodes. Without a link, or when Redis does not answer, the result is `None`.
//! `node::query` calls it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::Cluster;
use crate::cluster::answers;
use crate::cluster::answers::cached_event;
use crate::cluster::answers::number;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Topic;
use crate::protocol::frame::Frame;
use crate::redis::names;
use crate::redis::value::texts;

impl Cluster {
    /// Connections on a channel, without those of this node.
    pub async fn subscriptions_elsewhere(&self, app: &str, channel: &ChannelName) -> Option<usize> {
        let field = names::field(&Topic::Channel(channel.clone()));
        let ask = |peer| cmd("HGET").arg(self.names.topics(peer, app)).arg(&field).take();
        let counts = self.ask(app, self.peers().into_iter().map(ask).collect()).await?;
        Some(counts.iter().filter_map(number).sum())
    }

    /// The occupied channels of the other nodes, with their connections there.
    pub async fn channels_elsewhere(&self, app: &str) -> Option<HashMap<ChannelName, usize>> {
        let ask = |peer| cmd("HGETALL").arg(self.names.topics(peer, app)).take();
        let answers = self.ask(app, self.peers().into_iter().map(ask).collect()).await?;
        let mut channels = HashMap::new();
        for (name, count) in answers.iter().flat_map(answers::channels) {
            *channels.entry(name).or_default() += count;
        }
        Some(channels)
    }

    /// Distinct users of presence channels on all nodes. Users that have left this node no longer count.
    pub async fn user_counts(&self, app: &str, channels: &[ChannelName]) -> Option<Vec<usize>> {
        let (mut commands, mut departures) = (Vec::new(), Vec::new());
        for channel in channels {
            let key = self.names.users(app, &Topic::Channel(channel.clone()));
            departures.push(self.pending_departures(app, channel));
            commands.extend(nodes_of(&key, departures.last()?));
            commands.push(cmd("HLEN").arg(key).take());
        }
        let answers = self.ask(app, commands).await?;
        let mut answers = answers.iter();
        let count = |departures: &Vec<Arc<str>>| {
            let left = if departures.is_empty() { 0 } else { still_there(answers.next()?, departures).count() };
            Some(number(answers.next()?).unwrap_or_default().saturating_sub(left))
        };
        departures.iter().map(count).collect()
    }

    /// The users of a presence channel on all nodes. Users that have left this node no longer count.
    pub async fn users(&self, app: &str, channel: &ChannelName) -> Option<Vec<String>> {
        let key = self.names.users(app, &Topic::Channel(channel.clone()));
        let departures = self.pending_departures(app, channel);
        let mut commands: Vec<Cmd> = nodes_of(&key, &departures).into_iter().collect();
        commands.push(cmd("HKEYS").arg(key).take());
        let answers = self.ask(app, commands).await?;
        let (users, before) = answers.split_last()?;
        let left: HashSet<&str> = before.iter().flat_map(|before| still_there(before, &departures)).collect();
        let mut users = texts(users);
        users.retain(|user_id| !left.contains(&**user_id));
        Some(users)
    }

    /// Users that have left this node and are on no other one, while Redis may not know that yet.
    fn pending_departures(&self, app: &str, channel: &ChannelName) -> Vec<Arc<str>> {
        self.app(app).map(|state| state.pending_departures(channel.as_str())).unwrap_or_default()
    }

    /// The event of a cache channel, and how long it still is. The outer `None` means that nobody answers.
    pub async fn cached(&self, app: &str, channel: &ChannelName) -> Option<Option<(Frame, Duration)>> {
        let key = self.names.cached(app, &Topic::Channel(channel.clone()));
        let ask = vec![cmd("GET").arg(&key).take(), cmd("PTTL").arg(key).take()];
        let answers = self.ask(app, ask).await?;
        let [cached, left] = answers.as_slice() else { return None };
        Some(cached_event(cached, left).map(|(event, left)| (event.frame, left)))
    }

    async fn ask(&self, app: &str, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let mut connection = self.link.lock().as_ref()?.connection.clone();
        if commands.is_empty() {
            // Not counted as a question.
            return Some(Vec::new());
        }
        let began = Instant::now();
        let answers =
            connection.ask(commands).await.and_then(|answers| answers.into_iter().collect::<RedisResult<_>>());
        self.meters.query_finished(app, answers.is_ok().then(|| began.elapsed()));
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
