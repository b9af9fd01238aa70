//! The bodies of publishers: `POST /events` and `POST /batch_events` (Pusher HTTP API).
//! `http::events` parses them.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::channel::ChannelName;
use crate::protocol::channel::NameError;
use crate::protocol::json;
use crate::protocol::request::InfoRequest;
use crate::protocol::socket_id::SocketId;

/// An event that may be delivered.
#[derive(Debug)]
pub struct PublisherEvent<'a> {
    /// Any name but those of Pusher's own events. Never empty.
    pub name: Cow<'a, str>,
    /// A JSON string with its quotes.
    pub data: Cow<'a, str>,
    /// At least one, each once; an encrypted channel is the only one.
    pub channels: Vec<ChannelName>,
    /// The connection that must not get the event.
    pub except: Option<SocketId>,
    /// The attributes of the channels that the publisher asks for.
    pub info: Option<InfoRequest>,
    /// Tells that a request is repeated, as it was sent. An event of a batch has none.
    pub idempotency_key: Option<Cow<'a, str>>,
}

/// The size limits of publishers.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Events of one batch.
    pub batch_events_max: usize,
    /// Channels of one event.
    pub channels_max: usize,
    /// Characters of a channel's name.
    pub channel_name_length_max: usize,
    /// Characters of an event's name.
    pub event_name_length_max: usize,
    /// Bytes of `data` as UTF-8.
    pub data_bytes_max: usize,
}

/// Why a body is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not UTF-8.
    #[error("The request body is not UTF-8")]
    NotUtf8,
    /// Not a JSON object.
    #[error("The request body must be a JSON object")]
    NotAnObject,
    /// An event of a batch is none.
    #[error("A JSON object is expected")]
    NoEvent,
    /// An event of a batch that is wrong.
    #[error("Event {number} of the batch: {error}")]
    InBatch {
        /// Which one, counted from 1.
        number: usize,
        /// Its fault.
        error: Box<BodyError>,
    },
    /// Not JSON, or a field of the wrong kind.
    #[error("The request body is not valid: {0}")]
    Invalid(String),
    /// A parameter is missing or `null`.
    #[error("Missing required parameter: {0}")]
    Missing(&'static str),
    /// A parameter of another kind.
    #[error("Expected {0} parameter to be a string")]
    NotText(&'static str),
    /// `channels` of another kind.
    #[error("Expected channels parameter to be an array of strings")]
    NotTexts,
    /// `info` of another kind.
    #[error(
        "Expected info parameter to be a string, such as \"subscription_count,user_count\", or an array of strings"
    )]
    BadInfo,
    /// `batch` of another kind.
    #[error("Expected batch parameter to be an array of events")]
    NoBatch,
    /// Too many channels for one event.
    #[error("The number of channels exceeds the limit of {0}")]
    TooManyChannels(usize),
    /// Too many events for one batch.
    #[error("Batch too large ({events} > {limit})")]
    BatchTooLarge {
        /// As sent.
        events: usize,
        /// As allowed.
        limit: usize,
    },
    /// Not a channel name.
    #[error(transparent)]
    Channel(#[from] NameError),
    /// Each encrypted channel has a key of its own.
    #[error("An event on an encrypted channel must name no other channel")]
    EncryptedAmongOthers,
    /// An event without a name.
    #[error("The name parameter must not be empty")]
    EmptyName,
    /// More characters than the app allows.
    #[error("Event name is too long, at most {0} characters are allowed")]
    NameTooLong(usize),
    /// The name of an event that only the server sends.
    #[error("Event names starting with pusher: or pusher_internal: are reserved")]
    ReservedName,
    /// More bytes than the app allows.
    #[error("The data content of this event exceeds the allowed maximum ({0} bytes)")]
    DataTooLarge(usize),
    /// Not the id of a connection.
    #[error("Invalid socket_id, two numbers joined by a dot are expected")]
    BadSocketId,
}

