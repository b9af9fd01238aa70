//! The other ways to Redis than a server at an address: Redis Cluster, Sentinels, TLS, sockets and accounts.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod accounts;
mod doctor;
mod nats;
mod redis_cluster;
mod sentinel;
mod tls;
mod views;

use std::time::Duration;
use std::time::Instant;

use support::client::PATIENCE;
use support::node::Node;

/// Waits until a node has logged a message that begins so, with this in the line.
async fn told(node: &Node, message: &str, what: &str) {
    let begins = format!("\"message\":\"{message}");
    let until = Instant::now() + PATIENCE;
    while !node.log().lines().any(|line| line.contains(&begins) && line.contains(what)) {
        assert!(Instant::now() < until, "{message} … {what}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A file of this folder.
fn fixture(name: &str) -> String {
    format!("{}/tests/redis_kinds/{name}", env!("CARGO_MANIFEST_DIR"))
}
