//! Asks for the state of the other nodes. Without a link, or when nobody answers, the result is `None`.
//! `node::query` calls it.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::bus::Departures;
use crate::cluster::directory::Directory;
use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;

impl Cluster {
    /// Connections on a channel, without those of this node.
    pub async fn subscriptions_elsewhere(&self, app: &str, channel: &ChannelName) -> Option<usize> {
        let (directory, peers) = (self.directory()?, self.peers());
        if peers.is_empty() {
            // Not counted as a question.
            return Some(0);
        }
        let connections = self.count_question(app, directory.connections(app, channel, &peers)).await?;
        Some(connections.iter().sum())
    }

    /// The occupied channels of the other nodes, with their connections there.
    pub async fn channels_elsewhere(&self, app: &str) -> Option<HashMap<ChannelName, usize>> {
        let (directory, peers) = (self.directory()?, self.peers());
        let mut channels = HashMap::new();
        if peers.is_empty() {
            return Some(channels);
        }
        let occupied = self.count_question(app, directory.channels(&[app], &peers)).await?;
        for (name, count) in occupied.into_iter().flatten().flatten() {
            *channels.entry(name).or_default() += count;
        }
        Some(channels)
    }

    /// Distinct users of presence channels on all nodes. Users that have left this node no longer count.
    pub async fn user_counts(&self, app: &str, channels: &[ChannelName]) -> Option<Vec<usize>> {
        let directory = self.directory()?;
        if channels.is_empty() {
            return Some(Vec::new());
        }
        let of: Vec<_> = channels.iter().map(|channel| (channel, self.pending_departures(app, channel))).collect();
        self.count_question(app, directory.user_counts(app, &of)).await
    }

    /// The users of a presence channel on all nodes. Users that have left this node no longer count.
    pub async fn users(&self, app: &str, channel: &ChannelName) -> Option<Vec<String>> {
        let directory = self.directory()?;
        let departures = self.pending_departures(app, channel);
        self.count_question(app, directory.users(app, channel, &departures)).await
    }

    /// Users that have left this node and are on no other one, while the others may not know that yet.
    fn pending_departures(&self, app: &str, channel: &ChannelName) -> Departures {
        self.app(app).map(|state| state.pending_departures(channel.as_str())).unwrap_or_default()
    }

    /// The event of a cache channel, and how long it still is. The outer `None` means that nobody answers.
    pub async fn cached(&self, app: &str, channel: &ChannelName) -> Option<Option<(Frame, Duration)>> {
        let directory = self.directory()?;
        let cached = self.count_question(app, directory.cached(app, channel)).await?;
        Some(cached.map(|(event, left)| (event.frame, left)))
    }

    /// The records of all nodes, while there is a link.
    pub(super) fn directory(&self) -> Option<Directory> {
        self.link.lock().as_ref().map(|link| link.directory.clone())
    }

    async fn count_question<T>(&self, app: &str, answer: impl Future<Output = Option<T>>) -> Option<T> {
        let began = Instant::now();
        let answer = answer.await;
        self.meters.query_finished(app, answer.is_some().then(|| began.elapsed()));
        answer
    }
}
