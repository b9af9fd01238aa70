//! Events that clients send to each other.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::client::Client;
use support::process::Process;
use support::server::TestServer;

/// Two connections on a private channel.
async fn two_on(server: &TestServer, channel: &str) -> (Client, Client) {
    let (mut sender, mut receiver) = (server.connect().await, server.connect().await);
    sender.subscribe(channel).await;
    receiver.subscribe(channel).await;
    (sender, receiver)
}

fn numbered(number: usize) -> String {
    format!(r#"{{"event":"client-{number}","data":"x","channel":"private-x"}}"#)
}

// G-143, G-144, G-146, G-160
#[tokio::test]
async fn a_client_event_reaches_everybody_but_the_connection_that_sent_it() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-orders.7").await;
    let mut second = server.connect().await;
    for client in [&mut sender, &mut second] {
        client.sign_in(&json!({ "id": "ada" })).await;
    }
    second.subscribe("private-orders.7").await;
    let mut elsewhere = server.connect().await;
    elsewhere.subscribe("private-orders.8").await;
    sender.send(r#"{"event":"client-typing","data":{"name":"x"},"channel":"private-orders.7"}"#).await;
    let expected = r#"{"event":"client-typing","data":"{\"name\":\"x\"}","channel":"private-orders.7"}"#;
    sender.nothing_came().await;
    assert_eq!(receiver.settle().await, [expected]);
    assert_eq!(second.settle().await, [expected]);
    elsewhere.nothing_came().await;
}

/// The limit of messages follows that of events, which is all that Soketi's users set.
#[tokio::test]
async fn a_client_event_of_almost_the_largest_size_is_relayed_by_a_server_that_was_set_up_for_soketi() {
    let server = Process::start(&[
        ("SOKETI_EVENT_MAX_SIZE_IN_KB", "900"),
        ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true"),
    ])
    .await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::open(server.address, "/app/app-key?protocol=7", &[]).await;
        client.established().await;
        client.subscribe("private-orders").await;
        clients.push(client);
    }
    // Quotes, which take two bytes each on their way.
    for text in ["x".repeat(890 * 1024), "\"".repeat(890 * 1024)] {
        let event = json!({ "event": "client-big", "channel": "private-orders", "data": text });
        clients[0].send(&event.to_string()).await;
        let heard: Value = serde_json::from_str(&clients[1].next_text().await).unwrap();
        assert_eq!(heard["data"].as_str().map(str::len), Some(text.len()));
    }
}

