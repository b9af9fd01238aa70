//! Redis goes away where publishers are never refused: `cluster.outage` is `local`.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::StreamExt;
use serde_json::Value;
use serde_json::json;
use support::bus::Bus;
use support::bus::TestBus;
use support::client::Client;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::NOTICED_MAX;
use support::node::Node;
use support::node::eventually;
use support::node::know_each_other;
use support::node::outlast;
use support::proxy::Proxy;
use support::redis_server::TestRedis;

use crate::traffic::NUMBERS;
use crate::traffic::PAUSE;
use crate::traffic::names;
use crate::traffic::together_again;

/// How long events wait for Redis.
const KEPT: Duration = Duration::from_secs(1);
const KEPT_SECONDS: &str = "1";

fn local<'a>(bus: impl Into<Bus<'a>>) -> Cluster {
    Cluster::on(bus).with("GEMA_CLUSTER_OUTAGE", "local").with("GEMA_CLUSTER_BUFFER_SECONDS", KEPT_SECONDS)
}

/// Events that this node has dropped for the others.
async fn dropped(node: &Node) -> usize {
    node.figures().await.sum("gema_cluster_dropped_total", r#"cause="outage""#) as usize
}

/// Nothing waits or is on its way to Redis.
async fn is_idle(node: &Node) {
    node.becomes("gema_cluster_waiting", "", BACK_MAX, |now| now == 0.0).await;
}

/// The warnings about missed events, each with the number of events where it has one.
fn warnings(node: &Node) -> Vec<Option<u64>> {
    let lines = node.process().log.lines();
    let about = lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with("the other nodes miss"));
    about.map(|line| line["events"].as_u64()).collect()
}

pub async fn beyond_the_time_of_the_buffer_nobody_is_refused_and_what_is_dropped_is_counted() {
    let mut bus = TestBus::start().await;
    let nodes: [Node; 2] = local(&bus).with("GEMA_CLUSTER_STRICT", "true").nodes().await;
    let [here, there] = &nodes;
    assert_eq!(dropped(here).await, 0);
    let listeners = [here.listener(NUMBERS, 1).await, there.listener(NUMBERS, 1).await];
    let mut publisher = here.publisher(NUMBERS, "one").await;
    for _ in 0..5 {
        assert!(publisher.publish().await);
    }
    is_idle(here).await;
    bus.kill();
    for node in &nodes {
        node.bus_is(false, NOTICED_MAX).await;
    }
    let (away, flow) = (Instant::now(), publisher.flow(PAUSE));
    outlast(away, KEPT * 4).await;
    flow.goes_on(20).await;
    let events = flow.at();
    eventually("local delivery", BACK_MAX, async || listeners[0].at("one") >= events).await;
    assert!(dropped(here).await > 0);
    assert_eq!(warnings(here), [None], "the beginning");
    // The pages of a strict node may go elsewhere; publishers are served all the same.
    assert_eq!(here.ready().await.status, 503);
    bus.restart().await;
    for node in &nodes {
        node.bus_is(true, BACK_MAX).await;
    }
    together_again(&nodes).await;
    flow.goes_on(20).await;
    let mut publisher = flow.stop().await;
    publisher.end().await;
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    let [local, remote] = listeners;
    local.heard().await.1.assert_exactly("one", &publisher.accepted);
    let missing = remote.heard().await.1.missing("one", &publisher.accepted);
    // The oldest of the outage.
    assert!(missing.iter().copied().eq(5..5 + missing.len() as u64), "{missing:?}");
    assert_eq!(dropped(here).await, missing.len());
    assert_eq!(warnings(here), [None, Some(missing.len() as u64)], "the beginning and the end");
    assert_eq!((dropped(there).await, warnings(there)), (0, Vec::new()));
}

