//! Reads the answers of Redis. Anybody who can write to Redis may have written anything, so whatever does not fit is
//! left out.
//! `commands` and `query` call it.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use redis::RedisResult;
use redis::Value;

use crate::flow::channel::StoredEvent;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::CACHED_MS_MAX;
use crate::protocol::envelope::CONNECTIONS_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NUMBER_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::envelope::json;
use crate::protocol::identity::Member;
use crate::redis::names;
use crate::redis::value::text;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;
use crate::registry::remote::roster::RosterEntry;

/// Reads the answer of `member.lua` to a single change.
pub fn update_outcome(answer: &Value) -> Option<UpdateOutcome> {
    let (version, refused, _) = member_answer(answer)?;
    Some(if refused.is_empty() { UpdateOutcome::Applied(version) } else { UpdateOutcome::Full })
}

/// The state of a topic, from the answers to the commands that open it: for a topic with members that of `member.lua`,
/// then a count of each of `peers`, then for a cache channel the event and its time.
pub fn snapshot(
    answers: &[RedisResult<Value>],
    has_members: bool,
    has_cache: bool,
    peers: &[NodeId],
) -> Option<Snapshot> {
    let values: Vec<&Value> = answers.iter().map(|answer| answer.as_ref().ok()).collect::<Option<_>>()?;
    let mut values = values.as_slice();
    let mut snapshot = Snapshot::default();
    if has_cache {
        let (rest, [cached, left]) = values.split_last_chunk()?;
        snapshot.cached = cached_event(cached, left);
        values = rest;
    }
    let (rest, counts) = values.split_at_checked(values.len().checked_sub(peers.len())?)?;
    snapshot.counts = peers
        .iter()
        .zip(counts)
        .filter_map(|(peer, count)| Some((*peer, connections(count).filter(|&count| count > 0)?)))
        .collect();
    if has_members {
        let (version, refused, found) = member_answer(rest.last()?)?;
        snapshot.version = version;
        snapshot.refused = refused;
        snapshot.entries = found;
    }
    Some(snapshot)
}

/// The event of a cache channel, and how long it still is.
pub fn cached_event(cached: &Value, left: &Value) -> Option<(RemoteEvent, Duration)> {
    let (Value::BulkString(bytes), Value::Int(left)) = (cached, left) else { return None };
    let Ok(Envelope::Event(event)) = Envelope::decode(&Bytes::copy_from_slice(bytes)) else { return None };
    let left = u64::try_from(*left).ok().filter(|&left| left <= CACHED_MS_MAX)?;
    Some((event, Duration::from_millis(left)))
}

/// The last events of a channel, from the answer of `last_events.lua`.
pub fn last_events(answer: &Value) -> Vec<StoredEvent> {
    let Value::Array(values) = answer else { return Vec::new() };
    let now = Instant::now();
    let event = |[field, age, event]: &[Value; 3]| {
        let (Value::Int(age), Value::BulkString(bytes)) = (age, event) else { return None };
        let Ok(Envelope::Event(event)) = Envelope::decode(&Bytes::copy_from_slice(bytes)) else { return None };
        let since = now.checked_sub(Duration::from_millis(u64::try_from(*age).ok()?))?;
        let (field, origin) = (text(field)?.to_owned(), Origin::new(event.node, event.number)?);
        Some(StoredEvent { field, origin, since, frame: event.frame })
    };
    values.as_chunks().0.iter().filter_map(event).collect()
}

/// The version, the refused users, and the members if they were asked for.
fn member_answer(answer: &Value) -> Option<(u64, Vec<Arc<str>>, Vec<RosterEntry>)> {
    let Value::Array(parts) = answer else { return None };
    let [version, Value::Array(refused), Value::Array(found)] = parts.as_slice() else { return None };
    let version = counted(text(version)?)?;
    let refused = refused.iter().filter_map(text).map(Arc::from).collect();
    let entries = found.chunks_exact(2).filter_map(|pair| entry(text(&pair[0])?, text(&pair[1])?)).collect();
    Some((version, refused, entries))
}

fn entry(field: &str, value: &str) -> Option<RosterEntry> {
    let ((node, user_id), (since, user_info)) = (field.split_once(':')?, value.split_once(' ')?);
    let member = Member { user_id: user_id.into(), user_info: json(user_info)? };
    Some(RosterEntry { node: NodeId::parse(node)?, since: counted(since)?, member })
}

/// The number of a change.
fn counted(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&number| number <= NUMBER_MAX)
}

/// The occupied channels of one node, with its connections on them.
pub fn channels(answer: &Value) -> Vec<(ChannelName, usize)> {
    let Value::Map(pairs) = answer else { return Vec::new() };
    let channel = |(field, count): &(Value, Value)| match names::topic_of(text(field)?)? {
        Topic::Channel(name) => Some((name, number(count).filter(|&count| count > 0)?)),
        Topic::User(_) => None,
    };
    pairs.iter().filter_map(channel).collect()
}

/// A value as a number of connections or users.
pub fn number(value: &Value) -> Option<usize> {
    let number = match value {
        Value::Int(number) => u32::try_from(*number).ok(),
        value => connections(value),
    };
    number.and_then(|number| usize::try_from(number).ok())
}

fn connections(value: &Value) -> Option<u32> {
    text(value)?.parse().ok().filter(|&count| count <= CONNECTIONS_MAX)
}
