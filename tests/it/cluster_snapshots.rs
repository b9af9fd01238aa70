//! The snapshot of a flow rule in a cluster: who joins at any node gets the last event of each key first, from Redis
//! where the node has not heard the channel.

use std::collections::BTreeMap;
use std::time::Instant;

use gema::config::Config;
use gema::config::RawClients;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::Node;
use support::node::becomes;
use support::node::eventually;
use support::redis_server::TestRedis;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::TestServer;

const CHANNEL: &str = "scada-realtime";
const READING: &str = "scada.data.received";
const HOUR_MS: u32 = 3_600_000;

fn conflate(window_ms: u32) -> Value {
    json!({
        "match": "scada-*", "except": ["*.alarm"], "snapshot": { "max_age_seconds": 600 },
        "conflate": { "key": "sensor", "window_ms": window_ms }
    })
}

fn with_rule(rule: &Value) -> impl Fn(&mut Config) {
    let rules = json!([rule]);
    move |config| config.limits.flow_rules = serde_json::from_value(rules.clone()).unwrap()
}

async fn two_nodes(rule: &Value) -> TestServer {
    TestServer::start_cluster_with(2, with_rule(rule)).await
}

fn reading(sensor: &str, value: u64) -> String {
    json!({ "sensor": sensor, "value": value }).to_string()
}

async fn publish(server: &TestServer, node: usize, channel: &str, sensor: &str, value: u64) {
    server.api_at(node).publish(channel, READING, &reading(sensor, value)).await;
}

/// What comes of these: sensors with their values, or events' names.
fn shown(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| shown_one(&serde_json::from_str(text).unwrap())).collect()
}

fn shown_one(event: &Value) -> String {
    let data = match &event["data"] {
        Value::String(data) => serde_json::from_str(data).unwrap_or_default(),
        data => data.clone(),
    };
    match &data["sensor"] {
        Value::String(sensor) => format!("{sensor}={}", data["value"]),
        _ => event["event"].as_str().unwrap().trim_start_matches("pusher_internal:").to_owned(),
    }
}

/// Where a channel's snapshot is on Redis.
fn key(cluster: &str, channel: &str) -> String {
    format!("{cluster}:{{{APP_ID}:{channel}}}:last_events")
}

/// The events that Redis stores there.
async fn stored(redis: &TestRedis, key: &str) -> Vec<String> {
    let events: Vec<Vec<u8>> = redis.run(&["HVALS", key]).await;
    events.iter().map(|event| String::from_utf8_lossy(event).into_owned()).collect()
}

/// Waits until Redis stores the last event of so many keys, these among them.
async fn stores(redis: &TestRedis, key: &str, count: usize, parts: &[&str]) {
    let what = format!("{key} holds {count} with {parts:?}");
    eventually(&what, PATIENCE, async || {
        let events = stored(redis, key).await;
        let has = |part: &&str| events.iter().any(|event| event.contains(&part.replace('"', "\\\"")));
        events.len() == count && parts.iter().all(has)
    })
    .await;
}

fn value(sensor: &str, value: u64) -> String {
    reading(sensor, value).trim_matches(['{', '}']).to_owned()
}

/// What a connection gets that joins on this node.
async fn joined(server: &TestServer, node: usize, channel: &str) -> (Client, Vec<String>) {
    let mut page = server.connect_at(node).await;
    let member = json!({ "user_id": "7" }).to_string();
    page.send_subscribe(channel, channel.starts_with("presence-").then_some(&*member)).await;
    let came = page.settle().await;
    (page, shown(&came))
}

