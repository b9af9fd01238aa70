//! A batch: the first events of an endpoint's stream, as `take.lua` answers them.
//! `stream` reads it, `delivery` sends it, and `endpoint` counts what waits.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use redis::Value;

/// A request takes no further event beyond this size.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// How many events wait for an endpoint, and the first of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    pub(super) waiting: usize,
    pub(super) ids: Vec<String>,
    pub(super) texts: Vec<Arc<str>>,
}

impl Batch {
    /// Reads the answer of `take.lua`. Anybody who can write to Redis may have changed it, so texts that are no events
    /// are left out.
    pub(super) fn parse(answer: Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let [waiting, events]: [Value; 2] = parts.try_into().ok()?;
        let mut batch = Batch { waiting: redis::from_redis_value(waiting).ok()?, ..Self::default() };
        let Value::Array(events) = events else { return Some(batch) };
        let mut bytes = 0;
        for event in events {
            // The next request takes the rest.
            if bytes > REQUEST_BYTES_MAX {
                break;
            }
            // An event that was dropped meanwhile has no fields.
            let Ok((id, fields)) = redis::from_redis_value::<(String, Option<Vec<Vec<u8>>>)>(event) else { continue };
            let text = fields.into_iter().flatten().nth(1).and_then(|text| String::from_utf8(text).ok());
            let text = text.filter(|text| is_event(text));
            bytes += text.as_ref().map_or(0, String::len);
            batch.texts.extend(text.map(Arc::from));
            batch.ids.push(id);
        }
        Some(batch)
    }

    /// When the first event was put in: its id holds the time of Redis' clock.
    pub(super) fn oldest_since(&self) -> Instant {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = self.ids.first().and_then(|id| id.split('-').next()?.parse().ok());
        let age = millis.map_or(Duration::ZERO, |millis| now.saturating_sub(Duration::from_millis(millis)));
        Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
    }
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
        let event =
            |id: &str, text_value: Value| Value::Array(vec![text(id), Value::Array(vec![text("event"), text_value])]);
        let no_text = Value::BulkString(vec![0xff, 0xfe]);
        let gone = Value::Array(vec![text("4-0"), Value::Nil]);
        let events = vec![event("1-0", text("{}")), event("2-0", text("junk")), event("3-0", no_text), gone, text("x")];
        let batch = Batch::parse(Value::Array(vec![Value::Int(5), Value::Array(events)])).unwrap();
        assert_eq!((batch.waiting, batch.texts.len()), (5, 1));
        assert_eq!(batch.ids, ["1-0", "2-0", "3-0", "4-0"]);
        assert_eq!(Batch::parse(Value::Nil), None);
    }
}
