//! Flow rules: what becomes of a flood of events. Windows of an hour end when something flushes them, so that these tests
//! need no clock; tests/flow has the windows themselves.

use std::net::Ipv4Addr;
use std::time::Instant;

use gema::config::Config;
use gema::config::Seconds;
use gema::server::Server;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::http::Api;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

use crate::wire::TEXT;
use crate::wire::Wire;

pub const CHANNEL: &str = "scada-realtime";
pub const READING: &str = "scada.data.received";
pub const HOUR_MS: u32 = 3_600_000;

/// A server with these flow rules.
async fn server(rules: Value) -> TestServer {
    TestServer::start_with(|config| config.limits.flow_rules = serde_json::from_value(rules).unwrap()).await
}

fn conflate() -> Value {
    json!({ "match": "scada-*", "except": ["*.alarm"], "conflate": { "key": "data.channel", "window_ms": HOUR_MS } })
}

async fn subscriber(server: &TestServer, channel: &str) -> Client {
    let mut client = server.connect().await;
    client.subscribe(channel).await;
    client
}

/// The data of the seeds' event for one reading.
pub fn reading(sensor: &str, value: impl Into<Value>) -> String {
    json!({ "data": { "channel": sensor, "value": value.into() }, "channel": CHANNEL }).to_string()
}

/// What comes of these: names with their values, or their data where there are none.
pub fn shown(texts: &[String]) -> Vec<String> {
    let one = |text: &String| {
        let event: Value = serde_json::from_str(text).unwrap();
        let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap_or_default();
        match (&data["data"]["channel"], &data["data"]["value"]) {
            (Value::String(sensor), value) => format!("{sensor}={value}"),
            _ => event["event"].as_str().unwrap().to_owned(),
        }
    };
    texts.iter().map(one).collect()
}

async fn publish(server: &TestServer, sensor: &str, value: impl Into<Value>) {
    server.api().publish(CHANNEL, READING, &reading(sensor, value)).await;
}

