//! All events that clients get, published ones and the server's own: each function builds one frame (Pusher protocol,
//! "Summary of all event names").
//! `session`, `node` and `registry` send them. `data` is a JSON string, except for the object in `pusher:error`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::protocol::envelope::Origin;
use crate::protocol::frame::Frame;
use crate::protocol::grant::SubscribeError;
use crate::protocol::identity::Member;
use crate::protocol::json;
use crate::protocol::json::quote;
use crate::protocol::json::with_member;
use crate::protocol::partial::Partial;
use crate::protocol::socket_id::SocketId;

/// One event on its way to the subscribers of a channel.
#[derive(Debug, Clone)]
pub struct Event {
    /// The same bytes for everybody.
    pub frame: Frame,
    /// The connection that must not get it.
    pub except: Option<SocketId>,
    /// When it was accepted.
    pub accepted: Instant,
    /// A reader that is behind needs only the last event of each key.
    pub flow_key: Option<Arc<FlowKey>>,
    /// Its place in a cluster, where that matters.
    pub origin: Option<Origin>,
    /// There if the frame may be compressed.
    pub compressed: Option<Arc<CompressedFrame>>,
    /// The figures that the event is made of, for the nodes to merge.
    pub partial: Option<Arc<Partial>>,
    /// Its number in the history of the channel on this node; 0 if it is not in there.
    pub number: u64,
}

impl Event {
    /// An event that may not be compressed. `registry::inbox` decides that when it goes to the shards.
    pub fn new(frame: Frame, except: Option<SocketId>, accepted: Instant) -> Self {
        Self { frame, except, accepted, flow_key: None, origin: None, compressed: None, partial: None, number: 0 }
    }
}

/// The compressed form of a frame. The first shard that needs it makes it, and all others share it.
#[derive(Debug, Default)]
pub struct CompressedFrame(OnceLock<Option<Frame>>);

impl CompressedFrame {
    /// The compressed form, which `compress` makes unless it is there; `None` if it is not smaller.
    pub fn get(&self, compress: impl FnOnce() -> Option<Frame>) -> Option<&Frame> {
        self.0.get_or_init(compress).as_ref()
    }
}

/// The key of an event that a flow rule has thinned.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The pattern of the rule.
    pub rule: Arc<str>,
    /// The event's name and its key.
    pub id: Arc<str>,
}

impl FlowKey {
    /// The same key, but only for events of one channel.
    pub fn of_channel(&self, channel: &str) -> Arc<Self> {
        Arc::new(Self { rule: Arc::clone(&self.rule), id: format!("{channel}\0{}", self.id).into() })
    }
}

/// The parts of an event's frame, as they were written.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
}

/// The name and the data of an event's frame, without JSON's quotes and escapes; `None` if they are no texts.
pub fn name_and_data(frame: &Frame) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let Parts { event, data, .. } = serde_json::from_slice(frame.payload()).ok()?;
    Some((json::text(event)?, json::text(data)?))
}

/// Whether this is the frame of a client's event.
pub fn is_client_event(frame: &Frame) -> bool {
    frame.payload().starts_with(br#"{"event":"client-"#)
}

/// `gema:history_gap`: a returning user has missed events that are not kept any more; `null` of them if nobody can tell.
/// `since` is the time until which everything has arrived, in milliseconds since 1970.
pub fn history_gap(channel: &str, missed: Option<u64>, since_ms: u64) -> Frame {
    let data = json!({ "channel": channel, "missed": missed, "since": since_ms }).to_string();
    internal("gema:history_gap", &data, Some(channel))
}

/// `pusher:connection_established`, the first frame of every connection.
pub fn connection_established(socket_id: SocketId, activity_timeout_seconds: u32) -> Frame {
    let data = format!(r#"{{"socket_id":"{socket_id}","activity_timeout":{activity_timeout_seconds}}}"#);
    internal("pusher:connection_established", &data, None)
}

/// `pusher:error`, with an integer code only when the documentation has one for it.
pub fn error(code: Option<u16>, message: &str) -> Frame {
    #[derive(Serialize)]
    struct Error<'a> {
        event: &'static str,
        data: ErrorData<'a>,
    }
    #[derive(Serialize)]
    struct ErrorData<'a> {
        code: Option<u16>,
        message: &'a str,
    }
    let error = Error { event: "pusher:error", data: ErrorData { code, message } };
    Frame::text(64 + message.len(), |out| {
        serde_json::to_writer(out, &error).expect("text always becomes JSON");
    })
}

/// The answer to `pusher:ping`.
pub fn pong() -> Frame {
    internal("pusher:pong", "{}", None)
}

/// The answer to a sign-in, with `user_data` exactly as it was sent.
pub fn signin_success(user_data: &str) -> Frame {
    internal("pusher:signin_success", &json!({ "user_data": user_data }).to_string(), None)
}

