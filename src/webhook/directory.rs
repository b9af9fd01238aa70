//! What the nodes together have, so that one of them tells that it has begun or ended: the first to have it, and the
//! last. Without Redis each node decides for itself.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::Cluster;
use crate::cluster::Connection;
use crate::cluster::LEASE;
use crate::cluster::LEASE_SCRIPT;
use crate::cluster::Suspects;
use crate::cluster::renew;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::webhook::Webhooks;
use crate::webhook::leaving::Left;
use crate::webhook::news::News;
use crate::webhook::news::Outcome;
use crate::webhook::news::TELL_SCRIPT;
use crate::webhook::news::complain_of;

/// How often a node says that it lives, or looks for Redis.
const RENEW: Duration = Duration::from_secs(2);
/// How long it is remembered that a node was taken for dead.
const BURIED: Duration = Duration::from_secs(3600);
/// Things that are said in one round trip.
const ROUND_MAX: usize = 1000;
/// The longest channel name that another node may have.
const NAME_LENGTH_MAX: usize = 1024;

/// See the module.
pub(super) struct Directory {
    webhooks: Arc<Webhooks>,
    cluster: Arc<Cluster>,
    link: Option<Link>,
    /// What this node has.
    held: HashSet<Left>,
    suspects: Suspects,
    next: Instant,
    has_buried: bool,
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    tell: String,
    lease: String,
    since: Instant,
}

impl Directory {
    pub(super) fn new(webhooks: Arc<Webhooks>, cluster: Arc<Cluster>) -> Self {
        Self {
            webhooks,
            cluster,
            link: None,
            held: HashSet::new(),
            suspects: Suspects::default(),
            next: Instant::now(),
            has_buried: false,
        }
    }

    /// When to call [`Directory::tick`] next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether this node has told since the last time what a dead one had.
    pub(super) fn has_buried(&mut self) -> bool {
        std::mem::take(&mut self.has_buried)
    }

    /// What becomes of this: others may have the same, or it waits in Redis now. Nothing when Redis is away.
    pub(super) async fn decide(&mut self, news: &[News]) -> Option<Vec<Outcome>> {
        self.say(self.cluster.node(), news).await
    }

    /// This has been told, or never will be. When Redis is back it hears what this node has by then.
    pub(super) fn note(&mut self, news: &[News]) {
        for News { what, begins, .. } in news {
            match begins {
                Some(true) => drop(self.held.insert(what.clone())),
                Some(false) => drop(self.held.remove(what)),
                None => (),
            }
        }
    }

    /// Says that this node lives, or looks for Redis. Returns what others have left behind for ever, and what is here
    /// although others took this node for dead.
    pub(super) async fn tick(&mut self) -> Vec<(News, Outcome)> {
        self.next = Instant::now() + RENEW;
        let mut news = Vec::new();
        if let Err(error) = self.look_around(&mut news).await {
            self.lose(&error);
        }
        news
    }

    /// Leaves what was here to the other nodes: after `delay` one of them tells what nobody has by then. False when
    /// there are none.
    pub(super) async fn hand_over(&mut self, delay: Duration) -> bool {
        let Some(link) = &mut self.link else { return false };
        let (names, node) = (self.cluster.names().webhook_leases(), self.cluster.node());
        let leases = renew(&mut link.connection, &link.lease, &names, (node, delay)).await;
        leases.is_ok_and(|leases| leases.living.iter().any(|other| *other != node))
    }

    /// Nothing is here any more.
    pub(super) async fn leave(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let (names, node) = (self.cluster.names(), self.cluster.node());
        let last = vec![
            cmd("DEL").arg(names.held(node)).take(),
            cmd("ZREM").arg(names.webhook_leases()).arg(node.to_string()).take(),
        ];
        // Otherwise somebody else finds it out.
        let _ = link.connection.ask(last).await;
    }

