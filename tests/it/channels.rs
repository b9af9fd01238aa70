//! Joining and leaving channels, and what is delivered on them.

use std::collections::HashSet;
use std::time::Duration;
use std::time::Instant;

use gema::config::AppEntry;
use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::client::Client;
use support::http;
use support::http::Api;
use support::server::APP_SECRET;
use support::server::TestServer;
use support::server::channel_auth;

/// What a channel's name may be made of.
const ALLOWED: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=@,.;";

fn succeeded(channel: &str) -> String {
    format!(r#"{{"event":"pusher_internal:subscription_succeeded","data":"{{}}","channel":"{channel}"}}"#)
}

fn count(channel: &str, count: usize) -> String {
    let data = format!(r#"{{\"subscription_count\":{count}}}"#);
    format!(r#"{{"event":"pusher_internal:subscription_count","data":"{data}","channel":"{channel}"}}"#)
}

fn published(channel: &str, event: &str) -> String {
    format!(r#"{{"event":"{event}","data":"x","channel":"{channel}"}}"#)
}

fn unsubscribe(channel: &str) -> String {
    json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }).to_string()
}

fn subscribe(client: &Client, channel: &str) -> String {
    let auth = channel_auth(&client.socket_id, channel, None);
    json!({ "event": "pusher:subscribe", "data": { "auth": auth, "channel": channel } }).to_string()
}

fn client_event(channel: &str, event: &str) -> String {
    json!({ "event": event, "data": "x", "channel": channel }).to_string()
}

async fn subscription_count(api: &Api, channel: &str) -> Value {
    let facts = api.get(&format!("/channels/{channel}"), &[("info", "subscription_count")]).await.ok();
    facts["subscription_count"].clone()
}

// G-71, G-72
#[tokio::test]
async fn a_public_channel_needs_no_auth() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send(r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"my-channel"}}"#).await;
    assert_eq!(
        client.next_text().await,
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"my-channel"}"#
    );
    client.send(r#"{"event":"pusher:subscribe","data":{"channel":"without"}}"#).await;
    assert_eq!(client.next_text().await, succeeded("without"));
    client.send(r#"{"event":"pusher:subscribe","data":{"auth":null,"channel_data":null,"channel":"null"}}"#).await;
    assert_eq!(client.next_text().await, succeeded("null"));
    client.send(r#"{"event":"pusher:subscribe","data":{"auth":"nonsense","channel":"any"}}"#).await;
    assert_eq!(client.next_text().await, succeeded("any"));
    client.nothing_came().await;
}

// G-73
#[tokio::test]
async fn every_allowed_character_works_on_every_type_of_channel() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let prefixes = ["", "cache-", "private-", "private-cache-", "private-encrypted-", "private-encrypted-cache-"];
    for prefix in prefixes.into_iter().chain(["presence-", "presence-cache-"]) {
        let channel = format!("{prefix}{ALLOWED}");
        if prefix.starts_with("presence-") {
            client.join(&channel, "10").await;
        } else {
            client.subscribe(&channel).await;
        }
        if prefix.ends_with("cache-") {
            client.next_event("pusher:cache_miss").await;
        }
        server.api().publish(&channel, "news", "x").await;
        assert_eq!(client.next_text().await, published(&channel, "news"));
    }
    client.nothing_came().await;
}

// G-74, G-75
#[tokio::test]
async fn a_name_with_any_other_character_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for name in ["", " ", "a b", "a:b", "a/b", "a#b", "caf\u{e9}", "a\nb", "a\u{0}", "a%", "a+b", "private-a b"] {
        client.send_subscribe(name, None).await;
        client.next_refusal(name, "InvalidChannel", 400, &format!("Invalid channel name: {name}")).await;
    }
    client.subscribe("still-open").await;
}

