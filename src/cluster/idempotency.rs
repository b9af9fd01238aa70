//! Requests with an idempotency key, as all nodes know them: a string in Redis for each.
//! `http::idempotency` asks here before it publishes, and stores the answer here afterwards.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::idempotency::REMEMBERED;
use crate::protocol::idempotency::BodyHash;
use crate::protocol::idempotency::RequestId;

/// How long a request waits for Redis.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How long a request may stay without an answer in Redis: far longer than it takes. After that its node has crashed.
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

/// A request that Redis knows as one of this node.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    key: String,
    hash: BodyHash,
    since: Instant,
}

impl Cluster {
    /// Claims a request for this node, unless another one has it. `None` when Redis does not answer.
    pub async fn claim(&self, id: &RequestId, hash: BodyHash) -> Option<Claimed> {
        let key = self.names.request(id);
        let since = Instant::now();
        let claim = cmd("SET").arg(&key).arg(hash.as_bytes()).arg("NX").arg("PX").arg(milliseconds(CLAIM_TIME)).take();
        // The other node may give the request up between the two commands; then this one asks again.
        for _ in 0..2 {
            let answers = self.ask_in_time(vec![claim.clone(), cmd("GET").arg(&key).take()]).await?;
            match answers.as_slice() {
                [Ok(Value::Okay), _] => return Some(Claimed::New(Claim { key, hash, since })),
                [_, Ok(Value::BulkString(stored))] => return read(stored, hash),
                [Ok(Value::Nil), Ok(Value::Nil)] => (),
                _ => return None,
            }
        }
        None
    }

    /// Stores the answer of a request for all nodes. False when Redis has not done it.
    pub async fn store_answer(&self, claim: &Claim, answer: &[u8]) -> bool {
        let value = [claim.hash.as_bytes(), answer].concat();
        let store = cmd("SET").arg(&claim.key).arg(value).arg("PX").arg(milliseconds(REMEMBERED)).take();
        matches!(self.ask_in_time(vec![store]).await.as_deref(), Some([Ok(Value::Okay)]))
    }

    /// Gives up a request that was refused, so that any node may try it again.
    pub async fn release(&self, claim: &Claim) {
        // A claim that may have expired can be another node's by now.
        if claim.since.elapsed() < CLAIM_TIME / 2 {
            self.ask_in_time(vec![cmd("DEL").arg(&claim.key).take()]).await;
        }
    }

    async fn ask_in_time(&self, commands: Vec<Cmd>) -> Option<Vec<RedisResult<Value>>> {
        let mut connection = self.link.lock().as_ref()?.connection.clone();
        timeout(ANSWER_TIME, connection.ask(commands)).await.ok()?.ok()
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

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
