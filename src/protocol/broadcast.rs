//! Messages of Laravel's `redis` broadcaster (Pusher protocol, "`redis` driver"): the same events as over the HTTP API,
//! in another form and without a signature.
//! `ingest` parses them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::channel::ChannelName;
use crate::protocol::channel::NameError;
use crate::protocol::json;
use crate::protocol::json::Fields;
use crate::protocol::publish::BodyError;
use crate::protocol::publish::PublishLimits;
use crate::protocol::publish::event_name;
use crate::protocol::socket_id::SocketId;

/// An event that may be delivered.
#[derive(Debug)]
pub struct Broadcast<'a> {
    /// Any name but those of Pusher's own events. Never empty.
    pub name: Cow<'a, str>,
    /// A JSON string with its quotes: what the `pusher` driver would have sent.
    pub data: Cow<'a, str>,
    /// Neither an encrypted channel nor a user's own.
    pub channel: ChannelName,
    /// The connection that must not get the event.
    pub except: Option<SocketId>,
}

/// Why a message is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    /// Of other software: not a JSON object with an `event`, or not on a channel of this protocol.
    #[error("not an event of Laravel")]
    Foreign,
    /// Plaintext for subscribers who expect to decrypt.
    #[error("not encrypted, but for an encrypted channel")]
    Encrypted,
    /// More than the app allows, or a reserved name.
    #[error(transparent)]
    Refused(#[from] BodyError),
}

/// A message as published; `null` counts as absent, unknown fields are ignored.
#[derive(Debug, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    socket: Option<&'a RawValue>,
}