// G-76
#[tokio::test]
async fn a_name_of_the_greatest_length_is_accepted_and_one_character_more_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let strict = TestServer::start_with(|config| config.limits.max_channel_name_length = 164).await;
    let mut strict_client = strict.connect().await;
    for (client, length) in [(&mut client, 200), (&mut strict_client, 164)] {
        for prefix in ["x", "private-"] {
            let longest = format!("{prefix:x<length$}");
            client.subscribe(&longest).await;
            let longer = format!("{longest}x");
            client.send_subscribe(&longer, None).await;
            client.next_refusal(&longer, "InvalidChannel", 400, "Channel name too long").await;
        }
        client.subscribe("still-open").await;
    }
}

// G-77
#[tokio::test]
async fn the_hyphen_belongs_to_the_prefix_of_a_name() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for name in ["privateer", "presenceful", "cached", "my-private-x", "private", "Private-x"] {
        client.send(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{name}"}}}}"#)).await;
        assert_eq!(client.next_text().await, succeeded(name));
    }
    // Nor is any of them a cache channel.
    client.nothing_came().await;
}

// G-78
#[tokio::test]
async fn there_is_no_encrypted_presence_channel() {
    let server = TestServer::start().await;
    let (mut ada, mut bob) = (server.connect().await, server.connect().await);
    assert_eq!(ada.join("presence-encrypted-x", "ada").await["ids"], json!(["ada"]));
    assert_eq!(bob.join("presence-encrypted-x", "bob").await["ids"], json!(["ada", "bob"]));
    ada.next_event("pusher_internal:member_added").await;
    bob.send(&client_event("presence-encrypted-x", "client-hello")).await;
    assert_eq!(
        ada.next_text().await,
        r#"{"event":"client-hello","data":"x","channel":"presence-encrypted-x","user_id":"bob"}"#
    );
    let users = server.api().get("/channels/presence-encrypted-x/users", &[]).await.ok();
    assert_eq!(users, json!({ "users": [{ "id": "ada" }, { "id": "bob" }] }));
}

// G-79
#[tokio::test]
async fn a_private_cache_channel_needs_a_signature_and_has_a_cache() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send(r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"private-cache-x"}}"#).await;
    let message = "Auth info required to subscribe to private-cache-x";
    client.next_refusal("private-cache-x", "AuthError", 401, message).await;
    server.api().publish("private-cache-x", "news", "x").await;
    server.quiet().await;
    client.subscribe("private-cache-x").await;
    assert_eq!(client.next_text().await, published("private-cache-x", "news"));
}

