//! Figures of several nodes: with `at = "ingest"` each sends what it makes of the events that it accepts, and each puts
//! those of all nodes together. Windows of an hour end when something flushes them; tests/flow has the windows themselves.

use std::time::Instant;

use gema::config::RawClients;
use gema::flow::rule::FlowRule;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::redis_server::TestRedis;
use support::server::TestServer;

use crate::flow::CHANNEL;
use crate::flow::HOUR_MS;
use crate::flow::READING;
use crate::flow::reading;
use crate::flow::shown;
use crate::raw_clients::has;
use crate::raw_clients::next;

/// What a node has got from the others.
const MESSAGES: (&str, &str) = ("gema_cluster_messages_total", "direction=\"in\"");

fn rules(rules: &[Value]) -> Vec<FlowRule> {
    serde_json::from_value(json!(rules)).unwrap()
}

async fn came_in(server: &TestServer, node: usize) -> f64 {
    server.figure(node, MESSAGES.0, MESSAGES.1).await
}

/// The figures in an event, if it has any.
fn figures(text: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(text).unwrap();
    let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
    data["data"].get("aggregate").cloned()
}

/// The readings in these events: as many as the figures count, and one in an event without figures.
fn count(texts: &[String]) -> u64 {
    let readings = texts.iter().filter(|text| text.contains(READING));
    readings.map(|text| figures(text).map_or(1, |figures| figures["count"].as_u64().unwrap())).sum()
}

/// Two nodes with a page on each.
async fn two_nodes() -> (TestServer, [Client; 2]) {
    let server = TestServer::start_cluster_with(2, |config| config.limits.flow_rules = rules(&[aggregate()])).await;
    let mut pages = [server.connect_at(0).await, server.connect_at(1).await];
    for page in &mut pages {
        page.subscribe(CHANNEL).await;
    }
    (server, pages)
}

/// The figures of one key at a time, until something takes them along.
fn aggregate() -> Value {
    json!({ "match": "scada-*", "except": ["*.alarm"], "at": "ingest", "keys_max": 1, "views": ["30m"],
        "snapshot": { "max_age_seconds": 3600 },
        "aggregate": { "key": "data.channel", "value": "data.value", "window_ms": HOUR_MS } })
}

#[tokio::test]
async fn figures_of_two_nodes_become_one_event_for_everybody() {
    let server = TestServer::start_cluster_with(2, |config| {
        config.limits.flow_rules = rules(&[aggregate()]);
        config.limits.raw_clients = RawClients { channels: vec![CHANNEL.to_owned()], accept_id: true };
    })
    .await;
    let mut pages = [server.connect_at(0).await, server.connect_at(1).await, server.connect_at(1).await];
    for page in &mut pages[..2] {
        page.subscribe(CHANNEL).await;
        page.subscribe("scada-realtime@30m").await;
    }
    let grant = json!({ "grant": ["scada-*"], "exp": 4_102_444_800_u64 }).to_string();
    pages[2].send_subscribe("private-control-room", Some(&grant)).await;
    pages[2].next_event("pusher_internal:subscription_succeeded").await;
    let mut raw = Client::open(server.address_at(1), "/app/app-id", &[]).await;
    has(&server, CHANNEL, 3).await;
    let before = came_in(&server, 1).await;
    for value in [json!(-1.5), json!("2.5"), json!("broken"), json!(0.1)] {
        server.api_at(0).publish(CHANNEL, READING, &reading("t", value)).await;
    }
    // A second key takes the place of the first one, whose figures go out. They cross for the channel and its view, and
    // come once more for the group.
    server.api_at(0).publish(CHANNEL, READING, &reading("u", 9)).await;
    server.figure_becomes(1, MESSAGES.0, MESSAGES.1, before + 4.0).await;
    for value in [7, 5] {
        server.api_at(1).publish(CHANNEL, READING, &reading("t", value)).await;
    }
    for page in &mut pages {
        page.settle().await;
        page.nothing_came().await;
    }
    server.api_at(1).publish(CHANNEL, "pump.alarm", "{}").await;
    let figures = json!({ "count": 5, "sum": 13.1, "min": -1.5, "max": 7, "average": 2.62, "first": -1.5, "last": 5 });
    let is = |text: &str| {
        let event: Value = serde_json::from_str(text).unwrap();
        let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        let mut got = data["data"]["aggregate"].clone();
        let times = ["from", "to"].map(|time| got.as_object_mut().unwrap().remove(time).unwrap().as_u64().unwrap());
        assert!(times[0] <= times[1], "{text}");
        assert_eq!(got.as_object_mut().unwrap().remove("skipped"), Some(json!(1)), "{text}");
        assert_eq!((&data["data"]["value"], got), (&json!(2.62), figures.clone()), "{text}");
        assert_eq!(event.as_object().unwrap().len(), 3, "{text}");
    };
    for (page, ways) in pages.iter_mut().zip([2, 2, 1]) {
        let came = page.settle().await;
        let of_channel = came.iter().filter(|text| text.contains("@30m")).count();
        assert_eq!((came.len(), of_channel), (2 * ways, ways - ways % 2), "{came:?}");
        for text in came.iter().filter(|text| !text.contains("pump.alarm")) {
            is(text);
        }
        let alarms = came.iter().enumerate().filter(|(_, text)| text.contains("pump.alarm"));
        assert_eq!(alarms.map(|(place, _)| place % 2).sum::<usize>(), ways, "{came:?}");
    }
    let came = [next(&mut raw).await, next(&mut raw).await];
    let event: Value = serde_json::from_str(&came[0]).unwrap();
    assert_eq!(event["data"]["data"]["aggregate"]["count"], json!(5), "{came:?}");
    assert!(came[1].contains("pump.alarm"), "{came:?}");
    for node in 0..2 {
        let mut later = server.connect_at(node).await;
        later.send_subscribe(CHANNEL, None).await;
        let came = later.settle().await;
        assert_eq!(came.len(), 2, "{came:?}");
        is(&came[1]);
    }
    server.api_at(0).publish(CHANNEL, "pump.alarm", "{}").await;
    for page in &mut pages[..2] {
        let came: Vec<String> = page.settle().await.into_iter().filter(|text| !text.contains("@30m")).collect();
        assert_eq!(shown(&came), ["u=9", "pump.alarm"]);
    }
}

