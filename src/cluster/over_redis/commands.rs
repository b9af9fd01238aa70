//! Turns the registry's commands into commands of Redis, and reads the answers.
//! `over_redis` calls it for each round.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::bus::Answer;
use crate::cluster::member_changes::MemberChanges;
use crate::cluster::over_redis::OverRedis;
use crate::cluster::over_redis::answers;
use crate::cluster::over_redis::history;
use crate::cluster::over_redis::scripts::Encoded;
use crate::flow::channel::StoredEvent;
use crate::history::rule::HistoryRule;
use crate::protocol::envelope;
use crate::protocol::envelope::CACHED_MS_MAX;
use crate::protocol::envelope::CONNECTIONS_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::MissedEvents;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::redis::error::is_full;
use crate::redis::names;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::Publish;
use crate::registry::remote::command::StoreEvents;
use crate::registry::remote::message::UpdateOutcome;

/// Bytes of events that the snapshot of a channel brings along when it is fetched; the oldest are left out.
const SNAPSHOT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The answers that a command of the registry gets.
#[derive(Debug)]
pub(super) enum Expected {
    Published,
    Opened { has_members: bool, has_cache: bool, has_snapshot: bool, peers: Vec<NodeId> },
    Updated,
    Stored,
    Fetched,
    CaughtUp,
    Found,
    PlacesWritten,
    Nothing,
}

impl OverRedis {
    /// Calls `member.lua`.
    pub(super) fn change_members(&self, app: &str, topic: &Topic, changes: &MemberChanges<'_>) -> Cmd {
        let flag = |set: bool| if set { "1" } else { "" };
        let mut command = cmd("EVALSHA");
        command
            .arg(&self.scripts.member)
            .arg(2)
            .arg(self.way.names.members(app, topic))
            .arg(self.way.names.users(app, topic))
            .arg(self.way.names.topic(app, topic))
            .arg(self.scripts.publish)
            .arg(envelope::member_head(self.cluster.node()))
            .arg(changes.node.to_string())
            // As many as a script can count.
            .arg(changes.members_max.min(1 << 50))
            .arg(flag(changes.is_complete))
            .arg(flag(changes.wants_all));
        for (user_id, user_info, since) in &changes.users {
            command.arg(user_id).arg(user_info).arg(since.map(|since| since.to_string()).unwrap_or_default());
        }
        command
    }

    /// Appends the commands for Redis. Returns what their answers mean; each has one.
    pub(super) fn encode(&self, command: &Command, commands: &mut Vec<Cmd>) -> Expected {
        let Command { app, topic, operation } = command;
        match operation {
            Operation::Publish(publish) => {
                commands.push(self.publish(app, topic, publish));
                Expected::Published
            }
            Operation::Open { number, .. } => self.open(app, (topic, *number), commands),
            Operation::Close => {
                // The record of a topic stays while Redis had no memory to clear it.
                if !self.is_online(app, topic) && self.cluster.refused_at.lock().is_none() {
                    commands.push(self.erase(app, topic));
                }
                Expected::Nothing
            }
            Operation::UpdateMember(update) => {
                if matches!(topic, Topic::User(_)) && update.user_info.is_some() {
                    commands.push(self.record(app, topic, 0));
                }
                let changes = MemberChanges::updates(self.cluster.node(), topic, &[update]);
                commands.push(self.change_members(app, topic, &changes));
                Expected::Updated
            }
            Operation::StoreEvents(store) => {
                commands.push(self.store_events(app, topic, store));
                Expected::Stored
            }
            Operation::FetchEvents { number } => {
                let Topic::Channel(name) = topic else { return Expected::Nothing };
                let Some(snapshot) = self.cluster.app(app).and_then(|app| app.snapshot_max(name)) else {
                    return Expected::Nothing;
                };
                commands.extend(self.fetch_events((app, topic), snapshot, *number));
                Expected::Fetched
            }
            Operation::ForgetEvents => {
                // There may be megabytes: Redis frees them apart from what it does for others.
                commands.push(cmd("UNLINK").arg(&self.way.names.last_events(app, topic)[..]).take());
                Expected::Nothing
            }
            Operation::CatchUp { number } => {
                commands.extend(self.catch_up((app, topic), *number).into_iter().flatten());
                Expected::CaughtUp
            }
            Operation::TakePlace { user, is_late, .. } => {
                commands.extend(self.take_place((app, topic), (user, *is_late)));
                Expected::Found
            }
            Operation::WritePlaces(places) => {
                commands.extend(self.write_places((app, topic), places));
                Expected::PlacesWritten
            }
            Operation::ReportMissed { events, since, of_several } => {
                let name = if *of_several { self.way.names.control(None) } else { self.way.names.topic(app, topic) };
                let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (node, of_app) = (self.cluster.node(), of_several.then(|| Arc::clone(app)));
                let missed = Envelope::Missed(MissedEvents { node, events: *events, since_ms, of_app });
                commands.push(cmd(self.scripts.publish).arg(name).arg(missed.encode()).take());
                Expected::Nothing
            }
            Operation::PublishCount => {
                let Topic::Channel(name) = topic else { return Expected::Nothing };
                let Some(state) = self.cluster.app(app) else { return Expected::Nothing };
                let (count, counted) = state.take_count(name);
                let count = u32::try_from(count).unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
                commands.push(self.record(app, topic, count));
                if counted {
                    let message = Envelope::Count(self.cluster.node(), count).encode();
                    commands.push(cmd(self.scripts.publish).arg(self.way.names.topic(app, topic)).arg(message).take());
                }
                Expected::Nothing
            }
        }
    }

