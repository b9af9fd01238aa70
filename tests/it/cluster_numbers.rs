//! Whoever can write to Redis can write any number there. What cannot be true is left out, counted, and over soon.

use std::time::Duration;
use std::time::Instant;

use gema::protocol::envelope::NodeId;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::redis_server::TestRedis;
use support::redis_server::run;
use support::server::APP_ID;
use support::server::TestServer;

const ROOM: &str = "presence-room";

/// More than a script can count exactly, and more than there is.
const TOO_LARGE: [&str; 3] = ["9007199254740993", "18446744073709551615", "many"];

async fn tell(redis: &mut MultiplexedConnection, topic: &str, message: &[u8]) {
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(topic).arg(message).query_async::<()>(redis).await.unwrap();
}

fn topic(server: &TestServer, channel: &str) -> String {
    format!("{}:{{{APP_ID}:{channel}}}", server.cluster())
}

async fn two_nodes() -> (&'static TestRedis, TestServer) {
    let redis = TestRedis::shared().await;
    (redis, TestServer::start_cluster_on(redis, 2, |config| config.limits.enable_subscription_count = true).await)
}

/// Somebody joins, whom everybody hears of, and who sees everybody.
async fn joins(server: &TestServer, node: usize, user_id: &str, observer: &mut Client) {
    let mut client = server.connect_at(node).await;
    assert_eq!(client.join(ROOM, user_id).await["count"], 2);
    assert_eq!(observer.next_event("pusher_internal:member_added").await["user_id"], user_id);
    client.close().await;
    assert_eq!(observer.next_event("pusher_internal:member_removed").await["user_id"], user_id);
}

#[tokio::test]
async fn a_version_that_cannot_be_true_loses_nobody() {
    let redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, 2, |_| ()).await;
    let mut connection = redis.connection().await;
    let mut observer = server.connect_at(0).await;
    observer.join(ROOM, "observer").await;
    let (topic, node) = (topic(&server, ROOM), NodeId::random());
    for (number, version) in TOO_LARGE.into_iter().enumerate() {
        run::<()>(&mut connection, &["HSET", &format!("{topic}:members"), "version", version]).await;
        joins(&server, number % 2, version, &mut observer).await;
    }
    // Neither does one that somebody tells, and the members are not compared for ever.
    for version in ["4503599627370496", "9007199254740992", "18446744073709551615"] {
        for _ in 0..20 {
            let change = format!("gema/1 member {node} {version} {node} 1 3 2\nevi{{}}");
            tell(&mut connection, &topic, change.as_bytes()).await;
        }
        joins(&server, 1, version, &mut observer).await;
    }
    server.figure_becomes(0, "gema_redis_up", "", 1.0).await;
    let compared = redis.calls("hgetall").await;
    joins(&server, 1, "last", &mut observer).await;
    // Each node compares them once more at most, and listens anew if it has forgotten the channel.
    assert!(redis.calls("hgetall").await <= compared + 6);
    counted(&server, 0, "implausible").await;
    counted(&server, 0, "malformed").await;
}