#[tokio::test]
async fn who_joins_where_the_channel_was_never_heard_gets_the_snapshot_first() {
    let server = two_nodes(&conflate(HOUR_MS)).await;
    let redis = TestRedis::shared().await;
    for channel in [CHANNEL, "private-scada-a", "presence-scada-a", "private-cache-scada-a"] {
        for (sensor, value) in [("t1", 1), ("t2", 2), ("t3", 3)] {
            publish(&server, 0, channel, sensor, value).await;
        }
        let key = key(server.cluster(), channel);
        stores(redis, &key, 3, &[&value("t1", 1)]).await;
        for key in [key.clone(), format!("{key}:times")] {
            let left: i64 = redis.run(&["TTL", &key]).await;
            assert!((1..=600).contains(&left), "{key} lives for {left} s");
        }
        let (mut page, mut came) = joined(&server, 1, channel).await;
        // A cache channel has its own last event, which comes once.
        came.sort_unstable_by_key(|what| !what.contains("succeeded"));
        let first = came.remove(0);
        came.sort_unstable();
        assert_eq!((&*first, came), ("subscription_succeeded", vec!["t1=1".into(), "t2=2".into(), "t3=3".into()]));
        publish(&server, 1, channel, "t4", 4).await;
        server.api_at(0).publish(channel, "pump.alarm", "{}").await;
        assert_eq!(shown(&page.settle().await), ["t4=4", "pump.alarm"]);
    }
    // Of an encrypted channel the event's name is the key.
    for value in 1..3 {
        publish(&server, 0, "private-encrypted-scada-a", "t", value).await;
        server.api_at(0).publish("private-encrypted-scada-a", "pump.alarm", "{}").await;
    }
    stores(redis, &key(server.cluster(), "private-encrypted-scada-a"), 1, &[&value("t", 2)]).await;
    let (_, came) = joined(&server, 1, "private-encrypted-scada-a").await;
    assert_eq!(came, ["subscription_succeeded", "t=2"]);
}

#[tokio::test]
async fn every_kind_of_rule_has_a_snapshot_for_every_node() {
    let snapshot = json!({ "max_age_seconds": 600, "key": "sensor" });
    let aggregate = json!({ "key": "sensor", "value": "value", "window_ms": 1 });
    let mut map = aggregate.clone();
    map["emit"] = json!("map");
    let of =
        |kind: &str, rule: Value| json!({ "match": "scada-*", "snapshot": { "max_age_seconds": 600 }, kind: rule });
    let mut figures_at_ingest = of("aggregate", aggregate.clone());
    figures_at_ingest["at"] = json!("ingest");
    let mut at_ingest = conflate(HOUR_MS);
    at_ingest["at"] = json!("ingest");
    let mut views = conflate(1);
    views["views"] = json!(["60m"]);
    let redis = TestRedis::shared().await;
    for (rule, channel, expected) in [
        (json!({ "match": "scada-*", "snapshot": snapshot }), CHANNEL, ["t1=1", "t2=2"].as_slice()),
        (of("rate", json!({ "per_second": 1000, "key": "sensor" })), CHANNEL, &["t1=1", "t2=2"]),
        (of("sample", json!({ "every": 2, "key": "sensor" })), CHANNEL, &["t1=1", "t2=2"]),
        (of("aggregate", aggregate), CHANNEL, &["t1=1", "t2=2"]),
        (of("aggregate", map), CHANNEL, &[READING]),
        (figures_at_ingest, CHANNEL, &["t1=1", "t2=2"]),
        (at_ingest, CHANNEL, &["t1=1", "t2=2"]),
        (views, "scada-realtime@60m", &["t1=1", "t2=2"]),
    ] {
        let server = two_nodes(&rule).await;
        let stored_key = key(server.cluster(), channel);
        publish(&server, 0, CHANNEL, "t1", 1).await;
        stores(redis, &stored_key, 1, &[]).await;
        publish(&server, 0, CHANNEL, "t2", 2).await;
        stores(redis, &stored_key, expected.len(), &["t2"]).await;
        let (_, came) = joined(&server, 1, channel).await;
        assert_eq!(came[0], "subscription_succeeded");
        assert_eq!(came[1..], *expected, "{rule}");
    }
}