// G-80
#[tokio::test]
async fn a_subscribe_must_name_its_channel() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for data in ["{}", r#"{"channel":5}"#, r#"{"channel":null}"#, r#"{"channel":["a"]}"#, r#"{"channel":{}}"#, "[]"] {
        client.send(&format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#)).await;
        client.next_error(None, "Missing parameter: data.channel").await;
    }
    client.send(r#"{"event":"pusher:subscribe"}"#).await;
    client.next_error(None, "Missing parameter: data.channel").await;
    client.nothing_came().await;
}

// G-81, G-82, G-83
#[tokio::test]
async fn a_private_channel_is_refused_without_auth() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for auth in ["", r#""auth":"","#, r#""auth":null,"#, r#""auth":5,"#] {
        client.send(&format!(r#"{{"event":"pusher:subscribe","data":{{{auth}"channel":"private-x"}}}}"#)).await;
        assert_eq!(
            client.next_text().await,
            r#"{"event":"pusher:subscription_error","data":"{\"type\":\"AuthError\",\"error\":\"Auth info required to subscribe to private-x\",\"status\":401}","channel":"private-x"}"#
        );
        assert_eq!(
            client.next_text().await,
            r#"{"event":"pusher:error","data":{"code":null,"message":"Auth info required to subscribe to private-x"}}"#
        );
    }
    client.nothing_came().await;
}

// G-84, G-85, G-86
#[tokio::test]
async fn a_wrong_signature_harms_nothing_but_its_own_subscription() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("private-mine").await;
    let wrong = channel_auth("1.2", "private-x", None);
    client.send_json(json!({ "event": "pusher:subscribe", "data": { "auth": wrong, "channel": "private-x" } })).await;
    let refusal = [client.next_text().await, client.next_text().await];
    let right = channel_auth(&client.socket_id, "private-x", None);
    let digest = right.split_once(':').unwrap().1;
    for frame in &refusal {
        assert!(!frame.contains(APP_SECRET) && !frame.contains(digest), "{frame}");
    }
    let expected = format!("Invalid signature: Expected HMAC SHA256 hex digest of {}:private-x", client.socket_id);
    assert_eq!(
        refusal[1],
        json!({ "event": "pusher:error", "data": { "code": null, "message": expected } }).to_string()
    );
    assert!(refusal[0].contains(r#""channel":"private-x""#) && refusal[0].contains(&expected), "{}", refusal[0]);

    server.api().publish("private-mine", "news", "x").await;
    assert_eq!(client.next_text().await, published("private-mine", "news"));
    client.send_json(json!({ "event": "pusher:subscribe", "data": { "auth": right, "channel": "private-x" } })).await;
    assert_eq!(client.next_text().await, succeeded("private-x"));
    server.api().publish("private-x", "news", "x").await;
    assert_eq!(client.next_text().await, published("private-x", "news"));
}

// G-87, G-88
#[tokio::test]
async fn a_second_subscribe_changes_nothing() {
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    let (mut client, mut member) = (server.connect().await, server.connect().await);
    client.subscribe("my-channel").await;
    assert_eq!(client.next_text().await, count("my-channel", 1));
    client.send_subscribe("my-channel", None).await;
    client.next_error(None, "Existing subscription to channel my-channel").await;
    client.nothing_came().await;
    assert_eq!(subscription_count(&server.api(), "my-channel").await, 1);
    server.api().publish("my-channel", "news", "x").await;
    assert_eq!(client.settle().await, [published("my-channel", "news")]);

    member.join("presence-room", "ada").await;
    let channel_data = r#"{"user_id":"bob"}"#;
    member.send_subscribe("presence-room", Some(channel_data)).await;
    member.next_error(None, "Existing subscription to channel presence-room").await;
    let facts = server.api().get("/channels/presence-room", &[("info", "user_count,subscription_count")]).await.ok();
    assert_eq!(facts, json!({ "occupied": true, "user_count": 1, "subscription_count": 1 }));
    member.nothing_came().await;

    // One subscription is left by one unsubscribe.
    client.unsubscribe("my-channel").await;
    client.nothing_came().await;
    assert_eq!(subscription_count(&server.api(), "my-channel").await, 0);
}

// G-89, G-90
#[tokio::test]
async fn who_has_left_hears_nothing_more() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.connect().await, server.connect().await);
    for channel in ["my-channel", "private-foobar"] {
        client.subscribe(channel).await;
        other.subscribe(channel).await;
        client.unsubscribe(channel).await;
        client.nothing_came().await;
        server.api().publish(channel, "news", "x").await;
        assert_eq!(other.next_text().await, published(channel, "news"));
        client.nothing_came().await;
    }
}

// G-91
#[tokio::test]
async fn leaving_a_channel_that_was_not_joined_is_not_fatal() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send(r#"{"event":"pusher:unsubscribe","data":{"channel":"private-foobar"}}"#).await;
    client.next_error(None, "No current subscription to channel private-foobar, or subscription in progress").await;
    client.subscribe("private-foobar").await;
    client.nothing_came().await;
}

// G-92
#[tokio::test]
async fn leaving_and_joining_at_once_ends_joined() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("private-foobar").await;
    let again = subscribe(&client, "private-foobar");
    client.send_together(&[unsubscribe("private-foobar"), again]).await;
    assert_eq!(client.next_text().await, succeeded("private-foobar"));
    server.api().publish("private-foobar", "news", "x").await;
    assert_eq!(client.settle().await, [published("private-foobar", "news")]);
    assert_eq!(subscription_count(&server.api(), "private-foobar").await, 1);
}

