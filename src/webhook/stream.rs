//! What waits for endpoints in Redis: a stream for each, which outlives the nodes. One node at a time delivers from
//! it; when that node dies another one goes on with what was not delivered.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use redis::Cmd;
use redis::RedisError;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::sync::Mutex;

use crate::cluster::Connection;
use crate::cluster::Names;
use crate::config;
use crate::protocol::envelope::NodeId;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::news::Bounds;
use crate::webhook::news::News;
use crate::webhook::news::Outcome;
use crate::webhook::news::TELL_SCRIPT;
use crate::webhook::news::complain_of;

/// Until another node may take over from one that says nothing.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// Beyond so many bytes a request takes no further event.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Between two tries to reach Redis.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Streams {
    names: Names,
    options: config::Redis,
    node: NodeId,
    state: Mutex<State>,
    /// The operator knows that Redis refuses something over this link.
    has_refused: AtomicBool,
}

enum State {
    Linked(Link),
    LostAt(Option<Instant>),
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    tell: String,
    take: String,
    done: String,
    keep: String,
}

/// What waits for an endpoint, and the first of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Taken {
    pub(super) waiting: usize,
    pub(super) ids: Vec<String>,
    pub(super) texts: Vec<Arc<str>>,
}

impl Taken {
    /// When the first was put in, by Redis' clock, which is in its id.
    pub(super) fn since(&self) -> Instant {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = self.ids.first().and_then(|id| id.split('-').next()?.parse().ok());
        let age = millis.map_or(Duration::ZERO, |millis| now.saturating_sub(Duration::from_millis(millis)));
        Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn new(cluster: &config::Cluster, redis: &config::Redis) -> Self {
        Self {
            names: Names::new(&cluster.name, &redis.key_prefix),
            options: redis.clone(),
            node: NodeId::random(),
            state: Mutex::new(State::LostAt(None)),
            has_refused: AtomicBool::new(false),
        }
    }

    /// Puts events where they wait, within these bounds. Nothing when Redis is away.
    pub(super) async fn put(&self, news: &[News], bounds: Option<Bounds>) -> Option<Vec<Outcome>> {
        let command = |link: &Link, news: &News| news.command(&link.tell, &self.names, None, bounds);
        let answers = self.ask(|link| news.iter().map(|news| command(link, news)).collect()).await?;
        complain_of(&answers);
        Some(answers.iter().map(|answer| Outcome::read(answer, true)).collect())
    }

    /// The first events that wait. Nothing when another node delivers them, or when Redis is away.
    pub(super) async fn take(&self, endpoint: &Endpoint, events_max: usize) -> Option<Taken> {
        let keys = [self.queue(endpoint), self.owner(endpoint)];
        let command = |link: &Link| script(&link.take, &keys).arg(self.node.to_string()).arg(events_max).take();
        taken(self.ask_one(|link| command(link).arg(LEASE.as_millis() as u64).take()).await?)
    }

    /// These have been delivered. False when it is no longer for this node to say so, or when Redis does not know it.
    pub(super) async fn done(&self, endpoint: &Endpoint, ids: &[String]) -> bool {
        let keys = [self.queue(endpoint), self.owner(endpoint)];
        let done = self.ask_one(|link| script(&link.done, &keys).arg(self.node.to_string()).arg(ids).take());
        done.await == Some(Value::Int(1))
    }

    /// This node goes on delivering. False when it must not.
    pub(super) async fn keep(&self, endpoint: &Endpoint) -> bool {
        self.lease(endpoint, LEASE).await
    }

    /// Another node may take over.
    pub(super) async fn leave(&self, endpoint: &Endpoint) {
        self.lease(endpoint, Duration::ZERO).await;
    }

    async fn lease(&self, endpoint: &Endpoint, time: Duration) -> bool {
        let (owner, node, millis) = ([self.owner(endpoint)], self.node.to_string(), time.as_millis() as u64);
        self.ask_one(|link| script(&link.keep, &owner).arg(node).arg(millis).take()).await == Some(Value::Int(1))
    }

    /// Notes that something waits for an endpoint, or that nothing does, for nodes that do not know its app.
    pub(super) async fn note(&self, endpoint: &Endpoint, waits: bool) -> bool {
        let note = format!("{}:{}", endpoint.stream(), endpoint.app);
        let mut command = cmd(if waits { "SADD" } else { "SREM" });
        command.arg(self.names.webhook_queues()).arg(note);
        self.ask_one(|_| command).await.is_some()
    }

    /// The apps that something waits for, as nodes have noted; nothing when Redis is away.
    pub(super) async fn noted(&self) -> Option<BTreeSet<Arc<str>>> {
        let answer = self.ask_one(|_| cmd("SMEMBERS").arg(self.names.webhook_queues()).take()).await?;
        let notes: Vec<Vec<u8>> = redis::from_redis_value(answer).unwrap_or_default();
        let app = |note: &Vec<u8>| Some(std::str::from_utf8(note).ok()?.split_once(':')?.1.into());
        Some(notes.iter().filter_map(app).collect())
    }

    /// Whether Redis has answered last time.
    pub(super) async fn is_linked(&self) -> bool {
        matches!(&*self.state.lock().await, State::Linked(_))
    }

    fn queue(&self, endpoint: &Endpoint) -> String {
        self.names.webhook_queue(&endpoint.app, endpoint.stream())
    }

    fn owner(&self, endpoint: &Endpoint) -> String {
        self.names.webhook_owner(&endpoint.app, endpoint.stream())
    }

    /// What Redis refuses for the sake of one endpoint's keys harms no other endpoint.
    async fn ask_one(&self, command: impl FnOnce(&Link) -> Cmd) -> Option<Value> {
        let answer = self.ask(|link| vec![command(link)]).await?.pop()?;
        if let Err(error) = &answer
            && !self.has_refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "Redis refuses something that webhooks need");
        }
        answer.ok()
    }

    async fn ask(&self, commands: impl FnOnce(&Link) -> Vec<Cmd>) -> Option<Vec<RedisResult<Value>>> {
        let mut link = self.link().await?;
        match link.connection.ask_each(commands(&link)).await {
            Ok(answers) => Some(answers),
            Err(error) => {
                let mut state = self.state.lock().await;
                if matches!(&*state, State::Linked(_)) {
                    tell_of(&self.options.place(), &error);
                }
                *state = State::LostAt(Some(Instant::now()));
                None
            }
        }
    }

    async fn link(&self) -> Option<Link> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Linked(link) => return Some(link.clone()),
            State::LostAt(Some(lost)) if lost.elapsed() < RETRY => return None,
            State::LostAt(_) => (),
        }
        match self.open().await {
            Ok(link) => {
                self.has_refused.store(false, Ordering::Relaxed);
                *state = State::Linked(link.clone());
                Some(link)
            }
            Err(error) => {
                if matches!(&*state, State::LostAt(None)) {
                    tell_of(&self.options.place(), &error);
                }
                *state = State::LostAt(Some(Instant::now()));
                None
            }
        }
    }

    async fn open(&self) -> RedisResult<Link> {
        let mut connection = Connection::open(&self.options, |_| ()).await?;
        let mut hashes = Vec::new();
        let own = [include_str!("take.lua"), include_str!("done.lua"), include_str!("keep.lua")];
        for source in std::iter::once(TELL_SCRIPT).chain(own) {
            let hash = connection.ask_one(cmd("SCRIPT").arg("LOAD").arg(source).take()).await?;
            hashes.push(redis::from_redis_value::<String>(hash)?);
        }
        let hashes = hashes.try_into().map_err(|_| io::Error::other("Redis has not loaded the scripts"));
        let [tell, take, done, keep] = hashes?;
        Ok(Link { connection, tell, take, done, keep })
    }
}

