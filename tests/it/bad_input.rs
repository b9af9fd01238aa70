//! What strangers, broken clients and attackers send: it costs them their connection, and nobody else anything.

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Seconds;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Answer;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::interval;
use tokio::time::timeout;

use crate::wire::BINARY;
use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7";
const DEEP: usize = 100_000;

/// The server still serves: a new connection, a subscription, an event.
async fn assert_still_serves(server: &TestServer) {
    let mut client = server.connect().await;
    client.subscribe("still-there").await;
    server.api().publish("still-there", "e", "1").await;
    assert_eq!(client.next_text().await, r#"{"event":"e","data":"1","channel":"still-there"}"#);
    let metrics = http::request(server.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    assert!(metrics.contains("\ngema_panics_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn what_breaks_rfc_6455_ends_the_connection_with_1002() {
    let server = TestServer::start().await;
    let unmasked = vec![TEXT, 2, b'{', b'}'];
    let half_a_code = masked(CLOSE, &[3]);
    for (bytes, reason) in [
        (unmasked, "Frames from a client must be masked"),
        (masked(0xC1, b"{}"), "A reserved bit is set"),
        (masked(0x83, b"{}"), "Unknown opcode"),
        (masked(0x8B, b""), "Unknown opcode"),
        (masked(0x80, b"{}"), "A continuation without a beginning"),
        (masked(0x09, b""), "A control frame is fragmented"),
        (masked(PING, &[0; 126]), "A control frame is longer than 125 bytes"),
        (half_a_code, "A close frame holds half a code"),
        (masked(CLOSE, &1005_u16.to_be_bytes()), "A close frame holds a code that must not be sent"),
        ([masked(0x01, b"{"), masked(TEXT, b"}")].concat(), "A new message starts before the last one is complete"),
    ] {
        let mut wire = Wire::connect(server.address(), PATH).await;
        wire.send_bytes(&bytes).await;
        assert_eq!(wire.next_close().await, (1002, reason.to_owned()), "{bytes:?}");
        wire.send(CLOSE, &1002_u16.to_be_bytes()).await;
        assert_eq!(wire.next_frame().await, None, "{bytes:?}");
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn a_gigabyte_is_refused_when_it_is_announced() {
    let server = TestServer::start().await;
    for first in [TEXT, BINARY, 0x01] {
        for length in [1 << 30, u64::MAX >> 1, u64::MAX] {
            let mut wire = Wire::connect(server.address(), PATH).await;
            let header = [&[first, 0xFF][..], &length.to_be_bytes(), &[0; 4]].concat();
            wire.send_bytes(&header).await;
            assert_eq!(wire.next_close().await, (1009, "The message is larger than 262144 bytes".to_owned()));
        }
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn whoever_does_not_answer_the_close_is_cut_off() {
    let server = TestServer::start_with(|config| config.connections.close_seconds = Seconds(1.0)).await;
    let mut wire = Wire::connect(server.address(), PATH).await;
    wire.send_bytes(&[0xFF; 64]).await;
    assert_eq!(wire.next_close().await.0, 1002);
    assert_eq!(wire.next_frame().await, None);
}

#[tokio::test]
async fn json_of_any_depth_is_taken_or_refused_but_never_followed_down() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("private-a").await;
    let (arrays, objects) =
        ("[".repeat(DEEP) + &"]".repeat(DEEP), r#"{"a":"#.repeat(20_000) + "1" + &"}".repeat(20_000));
    let error = |frame: &Value| frame["event"] == "pusher:error" && frame["data"]["code"].is_null();
    for deep in [&arrays, &objects] {
        for message in [
            deep.clone(),
            format!(r#"{{"event":{deep}}}"#),
            format!(r#"{{"event":"client-a","channel":{deep},"data":1}}"#),
            format!(r#"{{"event":"client-a","channel":"private-a","data": {deep} }}"#),
            format!(r#"{{"event":"pusher:subscribe","data":{deep}}}"#),
            format!(r#"{{"event":"pusher:subscribe","data":{}}}"#, json!(deep)),
            format!(r#"{{"event":"pusher:signin","data":{{"auth":"a:b","user_data":{deep}}}}}"#),
        ] {
            client.send(&message).await;
            let frame = client.next().await;
            assert!(error(&frame), "{frame}: {}", &message[..80]);
        }
        client.send(&format!(r#"{{"event":"pusher:ping","data":{deep}}}"#)).await;
        assert_eq!(client.next_text().await, r#"{"event":"pusher:pong","data":"{}"}"#);
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn signed_member_and_user_data_of_any_depth_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let deep = "[".repeat(DEEP) + &"]".repeat(DEEP);
    for data in [deep.clone(), format!(r#"{{"user_id":{deep}}}"#), format!(r#"{{"user_id":"1","user_info":{deep}}}"#)] {
        client.send_subscribe("presence-a", Some(&data)).await;
        client.next_event("pusher:subscription_error").await;
        client.next_event("pusher:error").await;
    }
    for data in [deep.clone(), format!(r#"{{"id":{deep}}}"#), format!(r#"{{"id":"1","watchlist":{deep}}}"#)] {
        client.send_sign_in(&data).await;
        client.next_event("pusher:error").await;
    }
    // What is not looked at may be anything.
    client.send_sign_in(&format!(r#"{{"id":"1","other":{deep}}}"#)).await;
    client.next_event("pusher:signin_success").await;
    client.nothing_came().await;
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn api_bodies_of_any_depth_are_taken_or_refused() {
    let server = TestServer::start_with(|config| config.limits.max_event_payload_in_kb = 1000.0).await;
    let mut client = server.connect().await;
    client.subscribe("a").await;
    let deep = "[".repeat(DEEP) + &"]".repeat(DEEP);
    for body in [
        deep.clone(),
        deep[..DEEP].to_owned(),
        format!(r#"{{"name":{deep},"channel":"a","data":"1"}}"#),
        format!(r#"{{"name":"e","channel":{deep},"data":"1"}}"#),
        format!(r#"{{"name":"e","channels":{deep},"data":"1"}}"#),
        format!(r#"{{"name":"e","channel":"a","data":"1","socket_id":{deep}}}"#),
    ] {
        assert_eq!(server.api().post("/events", &body).await.status, 400, "{}", &body[..60]);
        let batch = format!(r#"{{"batch":[{body}]}}"#);
        assert_eq!(server.api().post("/batch_events", &batch).await.status, 400, "{}", &body[..60]);
    }
    client.nothing_came().await;
    for data in [deep.clone(), format!(" [ {deep} ,\n{deep}]")] {
        server.api().post("/events", &format!(r#"{{"name":"e","channel":"a","data":{data}}}"#)).await.ok();
        let compact = data.replace([' ', '\n'], "");
        assert_eq!(client.next_text().await, format!(r#"{{"event":"e","data":"{compact}","channel":"a"}}"#));
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_given_up() {
    // Time enough for a request that is in no way slow.
    let server = TestServer::start_with(|config| config.http.request_seconds = Seconds(5.0)).await;
    let dripping = async |head: String| {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let mut ticks = interval(Duration::from_millis(20));
        let mut bytes = head.bytes();
        let began = Instant::now();
        let mut answer = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => { let _ = writing.write_all(&[bytes.next().unwrap_or(b'x')]).await; }
                read = reading.read_buf(&mut answer) => match read {
                    Ok(1..) => (),
                    Ok(0) | Err(_) => break,
                }
            }
        }
        assert!(began.elapsed() >= Duration::from_millis(4900), "given up after {:?}", began.elapsed());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    };
    let exchange = async {
        tokio::join!(
            dripping(upgrade_head(PATH, &[("x-long", &"x".repeat(10_000))])),
            dripping(format!("POST /apps/app-id/events?{} HTTP/1.1\r\n", "x".repeat(10_000))),
            dripping(String::new()),
        )
    };
    timeout(PATIENCE, exchange).await.expect("a slow head is waited for");
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_answered_with_408() {
    let server = TestServer::start_with(|config| config.http.request_seconds = Seconds(4.0)).await;
    let body = r#"{"name":"e","channel":"a","data":"1"}"#;
    let path = server.api().path("/events");
    let query = server.api().signed_query("POST", &path, &[], body);
    let length = ("Content-Length: 37\r\n", "");
    assert_eq!(body.len(), 37);
    let chunked = ("Transfer-Encoding: chunked\r\n", "5\r\n{\"nam\r\n");
    let given_up = async |(header, start): (&str, &str)| {
        let head = format!("POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n{start}");
        let began = Instant::now();
        let answer = http::raw(server.address(), head.as_bytes()).await;
        assert_eq!(answer.refused(408), "The request did not come within 4 s");
        assert!(began.elapsed() >= Duration::from_millis(3900), "given up after {:?}", began.elapsed());
    };
    tokio::join!(given_up(length), given_up(chunked));
    assert_eq!(server.metric("gema_refusals_total", Some("api_timeout")).await, 2.0);
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn oversized_heads_and_bodies_are_refused() {
    let server = TestServer::start_with(|config| config.http.request_bytes_max = 10_000).await;
    let send = async |head: String| http::raw(server.address(), head.as_bytes()).await;
    let long = "x".repeat(200_000);
    for head in [
        upgrade_head(PATH, &[("x-long", &long)]),
        upgrade_head(PATH, &[("x", "y"); 200]),
        upgrade_head(PATH, &[("x", "y".repeat(3000).as_str()); 90]),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ] {
        let start = head[..200].to_owned();
        let Answer { status, .. } = send(head).await;
        assert!([414, 431].contains(&status), "{status}: {start}");
    }
    assert_eq!(send("nonsense\r\n\r\n".to_owned()).await.status, 400);
    let path = "/apps/app-id/events";
    let head = |query: &str| format!("POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    // Of somebody unknown nobody wants to see a body at all.
    assert_eq!(send(format!("{}Content-Length: 9000\r\n\r\n", head(""))).await.status, 401);
    let head = head(&server.api().signed_query("POST", path, &[], ""));
    let too_large = "The request body exceeds the allowed maximum (10000 bytes)";
    assert_eq!(send(format!("{head}Content-Length: 1000000000\r\n\r\n")).await.refused(413), too_large);
    let chunk = format!("2711\r\n{}\r\n", "x".repeat(0x2711));
    let endless = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    assert_eq!(send(endless).await.refused(413), too_large);
    assert_still_serves(&server).await;
}

/// A connection that is closed while its peer still sends is reset, and that overtakes the answer.
#[tokio::test]
async fn who_is_refused_before_the_body_was_read_gets_the_answer_all_the_same() {
    let server = TestServer::start_single().await;
    let signed = server.api().signed_query("POST", "/apps/app-id/events", &[], "");
    for (path, status, at_least) in [
        ("/apps/nobody/events".to_owned(), 404, 0),
        ("/nowhere".to_owned(), 404, 0),
        ("/apps/app-id/events".to_owned(), 401, 0),
        ("/app/app-key".to_owned(), 405, 0),
        (format!("/apps/app-id/events?{signed}"), 413, 10_485_761),
    ] {
        for size in [1, 300_000, 11_000_000].into_iter().filter(|size| *size >= at_least) {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            // What is short is read, and the connection kept.
            let close = if size == 1 { "Connection: close\r\n" } else { "" };
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{close}Content-Length: {size}\r\n\r\n");
            let exchange = async {
                stream.write_all(head.as_bytes()).await?;
                // The answer may be there before the body is.
                for chunk in vec![b'x'; size].chunks(100_000) {
                    stream.write_all(chunk).await?;
                    tokio::task::yield_now().await;
                }
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.map(|_| answer)
            };
            let answer = timeout(PATIENCE, exchange).await.expect("no end");
            let answer = http::parse(&answer.unwrap_or_else(|error| panic!("{path} {size}: {error}")));
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{path} {size}");
        }
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn one_connection_joins_no_more_channels_than_it_may() {
    let server = TestServer::start_with(|config| config.connections.channels_max = 50).await;
    let mut client = server.connect().await;
    for number in 0..50 {
        client.subscribe(&format!("c{number}")).await;
    }
    for number in 50..60 {
        let channel = format!("c{number}");
        client.send_subscribe(&channel, None).await;
        client.next_refusal(&channel, "LimitReached", 403, "A connection may join at most 50 channels").await;
    }
    let channels = server.api().get("/channels", &[]).await.ok();
    assert_eq!(channels["channels"].as_object().unwrap().len(), 50);
    client.unsubscribe("c0").await;
    client.subscribe("c50").await;
    client.nothing_came().await;
}

#[tokio::test]
async fn a_stalled_subscriber_is_closed_and_the_others_get_everything_in_order() {
    const EVENTS: usize = 400;
    let server = TestServer::start_with(|config| {
        config.connections.outbox_bytes_max = 256 * 1024;
        config.connections.backlog_bytes_max = 256 * 1024;
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("feed").await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        client.subscribe("feed").await;
        others.push(client);
    }
    let padding = "x".repeat(20_000);
    let event = |number: usize| format!(r#"{{"event":"e{number}","data":"{padding}","channel":"feed"}}"#);
    for number in 0..EVENTS {
        server.api().publish("feed", &format!("e{number}"), &padding).await;
        for client in &mut others {
            assert_eq!(client.next_text().await, event(number));
        }
    }
    server.metric_becomes("soketi_connected", None, 4.0).await;
    let dropped = server.metric("gema_drops_total", Some("slow_reader")).await;
    assert!(dropped >= 1.0, "nothing was dropped");
    let mut received = 0;
    let close = loop {
        match stalled.next_frame().await.expect("the connection ended without a close") {
            (TEXT, payload) => assert_eq!(String::from_utf8(payload).unwrap(), event(received)),
            (CLOSE, payload) => break payload,
            other => panic!("{other:?}"),
        }
        received += 1;
    };
    assert_eq!(
        close,
        [&4100_u16.to_be_bytes()[..], b"The connection is too slow for what it has subscribed to"].concat()
    );
    assert!(received > 0 && received + dropped as usize <= EVENTS, "{received} received, {dropped} dropped");
    assert_eq!(stalled.next_frame().await, None);
    for client in &mut others {
        client.nothing_came().await;
    }
    assert_eq!(
        server.api().get("/channels/feed", &[("info", "subscription_count")]).await.ok()["subscription_count"],
        4
    );
}

/// A page joins what it shows, however much that is; who joins and leaves without end is told to stop.
#[tokio::test]
async fn one_connection_joins_no_faster_than_it_may() {
    const PER_SECOND: u32 = 5;
    let server = TestServer::start_with(|config| config.connections.subscriptions_per_second = PER_SECOND).await;
    let mut page = server.connect().await;
    let channels: Vec<String> = (0..200).map(|number| format!("c{number}")).collect();
    for channel in &channels {
        page.subscribe(channel).await;
    }
    let mut restless = server.connect().await;
    let began = Instant::now();
    let mut refused = 0_u32;
    for _ in 0..1000 {
        restless.send_subscribe("c0", None).await;
        restless.unsubscribe("c0").await;
        let answer = restless.next().await;
        if answer["event"] == "pusher:subscription_error" {
            let message = "A connection may join 5 channels per second, try again";
            let data = json!({ "type": "LimitReached", "error": message, "status": 429 }).to_string();
            assert_eq!((&answer["data"], &answer["channel"]), (&json!(data), &json!("c0")));
            restless.next_error(None, message).await;
            restless.next_error(None, "No current subscription to channel c0, or subscription in progress").await;
            refused += 1;
        }
    }
    let allowed = 200 + u64::from(PER_SECOND) * (began.elapsed().as_secs() + 1);
    assert!(refused > 0 && u64::from(refused) + allowed >= 1000, "{refused} of 1000 were refused, {allowed} allowed");
    assert_eq!(server.metric("gema_refusals_total", Some("subscribe_rate")).await, f64::from(refused));
    restless.nothing_came().await;
    page.nothing_came().await;
}

#[tokio::test]
async fn all_connections_together_have_no_more_channels_than_there_may_be() {
    let server = TestServer::start_single_with(|config| config.connections.channels_total_max = 5).await;
    let (mut one, mut other) = (server.connect().await, server.connect().await);
    for channel in ["a", "b", "c"] {
        one.subscribe(channel).await;
    }
    other.subscribe("cache-d").await;
    other.next_event("pusher:cache_miss").await;
    other.subscribe("private-e").await;
    for channel in ["f", "private-f"] {
        other.send_subscribe(channel, None).await;
        let message = "The server has as many channels as it may, try again";
        other.next_refusal(channel, "LimitReached", 503, message).await;
    }
    // There is no place for what would be remembered either, and who listens hears it all the same.
    server.api().publish("cache-f", "e", "1").await;
    server.api().publish("cache-d", "e", "1").await;
    other.next_event("e").await;
    other.subscribe("a").await;
    one.unsubscribe("b").await;
    one.nothing_came().await;
    other.subscribe("cache-f").await;
    other.next_event("pusher:cache_miss").await;
    assert_eq!(server.metric("gema_refusals_total", Some("subscribe_server_full")).await, 2.0);
}

/// RFC 6455, 7.1.7: the TCP connection ends behind the close frame.
#[tokio::test]
async fn who_breaks_the_protocol_is_not_waited_for() {
    let server = TestServer::start_with(|config| config.connections.close_seconds = Seconds(3600.0)).await;
    for (first, payload, code) in [(0x83, &b"x"[..], 1002), (TEXT, b"\xff", 1007), (TEXT, &[b'x'; 300_000], 1009)] {
        let mut wire = Wire::connect(server.address(), PATH).await;
        wire.send_in_vain(&masked(first, payload)).await;
        assert_eq!(wire.next_close().await.0, code);
        assert_eq!(wire.next_frame().await, None, "the connection is held after {code}");
    }
}

#[tokio::test]
async fn connections_that_never_send_a_request_are_none_of_ours() {
    let server = TestServer::start_with(|config| config.http.request_seconds = Seconds(5.0)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    assert_still_serves(&server).await;
    for mut stream in silent {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("a silent connection is kept");
    }
    assert_eq!(server.metric("soketi_new_connections_total", None).await, 1.0);
}

#[tokio::test]
async fn a_flood_of_messages_that_reads_no_answer_is_no_longer_read_and_then_closed() {
    let server = TestServer::start_with(|config| {
        config.connections.outbox_bytes_max = 64 * 1024;
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(1.0);
    })
    .await;
    let mut wire = Wire::connect_narrow(server.address(), PATH).await;
    let messages = masked(TEXT, b"x").repeat(10_000);
    let flood = async {
        loop {
            wire.send_in_vain(&messages).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = flood => unreachable!("a flood has no end"),
        () = server.metric_becomes("soketi_connected", None, 0.0) => (),
    }
    let taken = server.metric("soketi_ws_messages_received_total", None).await;
    assert!(taken < 200_000.0, "{taken} messages were answered although nobody read");
    assert_eq!(server.metric("gema_drops_total", Some("slow_reader")).await, 0.0);
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn a_flood_of_invalid_messages_that_reads_is_answered_message_by_message() {
    const MESSAGES: usize = 2000;
    let server = TestServer::start().await;
    let mut other = server.connect().await;
    let mut wire = Wire::connect(server.address(), PATH).await;
    wire.send_bytes(&masked(TEXT, b"x").repeat(MESSAGES)).await;
    other.nothing_came().await;
    for _ in 0..MESSAGES {
        assert_eq!(
            wire.next_text().await,
            r#"{"event":"pusher:error","data":{"code":null,"message":"Received invalid JSON"}}"#
        );
    }
    assert_eq!(server.metric("gema_refusals_total", Some("invalid_message")).await, MESSAGES as f64);
}

/// Who is on the channel, as one connection sees it.
#[derive(Default)]
struct View(Option<BTreeSet<String>>);

impl View {
    /// Takes one frame in. A newcomer must not be known already, and who leaves must be.
    fn apply(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        let user_id = data["user_id"].as_str().unwrap_or_default().to_owned();
        let known = &mut self.0;
        match (frame["event"].as_str().unwrap(), known) {
            ("pusher_internal:subscription_succeeded", known) => {
                let ids = data["presence"]["ids"].as_array().unwrap();
                *known = Some(ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect());
            }
            ("pusher_internal:member_added", Some(known)) => assert!(known.insert(user_id), "known already: {text}"),
            ("pusher_internal:member_removed", Some(known)) => assert!(known.remove(&user_id), "not known: {text}"),
            _ => panic!("{text}"),
        }
    }

    /// Joins as this user and hears what comes with it.
    async fn join(&mut self, client: &mut Client, user_id: &str) {
        client.send_subscribe("presence-storm", Some(&json!({ "user_id": user_id }).to_string())).await;
        for text in client.settle().await {
            self.apply(&text);
        }
        assert!(self.0.as_ref().is_some_and(|known| known.contains(user_id)), "{user_id} is not there");
    }
}

// G-120
#[tokio::test]
async fn lists_and_notices_agree_with_each_other_in_a_storm_of_joins_and_leaves() {
    const ROUNDS: usize = 30;
    let server = TestServer::start().await;
    let mut observer = server.connect().await;
    let mut observed = View::default();
    observed.join(&mut observer, "observer").await;
    // Two connections for each user, one of which stays in the end for every second user.
    let storm = (0..8).map(async |number: usize| {
        let user_id = format!("u{}", number / 2);
        let mut client = server.connect().await;
        let mut view = View::default();
        for round in 0..ROUNDS {
            view.join(&mut client, &user_id).await;
            if round % 7 == number % 7 {
                client.close().await;
                (client, view) = (server.connect().await, View::default());
            } else {
                client.unsubscribe("presence-storm").await;
            }
        }
        if number.is_multiple_of(4) {
            view.join(&mut client, &user_id).await;
        }
        // Whatever was asked for has been done.
        for text in client.settle().await {
            view.apply(&text);
        }
        client
    });
    let clients = join_all(storm).await;
    for text in observer.settle().await {
        observed.apply(&text);
    }
    let expected = ["observer", "u0", "u2"].map(str::to_owned);
    assert_eq!(observed.0, Some(BTreeSet::from(expected)));
    let users = server.api().get("/channels/presence-storm/users", &[]).await.ok();
    let users = users["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned());
    assert_eq!(Some(users.collect()), observed.0);
    drop(clients);
}

/// What somebody may throw at a socket: noise, frames of noise, and frames that are almost right.
fn missile() -> impl Strategy<Value = Vec<u8>> {
    let noise = || vec(any::<u8>(), 0..300);
    let firsts = || prop_oneof![Just(TEXT), Just(BINARY), Just(CLOSE), Just(PING), Just(0x01), Just(0x80), any::<u8>()];
    let names = prop_oneof![
        Just("pusher:subscribe".to_owned()),
        Just("pusher:unsubscribe".to_owned()),
        Just("pusher:signin".to_owned()),
        Just("client-x".to_owned()),
        ".{0,20}",
    ];
    let channels =
        prop_oneof![Just("a".to_owned()), Just("presence-a".to_owned()), Just("private-cache-a".to_owned()), ".{0,40}"];
    let command = (names, channels, ".{0,40}", any::<bool>()).prop_map(|(event, channel, text, nested)| {
        let data = json!({ "channel": channel, "auth": text, "channel_data": text, "user_data": text });
        let data = if nested { json!(data.to_string()) } else { data };
        masked(TEXT, json!({ "event": event, "channel": channel, "data": data }).to_string().as_bytes())
    });
    prop_oneof![
        1 => noise(),
        3 => (firsts(), noise()).prop_map(|(first, payload)| masked(first, &payload)),
        3 => (firsts(), ".{0,80}").prop_map(|(first, text)| masked(first, text.as_bytes())),
        3 => command,
    ]
}

#[tokio::test]
async fn no_bytes_whatever_harm_anybody_else() {
    let server = TestServer::start().await;
    let mut witness = server.connect().await;
    witness.subscribe("witness").await;
    let mut runner = TestRunner::deterministic();
    for round in 0..150 {
        let missiles = vec(missile(), 1..12).new_tree(&mut runner).unwrap().current();
        let mut wire = Wire::connect(server.address(), PATH).await;
        for bytes in &missiles {
            wire.send_in_vain(bytes).await;
        }
        // Hangs up at once or says goodbye first; either way the server must have got over it.
        if round % 2 == 0 {
            wire.send_in_vain(&masked(CLOSE, b"")).await;
        }
        drop(wire);
        server.api().publish("witness", "e", &round.to_string()).await;
        let heard = witness.next_text().await;
        assert_eq!(heard, format!(r#"{{"event":"e","data":"{round}","channel":"witness"}}"#), "{missiles:?}");
    }
    server.metric_becomes("soketi_connected", None, 1.0).await;
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn no_bytes_whatever_harm_the_http_side() {
    let server = TestServer::start().await;
    let mut runner = TestRunner::deterministic();
    let starts = prop_oneof![Just(""), Just("GET "), Just("GET / HTTP/1.1\r\n"), Just("POST /apps/app-id/events?")];
    let strategy = (starts, vec(any::<u8>(), 0..400));
    for _ in 0..100 {
        let (start, noise) = strategy.new_tree(&mut runner).unwrap().current();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ = stream.write_all(&[start.as_bytes(), &noise].concat()).await;
        drop(stream);
    }
    assert_still_serves(&server).await;
}

#[tokio::test]
async fn who_asks_for_much_at_once_and_reads_it_is_served() {
    const CHANNELS: usize = 60;
    let server = TestServer::start().await;
    let data = "x".repeat(90_000);
    for number in 0..CHANNELS {
        server.api().publish(&format!("cache-{number}"), "e", &data).await;
    }
    let mut client = server.connect().await;
    let subscribe =
        |number| json!({ "event": "pusher:subscribe", "data": { "channel": format!("cache-{number}") } }).to_string();
    client.send_together(&(0..CHANNELS).map(subscribe).collect::<Vec<_>>()).await;
    for number in 0..CHANNELS {
        client.next_event("pusher_internal:subscription_succeeded").await;
        assert_eq!(client.next_text().await, format!(r#"{{"event":"e","data":"{data}","channel":"cache-{number}"}}"#));
    }
}