    fn publish(&self, app: &str, topic: &Topic, publish: &Publish) -> Cmd {
        let cached_for_ms = publish.cache_for.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let cached_for_ms = cached_for_ms.min(CACHED_MS_MAX);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let accepted = since.saturating_sub(publish.event.accepted.elapsed());
        let event = RemoteEvent {
            node: self.cluster.node(),
            number: publish.number,
            accepted_micros: u64::try_from(accepted.as_micros()).unwrap_or(u64::MAX),
            except: publish.event.except,
            cached_for_ms,
            frame: publish.event.frame.clone(),
            partial: publish.event.partial.clone(),
        };
        let (name, encoding) = (self.way.names.topic(app, topic), event.encoding());
        if let Some(rule) = self.numbering_rule(app, topic, &event.frame) {
            return self.append((app, topic), (&encoding, cached_for_ms), &rule);
        }
        match cached_for_ms {
            0 => {
                let mut command = Cmd::with_capacity(3, self.scripts.publish.len() + name.len() + encoding.len_max());
                command.arg(self.scripts.publish).arg(name).arg(Encoded(&encoding)).take()
            }
            time => cmd("EVALSHA")
                .arg(&self.scripts.cache)
                .arg(1)
                .arg(self.way.names.cached(app, topic))
                .arg(name)
                .arg(self.scripts.publish)
                .arg(Encoded(&encoding))
                .arg(time)
                .take(),
        }
    }

    /// The rule by which an event is stored in the history, if there is one.
    fn numbering_rule(&self, app: &str, topic: &Topic, frame: &Frame) -> Option<Arc<HistoryRule>> {
        let Topic::Channel(name) = topic else { return None };
        self.cluster.app(app)?.numbering_rule(name).filter(|_| !event::is_client_event(frame))
    }

    /// Opens a topic: publishes its state on this node, and fetches that of the others.
    fn open(&self, app: &str, (topic, number): (&Topic, u64), commands: &mut Vec<Cmd>) -> Expected {
        let local = self.cluster.app(app).map(|state| state.local_topic(topic)).unwrap_or_default();
        let has_members = match topic {
            Topic::Channel(name) => name.kind().presence,
            Topic::User(_) => true,
        };
        let has_cache = matches!(topic, Topic::Channel(name) if name.kind().cached);
        if matches!(topic, Topic::Channel(_)) || !local.members.is_empty() {
            commands.push(self.record(app, topic, 0));
        }
        if has_members {
            let changes = MemberChanges::all(self.cluster.node(), &local);
            commands.push(self.change_members(app, topic, &changes));
        }
        let peers: Vec<NodeId> = if local.counted { self.cluster.peers() } else { Vec::new() };
        for peer in &peers {
            commands.push(cmd("HGET").arg(self.way.names.topics(*peer, app)).arg(names::field(topic)).take());
        }
        if has_cache {
            let key = self.way.names.cached(app, topic);
            commands.push(cmd("GET").arg(&key).take());
            commands.push(cmd("PTTL").arg(key).take());
        }
        if let Some(snapshot) = local.snapshot {
            commands.extend(self.fetch_events((app, topic), snapshot, number));
        }
        Expected::Opened { has_members, has_cache, has_snapshot: local.snapshot.is_some(), peers }
    }

    /// Fetches a snapshot, and publishes its mark on the topic.
    fn fetch_events(&self, of: (&str, &Topic), (time, keys_max): (Duration, usize), number: u64) -> [Cmd; 2] {
        let mark = Envelope::Mark(self.cluster.node(), number).encode();
        [
            self.last_events(of, (time, keys_max, SNAPSHOT_BYTES_MAX), &[]),
            cmd(self.scripts.publish).arg(self.way.names.topic(of.0, of.1)).arg(mark).take(),
        ]
    }