impl BodyError {
    /// The fault itself, without its position.
    pub fn cause(&self) -> &Self {
        match self {
            Self::InBatch { error, .. } => error,
            error => error,
        }
    }
}

/// An event as sent; `null` counts as absent, unknown fields are ignored.
#[derive(Debug, Deserialize)]
struct EventBody<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channels: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    socket_id: Option<&'a RawValue>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    idempotency_key: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct BatchBody<'a> {
    #[serde(borrow)]
    batch: Option<&'a RawValue>,
}

impl<'a> PublisherEvent<'a> {
    /// Parses the body of `POST /events`.
    ///
    /// ```
    /// use gema::protocol::publish::{PublishLimits, PublisherEvent};
    /// let limits = PublishLimits {
    ///     batch_events_max: 10,
    ///     channels_max: 100,
    ///     channel_name_length_max: 200,
    ///     event_name_length_max: 200,
    ///     data_bytes_max: 10_240,
    /// };
    /// let event = PublisherEvent::parse(br#"{"name":"e","channel":"c","data":{"a": 1}}"#, limits).unwrap();
    /// assert_eq!(event.data, r#""{\"a\":1}""#);
    /// assert!(PublisherEvent::parse(br#"{"name":"e","channel":"c"}"#, limits).is_err());
    /// ```
    pub fn parse(body: &'a [u8], limits: PublishLimits) -> Result<Self, BodyError> {
        let body: EventBody<'_> = parse(text(body)?)?;
        let event = body.check(body.channels(limits)?, limits)?;
        Ok(Self { idempotency_key: body.idempotency_key()?, ..event })
    }

    /// Replaces channels of the event by those that `to` names, each once.
    pub fn redirect<E>(&mut self, to: impl Fn(&ChannelName) -> Result<Option<ChannelName>, E>) -> Result<(), E> {
        let mut redirected = false;
        for channel in &mut self.channels {
            if let Some(other) = to(channel)? {
                *channel = other;
                redirected = true;
            }
        }
        if redirected {
            let mut seen = HashSet::new();
            self.channels.retain(|channel| seen.insert(channel.clone()));
        }
        Ok(())
    }

    /// Parses the body of `POST /batch_events`, whose events have one channel each. One invalid event makes all
    /// invalid.
    pub fn parse_batch(body: &'a [u8], limits: PublishLimits) -> Result<Vec<Self>, BodyError> {
        let body: BatchBody<'_> = parse(text(body)?)?;
        let batch = body.batch.ok_or(BodyError::Missing("batch"))?;
        let events: Vec<&RawValue> = serde_json::from_str(batch.get()).map_err(|_| BodyError::NoBatch)?;
        let limit = limits.batch_events_max;
        if events.len() > limit {
            return Err(BodyError::BatchTooLarge { events: events.len(), limit });
        }
        let events = events.into_iter().zip(1..).map(|(event, number)| {
            Self::of_batch(event.get(), limits).map_err(|error| BodyError::InBatch { number, error: Box::new(error) })
        });
        events.collect()
    }

    fn of_batch(event: &'a str, limits: PublishLimits) -> Result<Self, BodyError> {
        let body: EventBody<'_> = parse(event).map_err(|error| match error {
            BodyError::NotAnObject => BodyError::NoEvent,
            error => error,
        })?;
        body.check(vec![body.channel(limits)?], limits)
    }
}

impl<'a> EventBody<'a> {
    /// The distinct channels of an event: `channels` as an array or a single name, else `channel`.
    fn channels(&self, limits: PublishLimits) -> Result<Vec<ChannelName>, BodyError> {
        let Some(list) = self.channels else { return Ok(vec![self.channel(limits)?]) };
        let names = match json::text(list) {
            Some(name) => vec![name],
            None => texts(list, limits.channels_max)?,
        };
        let mut channels: Vec<ChannelName> = Vec::with_capacity(names.len());
        for name in names {
            if !channels.iter().any(|channel| channel.as_str() == name) {
                channels.push(ChannelName::parse(&name, limits.channel_name_length_max)?);
            }
        }
        if channels.is_empty() {
            return Err(BodyError::Missing("channels"));
        }
        Ok(channels)
    }

