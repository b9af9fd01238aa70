//! Publishing: `POST /events` and `POST /batch_events` (Pusher HTTP API).
//! `http` routes to them.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::Map;
use serde_json::json;

use crate::http::Api;
use crate::http::Client;
use crate::http::auth::Signed;
use crate::http::idempotency;
use crate::http::response::Published;
use crate::http::response::Refusal;
use crate::limiter::Allowance;
use crate::node::App;
use crate::node::Node;
use crate::node::Publication;
use crate::node::Rules;
use crate::protocol::idempotency::PublishPath;
use crate::protocol::publish::PublisherEvent;

/// `POST /apps/{app_id}/events`.
pub(super) async fn publish(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path(app_id): Path<String>,
    request: Request<Body>,
) -> Response {
    publish_to(&api, &client, &app_id, request).await
}

/// Like `publish`, but without the router.
pub(super) async fn publish_to(api: &Api, client: &Client, app_id: &str, request: Request<Body>) -> Response {
    api.signed(client, request, app_id, async |signed| publish_event(api, signed).await).await
}

/// Publishes the event of a request, once if it has an idempotency key.
async fn publish_event(api: &Api, signed: &Signed<'_>) -> Result<(Response, usize), Refusal> {
    let event = PublisherEvent::parse(&signed.body, signed.rules.publish_limits())?;
    let Some(key) = idempotency::key(signed, event.idempotency_key.as_deref())? else {
        return Ok(one(&api.0.node, signed.app, &signed.rules, event).await?.into_answer());
    };
    let (node, app, rules) = (Arc::clone(&api.0.node), Arc::clone(signed.app), Arc::clone(&signed.rules));
    let body = signed.body.clone();
    // The event borrows from a body that the task cannot have.
    let work = async move {
        let event = PublisherEvent::parse(&body, rules.publish_limits())?;
        one(&node, &app, &rules, event).await
    };
    // Boxed: most requests have no key, and need no space for it.
    Ok(Box::pin(idempotency::once(api, signed, (PublishPath::Events, key), work)).await?.into_answer())
}

async fn one(node: &Node, app: &App, rules: &Rules, mut event: PublisherEvent<'_>) -> Result<Published, Refusal> {
    let allowance = deliver(node, app, rules, std::slice::from_mut(&mut event)).await?;
    let Some(info) = event.info else { return Ok(Published::plain(allowance)) };
    let mut channels = Map::new();
    for channel in &event.channels {
        // Boxed: most publishers ask for nothing.
        let attributes = Box::pin(app.publish_info(channel, info)).await;
        channels.insert(channel.to_string(), attributes.into());
    }
    Ok(Published::with(allowance, &json!({ "channels": channels })))
}

/// `POST /apps/{app_id}/batch_events`: all of them or none.
pub(super) async fn publish_batch(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path(app_id): Path<String>,
    request: Request<Body>,
) -> Response {
    api.signed(&client, request, &app_id, async |signed| publish_events(&api, signed).await).await
}

/// Publishes the events of a request, once if it has an idempotency key.
async fn publish_events(api: &Api, signed: &Signed<'_>) -> Result<(Response, usize), Refusal> {
    let events = PublisherEvent::parse_batch(&signed.body, signed.rules.publish_limits())?;
    let Some(key) = idempotency::key(signed, None)? else {
        return Ok(batch(&api.0.node, signed.app, &signed.rules, events).await?.into_answer());
    };
    let (node, app, rules) = (Arc::clone(&api.0.node), Arc::clone(signed.app), Arc::clone(&signed.rules));
    let body = signed.body.clone();
    let work = async move {
        let events = PublisherEvent::parse_batch(&body, rules.publish_limits())?;
        batch(&node, &app, &rules, events).await
    };
    Ok(idempotency::once(api, signed, (PublishPath::BatchEvents, key), work).await?.into_answer())
}

async fn batch(
    node: &Node,
    app: &App,
    rules: &Rules,
    mut events: Vec<PublisherEvent<'_>>,
) -> Result<Published, Refusal> {
    let allowance = deliver(node, app, rules, &mut events).await?;
    if events.iter().all(|event| event.info.is_none()) {
        return Ok(Published::plain(allowance));
    }
    let mut batch = Vec::with_capacity(events.len());
    for event in &events {
        batch.push(match event.info {
            Some(info) => app.publish_info(&event.channels[0], info).await,
            None => Map::new(),
        });
    }
    Ok(Published::with(allowance, &json!({ "batch": batch })))
}

async fn deliver(
    node: &Node,
    app: &App,
    rules: &Rules,
    events: &mut [PublisherEvent<'_>],
) -> Result<Option<Allowance>, Refusal> {
    for event in &mut *events {
        let destination = |channel: &_| rules.destination(channel);
        event.redirect(destination).inspect_err(|why| app.count_forbidden("publish", why))?;
    }
    let admitted = node.admit(rules, events.iter().map(|event| event.channels.len()).sum()).await;
    let allowance = admitted.map_err(|error| {
        let channel = events.first().and_then(|event| event.channels.first());
        channel.map_or(Refusal::from(error), |channel| Refusal::from(error).about(channel.to_string()))
    })?;
    let accepted = Instant::now();
    for event in events {
        let publication = Publication { name: &event.name, data: &event.data, except: event.except };
        for channel in &event.channels {
            app.publish(rules, channel, &publication, accepted);
        }
    }
    Ok(allowance)
}
