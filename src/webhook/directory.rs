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
use crate::cluster::renew;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::webhook::Event;
use crate::webhook::leaving::Left;

/// How often a node says that it lives, or looks for Redis.
const RENEW: Duration = Duration::from_secs(2);
/// How long it is remembered that a node was taken for dead.
const BURIED: Duration = Duration::from_secs(3600);
/// Things that are said in one round trip.
const ROUND_MAX: usize = 1000;
/// The longest channel name that another node may have.
const NAME_LENGTH_MAX: usize = 1024;

/// Something that this node begins or ceases to have.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) what: Left,
    pub(super) begins: bool,
}

impl Turn {
    /// What is told of it.
    pub(super) fn event(&self) -> Event {
        match (&self.what.user_id, self.begins) {
            (None, true) => Event::ChannelOccupied,
            (None, false) => Event::ChannelVacated,
            (Some(user_id), true) => Event::MemberAdded(Arc::clone(user_id)),
            (Some(user_id), false) => Event::MemberRemoved(Arc::clone(user_id)),
        }
    }
}

/// See the module.
pub(super) struct Directory {
    cluster: Arc<Cluster>,
    link: Option<Link>,
    /// What this node has.
    held: HashSet<Left>,
    next: Instant,
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    holders: String,
    lease: String,
    since: Instant,
}

impl Directory {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, link: None, held: HashSet::new(), next: Instant::now() }
    }

    /// When to call [`Directory::tick`] next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Which of these an application has to hear of: what no other node has.
    pub(super) async fn decide(&mut self, turns: &[Turn]) -> Vec<bool> {
        for Turn { what, begins } in turns {
            match begins {
                true => drop(self.held.insert(what.clone())),
                false => drop(self.held.remove(what)),
            }
        }
        let mut news = Vec::with_capacity(turns.len());
        for round in turns.chunks(ROUND_MAX) {
            news.extend(self.say(self.cluster.node(), round).await.unwrap_or_else(|| vec![true; round.len()]));
        }
        news
    }

    /// Says that this node lives, or looks for Redis. Returns what others have left behind for ever, and what is here
    /// although others took this node for dead.
    pub(super) async fn tick(&mut self) -> Vec<Turn> {
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
        if self.link.take().is_some() {
            tracing::warn!(%error, "webhooks lose Redis; each node decides by itself which events they tell");
        }
    }

    async fn look_around(&mut self, news: &mut Vec<Turn>) -> RedisResult<()> {
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
            let told = self.tell_anew(node).await;
            // Unless others have told that it had ended, it has been told already.
            news.extend(told.into_iter().filter(|_| buried == Value::Int(1)));
        }
        // After a time without Redis every lease has ended, and the nodes come back one after the other.
        let dead = if is_settled { leases.dead } else { Vec::new() };
        for dead in dead {
            if self.may_bury(dead).await? {
                news.extend(self.bury(dead).await?);
            }
        }
        Ok(())
    }

    async fn connect(&self) -> RedisResult<Link> {
        let mut connection = self.cluster.connect().await?;
        let script = include_str!("holders.lua");
        let mut hashes = Vec::new();
        for script in [script, LEASE_SCRIPT] {
            let hash = connection.ask_one(cmd("SCRIPT").arg("LOAD").arg(script).take()).await?;
            hashes.push(redis::from_redis_value::<String>(hash)?);
        }
        let [holders, lease] = hashes.try_into().map_err(|_| io::Error::other("Redis has not loaded the scripts"))?;
        Ok(Link { connection, holders, lease, since: Instant::now() })
    }

    /// Says all that is here; what was noted and is no longer here has ended.
    async fn tell_anew(&mut self, node: NodeId) -> Vec<Turn> {
        let noted = self.noted(node).await.unwrap_or_default();
        let gone = noted.into_iter().filter(|what| !self.held.contains(what)).map(|what| Turn { what, begins: false });
        let here = self.held.iter().map(|what| Turn { what: what.clone(), begins: true });
        let turns: Vec<Turn> = gone.chain(here).collect();
        self.news(node, turns).await
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
    async fn bury(&mut self, dead: NodeId) -> RedisResult<Vec<Turn>> {
        let had = self.noted(dead).await?;
        let news = self.news(dead, had.into_iter().map(|what| Turn { what, begins: false }).collect()).await;
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
        Ok(texts.iter().filter_map(|text| from_note(text)).collect())
    }

    /// Those of a node's turns that no other node has.
    async fn news(&mut self, node: NodeId, turns: Vec<Turn>) -> Vec<Turn> {
        let mut news = Vec::new();
        for round in turns.chunks(ROUND_MAX) {
            let answers = self.say(node, round).await.unwrap_or_default();
            let told = round.iter().zip(answers).filter(|(_, is_news)| *is_news);
            news.extend(told.map(|(turn, _)| turn.clone()));
        }
        news
    }

    /// Says what a node begins or ceases to have; returns what no other node has. Nothing without Redis.
    async fn say(&mut self, node: NodeId, turns: &[Turn]) -> Option<Vec<bool>> {
        let link = self.link.as_mut()?;
        let names = self.cluster.names();
        let mut commands: Vec<Cmd> = Vec::with_capacity(2 * turns.len());
        for Turn { what, begins } in turns {
            let note = cmd(if *begins { "SADD" } else { "SREM" }).arg(names.held(node)).arg(note(what)).take();
            let holders = names.holders(&what.app, &what.channel, what.user_id.as_deref());
            let mut say = cmd("EVALSHA");
            say.arg(&link.holders).arg(1).arg(holders).arg(node.to_string()).arg(if *begins { "1" } else { "" });
            // Who dies in between leaves more notes than things behind, not fewer.
            commands.extend(if *begins { [note, say] } else { [say, note] });
        }
        let answers = link.connection.ask(commands).await;
        let answers = answers.and_then(|answers| answers.into_iter().collect::<RedisResult<Vec<Value>>>());
        match answers {
            Ok(answers) => Some(
                turns
                    .iter()
                    .zip(answers.chunks(2))
                    .map(|(turn, pair)| pair.get(usize::from(turn.begins)) == Some(&Value::Int(1)))
                    .collect(),
            ),
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
