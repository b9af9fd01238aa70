//! A message of the queue: a request for one endpoint, with the fields that Soketi's messages have.
//! `sqs` writes messages, `consume` reads them. Others may write into the queue, too.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::Digest;
use sha2::Sha256;

use crate::protocol::webhook::Kind;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Request;

/// The longest name that a group of a FIFO queue may have.
const GROUP_BYTES_MAX: usize = 128;

/// A message as it was read.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) app: String,
    /// The endpoint's stream; none in a message of Soketi, which is for all endpoints of the app.
    pub(super) endpoint: Option<String>,
    /// The body of the request, to the byte as it was written.
    pub(super) body: String,
    pub(super) events: Vec<QueuedEvent>,
}

/// An event of a message.
#[derive(Debug)]
pub(super) struct QueuedEvent {
    pub(super) kind: Option<Kind>,
    pub(super) channel: String,
    pub(super) text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    app_id: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Event {
    name: Json,
    channel: String,
}

/// The text of a message.
pub(super) fn encode(endpoint: &Endpoint, request: &Request) -> String {
    let target = endpoint.target();
    let head = json!({
        "appKey": target.key.key,
        "appId": &*endpoint.app,
        "endpoint": endpoint.stream_name(),
        // Two requests may have the same events and the same time. A FIFO queue must not take the second for the first.
        "id": format!("{:016x}", rand::random::<u64>()),
        "originalPusherSignature": target.signature(&request.body),
    })
    .to_string();
    let body = std::str::from_utf8(&request.body).unwrap_or_default();
    format!("{},\"payload\":{body}}}", &head[..head.len() - 1])
}

/// Reads a message; `None` if it is no webhook.
pub(super) fn decode(text: &str) -> Option<QueuedRequest> {
    let written: Written<'_> = serde_json::from_str(text).ok()?;
    let payload: Payload<'_> = serde_json::from_str(written.payload.get()).ok()?;
    let event = |text: &&RawValue| {
        let event: Event = serde_json::from_str(text.get()).ok()?;
        let kind = serde_json::from_value(event.name).ok();
        Some(QueuedEvent { kind, channel: event.channel, text: text.get().to_owned() })
    };
    Some(QueuedRequest {
        app: written.app_id,
        endpoint: written.endpoint,
        body: written.payload.get().to_owned(),
        events: payload.events.iter().map(event).collect::<Option<_>>()?,
    })
}

/// The group of an endpoint's messages in a FIFO queue, which gives them back one after the other.
pub(super) fn group(endpoint: &Endpoint) -> String {
    let name = format!("{}_{}", endpoint.app, endpoint.stream_name());
    let is_possible = name.len() <= GROUP_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_possible { name } else { endpoint.stream_name().to_owned() }
}

/// SHA-256 of a message, by which a FIFO queue knows that it has it already.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut digits, byte| {
        // Writing into a text cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_webhook_is_none() {
        for text in [
            "",
            "{}",
            "[]",
            "7",
            r#"{"appId":7,"payload":{"events":[]}}"#,
            r#"{"appId":"a","payload":"{}"}"#,
            r#"{"appId":"a","payload":{"events":{}}}"#,
            r#"{"appId":"a","payload":{"events":[{"name":"x"}]}}"#,
            r#"{"Type":"Notification","Message":"hush"}"#,
        ] {
            assert!(decode(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_message_of_soketi_is_read_with_the_body_as_it_was_signed() {
        let text = r#"{"appKey":"k","appId":"a","payload":{"time_ms":1,"events":[ {"name":"cache_miss","channel":"cache-x"}, {"name":"odd","channel":"y"}]},"originalPusherSignature":"s"}"#;
        let read = decode(text).unwrap();
        assert_eq!((read.app.as_str(), read.endpoint), ("a", None));
        assert!(read.body.starts_with(r#"{"time_ms":1,"events":[ {"#) && text.contains(&read.body));
        let kinds: Vec<_> = read.events.iter().map(|event| (event.kind, event.channel.as_str())).collect();
        assert_eq!(kinds, [(Some(Kind::CacheMiss), "cache-x"), (None, "y")]);
        assert_eq!(read.events[1].text, r#"{"name":"odd","channel":"y"}"#);
    }

    #[test]
    fn the_digest_is_that_of_the_standard() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
