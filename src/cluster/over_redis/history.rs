//! The history of channels in Redis: events in a stream, and the places of known users in a hash, so that a user may come
//! back to any node. `append.lua` stores an event, `places.lua` does everything else.
//! `commands` calls it.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::cluster::over_redis::OverRedis;
use crate::cluster::over_redis::scripts::Encoded;
use crate::history::numbers::Found;
use crate::history::numbers::HistoryEvent;
use crate::history::numbers::PlaceChange;
use crate::history::numbers::PlaceState;
use crate::history::numbers::Places;
use crate::history::numbers::SharedPlace;
use crate::history::rule::HistoryRule;
use crate::protocol::envelope::Encoding;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered;
use crate::protocol::numbered::Epoch;
use crate::protocol::numbered::EventNumber;
use crate::protocol::socket_id::SocketId;
use crate::redis::value::text;
use crate::registry::remote::history::CaughtUp;

/// Bytes of events that a node fetches at once; older ones are left out.
const BYTES_MAX: usize = 8 * 1024 * 1024;

impl OverRedis {
    /// Publishes an event of a channel with a history. A cache channel stores it for `cached_for_ms`.
    pub(super) fn append(
        &self,
        (app, topic): (&str, &Topic),
        (encoding, cached_for_ms): (&Encoding<'_>, u64),
        rule: &HistoryRule,
    ) -> Cmd {
        let [head, events] = self.way.names.history(app, topic);
        let mut command = Cmd::with_capacity(13, 512 + encoding.len_max());
        command
            .arg("EVALSHA")
            .arg(&self.scripts.append)
            .arg(3)
            .arg(head)
            .arg(events)
            .arg(self.way.names.cached(app, topic));
        command
            .arg(self.way.names.topic(app, topic))
            .arg(self.scripts.publish)
            .arg(Encoded(encoding))
            .arg(numbered::head());
        command.arg(millis(rule.time())).arg(rule.events_max).arg(rule.bytes_max);
        match rule.last() {
            0 => command.arg(""),
            _ => command.arg(Epoch::random().to_string()),
        };
        match cached_for_ms {
            0 => command.arg(""),
            time => command.arg(time),
        };
        command
    }

    /// Fetches the events that this node lacks, and publishes the mark of the command of this number.
    pub(super) fn catch_up(&self, (app, topic): (&str, &Topic), number: u64) -> Option<[Cmd; 2]> {
        let Topic::Channel(name) = topic else { return None };
        let (rule, known, last) = self.cluster.app(app)?.history_of(name)?;
        let mut command = self.places((app, topic), &rule, "catch_up");
        match known {
            Some(EventNumber { epoch, number }) => command.arg(epoch.to_string()).arg(number),
            None => command.arg("").arg(0),
        };
        let last = last.map(|Origin { node, number }| format!("{node} {number}"));
        command.arg(rule.bytes_max.min(BYTES_MAX)).arg(last.unwrap_or_default());
        let mark = Envelope::Mark(self.cluster.node(), number).encode();
        Some([command, cmd(self.scripts.publish).arg(self.way.names.topic(app, topic)).arg(mark).take()])
    }

    /// Looks for the place of a user.
    pub(super) fn take_place(&self, (app, topic): (&str, &Topic), (user, is_late): (&KnownUser, bool)) -> Option<Cmd> {
        let Topic::Channel(name) = topic else { return None };
        let (rule, known, _) = self.cluster.app(app)?.history_of(name)?;
        let nodes: Vec<String> =
            self.cluster.peers().iter().chain([&self.cluster.node()]).map(ToString::to_string).collect();
        let mut command = self.places((app, topic), &rule, "take");
        command
            .arg(&*user.id)
            .arg(user.socket_id.to_string())
            .arg(self.cluster.node().to_string())
            .arg(nodes.join(" "));
        command.arg(if is_late { "1" } else { "" }).arg(known.map_or(0, |known| known.number));
        Some(command)
    }

    /// Writes places of users.
    pub(super) fn write_places(&self, (app, topic): (&str, &Topic), places: &Places) -> Option<Cmd> {
        let Topic::Channel(name) = topic else { return None };
        let (rule, ..) = self.cluster.app(app)?.history_of(name)?;
        let mut command = self.places((app, topic), &rule, "write");
        command.arg(self.cluster.node().to_string());
        match places.followed {
            Some(SharedPlace { number: EventNumber { epoch, number }, since }) => {
                command.arg(number).arg(epoch.to_string()).arg(millis(since.elapsed()))
            }
            None => command.arg("").arg("").arg(""),
        };
        for PlaceChange { user, socket_id, state } in &places.changes {
            let (kind, place) = match *state {
                PlaceState::Ended => ("e", None),
                PlaceState::Follows => ("f", None),
                PlaceState::Behind(place) => ("b", Some(place)),
                PlaceState::Left { place: None, .. } => ("k", None),
                PlaceState::Left { place, is_silent: false } => ("l", place),
                PlaceState::Left { place, is_silent: true } => ("c", place),
            };
            command.arg(&**user).arg(socket_id.to_string()).arg(kind);
            match place {
                Some(SharedPlace { number: EventNumber { epoch, number }, since }) => {
                    command.arg(epoch.to_string()).arg(number).arg(millis(since.elapsed()))
                }
                None => command.arg("").arg("").arg(""),
            };
        }
        Some(command)
    }

    /// The beginning of a call of `places.lua`.
    fn places(&self, (app, topic): (&str, &Topic), rule: &HistoryRule, what: &str) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&self.scripts.places).arg(2).arg(&self.way.names.history(app, topic)[..]).arg(what);
        command.arg(Epoch::random().to_string()).arg(millis(rule.remembered()));
        command
    }
}

