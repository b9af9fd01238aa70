//! Publishing: `POST /events` and `POST /batch_events` (Pusher HTTP API).

use std::borrow::Cow;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::Api;
use crate::http::answer;
use crate::http::answer::Refusal;
use crate::http::auth::Signed;
use crate::node::App;
use crate::node::InfoRequest;
use crate::node::Node;
use crate::node::Publication;
use crate::protocol::channel::ChannelName;
use crate::protocol::json;
use crate::protocol::socket_id::SocketId;

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
}

#[derive(Debug, Deserialize)]
struct BatchBody<'a> {
    #[serde(borrow)]
    batch: Option<Vec<&'a RawValue>>,
}

/// An event that may be delivered.
#[derive(Debug)]
struct Checked<'a> {
    name: Cow<'a, str>,
    data: Cow<'a, str>,
    channels: Vec<ChannelName>,
    except: Option<SocketId>,
    info: Option<InfoRequest>,
}

/// `POST /apps/{app_id}/events`.
pub(super) async fn publish(State(api): State<Api>, Path(app_id): Path<String>, request: Request<Body>) -> Response {
    let node = &api.0.node;
    api.signed(request, &app_id, |signed| {
        let body: EventBody<'_> = parse(&signed.body)?;
        let event = body.check(&signed.app, channels_of(&body, &signed.app)?)?;
        deliver(node, &signed.app, std::slice::from_ref(&event))?;
        let Some(info) = event.info else { return Ok(answer::empty_object()) };
        let facts = |channel: &ChannelName| Value::from(signed.app.facts_after_publish(channel, info));
        let channels: Map<String, Value> =
            event.channels.iter().map(|channel| (channel.to_string(), facts(channel))).collect();
        Ok(answer::json(&serde_json::json!({ "channels": channels })))
    })
    .await
}