// G-144, G-145
#[tokio::test]
async fn on_a_presence_channel_a_client_event_tells_its_sender() {
    let server = TestServer::start().await;
    let (mut sender, mut second, mut other) = (server.connect().await, server.connect().await, server.connect().await);
    other.join("presence-foobar", "other").await;
    // A number, so that only a string made of it can be right.
    let channel_data = r#"{"user_id":10}"#;
    for client in [&mut sender, &mut second] {
        client.send_subscribe("presence-foobar", Some(channel_data)).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    other.next_event("pusher_internal:member_added").await;
    sender.send(r#"{"event":"client-typing","data":{"on":true},"channel":"presence-foobar"}"#).await;
    let expected = r#"{"event":"client-typing","data":"{\"on\":true}","channel":"presence-foobar","user_id":"10"}"#;
    sender.nothing_came().await;
    assert_eq!(second.settle().await, [expected]);
    assert_eq!(other.settle().await, [expected]);
}

// G-147
#[tokio::test]
async fn a_client_cannot_name_another_sender() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    sender.send(r#"{"event":"client-a","data":"1","channel":"private-x","user_id":"forged","extra":{}}"#).await;
    assert_eq!(receiver.next_text().await, r#"{"event":"client-a","data":"1","channel":"private-x"}"#);
    sender.join("presence-x", "honest").await;
    receiver.join("presence-x", "other").await;
    sender.send(r#"{"user_id":"forged","event":"client-a","data":"1","channel":"presence-x"}"#).await;
    assert_eq!(
        receiver.next_text().await,
        r#"{"event":"client-a","data":"1","channel":"presence-x","user_id":"honest"}"#
    );
}

// G-148, G-149, G-150
#[tokio::test]
async fn the_data_of_a_client_event_arrives_as_a_string() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    let strings = [r#""plain""#, r#""""#, r#""{\"b\":1,  \"a\":1.0}""#, r#""caf\u00e9 \/ 😀 \u2028 \u0000""#];
    for data in strings {
        sender.send(&format!(r#"{{"event":"client-a","data":{data},"channel":"private-x"}}"#)).await;
        let expected = format!(r#"{{"event":"client-a","data":{data},"channel":"private-x"}}"#);
        assert_eq!(receiver.next_text().await, expected);
    }
    let values = [
        (r#"{"name":"x"}"#, r#"{"name":"x"}"#),
        (
            r#"{ "b" : [ 1.0, 12345678901234567890 ] , "a" : "é \" /" }"#,
            r#"{"b":[1.0,12345678901234567890],"a":"é \" /"}"#,
        ),
        ("[]", "[]"),
        ("5", "5"),
        ("true", "true"),
        ("null", "null"),
    ];
    for (data, compact) in values {
        sender.send(&format!(r#"{{"event":"client-a","data":{data},"channel":"private-x"}}"#)).await;
        let frame = receiver.next().await;
        assert_eq!(frame["data"], compact);
        let (sent, came): (Value, Value) =
            (serde_json::from_str(data).unwrap(), serde_json::from_str(compact).unwrap());
        assert_eq!(sent, came);
    }
    sender.send(r#"{"event":"client-typing","channel":"private-x"}"#).await;
    assert_eq!(receiver.next_text().await, r#"{"event":"client-typing","data":"null","channel":"private-x"}"#);
    sender.nothing_came().await;
}

// G-151
#[tokio::test]
async fn client_events_are_for_private_and_presence_channels_only() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = (server.connect().await, server.connect().await);
    for client in [&mut sender, &mut receiver] {
        client.sign_in(&json!({ "id": "ada" })).await;
    }
    let channels =
        ["news", "cache-x", "private-encrypted-x", "private-encrypted-cache-x", "#server-to-user-ada", "privateer"];
    for channel in channels {
        for client in [&mut sender, &mut receiver] {
            client.subscribe(channel).await;
            if channel.contains("cache-") {
                client.next_event("pusher:cache_miss").await;
            }
        }
        sender.send_json(json!({ "event": "client-a", "data": "1", "channel": channel })).await;
        sender.next_error(None, "Client event rejected - only supported on private and presence channels").await;
        sender.nothing_came().await;
        receiver.nothing_came().await;
    }
}

// G-152
#[tokio::test]
async fn who_is_not_on_a_channel_cannot_send_to_it() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = (server.connect().await, server.connect().await);
    receiver.subscribe("private-x").await;
    receiver.join("presence-x", "other").await;
    for channel in ["private-x", "presence-x"] {
        sender.send_json(json!({ "event": "client-a", "data": "1", "channel": channel })).await;
        sender.next_error(None, &format!("Client event rejected - not subscribed to {channel}")).await;
    }
    sender.subscribe("private-x").await;
    sender.unsubscribe("private-x").await;
    sender.send_json(json!({ "event": "client-a", "data": "1", "channel": "private-x" })).await;
    sender.next_error(None, "Client event rejected - not subscribed to private-x").await;
    sender.nothing_came().await;
    receiver.nothing_came().await;
}

// G-153
#[tokio::test]
async fn an_app_may_have_no_client_events() {
    let server = TestServer::start_with(|config| config.limits.enable_client_messages = false).await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    sender.send_json(json!({ "event": "client-a", "data": "1", "channel": "private-x" })).await;
    let message = "Client events are not enabled for this app; set enable_client_messages to allow them";
    sender.next_error(None, message).await;
    receiver.nothing_came().await;
    // What the back end sends may well be called so.
    server.api().publish("private-x", "client-a", "1").await;
    assert_eq!(sender.settle().await, [r#"{"event":"client-a","data":"1","channel":"private-x"}"#]);
}

// G-154, G-155
#[tokio::test]
async fn nothing_but_client_events_is_passed_on() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    let names = [
        "",
        "my-event",
        "client",
        "client_a",
        "Client-a",
        " client-a",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:member_added",
        "pusher_internal:member_removed",
        "pusher_internal:subscription_count",
        "pusher:subscription_error",
        "pusher:connection_established",
        "pusher:error",
        "pusher:cache_miss",
        "pusher:signin_success",
        "pusher:client-a",
    ];
    for name in names {
        sender.send_json(json!({ "event": name, "data": "1", "channel": "private-x" })).await;
        sender.next_error(None, "Client event rejected - event name must start with 'client-'").await;
    }
    for channel in ["", r#","channel":null"#, r#","channel":5"#, r#","channel":["private-x"]"#] {
        for name in ["client-a", "pusher_internal:member_added"] {
            sender.send(&format!(r#"{{"event":"{name}","data":"1"{channel}}}"#)).await;
            sender.next_error(None, "Invalid client event (must contain channel and data)").await;
        }
    }
    // A client's own answers to pings concern nobody.
    sender.send(r#"{"event":"pusher:pong","data":{},"channel":"private-x"}"#).await;
    sender.nothing_came().await;
    receiver.nothing_came().await;
}

// G-156
#[tokio::test]
async fn the_name_of_a_client_event_has_at_most_200_characters() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    for letter in ['x', 'é'] {
        let longest = format!("client-{}", letter.to_string().repeat(193));
        sender.send_json(json!({ "event": longest, "data": "1", "channel": "private-x" })).await;
        assert_eq!(receiver.next().await["event"], longest);
        let longer = format!("{longest}{letter}");
        sender.send_json(json!({ "event": longer, "data": "1", "channel": "private-x" })).await;
        sender.next_error(None, "Event name too long").await;
    }
    receiver.nothing_came().await;
}

// G-157
#[tokio::test]
async fn the_data_of_a_client_event_has_at_most_so_many_bytes() {
    let server = TestServer::start_with(|config| config.limits.max_event_payload_in_kb = 10.0).await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    let text = "x".repeat(10_240);
    // The same number of bytes as a string, with characters of several bytes, with escapes, and as a value.
    let largest = [
        format!(r#""{text}""#),
        format!(r#""{}""#, "é".repeat(5_120)),
        format!(r#""{}""#, r"\u00e9\n\/".repeat(2_560)),
        format!(r#"["{}"]"#, &text[4..]),
        format!(r#"[  "{}"  ]"#, &text[4..]),
    ];
    for data in largest {
        sender.send(&format!(r#"{{"event":"client-a","data":{data},"channel":"private-x"}}"#)).await;
        assert_eq!(receiver.next().await["data"].as_str().unwrap().len(), 10_240);
    }
    // Python's library writes letters in a value as escapes.
    let escaped = format!(r#"["{}"]"#, r"\u00e9".repeat(5_118));
    sender.send(&format!(r#"{{"event":"client-a","data":{escaped},"channel":"private-x"}}"#)).await;
    assert_eq!(receiver.next().await["data"], escaped);
    let larger = [
        format!(r#""{text}x""#),
        format!(r#""{}x""#, "é".repeat(5_120)),
        format!(r#""{}x""#, r"\u00e9\n\/".repeat(2_560)),
        format!(r#"["{}"]"#, &text[3..]),
    ];
    for data in larger {
        sender.send(&format!(r#"{{"event":"client-a","data":{data},"channel":"private-x"}}"#)).await;
        sender.next_error(None, "The data content of this event exceeds the allowed maximum (10240 bytes)").await;
    }
    receiver.nothing_came().await;
}

// G-158, G-159
#[tokio::test]
async fn the_eleventh_client_event_within_a_second_is_refused() {
    in_time(async |_| the_eleventh_is_refused().await).await;
}

async fn the_eleventh_is_refused() -> Result<(), String> {
    const ANOTHER_ALLOWED: Duration = Duration::from_millis(100);
    let server = TestServer::start_with(|config| config.limits.max_client_events_per_second = 10).await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    let eleven: Vec<String> = (1..=11).map(numbered).collect();
    for _ in 0..2 {
        let began = Instant::now();
        sender.send_together(&eleven).await;
        let refused = sender.settle().await;
        if refused.is_empty() && began.elapsed() >= ANOTHER_ALLOWED {
            return Err(format!("another one is allowed after {:?}", began.elapsed()));
        }
        let error =
            r#"{"event":"pusher:error","data":{"code":4301,"message":"Client event rejected due to rate limit"}}"#;
        assert_eq!(refused, [error]);
        assert_eq!(receiver.settle().await, eleven[..10]);
        sender.nothing_came().await;
        // The second of silence that G-159 is about.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Each connection has a budget of its own, and what is refused for another reason uses none of it.
    let mut other = server.connect().await;
    other.subscribe("private-x").await;
    let refused = r#"{"event":"client-a","data":"1","channel":"news"}"#.to_owned();
    other.send_together(&[vec![refused; 5], eleven[..10].to_vec()].concat()).await;
    assert_eq!(other.settle().await.len(), 5);
    assert_eq!(receiver.settle().await, eleven[..10]);
    Ok(())
}

// G-158
#[tokio::test]
async fn without_a_limit_client_events_may_come_as_fast_as_they_like() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-x").await;
    let many: Vec<String> = (0..500).map(numbered).collect();
    sender.send_together(&many).await;
    sender.nothing_came().await;
    assert_eq!(receiver.settle().await, many);
}

// G-161
#[tokio::test]
async fn client_events_work_on_cache_channels_that_need_a_signature() {
    let server = TestServer::start().await;
    let (mut sender, mut receiver) = two_on(&server, "private-cache-x").await;
    sender.next_event("pusher:cache_miss").await;
    receiver.next_event("pusher:cache_miss").await;
    sender.send(r#"{"event":"client-a","data":"1","channel":"private-cache-x"}"#).await;
    sender.nothing_came().await;
    assert_eq!(receiver.settle().await, [r#"{"event":"client-a","data":"1","channel":"private-cache-x"}"#]);
    for (client, user_id) in [(&mut receiver, "bob"), (&mut sender, "ada")] {
        client.join("presence-cache-x", user_id).await;
        client.next_event("pusher:cache_miss").await;
    }
    receiver.next_event("pusher_internal:member_added").await;
    sender.send(r#"{"event":"client-a","data":"1","channel":"presence-cache-x"}"#).await;
    sender.nothing_came().await;
    assert_eq!(
        receiver.settle().await,
        [r#"{"event":"client-a","data":"1","channel":"presence-cache-x","user_id":"ada"}"#]
    );
}
