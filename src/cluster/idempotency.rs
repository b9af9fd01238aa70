//! Requests with an idempotency key, as all nodes know them: the hash of the body, and then the answer.
//! `http::idempotency` asks here before it publishes, and stores the answer here afterwards.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::idempotency::REMEMBERED;
use crate::protocol::idempotency::BodyHash;
use crate::protocol::idempotency::RequestId;

/// How long a request waits for the other nodes' records.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How long a request may stay without an answer: far longer than it takes. After that its node has crashed.
const CLAIM_TIME: Duration = Duration::from_secs(30);

/// How a request stands on all nodes.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed {
    /// This node is the first.
    New(Claim),
    /// Another node has answered it, with this body.
    Answered(Bytes),
    /// Another node is at it.
    Running,
    /// The key belongs to a request with another body.
    OtherBody,
}

/// A request that all nodes know as one of this node.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    id: RequestId,
    hash: BodyHash,
    since: Instant,
}

impl Cluster {
    /// Claims a request for this node, unless another one has it. `None` when nobody answers.
    pub async fn claim(&self, id: &RequestId, hash: BodyHash) -> Option<Claimed> {
        let (directory, since) = (self.directory()?, Instant::now());
        let claimed = timeout(ANSWER_TIME, directory.claim(id, hash.as_bytes(), CLAIM_TIME)).await.ok()??;
        match claimed {
            Ok(()) => Some(Claimed::New(Claim { id: id.clone(), hash, since })),
            Err(stored) => read(&stored, hash),
        }
    }

    /// Stores the answer of a request for all nodes. False when that was not done.
    pub async fn store_answer(&self, claim: &Claim, answer: &[u8]) -> bool {
        let Some(directory) = self.directory() else { return false };
        let value = [claim.hash.as_bytes(), answer].concat();
        timeout(ANSWER_TIME, directory.store_answer(&claim.id, value, REMEMBERED)).await.unwrap_or(false)
    }

    /// Gives up a request that was refused, so that any node may try it again.
    pub async fn release(&self, claim: &Claim) {
        // A claim that may have expired can be another node's by now.
        if claim.since.elapsed() < CLAIM_TIME / 2
            && let Some(directory) = self.directory()
        {
            let _ = timeout(ANSWER_TIME, directory.release(&claim.id)).await;
        }
    }
}

/// Reads a hash, and the answer behind it if there is one. `None` for what no node has written.
fn read(stored: &[u8], hash: BodyHash) -> Option<Claimed> {
    let (own, answer) = stored.split_at_checked(BodyHash::LENGTH)?;
    if own != hash.as_bytes() {
        return Some(Claimed::OtherBody);
    }
    if answer.is_empty() {
        return Some(Claimed::Running);
    }
    let is_object = answer.starts_with(b"{") && serde_json::from_slice::<&RawValue>(answer).is_ok();
    is_object.then(|| Claimed::Answered(Bytes::copy_from_slice(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_node_has_written_is_read() {
        let hash = BodyHash::of(b"body");
        let stored = |rest: &[u8]| [hash.as_bytes(), rest].concat();
        assert_eq!(read(&stored(b""), hash), Some(Claimed::Running));
        assert_eq!(read(&stored(b"{}"), hash), Some(Claimed::Answered(Bytes::from_static(b"{}"))));
        assert_eq!(read(&stored(b"{}"), BodyHash::of(b"other")), Some(Claimed::OtherBody));
        for foreign in [&b""[..], b"{}", &stored(b"[]"), &stored(b"{} {}"), &stored(b"{\"a\":\xff}")] {
            assert_eq!(read(foreign, hash), None, "{foreign:?}");
        }
    }
}