// G-93
#[tokio::test]
async fn the_frames_of_one_connection_take_effect_in_the_order_in_which_they_were_sent() {
    let server = TestServer::start().await;
    let (mut client, mut observer) = (server.connect().await, server.connect().await);
    observer.subscribe("private-x").await;
    let frames = [
        client_event("private-x", "client-too-early"),
        subscribe(&client, "private-x"),
        client_event("private-x", "client-1"),
        unsubscribe("private-x"),
        client_event("private-x", "client-too-late"),
        subscribe(&client, "private-x"),
        client_event("private-x", "client-2"),
        unsubscribe("private-x"),
        unsubscribe("private-x"),
        r#"{"event":"pusher:ping"}"#.to_owned(),
    ];
    client.send_together(&frames).await;
    client.next_error(None, "Client event rejected - not subscribed to private-x").await;
    assert_eq!(client.next_text().await, succeeded("private-x"));
    client.next_error(None, "Client event rejected - not subscribed to private-x").await;
    assert_eq!(client.next_text().await, succeeded("private-x"));
    client.next_error(None, "No current subscription to channel private-x, or subscription in progress").await;
    assert_eq!(client.next_text().await, r#"{"event":"pusher:pong","data":"{}"}"#);
    assert_eq!(observer.settle().await, [published("private-x", "client-1"), published("private-x", "client-2")]);
}

// G-94
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_comes_before_the_success_and_none_is_missing_behind_it() {
    let server = TestServer::start().await;
    let mut sender = server.connect().await;
    sender.subscribe("private-x").await;
    let mut joining = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect().await;
        joining.push(tokio::spawn(async move {
            for _ in 0..20 {
                // Fails if an event is the first to come.
                client.subscribe("private-x").await;
                client.unsubscribe("private-x").await;
                client.settle().await;
            }
            client.subscribe("private-x").await;
            client
        }));
    }
    let mut sent = 0;
    while joining.iter().any(|task| !task.is_finished()) {
        let events: Vec<_> = (sent..sent + 20).map(|number| client_event("private-x", &numbered(number))).collect();
        sender.send_together(&events).await;
        sender.nothing_came().await;
        sent += events.len();
    }
    let last = client_event("private-x", &numbered(sent));
    sender.send(&last).await;
    sender.nothing_came().await;
    for client in joining {
        let events = client.await.unwrap().settle().await;
        assert!(!events.is_empty());
        let expected: Vec<_> =
            (sent + 1 - events.len()..=sent).map(|number| published("private-x", &numbered(number))).collect();
        assert_eq!(events, expected);
    }
}

fn numbered(number: usize) -> String {
    format!("client-{number}")
}

