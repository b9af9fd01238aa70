//! From an endpoint's queue to the endpoint. Requests go out one after the other, so that the order holds while one is
//! repeated.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::webhook::Webhooks;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Request;
use crate::webhook::post::PostError;
use crate::webhook::stream::LEASE;
use crate::webhook::stream::Streams;
use crate::webhook::stream::Taken;

/// From a failure to the next try: after the first one, and at most.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How often Redis is asked for what other nodes have put there.
const POLL: Duration = Duration::from_millis(250);
/// How long a node that leaves waits for the answer to a request; then another node sends it again.
const LAST_ANSWER: Duration = Duration::from_millis(300);

/// Delivers what waits here for an endpoint, until nothing does. Nothing more is gathered after `stop`.
pub(super) async fn deliver(endpoint: Arc<Endpoint>, webhooks: Arc<Webhooks>, stop: CancellationToken) {
    let events_max = webhooks.options.request_events_max();
    loop {
        if endpoint.queued() < events_max {
            stop.run_until_cancelled(tokio::time::sleep(webhooks.options.gather_time())).await;
        }
        let Some(request) = endpoint.next(events_max) else { return };
        send(&endpoint, &request, &webhooks, None, &stop).await;
    }
}

/// Delivers what waits in Redis for an endpoint, until `stop` or until the operator says nothing of it any more.
pub(super) async fn consume(endpoint: Arc<Endpoint>, webhooks: Arc<Webhooks>, stop: CancellationToken) {
    let Some(streams) = &webhooks.streams else { return };
    let events_max = webhooks.options.request_events_max();
    let (mut is_owner, mut is_noted) = (false, false);
    while webhooks.has(&endpoint) && !stop.is_cancelled() {
        let puts = endpoint.puts();
        let taken = streams.take(&endpoint, events_max).await;
        if taken.is_some() || streams.is_linked().await {
            endpoint.store(taken.as_ref(), puts);
        }
        is_owner = taken.is_some();
        let taken = taken.unwrap_or_default();
        is_noted = is_owner && (is_noted || taken.waiting > 0 && streams.note(&endpoint, true).await);
        if taken.ids.is_empty() {
            tokio::select! {
                () = endpoint.filled.notified() => tokio::time::sleep(webhooks.options.gather_time()).await,
                () = tokio::time::sleep(POLL) => (),
                () = stop.cancelled() => (),
            }
        } else {
            is_owner = deliver_taken(&endpoint, &taken, &webhooks, &stop).await;
        }
    }
    if is_owner {
        if endpoint.is_idle() {
            streams.note(&endpoint, false).await;
        }
        streams.leave(&endpoint).await;
    }
    endpoint.store(None, endpoint.puts());
}

/// Delivers what has been taken from Redis. Whatever keeps it from an end, somebody takes it again. Returns whether it
/// is still for this node to do so.
async fn deliver_taken(endpoint: &Endpoint, taken: &Taken, webhooks: &Webhooks, stop: &CancellationToken) -> bool {
    let Some(streams) = &webhooks.streams else { return false };
    if !taken.texts.is_empty() {
        let request = Request::new(&taken.texts);
        let leave = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            is_over = send(endpoint, &request, webhooks, Some(streams), stop) => if !is_over { return false },
            () = lose(streams, endpoint) => return false,
            () = leave => return true,
        }
    }
    streams.done(endpoint, &taken.ids).await
}

/// Ends when another node may deliver what is in a stream.
async fn lose(streams: &Streams, endpoint: &Endpoint) {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        if !streams.keep(endpoint).await {
            return;
        }
    }
}

/// Sends a request until it is taken, or until it has been tried for long enough: once, if it can never be sent. What
/// comes out of `streams` may go to another node meanwhile: then it is not over, and false.
async fn send(
    endpoint: &Endpoint,
    request: &Request,
    webhooks: &Webhooks,
    streams: Option<&Streams>,
    stop: &CancellationToken,
) -> bool {
    let (app, meters) = (&endpoint.app, &endpoint.meters);
    let mut pause = *PAUSE.start();
    loop {
        // What was wrong may have been corrected.
        let target = endpoint.target();
        let host = target.host();
        let error = match webhooks.post().send(request, &target).await {
            Ok(()) => {
                meters.delivered.inc();
                meters.delivered_events.inc_by(request.events);
                return true;
            }
            Err(error) => error,
        };
        meters.failed.inc();
        let wait = pause.mul_f64(rand::random_range(0.8..1.2));
        let is_late = request.made.elapsed() + wait > webhooks.options.retry_seconds.duration();
        if is_late || matches!(error, PostError::Malformed) {
            let events = request.events;
            tracing::warn!(%app, host, events, %error, "a webhook is given up, and its events are lost");
            meters.expired_events.inc_by(events);
            return true;
        }
        if pause == *PAUSE.start() {
            tracing::warn!(%app, host, %error, "a webhook is not delivered, and is tried again");
        }
        // Who leaves tries once more at once.
        match stop.is_cancelled() {
            true => tokio::time::sleep(wait).await,
            false => drop(stop.run_until_cancelled(tokio::time::sleep(wait)).await),
        }
        // This process may have slept for longer than it has the endpoint.
        if let Some(streams) = streams
            && !streams.keep(endpoint).await
        {
            return false;
        }
        pause = (pause * 2).min(*PAUSE.end());
        meters.retries.inc();
    }
}