#[tokio::test]
async fn a_flood_at_two_nodes_crosses_redis_as_figures_and_nothing_is_lost() {
    const WINDOW_MS: u128 = 200;
    const ROUNDS: u64 = 150;
    const SENSORS: [&str; 2] = ["t", "u"];
    let mut rule = aggregate();
    (rule["keys_max"], rule["aggregate"]["window_ms"], rule["views"]) = (json!(1000), json!(WINDOW_MS), json!([]));
    let server = TestServer::start_cluster_with(2, |config| config.limits.flow_rules = rules(&[rule])).await;
    let mut pages = [server.connect_at(0).await, server.connect_at(1).await];
    for page in &mut pages {
        page.subscribe(CHANNEL).await;
    }
    let mut before = [0.0; 2];
    for (node, before) in before.iter_mut().enumerate() {
        *before = came_in(&server, node).await;
    }
    let began = Instant::now();
    for round in 0..ROUNDS {
        for node in 0..2 {
            for (place, sensor) in SENSORS.iter().enumerate() {
                let value = round as f64 / 4.0 - 7.0 + node as f64 * 1000.0 + place as f64;
                server.api_at(node).publish(CHANNEL, READING, &reading(sensor, value)).await;
            }
        }
    }
    for page in &mut pages {
        let (mut count, mut sum, mut min, mut max, mut events) =
            ([0; 2], [0.0; 2], [f64::MAX; 2], [f64::MIN; 2], [0; 2]);
        while count != [2 * ROUNDS; 2] {
            let text = page.next_text().await;
            let event: Value = serde_json::from_str(&text).unwrap();
            let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
            let place = SENSORS.iter().position(|sensor| data["data"]["channel"] == *sensor).unwrap();
            let figure = |name: &str| data["data"]["aggregate"][name].as_f64().unwrap();
            count[place] += figure("count") as u64;
            sum[place] += figure("sum");
            min[place] = min[place].min(figure("min"));
            max[place] = max[place].max(figure("max"));
            events[place] += 1;
            assert!(count[place] <= 2 * ROUNDS, "more than was published: {text}");
        }
        // Quarters are exact, so sums are.
        let all = |place: f64| (0..ROUNDS).map(|round| 2.0 * (round as f64 / 4.0 - 7.0 + place) + 1000.0).sum::<f64>();
        assert_eq!(sum, [all(0.0), all(1.0)]);
        let most = (ROUNDS - 1) as f64 / 4.0 - 7.0 + 1000.0;
        assert_eq!((min, max), ([-7.0, -6.0], [most, most + 1.0]));
        // The windows of a key begin at least a window apart, however late each of them ends.
        let windows = began.elapsed().as_millis() / WINDOW_MS + 2;
        assert!(events.iter().all(|&events| events <= windows), "{events:?} events in {windows} windows");
    }
    let windows = began.elapsed().as_millis() / WINDOW_MS + 2;
    for (node, before) in before.into_iter().enumerate() {
        let came = came_in(&server, node).await - before;
        assert!(
            came >= 2.0 && came <= (SENSORS.len() as u128 * windows) as f64,
            "{came} messages in {windows} windows"
        );
    }
    for page in &mut pages {
        page.nothing_came().await;
    }
}

