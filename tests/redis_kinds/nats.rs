//! NATS behind TLS, and several servers of it.

use support::nats_server::TestNats;
use support::node::Cluster;
use support::node::Node;
use support::redis_server::free_port;

use crate::fixture;
use crate::told;

async fn secured() -> TestNats {
    let (certificate, key) = (fixture("tls/redis.pem"), fixture("tls/redis.key"));
    TestNats::start_like("hush", &["--tls", "--tlscert", &certificate, "--tlskey", &key]).await
}

fn over(nats: &TestNats, authority: &str) -> Cluster {
    Cluster::on(nats).with("GEMA_NATS_TLS", "true").with("SSL_CERT_FILE", &fixture(&format!("tls/{authority}")))
}

#[tokio::test]
async fn nodes_meet_over_tls() {
    let nats = secured().await;
    let nodes: [Node; 2] = over(&nats, "authority.pem").nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
    nodes[1].reaches(&nodes[0], "orders").await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused_unless_it_is_said_otherwise() {
    let nats = secured().await;
    let node = over(&nats, "stranger.pem").node().await;
    told(&node, "there is no link to NATS", "SSL_CERT_FILE may name a file").await;
    node.serves_locally("orders").await;
    assert!(!node.log().contains("hush"), "{}", node.log());
    let nodes: [Node; 2] = over(&nats, "stranger.pem").with("GEMA_NATS_TLS_VERIFY", "false").nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
}

#[tokio::test]
async fn a_server_that_is_away_is_passed_over() {
    let nats = TestNats::start().await;
    let servers = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), nats.port());
    let nodes: [Node; 2] = Cluster::on(&nats).with("GEMA_NATS_SERVERS", &servers).nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
}
