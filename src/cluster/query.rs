//! What is on the other nodes, as Redis knows it. Without a link, or when Redis does not answer, nothing.

use std::collections::HashMap;
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
use crate::cluster::names;
use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::registry::outgoing::Topic;

impl Cluster {
    /// Connections on a channel, those of this node left out.
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

    /// Distinct users of presence channels, on all nodes.
    pub async fn user_counts(&self, app: &str, channels: &[ChannelName]) -> Option<Vec<usize>> {
        let ask = |name: &ChannelName| cmd("HLEN").arg(self.names.users(app, &Topic::Channel(name.clone()))).take();
        let counts = self.ask(app, channels.iter().map(ask).collect()).await?;
        Some(counts.iter().map(|count| number(count).unwrap_or_default()).collect())
    }

    /// The users of a presence channel, on all nodes.
    pub async fn users(&self, app: &str, channel: &ChannelName) -> Option<Vec<String>> {
        let key = self.names.users(app, &Topic::Channel(channel.clone()));
        Some(answers::texts(&self.ask(app, vec![cmd("HKEYS").arg(key).take()]).await?.pop()?))
    }

    /// The event that a cache channel remembers, and how long it will be. The outer nothing is for no answer.
    pub async fn cached(&self, app: &str, channel: &ChannelName) -> Option<Option<(Frame, Duration)>> {
        let key = self.names.cached(app, &Topic::Channel(channel.clone()));
        let ask = vec![cmd("GET").arg(&key).take(), cmd("PTTL").arg(key).take()];
        let answers = self.ask(app, ask).await?;
        let [cached, left] = answers.as_slice() else { return None };
        Some(cached_event(cached, left).map(|(event, left)| (event.frame, left)))
    }

    async fn ask(&self, app: &str, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let mut connection = self.asking.lock().clone()?;
        if commands.is_empty() {
            return Some(Vec::new());
        }
        let began = Instant::now();
        let answers =
            connection.ask(commands).await.and_then(|answers| answers.into_iter().collect::<RedisResult<_>>());
        self.meters.asked(app, answers.is_ok().then(|| began.elapsed()));
        answers.inspect_err(|error| tracing::warn!(%error, "Redis does not tell what is on the other nodes")).ok()
    }
}
