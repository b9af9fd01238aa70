//! Delivers an endpoint's queue, one request after the other, so that the order holds while a request is repeated.
//! `dispatch` spawns `deliver` for a queue in memory and `consume` for a stream in Redis.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::WebhooksDriver;
use crate::watch::source::PAGE_ONLY;
use crate::webhook::Webhooks;
use crate::webhook::batch::Batch;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Request;
use crate::webhook::stream::LEASE;
use crate::webhook::stream::Streams;

/// Bytes of the events in one request.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the events in one message of SQS, which has room for 256 KiB.
const MESSAGE_BYTES_MAX: usize = 192 * 1024;
/// The pause before the next attempt: after the first failure, and at most.
const RETRY_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How often a node looks for events that other nodes put into Redis.
const POLL: Duration = Duration::from_millis(250);
/// How long a draining node waits for a response; then another node sends the request again.
const LAST_RESPONSE_TIME: Duration = Duration::from_millis(300);

/// Delivers the queue in memory until it is empty. Does not wait for more events after `stop`.
pub(super) async fn deliver(endpoint: Arc<Endpoint>, webhooks: Arc<Webhooks>, stop: CancellationToken) {
    let events_max = webhooks.options.request_events_max();
    let bytes_max = match webhooks.options.driver {
        WebhooksDriver::Sqs => MESSAGE_BYTES_MAX,
        WebhooksDriver::Local | WebhooksDriver::Redis => REQUEST_BYTES_MAX,
    };
    loop {
        if endpoint.queued() < events_max {
            stop.run_until_cancelled(tokio::time::sleep(webhooks.options.gather_time())).await;
        }
        let Some(request) = endpoint.next_request(events_max, bytes_max) else { return };
        #[cfg(feature = "aws")]
        if let Some(sqs) = &webhooks.sqs
            && sqs.put(&endpoint, &request, &stop).await
        {
            continue;
        }
        send(&endpoint, &request, &webhooks, None, &stop).await;
    }
}

/// Delivers the stream in Redis until `stop`, or until the operator removes the endpoint.
pub(super) async fn consume(endpoint: Arc<Endpoint>, webhooks: Arc<Webhooks>, stop: CancellationToken) {
    let Some(streams) = &webhooks.streams else { return };
    let events_max = webhooks.options.request_events_max();
    let (mut is_owner, mut is_marked) = (false, false);
    while webhooks.has(&endpoint) && !stop.is_cancelled() {
        let puts = endpoint.puts();
        let batch = streams.take(&endpoint, events_max).await;
        if batch.is_some() || streams.is_connected() {
            endpoint.set_stored(batch.as_ref(), puts);
        }
        is_owner = batch.is_some();
        let batch = batch.unwrap_or_default();
        is_marked = is_owner && (is_marked || batch.waiting > 0 && streams.mark_waiting(&endpoint, true).await);
        if batch.ids.is_empty() {
            tokio::select! {
                () = endpoint.filled.notified() => tokio::time::sleep(webhooks.options.gather_time()).await,
                () = tokio::time::sleep(POLL) => (),
                () = stop.cancelled() => (),
            }
        } else {
            is_owner = deliver_batch(&endpoint, &batch, &webhooks, &stop).await;
        }
    }
    if is_owner {
        if endpoint.is_idle() {
            streams.mark_waiting(&endpoint, false).await;
        }
        streams.release(&endpoint).await;
    }
    endpoint.set_stored(None, endpoint.puts());
}

/// Delivers a batch from Redis. A batch that is not acknowledged is taken again, here or elsewhere. Returns whether
/// this node still owns the stream.
async fn deliver_batch(endpoint: &Endpoint, batch: &Batch, webhooks: &Webhooks, stop: &CancellationToken) -> bool {
    let Some(streams) = &webhooks.streams else { return false };
    if !batch.texts.is_empty() {
        let request = Request::new(&batch.texts);
        let shutdown = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_RESPONSE_TIME).await;
        };
        tokio::select! {
            is_over = send(endpoint, &request, webhooks, Some(streams), stop) => if !is_over { return false },
            () = lease_lost(streams, endpoint) => return false,
            () = shutdown => return true,
        }
    }
    streams.acknowledge(endpoint, &batch.ids).await
}

/// Renews the lease of a stream. Ends when another node may have taken over.
async fn lease_lost(streams: &Streams, endpoint: &Endpoint) {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        if !streams.renew(endpoint).await {
            return;
        }
    }
}

/// Sends a request until the endpoint accepts it, or until `webhooks.retry_seconds` are over; once, if it can never be
/// sent. Returns false when the events came from `streams` and another node may have taken over.
async fn send(
    endpoint: &Endpoint,
    request: &Request,
    webhooks: &Webhooks,
    streams: Option<&Streams>,
    stop: &CancellationToken,
) -> bool {
    let mut pause = *RETRY_PAUSE.start();
    loop {
        let Attempt::Again(wait) = attempt(endpoint, request, webhooks, pause).await else { return true };
        // A draining node tries once more at once.
        match stop.is_cancelled() {
            true => tokio::time::sleep(wait).await,
            false => drop(stop.run_until_cancelled(tokio::time::sleep(wait)).await),
        }
        // The process may have been suspended for longer than its lease.
        if let Some(streams) = streams
            && !streams.renew(endpoint).await
        {
            return false;
        }
        pause = (pause * 2).min(*RETRY_PAUSE.end());
        endpoint.meters.retries.inc();
    }
}

/// The result of one attempt.
pub(super) enum Attempt {
    /// The endpoint has accepted the request, or it is given up.
    Over,
    /// It is to be sent again after this time.
    Again(Duration),
}

/// Sends a request once. `pause` is about the time before the next attempt.
pub(super) async fn attempt(endpoint: &Endpoint, request: &Request, webhooks: &Webhooks, pause: Duration) -> Attempt {
    let (app, meters) = (&endpoint.app, &endpoint.meters);
    // The operator may have corrected it.
    let target = endpoint.target();
    let host = target.host();
    let error = match webhooks.client().send(request, &target).await {
        Ok(status) => {
            endpoint.attempts.lock().note_delivered(status);
            tracing::debug!(target: PAGE_ONLY, %app, host, events = request.events, status, "webhook delivered");
            meters.delivered.inc();
            meters.delivered_events.inc_by(request.events);
            return Attempt::Over;
        }
        Err(error) => error,
    };
    meters.failed.inc();
    let wait = pause.mul_f64(rand::random_range(0.8..1.2));
    endpoint.attempts.lock().note_failed(error.status(), &error, wait);
    tracing::debug!(target: PAGE_ONLY, %app, host, events = request.events, %error, ?wait, "webhook not accepted");
    let is_late = request.created.elapsed() + wait > webhooks.options.retry_seconds.duration();
    if is_late || error.is_final() {
        let events = request.events;
        tracing::warn!(%app, host, events, %error, "a webhook is given up, and its events are lost");
        endpoint.attempts.lock().note_given_up(events);
        meters.expired_events.inc_by(events);
        return Attempt::Over;
    }
    if pause == *RETRY_PAUSE.start() {
        tracing::warn!(%app, host, %error, "a webhook is not delivered, and is tried again");
    }
    Attempt::Again(wait)
}

/// The pause after so many failures.
#[cfg(feature = "aws")]
pub(super) fn pause_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    (*RETRY_PAUSE.start() * 2_u32.pow(doublings)).min(*RETRY_PAUSE.end())
}