    fn lose(&mut self, error: &redis::RedisError) {
        // Without a webhook nothing is lost, and the link to the other nodes has a line of its own.
        if self.link.take().is_none() || !self.webhooks.has_endpoints() {
            return;
        }
        let place = self.cluster.redis_place();
        match self.webhooks.streams {
            Some(_) => tracing::warn!(place, %error, "webhooks lose Redis; what happens meanwhile waits in memory"),
            None => {
                tracing::warn!(place, %error, "webhooks lose Redis; each node decides by itself which events they tell")
            }
        }
    }

    async fn look_around(&mut self, news: &mut Vec<(News, Outcome)>) -> RedisResult<()> {
        let (node, names, is_new) = (self.cluster.node(), self.cluster.names(), self.link.is_none());
        let mut link = match self.link.clone() {
            Some(link) => link,
            None => self.connect().await?,
        };
        let leases = renew(&mut link.connection, &link.lease, &names.webhook_leases(), (node, LEASE)).await?;
        let is_settled = link.since.elapsed() > LEASE;
        if is_new || leases.added {
            let buried = link.connection.ask_one(cmd("DEL").arg(names.gravedigger(node)).take()).await?;
            self.link = Some(link);
            news.extend(self.tell_anew(node, buried == Value::Int(1)).await);
        }
        // After a time without Redis every lease has ended, and the nodes come back one after the other.
        let dead = self.suspects.dead(leases.dead);
        for dead in dead.into_iter().filter(|_| is_settled) {
            if self.may_bury(dead).await? {
                news.extend(self.bury(dead).await?);
            }
        }
        Ok(())
    }

    async fn connect(&self) -> RedisResult<Link> {
        let mut connection = self.cluster.connect().await?;
        let mut hashes = Vec::new();
        for script in [TELL_SCRIPT, LEASE_SCRIPT] {
            let hash = connection.ask_one(cmd("SCRIPT").arg("LOAD").arg(script).take()).await?;
            hashes.push(redis::from_redis_value::<String>(hash)?);
        }
        let [tell, lease] = hashes.try_into().map_err(|_| io::Error::other("Redis has not loaded the scripts"))?;
        Ok(Link { connection, tell, lease, since: Instant::now() })
    }

    /// Says all that is here; what was noted and is no longer here has ended. Unless others have `buried` this node, and
    /// told that all had ended, it has been told already.
    async fn tell_anew(&mut self, node: NodeId, buried: bool) -> Vec<(News, Outcome)> {
        let noted = self.noted(node).await.unwrap_or_default();
        let gone = noted.into_iter().filter(|what| !self.held.contains(what)).map(|what| (what, false));
        let here = self.held.iter().map(|what| (what.clone(), true));
        let news = gone.chain(here).map(|(what, begins)| News::of_turn(what, begins, &self.webhooks));
        let news = news.map(|news| if buried { news } else { news.silent() }).collect();
        self.tell_for(node, news).await
    }

