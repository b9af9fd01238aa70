//! Redis behind TLS, with a certificate authority of one's own.

use support::node::Cluster;
use support::node::Node;
use support::redis_kinds::RedisCluster;
use support::redis_kinds::Server;
use support::redis_server::TestRedis;
use support::redis_server::free_port;

use crate::fixture;
use crate::told;

/// A port for TLS, and the lines of configuration that open it.
fn lines() -> (u16, Vec<String>) {
    let port = free_port();
    let file = |key: &str, name: &str| format!("{key} {}", fixture(&format!("tls/{name}")));
    let lines = vec![
        format!("tls-port {port}"),
        file("tls-cert-file", "redis.pem"),
        file("tls-key-file", "redis.key"),
        file("tls-ca-cert-file", "authority.pem"),
        "tls-auth-clients no".to_owned(),
    ];
    (port, lines)
}

/// With the password `hush`.
fn secured() -> (Server, String) {
    let (port, lines) = lines();
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["requirepass hush"]).collect();
    (Server::start(&lines), format!("rediss://:hush@127.0.0.1:{port}"))
}

fn over(url: &str, authority: &str) -> Cluster {
    let trusted = fixture(&format!("tls/{authority}"));
    Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_URL", url).with("SSL_CERT_FILE", &trusted)
}

#[tokio::test]
async fn nodes_meet_over_tls() {
    let (_redis, url) = secured();
    let nodes: [Node; 2] = over(&url, "authority.pem").nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
    nodes[1].reaches(&nodes[0], "orders").await;
}

#[tokio::test]
async fn fields_lead_to_tls_as_well() {
    let (_redis, url) = secured();
    let port = url.rsplit(':').next().unwrap();
    let nodes: [Node; 2] = over("", "authority.pem")
        .with("GEMA_REDIS_TLS", "true")
        .with("GEMA_REDIS_PASSWORD", "hush")
        .over(port.parse().unwrap())
        .nodes()
        .await;
    nodes[0].reaches(&nodes[1], "orders").await;
}

#[tokio::test]
async fn a_redis_cluster_may_be_behind_tls_and_a_password() {
    let (port, lines) = lines();
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["tls-cluster yes"]).collect();
    let _redis = RedisCluster::lone(&lines, "hush");
    let cluster = over("", "authority.pem")
        .with("GEMA_REDIS_TLS", "true")
        .with("GEMA_REDIS_CLUSTER_NODES", &format!("127.0.0.1:{port}"))
        .with("GEMA_REDIS_PASSWORD", "hush");
    let nodes: [Node; 2] = cluster.nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
    for (wrong, says) in [("", "NOAUTH"), ("hush-wrong", "WRONGPASS")] {
        let node = cluster.with("GEMA_REDIS_PASSWORD", wrong).node().await;
        told(&node, "there is no link to Redis", says).await;
        node.serves_locally("orders").await;
        assert!(!node.log().contains("hush"), "{}", node.log());
    }
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused() {
    let (_redis, url) = secured();
    let node = over(&url, "stranger.pem").node().await;
    told(&node, "there is no link to Redis", "SSL_CERT_FILE may name a file").await;
    node.serves_locally("orders").await;
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let node = over(&elsewhere, "authority.pem").node().await;
    told(&node, "there is no link to Redis", "certificate not valid for name").await;
    assert!(!node.log().contains("hush"), "{}", node.log());
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_taken_where_it_is_said_so_in_soketis_words_or_ours() {
    let (_redis, url) = secured();
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let ours = over(&url.replace("rediss:", "tls:"), "stranger.pem").with("GEMA_REDIS_TLS_VERIFY", "false");
    let soketis = over("", "stranger.pem")
        .with("SOKETI_ADAPTER_REDIS_PUB_OPTIONS", r#"{"tls":{"rejectUnauthorized":false}}"#)
        .with("GEMA_REDIS_PASSWORD", "hush")
        .over(port);
    for cluster in [ours, soketis] {
        let nodes: [Node; 2] = cluster.nodes().await;
        nodes[0].reaches(&nodes[1], "orders").await;
        assert!(nodes[0].log().contains("can pretend to be it"), "{}", nodes[0].log());
    }
}

#[tokio::test]
async fn a_redis_that_asks_for_a_certificate_is_told_of() {
    let (port, mut lines) = lines();
    lines.retain(|line| !line.starts_with("tls-auth-clients"));
    let _redis = Server::start(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let node = over(&format!("rediss://127.0.0.1:{port}"), "authority.pem").node().await;
    told(&node, "there is no link to Redis", "tls-auth-clients no").await;
}

#[tokio::test]
async fn a_redis_with_tls_only_is_told_of_when_tls_is_not_asked_for_and_the_reverse() {
    let (redis, url) = secured();
    let plain = url.replace("rediss:", "redis:");
    let node = over(&plain, "authority.pem").node().await;
    told(&node, "there is no link to Redis", "").await;
    node.serves_locally("orders").await;
    let reverse = format!("rediss://:hush@{}", redis.address());
    let node = over(&reverse, "authority.pem").node().await;
    told(&node, "there is no link to Redis", "").await;
    node.serves_locally("orders").await;
    assert!(!node.log().contains("hush"), "{}", node.log());
}