// G-95, G-96
#[tokio::test]
async fn an_event_is_delivered_to_who_has_joined() {
    let server = TestServer::start().await;
    for channel in ["scada-realtime", "private-orders.7"] {
        for _ in 0..10 {
            let mut client = server.connect().await;
            client.subscribe(channel).await;
            server.api().publish(channel, "scada.data.received", r#"{"value":1}"#).await;
            let expected =
                format!(r#"{{"event":"scada.data.received","data":"{{\"value\":1}}","channel":"{channel}"}}"#);
            assert_eq!(client.settle().await, [expected]);
        }
    }
    let mut member = server.connect().await;
    member.join("presence-room", "ada").await;
    server.api().publish("presence-room", "news", "x").await;
    assert_eq!(member.settle().await, [published("presence-room", "news")]);
}

// G-97, G-98, G-99, G-100
#[tokio::test]
async fn name_and_data_are_delivered_character_for_character() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("c").await;
    let data = [
        r#""hello""#,
        r#""""#,
        r#""caf\u00e9 caf\u00E9 café \/ / 😀 \ud83d\ude00 \u2028""#,
        "\"\u{2028}\u{2029}\u{7f}\"",
        r#""a\u0000b\n\t\r\b\f\"\\""#,
        r#""{\"b\":1,  \"a\":1.0}""#,
        r#""{\"big\":12345678901234567890.10,\"exp\":1E2, \"dup\":1,\"dup\":2}""#,
        r#""{\"url\":\"a\\\/b\",\"nul\":\"\\u0000\"}""#,
    ];
    for data in data {
        let body = format!(r#"{{"name":"App\\Events\\OrderShipped","channel":"c","data":{data}}}"#);
        assert_eq!(server.api().post("/events", &body).await.ok(), json!({}));
        let expected = format!(r#"{{"event":"App\\Events\\OrderShipped","data":{data},"channel":"c"}}"#);
        assert_eq!(client.next_text().await, expected);
    }
    for name in [r#"a b/c:\"é😀\u2028\u0000"#, r"client-from-the-back-end"] {
        let body = format!(r#"{{"name":"{name}","channel":"c","data":"x"}}"#);
        assert_eq!(server.api().post("/events", &body).await.ok(), json!({}));
        let sent: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(client.next().await["event"], sent["name"]);
    }
}

// G-101
#[tokio::test]
async fn a_thousand_events_arrive_in_the_order_in_which_they_were_published() {
    let server = TestServer::start().await;
    let mut clients = [server.connect().await, server.connect().await];
    for client in &mut clients {
        client.subscribe("scada").await;
    }
    let api = server.api();
    for hundred in 0..10 {
        // The requests of one connection, each taken when the one before has been answered.
        let requests: String = (0..100)
            .map(|number| {
                let body = json!({ "name": format!("{}", hundred * 100 + number), "channel": "scada", "data": "x" });
                let (body, path) = (body.to_string(), api.path("/events"));
                let query = api.signed_query("POST", &path, &[], &body);
                let end = if number == 99 { "Connection: close\r\n" } else { "" };
                let length = body.len();
                format!("POST {path}?{query} HTTP/1.1\r\nHost: a\r\n{end}Content-Length: {length}\r\n\r\n{body}")
            })
            .collect();
        let answer = http::raw(server.address(), requests.as_bytes()).await;
        assert_eq!((answer.status, answer.body.matches("HTTP/1.1 200 OK").count()), (200, 99), "{answer:?}");
    }
    let expected: Vec<_> = (0..1000).map(|number| published("scada", &number.to_string())).collect();
    for client in &mut clients {
        assert_eq!(client.settle().await, expected);
    }
}

// G-102, G-103
#[tokio::test]
async fn one_event_may_go_to_several_channels_and_leave_one_connection_out() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    for client in [&mut one, &mut two] {
        for channel in ["a", "private-b"] {
            client.subscribe(channel).await;
        }
        client.join("presence-c", "same").await;
    }
    let three = HashSet::from(["a", "private-b", "presence-c"].map(|channel| published(channel, "news")));
    let mut body = json!({ "name": "news", "channels": ["a", "private-b", "presence-c"], "data": "x" });
    assert_eq!(server.api().post("/events", &body.to_string()).await.ok(), json!({}));
    for client in [&mut one, &mut two] {
        let frames = client.settle().await;
        assert_eq!((frames.len(), HashSet::from_iter(frames)), (3, three.clone()));
    }
    body["socket_id"] = one.socket_id.clone().into();
    assert_eq!(server.api().post("/events", &body.to_string()).await.ok(), json!({}));
    let frames = two.settle().await;
    assert_eq!((frames.len(), HashSet::from_iter(frames)), (3, three.clone()));
    one.nothing_came().await;
    // A connection that does not exist leaves out nobody.
    body["socket_id"] = "1.2".into();
    assert_eq!(server.api().post("/events", &body.to_string()).await.ok(), json!({}));
    assert_eq!(HashSet::from_iter(one.settle().await), three);
    assert_eq!(HashSet::from_iter(two.settle().await), three);
}

// G-104
#[tokio::test]
async fn apps_do_not_hear_each_other() {
    let server = TestServer::start_with(|config| config.apps.push(AppEntry::new("2", "key-2", "secret-2"))).await;
    let (mut mine, mut theirs) = (server.connect().await, server.connect_to("key-2").await);
    for client in [&mut mine, &mut theirs] {
        client.subscribe("news").await;
    }
    server.api().publish("news", "mine", "x").await;
    assert_eq!(mine.settle().await, [published("news", "mine")]);
    theirs.nothing_came().await;
    server.api_of("2", "key-2", "secret-2").publish("news", "theirs", "x").await;
    assert_eq!(theirs.settle().await, [published("news", "theirs")]);
    mine.nothing_came().await;
    assert_eq!(subscription_count(&server.api(), "news").await, 1);
}

// G-127
#[tokio::test]
async fn where_subscribers_are_not_counted_they_hear_no_number() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    for channel in ["news", "private-x", "private-encrypted-x"] {
        one.subscribe(channel).await;
        two.subscribe(channel).await;
        two.unsubscribe(channel).await;
    }
    two.nothing_came().await;
    two.close().await;
    one.nothing_came().await;
}

// G-128
#[tokio::test]
async fn where_subscribers_are_counted_all_of_them_hear_each_number() {
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    let (mut one, mut two, mut three) = (server.connect().await, server.connect().await, server.connect().await);
    for channel in ["news", "private-x", "private-encrypted-x", "cache-x"] {
        let miss = format!(r#"{{"event":"pusher:cache_miss","data":"{{}}","channel":"{channel}"}}"#);
        let miss = channel.starts_with("cache-").then_some(miss);
        for (client, number) in [(&mut one, 1), (&mut two, 2), (&mut three, 3)] {
            client.subscribe(channel).await;
            let expected: Vec<_> = miss.clone().into_iter().chain([count(channel, number)]).collect();
            assert_eq!(client.settle().await, expected);
        }
        assert_eq!(one.settle().await, [count(channel, 2), count(channel, 3)]);
        assert_eq!(two.settle().await, [count(channel, 3)]);
        three.unsubscribe(channel).await;
        three.nothing_came().await;
        assert_eq!(one.settle().await, [count(channel, 2)]);
        assert_eq!(two.settle().await, [count(channel, 2)]);
    }
    two.close().await;
    let frames = one.settle().await;
    assert_eq!(frames.len(), 4);
    for channel in ["news", "private-x", "private-encrypted-x", "cache-x"] {
        assert!(frames.contains(&count(channel, 1)), "{frames:?}");
    }
}

// G-129
#[tokio::test]
async fn members_are_not_counted_as_subscribers() {
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    let (mut ada, mut bob) = (server.connect().await, server.connect().await);
    ada.join("presence-room", "ada").await;
    bob.join("presence-room", "bob").await;
    bob.unsubscribe("presence-room").await;
    bob.nothing_came().await;
    ada.next_event("pusher_internal:member_added").await;
    ada.next_event("pusher_internal:member_removed").await;
    ada.sign_in(&json!({ "id": "ada" })).await;
    ada.subscribe("#server-to-user-ada").await;
    ada.nothing_came().await;
}

// G-130
#[tokio::test]
async fn the_number_of_many_subscribers_is_told_at_most_every_five_seconds_and_ends_right() {
    in_time(async |_| numbers_wait_for_five_seconds().await).await;
}

async fn numbers_wait_for_five_seconds() -> Result<(), String> {
    const PAUSE: Duration = Duration::from_secs(5);
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    let mut first = server.connect().await;
    first.subscribe("news").await;
    let mut others = Vec::new();
    let mut before_the_hundredth = Instant::now();
    for number in 2..=110 {
        let mut client = server.connect().await;
        if number == 100 {
            before_the_hundredth = Instant::now();
        }
        client.subscribe("news").await;
        others.push(client);
    }
    // Those above a hundred are held back, and so is that two leave.
    for client in others.drain(..2) {
        client.close().await;
    }
    let numbers = first.settle().await;
    if before_the_hundredth.elapsed() >= PAUSE {
        return Err(format!("the next number may be told after {:?}", before_the_hundredth.elapsed()));
    }
    assert_eq!(numbers, (1..=100).map(|number| count("news", number)).collect::<Vec<_>>());
    assert_eq!(first.next_text().await, count("news", 108));
    assert!(before_the_hundredth.elapsed() >= PAUSE, "{:?}", before_the_hundredth.elapsed());
    // It may be on another node, which has a clock of its own.
    let last = others.last_mut().unwrap();
    assert_eq!(last.next_text().await, count("news", 108), "who came too late for a number hears the next one");
    last.nothing_came().await;
    first.nothing_came().await;
    Ok(())
}

// G-141
#[tokio::test]
async fn an_encrypted_channel_needs_a_signature() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for channel in ["private-encrypted-x", "private-encrypted-cache-x"] {
        let mut subscribe = json!({ "event": "pusher:subscribe", "data": { "auth": "", "channel": channel } });
        client.send_json(subscribe.clone()).await;
        let message = format!("Auth info required to subscribe to {channel}");
        client.next_refusal(channel, "AuthError", 401, &message).await;
        subscribe["data"]["auth"] = channel_auth(&client.socket_id, "private-x", None).into();
        client.send_json(subscribe).await;
        let signed = format!("{}:{channel}", client.socket_id);
        let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
        client.next_refusal(channel, "AuthError", 401, &message).await;
        client.subscribe(channel).await;
    }
}

/// Joins, leaves, client events and published events of many connections, as many of them as possible in one
/// turn of their shards. Who stays on the channel hears everything; who comes and goes hears, each time, a run of
/// the same order without a gap, less what was to leave it out. In the last rounds there are so many observers that
/// their shards wait for more before they write.
// G-92, G-93, G-94, G-103, G-143
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_and_goes_hears_no_event_twice_and_misses_none_in_between() {
    // One node: what different connections send has one order for all on the node only.
    let server = TestServer::start_single().await;
    let mut observers = vec![server.connect().await, server.connect().await, server.connect().await];
    let mut restless = Vec::new();
    for _ in 0..8 {
        restless.push(server.connect().await);
    }
    for round in 0..12 {
        let channel = format!("private-{round}");
        while round >= 8 && observers.len() < 300 {
            observers.push(server.connect().await);
        }
        for observer in &mut observers {
            observer.subscribe(&channel).await;
        }
        let excluded: Vec<String> = restless.iter().map(|client| client.socket_id.clone()).collect();
        let publishing = tokio::spawn(publish_around(server.api(), channel.clone(), excluded));
        let coming_and_going: Vec<_> = restless
            .drain(..)
            .enumerate()
            .map(|(index, client)| tokio::spawn(come_and_go(client, channel.clone(), index)))
            .collect();
        let published = publishing.await.unwrap();
        let mut heard = Vec::new();
        for task in coming_and_going {
            let (client, frames) = task.await.unwrap();
            restless.push(client);
            heard.push(frames);
        }
        // Everything has been sent and taken by now; what is on its way belongs behind what has come.
        for (client, frames) in restless.iter_mut().zip(&mut heard) {
            frames.extend(client.settle().await);
        }
        let order = names(&observers[0].settle().await);
        for observer in &mut observers[1..] {
            assert_eq!(names(&observer.settle().await), order);
        }
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), order.len(), "an event came twice");
        assert_eq!(order.len(), published + restless.len() * (VISITS + EVENTS_OF_VISITS));
        for (index, frames) in heard.iter().enumerate() {
            assert_runs(frames, &order, index, &channel);
        }
        for client in &mut restless {
            client.unsubscribe(&channel).await;
        }
    }
}