    fn store_events(&self, app: &str, topic: &Topic, store: &StoreEvents) -> Cmd {
        let mut command = self.last_events((app, topic), (store.time, store.keys_max, 0), &store.known);
        for StoredEvent { field, origin, since, frame } in &store.events {
            let (node, number, frame) = (origin.node, origin.number.get(), frame.clone());
            let (accepted_micros, except, cached_for_ms, partial) = (0, None, 0, None);
            let event = RemoteEvent { node, number, accepted_micros, except, cached_for_ms, frame, partial };
            command.arg(field).arg(since.elapsed().as_millis() as u64).arg(Encoded(&event.encoding()));
        }
        command
    }

    /// Calls `last_events.lua`; the events to store follow.
    fn last_events(
        &self,
        (app, topic): (&str, &Topic),
        (time, keys_max, bytes_max): (Duration, usize, usize),
        known: &[Origin],
    ) -> Cmd {
        let known: Vec<String> = known.iter().map(|Origin { node, number }| format!("{node} {number}")).collect();
        let mut command = cmd("EVALSHA");
        command
            .arg(&self.scripts.last_events)
            .arg(2)
            .arg(&self.way.names.last_events(app, topic)[..])
            .arg(time.as_millis() as u64)
            .arg(keys_max)
            .arg(bytes_max)
            .arg(known.join(" "));
        command
    }

    /// Records that this node has to do with a topic, so that a survivor can clean up after a crash.
    fn record(&self, app: &str, topic: &Topic, connections: u32) -> Cmd {
        cmd("HSET")
            .arg(self.way.names.topics(self.cluster.node(), app))
            .arg(names::field(topic))
            .arg(connections)
            .take()
    }

    fn erase(&self, app: &str, topic: &Topic) -> Cmd {
        cmd("HDEL").arg(self.way.names.topics(self.cluster.node(), app)).arg(names::field(topic)).take()
    }

    /// Whether a topic is that of a signed-in user of this node.
    fn is_online(&self, app: &str, topic: &Topic) -> bool {
        let Topic::User(user_id) = topic else { return false };
        self.cluster.app(app).is_some_and(|state| state.is_online(user_id))
    }

    /// Reads the answers to a command.
    pub(super) fn read(&self, expected: &Expected, answers: &[RedisResult<Value>]) -> Answer {
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.cluster.meters.refused();
            if is_full(error) {
                self.cluster.note_refused();
            }
            tracing::warn!(%error, "Redis refuses a command; what it was for is tried again or served from here");
        }
        match expected {
            Expected::Published => Answer::Published,
            Expected::Opened { has_members, has_cache, has_snapshot, peers } => {
                let (answers, last) = answers.split_at(answers.len() - if *has_snapshot { 2 } else { 0 });
                let mut snapshot = answers::snapshot(answers, *has_members, *has_cache, peers);
                if let Some(snapshot) = &mut snapshot {
                    snapshot.last_events = fetched(last);
                }
                Answer::Opened(snapshot)
            }
            Expected::Updated => {
                let outcome = answers.last().and_then(|answer| answers::update_outcome(answer.as_ref().ok()?));
                Answer::Updated(outcome.unwrap_or(UpdateOutcome::Failed))
            }
            Expected::Stored => Answer::Stored(answers.iter().all(Result::is_ok)),
            Expected::Fetched => Answer::Fetched(fetched(answers)),
            Expected::CaughtUp => Answer::CaughtUp(history::caught_up(answers)),
            Expected::Found => Answer::Found(history::found(answers)),
            Expected::PlacesWritten => {
                Answer::PlacesWritten(answers.iter().all(|answer| matches!(answer, Ok(Value::Int(1)))))
            }
            Expected::Nothing => Answer::Nothing,
        }
    }

    /// The command that an answer makes necessary.
    pub(super) fn follow_up(&self, command: &Command, answer: &Answer) -> Option<Cmd> {
        let Command { app, topic: topic @ Topic::User(_), operation: Operation::UpdateMember(update) } = command else {
            return None;
        };
        let is_gone = update.user_info.is_none() && matches!(answer, Answer::Updated(UpdateOutcome::Applied(_)));
        (is_gone && !self.is_online(app, topic)).then(|| self.erase(app, topic))
    }
}

/// The events of a snapshot, from the answers to fetching it and to its mark.
fn fetched(answers: &[RedisResult<Value>]) -> Option<Vec<StoredEvent>> {
    match answers {
        [Ok(events), Ok(_mark)] => Some(answers::last_events(events)),
        _ => None,
    }
}