/// The events that were missing, from the answers to fetching them and to the mark.
pub(super) fn caught_up(answers: &[RedisResult<Value>]) -> Option<CaughtUp> {
    let [Ok(Value::Array(values)), Ok(_mark)] = answers else { return None };
    let (head, events) = values.split_at_checked(2)?;
    let number = EventNumber::parse(text(&head[0])?, text(&head[1])?)?;
    let now = Instant::now();
    let event = |[at, age, message]: &[Value; 3]| {
        let at = EventNumber::parse(&number.epoch.to_string(), text(at)?)?.number;
        let (Value::Int(age), Value::BulkString(bytes)) = (age, message) else { return None };
        let Ok(Envelope::Event(event)) = Envelope::decode(&bytes::Bytes::copy_from_slice(bytes)) else { return None };
        let since = now.checked_sub(Duration::from_millis(u64::try_from(*age).ok()?)).unwrap_or(now);
        Some(HistoryEvent { number: at, at: since, event })
    };
    let mut stored: Vec<_> = events.as_chunks().0.iter().filter_map(event).collect();
    stored.reverse();
    // After a lost link a node may have sent some twice.
    let mut last_of = HashMap::new();
    stored.retain(|HistoryEvent { event, .. }| {
        let last = last_of.entry(event.node).or_insert(0);
        let is_new = event.number > *last;
        *last = event.number.max(*last);
        is_new
    });
    Some(CaughtUp { number, stored })
}

/// The place of an earlier connection, from the answer to looking for it. `None` if it is no answer.
pub(super) fn found(answers: &[RedisResult<Value>]) -> Option<Option<Found>> {
    let [Ok(Value::Array(values))] = answers else { return None };
    let [_epoch, _number, found @ ..] = values.as_slice() else { return None };
    let [socket_id, epoch, number, Value::Int(age)] = found else { return Some(None) };
    let number = EventNumber::parse(text(epoch)?, text(number)?)?;
    let now = Instant::now();
    let since = now.checked_sub(Duration::from_millis(u64::try_from(*age).ok()?)).unwrap_or(now);
    let place = SharedPlace { number, since };
    Some(Some(Found { socket_id: SocketId::parse(text(socket_id)?), place, is_numbered: true }))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
