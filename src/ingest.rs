//! Events of Laravel's `redis` broadcaster, which publishes them on channels of Redis instead of posting them to
//! the HTTP API. Every node listens and delivers to its own connections, so no node tells another.

mod complaints;
mod link;

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ingest::complaints::Complaints;
use crate::metrics::IngestMeters;
use crate::metrics::Unfit;
use crate::node::Node;
use crate::node::Publication;
use crate::protocol::broadcast::Broadcast;
use crate::protocol::broadcast::BroadcastError;
use crate::protocol::policy::PolicyError;

/// An app of a database is not forgotten within this time.
const KNOWN_FOR: Duration = Duration::from_secs(20);

/// Takes events from Redis.
#[derive(Debug)]
pub struct Ingest {
    node: Arc<Node>,
    redis: config::Redis,
    /// Prefixes with the ids of their apps, the longest first.
    owners: Vec<(String, String)>,
    meters: IngestMeters,
    complaints: Complaints,
    /// Cancelled by the outcome of the first try to connect.
    tried: CancellationToken,
}

impl Ingest {
    /// Listens to nothing yet.
    pub fn new(node: Arc<Node>, ingest: &config::Ingest, redis: &config::Redis) -> Self {
        let mut owners: Vec<_> =
            ingest.owners().map(|(prefix, app_id)| (prefix.to_owned(), app_id.to_owned())).collect();
        owners.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let meters = node.metrics().ingest();
        let (complaints, tried) = (Complaints::default(), CancellationToken::new());
        Self { node, redis: redis.clone(), owners, meters, complaints, tried }
    }

    /// Listens until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let known = async {
            loop {
                tokio::time::sleep(KNOWN_FOR).await;
                self.look_up_apps().await;
            }
        };
        self.look_up_apps().await;
        tokio::select! {
            () = link::keep(&self, &stop) => (),
            () = known => (),
        }
    }

    /// From now on the apps are known here for a while, where a database holds them.
    async fn look_up_apps(&self) {
        for (_, app_id) in &self.owners {
            if let Err(error) = self.node.load_by_id(app_id).await {
                tracing::warn!(%error, app_id, "Laravel's events in Redis have no app now");
            }
        }
    }

    /// Ends when events are listened to, or when the first try has failed.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// What to listen to. Of prefixes that begin alike only the shortest, so that each message comes once.
    fn patterns(&self) -> Vec<String> {
        let covered = |prefix: &str| {
            self.owners.iter().any(|(other, _)| prefix.len() > other.len() && prefix.starts_with(other.as_str()))
        };
        let prefixes = self.owners.iter().map(|(prefix, _)| prefix).filter(|prefix| !covered(prefix));
        prefixes.map(|prefix| pattern(prefix)).collect()
    }

    /// A message on a channel of Redis. Blocks the thread while shards lag too far behind.
    fn hear(&self, redis_channel: &[u8], message: &[u8]) {
        match self.deliver(redis_channel, message) {
            Ok(()) => self.meters.messages.inc(),
            Err(why) => {
                self.meters.dropped(why.unfit());
                self.complaints.tell_of(&why, redis_channel, Instant::now());
            }
        }
    }

    fn deliver(&self, redis_channel: &[u8], message: &[u8]) -> Result<(), Dropped> {
        let (channel, app_id) = self.owner_of(redis_channel).ok_or(BroadcastError::Foreign)?;
        let app = self.node.app_by_id(app_id).filter(|app| app.rules().said.enabled).ok_or(Dropped::NoApp)?;
        let Broadcast { name, data, channel, except } = Broadcast::parse(channel, message, app.publish_limits())?;
        let other =
            app.destination_by_rules(&channel).inspect_err(|why| app.meters.forbidden(why.rule(), "publish"))?;
        let channel = other.unwrap_or(channel);
        if !self.node.inboxes().wait_for_room() {
            return Err(Dropped::Overloaded);
        }
        app.publish_here(&channel, &Publication { name: &name, data: &data, except }, Instant::now());
        Ok(())
    }

    /// The name of a channel without its prefix, and the id of the app that it belongs to.
    fn owner_of<'a>(&self, redis_channel: &'a [u8]) -> Option<(&'a str, &str)> {
        let (prefix, app_id) = self.owners.iter().find(|(prefix, _)| redis_channel.starts_with(prefix.as_bytes()))?;
        Some((std::str::from_utf8(&redis_channel[prefix.len()..]).ok()?, app_id))
    }
}

/// Why a message is not delivered.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("its app is not there, or disabled; see ingest.prefixes")]
    NoApp,
    #[error("the connections here cannot keep up")]
    Overloaded,
}

impl Dropped {
    fn unfit(&self) -> Unfit {
        match self {
            Self::Broadcast(BroadcastError::Foreign) => Unfit::Foreign,
            Self::Broadcast(BroadcastError::Encrypted) => Unfit::Encrypted,
            Self::Broadcast(BroadcastError::Refused(_)) | Self::Policy(_) => Unfit::Refused,
            Self::NoApp => Unfit::NoApp,
            Self::Overloaded => Unfit::Overloaded,
        }
    }
}

/// The pattern for whatever begins with `prefix`, of which no letter has a meaning of its own.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if "*?[]\\".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + "*"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_of_a_prefix_has_a_meaning_of_its_own() {
        assert_eq!(pattern("laravel_database_"), "laravel_database_*");
        assert_eq!(pattern(r"a*?[b-c]^\é"), r"a\*\?\[b-c\]^\\é*");
        assert_eq!(pattern(""), "*");
    }
}
