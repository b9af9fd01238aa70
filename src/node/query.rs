//! Queries about channels and members (Pusher HTTP API, "Attributes"), over all nodes.
//! `http::channels` and `http::events` call it.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::node::App;
use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::protocol::request::InfoRequest;

/// Why an attribute cannot be returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// `user_count` of a channel without users.
    #[error("Cannot retrieve the user count unless the channel is a presence channel")]
    NotPresence,
    /// `user_count` of channels that may be of any kind. The spelling is Pusher's.
    #[error(
        "user_count may only be requested for presence channels - please supply filter_by_prefix begining with presence-"
    )]
    PrefixNotPresence,
    /// `cache` of a channel that has none.
    #[error("Cannot retrieve the cache unless the channel is a cache channel")]
    NotCached,
    /// `/users` of a channel without users.
    #[error("Users can only be retrieved for presence channels")]
    NoUsers,
}

/// The attributes of a channel, as in the response.
type Attributes = Map<String, Value>;

/// The answer about one channel.
#[derive(Debug, Serialize)]
pub struct ChannelInfo {
    occupied: bool,
    #[serde(flatten)]
    attributes: Attributes,
    /// Only if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Option<Remembered>>,
}

/// The stored event of a cache channel.
#[derive(Debug, Serialize)]
struct Remembered {
    /// As it was published: it may not be valid Unicode, such as half of a surrogate pair.
    data: Option<Box<RawValue>>,
    /// In seconds.
    ttl: u64,
}

impl App {
    /// The attributes that a publisher asks for, as far as they apply to the channel.
    pub async fn publish_info(&self, channel: &ChannelName, info: InfoRequest) -> Attributes {
        attributes(channel, info, &self.counts(channel, info).await)
    }

    /// The occupied channels whose names start with `prefix`.
    pub async fn channel_list(&self, prefix: &str, info: InfoRequest) -> Result<Map<String, Value>, InfoError> {
        if info.user_count && !prefix.starts_with("presence-") {
            return Err(InfoError::PrefixNotPresence);
        }
        let mut found: BTreeMap<ChannelName, Counts> = BTreeMap::new();
        for (name, here) in self.state.channels(prefix) {
            found.insert(name, Counts { users: here.users, subscriptions: here.subscriptions });
        }
        if let Some(cluster) = &self.cluster
            && let Some(elsewhere) = cluster.channels_elsewhere(&self.id).await
        {
            for (name, count) in elsewhere {
                if name.as_str().starts_with(prefix) && name.user().is_none() {
                    found.entry(name).or_default().subscriptions += count;
                }
            }
            let names: Vec<ChannelName> =
                found.keys().filter(|name| info.user_count && name.kind().presence).cloned().collect();
            let users = cluster.user_counts(&self.id, &names).await.unwrap_or_default();
            for (name, users) in names.iter().zip(users) {
                found.entry(name.clone()).or_default().users = users;
            }
        }
        Ok(found.iter().map(|(name, counts)| (name.to_string(), attributes(name, info, counts).into())).collect())
    }

    /// One channel, occupied or not.
    pub async fn channel_info(&self, channel: &ChannelName, info: InfoRequest) -> Result<ChannelInfo, InfoError> {
        let kind = channel.kind();
        if info.user_count && !kind.presence {
            return Err(InfoError::NotPresence);
        }
        if info.cache && !kind.cached {
            return Err(InfoError::NotCached);
        }
        let found = self.counts(channel, InfoRequest { subscription_count: true, ..info }).await;
        let cache = match info.cache {
            true => Some(self.cached(channel).await.map(Remembered::from)),
            false => None,
        };
        Ok(ChannelInfo { occupied: found.subscriptions > 0, attributes: attributes(channel, info, &found), cache })
    }

    /// The user ids of a presence channel.
    pub async fn channel_users(&self, channel: &ChannelName) -> Result<Vec<String>, InfoError> {
        if !channel.kind().presence {
            return Err(InfoError::NoUsers);
        }
        if let Some(cluster) = &self.cluster
            && let Some(users) = cluster.users(&self.id, channel).await
        {
            return Ok(users);
        }
        Ok(self.state.members(channel.as_str()).iter().map(ToString::to_string).collect())
    }

    /// The counts over all nodes. Counts that are not asked for may be of this node only.
    async fn counts(&self, channel: &ChannelName, info: InfoRequest) -> Counts {
        let here = self.state.channel(channel.as_str(), Instant::now());
        let mut counts = Counts { users: here.users, subscriptions: here.subscriptions };
        let Some(cluster) = &self.cluster else { return counts };
        if info.subscription_count {
            counts.subscriptions += cluster.subscriptions_elsewhere(&self.id, channel).await.unwrap_or_default();
        }
        if info.user_count && channel.kind().presence {
            let users = cluster.user_counts(&self.id, std::slice::from_ref(channel)).await;
            counts.users = users.and_then(|users| users.first().copied()).unwrap_or(counts.users);
        }
        counts
    }

    /// The stored event that is kept longest, here or in Redis, and for how long.
    async fn cached(&self, channel: &ChannelName) -> Option<(Frame, Duration)> {
        let together = match &self.cluster {
            Some(cluster) => cluster.cached(&self.id, channel).await.flatten(),
            None => None,
        };
        let here = self.state.channel(channel.as_str(), Instant::now()).cached;
        together.into_iter().chain(here).max_by_key(|(_, left)| *left)
    }
}

/// Users and subscriptions of a channel.
#[derive(Debug, Default)]
struct Counts {
    users: usize,
    subscriptions: usize,
}

fn attributes(channel: &ChannelName, info: InfoRequest, counts: &Counts) -> Attributes {
    let mut attributes = Map::new();
    if info.user_count && channel.kind().presence {
        attributes.insert("user_count".to_owned(), counts.users.into());
    }
    if info.subscription_count {
        attributes.insert("subscription_count".to_owned(), counts.subscriptions.into());
    }
    attributes
}

impl From<(Frame, Duration)> for Remembered {
    fn from((frame, left): (Frame, Duration)) -> Self {
        #[derive(Deserialize)]
        struct Published {
            data: Box<RawValue>,
        }
        let published = serde_json::from_slice(frame.payload()).ok();
        Self { data: published.map(|Published { data }| data), ttl: left.as_secs() }
    }
}
