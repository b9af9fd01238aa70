//! Requests to publish with an idempotency key: each is carried out once, and repeated ones get the same answer.
//! `events` calls it for requests with such a key only.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use tokio::sync::oneshot;

use crate::cluster::idempotency::Claimed;
use crate::http::Api;
use crate::http::auth::Signed;
use crate::http::response::Published;
use crate::http::response::Refusal;
use crate::idempotency::Found;
use crate::idempotency::RunningRequest;
use crate::node::Node;
use crate::node::PublishError;
use crate::protocol::idempotency::BodyHash;
use crate::protocol::idempotency::IdempotencyKey;
use crate::protocol::idempotency::PublishPath;
use crate::protocol::idempotency::RequestId;
use crate::refusal::Cause;

/// The key of a request: from the query, the header and the body, which must not differ.
pub(super) fn key(signed: &Signed<'_>, in_body: Option<&str>) -> Result<Option<IdempotencyKey>, Refusal> {
    let in_query = signed.parameter("idempotency_key");
    let mut keys = in_query.into_iter().chain(signed.header_keys()).chain(in_body);
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.any(|other| other != key) {
        return Err(Refusal::new(
            Cause::ApiIdempotencyKey,
            "The request has two idempotency keys that differ; send one, or the same in query, header and body",
        ));
    }
    let key = IdempotencyKey::parse(key);
    key.map(Some).map_err(|error| Refusal::new(Cause::ApiIdempotencyKey, error.to_string()))
}

/// Carries out a request, unless it is repeated: then this waits for the first one, and the answer is the same.
pub(super) async fn once(
    api: &Api,
    signed: &Signed<'_>,
    (path, key): (PublishPath, IdempotencyKey),
    work: impl Future<Output = Result<Published, Refusal>> + Send + 'static,
) -> Result<Published, Refusal> {
    let node = &api.0.node;
    let (id, hash) = (RequestId { app: signed.app.id.clone(), path, key }, BodyHash::of(&signed.body));
    loop {
        match node.recent_requests().find(&id, hash, Instant::now()) {
            Found::Answered(answer) => return Ok(repeated(answer)),
            Found::OtherBody => return Err(other_body()),
            Found::Full => return Err(PublishError::Overloaded.into()),
            Found::Running(ended) => ended.cancelled().await,
            Found::New(running) => {
                let (sender, outcome) = oneshot::channel();
                let node = Arc::clone(node);
                // A task of its own: a publisher that has given up would end it half-way, and repeat it.
                api.0.tasks.spawn(async move {
                    // Nobody receives it if the publisher has given up.
                    let _ = sender.send(first(&node, running, hash, work).await);
                });
                return outcome.await.unwrap_or_else(|_| Err(unfinished()));
            }
        }
    }
}

/// Carries out a request that is new on this node, unless another one has it.
async fn first(
    node: &Node,
    running: RunningRequest,
    hash: BodyHash,
    work: impl Future<Output = Result<Published, Refusal>>,
) -> Result<Published, Refusal> {
    let Some(cluster) = node.cluster() else {
        let published = work.await?;
        running.answer(&published.body, Instant::now());
        return Ok(published);
    };
    let claim = match cluster.claim(running.id(), hash).await {
        Some(Claimed::New(claim)) => Some(claim),
        Some(Claimed::Answered(answer)) => {
            node.recent_requests().count_repeated();
            return Ok(repeated(answer));
        }
        Some(Claimed::OtherBody) => return Err(other_body()),
        Some(Claimed::Running) => return Err(unfinished()),
        None => None,
    };
    let outcome = work.await;
    let is_shared = match (&claim, &outcome) {
        (Some(claim), Ok(published)) => cluster.store_answer(claim, &published.body).await,
        (Some(claim), Err(_)) => {
            cluster.release(claim).await;
            true
        }
        (None, outcome) => outcome.is_err(),
    };
    if !is_shared {
        node.recent_requests().count_local();
    }
    let published = outcome?;
    running.answer(&published.body, Instant::now());
    Ok(published)
}

/// The answer of the first request. It has taken nothing from the app's rate.
fn repeated(body: Bytes) -> Published {
    Published { allowance: None, body }
}

fn other_body() -> Refusal {
    Refusal::new(
        Cause::ApiIdempotencyReuse,
        "The idempotency key belongs to another request: the body is not the same; use a new key for each event",
    )
}

fn unfinished() -> Refusal {
    Refusal::new(
        Cause::ApiIdempotencyRunning,
        "The first request with this idempotency key has not been finished yet, try again",
    )
}