/// `POST /apps/{app_id}/batch_events`: all of them or none.
pub(super) async fn publish_batch(
    State(api): State<Api>,
    Path(app_id): Path<String>,
    request: Request<Body>,
) -> Response {
    let node = &api.0.node;
    api.signed(request, &app_id, |signed| {
        let events = batch(signed)?;
        let bodies = events.iter().map(|event| parse(event.get().as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let check = |body| EventBody::check(body, &signed.app, vec![channel_of(body, &signed.app)?]);
        let events = bodies.iter().map(check).collect::<Result<Vec<_>, _>>()?;
        deliver(node, &signed.app, &events)?;
        if events.iter().all(|event| event.info.is_none()) {
            return Ok(answer::empty_object());
        }
        let facts = |event: &Checked<'_>| match event.info {
            Some(info) => signed.app.facts_after_publish(&event.channels[0], info),
            None => Map::new(),
        };
        let facts: Vec<_> = events.iter().map(facts).collect();
        Ok(answer::json(&serde_json::json!({ "batch": facts })))
    })
    .await
}

fn batch(signed: &Signed) -> Result<Vec<&RawValue>, Refusal> {
    let body: BatchBody<'_> = parse(&signed.body)?;
    let events = body.batch.ok_or_else(|| Refusal::bad("Missing required parameter: batch"))?;
    let max = signed.app.limits.max_event_batch_size;
    if events.len() > max {
        return Err(Refusal::bad(format!("Batch too large ({} > {max})", events.len())));
    }
    Ok(events)
}

fn deliver(node: &Node, app: &App, events: &[Checked<'_>]) -> Result<(), Refusal> {
    let accepted = Instant::now();
    node.admit(app, events.iter().map(|event| event.channels.len()).sum(), accepted)?;
    for event in events {
        let publication = Publication { name: &event.name, data: &event.data, except: event.except };
        for channel in &event.channels {
            app.publish(channel, &publication, accepted);
        }
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad("The request body is not UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Refusal::bad("The request body must be a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| Refusal::bad(format!("The request body is not valid: {error}")))
}

/// The distinct channels of an event: `channels` as an array or a single name, else `channel`.
fn channels_of(body: &EventBody<'_>, app: &App) -> Result<Vec<ChannelName>, Refusal> {
    let Some(list) = body.channels else { return Ok(vec![channel_of(body, app)?]) };
    let names: Vec<Cow<'_, str>> = match json::text(list) {
        Some(name) => vec![name],
        None => {
            let names: Vec<&RawValue> = serde_json::from_str(list.get())
                .map_err(|_| Refusal::bad("Expected channels parameter to be an array of strings"))?;
            let max = app.limits.max_event_channels_at_once;
            if names.len() > max {
                return Err(Refusal::bad(format!("The number of channels exceeds the limit of {max}")));
            }
            let texts: Option<Vec<_>> = names.into_iter().map(json::text).collect();
            texts.ok_or_else(|| Refusal::bad("Expected channels parameter to be an array of strings"))?
        }
    };
    let mut channels: Vec<ChannelName> = Vec::with_capacity(names.len());
    for name in names {
        if !channels.iter().any(|channel| channel.as_str() == name) {
            channels.push(ChannelName::parse(&name, app.limits.max_channel_name_length)?);
        }
    }
    if channels.is_empty() {
        return Err(Refusal::bad("Missing required parameter: channels"));
    }
    Ok(channels)
}

fn channel_of(body: &EventBody<'_>, app: &App) -> Result<ChannelName, Refusal> {
    let channel = body.channel.ok_or_else(|| Refusal::bad("Missing required parameter: channel"))?;
    let name = json::text(channel).ok_or_else(|| Refusal::bad("Expected channel parameter to be a string"))?;
    Ok(ChannelName::parse(&name, app.limits.max_channel_name_length)?)
}

impl<'a> EventBody<'a> {
    fn check(&self, app: &App, channels: Vec<ChannelName>) -> Result<Checked<'a>, Refusal> {
        if channels.len() > 1 && channels.iter().any(|channel| channel.kind().encrypted) {
            return Err(Refusal::bad("An event on an encrypted channel must name no other channel"));
        }
        let name = self.name(app)?;
        let data = self.data.ok_or_else(|| Refusal::bad("Missing required parameter: data"))?;
        let data = json::data_string(data).ok_or_else(|| Refusal::bad("The data parameter is nested too deeply"))?;
        if app.is_too_large(&data) {
            let max = app.limits.event_bytes_max();
            let message = format!("The data content of this event exceeds the allowed maximum ({max} bytes)");
            return Err(Refusal::TooLarge(message));
        }
        Ok(Checked { name, data, channels, except: self.except()?, info: self.info() })
    }

    fn name(&self, app: &App) -> Result<Cow<'a, str>, Refusal> {
        let name = self.name.ok_or_else(|| Refusal::bad("Missing required parameter: name"))?;
        let name = json::text(name).ok_or_else(|| Refusal::bad("Expected name parameter to be a string"))?;
        let max = app.limits.max_event_name_length;
        if name.is_empty() {
            return Err(Refusal::bad("The name parameter must not be empty"));
        }
        if name.len() > max && name.chars().count() > max {
            return Err(Refusal::bad(format!("Event name is too long, at most {max} characters are allowed")));
        }
        if name.starts_with("pusher:") || name.starts_with("pusher_internal:") {
            return Err(Refusal::bad("Event names starting with pusher: or pusher_internal: are reserved"));
        }
        Ok(name)
    }

    fn except(&self) -> Result<Option<SocketId>, Refusal> {
        let Some(raw) = self.socket_id else { return Ok(None) };
        let socket_id = json::text(raw).and_then(|text| SocketId::parse(&text));
        socket_id.map(Some).ok_or_else(|| Refusal::bad("Invalid socket_id, two numbers joined by a dot are expected"))
    }

    fn info(&self) -> Option<InfoRequest> {
        let list = self.info.and_then(json::text).filter(|list| !list.is_empty())?;
        Some(InfoRequest::parse(&list))
    }
}
