//! Ingest: events of Laravel's `redis` broadcaster, which publishes them on channels of Redis instead of the HTTP API.
//! `server` runs it. Every node subscribes and delivers to its own connections, so nodes do not forward these events.

mod drop_log;
mod subscription;

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ingest::drop_log::DropLog;
use crate::metrics::IngestDropCause;
use crate::metrics::IngestMeters;
use crate::node::Node;
use crate::node::Publication;
use crate::protocol::broadcast::Broadcast;
use crate::protocol::broadcast::BroadcastError;
use crate::protocol::policy::PolicyError;

/// How often the apps are loaded, so that apps of a database are not forgotten.
const RELOAD_INTERVAL: Duration = Duration::from_secs(20);

/// Receives events from Redis.
#[derive(Debug)]
pub struct Ingest {
    node: Arc<Node>,
    redis: config::Redis,
    /// The app's id by prefix, the longest prefix first.
    apps_by_prefix: Vec<(String, String)>,
    meters: IngestMeters,
    drop_log: DropLog,
    /// Cancelled after the first attempt to connect.
    tried: CancellationToken,
}

impl Ingest {
    /// An ingest that is not subscribed yet.
    pub fn new(node: Arc<Node>, ingest: &config::Ingest, redis: &config::Redis) -> Self {
        let mut apps_by_prefix: Vec<_> =
            ingest.owners().map(|(prefix, app_id)| (prefix.to_owned(), app_id.to_owned())).collect();
        apps_by_prefix.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let meters = node.metrics().ingest();
        let (drop_log, tried) = (DropLog::default(), CancellationToken::new());
        Self { node, redis: redis.clone(), apps_by_prefix, meters, drop_log, tried }
    }

    /// Receives events until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let known = async {
            loop {
                tokio::time::sleep(RELOAD_INTERVAL).await;
                self.load_apps().await;
            }
        };
        self.load_apps().await;
        tokio::select! {
            () = subscription::run(&self, &stop) => (),
            () = known => (),
        }
    }

    /// Loads the apps, where a database holds them.
    async fn load_apps(&self) {
        for (_, app_id) in &self.apps_by_prefix {
            if let Err(error) = self.node.load_by_id(app_id).await {
                tracing::warn!(%error, app_id, "Laravel's events in Redis have no app now");
            }
        }
    }

    /// Waits until the subscription stands, or the first attempt has failed.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// The patterns to subscribe to: of prefixes that begin alike only the shortest, so that each message comes once.
    fn patterns(&self) -> Vec<String> {
        let covered = |prefix: &str| {
            self.apps_by_prefix
                .iter()
                .any(|(other, _)| prefix.len() > other.len() && prefix.starts_with(other.as_str()))
        };
        let prefixes = self.apps_by_prefix.iter().map(|(prefix, _)| prefix).filter(|prefix| !covered(prefix));
        prefixes.map(|prefix| pattern(prefix)).collect()
    }

    /// Handles a message of Redis. Blocks the thread while shards lag too far behind.
    fn on_message(&self, redis_channel: &[u8], message: &[u8]) {
        match self.deliver(redis_channel, message) {
            Ok(()) => self.meters.messages.inc(),
            Err(why) => {
                self.meters.dropped(why.cause());
                self.drop_log.report(&why, redis_channel, Instant::now());
            }
        }
    }

    fn deliver(&self, redis_channel: &[u8], message: &[u8]) -> Result<(), IngestError> {
        let (channel, app_id) = self.owner_of(redis_channel).ok_or(BroadcastError::Foreign)?;
        let app = self.node.app_by_id(app_id).ok_or(IngestError::NoApp)?;
        let rules = app.rules();
        if !rules.settings.enabled {
            return Err(IngestError::NoApp);
        }
        let Broadcast { name, data, channel, except } = Broadcast::parse(channel, message, rules.publish_limits())?;
        let other = rules.destination(&channel).inspect_err(|why| app.count_forbidden("publish", why))?;
        let channel = other.unwrap_or(channel);
        if !self.node.inboxes().wait_for_capacity() {
            return Err(IngestError::Overloaded);
        }
        app.publish_here(&rules, &channel, &Publication { name: &name, data: &data, except }, Instant::now());
        Ok(())
    }

    /// The channel without its prefix, and the app's id.
    fn owner_of<'a>(&self, redis_channel: &'a [u8]) -> Option<(&'a str, &str)> {
        let (prefix, app_id) =
            self.apps_by_prefix.iter().find(|(prefix, _)| redis_channel.starts_with(prefix.as_bytes()))?;
        Some((std::str::from_utf8(&redis_channel[prefix.len()..]).ok()?, app_id))
    }
}

/// Why a message is dropped.
#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("its app is not there, or disabled; see ingest.prefixes")]
    NoApp,
    #[error("the connections here cannot keep up")]
    Overloaded,
}

impl IngestError {
    fn cause(&self) -> IngestDropCause {
        match self {
            Self::Broadcast(BroadcastError::Foreign) => IngestDropCause::Foreign,
            Self::Broadcast(BroadcastError::Encrypted) => IngestDropCause::Encrypted,
            Self::Broadcast(BroadcastError::Refused(_)) | Self::Policy(_) => IngestDropCause::Refused,
            Self::NoApp => IngestDropCause::NoApp,
            Self::Overloaded => IngestDropCause::Overloaded,
        }
    }
}

/// The pattern for channels that begin with `prefix`, whose characters are escaped.
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