/// Waits until so many messages have been left out on this node.
async fn counted(server: &TestServer, node: usize, cause: &str) {
    let until = Instant::now() + PATIENCE;
    while server.figure(node, "gema_cluster_dropped_total", &format!("cause=\"{cause}\"")).await == 0.0 {
        assert!(Instant::now() < until, "nothing is counted as {cause}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_number_in_the_name_of_a_node_does_not_silence_it() {
    let (redis, server) = two_nodes().await;
    let mut connection = redis.connection().await;
    let mut subscriber = server.connect_at(1).await;
    subscriber.subscribe("private-news").await;
    subscriber.settle().await;
    let leases = format!("{}:{{nodes}}:leases", server.cluster());
    let nodes: Vec<String> = run(&mut connection, &["ZRANGE", &leases, "0", "-1"]).await;
    assert_eq!(nodes.len(), 2);
    let frame = r#"{"event":"forged","data":"1","channel":"private-news"}"#;
    for (round, number) in ["9007199254740992", "18446744073709551615"].into_iter().enumerate() {
        for node in &nodes {
            let length = frame.len() + 2;
            let mut message = format!("gema/1 event {node} {number} 1 - 0 {length}\n").into_bytes();
            message.extend([0x81, u8::try_from(frame.len()).unwrap()]);
            message.extend(frame.bytes());
            tell(&mut connection, &topic(&server, "private-news"), &message).await;
        }
        for event in ["one", "two"] {
            let event = format!("{event}-{round}");
            server.api_at(0).publish("private-news", &event, "1").await;
            while subscriber.next().await["event"] != event {}
        }
    }
    counted(&server, 1, "implausible").await;
    counted(&server, 1, "malformed").await;
}

#[tokio::test]
async fn a_flood_of_words_that_nodes_are_gone_does_not_stop_a_node() {
    const CHANNELS: usize = 5000;
    let redis = TestRedis::shared().await;
    let server = TestServer::start_cluster_on(redis, 2, |config| {
        config.limits.enable_subscription_count = true;
        config.connections.subscriptions_per_second = 0;
    })
    .await;
    let mut connection = redis.connection().await;
    let mut subscriber = server.connect_at(1).await;
    let subscribe = |channel: usize| {
        json!({ "event": "pusher:subscribe", "data": { "channel": format!("c-{channel}") } }).to_string()
    };
    subscriber.send_together(&(0..CHANNELS).map(subscribe).collect::<Vec<_>>()).await;
    // A count may come twice where Redis is slow to know of a channel.
    let (mut joined, mut counts) = (0, 0);
    while joined < CHANNELS || counts < CHANNELS {
        match subscriber.next().await["event"].as_str().unwrap() {
            "pusher_internal:subscription_succeeded" => joined += 1,
            "pusher_internal:subscription_count" => counts += 1,
            other => panic!("{other}"),
        }
    }
    let (control, by) = (format!("{}:nodes", server.cluster()), NodeId::random());
    let words = (0..5000).map(|_| format!("gema/1 gone {by} {}\n", NodeId::random()));
    let mut pipeline = redis::pipe();
    for word in words {
        pipeline.cmd("PUBLISH").arg(&control).arg(word).ignore();
    }
    pipeline.query_async::<()>(&mut connection).await.unwrap();
    server.api_at(0).publish("c-1", "e", "1").await;
    while subscriber.next().await["event"] != "e" {}
    counted(&server, 1, "implausible").await;
}

#[tokio::test]
async fn connections_of_a_node_that_does_not_live_count_no_longer_after_a_while() {
    let (redis, server) = two_nodes().await;
    let mut connection = redis.connection().await;
    let mut subscriber = server.connect_at(0).await;
    subscriber.send_subscribe("news", None).await;
    let count = async |subscriber: &mut Client| {
        let data = subscriber.next_event("pusher_internal:subscription_count").await;
        data["subscription_count"].clone()
    };
    subscriber.next_event("pusher_internal:subscription_succeeded").await;
    assert_eq!(count(&mut subscriber).await, 1);
    let (topic, node) = (topic(&server, "news"), NodeId::random());
    for (number, everywhere) in [("4294967295", None), ("7", Some(8))] {
        tell(&mut connection, &topic, format!("gema/1 count {node} {number}\n").as_bytes()).await;
        if let Some(everywhere) = everywhere {
            assert_eq!(count(&mut subscriber).await, everywhere);
        }
    }
    assert_eq!(count(&mut subscriber).await, Value::from(1));
}

#[tokio::test]
async fn a_lease_that_never_ends_makes_no_node() {
    let (redis, server) = two_nodes().await;
    let mut connection = redis.connection().await;
    let (leases, node) = (format!("{}:{{nodes}}:leases", server.cluster()), NodeId::random().to_string());
    run::<()>(&mut connection, &["ZADD", &leases, "9007199254740992", &node]).await;
    let until = Instant::now() + PATIENCE;
    while run::<Option<String>>(&mut connection, &["ZSCORE", &leases, &node]).await.is_some() {
        assert!(Instant::now() < until, "the lease is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.figure_becomes(0, "gema_cluster_nodes", "", 2.0).await;
}