#[tokio::test]
async fn a_raw_client_gets_the_snapshot_of_another_node() {
    let rule = conflate(HOUR_MS);
    let server = TestServer::start_cluster_with(2, |config| {
        with_rule(&rule)(config);
        config.limits.raw_clients = RawClients { channels: vec![CHANNEL.to_owned()], accept_id: true };
    })
    .await;
    publish(&server, 0, CHANNEL, "t", 1).await;
    stores(TestRedis::shared().await, &key(server.cluster(), CHANNEL), 1, &[]).await;
    let mut page = Client::open(server.address_at(1), &format!("/app/{APP_KEY}"), &[]).await;
    let came = page.next_message().await.into_text().unwrap();
    assert_eq!(came.as_str(), format!(r#"{{"event":"{READING}","data":{},"channel":"{CHANNEL}"}}"#, reading("t", 1)));
}

#[tokio::test]
async fn what_was_accepted_before_a_node_heard_the_channel_comes_when_it_is_stored() {
    let server = two_nodes(&conflate(1500)).await;
    for number in 0..4 {
        let channel = format!("{}scada-{number}", if number % 2 == 0 { "" } else { "presence-" });
        // The second value waits for the end of its window when the page joins on the other node.
        publish(&server, 0, &channel, "t", 1).await;
        stores(TestRedis::shared().await, &key(server.cluster(), &channel), 1, &[]).await;
        publish(&server, 0, &channel, "t", 2).await;
        let (mut page, mut came) = joined(&server, 1, &channel).await;
        while came.last().unwrap() != "t=2" {
            came.push(shown_one(&page.next().await));
        }
        let without_first: Vec<_> = came.iter().filter(|what| *what != "t=1").collect();
        assert_eq!(without_first, ["subscription_succeeded", "t=2"]);
        page.nothing_came().await;
    }
}

/// What comes of a flood after the answer: of each sensor the values rise, and the last one is there in the end.
async fn check_flood(mut page: Client, channel: &str, last: &BTreeMap<String, u64>) {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    assert_eq!(page.next().await["event"], "pusher_internal:subscription_succeeded");
    while seen != *last {
        let what = shown_one(&page.next().await);
        let (sensor, value) = what.split_once('=').unwrap();
        let value = value.parse().unwrap();
        let before = seen.insert(sensor.to_owned(), value);
        assert!(before.is_none_or(|before| before < value), "{channel}: {sensor}={value} comes after {before:?}");
    }
    page.nothing_came().await;
}

#[tokio::test]
async fn joiners_at_random_moments_see_the_snapshot_then_what_is_live() {
    const SENSORS: u64 = 5;
    const EVENTS: u64 = 120;
    let alone = json!({ "match": "scada-*", "snapshot": { "max_age_seconds": 600, "key": "sensor" } });
    for rule in [conflate(20), alone] {
        let server = two_nodes(&rule).await;
        for number in 0..8 {
            let channel = format!("scada-{number}");
            // Each sensor has a node that it publishes at.
            let flood = async {
                for value in 1..=EVENTS {
                    let sensor = value % SENSORS;
                    publish(&server, (sensor % 2) as usize, &channel, &format!("t{sensor}"), value).await;
                }
            };
            let join = async {
                let mut pages = Vec::new();
                for node in [0, 1] {
                    let mut page = server.connect_at(node).await;
                    let turns = rand::random_range(0..200);
                    for _ in 0..turns {
                        server.api_at(node).get("/channels", &[]).await;
                    }
                    page.send_subscribe(&channel, None).await;
                    pages.push(page);
                }
                pages
            };
            let ((), pages) = tokio::join!(flood, join);
            let last = (EVENTS - SENSORS + 1..=EVENTS).map(|value| (format!("t{}", value % SENSORS), value)).collect();
            for page in pages {
                check_flood(page, &channel, &last).await;
            }
        }
    }
}

#[tokio::test]
async fn redis_gets_each_key_once_a_second_at_most() {
    let redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, 2, with_rule(&conflate(10))).await;
    let _pages = [joined(&server, 0, CHANNEL).await, joined(&server, 1, CHANNEL).await];
    // Nothing else makes these calls here.
    let before = redis.calls("ZADD").await;
    let began = Instant::now();
    for value in 1..=300 {
        publish(&server, 0, CHANNEL, if value % 2 == 0 { "even" } else { "odd" }, value).await;
    }
    stores(&redis, &key(server.cluster(), CHANNEL), 2, &[&value("odd", 299), &value("even", 300)]).await;
    let (calls, seconds) = (redis.calls("ZADD").await - before, began.elapsed().as_secs());
    // The leases of two nodes are renewed every two seconds.
    assert!(calls <= 2 * (seconds + 2) + seconds + 4, "{calls} in {seconds} s");
}

#[tokio::test]
async fn a_redis_that_has_lost_everything_gets_it_again() {
    let mut redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, 3, with_rule(&conflate(HOUR_MS))).await;
    for node in 0..2 {
        publish(&server, node, CHANNEL, &format!("t{node}"), 7).await;
    }
    let key = key(server.cluster(), CHANNEL);
    stores(&redis, &key, 2, &[]).await;
    redis.kill();
    for node in 0..3 {
        server.figure_becomes(node, "gema_cluster_up", "", 0.0).await;
    }
    // Without Redis a page gets no snapshot of other nodes, and waits no longer for it.
    let mut page = Client::open(server.address_at(2), &format!("/app/{APP_KEY}?protocol=7"), &[]).await;
    page.established().await;
    page.subscribe(CHANNEL).await;
    publish(&server, 1, CHANNEL, "t2", 8).await;
    redis.restart().await;
    stores(&redis, &key, 3, &[&value("t0", 7), &value("t1", 7), &value("t2", 8)]).await;
    let mut later = Client::open(server.address_at(2), &format!("/app/{APP_KEY}?protocol=7"), &[]).await;
    later.established().await;
    let mut came = Vec::new();
    while came.len() < 3 {
        came.push(shown_one(&page.next().await));
    }
    came.sort_unstable();
    assert_eq!(came, ["t0=7", "t1=7", "t2=8"]);
    later.send_subscribe(CHANNEL, None).await;
    let mut came: Vec<String> = Vec::new();
    while came.len() < 4 {
        came.push(shown_one(&later.next().await));
    }
    came[1..].sort_unstable();
    assert_eq!(came, ["subscription_succeeded", "t0=7", "t1=7", "t2=8"]);
}

