//! Raw clients: who names no protocol gets the channels that the app lists for it, as plain JSON, and is not listened to.

use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Config;
use gema::config::RawClients;
use gema::config::Seconds;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::receiver::Receiver;
use support::redis_server::TestRedis;
use support::redis_server::run;
use support::server::TestServer;
use tokio_tungstenite::tungstenite::Message;

use crate::compression::inflate;
use crate::wire::BINARY;
use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::PONG;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;
use crate::wire::upgrade_head;

const CHANNEL: &str = "scada-realtime";
/// As the first users' page has it: the app's id, and nothing else.
const BY_ID: &str = "/app/app-id";
const BY_KEY: &str = "/app/app-key";

fn raw_clients(channels: &[&str]) -> RawClients {
    RawClients { channels: channels.iter().map(ToString::to_string).collect(), accept_id: true }
}

fn lists(channels: &'static [&'static str]) -> impl FnOnce(&mut Config) {
    |config| config.limits.raw_clients = raw_clients(channels)
}

async fn server() -> TestServer {
    TestServer::start_with(lists(&[CHANNEL])).await
}

fn event(name: &str, data: &str, channel: &str) -> String {
    format!(r#"{{"event":"{name}","data":{data},"channel":"{channel}"}}"#)
}

/// A raw client that has joined everything: the channel has this many subscriptions now.
async fn joined(server: &TestServer, path: &str, channel: &str, subscriptions: u64) -> Client {
    let client = server.open(path).await;
    has(server, channel, subscriptions).await;
    client
}

/// Waits until a channel has so many subscriptions.
pub async fn has(server: &TestServer, channel: &str, subscriptions: u64) {
    let until = Instant::now() + PATIENCE;
    loop {
        let info = [("info", "subscription_count")];
        let found = server.api().get(&format!("/channels/{channel}"), &info).await.ok();
        if found["subscription_count"] == subscriptions {
            return;
        }
        assert!(Instant::now() < until, "{channel} has {found}");
    }
}

/// The next frame, which must be one of text.
pub async fn next(client: &mut Client) -> String {
    match client.next_message().await {
        Message::Text(text) => text.to_string(),
        other => panic!("a text frame was expected, not {other:?}"),
    }
}

/// Everything that came in, once whatever has been accepted before has been delivered: like [`Client::settle`], with the
/// pings of WebSocket itself.
async fn settle(client: &mut Client) -> Vec<String> {
    if let Some(barrier) = &client.barrier {
        barrier.pass().await;
    }
    let mut texts = Vec::new();
    for number in 0..3u8 {
        client.send_message(Message::Ping(vec![number].into())).await;
        loop {
            match client.next_message().await {
                Message::Pong(payload) if *payload == [number] => break,
                Message::Text(text) => texts.push(text.to_string()),
                other => panic!("{other:?}"),
            }
        }
    }
    texts
}

/// A raw connection down to its bytes.
async fn wire(server: &TestServer) -> Wire {
    let (answer, wire) = Wire::upgrade(server.address(), &upgrade_head(BY_ID, &[])).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    wire
}

/// The first frames that a refused connection gets.
async fn refusal(server: &TestServer, path: &str) -> (u16, String) {
    let mut client = server.open(path).await;
    let error = client.next().await;
    assert_eq!(error["event"], "pusher:error", "{path}: {error}");
    let close = client.next_close().await;
    assert_eq!((&error["data"]["code"], &error["data"]["message"]), (&json!(close.0), &json!(close.1)));
    close
}

#[tokio::test]
async fn who_names_no_protocol_gets_the_listed_channels_and_nothing_else() {
    let server = TestServer::start_with(lists(&[CHANNEL, "scada-data"])).await;
    let (mut by_id, mut by_key) = (server.open(BY_ID).await, server.open("/app/app-key?client=page&protocol=").await);
    has(&server, CHANNEL, 2).await;
    has(&server, "scada-data", 2).await;
    let api = server.api();
    for (channel, name) in [(CHANNEL, "scada.data.received"), ("scada-data", "e \\\"é\\\""), ("other", "e")] {
        api.publish(channel, &name.replace('\\', ""), r#"{"data":{"channel":"boiler","value":7}}"#).await;
    }
    for client in [&mut by_id, &mut by_key] {
        let mut came = settle(client).await;
        came.sort();
        let data = r#"{"data":{"channel":"boiler","value":7}}"#;
        assert_eq!(came, [event("e \\\"é\\\"", data, "scada-data"), event("scada.data.received", data, CHANNEL)]);
    }
}

#[tokio::test]
async fn data_is_the_value_itself_where_it_is_json_and_else_the_text() {
    let server = server().await;
    let mut raw = joined(&server, BY_ID, CHANNEL, 1).await;
    let mut client = server.connect().await;
    client.subscribe(CHANNEL).await;
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(90_000));
    let values = [
        r#"{"value":1.0,"b": [1e400,-0.0,12345678901234567890],"value":2}"#,
        "1.0",
        "-0",
        "null",
        r#""text""#,
        "\"é😀\u{2028}\\u00e9\\/\\ud800\"",
        "[]",
        &long,
    ];
    let texts = ["", "text", "NaN", "1.0.0", "{\"a\":", "\u{0}", "é😀 \"\\\u{2028}", "{} {}"];
    for data in values.into_iter().chain(texts) {
        server.api().publish(CHANNEL, "e", data).await;
        let quoted = serde_json::to_string(data).unwrap();
        // Whoever speaks the protocol gets what it always got.
        assert_eq!(client.next_text().await, event("e", &quoted, CHANNEL));
        let shown = if values.contains(&data) { data } else { &quoted };
        assert_eq!(next(&mut raw).await, event("e", shown, CHANNEL));
    }
    // An object in place of a text becomes the same.
    let body = r#"{"name":"e","channel":"scada-realtime","data":{"value": 1.0}}"#;
    server.api().post("/events", body).await.ok();
    assert_eq!(next(&mut raw).await, event("e", r#"{"value":1.0}"#, CHANNEL));
}

#[tokio::test]
async fn clients_of_the_protocol_are_served_as_ever() {
    let server = server().await;
    let raw = joined(&server, BY_KEY, CHANNEL, 1).await;
    for path in ["/app/app-key?protocol=7", "/app/app-key?protocol=5&client=js&version=2.0"] {
        let mut client = server.open(path).await;
        client.established().await;
        server.api().publish(CHANNEL, "e", "1").await;
        client.nothing_came().await;
        client.subscribe(CHANNEL).await;
        server.api().publish(CHANNEL, "e", "{}").await;
        assert_eq!(client.settle().await, [event("e", "\"{}\"", CHANNEL)]);
    }
    raw.close().await;
    let reason = "App key app-id not in this cluster. Did you forget to specify the cluster?";
    assert_eq!(refusal(&server, "/app/app-id?protocol=7").await, (4001, reason.to_owned()));
    assert_eq!(refusal(&server, "/app/app-key?protocol=3").await.0, 4007);
    assert_eq!(refusal(&server, "/app/other").await.0, 4001);
    assert_eq!(refusal(&server, "/app").await.0, 4005);
}

#[tokio::test]
async fn without_the_setting_nobody_is_raw() {
    let server = TestServer::start().await;
    let mut client = server.open("/app/app-key?channels=scada-realtime").await;
    client.established().await;
    server.api().publish(CHANNEL, "e", "1").await;
    client.nothing_came().await;
    assert_eq!(refusal(&server, BY_ID).await.0, 4001);
    let mut figures = String::new();
    for at in [server.metrics_address()] {
        figures += &http::request(at, "GET", "/metrics", &[], b"").await.body;
    }
    assert!(!figures.contains("gema_raw"), "{figures}");
}

#[tokio::test]
async fn the_id_counts_only_where_it_is_accepted() {
    let setting = RawClients { accept_id: false, ..raw_clients(&[CHANNEL]) };
    let mut server = TestServer::start_with(|config| config.limits.raw_clients = setting).await;
    assert_eq!(refusal(&server, BY_ID).await.0, 4001);
    assert_eq!(server.metric("gema_refusals_total", Some("app_id_as_key")).await, 1.0);
    joined(&server, BY_KEY, CHANNEL, 1).await.close().await;
    // A key is a key, even if it is another app's id.
    server
        .reload(|config| {
            config.apps.push(gema::config::AppEntry::new("other-id", "app-id", "other-secret"));
            config.limits.raw_clients.accept_id = true;
        })
        .await;
    let mut raw = joined(&server, "/app/other-id", CHANNEL, 0).await;
    let other = server.api_of("other-id", "app-id", "other-secret");
    let mut too = server.open("/app/app-id").await;
    let until = Instant::now() + PATIENCE;
    let info = [("info", "subscription_count")];
    while other.get(&format!("/channels/{CHANNEL}"), &info).await.ok()["subscription_count"] != 2 {
        assert!(Instant::now() < until, "both are of the other app");
    }
    server.api().publish(CHANNEL, "e", "1").await;
    other.publish(CHANNEL, "e", "2").await;
    for client in [&mut raw, &mut too] {
        assert_eq!(settle(client).await, [event("e", "2", CHANNEL)]);
    }
}

#[tokio::test]
async fn a_page_may_ask_for_some_of_the_channels() {
    let server = TestServer::start_with(lists(&["a", "b", "c", "cache-d"])).await;
    let mut some = joined(&server, "/app/app-id?channels=c,%20a,,c&x=1", "c", 1).await;
    has(&server, "a", 1).await;
    let mut all = joined(&server, "/app/app-id?channels=", "c", 2).await;
    has(&server, "b", 1).await;
    for channel in ["a", "b", "c"] {
        server.api().publish(channel, "e", "1").await;
    }
    let heard = |channels: &[&str]| channels.iter().map(|name| event("e", "1", name)).collect::<Vec<_>>();
    let sorted = |mut came: Vec<String>| {
        came.sort();
        came
    };
    assert_eq!(sorted(settle(&mut some).await), heard(&["a", "c"]));
    assert_eq!(sorted(settle(&mut all).await), heard(&["a", "b", "c"]));
    for (path, name) in [
        ("/app/app-id?channels=a,z", "z"),
        ("/app/app-key?channels=private-a", "private-a"),
        ("/app/app-key?channels=A", "A"),
        ("/app/app-key?channels=%22%0a", "\"\n"),
    ] {
        let reason = format!("Raw clients may not have the channel {name}");
        let reason = reason.trim_end().to_owned();
        assert_eq!(refusal(&server, path).await, (4009, reason), "{path}");
    }
    assert_eq!(server.metric("gema_refusals_total", Some("connect_raw_channel")).await, 4.0);
    has(&server, "a", 2).await;
}

#[tokio::test]
async fn events_come_in_order_while_many_publish() {
    const PUBLISHERS: usize = 4;
    const EVENTS: usize = 100;
    let server = server().await;
    let mut raw = Vec::new();
    for subscriptions in 1..=4 {
        raw.push(joined(&server, BY_ID, CHANNEL, subscriptions).await);
    }
    let publish = |publisher: usize| {
        let api = server.api_at(publisher % server.nodes());
        async move {
            for number in 0..EVENTS {
                api.publish(CHANNEL, "e", &format!("[{publisher},{number}]")).await;
            }
        }
    };
    join_all((0..PUBLISHERS).map(publish)).await;
    for client in &mut raw {
        let came = settle(client).await;
        assert_eq!(came.len(), PUBLISHERS * EVENTS);
        let mut next = [0; PUBLISHERS];
        for text in came {
            let data = serde_json::from_str::<Value>(&text).unwrap()["data"].clone();
            let (publisher, number) = (data[0].as_u64().unwrap() as usize, data[1].as_u64().unwrap());
            assert_eq!(number, std::mem::replace(&mut next[publisher], number + 1), "{text}");
        }
    }
}

#[tokio::test]
async fn who_joins_amid_a_flood_gets_everything_from_then_on() {
    const EVENTS: u64 = 400;
    let server = server().await;
    let api = server.api_at(0);
    let publish = async {
        for number in 0..EVENTS {
            api.publish(CHANNEL, "e", &number.to_string()).await;
        }
    };
    let join = async {
        let mut raw = Vec::new();
        for _ in 0..12 {
            let path = if raw.len() % 2 == 0 { BY_ID } else { BY_KEY };
            raw.push(Client::open(server.address_at(raw.len() % server.nodes()), path, &[]).await);
        }
        raw
    };
    let ((), mut raw) = tokio::join!(publish, join);
    has(&server, CHANNEL, 12).await;
    api.publish(CHANNEL, "e", &EVENTS.to_string()).await;
    for client in &mut raw {
        let first: Value = serde_json::from_str(&next(client).await).unwrap();
        for number in first["data"].as_u64().unwrap() + 1..=EVENTS {
            assert_eq!(next(client).await, event("e", &number.to_string(), CHANNEL));
        }
    }
}

#[tokio::test]
async fn what_a_raw_client_sends_is_counted_and_ignored() {
    let server = server().await;
    let mut wire = wire(&server).await;
    has(&server, CHANNEL, 1).await;
    let sent = [
        r#"{"type":"heartbeat","timestamp":1754454600000}"#,
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":"other"}}"#,
        r#"{"event":"pusher:unsubscribe","data":{"channel":"scada-realtime"}}"#,
        r#"{"event":"client-e","channel":"scada-realtime","data":"{}"}"#,
        "no JSON",
        "",
    ];
    for text in sent {
        wire.send_text(text).await;
    }
    wire.send(BINARY, &[0, 255]).await;
    // A message in three pieces, with a ping between them.
    wire.send(0x01, b"{\"type\":").await;
    wire.send(PING, b"between").await;
    wire.send(0x00, b"\"heart").await;
    wire.send(0x80, b"beat\"}").await;
    wire.send(PONG, b"unasked").await;
    wire.send(PING, b"").await;
    assert_eq!(wire.next_frame().await, Some((PONG, b"between".to_vec())));
    assert_eq!(wire.next_frame().await, Some((PONG, Vec::new())));
    server.api().publish(CHANNEL, "e", "1").await;
    assert_eq!(wire.next_frame().await, Some((TEXT, event("e", "1", CHANNEL).into_bytes())));
    assert_eq!(server.api().get("/channels/other", &[]).await.ok()["occupied"], false);
    let count = sent.len() as f64 + 2.0;
    assert_eq!(server.metric("gema_raw_messages_ignored_total", None).await, count);
    assert_eq!(server.metric("soketi_ws_messages_received_total", None).await, count);
    assert_eq!(server.metric("gema_refusals_total", None).await, 0.0);
    // Its close is answered.
    wire.send(CLOSE, &1000u16.to_be_bytes()).await;
    assert_eq!(wire.next_close().await.0, 1000);
    has(&server, CHANNEL, 0).await;
}

#[tokio::test]
async fn the_rules_of_websockets_hold_for_raw_clients() {
    let server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.limits.enable_client_messages = false;
        config.connections.message_bytes_max = 32_768;
    })
    .await;
    for (bytes, code) in [
        (vec![TEXT, 2, b'h', b'i'], 1002),
        (masked(0xC1, b"compressed without asking"), 1002),
        (masked(TEXT, &[0xff]), 1007),
        (masked(TEXT, &vec![b'x'; 32_769]), 1009),
        (masked(BINARY, &vec![b'x'; 32_769]), 1009),
    ] {
        let mut wire = wire(&server).await;
        wire.send_in_vain(&bytes).await;
        assert_eq!(wire.next_close().await.0, code, "{:?}", &bytes[..4]);
        assert_eq!(wire.next_frame().await, None);
    }
    has(&server, CHANNEL, 0).await;
}

#[tokio::test]
async fn heartbeats_keep_a_raw_client_that_answers_no_pings() {
    let server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(30.0);
        config.connections.activity_timeout_seconds = 1;
    })
    .await;
    let mut wire = wire(&server).await;
    // Only a client that counts as alive is pinged again.
    for _ in 0..3 {
        assert_eq!(wire.next_frame().await, Some((PING, Vec::new())));
        wire.send_text(r#"{"type":"heartbeat"}"#).await;
    }
    let mut silent = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(1.0);
    })
    .await;
    silent.reload(|_| ()).await;
    let (_, mut wire) = Wire::upgrade(silent.address(), &upgrade_head(BY_ID, &[])).await;
    assert_eq!(wire.next_frame().await, Some((PING, Vec::new())));
    assert_eq!(wire.next_close().await.0, 4201);
}

