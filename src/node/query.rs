//! What the application may ask about its channels (Pusher HTTP API, "Attributes").

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

use crate::node::App;
use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::protocol::request::InfoRequest;

/// Why an attribute cannot be told.
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

/// The attributes of one channel, as they go into an answer.
pub type ChannelFacts = Map<String, Value>;

impl App {
    /// What applies to a channel of what a publisher asks for.
    pub fn facts_after_publish(&self, channel: &ChannelName, info: InfoRequest) -> ChannelFacts {
        let found = self.state.channel(channel.as_str(), Instant::now());
        facts(channel, info, found.users, found.subscriptions)
    }

    /// The occupied channels whose names start with `prefix`.
    pub fn channel_list(&self, prefix: &str, info: InfoRequest) -> Result<Map<String, Value>, InfoError> {
        if info.user_count && !prefix.starts_with("presence-") {
            return Err(InfoError::PrefixNotPresence);
        }
        let found = self.state.channels(prefix).into_iter();
        Ok(found
            .map(|(name, found)| (name.to_string(), facts(&name, info, found.users, found.subscriptions).into()))
            .collect())
    }

    /// One channel, occupied or not.
    pub fn channel_facts(&self, channel: &ChannelName, info: InfoRequest) -> Result<ChannelFacts, InfoError> {
        let kind = channel.kind();
        if info.user_count && !kind.presence {
            return Err(InfoError::NotPresence);
        }
        if info.cache && !kind.cached {
            return Err(InfoError::NotCached);
        }
        let found = self.state.channel(channel.as_str(), Instant::now());
        let mut answer = Map::from_iter([("occupied".to_owned(), Value::from(found.subscriptions > 0))]);
        answer.extend(facts(channel, info, found.users, found.subscriptions));
        if info.cache {
            let cached =
                found.cached.map(|(frame, left)| serde_json::json!({ "data": data_of(&frame), "ttl": left.as_secs() }));
            answer.insert("cache".to_owned(), cached.unwrap_or_default());
        }
        Ok(answer)
    }

    /// The distinct users of a presence channel.
    pub fn channel_users(&self, channel: &ChannelName) -> Result<Vec<Arc<str>>, InfoError> {
        if !channel.kind().presence {
            return Err(InfoError::NoUsers);
        }
        Ok(self.state.members(channel.as_str()))
    }
}

fn facts(channel: &ChannelName, info: InfoRequest, users: usize, subscriptions: usize) -> ChannelFacts {
    let mut facts = Map::new();
    if info.user_count && channel.kind().presence {
        facts.insert("user_count".to_owned(), users.into());
    }
    if info.subscription_count {
        facts.insert("subscription_count".to_owned(), subscriptions.into());
    }
    facts
}

/// The data of a remembered event.
fn data_of(frame: &Frame) -> Option<Value> {
    #[derive(Deserialize)]
    struct Published {
        data: Value,
    }
    let payload = &frame.bytes()[frame.bytes().len() - frame.payload_len()..];
    serde_json::from_slice(payload).ok().map(|Published { data }| data)
}