/// Times that a connection joins a channel.
const VISITS: usize = 6;
/// Events of a connection during these, but for the one at the end of each.
const EVENTS_OF_VISITS: usize = VISITS * (VISITS - 1) / 2;

/// Joins, sends some events and leaves, several times, without waiting; stays at the end. The first connections do
/// all of it in one write, others in several, so that turns begin and end in the middle of their visits.
async fn come_and_go(mut client: Client, channel: String, index: usize) -> (Client, Vec<String>) {
    let mut frames = Vec::new();
    for visit in 0..VISITS {
        frames.push(subscribe(&client, &channel));
        for event in 0..=visit {
            frames.push(client_event(&channel, &format!("client-{index}-{visit}-{event}")));
        }
        frames.push(unsubscribe(&channel));
    }
    frames.pop();
    let at_once = if index < 3 { frames.len() } else { index };
    for frames in frames.chunks(at_once) {
        client.send_together(frames).await;
    }
    let heard = client.settle().await;
    (client, heard)
}

/// Publishes events, each of them to everybody but one connection. Returns how many.
async fn publish_around(api: Api, channel: String, excluded: Vec<String>) -> usize {
    for (index, socket_id) in excluded.iter().enumerate() {
        let body =
            json!({ "name": format!("back-{index}-0-0"), "channel": channel, "data": "x", "socket_id": socket_id });
        assert_eq!(api.post("/events", &body.to_string()).await.ok(), json!({}));
    }
    excluded.len()
}

