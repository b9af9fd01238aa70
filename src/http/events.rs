//! Publishing: `POST /events` and `POST /batch_events` (Pusher HTTP API).

use std::time::Instant;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::Map;
use serde_json::Value;

use crate::http::Api;
use crate::http::answer;
use crate::http::answer::Refusal;
use crate::node::App;
use crate::node::Node;
use crate::node::Publication;
use crate::protocol::channel::ChannelName;
use crate::protocol::publish::PublisherEvent;

/// `POST /apps/{app_id}/events`.
pub(super) async fn publish(State(api): State<Api>, Path(app_id): Path<String>, request: Request<Body>) -> Response {
    let node = &api.0.node;
    api.signed(request, &app_id, |signed| {
        let event = PublisherEvent::parse(&signed.body, signed.app.publish_limits())?;
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
        let events = PublisherEvent::parse_batch(&signed.body, signed.app.publish_limits())?;
        deliver(node, &signed.app, &events)?;
        if events.iter().all(|event| event.info.is_none()) {
            return Ok(answer::empty_object());
        }
        let facts = |event: &PublisherEvent<'_>| match event.info {
            Some(info) => signed.app.facts_after_publish(&event.channels[0], info),
            None => Map::new(),
        };
        let facts: Vec<_> = events.iter().map(facts).collect();
        Ok(answer::json(&serde_json::json!({ "batch": facts })))
    })
    .await
}

fn deliver(node: &Node, app: &App, events: &[PublisherEvent<'_>]) -> Result<(), Refusal> {
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
