//! Which nodes have a channel or member, in Redis: the first node to have a channel or member announces that it began,
//! the last one that it ended.
//! `dispatch` asks it; without Redis each node decides for itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::redis::lease::LEASE;
use crate::redis::lease::Suspects;
use crate::redis::lease::renew;
use crate::webhook::Webhooks;
use crate::webhook::debounce::Occupancy;
use crate::webhook::link::WebhookLink;
use crate::webhook::link::WebhookRedis;
use crate::webhook::notification::Notification;
use crate::webhook::notification::Outcome;
use crate::webhook::notification::Transition;
use crate::webhook::notification::warn_rejected;

/// How often a node renews its lease.
const RENEW: Duration = Duration::from_secs(2);
/// How long Redis remembers that a node was cleaned up, in case it still runs.
const CLEANED_UP_TIME: Duration = Duration::from_secs(3600);
/// Notifications in one round trip.
const ROUND_MAX: usize = 1000;
/// The longest channel name that another node may have.
const NAME_LENGTH_MAX: usize = 1024;

/// This node's side of the shared directory.
pub(super) struct Directory {
    webhooks: Arc<Webhooks>,
    redis: Arc<WebhookRedis>,
    node: NodeId,
    /// The link over which this node has announced everything.
    link: Option<Arc<WebhookLink>>,
    /// The occupancies of this node.
    occupied: HashSet<Occupancy>,
    suspects: Suspects,
    next: Instant,
    has_cleaned_up: bool,
}

impl Directory {
    /// The directory of a cluster. `None` on a single node.
    pub(super) fn of(webhooks: &Arc<Webhooks>) -> Option<Self> {
        Some(Self {
            node: webhooks.cluster.as_ref()?.node(),
            redis: webhooks.redis.clone()?,
            webhooks: Arc::clone(webhooks),
            link: None,
            occupied: HashSet::new(),
            suspects: Suspects::default(),
            next: Instant::now(),
            has_cleaned_up: false,
        })
    }

    /// When to call [`Directory::tick`] next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether this node has cleaned up after a crashed node since the last call.
    pub(super) fn has_cleaned_up(&mut self) -> bool {
        std::mem::take(&mut self.has_cleaned_up)
    }

    /// Announces notifications as this node. `None` when Redis is away.
    pub(super) async fn announce(&self, notifications: &[Notification]) -> Option<Vec<Outcome>> {
        self.announce_as(self.node, notifications).await
    }

    /// Remembers what this node has after these notifications. Redis learns it when it is back.
    pub(super) fn record(&mut self, notifications: &[Notification]) {
        for Notification { occupancy, transition, .. } in notifications {
            match transition {
                Some(Transition::Began) => drop(self.occupied.insert(occupancy.clone())),
                Some(Transition::Ended) => drop(self.occupied.remove(occupancy)),
                None => (),
            }
        }
    }

    /// Renews the lease. Returns the notifications for what crashed nodes had, and for what this node has although
    /// peers took it for crashed.
    pub(super) async fn tick(&mut self) -> Vec<(Notification, Outcome)> {
        self.next = Instant::now() + RENEW;
        let mut notifications = Vec::new();
        if let Some(link) = self.redis.link.get()
            && let Err(error) = self.check_nodes(&link, &mut notifications).await
        {
            self.redis.link.fail(&link, error);
        }
        notifications
    }

    /// Hands this node's occupancies to its peers: after `delay` one of them announces the end of those that nobody has
    /// taken over. False when there are no peers.
    pub(super) async fn hand_over(&self, delay: Duration) -> bool {
        let Some(link) = self.link() else { return false };
        let names = self.redis.names.webhook_leases();
        let leases = renew(&mut link.connection.clone(), &link.lease, &names, (self.node, delay)).await;
        leases.is_ok_and(|leases| leases.living.iter().any(|other| *other != self.node))
    }