    /// Whether no other node is about to do it.
    async fn may_bury(&mut self, dead: NodeId) -> RedisResult<bool> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let mut lock = cmd("SET");
        lock.arg(self.cluster.names().gravedigger(dead)).arg(self.cluster.node().to_string()).arg("NX").arg("PX");
        lock.arg(10 * RENEW.as_millis() as u64);
        Ok(link.connection.ask_one(lock).await? != Value::Nil)
    }

    /// Ends what a dead node had.
    async fn bury(&mut self, dead: NodeId) -> RedisResult<Vec<(News, Outcome)>> {
        let had = self.noted(dead).await?;
        if !self.webhooks.look_up(had.iter().map(|what| Arc::clone(&what.app)).collect()).await {
            // Its lease is left as it is, so it is tried again.
            return Ok(Vec::new());
        }
        self.has_buried = true;
        let ends = had.into_iter().map(|what| News::of_turn(what, false, &self.webhooks)).collect();
        let news = self.tell_for(dead, ends).await;
        if let Some(link) = &mut self.link {
            let names = self.cluster.names();
            let forget = cmd("ZREM").arg(names.webhook_leases()).arg(dead.to_string()).take();
            // Should it be alive, it finds out what was told of it.
            let tell = cmd("SET").arg(names.gravedigger(dead)).arg("").arg("EX").arg(BURIED.as_secs()).take();
            link.connection.ask(vec![cmd("DEL").arg(names.held(dead)).take(), forget, tell]).await?;
        }
        Ok(news)
    }

    async fn noted(&mut self, node: NodeId) -> RedisResult<Vec<Left>> {
        let Some(link) = &mut self.link else { return Ok(Vec::new()) };
        let noted = link.connection.ask_one(cmd("SMEMBERS").arg(self.cluster.names().held(node)).take()).await?;
        let texts: Vec<Vec<u8>> = redis::from_redis_value(noted)?;
        let mut noted: Vec<Left> = texts.iter().filter_map(|text| from_note(text)).collect();
        // Members leave before their channel is empty.
        noted.sort_by_key(|what| what.user_id.is_none());
        Ok(noted)
    }

    /// Says what a node begins or ceases to have; what Redis is not there for stays unsaid.
    async fn tell_for(&mut self, node: NodeId, news: Vec<News>) -> Vec<(News, Outcome)> {
        let mut outcomes = Vec::with_capacity(news.len());
        for round in news.chunks(ROUND_MAX) {
            outcomes.extend(self.say(node, round).await.unwrap_or_else(|| vec![Outcome::Old; round.len()]));
        }
        news.into_iter().zip(outcomes).collect()
    }

    /// Says what a node begins or ceases to have, and puts what becomes news by it, or is news anyway, where it waits
    /// in Redis. Nothing without Redis.
    async fn say(&mut self, node: NodeId, news: &[News]) -> Option<Vec<Outcome>> {
        let (link, names) = (self.link.as_mut()?, self.cluster.names());
        let bounds = self.webhooks.stored_max();
        let mut commands: Vec<Cmd> = Vec::with_capacity(2 * news.len());
        let mut places = Vec::with_capacity(news.len());
        for news in news {
            let note = |command| cmd(command).arg(names.held(node)).arg(note(&news.what)).take();
            // Who dies in between leaves more notes than things behind, not fewer.
            if news.begins == Some(true) {
                commands.push(note("SADD"));
            }
            let asks = news.begins.is_some() || bounds.is_some();
            places.push(asks.then_some(commands.len()));
            commands.extend(asks.then(|| news.command(&link.tell, names, Some(node), bounds)));
            if news.begins == Some(false) {
                commands.push(note("SREM"));
            }
        }
        match link.connection.ask_each(commands).await {
            Ok(answers) => {
                complain_of(&answers);
                let outcome = |place: usize| Outcome::read(&answers[place], bounds.is_some());
                Some(places.into_iter().map(|place| place.map_or(Outcome::Ours, outcome)).collect())
            }
            Err(error) => {
                self.lose(&error);
                None
            }
        }
    }
}

/// Something that a node has, as it notes it.
fn note(what: &Left) -> String {
    serde_json::json!([&*what.app, what.channel.as_str(), what.user_id.as_deref()]).to_string()
}

/// What [`note`] has written; nothing when somebody else has.
fn from_note(text: &[u8]) -> Option<Left> {
    let (app, channel, user_id): (String, String, Option<String>) = serde_json::from_slice(text).ok()?;
    let channel = ChannelName::parse(&channel, NAME_LENGTH_MAX).ok()?;
    Some(Left { app: app.into(), channel, user_id: user_id.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_what_was_noted() {
        for user_id in [None, Some("\"7\" \u{e9}")] {
            let channel = ChannelName::parse("presence-a", 200).unwrap();
            let what = Left { app: "app".into(), channel, user_id: user_id.map(Into::into) };
            assert_eq!(from_note(note(&what).as_bytes()), Some(what));
        }
        assert_eq!(from_note(b"[1]"), None);
    }
}