#[tokio::test]
async fn raw_clients_count_as_subscribers_and_connections() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/hooks", &["channel_occupied", "channel_vacated"]);
    let mut receiver = receiver;
    let server = TestServer::start_single_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.limits.enable_subscription_count = true;
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = vec![webhook];
    })
    .await;
    let mut raw = joined(&server, BY_ID, CHANNEL, 1).await;
    receiver.next_events(&[json!({ "name": "channel_occupied", "channel": CHANNEL })]).await;
    let mut client = server.connect().await;
    client.subscribe(CHANNEL).await;
    let count = |count: u64| json!({ "subscription_count": count });
    assert_eq!(client.next_event("pusher_internal:subscription_count").await, count(2));
    let list = server.api().get("/channels", &[("info", "subscription_count")]).await.ok();
    assert_eq!(list["channels"], json!({ CHANNEL: count(2) }));
    assert_eq!(server.metric("soketi_connected", None).await, 2.0);
    assert_eq!(server.metric("gema_raw_connections", None).await, 1.0);
    // The protocol's own events mean nothing to it.
    server.api().publish(CHANNEL, "e", "1").await;
    assert_eq!(settle(&mut raw).await, [event("e", "1", CHANNEL)]);
    assert_eq!(client.next_event("e").await, 1);
    raw.close().await;
    assert_eq!(client.next_event("pusher_internal:subscription_count").await, count(1));
    client.close().await;
    receiver.next_events(&[json!({ "name": "channel_vacated", "channel": CHANNEL })]).await;
    assert_eq!(server.metric("gema_raw_connections", None).await, 0.0);
}