fn variable(rule: &Value) -> String {
    json!([rule]).to_string()
}

#[tokio::test]
async fn what_a_dead_node_has_accepted_is_stored_by_those_who_have_heard_it() {
    let redis = TestRedis::start().await;
    let cluster = Cluster::on(&redis).with("GEMA_LIMITS_FLOW_RULES", &variable(&conflate(1)));
    let [dies, hears, new]: [Node; 3] = cluster.nodes().await;
    let mut page = hears.subscribed(CHANNEL).await;
    let key = format!("{}:last_events", cluster.topic(CHANNEL));
    dies.api().publish(CHANNEL, READING, &reading("t", 1)).await;
    stores(&redis, &key, 1, &[]).await;
    // Within a second nothing is stored again, so the node dies before it.
    dies.api().publish(CHANNEL, READING, &reading("t", 2)).await;
    while shown_one(&page.next().await) != "t=2" {}
    dies.kill().await;
    let is_last = async || stored(&redis, &key).await[0].contains(&value("t", 2).replace('"', "\\\""));
    becomes("the last event is stored", GONE_MAX, is_last, true).await;
    let mut late = new.subscribed(CHANNEL).await;
    assert_eq!(late.next_event(READING).await["value"], 2);
}

#[tokio::test]
async fn a_node_that_stops_leaves_its_snapshot_to_the_others() {
    let redis = TestRedis::start().await;
    let cluster = Cluster::on(&redis).with("GEMA_LIMITS_FLOW_RULES", &variable(&conflate(HOUR_MS)));
    let [stops, other]: [Node; 2] = cluster.nodes().await;
    for value in 1..4 {
        stops.api().publish(CHANNEL, READING, &reading("t", value)).await;
    }
    stops.stop().await;
    let mut page = other.subscribed(CHANNEL).await;
    assert_eq!(page.next_event(READING).await["value"], 3);
}