/// The users of a watchlist that are online and offline; `None` if there are none.
pub fn watchlist_events<'a>(
    online: impl IntoIterator<Item = &'a str>,
    offline: impl IntoIterator<Item = &'a str>,
) -> Option<Frame> {
    let entry = |name: &str, ids: Vec<&str>| (!ids.is_empty()).then(|| json!({ "name": name, "user_ids": ids }));
    let entries = [entry("online", online.into_iter().collect()), entry("offline", offline.into_iter().collect())];
    let events: Vec<_> = entries.into_iter().flatten().collect();
    let data = (!events.is_empty()).then(|| json!({ "events": events }).to_string())?;
    Some(internal("pusher_internal:watchlist_events", &data, None))
}

/// The answer to a subscribe, on every kind of channel but presence.
pub fn subscription_succeeded(channel: &str) -> Frame {
    internal("pusher_internal:subscription_succeeded", "{}", Some(channel))
}

/// The answer to a subscribe on a presence channel. `ids` and `hash` are the inner text of the list and the
/// object, already escaped for the `data` string.
pub fn presence_succeeded(channel: &str, count: usize, ids: &[u8], hash: &[u8]) -> Frame {
    Frame::text(160 + channel.len() + ids.len() + hash.len(), |out| {
        out.extend_from_slice(
            br#"{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":"#,
        );
        out.extend_from_slice(count.to_string().as_bytes());
        out.extend_from_slice(br#",\"ids\":["#);
        out.extend_from_slice(ids);
        out.extend_from_slice(br#"],\"hash\":{"#);
        out.extend_from_slice(hash);
        out.extend_from_slice(br#"}}}","channel":"#);
        quote(out, channel);
        out.push(b'}');
    })
}

/// A refused subscription, on its channel: Echo's `.error()` gets it.
pub fn subscription_error(channel: &str, error: &SubscribeError) -> Frame {
    let (kind, status) = error.kind();
    let data = json!({ "type": kind, "error": error.to_string(), "status": status }).to_string();
    internal("pusher:subscription_error", &data, Some(channel))
}

/// A user joined a presence channel.
pub fn member_added(channel: &str, member: &Member) -> Frame {
    let mut data = br#"{"user_id":"#.to_vec();
    quote(&mut data, &member.user_id);
    data.extend_from_slice(br#","user_info":"#);
    data.extend_from_slice(member.user_info.as_bytes());
    data.push(b'}');
    internal("pusher_internal:member_added", &String::from_utf8_lossy(&data), Some(channel))
}

/// A user left a presence channel.
pub fn member_removed(channel: &str, user_id: &str) -> Frame {
    internal("pusher_internal:member_removed", &json!({ "user_id": user_id }).to_string(), Some(channel))
}

/// The number of subscribed connections.
pub fn subscription_count(channel: &str, count: usize) -> Frame {
    internal("pusher_internal:subscription_count", &format!(r#"{{"subscription_count":{count}}}"#), Some(channel))
}

/// A cache channel has no stored event.
pub fn cache_miss(channel: &str) -> Frame {
    internal("pusher:cache_miss", "{}", Some(channel))
}

/// A published event. `data` is a JSON string with its quotes, as the publisher wrote it.
pub fn published(channel: &str, name: &str, data: &str) -> Frame {
    event(name, data, channel, None)
}

/// A client's event, with its sender on a presence channel. `data` is a JSON string with its quotes.
pub fn client_event(channel: &str, name: &str, data: &str, user_id: Option<&str>) -> Frame {
    event(name, data, channel, user_id)
}

/// The channel of an event, and the member of its data that names it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The member's name.
    pub member: &'a str,
    /// The channel.
    pub channel: &'a str,
}

/// A channel's event under another channel's name, otherwise unchanged; `None` if the frame is no such event. With
/// `source`, data that is an object names the original channel.
pub fn under(channel: &str, frame: &Frame, source: Option<Source<'_>>) -> Option<Frame> {
    let parts: Parts<'_> = serde_json::from_slice(frame.payload()).ok()?;
    let data = parts.data.get();
    let with_source = source.and_then(|source| with_member(data, source.member, source.channel));
    let mut name = Vec::with_capacity(channel.len() + 2);
    quote(&mut name, channel);
    Some(parts.frame(with_source.as_deref().unwrap_or(data), &name))
}

/// An event for clients that do not speak the protocol: `data` is the value itself where the string holds JSON, byte for
/// byte, and otherwise the string. `None` for the server's own events, which mean nothing to them.
pub fn raw(frame: &Frame) -> Option<Frame> {
    let parts: Parts<'_> = serde_json::from_slice(frame.payload()).ok()?;
    let is_own =
        json::text(parts.event).is_some_and(|name| name.starts_with("pusher:") || name.starts_with("pusher_internal:"));
    let channel = parts.channel.filter(|_| !is_own)?.get().as_bytes();
    let decoded = json::text(parts.data);
    let value = decoded.as_deref().and_then(|data| serde_json::from_str::<&RawValue>(data).ok());
    Some(parts.frame(value.unwrap_or(parts.data).get(), channel))
}

impl Parts<'_> {
    /// The event with this `data`, on the channel of this quoted name.
    fn frame(&self, data: &str, channel: &[u8]) -> Frame {
        let user_id = self.user_id.map_or("", RawValue::get);
        let length = 48 + self.event.get().len() + data.len() + channel.len() + user_id.len();
        Frame::text(length, |out| {
            out.extend_from_slice(br#"{"event":"#);
            out.extend_from_slice(self.event.get().as_bytes());
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(data.as_bytes());
            out.extend_from_slice(br#","channel":"#);
            out.extend_from_slice(channel);
            if !user_id.is_empty() {
                out.extend_from_slice(br#","user_id":"#);
                out.extend_from_slice(user_id.as_bytes());
            }
            out.push(b'}');
        })
    }
}

fn event(name: &str, data: &str, channel: &str, user_id: Option<&str>) -> Frame {
    let length = 48 + name.len() + data.len() + channel.len() + user_id.map_or(0, str::len);
    Frame::text(length, |out| {
        out.extend_from_slice(br#"{"event":"#);
        quote(out, name);
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.as_bytes());
        out.extend_from_slice(br#","channel":"#);
        quote(out, channel);
        if let Some(user_id) = user_id {
            out.extend_from_slice(br#","user_id":"#);
            quote(out, user_id);
        }
        out.push(b'}');
    })
}

/// An event of the server itself: `data` becomes a JSON string.
fn internal(name: &str, data: &str, channel: Option<&str>) -> Frame {
    Frame::text(64 + name.len() + 2 * data.len(), |out| {
        out.extend_from_slice(br#"{"event":"#);
        quote(out, name);
        out.extend_from_slice(br#","data":"#);
        quote(out, data);
        if let Some(channel) = channel {
            out.extend_from_slice(br#","channel":"#);
            quote(out, channel);
        }
        out.push(b'}');
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_under_another_name_is_otherwise_the_same() {
        for (name, data, user_id) in
            [("e", r#""{\u00e9\/}""#, None), ("client-é \"", "\"\"", Some("7 \"")), ("e", "\"channel\"", Some(""))]
        {
            let there = client_event("orders.K001", name, data, user_id);
            let here = client_event("private-group", name, data, user_id);
            assert_eq!(under("private-group", &there, None), Some(here));
        }
        assert_eq!(under("private-group", &Frame::ping(), None), None);
    }

    #[test]
    fn raw_data_is_the_value_itself_where_there_is_one() {
        let raw = |data: &str| {
            let frame = raw(&published("scada-realtime", "a \"b\"", &serde_json::to_string(data).unwrap())).unwrap();
            let text = std::str::from_utf8(frame.payload()).unwrap().to_owned();
            let inner = text.strip_prefix(r#"{"event":"a \"b\"","data":"#).unwrap();
            inner.strip_suffix(r#","channel":"scada-realtime"}"#).unwrap().to_owned()
        };
        for value in [
            r#"{"a": 1.0, "b":[1e400,-0,12345678901234567890.50], "a":"\u00e9\/\ud800"}"#,
            "1.0",
            "null",
            "true",
            r#""text""#,
            "[]",
            "\"é😀\u{2028}\"",
        ] {
            assert_eq!(raw(value), value);
            assert_eq!(raw(&format!(" \n\t{value}\r ")), value);
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(raw(&deep), deep);
        for other in ["", "text", "NaN", "{a", "1 2", "01", "1.", "\u{0}", "é😀\u{2028}\" \\", "\u{feff}1", "[1,]"] {
            assert_eq!(raw(other), serde_json::to_string(other).unwrap());
        }
    }

    #[test]
    fn raw_data_that_is_no_text_stays_as_it_is() {
        let half = published("a", "e", r#""\ud800""#);
        assert_eq!(raw(&half), Some(half));
        let by = client_event("a", "client-e", r#""{\"a\":1}""#, Some("7"));
        let text = r#"{"event":"client-e","data":{"a":1},"channel":"a","user_id":"7"}"#;
        assert_eq!(raw(&by).unwrap().payload(), text.as_bytes());
    }

    #[test]
    fn the_servers_own_events_have_no_raw_form() {
        let member = Member { user_id: "7".into(), user_info: "{}".into() };
        for own in [
            subscription_succeeded("a"),
            subscription_count("a", 7),
            cache_miss("a"),
            member_added("presence-a", &member),
            pong(),
            error(None, "x"),
            Frame::ping(),
        ] {
            assert_eq!(raw(&own), None);
        }
    }

    #[test]
    fn an_event_says_where_it_comes_from_if_it_can() {
        let source = Some(Source { member: "channel", channel: "orders.K001" });
        for (there, here) in [(r#""{\"a\":1}""#, r#""{\"a\":1,\"channel\":\"orders.K001\"}""#), ("\"7\"", "\"7\"")] {
            let shown = under("private-group", &published("orders.K001", "e", there), source);
            assert_eq!(shown, Some(published("private-group", "e", here)));
        }
    }
}