    /// Removes this node from the directory.
    pub(super) async fn leave(&self) {
        let Some(link) = self.link() else { return };
        let (names, node) = (&self.redis.names, self.node);
        let last = vec![
            cmd("DEL").arg(names.occupancies(node)).take(),
            cmd("ZREM").arg(names.webhook_leases()).arg(node.to_string()).take(),
        ];
        // If this fails, a peer cleans up.
        let _ = link.connection.clone().ask(last).await;
    }

    /// The link, if this node has announced everything over it.
    fn link(&self) -> Option<Arc<WebhookLink>> {
        self.link.clone().filter(|link| self.redis.link.is(link))
    }

    async fn check_nodes(
        &mut self,
        link: &Arc<WebhookLink>,
        notifications: &mut Vec<(Notification, Outcome)>,
    ) -> RedisResult<()> {
        let (mut connection, redis) = (link.connection.clone(), Arc::clone(&self.redis));
        let leases = renew(&mut connection, &link.lease, &redis.names.webhook_leases(), (self.node, LEASE)).await?;
        let is_settled = link.since.elapsed() > LEASE;
        if leases.added || self.link().is_none() {
            let was_cleaned_up =
                connection.ask_one(cmd("DEL").arg(redis.names.webhook_cleanup_lock(self.node)).take()).await?;
            self.link = Some(Arc::clone(link));
            notifications.extend(self.announce_all(was_cleaned_up == Value::Int(1)).await);
        }
        // When Redis has been away, all leases have ended, and the nodes return one after the other.
        let crashed = self.suspects.crashed(leases.ended);
        for crashed in crashed.into_iter().filter(|_| is_settled) {
            if self.may_clean_up(crashed).await? {
                notifications.extend(self.clean_up(crashed).await?);
            }
        }
        Ok(())
    }

    /// Announces everything that this node has, and the end of what it had recorded and no longer has. The endpoints
    /// hear of it only if peers have cleaned up after this node, and so announced the end.
    async fn announce_all(&mut self, was_cleaned_up: bool) -> Vec<(Notification, Outcome)> {
        let recorded = self.recorded_by(self.node).await.unwrap_or_default();
        let gone = recorded
            .into_iter()
            .filter(|occupancy| !self.occupied.contains(occupancy))
            .map(|occupancy| (occupancy, Transition::Ended));
        let here = self.occupied.iter().map(|occupancy| (occupancy.clone(), Transition::Began));
        let notifications = gone
            .chain(here)
            .map(|(occupancy, transition)| Notification::of_transition(occupancy, transition, &self.webhooks));
        let notifications = notifications
            .map(|notification| if was_cleaned_up { notification } else { notification.without_endpoints() })
            .collect();
        self.announce_all_as(self.node, notifications).await
    }

    /// Takes the lock to clean up after a crashed node. False when a peer has it.
    async fn may_clean_up(&self, crashed: NodeId) -> RedisResult<bool> {
        let Some(link) = self.link() else { return Ok(false) };
        let mut lock = cmd("SET");
        lock.arg(self.redis.names.webhook_cleanup_lock(crashed)).arg(self.node.to_string()).arg("NX").arg("PX");
        lock.arg(10 * RENEW.as_millis() as u64);
        Ok(link.connection.clone().ask_one(lock).await? != Value::Nil)
    }

    /// Announces the end of everything that a crashed node had.
    async fn clean_up(&mut self, crashed: NodeId) -> RedisResult<Vec<(Notification, Outcome)>> {
        let had = self.recorded_by(crashed).await?;
        if !self.webhooks.look_up(had.iter().map(|occupancy| Arc::clone(&occupancy.app)).collect()).await {
            // Its lease stays, so the next check tries again.
            return Ok(Vec::new());
        }
        self.has_cleaned_up = true;
        let ends = had
            .into_iter()
            .map(|occupancy| Notification::of_transition(occupancy, Transition::Ended, &self.webhooks))
            .collect();
        let notifications = self.announce_all_as(crashed, ends).await;
        if let Some(link) = self.link() {
            let names = &self.redis.names;
            let forget = cmd("ZREM").arg(names.webhook_leases()).arg(crashed.to_string()).take();
            // If the node still runs, it finds this and announces everything again.
            let note = cmd("SET")
                .arg(names.webhook_cleanup_lock(crashed))
                .arg("")
                .arg("EX")
                .arg(CLEANED_UP_TIME.as_secs())
                .take();
            link.connection.clone().ask(vec![cmd("DEL").arg(names.occupancies(crashed)).take(), forget, note]).await?;
        }
        Ok(notifications)
    }

