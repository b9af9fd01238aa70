//! Redis is out of memory: it tells what is published, and refuses what is written.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use support::client::Client;
use support::node::ANSWERED_MAX;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::Node;
use support::node::eventually;
use support::node::know_each_other;
use support::node::outlast;
use support::observer::Observer;
use support::proxy::Proxy;
use support::redis_server::TestRedis;

use crate::traffic::ROOM;
use crate::traffic::names;
use crate::traffic::together_again;

/// Longer than a lease: every node looks dead by then.
pub const LONG: Duration = Duration::from_secs(14);

pub async fn fill(redis: &TestRedis) {
    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
}

pub async fn relieve(redis: &TestRedis) {
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

/// Waits until so many nodes have a lease.
pub async fn live(redis: &TestRedis, leases: &str, nodes: u64) {
    let living = async || {
        let (seconds, _) = redis.run::<(u64, u64)>(&["TIME"]).await;
        redis.run::<u64>(&["ZCOUNT", leases, &format!("{}", seconds * 1000), "+inf"]).await
    };
    eventually("the nodes renew their leases", GONE_MAX, async || living().await == nodes).await;
}

pub async fn nodes_that_could_not_renew_their_leases_do_not_take_each_other_for_dead() {
    let redis = TestRedis::start().await;
    let cluster = Cluster::on(&redis);
    let nodes: [Node; 2] = cluster.nodes().await;
    let observers = [Observer::start(&nodes[0], ROOM, "here").await, Observer::start(&nodes[1], ROOM, "there").await];
    let _members = [nodes[0].member(ROOM, "ada").await, nodes[1].member(ROOM, "bob").await];
    let everybody = names(&["here", "there", "ada", "bob"]);
    for observer in &observers {
        observer.sees(&everybody, BACK_MAX).await;
    }
    fill(&redis).await;
    outlast(Instant::now(), LONG).await;
    relieve(&redis).await;
    live(&redis, &cluster.key("{nodes}:leases"), 2).await;
    together_again(&nodes).await;
    for (observer, node) in observers.iter().zip(&nodes) {
        observer.sees(&everybody, ANSWERED_MAX).await;
        for user in ["ada", "bob", "here", "there"] {
            assert_eq!(observer.news_of(user).1, 0, "{user} has not been away");
        }
        assert!(!node.log().contains("dead"), "{}", node.log());
        assert_eq!(node.figures().await.sum("gema_redis_connects_total", ""), 1.0, "full is not away");
    }
}

pub async fn a_node_that_stops_meanwhile_leaves_nobody_behind() {
    let redis = TestRedis::start().await;
    let [stopping, staying] = Cluster::on(&redis).nodes().await;
    let observer = Observer::start(&staying, ROOM, "here").await;
    let _members = [stopping.member(ROOM, "ada").await, stopping.member(ROOM, "bob").await];
    observer.sees(&names(&["here", "ada", "bob"]), BACK_MAX).await;
    fill(&redis).await;
    stopping.stop().await;
    relieve(&redis).await;
    observer.sees(&names(&["here"]), GONE_MAX).await;
    know_each_other([&staying]).await;
    assert_eq!(staying.users(ROOM).await, ["here"]);
}

pub async fn what_was_refused_is_told_when_there_is_room_again() {
    /// A channel that nobody is on any more is forgotten by then.
    const FULL: Duration = Duration::from_secs(8);
    let redis = TestRedis::start().await;
    let nodes: [Node; 2] = Cluster::on(&redis).nodes().await;
    let [here, there] = &nodes;
    let user = async |id: &str| {
        let mut client = here.connect().await;
        client.sign_in(&json!({ "id": id })).await;
        client
    };
    let leaver = user("leaver").await;
    let mut watcher = there.connect().await;
    watcher.sign_in(&json!({ "id": "watcher", "watchlist": ["leaver", "comer"] })).await;
    watcher.sees_online(&["leaver"]).await;
    let observer = Observer::start(there, ROOM, "there").await;
    let only = here.member(ROOM, "only").await;
    observer.sees(&names(&["there", "only"]), BACK_MAX).await;
    let mut reader = here.subscribed("news").await;
    let left = here.subscribed("left").await;
    eventually("it is counted", BACK_MAX, async || there.subscriptions("left").await == 1).await;

    fill(&redis).await;
    let full = Instant::now();
    for gone in [leaver, only, left] {
        gone.close().await;
    }
    let _comer = user("comer").await;
    let _second = here.subscribed("news").await;
    reader.subscribe("new").await;
    outlast(full, FULL).await;
    relieve(&redis).await;

    let mut news = vec![("comer", "online"), ("leaver", "offline")];
    while !news.is_empty() {
        let frame = watcher.next_within(GONE_MAX).await;
        let data = frame["data"].as_str().unwrap();
        let before = news.len();
        news.retain(|(id, kind)| !(data.contains(id) && data.contains(kind)));
        assert!(news.len() < before, "no news: {frame}");
    }
    observer.sees(&names(&["there"]), GONE_MAX).await;
    for (channel, count) in [("news", 2), ("new", 1), ("left", 0), (ROOM, 1)] {
        let counted = async || there.subscriptions(channel).await == count;
        eventually(&format!("those on {channel} are counted"), GONE_MAX, counted).await;
    }
    assert_eq!(here.users(ROOM).await, ["there"]);
    together_again(&nodes).await;
}

/// The next events of a page have these names.
async fn gets(client: &mut Client, names: &[&str]) {
    for name in names {
        assert_eq!(client.next().await["event"], *name);
    }
}

pub async fn who_has_found_redis_again_gets_what_it_has_stored_before_what_it_cannot_store() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let cluster = Cluster::on(&redis).with("GEMA_LIMITS_HISTORY_RULES", r#"[{"match":"orders","seconds":600}]"#);
    let nodes = [cluster.node().await, cluster.over(proxy.port()).node().await];
    know_each_other(&nodes).await;
    let mut client = nodes[1].connect().await;
    client.send_subscribe("private-orders", Some(r#"{"user_id":"7"}"#)).await;
    gets(&mut client, &["pusher_internal:subscription_succeeded"]).await;
    nodes[0].api().publish("private-orders", "heard", "1").await;
    gets(&mut client, &["heard"]).await;

    proxy.freeze();
    nodes[1].bus_is(false, GONE_MAX).await;
    nodes[0].api().publish("private-orders", "stored", "2").await;
    fill(&redis).await;
    nodes[0].api().publish("private-orders", "unstored", "3").await;
    proxy.thaw();
    nodes[1].bus_is(true, BACK_MAX).await;
    know_each_other(&nodes).await;
    gets(&mut client, &["stored"]).await;
    nodes[0].api().publish("private-orders", "live", "4").await;
    gets(&mut client, &["live"]).await;
    relieve(&redis).await;
    gets(&mut client, &["gema:history_gap"]).await;
    nodes[0].api().publish("private-orders", "last", "5").await;
    gets(&mut client, &["last"]).await;
}
