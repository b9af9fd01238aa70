//! The messages of clients (Pusher protocol, "Channels and events").
//! `session` parses them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::json;

/// One message of a client.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// `pusher:ping`.
    Ping,
    /// `pusher:pong`.
    Pong,
    /// `pusher:subscribe`.
    Subscribe(Subscribe),
    /// `pusher:unsubscribe` from this channel.
    Unsubscribe(String),
    /// `pusher:signin`.
    SignIn(SignIn),
    /// Any name that is not a command; those of clients start with `client-`.
    Event(ClientEvent<'a>),
    /// A JSON object of another protocol, with a `type` instead of an `event`, such as a custom heartbeat.
    Foreign,
}

/// `data` of `pusher:subscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The channel's name, not yet checked.
    pub channel: String,
    /// The token of a channel that needs one.
    pub auth: Option<String>,
    /// The signed text about the member.
    pub channel_data: Option<String>,
}

/// `data` of `pusher:signin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    /// The token.
    pub auth: String,
    /// The signed text about the user.
    pub user_data: String,
}

/// An event that a client wants to send to others.
#[derive(Debug)]
pub struct ClientEvent<'a> {
    /// Any name.
    pub name: Cow<'a, str>,
    /// The channel, if there is one and it is a string.
    pub channel: Option<Cow<'a, str>>,
    /// Any JSON value, possibly none.
    pub data: Option<&'a RawValue>,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a JSON object, or one whose `event` is no string.
    #[error("Received invalid JSON")]
    InvalidJson,
    /// A JSON object of something else.
    #[error("Missing parameter: event")]
    NoEvent,
    /// A command lacks something.
    #[error("Missing parameter: data.{0}")]
    Missing(&'static str),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    foreign: Option<&'a RawValue>,
}

impl<'a> ClientMessage<'a> {
    /// Reads one text message.
    pub fn parse(text: &'a str) -> Result<Self, MessageError> {
        let envelope: Envelope<'a> = json::object(text).ok_or(MessageError::InvalidJson)?;
        let Some(event) = envelope.event else {
            let foreign = envelope.foreign.is_some_and(json::is_string);
            return if foreign { Ok(Self::Foreign) } else { Err(MessageError::NoEvent) };
        };
        let name = json::text(event).ok_or(MessageError::InvalidJson)?;
        match &*name {
            "pusher:ping" => Ok(Self::Ping),
            "pusher:pong" => Ok(Self::Pong),
            "pusher:subscribe" => Command::read(envelope.data).subscribe().map(Self::Subscribe),
            "pusher:unsubscribe" => Command::read(envelope.data).channel().map(Self::Unsubscribe),
            "pusher:signin" => Command::read(envelope.data).sign_in().map(Self::SignIn),
            _ => {
                let channel = envelope.channel.and_then(json::text);
                Ok(Self::Event(ClientEvent { name, channel, data: envelope.data }))
            }
        }
    }
}

/// `data` of a command: an object, or a string that contains one. A field that is no string counts as absent.
#[derive(Default)]
struct Command {
    channel: Option<String>,
    auth: Option<String>,
    channel_data: Option<String>,
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct CommandData<'a> {
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    auth: Option<&'a RawValue>,
    #[serde(borrow)]
    channel_data: Option<&'a RawValue>,
    #[serde(borrow)]
    user_data: Option<&'a RawValue>,
}

impl Command {
    fn read(data: Option<&RawValue>) -> Self {
        let Some(data) = data else { return Self::default() };
        let text = json::text(data).unwrap_or(Cow::Borrowed(data.get()));
        let Some(data) = json::object::<CommandData<'_>>(&text) else { return Self::default() };
        let field = |raw: Option<&RawValue>| raw.and_then(json::text).map(Cow::into_owned);
        Self {
            channel: field(data.channel),
            auth: field(data.auth),
            channel_data: field(data.channel_data),
            user_data: field(data.user_data),
        }
    }

    fn channel(self) -> Result<String, MessageError> {
        self.channel.ok_or(MessageError::Missing("channel"))
    }

    fn subscribe(self) -> Result<Subscribe, MessageError> {
        let channel = self.channel.ok_or(MessageError::Missing("channel"))?;
        Ok(Subscribe { channel, auth: self.auth, channel_data: self.channel_data })
    }

    fn sign_in(self) -> Result<SignIn, MessageError> {
        let auth = self.auth.ok_or(MessageError::Missing("auth"))?;
        let user_data = self.user_data.ok_or(MessageError::Missing("user_data"))?;
        Ok(SignIn { auth, user_data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_with_a_string_event_is_a_message() {
        for text in ["", "x", "[]", "[\"pusher:ping\"]", "null", "{\"event\":5}", "{\"event\":\"a\""] {
            assert_eq!(ClientMessage::parse(text).unwrap_err(), MessageError::InvalidJson, "{text}");
        }
        for text in ["{}", "{\"type\":1}", "{\"data\":\"event\"}", "{\"event\":null}"] {
            assert_eq!(ClientMessage::parse(text).unwrap_err(), MessageError::NoEvent, "{text}");
        }
    }

    #[test]
    fn a_home_made_heartbeat_is_foreign() {
        let message = ClientMessage::parse(r#"{"type":"heartbeat","timestamp":1}"#);
        assert!(matches!(message, Ok(ClientMessage::Foreign)));
    }

    #[test]
    fn a_commands_data_may_be_a_string_that_contains_json() {
        let text = r#"{"event":"pusher:subscribe","data":"{\"channel\":\"a\",\"auth\":null}"}"#;
        let Ok(ClientMessage::Subscribe(subscribe)) = ClientMessage::parse(text) else { panic!("not a subscribe") };
        assert_eq!(subscribe, Subscribe { channel: "a".to_owned(), auth: None, channel_data: None });
    }

    #[test]
    fn a_hundred_thousand_brackets_are_no_problem() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(r#"{{"event":"client-x","channel":"private-a","data":{deep}}}"#);
        let Ok(ClientMessage::Event(event)) = ClientMessage::parse(&text) else { panic!("not an event") };
        assert_eq!(event.data.unwrap().get().len(), 200_000);
        assert!(ClientMessage::parse(&deep).is_err());
    }
}
