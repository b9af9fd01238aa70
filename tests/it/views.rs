//! Group views: one subscription sees the channels that the application has signed into its `channel_data`.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use gema::config::AppEntry;
use serde_json::Value;
use serde_json::json;
use support::bus::TestBus;
use support::client::Client;
use support::client::PATIENCE;
use support::redis_server::TestRedis;
use support::server::TestServer;
use support::server::channel_auth;

/// The main warehouse.
const GROUP: &str = "private-gudang.A";
const SUCCESS: &str = r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"private-gudang.A"}"#;

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A grant that outlasts every test.
fn grant(patterns: &[&str]) -> String {
    json!({ "grant": patterns, "exp": seconds() + 3600 }).to_string()
}

fn event(name: &str, data: &str, channel: &str) -> String {
    format!(r#"{{"event":"{name}","data":"{data}","channel":"{channel}"}}"#)
}

async fn viewer(server: &TestServer, patterns: &[&str]) -> Client {
    let mut client = server.connect().await;
    view(&mut client, GROUP, &grant(patterns)).await;
    client
}

async fn view(client: &mut Client, channel: &str, channel_data: &str) {
    client.send_subscribe(channel, Some(channel_data)).await;
    assert_eq!(client.next_event("pusher_internal:subscription_succeeded").await, json!({}));
}

#[tokio::test]
async fn a_group_is_seen_through_one_subscription_under_its_own_name() {
    let server = TestServer::start().await;
    let mut warehouse = viewer(&server, &["permintaan-barang.K001", "permintaan-barang.K002", "stok.*"]).await;
    let api = server.api();
    for channel in [
        "permintaan-barang.K001",
        "private-permintaan-barang.K002",
        "presence-permintaan-barang.K001",
        "cache-permintaan-barang.K001",
        "private-cache-stok.K009",
        "stok.",
    ] {
        api.publish(channel, "dikirim", "1").await;
        assert_eq!(warehouse.settle().await, [event("dikirim", "1", GROUP)], "{channel}");
    }
    for channel in [
        "permintaan-barang.K003",
        "permintaan-barang.K0011",
        "stok",
        "Stok.K009",
        "permintaan-barang.k001",
        "private-encrypted-permintaan-barang.K001",
        "#server-to-user-permintaan-barang.K001",
    ] {
        api.publish(channel, "dikirim", "2").await;
        warehouse.nothing_came().await;
    }
}

#[tokio::test]
async fn an_event_is_shown_as_it_was_published() {
    let server = TestServer::start().await;
    let mut warehouse = viewer(&server, &["*"]).await;
    let mut clinic = server.connect().await;
    clinic.subscribe("permintaan-barang.K001").await;
    let long = "x".repeat(9000);
    for data in ["", r#"{"a": 1.0,"channel":"b"}"#, "é😀\u{2028}\u{0} \" \\ /", &long] {
        server.api().publish("permintaan-barang.K001", "e \"é\" channel", data).await;
        let there = clinic.next_text().await;
        let here = there.replace(r#""channel":"permintaan-barang.K001"}"#, r#""channel":"private-gudang.A"}"#);
        assert_ne!(here, there);
        assert_eq!(warehouse.next_text().await, here);
    }
    // What is in no grant of its own is not said twice.
    server.api().publish(GROUP, "own", "1").await;
    assert_eq!(warehouse.settle().await, [event("own", "1", GROUP)]);
}

#[tokio::test]
async fn events_say_which_channel_they_come_from_if_the_grant_asks_for_it() {
    let server = TestServer::start().await;
    let (mut plain, mut told) = (viewer(&server, &["*"]).await, server.connect().await);
    let granted = json!({ "grant": ["*"], "exp": seconds() + 3600, "channel_as": "channel" }).to_string();
    view(&mut told, GROUP, &granted).await;
    let api = server.api();
    for (channel, sent, shown) in [
        ("stok.K1", r#"{\"n\":1}"#, r#"{\"n\":1,\"channel\":\"stok.K1\"}"#),
        ("private-stok.K2", r#"{\"channel\":\"forged\",\"n\":1}"#, r#"{\"n\":1,\"channel\":\"private-stok.K2\"}"#),
        // What PHP makes of an event without data.
        ("presence-stok.K3", "[]", r#"{\"channel\":\"presence-stok.K3\"}"#),
        ("stok.K4", "[1]", "[1]"),
        ("stok.K5", "{text", "{text"),
        // An event of the page's own channel needs no telling.
        (GROUP, r#"{\"n\":2}"#, r#"{\"n\":2}"#),
    ] {
        api.publish(channel, "dikirim", &sent.replace('\\', "")).await;
        assert_eq!(told.settle().await, [event("dikirim", shown, GROUP)], "{channel}");
        assert_eq!(plain.settle().await, [event("dikirim", sent, GROUP)], "{channel}");
    }
}

#[tokio::test]
async fn who_subscribes_to_a_channel_and_sees_it_gets_it_under_both_names() {
    let server = TestServer::start().await;
    let mut warehouse = viewer(&server, &["orders", "or*"]).await;
    warehouse.subscribe("orders").await;
    server.api().publish("orders", "e", "1").await;
    let mut came = warehouse.settle().await;
    came.sort();
    assert_eq!(came, [event("e", "1", "orders"), event("e", "1", GROUP)]);
    warehouse.unsubscribe("orders").await;
    server.api().publish("orders", "e", "2").await;
    assert_eq!(warehouse.settle().await, [event("e", "2", GROUP)]);
}

#[tokio::test]
async fn client_events_are_seen_but_not_by_who_sent_them() {
    let server = TestServer::start().await;
    let mut warehouse = viewer(&server, &["ruang"]).await;
    let mut clinic = viewer(&server, &["ruang"]).await;
    clinic.subscribe("private-ruang").await;
    clinic.send(r#"{"event":"client-a","channel":"private-ruang","data":"1"}"#).await;
    clinic.nothing_came().await;
    assert_eq!(warehouse.settle().await, [event("client-a", "1", GROUP)]);
    let mut nurse = server.connect().await;
    nurse.join("presence-ruang", "siti").await;
    nurse.send(r#"{"event":"client-b","channel":"presence-ruang","data":"2"}"#).await;
    nurse.nothing_came().await;
    let told = r#"{"event":"client-b","data":"2","channel":"private-gudang.A","user_id":"siti"}"#;
    assert_eq!(warehouse.settle().await, [told]);
}

#[tokio::test]
async fn an_excluded_connection_gets_an_event_by_no_view_either() {
    let server = TestServer::start().await;
    let mut excluded = viewer(&server, &["orders"]).await;
    let mut other = viewer(&server, &["orders"]).await;
    let body = json!({ "name": "e", "channel": "orders", "data": "1", "socket_id": excluded.socket_id });
    server.api().post("/events", &body.to_string()).await.ok();
    excluded.nothing_came().await;
    assert_eq!(other.settle().await, [event("e", "1", GROUP)]);
}

#[tokio::test]
async fn members_counts_and_what_a_cache_holds_are_not_seen() {
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    server.api().publish("cache-harga", "e", "1").await;
    let mut warehouse = server.connect().await;
    view(&mut warehouse, GROUP, &grant(&["*"])).await;
    warehouse.next_event("pusher_internal:subscription_count").await;
    let mut nurse = server.connect().await;
    nurse.join("presence-ruang", "siti").await;
    nurse.subscribe("stok").await;
    nurse.send_subscribe("cache-harga", None).await;
    nurse.settle().await;
    nurse.close().await;
    warehouse.nothing_came().await;
}

#[tokio::test]
async fn a_group_that_is_empty_sees_its_own_channel() {
    let server = TestServer::start().await;
    let mut warehouse = viewer(&server, &[]).await;
    server.api().publish("stok", "e", "1").await;
    server.api().publish(GROUP, "e", "2").await;
    assert_eq!(warehouse.settle().await, [event("e", "2", GROUP)]);
    warehouse.close().await;
    server.metric_becomes("gema_views", None, 0.0).await;
}

#[tokio::test]
async fn views_of_one_channel_are_kept_apart_and_end_with_their_subscription() {
    let server = TestServer::start().await;
    let mut one = viewer(&server, &["stok.1", "harga"]).await;
    let mut two = viewer(&server, &["stok.2", "harga"]).await;
    let twin = viewer(&server, &["harga", "stok.1", "harga"]).await;
    server.metric_becomes("gema_views", None, 3.0).await;
    twin.close().await;
    server.metric_becomes("gema_views", None, 2.0).await;
    let publish = async |channel| server.api().publish(channel, "e", "1").await;
    publish("stok.1").await;
    publish("stok.2").await;
    publish("harga").await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.settle().await, [event("e", "1", GROUP), event("e", "1", GROUP)]);
    }
    two.unsubscribe(GROUP).await;
    publish("stok.2").await;
    publish("harga").await;
    two.nothing_came().await;
    assert_eq!(one.settle().await, [event("e", "1", GROUP)]);
    view(&mut two, GROUP, &grant(&["stok.1"])).await;
    publish("harga").await;
    two.nothing_came().await;
    publish("stok.1").await;
    assert_eq!(two.settle().await, [event("e", "1", GROUP)]);
    one.close().await;
    two.close().await;
    server.metric_becomes("gema_views", None, 0.0).await;
}

#[tokio::test]
async fn a_view_is_no_channel_of_its_own() {
    let server = TestServer::start().await;
    let _warehouse = viewer(&server, &["stok.*"]).await;
    let listed = server.api().get("/channels", &[]).await.ok();
    assert_eq!(listed, json!({ "channels": { GROUP: {} } }));
}

/// Times in seconds for which a short grant lasts. A slow machine needs more than the first one.
const SHORT_GRANTS: [u64; 5] = [2, 4, 8, 16, 32];

/// A viewer of `stok` with a grant that ends in so many seconds, and its end; `None` if it has ended already.
async fn short_viewer(server: &TestServer, lasts: u64) -> Option<(Client, u64)> {
    let mut client = server.connect().await;
    let ends = seconds() + lasts;
    client.send_subscribe(GROUP, Some(&json!({ "grant": ["stok"], "exp": ends.to_string() }).to_string())).await;
    let is_viewer = client.next_text_or_close().await.is_ok_and(|answer| answer == SUCCESS);
    assert!(is_viewer || seconds() >= ends, "a grant is refused before its end");
    is_viewer.then_some((client, ends))
}

fn assert_grant_expired((code, reason): (u16, String)) {
    assert_eq!((code, &*reason), (4200, "A grant has expired. Please reconnect for a new one."));
}

#[tokio::test]
async fn a_grant_that_ends_brings_the_connection_back() {
    let server = TestServer::start().await;
    for lasts in SHORT_GRANTS {
        let mut long = viewer(&server, &["stok"]).await;
        let began = Instant::now();
        let Some((mut short, _)) = short_viewer(&server, lasts).await else { continue };
        server.api().publish("stok", "e", "1").await;
        let took = began.elapsed();
        let (texts, close) = short.texts_until_close().await;
        assert_grant_expired(close);
        assert_eq!(long.settle().await, [event("e", "1", GROUP)]);
        server.metric_becomes("gema_views", None, 1.0).await;
        if texts == [event("e", "1", GROUP)] {
            return;
        }
        // `exp` has no fractions of seconds, and the time runs from when the server began to read.
        assert_eq!(texts, Vec::<String>::new());
        assert!(2 * took >= Duration::from_secs(lasts - 1), "the grant ended too early");
        long.close().await;
    }
    panic!("each grant ended before the event came");
}

#[tokio::test]
async fn nothing_is_seen_of_what_is_published_after_the_end() {
    let server = TestServer::start().await;
    for lasts in SHORT_GRANTS {
        let Some((mut warehouse, ends)) = short_viewer(&server, lasts).await else { continue };
        // The events tell whether the end has come.
        let mut late = 0;
        while late < 100 {
            let is_late = seconds() >= ends;
            server.api().publish("stok", "e", if is_late { "late" } else { "in time" }).await;
            late += u32::from(is_late);
        }
        let (texts, close) = warehouse.texts_until_close().await;
        assert_grant_expired(close);
        assert!(!texts.contains(&event("e", "late", GROUP)));
        return;
    }
    panic!("each grant ended before the subscription");
}

#[tokio::test]
async fn other_channel_data_is_ignored_and_a_grant_counts_only_where_it_is_signed() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for data in ["x", "[]", r#"{"user_id":"1"}"#, r#"["grant"]"#] {
        client.send_subscribe(GROUP, Some(data)).await;
        assert_eq!(client.next_text().await, SUCCESS, "{data}");
        client.unsubscribe(GROUP).await;
    }
    // Nobody signs the data of a public channel, and that of a presence channel tells who joins.
    client.send_subscribe("gudang.A", Some(&grant(&["*"]))).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    let member = json!({ "user_id": "siti", "grant": ["*"], "exp": seconds() + 60 }).to_string();
    client.send_subscribe("presence-gudang.A", Some(&member)).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    server.api().publish("stok", "e", "1").await;
    client.nothing_came().await;
    assert_eq!(server.metric("gema_views", None).await, 0.0);
}

#[tokio::test]
async fn bad_grants_are_refused_with_the_reason() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let exp = seconds() + 60;
    let many = vec!["stok"; 257];
    let past = seconds() - 1;
    let list = r#"channel_data.grant must be a list of channel patterns, such as ["orders.K001", "stock.*"]"#;
    let end = "channel_data.exp must be the time at which the grant ends, in whole seconds since 1970";
    let large = "channel_data may grant at most 256 patterns in 16384 bytes; a pattern such as orders.* stands for many channels";
    let entry = |entry: &str, must: &str| format!("channel_data.grant has an entry {entry}, expected {must}");
    let characters = "a name of letters, digits and _ - = @ , . ; in which * stands for any characters";
    let prefixed = "a name without private-, presence-, private-encrypted- and cache-, which it covers all";
    let long = json!("x".repeat(201));
    for (grant, exp, kind, status, message) in [
        (json!("stok"), json!(exp), "AuthError", 401, list.to_owned()),
        (json!(null), json!(exp), "AuthError", 401, list.to_owned()),
        (json!([["stok"]]), json!(exp), "AuthError", 401, entry(r#"["stok"]"#, "a string")),
        (json!(["stok", 1]), json!(exp), "AuthError", 401, entry("1", "a string")),
        (json!([""]), json!(exp), "AuthError", 401, entry(r#""""#, characters)),
        (json!(["a b"]), json!(exp), "AuthError", 401, entry(r#""a b""#, characters)),
        (json!(["private-stok"]), json!(exp), "AuthError", 401, entry(r#""private-stok""#, prefixed)),
        (
            json!([long]),
            json!(exp),
            "AuthError",
            401,
            entry(&long.to_string()[..64], "no more characters than a channel's name may have"),
        ),
        (json!(["stok"]), json!(null), "AuthError", 401, end.to_owned()),
        (json!(["stok"]), json!("soon"), "AuthError", 401, end.to_owned()),
        (
            json!(["stok"]),
            json!(past),
            "AuthError",
            401,
            format!("The grant in channel_data has expired at {past}; the application must sign a new one"),
        ),
        (json!(many), json!(exp), "LimitReached", 413, large.to_owned()),
    ] {
        let data = json!({ "grant": grant, "exp": exp }).to_string();
        client.send_subscribe(GROUP, Some(&data)).await;
        client.next_refusal(GROUP, kind, status, &message).await;
    }
    let padded = format!(r#"{{"grant":["stok"],"x":"{}","exp":{exp}}}"#, "x".repeat(16 * 1024));
    client.send_subscribe(GROUP, Some(&padded)).await;
    client.next_refusal(GROUP, "LimitReached", 413, large).await;
    let nameless = json!({ "grant": ["stok"], "exp": exp, "channel_as": "" }).to_string();
    client.send_subscribe(GROUP, Some(&nameless)).await;
    let message = "channel_data.channel_as must be a name of 1 to 64 characters, such as \"channel\"";
    client.next_refusal(GROUP, "AuthError", 401, message).await;
    let encrypted = "private-encrypted-gudang.A";
    client.send_subscribe(encrypted, Some(&grant(&["stok"]))).await;
    let message = "An encrypted channel cannot have a grant; use a private- channel";
    client.next_refusal(encrypted, "AuthError", 401, message).await;
    assert_eq!(server.metric("gema_views", None).await, 0.0);
}

#[tokio::test]
async fn a_grant_is_for_one_connection_and_cannot_be_changed() {
    let server = TestServer::start().await;
    let (owner, thief) = (server.connect().await, server.connect().await);
    let data = grant(&["stok.1"]);
    let auth = channel_auth(&owner.socket_id, GROUP, Some(&data));
    let wider = data.replace("stok.1", "stok.*");
    let send = async |client: &mut Client, data: Option<&str>| {
        let mut body = json!({ "auth": auth, "channel": GROUP });
        if let Some(data) = data {
            body["channel_data"] = data.into();
        }
        client.send_json(json!({ "event": "pusher:subscribe", "data": body })).await;
    };
    let mut clients = [owner, thief];
    for (client, data) in [(1, Some(&*data)), (0, Some(&*wider)), (0, None)] {
        let client = &mut clients[client];
        send(client, data).await;
        let signed = [&*client.socket_id, GROUP].into_iter().chain(data).collect::<Vec<_>>().join(":");
        let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
        client.next_refusal(GROUP, "AuthError", 401, &message).await;
    }
    let [mut owner, _] = clients;
    send(&mut owner, Some(&data)).await;
    assert_eq!(owner.next_text().await, SUCCESS);
    server.api().publish("stok.1", "e", "1").await;
    server.api().publish("stok.2", "e", "1").await;
    assert_eq!(owner.settle().await, [event("e", "1", GROUP)]);
}

#[tokio::test]
async fn nothing_of_another_app_is_seen() {
    let server = TestServer::start_with(|config| config.apps.push(AppEntry::new("app-id2", "key2", "secret2"))).await;
    let mut warehouse = viewer(&server, &["*"]).await;
    let mut stranger = server.connect_to("key2").await;
    stranger.subscribe("stok").await;
    for _ in 0..2 {
        server.api_of("app-id2", "key2", "secret2").publish("stok", "e", "1").await;
        assert_eq!(stranger.settle().await, [event("e", "1", "stok")]);
    }
    warehouse.nothing_came().await;
}

#[tokio::test]
async fn the_events_of_one_publisher_are_seen_in_their_order() {
    const EVENTS: usize = 500;
    let server = TestServer::start().await;
    let mut viewers = Vec::new();
    for patterns in [&["stok.*"][..], &["stok.1", "stok.2", "stok.3"], &["*"]] {
        viewers.push(viewer(&server, patterns).await);
    }
    let batch: Vec<Value> = (0..EVENTS)
        .map(|number| json!({ "name": "e", "channel": format!("stok.{}", number % 3 + 1), "data": number.to_string() }))
        .collect();
    for events in batch.chunks(10) {
        server.api_at(0).post("/batch_events", &json!({ "batch": events }).to_string()).await.ok();
    }
    let expected: Vec<String> = (0..EVENTS).map(|number| event("e", &number.to_string(), GROUP)).collect();
    for viewer in &mut viewers {
        assert_eq!(viewer.settle().await, expected);
    }
}

#[tokio::test]
async fn what_another_node_publishes_is_seen_once() {
    let server = TestServer::start_cluster(2).await;
    let mut viewers = [server.connect_at(0).await, server.connect_at(1).await];
    for viewer in &mut viewers {
        view(viewer, GROUP, &grant(&["stok.*", "st*", "stok.1"])).await;
    }
    // Its own node hears the channel by its topic, too.
    let mut clinic = server.connect_at(0).await;
    clinic.subscribe("stok.1").await;
    for publisher in 0..2 {
        for channel in ["stok.1", "private-stok.2", "presence-stok.3", "cache-stok.4", "private-cache-stok.5"] {
            server.api_at(publisher).publish(channel, "e", "1").await;
            for viewer in &mut viewers {
                assert_eq!(viewer.settle().await, [event("e", "1", GROUP)], "{channel}");
            }
        }
        for channel in ["xstok.1", "my-stok.1", "private-encrypted-stok.1"] {
            server.api_at(publisher).publish(channel, "e", "2").await;
            for viewer in &mut viewers {
                viewer.nothing_came().await;
            }
        }
        let body = json!({ "name": "e", "channel": "stok.2", "data": "3", "socket_id": viewers[0].socket_id });
        server.api_at(publisher).post("/events", &body.to_string()).await.ok();
        viewers[0].nothing_came().await;
        assert_eq!(viewers[1].settle().await, [event("e", "3", GROUP)]);
    }
    assert_eq!(clinic.settle().await, [event("e", "1", "stok.1"), event("e", "1", "stok.1")]);
}

#[tokio::test]
async fn who_has_a_view_sees_what_another_node_accepts_afterwards() {
    let server = TestServer::start_cluster(2).await;
    let mut viewer = server.connect_at(0).await;
    for round in 0..50 {
        // Of every three rounds one takes up what was given up just now.
        let channel = format!("stok.{}", round / 3);
        let pattern = if round % 2 == 0 { channel.clone() } else { format!("*{}", round / 3) };
        view(&mut viewer, GROUP, &grant(&[&pattern, "harga"])).await;
        server.api_at(1).publish(&channel, "e", "1").await;
        assert_eq!(viewer.next_text().await, event("e", "1", GROUP));
        viewer.unsubscribe(GROUP).await;
    }
    viewer.nothing_came().await;
}

#[tokio::test]
async fn nodes_listen_for_views_as_long_as_there_are_any() {
    let redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, 2, |_| ()).await;
    let patterns = async || redis.run::<u64>(&["PUBSUB", "NUMPAT"]).await;
    assert_eq!(patterns().await, 0);
    let mut one = server.connect_at(0).await;
    view(&mut one, GROUP, &grant(&["stok.1", "stok.2"])).await;
    assert_eq!(patterns().await, 2);
    let mut two = server.connect_at(1).await;
    view(&mut two, GROUP, &grant(&["stok.2", "stok.3"])).await;
    assert_eq!(patterns().await, 3);
    two.close().await;
    one.unsubscribe(GROUP).await;
    until(async || patterns().await == 0).await;
}

#[tokio::test]
async fn what_was_accepted_while_the_bus_was_away_is_seen_when_it_is_back() {
    let mut bus = TestBus::start().await;
    let server = TestServer::start_cluster_on(&bus, 2, |_| ()).await;
    let mut before = server.connect_at(0).await;
    view(&mut before, GROUP, &grant(&["stok.*"])).await;
    bus.kill();
    for node in 0..2 {
        server.figure_becomes(node, "gema_redis_up", "", 0.0).await;
    }
    // The tests' own link to the bus is gone, too.
    let mut meanwhile = Client::open(server.address_at(0), "/app/app-key?protocol=7", &[]).await;
    meanwhile.established().await;
    view(&mut meanwhile, GROUP, &grant(&["*.7"])).await;
    for number in 0..3 {
        server.api_at(1).publish("stok.7", "e", &number.to_string()).await;
    }
    bus.restart().await;
    for viewer in [&mut before, &mut meanwhile] {
        for number in 0..3 {
            assert_eq!(viewer.next_text().await, event("e", &number.to_string(), GROUP));
        }
    }
    server.api_at(1).publish("stok.7", "e", "3").await;
    for viewer in [&mut before, &mut meanwhile] {
        assert_eq!(viewer.next_text().await, event("e", "3", GROUP));
    }
}

async fn until(so: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < end, "it does not come to pass");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
