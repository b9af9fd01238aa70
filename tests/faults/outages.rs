//! Redis goes away in every way there is, and comes back.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use support::bus::TestBus;
use support::bus::is_nats;
use support::client::Client;
use support::node::ANSWERED_MAX;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::NOTICED_MAX;
use support::node::Node;
use support::node::eventually;
use support::node::know_each_other;
use support::node::outlast;
use support::observer::Observer;
use support::proxy::Proxy;
use support::redis_server::TestRedis;

use crate::traffic::ROOM;
use crate::traffic::Room;
use crate::traffic::Traffic;
use crate::traffic::all_know;
use crate::traffic::names;
use crate::traffic::together_again;

/// Longer than any outage here, where nothing is to be refused.
const BUFFER_SECONDS: &str = "60";

pub async fn when_the_bus_comes_back_empty_nothing_is_lost_and_everybody_is_where_they_were() {
    const AWAY: Duration = Duration::from_secs(3);
    let mut bus = TestBus::start().await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let nodes: [Node; 2] = cluster.nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let mut room = Room::start(&nodes).await;
    let lost = nodes[0].figures().await.sum("gema_redis_last_lost_timestamp_seconds", "");

    bus.kill();
    let killed = Instant::now();
    all_know(&nodes, false, NOTICED_MAX).await;
    nodes[0].serves_locally("local").await;
    room.changes(&nodes).await;
    outlast(killed, AWAY).await;
    bus.restart().await;

    all_know(&nodes, true, BACK_MAX).await;
    room.is_right(&nodes).await;
    together_again(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
    let figures = nodes[0].figures().await;
    assert!(figures.sum("gema_redis_last_lost_timestamp_seconds", "") > lost);
    assert!(figures.sum("gema_redis_connects_total", "") >= 2.0);
    for node in &nodes {
        eventually("its listener is counted", BACK_MAX, async || node.subscriptions("local").await == 0).await;
    }
}

pub async fn what_changes_while_the_bus_is_away_is_told_when_it_is_back() {
    let mut bus = TestBus::start().await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let nodes: [Node; 2] = cluster.with("GEMA_LIMITS_ENABLE_SUBSCRIPTION_COUNT", "true").nodes().await;
    let [here, there] = &nodes;
    let user = async |id: &str| {
        let mut client = here.connect().await;
        client.sign_in(&json!({ "id": id })).await;
        client
    };
    let leaver = user("leaver").await;
    let _stays = user("stays").await;
    let mut watcher = there.connect().await;
    watcher.sign_in(&json!({ "id": "watcher", "watchlist": ["leaver", "comer", "stays"] })).await;
    watcher.sees_online(&["leaver", "stays"]).await;
    here.api().publish("cache-x", "e", "old").await;
    let mut counted = there.connect().await;
    let mut other = here.connect().await;
    for client in [&mut counted, &mut other] {
        client.send_subscribe("news", None).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    hears_count(&mut counted, 2, BACK_MAX).await;

    bus.kill();
    all_know(&nodes, false, NOTICED_MAX).await;
    leaver.close().await;
    let _comer = user("comer").await;
    other.close().await;
    here.api().publish("cache-x", "e", "new").await;
    for node in &nodes {
        // Nobody can tell who of them is where.
        let answer = node.api().post("/users/stays/terminate_connections", "{}").await;
        assert!(answer.refused(503).len() > 10, "{answer:?}");
    }
    bus.restart().await;
    all_know(&nodes, true, BACK_MAX).await;

    let mut news = vec![("comer", "online"), ("leaver", "offline")];
    while !news.is_empty() {
        let frame = watcher.next_within(GONE_MAX).await;
        let data = frame["data"].as_str().unwrap();
        let before = news.len();
        news.retain(|(id, kind)| !(data.contains(id) && data.contains(kind)));
        assert!(news.len() < before, "no news: {frame}");
    }
    hears_count(&mut counted, 1, GONE_MAX).await;
    for node in &nodes {
        let mut newcomer = node.connect().await;
        newcomer.send_subscribe("cache-x", None).await;
        while newcomer.next().await["data"] != "new" {}
    }
    watcher.nothing_came().await;
    here.api().post("/users/watcher/terminate_connections", "{}").await.ok();
    assert_eq!(watcher.next_close().await.0, 4009);
}

/// Waits until a client is told this number of subscribers.
async fn hears_count(client: &mut Client, count: usize, patience: Duration) {
    let expected = json!({ "subscription_count": count }).to_string();
    while client.next_within(patience).await["data"] != expected {}
}

pub async fn a_bus_with_another_password_is_one_that_is_away() {
    const PASSWORD: &str = "the-right-one";
    const OTHER: &str = "another-one";
    let mut bus = TestBus::start_with(PASSWORD).await;
    let nodes: [Node; 2] = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS).nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let mut room = Room::start(&nodes).await;
    bus.kill();
    bus.restart_with(OTHER).await;
    all_know(&nodes, false, NOTICED_MAX).await;
    nodes[0].serves_locally("local").await;
    room.changes(&nodes).await;
    for node in &nodes {
        let refusal = if is_nats() { "authorization violation" } else { "WRONGPASS" };
        let tells = |line: &str| line.contains("WARN") && line.contains(refusal);
        eventually("the cause is logged", NOTICED_MAX, async || node.log().lines().any(tells)).await;
    }
    bus.kill();
    bus.restart_with(PASSWORD).await;
    all_know(&nodes, true, BACK_MAX).await;
    room.is_right(&nodes).await;
    together_again(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
    for node in &nodes {
        assert!(!node.log().contains(PASSWORD), "{}", node.log());
    }
}

pub async fn however_many_channels_a_node_listens_to_it_misses_nothing_that_was_accepted_in_the_meantime() {
    /// Several times what one round trip to Redis carries.
    const CHANNELS: usize = 8000;
    /// Those of one connection, and of one request.
    const TOGETHER: usize = 100;
    let mut bus = TestBus::start().await;
    let nodes: [Node; 2] = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS).nodes().await;
    let channels: Vec<String> = (0..CHANNELS).map(|number| format!("news-{number}")).collect();
    let mut clients = Vec::new();
    for some in channels.chunks(TOGETHER) {
        let mut client = nodes[1].connect().await;
        for channel in some {
            client.send_subscribe(channel, None).await;
        }
        for _ in some {
            client.next_event("pusher_internal:subscription_succeeded").await;
        }
        clients.push(client);
    }
    bus.kill();
    all_know(&nodes, false, NOTICED_MAX).await;
    for some in channels.chunks(TOGETHER) {
        let event = json!({ "name": "e", "channels": some, "data": "1" }).to_string();
        nodes[0].api().post("/events", &event).await.ok();
    }
    bus.restart().await;
    for client in &mut clients {
        for _ in 0..TOGETHER {
            client.next_event("e").await;
        }
    }
}

pub async fn a_node_that_was_there_before_the_bus_keeps_nobody_waiting() {
    const NODES: usize = 4;
    /// Cuts that the quickest event counts of: of the others the machine may be the cause.
    const CUTS: usize = 3;
    /// So long an event waits for nodes that say nothing.
    const OTHERS_WAIT: Duration = Duration::from_secs(3);
    let mut bus = TestBus::absent();
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let (mut first, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..NODES {
        let node = cluster.node().await;
        clients.push(node.subscribed("news").await);
        first.push(node);
    }
    bus.restart().await;
    let proxy = Proxy::start(bus.port()).await;
    let publisher = cluster.over(proxy.port()).node().await;
    know_each_other(first.iter().chain([&publisher])).await;
    let mut took = Vec::new();
    for _ in 0..CUTS {
        publisher.reaches(&first[0], "x").await;
        proxy.cut();
        publisher.bus_is(false, NOTICED_MAX).await;
        let began = Instant::now();
        publisher.api().publish("news", "e", "1").await;
        for client in &mut clients {
            client.next_event("e").await;
        }
        took.push(began.elapsed());
    }
    assert!(took.iter().min() < Some(&OTHERS_WAIT), "events wait: {took:?}");
}

pub async fn a_bus_that_does_not_answer_is_noticed_and_holds_nobody_up() {
    let bus = TestBus::start().await;
    let nodes: [Node; 2] = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS).nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let mut room = Room::start(&nodes).await;
    bus.pause();
    // Nobody knows it yet.
    nodes[0].serves_locally("local").await;
    room.changes(&nodes).await;
    all_know(&nodes, false, NOTICED_MAX).await;
    nodes[1].serves_locally("local").await;
    bus.resume();
    all_know(&nodes, true, BACK_MAX).await;
    room.is_right(&nodes).await;
    together_again(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
}

pub async fn a_redis_without_memory_harms_nobody_and_the_lists_are_right_afterwards() {
    /// Long enough for several attempts.
    const FULL: Duration = Duration::from_secs(3);
    let redis = TestRedis::start().await;
    let nodes: [Node; 2] = Cluster::on(&redis).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS).nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let mut room = Room::start(&nodes).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = Instant::now();
    room.changes(&nodes).await;
    nodes[0].serves_locally("local").await;
    outlast(full, FULL).await;
    traffic.goes_on().await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    room.is_right(&nodes).await;
    together_again(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
}

pub async fn a_server_starts_without_the_bus_and_becomes_one_when_it_comes() {
    let mut bus = TestBus::absent();
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let nodes = [cluster.node().await, cluster.node().await];
    all_know(&nodes, false, NOTICED_MAX).await;
    for node in &nodes {
        node.serves_locally("local").await;
    }
    let observers = [Observer::start(&nodes[0], ROOM, "here").await, Observer::start(&nodes[1], ROOM, "there").await];
    let _members = [nodes[0].member(ROOM, "ada").await, nodes[1].member(ROOM, "bob").await];
    let _both = [nodes[0].member(ROOM, "both").await, nodes[1].member(ROOM, "both").await];
    observers[0].sees(&names(&["here", "ada", "both"]), ANSWERED_MAX).await;
    observers[1].sees(&names(&["there", "bob", "both"]), ANSWERED_MAX).await;
    bus.restart().await;
    all_know(&nodes, true, BACK_MAX).await;
    let everybody = names(&["ada", "bob", "both", "here", "there"]);
    for (observer, node) in observers.iter().zip(&nodes) {
        observer.sees(&everybody, BACK_MAX).await;
        assert_eq!(observer.news_of("both"), (1, 0));
        assert_eq!(node.users(ROOM).await, everybody);
        eventually("all are counted", BACK_MAX, async || node.subscriptions(ROOM).await == 6).await;
    }
    together_again(&nodes).await;
    let traffic = Traffic::start(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
}

pub async fn beyond_the_time_of_the_buffer_publishers_are_told_to_come_back() {
    const KEPT: Duration = Duration::from_secs(1);
    let mut bus = TestBus::start().await;
    let nodes: [Node; 2] = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", "1").nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let killed = Instant::now();
    bus.kill();
    refuses(&nodes[0], KEPT * 2 + NOTICED_MAX).await;
    assert!(killed.elapsed() >= KEPT, "refused after {:?}", killed.elapsed());
    // Clients come and go, and are told what does not need the other nodes.
    nodes[0].connect().await.join(ROOM, "ada").await;
    bus.restart().await;
    all_know(&nodes, true, BACK_MAX).await;
    together_again(&nodes).await;
    assert!(traffic.arrives().await > 0, "nothing was refused");
}

pub async fn beyond_the_bytes_of_the_buffer_publishers_are_told_to_come_back() {
    const EVENT_BYTES: usize = 50_000;
    let mut bus = TestBus::start().await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let nodes: [Node; 2] = cluster.with("GEMA_CLUSTER_BUFFER_BYTES_MAX", "1048576").nodes().await;
    let mut readers = [nodes[0].subscribed("large").await, nodes[1].subscribed("large").await];
    bus.kill();
    nodes[0].bus_is(false, NOTICED_MAX).await;
    let large = "x".repeat(EVENT_BYTES);
    let mut accepted = Vec::new();
    // Some more than there is room for.
    for number in 0..40 {
        let event = json!({ "name": "e", "channel": "large", "data": format!("{number} {large}") });
        match nodes[0].api().post("/events", &event.to_string()).await.status {
            200 => accepted.push(number),
            status => assert_eq!(status, 503),
        }
    }
    assert!((15..=25).contains(&accepted.len()), "{accepted:?}");
    assert!(nodes[0].figures().await.sum("gema_cluster_waiting_bytes", "") >= (EVENT_BYTES * accepted.len()) as f64);
    refuses(&nodes[0], ANSWERED_MAX).await;
    bus.restart().await;
    all_know(&nodes, true, BACK_MAX).await;
    for reader in &mut readers {
        for number in &accepted {
            let frame = reader.next_within(BACK_MAX).await;
            assert!(frame["data"].as_str().unwrap().starts_with(&format!("{number} ")), "{number}");
        }
        reader.nothing_came().await;
    }
    nodes[0].becomes("gema_cluster_waiting_bytes", "", BACK_MAX, |now| now == 0.0).await;
}

/// Waits until the API says 503 for something large, with a sentence that tells why.
async fn refuses(node: &Node, patience: Duration) {
    let event = json!({ "name": "e", "channel": "nobody", "data": "x".repeat(90_000) }).to_string();
    let mut client = node.subscribed("refused").await;
    eventually("publishers are refused", patience, async || node.api().post("/events", &event).await.status == 503)
        .await;
    let event = event.replace("nobody", "refused");
    let batch = format!(r#"{{"batch":[{event}]}}"#);
    for (path, body) in [("/events", &event), ("/batch_events", &batch)] {
        let answer = node.api().post(path, body).await;
        assert!(answer.refused(503).len() > 10, "{answer:?}");
    }
    client.nothing_came().await;
}

pub async fn a_strict_node_is_not_ready_without_the_bus() {
    let mut bus = TestBus::absent();
    let node = Cluster::on(&bus).with("GEMA_CLUSTER_STRICT", "true").node().await;
    assert_eq!(node.ready().await.status, 503);
    bus.restart().await;
    node.bus_is(true, BACK_MAX).await;
    assert_eq!(node.ready().await.status, 200);
    bus.kill();
    node.bus_is(false, NOTICED_MAX).await;
    assert_eq!(node.ready().await.status, 503);
    // What it has is served all the same.
    node.serves_locally("local").await;
}