fn names(frames: &[String]) -> Vec<String> {
    let name = |frame: &String| serde_json::from_str::<Value>(frame).unwrap()["event"].as_str().unwrap().to_owned();
    frames.iter().map(name).collect()
}

/// Between each success and the next: a run of the common order without the connection's own events and those
/// published around it. It holds what came between the first and the last event of its own of that visit, and
/// nothing that came before the visit or behind it.
fn assert_runs(frames: &[String], order: &[String], index: usize, channel: &str) {
    let (own, around) = (format!("client-{index}-"), format!("back-{index}-"));
    let is_for_it = |name: &&String| !name.starts_with(&own) && !name.starts_with(&around);
    let for_it: Vec<&String> = order.iter().filter(is_for_it).collect();
    // How many events that are for it came before this one of its own.
    let before = |visit: usize, event: usize| {
        let own = format!("{own}{visit}-{event}");
        order.iter().take_while(|name| **name != own).filter(is_for_it).count()
    };
    assert_eq!(frames.first(), Some(&succeeded(channel)));
    let visits: Vec<Vec<String>> = frames.split(|frame| *frame == succeeded(channel)).skip(1).map(names).collect();
    assert_eq!(visits.len(), VISITS, "{frames:?}");
    for (visit, heard) in visits.iter().enumerate() {
        let least = before(visit, 0)..before(visit, visit);
        let earliest = visit.checked_sub(1).map_or(0, |visit| before(visit, visit));
        let latest = if visit + 1 < VISITS { before(visit + 1, 0) } else { for_it.len() };
        let first = heard.first().map_or(least.start, |first| for_it.iter().position(|name| *name == first).unwrap());
        let end = first + heard.len();
        assert!(first >= earliest && end <= latest, "visit {visit} of {own} holds what came before or behind it");
        assert!(heard.iter().eq(for_it[first..end].iter().copied()), "visit {visit}: {heard:?}");
        assert!(first <= least.start && end >= least.end, "visit {visit} of {own} lacks something: {heard:?}");
    }
    let last = visits[VISITS - 1].len();
    assert!(last >= for_it.len() - before(VISITS - 1, 0), "the last visit lacks something at its end");
}