pub async fn beyond_the_bytes_of_the_buffer_the_oldest_events_give_way() {
    const EVENT_BYTES: usize = 50_000;
    /// Twice what there is room for.
    const EVENTS: usize = 40;
    let mut bus = TestBus::start().await;
    let cluster = local(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", "600");
    let cluster = cluster.with("GEMA_CLUSTER_BUFFER_BYTES_MAX", "1048576");
    let nodes: [Node; 2] = cluster.with("GEMA_LIMITS_ENABLE_CLIENT_MESSAGES", "true").nodes().await;
    let [here, there] = &nodes;
    let mut readers = [here.subscribed("private-large").await, there.subscribed("private-large").await];
    let mut sender = here.subscribed("private-large").await;
    bus.kill();
    here.bus_is(false, NOTICED_MAX).await;
    let large = "x".repeat(EVENT_BYTES);
    for number in 0..EVENTS {
        let event = json!({ "name": "e", "channel": "private-large", "data": format!("{number} {large}") });
        here.api().post("/events", &event.to_string()).await.ok();
    }
    let dropped_before = dropped(here).await;
    assert!((15..=25).contains(&dropped_before), "{dropped_before}");
    let last = json!({ "event": "client-last", "channel": "private-large", "data": "x".repeat(8000) });
    sender.send_json(last).await;
    let [local, remote] = &mut readers;
    for number in 0..EVENTS {
        let frame = local.next().await;
        assert!(frame["data"].as_str().unwrap().starts_with(&format!("{number} ")), "{number}");
    }
    assert_eq!(local.next().await["event"], "client-last", "events of clients are not refused either");
    bus.restart().await;
    for node in &nodes {
        node.bus_is(true, BACK_MAX).await;
    }
    let dropped = dropped(here).await;
    for number in dropped..EVENTS {
        let frame = remote.next_within(BACK_MAX).await;
        assert!(frame["data"].as_str().unwrap().starts_with(&format!("{number} ")), "{number}, {dropped} dropped");
    }
    assert_eq!(remote.next_within(BACK_MAX).await["event"], "client-last");
    remote.nothing_came().await;
    is_idle(here).await;
}

pub async fn a_node_reports_what_the_others_miss_before_the_rest_comes() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let cluster = local(&redis);
    let (cut_off, other) = (cluster.over(proxy.port()).node().await, cluster.node().await);
    know_each_other([&cut_off, &other]).await;
    let mut reader = other.subscribed("orders").await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut topic = client.get_async_pubsub().await.unwrap();
    topic.subscribe(cluster.topic("orders")).await.unwrap();
    let mut messages = topic.into_on_message();
    is_idle(&cut_off).await;
    proxy.freeze();
    cut_off.bus_is(false, NOTICED_MAX).await;
    let publish = async |name: &str| {
        let event = json!({ "name": name, "channel": "orders", "data": "" });
        cut_off.api().post("/events", &event.to_string()).await.ok();
    };
    for _ in 0..3 {
        publish("old").await;
    }
    outlast(Instant::now(), KEPT * 2).await;
    publish("new").await;
    proxy.thaw();
    cut_off.bus_is(true, BACK_MAX).await;
    let mut next = async || {
        let message: Vec<u8> = messages.next().await.unwrap().get_payload().unwrap();
        String::from_utf8_lossy(&message).into_owned()
    };
    let report = loop {
        let message = next().await;
        assert!(!message.starts_with("gema/1 event "), "{message}");
        if message.starts_with("gema/1 missed ") {
            break message;
        }
    };
    let events: usize = report.split(' ').nth(3).unwrap().parse().unwrap();
    let since_ms: u128 = report.split(' ').nth(4).unwrap().parse().unwrap();
    // On a slow machine the last event may be too old, too.
    assert!((3..=4).contains(&events) && report.ends_with(&format!(" {events} {since_ms} 0\n")), "{report}");
    assert!(since_ms >= (KEPT * 2).as_millis(), "{report}");
    assert_eq!(dropped(&cut_off).await, events);
    if events == 3 {
        assert_eq!(reader.next_within(BACK_MAX).await["event"], "new");
        assert!(next().await.contains("\"new\""));
    }
    reader.nothing_came().await;
    assert_eq!(other.figures().await.sum("gema_cluster_dropped_total", r#"cause="malformed""#), 0.0);
}

/// A rule for `orders`.
const RULES: &str = r#"[{"match":"orders","seconds":600}]"#;

/// A node whose way to Redis is a proxy, and another one.
async fn over_a_proxy(redis: &TestRedis) -> (Proxy, Node, Node) {
    let proxy = Proxy::start(redis.port()).await;
    let cluster = local(redis).with("GEMA_LIMITS_HISTORY_RULES", RULES);
    let (cut_off, other) = (cluster.over(proxy.port()).node().await, cluster.node().await);
    know_each_other([&cut_off, &other]).await;
    (proxy, cut_off, other)
}

async fn publish(node: &Node, name: &str, channels: &[String]) {
    let event = json!({ "name": name, "channels": channels, "data": "" });
    node.api().post("/events", &event.to_string()).await.ok();
}

/// The data of a gap, which comes next.
async fn gap(client: &mut Client) -> Value {
    let frame = client.next_within(BACK_MAX).await;
    assert_eq!(frame["event"], "gema:history_gap", "{frame}");
    serde_json::from_str(frame["data"].as_str().unwrap()).unwrap()
}

fn since_1970() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

pub async fn pages_of_other_nodes_get_a_gap_where_a_rule_keeps_track() {
    let redis = TestRedis::start().await;
    let (proxy, cut_off, other) = over_a_proxy(&redis).await;
    let channels = names(&["orders", "plain"]);
    let mut readers = [other.subscribed("orders").await, other.subscribed("plain").await];
    let mut local = cut_off.subscribed("orders").await;
    is_idle(&cut_off).await;
    proxy.freeze();
    cut_off.bus_is(false, NOTICED_MAX).await;
    let began = since_1970();
    for _ in 0..3 {
        publish(&cut_off, "old", &channels).await;
    }
    outlast(Instant::now(), KEPT * 2).await;
    let ended = since_1970();
    publish(&cut_off, "new", &channels).await;
    proxy.thaw();
    cut_off.bus_is(true, BACK_MAX).await;
    let gap = gap(&mut readers[0]).await;
    // On a slow machine the last event may be too old, too.
    let missed = gap["missed"].as_u64().unwrap();
    assert!(gap["channel"] == "orders" && (3..=4).contains(&missed), "{gap}");
    let since = u128::from(gap["since"].as_u64().unwrap());
    // Two clocks are involved, which may differ by some milliseconds.
    assert!(since + 100 >= began && since <= ended, "{began} {since} {ended}");
    for reader in &mut readers {
        if missed == 3 {
            assert_eq!(reader.next_within(BACK_MAX).await["event"], "new");
        }
        reader.nothing_came().await;
    }
    for event in ["old", "old", "old", "new"] {
        assert_eq!(local.next().await["event"], event, "a page of the node itself misses nothing");
    }
    local.nothing_came().await;
    assert!(other.figures().await.sum("gema_history_gaps_total", "") >= 1.0);
}

pub async fn beyond_a_thousand_channels_a_gap_has_no_number() {
    let redis = TestRedis::start().await;
    let (proxy, cut_off, other) = over_a_proxy(&redis).await;
    let mut reader = other.subscribed("orders").await;
    is_idle(&cut_off).await;
    proxy.freeze();
    cut_off.bus_is(false, NOTICED_MAX).await;
    for request in 0..10 {
        let channels: Vec<String> = (0..100).map(|number| format!("{request}-{number}")).collect();
        publish(&cut_off, "old", &channels).await;
    }
    publish(&cut_off, "old", &names(&["orders"])).await;
    outlast(Instant::now(), KEPT * 2).await;
    proxy.thaw();
    cut_off.bus_is(true, BACK_MAX).await;
    let gap = gap(&mut reader).await;
    assert!(gap["channel"] == "orders" && gap["missed"].is_null(), "{gap}");
    reader.nothing_came().await;
    assert_eq!(dropped(&cut_off).await, 1001);
}
