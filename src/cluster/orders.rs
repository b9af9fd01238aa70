//! From orders to Redis' commands, and from its answers to what they mean.

use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use redis::Cmd;
use redis::RedisResult;
use redis::RedisWrite;
use redis::ToRedisArgs;
use redis::Value;
use redis::cmd;

use crate::cluster::Cluster;
use crate::cluster::answers;
use crate::protocol::envelope;
use crate::protocol::envelope::CACHED_MS_MAX;
use crate::protocol::envelope::CONNECTIONS_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::redis::error::is_full;
use crate::redis::names;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::Publish;
use crate::registry::remote::message::UpdateOutcome;

/// The scripts of one link, by the hashes that Redis has given them.
#[derive(Debug, Clone)]
pub(super) struct Scripts {
    pub(super) member: String,
    pub(super) cache: String,
    pub(super) lease: String,
    /// `PUBLISH` or `SPUBLISH`.
    pub(super) publish: &'static str,
}

/// What a node says at once of who is on a topic.
pub(super) struct Statement<'a> {
    pub(super) node: NodeId,
    pub(super) members_max: usize,
    /// Whoever is not named has left.
    pub(super) whole: bool,
    /// Whether to answer with all that are on the topic.
    pub(super) all: bool,
    /// Users with what is told about them; nothing about those that leave.
    pub(super) users: Vec<Told<'a>>,
}

/// A user with what is told about it, and since when: 0 for from now on, `None` when it may be told already.
pub(super) type Told<'a> = (&'a str, &'a str, Option<u64>);

/// What an order still needs to know when its answers come.
#[derive(Debug)]
pub(super) enum Expected {
    Published,
    Opened { has_members: bool, has_cache: bool, peers: Vec<NodeId> },
    Placed,
    Done,
}

/// An event that is written right into a command.
struct Encoded<'a>(&'a RemoteEvent);

impl ToRedisArgs for Encoded<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        self.0.write_to(&mut out.writer_for_next_arg()).expect("a command takes every byte");
    }
}

impl Cluster {
    /// Who says what of a topic, as a command.
    pub(super) fn statement(&self, scripts: &Scripts, app: &str, topic: &Topic, says: &Statement<'_>) -> Cmd {
        let flag = |set: bool| if set { "1" } else { "" };
        let mut command = cmd("EVALSHA");
        command
            .arg(&scripts.member)
            .arg(2)
            .arg(self.names.members(app, topic))
            .arg(self.names.users(app, topic))
            .arg(self.names.topic(app, topic))
            .arg(scripts.publish)
            .arg(envelope::member_head(self.node()))
            .arg(says.node.to_string())
            // As many as a script can count.
            .arg(says.members_max.min(1 << 50))
            .arg(flag(says.whole))
            .arg(flag(says.all));
        for (user_id, user_info, since) in &says.users {
            command.arg(user_id).arg(user_info).arg(since.map(|since| since.to_string()).unwrap_or_default());
        }
        command
    }

    /// The commands of an order, and what to make of the answers: one for each command.
    pub(super) fn commands(&self, scripts: &Scripts, order: &Command, commands: &mut Vec<Cmd>) -> Expected {
        let Command { app, topic, operation } = order;
        match operation {
            Operation::Publish(publish) => {
                commands.push(self.publish(scripts, app, topic, publish));
                Expected::Published
            }
            Operation::Open(_) => self.listen(scripts, app, topic, commands),
            Operation::Close => {
                let still = matches!(topic, Topic::User(user_id) if self.is_online(app, user_id));
                // What Redis had no room to remove must be found again.
                if !still && self.refused.lock().is_none() {
                    commands.push(self.forget(app, topic));
                }
                Expected::Done
            }
            Operation::UpdateMember(placement) => {
                if matches!(topic, Topic::User(_)) && placement.user_info.is_some() {
                    commands.push(self.note(app, topic, 0));
                }
                commands.push(self.place(scripts, app, topic, placement));
                Expected::Placed
            }
            Operation::PublishCount => {
                let Topic::Channel(name) = topic else { return Expected::Done };
                let Some(state) = self.app(app) else { return Expected::Done };
                let (count, counted) = state.take_count(name);
                let count = u32::try_from(count).unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
                commands.push(self.note(app, topic, count));
                if counted {
                    let word = Envelope::Count(self.node(), count).encode();
                    commands.push(cmd(scripts.publish).arg(self.names.topic(app, topic)).arg(word).take());
                }
                Expected::Done
            }
        }
    }

