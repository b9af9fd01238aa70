//! Publishing: `POST /events` and `POST /batch_events` (Pusher HTTP API).
//! `http` routes to them.

use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::Map;

use crate::http::Api;
use crate::http::Client;
use crate::http::auth::Signed;
use crate::http::response;
use crate::http::response::Refusal;
use crate::limiter::Allowance;
use crate::node::Node;
use crate::node::Publication;
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
    api.signed(client, request, app_id, async |signed| one(&api.0.node, signed).await).await
}

async fn one(node: &Node, signed: &Signed<'_>) -> Result<(Response, usize), Refusal> {
    let mut event = PublisherEvent::parse(&signed.body, signed.rules.publish_limits())?;
    let allowance = deliver(node, signed, std::slice::from_mut(&mut event)).await?;
    let Some(info) = event.info else { return Ok(response::with_rate_limit(allowance, response::empty_object())) };
    let mut channels = Map::new();
    for channel in &event.channels {
        // Boxed: most publishers ask for nothing.
        let attributes = Box::pin(signed.app.publish_info(channel, info)).await;
        channels.insert(channel.to_string(), attributes.into());
    }
    Ok(response::with_rate_limit(allowance, response::json(&serde_json::json!({ "channels": channels }))))
}

/// `POST /apps/{app_id}/batch_events`: all of them or none.
pub(super) async fn publish_batch(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path(app_id): Path<String>,
    request: Request<Body>,
) -> Response {
    let node = &api.0.node;
    api.signed(&client, request, &app_id, async |signed| {
        let mut events = PublisherEvent::parse_batch(&signed.body, signed.rules.publish_limits())?;
        let allowance = deliver(node, signed, &mut events).await?;
        if events.iter().all(|event| event.info.is_none()) {
            return Ok(response::with_rate_limit(allowance, response::empty_object()));
        }
        let mut batch = Vec::with_capacity(events.len());
        for event in &events {
            batch.push(match event.info {
                Some(info) => signed.app.publish_info(&event.channels[0], info).await,
                None => Map::new(),
            });
        }
        Ok(response::with_rate_limit(allowance, response::json(&serde_json::json!({ "batch": batch }))))
    })
    .await
}

async fn deliver(
    node: &Node,
    signed: &Signed<'_>,
    events: &mut [PublisherEvent<'_>],
) -> Result<Option<Allowance>, Refusal> {
    let (app, rules) = (signed.app, &*signed.rules);
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
