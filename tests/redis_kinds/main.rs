//! The other ways to Redis than a server at an address: Redis Cluster, Sentinels, TLS, sockets and accounts.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "../it/barrier.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod barrier;
#[path = "../it/certificates.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod certificates;
#[path = "../it/client.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod client;
#[path = "../it/http.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod http;
#[path = "../faults/node.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod node;
#[path = "../faults/observer.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod observer;
#[path = "../it/process.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod process;
#[path = "../it/receiver.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod receiver;
#[path = "../it/redis_server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis_server;
#[path = "../it/sequence.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod sequence;
#[path = "../it/server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod server;
mod servers;
#[path = "../it/tunnel.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod tunnel;

mod accounts;
mod redis_cluster;
mod sentinel;
mod tls;
mod views;

use std::time::Duration;
use std::time::Instant;

use crate::client::PATIENCE;
use crate::node::Node;

/// Waits until a node has logged a message that begins so, with this in the line.
async fn told(node: &Node, message: &str, what: &str) {
    let begins = format!("\"message\":\"{message}");
    let until = Instant::now() + PATIENCE;
    while !node.log().lines().any(|line| line.contains(&begins) && line.contains(what)) {
        assert!(Instant::now() < until, "{message} … {what}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
