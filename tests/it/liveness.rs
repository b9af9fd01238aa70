//! Who is silent is asked, and who does not answer is closed; who does not say who they are, too.

use std::time::Duration;
use std::time::Instant;

use gema::config::Config;
use gema::config::Seconds;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::server::TestServer;
use tokio::time::interval;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::wire::BINARY;
use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::PONG;
use crate::wire::TEXT;
use crate::wire::Wire;

const PATH: &str = "/app/app-key?protocol=7";

/// The shortest times that may be configured.
fn impatient(config: &mut Config) {
    config.connections.ping_seconds = Seconds(1.0);
    config.connections.pong_seconds = Seconds(1.0);
}

async fn impatient_server() -> TestServer {
    TestServer::start_with(impatient).await
}

// G-41, G-44, G-45
#[tokio::test]
async fn who_answers_no_ping_is_closed_whether_or_not_it_receives() {
    let server = impatient_server().await;
    let all = async { tokio::join!(silent(&server), receiving(&server), talking(&server)) };
    timeout(PATIENCE, all).await.expect("somebody is not closed");
}

async fn silent(server: &TestServer) {
    let mut wire = Wire::connect(server.address(), PATH).await;
    let connected = Instant::now();
    assert_eq!(wire.next_frame().await, Some((PING, Vec::new())));
    let pinged = Instant::now();
    assert!(pinged - connected >= Duration::from_millis(900), "pinged after {:?}", pinged - connected);
    assert_eq!(wire.next_close().await, (4201, "Pong reply not received".to_owned()));
    assert!(pinged.elapsed() >= Duration::from_millis(900), "closed after {:?}", pinged.elapsed());
}

async fn receiving(server: &TestServer) {
    let mut wire = Wire::connect(server.address(), PATH).await;
    wire.subscribe("ticker").await;
    let mut ticks = interval(Duration::from_millis(50));
    let (mut events, mut pings) = (0, 0);
    let code = loop {
        tokio::select! {
            _ = ticks.tick() => server.api().publish("ticker", "tick", "1").await,
            frame = wire.next_frame() => match frame.expect("no close came") {
                (TEXT, _) => events += 1,
                (PING, _) => pings += 1,
                (CLOSE, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
                other => panic!("{other:?}"),
            },
        }
    };
    assert_eq!((code, pings), (4201, 1));
    assert!(events > 10, "the connection received too little to prove anything: {events}");
}

/// Who talks is not even asked, for as long as it takes to close somebody else.
async fn talking(server: &TestServer) {
    let mut wire = Wire::connect(server.address(), PATH).await;
    let mut other = Wire::connect(server.address(), PATH).await;
    let mut ticks = interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            frame = other.next_frame() => if frame.expect("no close came").0 == CLOSE { break },
            _ = ticks.tick() => {
                wire.send_text(r#"{"event":"pusher:ping"}"#).await;
                assert_eq!(wire.next_event().await, "pusher:pong");
            }
        }
    }
}

// G-42, G-43
#[tokio::test]
async fn any_frame_answers_a_ping() {
    let server = impatient_server().await;
    let answering = async |answer: u8, payload: &str| {
        let mut wire = Wire::connect(server.address(), PATH).await;
        let connected = Instant::now();
        for _ in 0..2 {
            while wire.next_frame().await.expect("the connection ended").0 != PING {}
            wire.send(answer, payload.as_bytes()).await;
        }
        // The close for a missing answer would have come before the second ping.
        assert!(connected.elapsed() >= Duration::from_millis(1800), "two pings in {:?}", connected.elapsed());
    };
    tokio::join!(
        answering(PONG, ""),
        answering(PONG, "of my own"),
        answering(PING, ""),
        answering(BINARY, ""),
        answering(TEXT, "not even JSON"),
        answering(TEXT, r#"{"event":"pusher:pong","data":{}}"#),
    );
}

#[tokio::test]
async fn the_next_ping_does_not_wait_for_the_time_that_an_answer_may_take() {
    let server = TestServer::start_with(|config| {
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(60.0);
    })
    .await;
    let mut wire = Wire::connect(server.address(), PATH).await;
    for _ in 0..2 {
        assert_eq!(wire.next_frame().await, Some((PING, Vec::new())));
        wire.send(PONG, b"").await;
    }
}

// G-46
#[tokio::test]
async fn nothing_is_left_of_a_connection_that_was_closed_for_its_silence() {
    let server = impatient_server().await;
    let mut silent = server.connect().await;
    silent.sign_in(&json!({ "id": "silent" })).await;
    silent.subscribe("a").await;
    silent.join("presence-room", "silent").await;
    let mut observer = server.connect().await;
    observer.join("presence-room", "observer").await;
    assert!(users(&server).await.ends_with(" 1"));
    // Nobody reads `silent`, so nobody answers for it; whoever reads `observer` answers.
    assert_eq!(
        timeout(PATIENCE, observer.next_text()).await.expect("the silent one is not closed"),
        r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"silent\"}","channel":"presence-room"}"#
    );
    let room = json!({ "channels": { "presence-room": { "user_count": 1 } } });
    let parameters = [("filter_by_prefix", "presence-"), ("info", "user_count")];
    assert_eq!(server.api().get("/channels", &parameters).await.ok(), room);
    assert_eq!(server.api().get("/channels/a", &[]).await.ok()["occupied"], false);
    assert!(users(&server).await.ends_with(" 0"));
    silent.next_event("pusher_internal:member_added").await;
    assert_eq!(silent.next_close().await.0, 4201);
}

