//! Flow rules and data that nobody should send: strange keys and values, very many of them, and very large ones.
//! Windows of an hour end when something flushes them.

use gema::config::Config;
use gema::config::Seconds;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::server::TestServer;

use crate::wire::Wire;

const CHANNEL: &str = "scada-realtime";
const READING: &str = "scada.data.received";
const HOUR_MS: u32 = 3_600_000;

async fn server(rules: Value, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(|config| {
        config.limits.flow_rules = serde_json::from_value(rules).unwrap();
        change(config);
    })
    .await
}

async fn subscriber(server: &TestServer, channel: &str) -> Client {
    let mut client = server.connect().await;
    client.subscribe(channel).await;
    client
}

/// The data of each event that has come.
async fn data(page: &mut Client) -> Vec<String> {
    let came = page.settle().await;
    came.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()["data"].as_str().unwrap().to_owned()).collect()
}

async fn flush(server: &TestServer) {
    server.api().publish(CHANNEL, "flush", "-").await;
}

/// How often the rules had this outcome, on all nodes.
async fn outcomes(server: &TestServer, outcome: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..server.nodes() {
        sum += server.figure(node, "gema_flow_events_total", &format!("outcome=\"{outcome}\"")).await;
    }
    sum
}

#[tokio::test]
async fn each_strange_key_is_one_key_or_none() {
    let rule = json!({ "match": "scada-*", "except": ["flush"], "conflate": { "key": "k", "window_ms": HOUR_MS } });
    let server = server(json!([rule]), |_| ()).await;
    let mut page = subscriber(&server, CHANNEL).await;
    let long = format!("\"{}\"", "k".repeat(10_000));
    let longer = format!("\"{}\"", "k".repeat(10_001));
    // The same key each, written in several ways.
    for keys in [
        &["7", "\"7\"", r#""\u0037""#][..],
        &["7.0"],
        &["1e400", "\"1e400\""],
        &["-1E+999999999"],
        &["true", "\"true\""],
        &["false"],
        &["\"\""],
        &["\"pump 🌊 é\"", r#""pump \ud83c\udf0a \u00e9""#],
        // A combined and a composed letter differ.
        &["\"pump 🌊 e\u{301}\""],
        &[r#""a\u0000b""#],
        &["\"$\""],
        &[&long],
        &[&longer],
    ] {
        for (number, key) in keys.iter().cycle().take(4).enumerate() {
            server.api().publish(CHANNEL, READING, &format!(r#"{{"k":{key},"n":{number}}}"#)).await;
        }
        assert_eq!(data(&mut page).await, [format!(r#"{{"k":{},"n":0}}"#, keys[0])], "{keys:?}: only the first comes");
        flush(&server).await;
        let last = keys[3 % keys.len()];
        assert_eq!(data(&mut page).await, [format!(r#"{{"k":{last},"n":3}}"#), "-".to_owned()], "{keys:?}");
    }
    let before = outcomes(&server, "key_missing").await;
    // No keys: everything comes, and takes along what waits.
    let none = [r#"{"k":{"k":1}}"#, r#"{"k":[7]}"#, r#"{"k":null}"#, r#"{"K":7}"#, "[7]", "7", "\"k\"", "{\"k\":7", ""];
    for text in none {
        server.api().publish(CHANNEL, READING, r#"{"k":7,"n":9}"#).await;
        server.api().publish(CHANNEL, READING, text).await;
        assert_eq!(data(&mut page).await, [r#"{"k":7,"n":9}"#, text]);
    }
    let counted = outcomes(&server, "key_missing").await - before;
    // Each node with a subscriber counts.
    assert!(counted >= none.len() as f64, "{counted}");
}

#[tokio::test]
async fn values_that_are_no_finite_numbers_are_skipped_and_never_0() {
    let rule = json!({ "match": "scada-*", "except": ["flush"],
        "aggregate": { "key": "k", "value": "v", "window_ms": HOUR_MS } });
    let server = server(json!([rule]), |_| ()).await;
    let mut page = subscriber(&server, CHANNEL).await;
    let skipped = [
        "\"NaN\"",
        "\"nan\"",
        "\"Infinity\"",
        "\"-inf\"",
        "1e400",
        "-1e400",
        "\"1e400\"",
        "1e999999999",
        "true",
        "false",
        "null",
        "[1]",
        "{\"v\":1}",
        "\"\"",
        "\"12 C\"",
        "\"0x10\"",
        "\"1,5\"",
        "\"١\"",
    ];
    let read = [("-2.5", -2.5), ("\"-1.50\"", -1.5), ("\" 3 \"", 3.0), ("1e-400", 0.0), ("25E-1", 2.5), ("-0.0", 0.0)];
    for value in skipped.into_iter().chain(read.map(|(text, _)| text)) {
        server.api().publish(CHANNEL, READING, &format!(r#"{{"k":"t","v":{value}}}"#)).await;
    }
    // Without any number there are no figures.
    server.api().publish(CHANNEL, READING, r#"{"k":"other","v":"broken"}"#).await;
    server.api().publish(CHANNEL, READING, r#"{"k":"large","v":1e308}"#).await;
    server.api().publish(CHANNEL, READING, r#"{"k":"large","v":1e308}"#).await;
    flush(&server).await;
    let came = data(&mut page).await;
    assert_eq!(came.len(), 3, "{came:?}");
    let figures = |text: &str| serde_json::from_str::<Value>(text).unwrap()["aggregate"].clone();
    let [of_all, large] = [figures(&came[0]), figures(&came[1])];
    let sum: f64 = read.iter().map(|(_, number)| number).sum();
    for (name, expected) in [
        ("count", json!(read.len())),
        ("sum", json!(sum)),
        ("min", json!(-2.5)),
        ("max", json!(3)),
        ("first", json!(-2.5)),
        ("last", json!(0)),
        ("skipped", json!(skipped.len())),
    ] {
        assert_eq!(of_all[name].as_f64(), expected.as_f64(), "{name} of {of_all}");
    }
    // JSON has no number for it.
    assert_eq!((&large["sum"], &large["average"], &large["max"]), (&json!(null), &json!(null), &json!(1e308)));
}

#[tokio::test]
async fn keys_beyond_the_bound_lose_nothing() {
    const KEYS: usize = 300;
    const KEYS_MAX: usize = 50;
    let rule = json!({ "match": "scada-*", "except": ["flush"], "keys_max": KEYS_MAX,
        "conflate": { "key": "k", "window_ms": HOUR_MS } });
    let server = server(json!([rule]), |_| ()).await;
    let mut page = subscriber(&server, CHANNEL).await;
    let text = |key: usize, number: usize| format!(r#"{{"k":{key},"n":{number}}}"#);
    for key in 0..KEYS {
        for number in 0..3 {
            server.api().publish(CHANNEL, READING, &text(key, number)).await;
        }
    }
    let mut came = data(&mut page).await;
    assert_eq!(
        came.iter().filter(|text| text.contains("\"n\":2")).count(),
        KEYS - KEYS_MAX,
        "those beyond it are early"
    );
    flush(&server).await;
    came.extend(data(&mut page).await);
    for key in 0..KEYS {
        let place = |number| came.iter().position(|text_of| *text_of == text(key, number));
        assert!(place(0).is_some() && place(0) < place(2) && place(1).is_none(), "{key}");
    }
    if server.nodes() == 1 {
        assert_eq!(outcomes(&server, "early").await, (KEYS - KEYS_MAX) as f64);
    }
}

#[tokio::test]
async fn of_a_hundred_rules_each_thins_its_own_channels_and_events() {
    let rule = |match_: &str, event: &str| json!({ "match": match_, "events": [event], "flush_before": false, "conflate": { "window_ms": HOUR_MS } });
    let rules = (0..50).map(|n| rule(&format!("line-{n}"), "reading"));
    let rules: Vec<Value> = rules.chain((50..100).map(|n| rule("all-*", &format!("reading-{n}")))).collect();
    let server = server(json!(rules), |_| ()).await;
    for (channel, event, thinned) in [
        ("line-0", "reading", true),
        ("line-49", "reading", true),
        ("line-50", "reading", false),
        ("all-7", "reading-50", true),
        ("all-7", "reading-99", true),
        ("all-7", "reading-49", false),
    ] {
        let mut page = subscriber(&server, channel).await;
        for number in 0..3 {
            server.api().publish(channel, event, &number.to_string()).await;
        }
        let expected: &[&str] = if thinned { &["0"] } else { &["0", "1", "2"] };
        assert_eq!(data(&mut page).await, expected, "{channel} {event}");
    }
}

#[tokio::test]
async fn events_of_100_kb_are_held_back_and_come_unchanged() {
    let rules = json!([
        { "match": "scada-*", "conflate": { "key": "k", "window_ms": HOUR_MS } },
        { "match": "sums", "except": ["flush"], "aggregate": { "key": "k", "value": "v", "window_ms": HOUR_MS } },
    ]);
    let server = server(rules, |_| ()).await;
    let (mut page, mut sums) = (subscriber(&server, CHANNEL).await, subscriber(&server, "sums").await);
    let text = |number: usize| format!(r#"{{"k":"t","v":{number},"padding":"{}é"}}"#, "x".repeat(102_000));
    for number in 0..3 {
        server.api().publish(CHANNEL, READING, &text(number)).await;
        server.api().publish("sums", READING, &text(number)).await;
    }
    assert_eq!(data(&mut page).await, [text(0)]);
    server.api().publish(CHANNEL, READING, "no JSON").await;
    assert_eq!(data(&mut page).await, [text(2), "no JSON".to_owned()]);
    server.api().publish("sums", "flush", "-").await;
    let came = data(&mut sums).await;
    let sum: Value = serde_json::from_str(&came[0]).unwrap();
    assert_eq!((&sum["v"], &sum["aggregate"]["sum"]), (&json!(1), &json!(3)));
    assert_eq!(sum["padding"], serde_json::from_str::<Value>(&text(2)).unwrap()["padding"]);
}

#[tokio::test]
async fn data_that_is_no_json_passes_under_every_kind_of_rule() {
    let rules = json!([
        { "match": "conflate", "conflate": { "key": "k", "window_ms": HOUR_MS } },
        { "match": "aggregate", "aggregate": { "key": "k", "value": "v", "window_ms": HOUR_MS } },
        { "match": "lists", "aggregate": { "each": "list", "key": "k", "value": "v", "window_ms": HOUR_MS } },
        { "match": "rate", "rate": { "per_second": 0.001, "key": "k" } },
        { "match": "sample", "sample": { "every": 1000, "key": "k" } },
        { "match": "snapshot", "snapshot": { "max_age_seconds": 1000, "key": "k" } },
    ]);
    let server = server(rules, |_| ()).await;
    for (kind, come) in [("conflate", 1), ("aggregate", 0), ("lists", 0), ("rate", 1), ("sample", 1), ("snapshot", 2)] {
        let mut page = subscriber(&server, kind).await;
        let texts = ["no JSON", "{\"k\":", "{\"k\":1}}", "\u{0}", "no JSON", ""];
        for text in texts {
            server.api().publish(kind, READING, text).await;
        }
        assert_eq!(data(&mut page).await, texts, "{kind}");
        // The rule holds for others.
        for _ in 0..2 {
            server.api().publish(kind, READING, r#"{"k":1,"v":1,"list":[{"k":1,"v":1}]}"#).await;
        }
        assert_eq!(data(&mut page).await.len(), come, "{kind}");
    }
}

#[tokio::test]
async fn rules_that_match_nothing_change_nothing() {
    let rules = json!([
        { "match": "scada", "conflate": { "window_ms": HOUR_MS } },
        { "match": "other-*", "sample": { "every": 2 } },
        { "match": "scada-*", "events": ["nobody.sends.this"], "rate": { "per_second": 0.001 } },
    ]);
    let server = server(rules, |_| ()).await;
    let mut page = subscriber(&server, CHANNEL).await;
    for number in 0..5 {
        server.api().publish(CHANNEL, READING, &number.to_string()).await;
    }
    assert_eq!(data(&mut page).await, ["0", "1", "2", "3", "4"]);
    for outcome in ["delivered", "replaced", "dropped"] {
        assert_eq!(outcomes(&server, outcome).await, 0.0, "{outcome}");
    }
}

/// A reader that does not read, of a group view of two channels whose keys are equal.
#[tokio::test]
async fn equal_keys_of_two_channels_of_a_view_are_two_for_a_reader_that_is_behind() {
    const ROUNDS: usize = 120;
    let rule = json!({ "match": "scada-*", "conflate": { "key": "k", "window_ms": 1 } });
    let server = server(json!([rule]), |config| config.connections.behind_seconds = Seconds(3600.0)).await;
    let mut stalled = Wire::connect_narrow(server.address(), "/app/app-key?protocol=7").await;
    let grant = json!({ "grant": ["scada-*"], "exp": 4_102_444_800_u64 }).to_string();
    let auth = support::server::channel_auth(&stalled.socket_id, "private-control-room", Some(&grant));
    let join = json!({ "event": "pusher:subscribe",
        "data": { "channel": "private-control-room", "auth": auth, "channel_data": grant } });
    stalled.send_text(&join.to_string()).await;
    assert!(stalled.next_text().await.contains("subscription_succeeded"));
    let (mut a, mut b) = (subscriber(&server, "scada-a").await, subscriber(&server, "scada-b").await);
    let text = |channel: &str, number: usize| {
        format!(r#"{{"k":"t","from":"{channel}","n":{number},"padding":"{}"}}"#, "x".repeat(20_000))
    };
    for number in 0..=ROUNDS {
        for (channel, page) in [("scada-a", &mut a), ("scada-b", &mut b)] {
            server.api().publish(channel, READING, &text(channel, number)).await;
            // It is delivered when its window has ended.
            while !page.next_text().await.contains(&format!(r#"\"n\":{number},"#)) {}
        }
    }
    assert!(outcomes(&server, "behind").await > 0.0);
    let (mut last, mut count) = ([None, None], 0);
    while last != [Some(ROUNDS), Some(ROUNDS)] {
        let event: Value = serde_json::from_str(&stalled.next_text().await).unwrap();
        let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        let place = usize::from(data["from"] == "scada-b");
        let number = data["n"].as_u64().map(|number| number as usize);
        assert!(last[place] < number, "{number:?} after {:?}", last[place]);
        last[place] = number;
        count += 1;
    }
    assert!(count < 2 * ROUNDS, "it has skipped some");
}

/// More than a mebibyte of last events waits in the outbox, and the ordinary limits judge the reader.
#[tokio::test]
async fn readers_with_too_many_keys_to_catch_up_on_are_judged_like_others() {
    const KEYS: usize = 200;
    let rule = json!({ "match": "scada-*", "conflate": { "key": "k", "window_ms": 1 } });
    let server = server(json!([rule]), |config| {
        config.connections.outbox_bytes_max = 256 * 1024;
        config.connections.slow_seconds = Seconds(1.0);
        config.connections.behind_seconds = Seconds(3600.0);
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), "/app/app-key?protocol=7").await;
    stalled.subscribe(CHANNEL).await;
    let mut page = subscriber(&server, CHANNEL).await;
    let text = |key: usize| format!(r#"{{"k":{key},"padding":"{}"}}"#, "x".repeat(20_000));
    for key in (0..KEYS).chain(0..KEYS) {
        server.api().publish(CHANNEL, READING, &text(key)).await;
        while !page.next_text().await.contains(&format!(r#"\"k\":{key},"#)) {}
    }
    server.metric_becomes("gema_refusals_total", Some("slow_reader"), 1.0).await;
    assert!(outcomes(&server, "behind").await > 0.0, "it was spared before");
    server.figure_becomes(0, "gema_outbox_bytes", "", 0.0).await;
    page.nothing_came().await;
}
