//! A Redis that Sentinels watch.

use std::time::Duration;

use support::node::Cluster;
use support::node::Node;
use support::observer::Observer;
use support::redis_kinds::Watched;
use support::redis_server::TestRedis;

use crate::told;

/// Until Sentinels have promoted the replica and the nodes have followed.
const FOLLOWED_MAX: Duration = Duration::from_secs(20);

#[tokio::test]
async fn when_sentinels_promote_a_replica_the_nodes_follow() {
    let redis = Watched::start("hush-redis", "hush-sentinel");
    let cluster = Cluster::on(&TestRedis::absent("hush-redis"))
        .with("GEMA_REDIS_SENTINELS", &redis.sentinel.address())
        .with("GEMA_REDIS_SENTINEL_MASTER", "shop")
        .with("GEMA_REDIS_SENTINEL_PASSWORD", "hush-sentinel")
        .with("GEMA_CLUSTER_BUFFER_SECONDS", "30");
    let nodes: [Node; 2] = cluster.nodes().await;
    let observers = [
        Observer::start(&nodes[0], "presence-room", "ada").await,
        Observer::start(&nodes[1], "presence-room", "bob").await,
    ];
    let mut client = nodes[1].subscribed("orders").await;

    redis.master.kill();
    for node in &nodes {
        node.bus_is(false, FOLLOWED_MAX).await;
    }
    nodes[0].api().publish("orders", "e", "1").await;
    for node in &nodes {
        node.bus_is(true, FOLLOWED_MAX).await;
    }
    assert_eq!(client.next_event("e").await, 1);
    assert!(redis.replica.cli(&["INFO", "replication"]).contains("role:master"));
    let _eve = nodes[0].member("presence-room", "eve").await;
    let all = ["ada", "bob", "eve"].map(str::to_owned);
    for (observer, node) in observers.iter().zip(&nodes) {
        observer.sees(&all, FOLLOWED_MAX).await;
        assert_eq!((observer.news_of("ada").1, observer.news_of("bob").1), (0, 0));
        assert_eq!(node.users("presence-room").await, all);
        assert!(!node.log().contains("hush"), "{}", node.log());
    }
}

#[tokio::test]
async fn what_laravel_publishes_is_heard_from_the_master_of_now() {
    let redis = Watched::start("hush-redis", "");
    let node = Cluster::on(&TestRedis::absent("hush-redis"))
        .with("GEMA_CLUSTER_DRIVER", "local")
        .with("GEMA_REDIS_SENTINELS", &redis.sentinel.address())
        .with("GEMA_REDIS_SENTINEL_MASTER", "shop")
        .with("GEMA_INGEST_PREFIXES", "laravel_=app-id")
        .node()
        .await;
    let mut client = node.subscribed("orders").await;
    let publish = ["PUBLISH", "laravel_orders", r#"{"event":"e","data":"1"}"#];
    redis.master.cli(&publish);
    assert_eq!(client.next_event("e").await, 1);
    redis.master.kill();
    for up in [0.0, 1.0] {
        node.becomes("gema_ingest_up", "", FOLLOWED_MAX, |now| now == up).await;
    }
    redis.replica.cli(&publish);
    assert_eq!(client.next_event("e").await, 1);
}

#[tokio::test]
async fn sentinels_that_do_not_help_are_told_of_without_their_password() {
    let redis = Watched::start("", "hush-sentinel");
    let cluster = Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_SENTINELS", &redis.sentinel.address());
    for (master, password, says) in [
        ("nobody", "hush-sentinel", "no Sentinel names the master"),
        ("shop", "hush-wrong", "no Sentinel names the master: Password authentication failed"),
        ("shop", "", "no Sentinel names the master"),
    ] {
        let node = cluster
            .with("GEMA_REDIS_SENTINEL_MASTER", master)
            .with("GEMA_REDIS_SENTINEL_PASSWORD", password)
            .node()
            .await;
        told(&node, "there is no link to Redis", says).await;
        node.serves_locally("orders").await;
        assert!(!node.log().contains("hush"), "{}", node.log());
    }
}