    fn channel(&self, limits: PublishLimits) -> Result<ChannelName, BodyError> {
        let channel = self.channel.ok_or(BodyError::Missing("channel"))?;
        let name = json::text(channel).ok_or(BodyError::NotText("channel"))?;
        Ok(ChannelName::parse(&name, limits.channel_name_length_max)?)
    }

    fn check(&self, channels: Vec<ChannelName>, limits: PublishLimits) -> Result<PublisherEvent<'a>, BodyError> {
        if channels.len() > 1 && channels.iter().any(|channel| channel.kind().encrypted) {
            return Err(BodyError::EncryptedAmongOthers);
        }
        let name = self.name(limits.event_name_length_max)?;
        let raw = self.data.ok_or(BodyError::Missing("data"))?;
        let data = json::data_string(raw);
        if json::data_is_longer(raw, &data, limits.data_bytes_max) {
            return Err(BodyError::DataTooLarge(limits.data_bytes_max));
        }
        let (except, info) = (self.except()?, self.info()?);
        Ok(PublisherEvent { name, data, channels, except, info, idempotency_key: None })
    }

    fn idempotency_key(&self) -> Result<Option<Cow<'a, str>>, BodyError> {
        let key = self.idempotency_key.map(|key| json::text(key).ok_or(BodyError::NotText("idempotency_key")));
        key.transpose()
    }

    fn name(&self, length_max: usize) -> Result<Cow<'a, str>, BodyError> {
        event_name(self.name.ok_or(BodyError::Missing("name"))?, length_max)
    }

    fn except(&self) -> Result<Option<SocketId>, BodyError> {
        let Some(raw) = self.socket_id else { return Ok(None) };
        let socket_id = json::text(raw).and_then(|text| SocketId::parse(&text));
        socket_id.map(Some).ok_or(BodyError::BadSocketId)
    }

    /// A list with commas, or an array of names.
    fn info(&self) -> Result<Option<InfoRequest>, BodyError> {
        let Some(raw) = self.info else { return Ok(None) };
        if let Some(list) = json::text(raw) {
            return Ok((!list.is_empty()).then(|| InfoRequest::parse(&list)));
        }
        let names: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| BodyError::BadInfo)?;
        let mut info = None;
        for name in names {
            let name = json::text(name).ok_or(BodyError::BadInfo)?;
            info = Some(info.unwrap_or_else(InfoRequest::default).and(&name));
        }
        Ok(info)
    }
}

/// The name of an event, which must be one that publishers may use.
pub(super) fn event_name(name: &RawValue, length_max: usize) -> Result<Cow<'_, str>, BodyError> {
    let name = json::text(name).ok_or(BodyError::NotText("name"))?;
    if name.is_empty() {
        return Err(BodyError::EmptyName);
    }
    if name.len() > length_max && name.chars().count() > length_max {
        return Err(BodyError::NameTooLong(length_max));
    }
    if name.starts_with("pusher:") || name.starts_with("pusher_internal:") {
        return Err(BodyError::ReservedName);
    }
    Ok(name)
}

fn text(body: &[u8]) -> Result<&str, BodyError> {
    std::str::from_utf8(body).map_err(|_| BodyError::NotUtf8)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, BodyError> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(BodyError::NotAnObject);
    }
    serde_json::from_str(text).map_err(|error| BodyError::Invalid(error.to_string()))
}

/// The strings of an array with up to `max` of them.
fn texts(list: &RawValue, max: usize) -> Result<Vec<Cow<'_, str>>, BodyError> {
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| BodyError::NotTexts)?;
    if list.len() > max {
        return Err(BodyError::TooManyChannels(max));
    }
    list.into_iter().map(json::text).collect::<Option<_>>().ok_or(BodyError::NotTexts)
}