#[tokio::test]
async fn a_raw_client_has_its_place_in_the_quota() {
    let server = TestServer::start_single_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.limits.max_connections = 1;
        config.limits.allowed_origins = vec!["*.example.com".to_owned()];
    })
    .await;
    let origin = [("Origin", "https://scada.example.com")];
    let raw = server.open_with(BY_ID, &origin).await;
    has(&server, CHANNEL, 1).await;
    let mut second = server.open_with(BY_ID, &origin).await;
    assert_eq!(second.next().await["data"]["code"], 4004);
    raw.close().await;
    assert_eq!(refusal(&server, BY_ID).await, (4009, "Origin not allowed".to_owned()));
    drop(server.open_with(BY_ID, &origin).await);
    has(&server, CHANNEL, 0).await;
}

#[tokio::test]
async fn strict_servers_take_raw_clients_only_where_they_are_listed() {
    let mut server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.connections.strict_protocol = true;
    })
    .await;
    joined(&server, BY_ID, CHANNEL, 1).await.close().await;
    server.reload(|config| config.limits.raw_clients = RawClients::default()).await;
    assert_eq!(refusal(&server, BY_KEY).await.0, 4008);
}

#[tokio::test]
async fn what_another_node_accepts_comes_raw_too() {
    let server = TestServer::start_cluster_with(2, lists(&[CHANNEL, "cache-scada"])).await;
    let mut raw =
        [Client::open(server.address_at(0), BY_ID, &[]).await, Client::open(server.address_at(1), BY_ID, &[]).await];
    has(&server, CHANNEL, 2).await;
    has(&server, "cache-scada", 2).await;
    for node in 0..2 {
        let api = server.api_at(node);
        api.publish(CHANNEL, "e", r#"{"value": 1.0}"#).await;
        api.publish("cache-scada", "kept", &format!("[{node}]")).await;
        for client in &mut raw {
            let came = [next(client).await, next(client).await];
            let expected =
                [event("e", r#"{"value": 1.0}"#, CHANNEL), event("kept", &format!("[{node}]"), "cache-scada")];
            assert!(came == expected || (came[0] == expected[1] && came[1] == expected[0]), "{came:?}");
        }
    }
}

#[tokio::test]
async fn a_cache_channel_begins_with_its_last_event() {
    let server = TestServer::start_with(lists(&["cache-scada"])).await;
    let mut early = joined(&server, BY_ID, "cache-scada", 1).await;
    assert_eq!(settle(&mut early).await, [""; 0], "there is nothing yet");
    server.api().publish("cache-scada", "e", r#"{"n": 1.0}"#).await;
    assert_eq!(settle(&mut early).await, [event("e", r#"{"n": 1.0}"#, "cache-scada")]);
    let mut late = joined(&server, BY_ID, "cache-scada", 2).await;
    server.api().publish("cache-scada", "e", "2").await;
    let expected = [event("e", r#"{"n": 1.0}"#, "cache-scada"), event("e", "2", "cache-scada")];
    assert_eq!(settle(&mut late).await, expected);
}

#[tokio::test]
async fn a_reload_decides_about_those_who_come_and_leaves_those_who_are_there() {
    let mut server = server().await;
    let mut raw = joined(&server, BY_ID, CHANNEL, 1).await;
    server.reload(|config| config.limits.raw_clients = RawClients::default()).await;
    assert_eq!(refusal(&server, BY_ID).await.0, 4001);
    let mut client = server.open(BY_KEY).await;
    client.established().await;
    server.api().publish(CHANNEL, "e", "[1]").await;
    client.nothing_came().await;
    assert_eq!(settle(&mut raw).await, [event("e", "[1]", CHANNEL)]);
    raw.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(settle(&mut raw).await, [""; 0]);
    server.reload(|config| config.limits.raw_clients = raw_clients(&["scada-data"])).await;
    let mut late = joined(&server, BY_ID, "scada-data", 1).await;
    server.api().publish(CHANNEL, "e", "[2]").await;
    assert_eq!(settle(&mut late).await, [""; 0]);
    assert_eq!(settle(&mut raw).await, [event("e", "[2]", CHANNEL)]);
    raw.close().await;
    has(&server, CHANNEL, 0).await;
}

#[tokio::test]
async fn a_rule_that_forbids_a_channel_turns_raw_clients_away() {
    let mut server = TestServer::start_with(lists(&["open", CHANNEL])).await;
    let rule = r#"{"match":"scada-*","require":"private"}"#;
    server.reload(|config| config.limits.channel_rules = vec![serde_json::from_str(rule).unwrap()]).await;
    let reason = "The rule scada-* does not allow the channel scada-realtime; use private-scada-realtime";
    assert_eq!(refusal(&server, BY_ID).await, (4009, reason.to_owned()));
    assert_eq!(server.metric("gema_refusals_total", Some("subscribe_forbidden")).await, 1.0);
    joined(&server, "/app/app-id?channels=open", "open", 1).await.close().await;
    has(&server, "open", 0).await;
    server.metric_becomes("soketi_connected", None, 0.0).await;
    server.metric_becomes("gema_raw_connections", None, 0.0).await;
}

#[tokio::test]
async fn a_rule_that_limits_the_time_sends_a_raw_client_back() {
    let server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        let rule = r#"{"match":"scada-*","max_subscription_age_seconds":1}"#;
        config.limits.channel_rules = vec![serde_json::from_str(rule).unwrap()];
    })
    .await;
    let mut client = server.open(BY_ID).await;
    assert_eq!(client.next_close().await.0, 4200);
}

#[tokio::test]
async fn events_of_laravels_redis_broadcaster_come_raw_too() {
    let redis = TestRedis::start().await;
    let server = TestServer::start_single_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.redis.port = redis.port();
        config.ingest.prefixes = vec!["laravel_database_=app-id".to_owned()];
    })
    .await;
    let mut raw = joined(&server, BY_ID, CHANNEL, 1).await;
    let message = r#"{"event":"scada.data.received","data":{"data":{"value": 1.0},"socket":null},"socket":null}"#;
    let mut connection = redis.connection().await;
    // Nobody may have listened yet.
    while run::<u64>(&mut connection, &["PUBLISH", "laravel_database_scada-realtime", message]).await == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut raw).await, event("scada.data.received", r#"{"data":{"value":1.0}}"#, CHANNEL));
}

#[tokio::test]
async fn flow_rules_thin_for_raw_clients_and_newcomers_get_the_snapshot() {
    let server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL, "scada-realtime@30m"]);
        let rule = r#"{"match":"scada-realtime","conflate":{"key":"sensor","window_ms":3600000},"snapshot":{"max_age_seconds":600},"views":["30m"]}"#;
        config.limits.flow_rules = vec![serde_json::from_str(rule).unwrap()];
        config.limits.channel_rules = vec![serde_json::from_str(r#"{"match":"scada-realtime"}"#).unwrap()];
        config.limits.channel_default = serde_json::from_str(r#""deny""#).unwrap();
    })
    .await;
    let only = format!("{BY_ID}?channels={CHANNEL}");
    let mut early = joined(&server, &only, CHANNEL, 1).await;
    let view = joined(&server, "/app/app-key?channels=scada-realtime@30m", "scada-realtime@30m", 1).await;
    let data = |sensor: &str, value: u64| format!(r#"{{"sensor":"{sensor}","value":{value}.0}}"#);
    for value in 1..=3 {
        server.api_at(0).publish(CHANNEL, "e", &data("a", value)).await;
    }
    server.api_at(0).publish(CHANNEL, "e", &data("b", 1)).await;
    // The window is long: of each sensor the first event, and the newest to who comes meanwhile.
    assert_eq!(settle(&mut early).await, [event("e", &data("a", 1), CHANNEL), event("e", &data("b", 1), CHANNEL)]);
    let mut late = joined(&server, &only, CHANNEL, 2).await;
    let came = settle(&mut late).await;
    assert_eq!(came.len(), 2, "{came:?}");
    assert!(came.contains(&event("e", &data("b", 1), CHANNEL)), "{came:?}");
    let mut view = view;
    let came = settle(&mut view).await;
    assert_eq!(
        came,
        [event("e", &data("a", 1), "scada-realtime@30m"), event("e", &data("b", 1), "scada-realtime@30m")]
    );
}

#[tokio::test]
async fn a_raw_client_that_offers_compression_gets_it() {
    let server = TestServer::start_with(|config| {
        config.limits.raw_clients = raw_clients(&[CHANNEL]);
        config.connections.compression = true;
    })
    .await;
    let head = upgrade_head(BY_ID, &[("Sec-WebSocket-Extensions", "permessage-deflate")]);
    let (answer, mut compressed) = Wire::upgrade(server.address(), &head).await;
    assert!(answer.header("sec-websocket-extensions").is_some(), "{answer:?}");
    let mut plain = wire(&server).await;
    has(&server, CHANNEL, 2).await;
    let data = format!(r#"{{"value": 1.0,"note":"{}"}}"#, "é".repeat(1000));
    server.api().publish(CHANNEL, "e", &data).await;
    let expected = event("e", &data, CHANNEL).into_bytes();
    assert_eq!(plain.next_frame().await, Some((TEXT, expected.clone())));
    let (first, payload) = compressed.next_frame().await.unwrap();
    assert_eq!((first, inflate(&payload)), (TEXT | 0x40, expected));
}