#[tokio::test]
async fn a_node_that_stops_leaves_its_figures_to_the_others() {
    let (mut server, [_, mut page]) = two_nodes().await;
    let before = came_in(&server, 1).await;
    for value in [1, 3] {
        server.api_at(0).publish(CHANNEL, READING, &reading("t", value)).await;
    }
    server.quiet().await;
    assert_eq!(came_in(&server, 1).await, before);
    let other = server.api_at(1);
    server.drain_at(0).await;
    server.figure_becomes(0, MESSAGES.0, MESSAGES.1, before + 1.0).await;
    other.publish(CHANNEL, READING, &reading("t", 5)).await;
    other.publish(CHANNEL, "pump.alarm", "{}").await;
    let texts = [page.next_text().await, page.next_text().await];
    assert_eq!(shown(&texts), ["t=3", "pump.alarm"]);
    assert_eq!(count(&texts), 3);
}

#[tokio::test]
async fn a_reload_loses_no_figures_and_repeats_none() {
    let (mut server, mut pages) = two_nodes().await;
    let mut longer = aggregate();
    longer["aggregate"]["window_ms"] = json!(HOUR_MS / 2);
    let mut conflate = longer.clone();
    conflate["conflate"] = json!({ "key": "data.channel", "window_ms": HOUR_MS });
    conflate.as_object_mut().unwrap().remove("aggregate");
    // The same kind, another one that knows no figures, and none at all. Nothing takes the place of another reading.
    for rest in [vec![longer], vec![conflate], vec![aggregate()], vec![]] {
        for (node, value) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
            server.api_at(node).publish(CHANNEL, READING, &reading("t", value)).await;
        }
        server.reload(|config| config.limits.flow_rules = rules(&rest)).await;
        server.quiet().await;
        server.api_at(0).publish(CHANNEL, "pump.alarm", "{}").await;
        server.quiet().await;
        server.api_at(1).publish(CHANNEL, "pump.alarm", "{}").await;
        for page in &mut pages {
            let texts = page.settle().await;
            assert_eq!(count(&texts), 4, "before {rest:?}: {texts:?}");
            assert!(!texts.iter().any(|text| text.contains("\"partial\"")), "{texts:?}");
        }
    }
}

#[tokio::test]
async fn figures_that_no_numbers_have_are_left_out() {
    let (server, mut pages) = two_nodes().await;
    let mut redis = TestRedis::shared().await.connection().await;
    let topic = format!("{}:{{app-id:{CHANNEL}}}", server.cluster());
    let dropped = async || server.figure(0, "gema_cluster_dropped_total", "cause=\"malformed\"").await;
    let message = |number: u64, key: &str, count: &str, min: &str| {
        let data = json!(reading(key, 2)).to_string();
        let frame = format!(
            r#"{{"event":"{READING}","data":{data},"channel":"{CHANNEL}","partial":{{"event":"{READING}","keys":[{{"key":"{key}","count":{count},"sum":4.0,"compensation":0.0,"min":{min},"max":3.0,"first":1.0,"last":3.0,"from":1,"to":2,"first_at":1,"last_at":2,"skipped":0}}]}}}}"#
        );
        let length = u16::try_from(frame.len()).unwrap().to_be_bytes();
        let head = format!("gema/1 event 0123456789abcdef {number} 1 - 0 {}\n", frame.len() + 4);
        [head.as_bytes(), &[0x81, 126], &length, frame.as_bytes()].concat()
    };
    let before = dropped().await;
    let wrong =
        [("0", "1.0"), ("-2", "1.0"), ("1e3", "1.0"), ("2", "1e400"), ("2", "NaN"), ("2", "null"), ("2", "2.5")];
    for (number, (count, min)) in (1..).zip(wrong) {
        redis::cmd("PUBLISH").arg(&topic).arg(message(number, "t", count, min)).exec_async(&mut redis).await.unwrap();
    }
    server.figure_becomes(0, "gema_cluster_dropped_total", "cause=\"malformed\"", before + wrong.len() as f64).await;
    let arrived = came_in(&server, 0).await;
    // These could be true. A rule keeps as many keys of them as of its own.
    for (number, key) in (100..).zip(["t", "t", "u"]) {
        redis::cmd("PUBLISH").arg(&topic).arg(message(number, key, "2", "1.0")).exec_async(&mut redis).await.unwrap();
    }
    server.figure_becomes(0, MESSAGES.0, MESSAGES.1, arrived + 3.0).await;
    server.quiet().await;
    for page in &mut pages {
        let texts = page.settle().await;
        assert_eq!((texts.len(), count(&texts)), (1, 4), "{texts:?}");
    }
    server.api_at(0).publish(CHANNEL, "pump.alarm", "{}").await;
    for page in &mut pages {
        assert_eq!(shown(&page.settle().await), ["u=2", "pump.alarm"]);
    }
}
