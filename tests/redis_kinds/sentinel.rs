//! A Redis that Sentinels watch.

use std::time::Duration;

use support::node::Cluster;
use support::node::Node;
use support::node::becomes;
use support::observer::Observer;
use support::receiver::Receiver;
use support::redis_kinds::Server;
use support::redis_kinds::Watched;
use support::redis_server::TestRedis;

use crate::told;

/// Until Sentinels have promoted the replica and the nodes have followed.
const FOLLOWED_MAX: Duration = Duration::from_secs(20);
/// Until the nodes have left a master that still answers. Sentinels make it a replica after eight seconds.
const MOVED_MAX: Duration = Duration::from_secs(3);
/// Connections of a node: two of the cluster, and those for limits, webhooks and Laravel's events.
const LINKS: usize = 5;

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

/// The connections of nodes to a server.
fn of_nodes(server: &Server) -> usize {
    let others = ["name=sentinel-", "flags=S", "flags=M", "cmd=client"];
    let list = server.cli(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains("addr=") && !others.iter().any(|other| line.contains(other))).count()
}

#[tokio::test]
async fn a_master_that_is_back_after_a_failover_keeps_no_node() {
    let redis = Watched::start("hush-redis", "hush-sentinel");
    let mut hooks = Receiver::start().await;
    let webhooks = format!(r#"[{{"url":"http://{}/","event_types":["channel_occupied"]}}]"#, hooks.address);
    let cluster = Cluster::on(&TestRedis::absent("hush-redis"))
        .with("GEMA_REDIS_SENTINELS", &redis.sentinel.address())
        .with("GEMA_REDIS_SENTINEL_MASTER", "shop")
        .with("GEMA_REDIS_SENTINEL_PASSWORD", "hush-sentinel")
        .with("GEMA_LIMITER_DRIVER", "redis")
        .with("GEMA_INGEST_PREFIXES", "laravel_=app-id")
        .with("GEMA_WEBHOOKS_DRIVER", "redis")
        .with("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks);
    let nodes: [Node; 2] = cluster.nodes().await;
    let mut client = nodes[1].subscribed("orders").await;
    hooks.next().await;
    becomes("connections of nodes", FOLLOWED_MAX, async || of_nodes(&redis.master), LINKS * nodes.len()).await;

    redis.master.pause();
    becomes("the replica is the master", FOLLOWED_MAX, async || redis.named() == redis.replica.port, true).await;
    redis.master.resume();
    for (server, links) in [(&redis.master, 0), (&redis.replica, LINKS * nodes.len())] {
        becomes("connections of nodes", MOVED_MAX, async || of_nodes(server), links).await;
    }
    assert!(redis.master.cli(&["INFO", "replication"]).contains("role:master"), "it has not noticed so far");
    for number in 0..10 {
        nodes[0].api().publish("orders", "e", &number.to_string()).await;
        assert_eq!(client.next_event("e").await, number);
    }
    let message = r#"{"event":"e","data":"10"}"#;
    redis.replica.cli(&["PUBLISH", "laravel_orders", message]);
    assert_eq!(client.next_event("e").await, 10);
    let _stock = nodes[0].subscribed("stock").await;
    assert!(hooks.next().await.body.contains("stock"));
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
