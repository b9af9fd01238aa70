//! Leases show which nodes live. Each node renews its own.
//! `cluster` and `webhook` call it, each for leases of its own.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use redis::RedisResult;
use redis::Value;
use redis::cmd;

use crate::protocol::envelope::NodeId;
use crate::redis::connection::RedisConnection;
use crate::redis::error::is_full;
use crate::redis::value::texts;

/// Renews a node's lease and returns the other nodes with theirs.
pub const LEASE_SCRIPT: &str = include_str!("lease.lua");
/// How long a lease is.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long a node must have had no lease before it counts as crashed.
const CRASH_DELAY: Duration = Duration::from_secs(4);

/// The answer of [`LEASE_SCRIPT`].
#[derive(Debug, Default)]
pub struct Leases {
    /// This node was not known.
    pub added: bool,
    /// Nodes that live, this one included.
    pub living: Vec<NodeId>,
    /// Nodes whose lease has ended.
    pub ended: Vec<NodeId>,
}

/// Nodes whose lease has ended, and when this node noticed that. All leases end when Redis takes none for a time, or
/// when its clock leaps; a node that lives has a new one soon.
#[derive(Debug, Default)]
pub struct Suspects(HashMap<NodeId, Instant>);

impl Suspects {
    /// Of the nodes whose lease has ended, those that have crashed.
    pub fn crashed(&mut self, ended: Vec<NodeId>) -> Vec<NodeId> {
        self.0.retain(|node, _| ended.contains(node));
        let now = Instant::now();
        ended.into_iter().filter(|node| self.0.entry(*node).or_insert(now).elapsed() >= CRASH_DELAY).collect()
    }
}

/// Gives a node a lease of this time among those under a key; `script` is the hash that Redis has given
/// [`LEASE_SCRIPT`].
pub async fn renew(
    out: &mut RedisConnection,
    script: &str,
    leases: &str,
    (node, time): (NodeId, Duration),
) -> RedisResult<Leases> {
    let mut command = cmd("EVALSHA");
    command.arg(script).arg(1).arg(leases).arg(node.to_string()).arg(time.as_millis() as u64);
    match out.ask_one(command).await {
        Err(error) if is_full(&error) => {
            tracing::warn!("Redis is out of memory: it does not take what changes here; raise its maxmemory");
            Ok(Leases::default())
        }
        answer => Ok(Leases::read(&answer?)),
    }
}

impl Leases {
    /// Reads what the script answered. Anything else means that no node has a lease.
    pub fn read(answer: &Value) -> Self {
        let Value::Array(parts) = answer else { return Self::default() };
        let [Value::Int(added), living, ended] = parts.as_slice() else { return Self::default() };
        Self { added: *added > 0, living: nodes(living), ended: nodes(ended) }
    }
}

fn nodes(value: &Value) -> Vec<NodeId> {
    texts(value).iter().filter_map(|node| NodeId::parse(node)).collect()
}