    async fn recorded_by(&self, node: NodeId) -> RedisResult<Vec<Occupancy>> {
        let Some(link) = self.link() else { return Ok(Vec::new()) };
        let recorded =
            link.connection.clone().ask_one(cmd("SMEMBERS").arg(self.redis.names.occupancies(node)).take()).await?;
        let texts: Vec<Vec<u8>> = redis::from_redis_value(recorded)?;
        let mut recorded: Vec<Occupancy> = texts.iter().filter_map(|text| decode(text)).collect();
        // Members come before their channel, which ends last.
        recorded.sort_by_key(|occupancy| occupancy.user_id.is_none());
        Ok(recorded)
    }

    /// Announces any number of notifications as `node`. Those that Redis does not get are not announced.
    async fn announce_all_as(&self, node: NodeId, notifications: Vec<Notification>) -> Vec<(Notification, Outcome)> {
        let mut outcomes = Vec::with_capacity(notifications.len());
        for round in notifications.chunks(ROUND_MAX) {
            outcomes
                .extend(self.announce_as(node, round).await.unwrap_or_else(|| vec![Outcome::Duplicate; round.len()]));
        }
        notifications.into_iter().zip(outcomes).collect()
    }

    /// Records what `node` begins or ceases to have. Notifications that are events after that go into the endpoints'
    /// streams. `None` without Redis.
    async fn announce_as(&self, node: NodeId, notifications: &[Notification]) -> Option<Vec<Outcome>> {
        let (link, names) = (self.link()?, &self.redis.names);
        let bounds = self.webhooks.stream_bounds();
        let mut commands: Vec<Cmd> = Vec::with_capacity(2 * notifications.len());
        let mut places = Vec::with_capacity(notifications.len());
        for notification in notifications {
            let record =
                |command| cmd(command).arg(names.occupancies(node)).arg(encode(&notification.occupancy)).take();
            // A node that crashes in between has recorded too much, never too little.
            if notification.transition == Some(Transition::Began) {
                commands.push(record("SADD"));
            }
            let asks = notification.transition.is_some() || bounds.is_some();
            places.push(asks.then_some(commands.len()));
            commands.extend(asks.then(|| notification.command(&link.announce, names, Some(node), bounds)));
            if notification.transition == Some(Transition::Ended) {
                commands.push(record("SREM"));
            }
        }
        let answers = self.redis.ask(&link, commands).await?;
        warn_rejected(&answers);
        let outcome = |place: usize| Outcome::read(&answers[place], bounds.is_some());
        Some(places.into_iter().map(|place| place.map_or(Outcome::Local, outcome)).collect())
    }
}

/// An occupancy, as nodes record it in Redis.
fn encode(occupancy: &Occupancy) -> String {
    serde_json::json!([&*occupancy.app, occupancy.channel.as_str(), occupancy.user_id.as_deref()]).to_string()
}

/// Reads what [`encode`] wrote; `None` for anything else.
fn decode(text: &[u8]) -> Option<Occupancy> {
    let (app, channel, user_id): (String, String, Option<String>) = serde_json::from_slice(text).ok()?;
    let channel = ChannelName::parse(&channel, NAME_LENGTH_MAX).ok()?;
    Some(Occupancy { app: app.into(), channel, user_id: user_id.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_what_was_noted() {
        for user_id in [None, Some("\"7\" \u{e9}")] {
            let channel = ChannelName::parse("presence-a", 200).unwrap();
            let occupancy = Occupancy { app: "app".into(), channel, user_id: user_id.map(Into::into) };
            assert_eq!(decode(encode(&occupancy).as_bytes()), Some(occupancy));
        }
        assert_eq!(decode(b"[1]"), None);
    }
}