    fn publish(&self, scripts: &Scripts, app: &str, topic: &Topic, publish: &Publish) -> Cmd {
        let cached_for_ms = publish.cache_for.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let cached_for_ms = cached_for_ms.min(CACHED_MS_MAX);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let accepted = since.saturating_sub(publish.event.accepted.elapsed());
        let event = RemoteEvent {
            node: self.node(),
            number: publish.number,
            accepted_micros: u64::try_from(accepted.as_micros()).unwrap_or(u64::MAX),
            except: publish.event.except,
            cached_for_ms,
            frame: publish.event.frame.clone(),
        };
        let name = self.names.topic(app, topic);
        match cached_for_ms {
            0 => {
                let mut command = Cmd::with_capacity(3, scripts.publish.len() + name.len() + event.encoded_len_max());
                command.arg(scripts.publish).arg(name).arg(Encoded(&event)).take()
            }
            time => cmd("EVALSHA")
                .arg(&scripts.cache)
                .arg(1)
                .arg(self.names.cached(app, topic))
                .arg(name)
                .arg(scripts.publish)
                .arg(Encoded(&event))
                .arg(time)
                .take(),
        }
    }

    /// A topic that is listened to: says what is here, and asks for what is elsewhere.
    fn listen(&self, scripts: &Scripts, app: &str, topic: &Topic, commands: &mut Vec<Cmd>) -> Expected {
        let own = self.app(app).map(|state| state.local_topic(topic)).unwrap_or_default();
        let has_members = match topic {
            Topic::Channel(name) => name.kind().presence,
            Topic::User(_) => true,
        };
        let has_cache = matches!(topic, Topic::Channel(name) if name.kind().cached);
        if matches!(topic, Topic::Channel(_)) || !own.members.is_empty() {
            commands.push(self.note(app, topic, 0));
        }
        if has_members {
            let told = |since: u64| (since > 0).then_some(since);
            let users = own.members.iter().map(|(own, since)| (&*own.user_id, &*own.user_info, told(*since))).collect();
            let says = Statement { node: self.node(), members_max: own.members_max, whole: true, all: true, users };
            commands.push(self.statement(scripts, app, topic, &says));
        }
        let peers: Vec<NodeId> = if own.counted { self.peers() } else { Vec::new() };
        for peer in &peers {
            commands.push(cmd("HGET").arg(self.names.topics(*peer, app)).arg(names::field(topic)).take());
        }
        if has_cache {
            let key = self.names.cached(app, topic);
            commands.push(cmd("GET").arg(&key).take());
            commands.push(cmd("PTTL").arg(key).take());
        }
        Expected::Opened { has_members, has_cache, peers }
    }

    fn place(&self, scripts: &Scripts, app: &str, topic: &Topic, placement: &MemberUpdate) -> Cmd {
        let info = placement.user_info.as_deref().unwrap_or_default();
        // Of a user that is signed in nothing is told, so it is told once.
        let since = matches!(topic, Topic::Channel(_)).then_some(placement.since);
        let users = vec![(&*placement.user_id, info, since)];
        let says = Statement { node: self.node(), members_max: placement.members_max, whole: false, all: false, users };
        self.statement(scripts, app, topic, &says)
    }

    /// Notes that this node has to do with a topic, so that what it leaves behind can be found.
    fn note(&self, app: &str, topic: &Topic, connections: u32) -> Cmd {
        cmd("HSET").arg(self.names.topics(self.node(), app)).arg(names::field(topic)).arg(connections).take()
    }

    fn forget(&self, app: &str, topic: &Topic) -> Cmd {
        cmd("HDEL").arg(self.names.topics(self.node(), app)).arg(names::field(topic)).take()
    }

    fn is_online(&self, app: &str, user_id: &str) -> bool {
        self.app(app).is_some_and(|state| state.is_online(user_id))
    }

    /// An order has been done, with these answers. Returns what is to be done now.
    pub(super) fn done(&self, order: &Command, expected: &Expected, answers: &[RedisResult<Value>]) -> Option<Cmd> {
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.meters.refused();
            if is_full(error) {
                self.refuses();
            }
            tracing::warn!(%error, "Redis refuses a command; what it was for is tried again or served from here");
        }
        let state = self.app(&order.app)?;
        match (expected, &order.operation) {
            (Expected::Published, _) => self.meters.published(1),
            (Expected::Opened { has_members, has_cache, peers }, Operation::Open(listen)) => {
                let snapshot = answers::snapshot(answers, *has_members, *has_cache, peers);
                state.on_opened(&order.topic, *listen, snapshot, Instant::now());
            }
            (Expected::Placed, Operation::UpdateMember(placement)) => {
                let outcome = answers.last().and_then(|answer| answers::placed(answer.as_ref().ok()?));
                let outcome = outcome.unwrap_or(UpdateOutcome::Failed);
                let is_gone = placement.user_info.is_none() && matches!(outcome, UpdateOutcome::Applied(_));
                state.on_updated(&order.topic, placement, outcome, Instant::now());
                if let Topic::User(user_id) = &order.topic
                    && is_gone
                    && !state.is_online(user_id)
                {
                    return Some(self.forget(&order.app, &order.topic));
                }
            }
            _ => (),
        }
        None
    }
}