impl<'a> Broadcast<'a> {
    /// Parses a message for `channel`, whose prefix has been removed.
    ///
    /// ```
    /// use gema::protocol::broadcast::Broadcast;
    /// use gema::protocol::publish::PublishLimits;
    /// let limits = PublishLimits {
    ///     batch_events_max: 10,
    ///     channels_max: 100,
    ///     channel_name_length_max: 200,
    ///     event_name_length_max: 200,
    ///     data_bytes_max: 10_240,
    /// };
    /// let message = br#"{"event":"order.shipped","data":{"id":7,"socket":"12.34"},"socket":"12.34"}"#;
    /// let broadcast = Broadcast::parse("private-orders.7", message, limits).unwrap();
    /// assert_eq!((&*broadcast.name, &*broadcast.data), ("order.shipped", r#""{\"id\":7}""#));
    /// assert_eq!(broadcast.except.unwrap().to_string(), "12.34");
    /// assert!(Broadcast::parse("private-encrypted-x", message, limits).is_err());
    /// ```
    pub fn parse(channel: &str, message: &'a [u8], limits: PublishLimits) -> Result<Self, BroadcastError> {
        let text = std::str::from_utf8(message).map_err(|_| BroadcastError::Foreign)?;
        let body: Body<'a> = json::object(text).ok_or(BroadcastError::Foreign)?;
        let event = body.event.filter(|event| json::is_string(event)).ok_or(BroadcastError::Foreign)?;
        let channel = channel_name(channel, limits.channel_name_length_max)?;
        let name = event_name(event, limits.event_name_length_max)?;
        let data = body.data.map_or(Cow::Borrowed(r#""{}""#), data);
        let is_longer = |raw: &RawValue| json::data_is_longer(raw, &data, limits.data_bytes_max);
        if body.data.is_some_and(is_longer) {
            return Err(BodyError::DataTooLarge(limits.data_bytes_max).into());
        }
        let except = body.socket.and_then(json::text).and_then(|socket_id| SocketId::parse(&socket_id));
        Ok(Self { name, data, channel, except })
    }
}

fn channel_name(name: &str, length_max: usize) -> Result<ChannelName, BroadcastError> {
    match ChannelName::parse(name, length_max) {
        Ok(channel) if channel.kind().encrypted => Err(BroadcastError::Encrypted),
        Ok(channel) if channel.user().is_none() => Ok(channel),
        Err(error @ NameError::TooLong) => Err(BodyError::from(error).into()),
        _ => Err(BroadcastError::Foreign),
    }
}

/// The data without Laravel's member `socket`. If nothing else is in it, it becomes PHP's empty array.
fn data(raw: &RawValue) -> Cow<'_, str> {
    let is_object = raw.get().starts_with('{');
    let Some(Fields(fields)) = is_object.then(|| serde_json::from_str(raw.get()).ok()).flatten() else {
        return json::data_string(raw);
    };
    let is_kept = |(key, _): &&(&RawValue, &RawValue)| json::text(key).as_deref() != Some("socket");
    let kept: Vec<_> = fields.iter().filter(is_kept).collect();
    match kept.len() {
        all if all == fields.len() => json::data_string(raw),
        0 => Cow::Borrowed(r#""[]""#),
        _ => {
            let kept = kept.iter().map(|(key, value)| format!("{}:{}", key.get(), json::compact(value)));
            Cow::Owned(json::quoted(&format!("{{{}}}", kept.collect::<Vec<_>>().join(","))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits {
        batch_events_max: 1,
        channels_max: 1,
        channel_name_length_max: 20,
        event_name_length_max: 17,
        data_bytes_max: 40,
    };

    fn parse<'a>(channel: &str, message: &'a str) -> Result<Broadcast<'a>, BroadcastError> {
        Broadcast::parse(channel, message.as_bytes(), LIMITS)
    }

    /// The data of an event with this data, as the subscribers get it.
    fn data_of(data: &str) -> String {
        let message = format!(r#"{{"event":"e","data":{data}}}"#);
        let literal = parse("a", &message).unwrap().data.into_owned();
        serde_json::from_str(&literal).unwrap_or(literal)
    }

    #[test]
    fn only_the_socket_is_taken_out_of_the_data() {
        for (sent, delivered) in [
            (r#"{"socket":null}"#, "[]"),
            (r#"{}"#, "{}"),
            (r#"{"b":1.0,"socket":"1.2","a":12345678901234567890}"#, r#"{"b":1.0,"a":12345678901234567890}"#),
            (r#"{ "a" : [ 1, {"socket": 2} ] , "s\u006fcket":1}"#, r#"{"a":[1,{"socket":2}]}"#),
            (r#"{"\ud800":1,"socket":1}"#, r#"{"\ud800":1}"#),
            (r#""as it \u00e9 is""#, "as it é is"),
            ("[1, 2]", "[1,2]"),
            ("null", "{}"),
            ("7", "7"),
        ] {
            assert_eq!(data_of(sent), delivered, "{sent}");
        }
        assert_eq!(parse("a", r#"{"event":"e"}"#).unwrap().data, r#""{}""#);
    }

    #[test]
    fn a_socket_that_is_no_socket_id_excludes_nobody() {
        let except = |socket: &str| {
            let message = format!(r#"{{"event":"e","socket":{socket}}}"#);
            parse("a", &message).unwrap().except
        };
        assert_eq!(except(r#""12.34""#), SocketId::parse("12.34"));
        for socket in ["null", "12.34", r#""x""#, "[]"] {
            assert_eq!(except(socket), None, "{socket}");
        }
    }

    #[test]
    fn what_others_publish_is_foreign() {
        let event = r#"{"event":"e"}"#;
        for (channel, message) in [
            ("a", "1"),
            ("a", "[]"),
            ("a", r#"{"event":1}"#),
            ("a", r#"{"data":{}}"#),
            ("a", r#"{"event":"e""#),
            ("", event),
            ("a:b", event),
            ("#server-to-user-1", event),
        ] {
            assert_eq!(parse(channel, message).unwrap_err(), BroadcastError::Foreign, "{channel} {message}");
        }
        assert_eq!(Broadcast::parse("a", b"{\"event\":\"\xff\"}", LIMITS).unwrap_err(), BroadcastError::Foreign);
    }

    #[test]
    fn limits_hold_as_over_http() {
        let refused = |channel: &str, message: &str| match parse(channel, message) {
            Err(BroadcastError::Refused(error)) => error,
            other => panic!("{other:?}"),
        };
        let named = |name: &str| refused("a", &format!(r#"{{"event":"{name}"}}"#));
        assert_eq!(named(""), BodyError::EmptyName);
        assert_eq!(named(&"e".repeat(18)), BodyError::NameTooLong(17));
        assert_eq!(named("pusher:x"), BodyError::ReservedName);
        assert_eq!(named("pusher_internal:x"), BodyError::ReservedName);
        assert_eq!(refused(&"a".repeat(21), r#"{"event":"e"}"#), BodyError::Channel(NameError::TooLong));
        let long = format!(r#"{{"event":"e","data":{{"a":"{}","socket":null}}}}"#, "x".repeat(33));
        assert_eq!(refused("a", &long), BodyError::DataTooLarge(40));
        let fits = long.replacen('x', "", 1);
        assert!(parse("a", &fits).is_ok(), "the socket does not count");
    }
}