/// The line that tells how many users are signed in.
async fn users(server: &TestServer) -> String {
    let metrics = http::request(server.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    metrics.lines().find(|line| line.starts_with("gema_users{")).unwrap().to_owned()
}

/// A server whose app wants to know within a second who is there. One node: each has a quota of its own.
async fn curious_server() -> TestServer {
    TestServer::start_single_with(|config| {
        config.limits.enable_user_authentication = true;
        config.limits.user_authentication_timeout_seconds = Seconds(1.0);
        config.limits.max_connections = 3;
    })
    .await
}

#[tokio::test]
async fn no_more_connections_hear_without_being_authorized_than_may_be_authorized() {
    let server = TestServer::start_single_with(|config| {
        config.limits.enable_user_authentication = true;
        config.limits.user_authentication_timeout_seconds = Seconds(3600.0);
        config.limits.max_connections = 2;
    })
    .await;
    let mut hearing = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client.subscribe("a").await;
        client.subscribe("b").await;
        hearing.push(client);
    }
    let mut last = server.connect().await;
    last.send_subscribe("a", None).await;
    last.next_event("pusher_internal:subscription_succeeded").await;
    assert_eq!(last.next_close().await, (4004, "Application is over connection quota".to_owned()));
    // Who is authorized, or goes, makes room.
    hearing[0].sign_in(&json!({ "id": "me" })).await;
    let mut next = server.connect().await;
    next.subscribe("a").await;
    hearing.pop().unwrap().close().await;
    server.metric_becomes("soketi_connected", None, 2.0).await;
    let mut another = server.connect().await;
    another.subscribe("a").await;
    for client in [&mut hearing[0], &mut next, &mut another] {
        still_there(client).await;
    }
}

// G-67, G-68
#[tokio::test]
async fn only_who_is_authorized_in_time_is_kept() {
    let server = curious_server().await;
    let mut signed_in = server.connect().await;
    signed_in.sign_in(&json!({ "id": "me" })).await;
    let mut on_private = server.connect().await;
    on_private.subscribe("private-a").await;
    let mut on_presence = server.connect().await;
    on_presence.join("presence-a", "me").await;

    let mut idle = server.connect().await;
    let mut on_public = server.connect().await;
    on_public.subscribe("a").await;
    let mut refused = server.connect().await;
    refused.send(r#"{"event":"pusher:subscribe","data":{"channel":"private-a","auth":"app-key:0"}}"#).await;
    refused.next_event("pusher:subscription_error").await;
    refused.next_event("pusher:error").await;
    let connected = Instant::now();
    for client in [&mut idle, &mut on_public, &mut refused] {
        assert_eq!(client.next_close().await, (4009, "Connection not authorized within timeout".to_owned()));
    }
    assert!(connected.elapsed() >= Duration::from_millis(800), "closed after {:?}", connected.elapsed());
    for client in [&mut signed_in, &mut on_private, &mut on_presence] {
        still_there(client).await;
    }
}

/// From protocol 6 on the code of the close says it all.
#[tokio::test]
async fn an_old_client_is_told_in_an_event_that_it_was_not_authorized_in_time() {
    let server = curious_server().await;
    let mut old = server.open("/app/app-key?protocol=5").await;
    old.established().await;
    let reason = "Connection not authorized within timeout";
    old.next_error(Some(4009), reason).await;
    assert_eq!(old.next_close().await, (4009, reason.to_owned()));
}

/// Nothing is on its way to this connection, neither a close nor anything else.
async fn still_there(client: &mut Client) {
    client.send_message(Message::Ping(vec![1].into())).await;
    assert_eq!(client.next_message().await, Message::Pong(vec![1].into()));
}

#[tokio::test]
async fn connections_count_towards_the_quota_once_they_are_authorized() {
    let server = curious_server().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(server.connect().await);
    }
    let mut last = clients.pop().unwrap();
    for client in &mut clients {
        client.subscribe("private-a").await;
    }
    last.send_subscribe("private-a", None).await;
    last.next_event("pusher_internal:subscription_succeeded").await;
    assert_eq!(last.next_close().await, (4004, "Application is over connection quota".to_owned()));
    for client in &mut clients {
        still_there(client).await;
    }
}