#[tokio::test]
async fn an_event_that_a_node_does_not_know_yet_stays() {
    let redis = TestRedis::shared().await;
    let server = two_nodes(&conflate(HOUR_MS)).await;
    let key = key(server.cluster(), CHANNEL);
    publish(&server, 0, CHANNEL, "first", 1).await;
    stores(redis, &key, 1, &[]).await;
    for number in 0.. {
        // Somebody else stores an event that has not reached this node. After ten seconds it would have.
        let (began, sensor) = (Instant::now(), format!("t{number}"));
        let event = json!({ "event": READING, "data": reading(&sensor, 9), "channel": CHANNEL }).to_string();
        let head = format!("gema/1 event 0123456789abcdef 5 0 - 0 {}\n", event.len() + 2);
        let stored = [head.as_bytes(), &[0x81, event.len() as u8], event.as_bytes()].concat();
        let field = format!("sensor\0{READING}\0{sensor}");
        let (seconds, _): (u64, u64) = redis.run(&["TIME"]).await;
        let mut connection = redis.connection().await;
        let mut both = redis::pipe();
        both.atomic().hset(&key, &field, stored).zadd(format!("{key}:times"), &field, seconds * 1000);
        let () = both.query_async(&mut connection).await.unwrap();
        publish(&server, 0, CHANNEL, &sensor, 1).await;
        publish(&server, 0, CHANNEL, &format!("behind{number}"), 1).await;
        stores(redis, &key, 3 + 2 * number, &[&value(&format!("behind{number}"), 1)]).await;
        if began.elapsed().as_secs() < 8 {
            let (_, came) = joined(&server, 1, CHANNEL).await;
            return assert!(came.contains(&format!("{sensor}=9")), "{came:?}");
        }
    }
}

#[tokio::test]
async fn without_the_rule_there_is_no_snapshot_any_more() {
    let redis = TestRedis::shared().await;
    let rule = conflate(HOUR_MS);
    let mut server = two_nodes(&rule).await;
    publish(&server, 0, CHANNEL, "t", 1).await;
    let key = key(server.cluster(), CHANNEL);
    stores(redis, &key, 1, &[]).await;
    server.reload(|config| config.limits.flow_rules = Vec::new()).await;
    becomes("the snapshot is gone", PATIENCE, async || redis.run::<u64>(&["EXISTS", &key]).await, 0).await;
    assert_eq!(joined(&server, 1, CHANNEL).await.1, ["subscription_succeeded"]);
    server.reload(with_rule(&rule)).await;
    assert_eq!(joined(&server, 1, "scada-other").await.1, ["subscription_succeeded"]);
}

#[tokio::test]
async fn whatever_somebody_writes_in_its_place_harms_nobody() {
    let redis = TestRedis::shared().await;
    let server = two_nodes(&conflate(HOUR_MS)).await;
    for (number, value) in ["", "x", "gema/1 event 0123456789abcdef 1 1 - 0 4\n\u{81}\u{2}{}"].into_iter().enumerate() {
        let channel = format!("scada-{number}");
        let key = key(server.cluster(), &channel);
        let () = redis.run(&["HSET", &key, "sensor\0scada.data.received\0t", value]).await;
        let () = redis.run(&["ZADD", &format!("{key}:times"), "inf", "sensor\0scada.data.received\0t"]).await;
        assert_eq!(joined(&server, 1, &channel).await.1, ["subscription_succeeded"]);
        publish(&server, 0, &channel, "t", 1).await;
        stores(redis, &key, 1, &[&self::value("t", 1)]).await;
    }
    let key = key(server.cluster(), CHANNEL);
    let () = redis.run(&["SET", &key, "x"]).await;
    assert_eq!(joined(&server, 1, CHANNEL).await.1, ["subscription_succeeded"]);
    publish(&server, 0, CHANNEL, "t", 1).await;
    stores(redis, &key, 1, &[]).await;
}