fn script(hash: &str, keys: &[String]) -> Cmd {
    cmd("EVALSHA").arg(hash).arg(keys.len()).arg(keys).take()
}

fn tell_of(place: &str, error: &RedisError) {
    tracing::warn!(place, %error, "Redis does not take webhooks; what happens meanwhile waits in the memory of this node");
}

/// What the script has answered. Whoever can write to Redis may have written anything, so what does not fit is no text.
fn taken(answer: Value) -> Option<Taken> {
    let Value::Array(parts) = answer else { return None };
    let [waiting, events]: [Value; 2] = parts.try_into().ok()?;
    let mut taken = Taken { waiting: redis::from_redis_value(waiting).ok()?, ..Taken::default() };
    let Value::Array(events) = events else { return Some(taken) };
    let mut bytes = 0;
    for event in events {
        // The rest is taken again with the next request.
        if bytes > REQUEST_BYTES_MAX {
            break;
        }
        // What has been dropped meanwhile has lost its fields.
        let Ok((id, fields)) = redis::from_redis_value::<(String, Option<Vec<Vec<u8>>>)>(event) else { continue };
        let text = fields.into_iter().flatten().nth(1).and_then(|text| String::from_utf8(text).ok());
        let text = text.filter(|text| is_event(text));
        bytes += text.as_ref().map_or(0, String::len);
        taken.texts.extend(text.map(Arc::from));
        taken.ids.push(id);
    }
    Some(taken)
}

fn is_event(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn what_is_no_event_is_left_out_and_still_done_with() {
        let event = |id: &str, said: Value| Value::Array(vec![text(id), Value::Array(vec![text("event"), said])]);
        let no_text = Value::BulkString(vec![0xff, 0xfe]);
        let gone = Value::Array(vec![text("4-0"), Value::Nil]);
        let events = vec![event("1-0", text("{}")), event("2-0", text("junk")), event("3-0", no_text), gone, text("x")];
        let taken = taken(Value::Array(vec![Value::Int(5), Value::Array(events)])).unwrap();
        assert_eq!((taken.waiting, taken.texts.len()), (5, 1));
        assert_eq!(taken.ids, ["1-0", "2-0", "3-0", "4-0"]);
        assert_eq!(super::taken(Value::Nil), None);
    }
}