#[tokio::test]
async fn of_each_key_the_first_event_comes_at_once_and_the_newest_before_an_alarm() {
    let server = server(json!([conflate()])).await;
    let mut page = subscriber(&server, CHANNEL).await;
    for (sensor, value) in [("t1", 1), ("t2", 2), ("t1", 3), ("t2", 4), ("t1", 5), ("t3", 6)] {
        publish(&server, sensor, value).await;
    }
    assert_eq!(shown(&page.settle().await), ["t1=1", "t2=2", "t3=6"]);
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    assert_eq!(shown(&page.settle().await), ["t2=4", "t1=5", "pump.alarm"]);
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    assert_eq!(shown(&page.settle().await), ["pump.alarm"]);
    if server.nodes() == 1 {
        for (outcome, count) in [("delivered", 5.0), ("replaced", 1.0)] {
            assert_eq!(
                server.figure(0, "gema_flow_events_total", &format!("outcome=\"{outcome}\"")).await,
                count,
                "{outcome}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_held_back_comes_unchanged_when_its_window_ends() {
    let rule = json!({ "match": "scada-*", "conflate": { "key": "data.channel", "window_ms": 300 } });
    let server = server(json!([rule])).await;
    let mut page = subscriber(&server, "private-scada-realtime").await;
    let began = Instant::now();
    for number in 0..3 {
        let data = format!(r#"{{"data":{{"channel":"\u00e9","value":{number}.0}},"x":[ 1 ]}}"#);
        server.api().publish("private-scada-realtime", READING, &data).await;
    }
    let mut last = String::new();
    while !last.contains("2.0") {
        last = page.next_text().await;
    }
    // The first window has ended, even if this machine is slow.
    assert!(began.elapsed().as_millis() >= 300, "{:?}", began.elapsed());
    let data = r#""{\"data\":{\"channel\":\"\\u00e9\",\"value\":2.0},\"x\":[ 1 ]}""#;
    assert_eq!(last, format!(r#"{{"event":"{READING}","data":{data},"channel":"private-scada-realtime"}}"#));
    page.nothing_came().await;
}

/// The metrics port and the operator's page are served in the runtime that has started the server.
#[tokio::test]
async fn a_window_ends_in_time_while_the_metrics_port_is_busy() {
    let mut config = Config::default();
    (config.server.host, config.metrics.host) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
    (config.server.port, config.metrics.port) = (0, 0);
    let rule = json!([{ "match": "scada-*", "conflate": { "key": "data.channel", "window_ms": 1000 } }]);
    config.limits.flow_rules = serde_json::from_value(rule).unwrap();
    let (started, address) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start(&config).await.unwrap();
            started.send(server.address()).unwrap();
            // Nothing else runs here meanwhile.
            let _ = released.recv();
            server.drain().await;
        });
    });
    let address = address.recv().unwrap();
    let mut page = Client::open(address, "/app/app-key?protocol=7", &[]).await;
    page.established().await;
    page.subscribe(CHANNEL).await;
    let api = Api::new(address, APP_ID, APP_KEY, APP_SECRET);
    api.publish(CHANNEL, READING, &reading("t", 1)).await;
    api.publish(CHANNEL, READING, &reading("t", 2)).await;
    assert_eq!(shown(&[page.next_text().await, page.next_text().await]), ["t=1", "t=2"]);
    drop(release);
    tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn other_channels_events_and_clients_events_are_left_alone() {
    let rule = json!({ "match": "scada-*", "events": ["scada.*"], "flush_before": false,
        "conflate": { "key": "data.channel", "window_ms": HOUR_MS } });
    let server = server(json!([rule])).await;
    let mut page = subscriber(&server, "private-scada-realtime").await;
    let mut other = subscriber(&server, "orders").await;
    let mut sender = subscriber(&server, "private-scada-realtime").await;
    for number in 0..3 {
        for (channel, name) in
            [("orders", READING), ("private-scada-realtime", READING), ("private-scada-realtime", "note")]
        {
            server.api().publish(channel, name, &reading("t", number)).await;
        }
        let event = json!({ "event": format!("client-{number}"), "channel": "private-scada-realtime", "data": "x" });
        sender.send_json(event).await;
        sender.settle().await;
    }
    assert_eq!(shown(&other.settle().await), ["t=0", "t=1", "t=2"]);
    let names: Vec<String> = page
        .settle()
        .await
        .iter()
        .map(|text| serde_json::from_str::<Value>(text).unwrap()["event"].to_string())
        .collect();
    assert_eq!(names.iter().filter(|name| name.contains("note")).count(), 3);
    assert_eq!(names.iter().filter(|name| name.contains(READING)).count(), 1);
    assert_eq!(names.iter().filter(|name| name.contains("client-")).count(), 3);
}

#[tokio::test]
async fn an_event_that_excludes_a_connection_passes_and_takes_along_what_waits() {
    let server = server(json!([conflate()])).await;
    let (mut page, mut excluded) = (subscriber(&server, CHANNEL).await, subscriber(&server, CHANNEL).await);
    let send = async |value: i32| {
        let body = json!({ "name": READING, "channel": CHANNEL, "data": reading("t", value), "socket_id": excluded.socket_id });
        server.api().post("/events", &body.to_string()).await.ok();
    };
    for value in 0..3 {
        publish(&server, "t", value).await;
    }
    send(3).await;
    send(4).await;
    assert_eq!(shown(&page.settle().await), ["t=0", "t=2", "t=3", "t=4"]);
    assert_eq!(shown(&excluded.settle().await), ["t=0", "t=2"]);
}

#[tokio::test]
async fn events_without_a_key_pass_and_numbers_and_their_texts_are_one_key() {
    let server = server(json!([conflate()])).await;
    let mut page = subscriber(&server, CHANNEL).await;
    let with = |key: Value, value: u32| json!({ "data": { "channel": key, "value": value } }).to_string();
    for (data, come) in [
        (with(json!("7"), 1), &[Some(1)][..]),
        (with(json!(7), 2), &[]),
        (with(json!(null), 3), &[Some(2), Some(3)]),
        (with(json!({}), 4), &[Some(4)]),
        (with(json!("7"), 5), &[]),
        ("no JSON".to_owned(), &[Some(5), None]),
    ] {
        server.api().publish(CHANNEL, READING, &data).await;
        let value = |text: &String| {
            let event: Value = serde_json::from_str(text).unwrap();
            serde_json::from_str::<Value>(event["data"].as_str().unwrap()).unwrap_or_default()["data"]["value"].as_u64()
        };
        assert_eq!(page.settle().await.iter().map(value).collect::<Vec<_>>(), come, "{data}");
    }
}

#[tokio::test]
async fn figures_of_a_window_stand_beside_the_value() {
    let rule = json!({ "match": "scada-*", "except": ["flush"],
        "aggregate": { "key": "data.channel", "value": "data.value", "window_ms": HOUR_MS } });
    let server = server(json!([rule])).await;
    let mut page = subscriber(&server, CHANNEL).await;
    for value in [json!(-3), json!("-1.50"), json!("broken"), json!(-2.5)] {
        publish(&server, "t", value).await;
    }
    page.nothing_came().await;
    server.api().publish(CHANNEL, "flush", "{}").await;
    let came = page.settle().await;
    assert_eq!(came.len(), 2, "{came:?}");
    let event: Value = serde_json::from_str(&came[0]).unwrap();
    assert_eq!((&event["event"], &event["channel"]), (&json!(READING), &json!(CHANNEL)));
    let mut data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
    let aggregate = data["data"]["aggregate"].as_object_mut().unwrap();
    let (from, to) = (aggregate.remove("from").unwrap(), aggregate.remove("to").unwrap());
    assert!(from.as_u64() <= to.as_u64() && from.as_u64() > Some(1_700_000_000_000), "{from} {to}");
    let average = -7.0 / 3.0;
    let figures = json!({ "count": 3, "sum": -7, "min": -3, "max": -1.5, "average": average, "first": -3, "last": -2.5, "skipped": 1 });
    assert_eq!(data, json!({ "data": { "channel": "t", "value": average, "aggregate": figures }, "channel": CHANNEL }));
}

#[tokio::test]
async fn a_map_has_the_figures_of_all_keys_of_lists_of_readings() {
    let rule = json!({ "match": "scada-batch", "except": ["flush"], "aggregate": { "each": "data", "key": "channel", "value": "value",
        "window_ms": HOUR_MS, "emit": "map", "as": "scada.batch", "values_max": 2 } });
    let server = server(json!([rule])).await;
    let mut page = subscriber(&server, "scada-batch").await;
    for values in [[1, -5], [2, -6], [3, -7]] {
        let list = json!({ "data": [{ "channel": "a", "value": values[0] }, { "channel": "b", "value": values[1] }] });
        server.api().publish("scada-batch", READING, &list.to_string()).await;
    }
    server.api().publish("scada-batch", "flush", "{}").await;
    let event: Value = serde_json::from_str(&page.settle().await[0]).unwrap();
    assert_eq!(event["event"], "scada.batch");
    let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
    let of = |sum: i32, min: i32, max: i32, values: [i32; 2]| json!({ "count": 3, "sum": sum, "min": min, "max": max, "average": sum / 3, "values": values });
    assert_eq!(data, json!({ "a": of(6, 1, 3, [1, 2]), "b": of(-18, -7, -5, [-5, -6]) }));
}

#[tokio::test]
async fn who_joins_gets_the_last_event_of_each_key_first() {
    let mut rule = conflate();
    rule["snapshot"] = json!({ "max_age_seconds": 3600 });
    let server = server(json!([rule])).await;
    for (sensor, value) in [("t1", 1), ("t2", 2), ("t1", 3)] {
        publish(&server, sensor, value).await;
    }
    server.quiet().await;
    let mut page = server.connect().await;
    page.send_subscribe(CHANNEL, None).await;
    let came = page.settle().await;
    if server.nodes() == 1 {
        assert_eq!(shown(&came), ["pusher_internal:subscription_succeeded", "t1=1", "t2=2"]);
    }
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    publish(&server, "t2", 4).await;
    publish(&server, "t3", 5).await;
    page.settle().await;
    let mut later = server.connect().await;
    later.send_subscribe(CHANNEL, None).await;
    let came = shown(&later.settle().await);
    assert!(came[0].contains("succeeded") && came.contains(&"t3=5".to_owned()), "{came:?}");
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    assert_eq!(shown(&later.settle().await), shown(&page.settle().await));
}

#[tokio::test]
async fn a_reload_delivers_what_waits_and_keeps_the_snapshot() {
    let mut rule = conflate();
    rule["snapshot"] = json!({ "max_age_seconds": 3600 });
    let mut server = server(json!([rule])).await;
    let mut page = subscriber(&server, CHANNEL).await;
    for value in 0..3 {
        publish(&server, "t", value).await;
    }
    assert_eq!(shown(&page.settle().await), ["t=0"]);
    rule["conflate"]["window_ms"] = json!(HOUR_MS - 1);
    server.reload(|config| config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap()).await;
    assert_eq!(shown(&page.settle().await), ["t=2"]);
    let mut later = server.connect().await;
    later.send_subscribe(CHANNEL, None).await;
    assert_eq!(shown(&later.settle().await)[1..], ["t=2"]);
    for value in 3..6 {
        publish(&server, "t", value).await;
    }
    assert_eq!(shown(&page.settle().await), ["t=3"]);
    server.reload(|config| config.limits.flow_rules = Vec::new()).await;
    publish(&server, "t", 6).await;
    publish(&server, "t", 7).await;
    assert_eq!(shown(&page.settle().await), ["t=5", "t=6", "t=7"]);
}

#[tokio::test]
async fn a_view_of_the_group_is_thinned_like_the_channel() {
    let server = server(json!([conflate()])).await;
    let mut page = server.connect().await;
    let grant = json!({ "grant": [CHANNEL], "exp": 4_102_444_800_u64 }).to_string();
    page.send_subscribe("private-control-room", Some(&grant)).await;
    page.next_event("pusher_internal:subscription_succeeded").await;
    for value in 0..3 {
        publish(&server, "t", value).await;
    }
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    let came = page.settle().await;
    assert_eq!(shown(&came), ["t=0", "t=2", "pump.alarm"]);
    assert!(came.iter().all(|text| text.contains(r#""channel":"private-control-room"}"#)), "{came:?}");
}

#[tokio::test]
async fn client_events_are_thinned_where_a_rule_says_so_but_never_come_back_to_their_sender() {
    let rule = json!({ "match": "room", "client_events": true, "conflate": { "window_ms": HOUR_MS } });
    let server = server(json!([rule])).await;
    let mut sender = subscriber(&server, "private-room").await;
    let mut reader = subscriber(&server, "private-room").await;
    for number in 0..4 {
        sender
            .send_json(json!({ "event": "client-move", "channel": "private-room", "data": number.to_string() }))
            .await;
        sender.settle().await;
    }
    let texts = |came: Vec<String>| {
        came.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()["data"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(texts(reader.settle().await), ["0"]);
    server.drain().await;
    let mut rest = Vec::new();
    while let Ok(text) = reader.next_text_or_close().await {
        rest.push(text);
    }
    assert_eq!(texts(rest), ["3"]);
    assert_eq!(sender.texts_until_close().await.0, Vec::<String>::new());
}

/// A server that closes who takes nothing of 256 KB for a second, unless a flow rule says otherwise.
async fn impatient(window_ms: u32, change: impl FnOnce(&mut Config)) -> TestServer {
    let rule = json!({ "match": "scada-*", "conflate": { "key": "data.channel", "window_ms": window_ms } });
    TestServer::start_with(|config| {
        config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap();
        config.connections.outbox_bytes_max = 256 * 1024;
        config.connections.slow_seconds = Seconds(1.0);
        change(config);
    })
    .await
}

const SENSORS: [&str; 4] = ["a", "b", "c", "d"];

/// An event of 20 KB.
async fn publish_large(server: &TestServer, channel: &str, sensor: &str, value: usize) {
    let data = json!({ "data": { "channel": sensor, "value": value }, "padding": "x".repeat(20_000) });
    server.api().publish(channel, READING, &data.to_string()).await;
}

/// A figure of all nodes together.
async fn sum(server: &TestServer, name: &str, label: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..server.nodes() {
        sum += server.figure(node, name, label).await;
    }
    sum
}

/// Publishes some megabytes in many windows. A reader that keeps up shows that they were delivered.
async fn flood(server: &TestServer, channel: &str, reader: &mut Client) -> usize {
    const ROUNDS: usize = 60;
    for value in 0..=ROUNDS {
        for sensor in SENSORS {
            publish_large(server, channel, sensor, value).await;
        }
        // One window has ended for the last sensor, at least.
        let newest = format!("d={value}");
        while shown(&[reader.next_text().await]) != [newest.clone()] {}
    }
    ROUNDS
}

#[tokio::test]
async fn who_reads_too_slowly_gets_the_last_event_of_each_key_and_is_not_closed() {
    let server = impatient(1, |_| ()).await;
    let mut stalled = Wire::connect_narrow(server.address(), "/app/app-key?protocol=7").await;
    stalled.subscribe(CHANNEL).await;
    stalled.subscribe("orders").await;
    let mut page = subscriber(&server, CHANNEL).await;
    let last = flood(&server, CHANNEL, &mut page).await;
    server.api().publish("orders", "other", "{}").await;
    server.quiet().await;
    assert!(sum(&server, "gema_flow_events_total", "outcome=\"behind\"").await > 0.0);
    assert!(sum(&server, "gema_outbox_bytes", "").await < 200_000.0);
    let (mut came, mut has_other) = (Vec::new(), false);
    while !(has_other && SENSORS.iter().all(|sensor| came.contains(&format!("{sensor}={last}")))) {
        match stalled.next_frame().await {
            Some((TEXT, payload)) => {
                let text = String::from_utf8(payload).unwrap();
                has_other |= text.contains("other");
                came.extend(shown(&[text]));
            }
            other => panic!("{other:?} after {came:?}"),
        }
    }
    for sensor in SENSORS {
        let values: Vec<usize> =
            came.iter().filter_map(|shown| shown.strip_prefix(sensor)?.strip_prefix('=')?.parse().ok()).collect();
        assert!(values.is_sorted_by(|before, after| before < after), "{sensor}: {values:?}");
    }
    assert!(came.len() < SENSORS.len() * last / 2, "{} events came", came.len());
    assert_eq!(server.metric("gema_refusals_total", Some("slow_reader")).await, 0.0);
}

#[tokio::test]
async fn who_is_behind_and_takes_nothing_at_all_is_closed_in_the_end() {
    let server = impatient(1, |config| config.connections.behind_seconds = Seconds(1.0)).await;
    let mut stalled = Wire::connect_narrow(server.address(), "/app/app-key?protocol=7").await;
    stalled.subscribe(CHANNEL).await;
    let mut page = subscriber(&server, CHANNEL).await;
    flood(&server, CHANNEL, &mut page).await;
    server.metric_becomes("gema_refusals_total", Some("slow_reader"), 1.0).await;
    assert!(sum(&server, "gema_flow_events_total", "outcome=\"behind\"").await > 0.0, "it was spared before");
    page.settle().await;
}

#[tokio::test]
async fn a_client_may_ask_for_a_longer_window_by_name() {
    let mut rule = conflate();
    rule["conflate"]["window_ms"] = json!(1);
    rule["views"] = json!(["60m"]);
    rule["snapshot"] = json!({ "max_age_seconds": 3600 });
    let server = TestServer::start_with(|config| {
        config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap();
        config.limits.channel_rules =
            serde_json::from_value(json!([{ "match": "scada-secret", "require": "private" }])).unwrap();
    })
    .await;
    let mut page = subscriber(&server, CHANNEL).await;
    let mut slow = subscriber(&server, "scada-realtime@60m").await;
    for value in 0..5 {
        publish(&server, "t", value).await;
        while shown(&[page.next_text().await]) != [format!("t={value}")] {}
    }
    let came = slow.settle().await;
    assert_eq!(shown(&came), ["t=0"]);
    assert!(came[0].ends_with(r#""channel":"scada-realtime@60m"}"#), "{came:?}");
    server.api().publish(CHANNEL, "pump.alarm", "{}").await;
    assert_eq!(shown(&slow.settle().await), ["t=4", "pump.alarm"]);
    let mut later = server.connect().await;
    later.send_subscribe("scada-realtime@60m", None).await;
    assert_eq!(shown(&later.settle().await)[1..], ["t=4"]);
    // The rules of the channel hold for its views, and a window that no rule lists is no view.
    later.send_subscribe("scada-secret@60m", None).await;
    let refused = "The rule scada-secret does not allow the channel scada-secret; use private-scada-secret";
    later.next_refusal("scada-secret@60m", "Forbidden", 403, refused).await;
    later.subscribe("scada-realtime@1s").await;
    server.api().publish(CHANNEL, READING, &reading("t", 9)).await;
    later.nothing_came().await;
}

#[tokio::test]
async fn before_the_other_nodes_each_node_thins_what_it_accepts() {
    let mut rule = conflate();
    rule["at"] = json!("ingest");
    let server = TestServer::start_cluster_with(2, |config| {
        config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap();
    })
    .await;
    let mut pages = [server.connect_at(0).await, server.connect_at(1).await];
    for page in &mut pages {
        page.subscribe(CHANNEL).await;
    }
    let before = server.figure(1, "gema_cluster_messages_total", "direction=\"in\"").await;
    for value in 0..10 {
        server.api_at(0).publish(CHANNEL, READING, &reading("t", value)).await;
    }
    server.figure_becomes(1, "gema_cluster_messages_total", "direction=\"in\"", before + 1.0).await;
    for page in &mut pages {
        assert_eq!(shown(&page.settle().await), ["t=0"]);
    }
    server.api_at(1).publish(CHANNEL, READING, &reading("t", 10)).await;
    server.quiet().await;
    server.api_at(0).publish(CHANNEL, "pump.alarm", "{}").await;
    for page in &mut pages {
        assert_eq!(shown(&page.settle().await), ["t=10", "t=9", "pump.alarm"]);
    }
}

#[tokio::test]
async fn a_node_that_drains_sends_the_others_what_waits_for_them() {
    let mut rule = conflate();
    rule["at"] = json!("ingest");
    let mut server = TestServer::start_cluster_with(2, |config| {
        config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap();
    })
    .await;
    let mut page = server.connect_at(0).await;
    page.subscribe(CHANNEL).await;
    for value in 0..3 {
        server.api_at(1).publish(CHANNEL, READING, &reading("t", value)).await;
    }
    assert_eq!(shown(&[page.next_text().await]), ["t=0"]);
    server.drain_at(1).await;
    assert_eq!(shown(&[page.next_text().await]), ["t=2"]);
}

#[tokio::test]
async fn the_last_page_gets_what_waits_before_it_leaves() {
    let server = server(json!([conflate()])).await;
    let mut page = subscriber(&server, CHANNEL).await;
    for value in 0..3 {
        publish(&server, "t", value).await;
    }
    assert_eq!(shown(&page.settle().await), ["t=0"]);
    page.unsubscribe(CHANNEL).await;
    assert_eq!(shown(&page.settle().await), ["t=2"]);
}

#[tokio::test]
async fn a_view_of_the_group_does_not_show_the_views_by_name_again() {
    let mut rule = conflate();
    rule["views"] = json!(["1s", "5s"]);
    let server = server(json!([rule])).await;
    let mut page = server.connect().await;
    let grant = json!({ "grant": ["scada-*"], "exp": 4_102_444_800_u64 }).to_string();
    page.send_subscribe("private-control-room", Some(&grant)).await;
    page.next_event("pusher_internal:subscription_succeeded").await;
    let mut by_name = subscriber(&server, "scada-realtime@5s").await;
    publish(&server, "t", 1).await;
    assert_eq!(shown(&page.settle().await), ["t=1"]);
    assert_eq!(shown(&by_name.settle().await), ["t=1"]);
}
