//! Who is silent is asked, and who does not answer is closed; who does not say who they are, too.

use std::time::Duration;
use std::time::Instant;

use gema::config::Config;
use gema::config::Seconds;
use serde_json::json;
use support::attempts::in_time;
use support::attempts::within;
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
    let began = Instant::now();
    let mut wire = Wire::connect(server.address(), PATH).await;
    assert_eq!(wire.next_frame().await, Some((PING, Vec::new())));
    assert!(began.elapsed() >= Duration::from_millis(900), "pinged after {:?}", began.elapsed());
    assert_eq!(wire.next_close().await, (4201, "Pong reply not received".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(1800), "closed after {:?}", began.elapsed());
}

async fn receiving(server: &TestServer) {
    in_time(async |_| {
        let behind_ping = events_behind_ping(server).await;
        if behind_ping > 0 { Ok(()) } else { Err("nothing was received between the ping and the close".to_owned()) }
    })
    .await;
}

/// How many events a connection gets that answers no ping, until it is closed for that.
async fn events_behind_ping(server: &TestServer) -> usize {
    let mut wire = Wire::connect(server.address(), PATH).await;
    wire.subscribe("ticker").await;
    let mut ticks = interval(Duration::from_millis(50));
    let (mut events, mut pings) = (0, 0);
    let code = loop {
        tokio::select! {
            _ = ticks.tick() => server.api().publish("ticker", "tick", "1").await,
            frame = wire.next_frame() => match frame.expect("no close came") {
                (TEXT, _) => events += pings,
                (PING, _) => pings += 1,
                (CLOSE, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
                other => panic!("{other:?}"),
            },
        }
    };
    assert_eq!((code, pings), (4201, 1));
    events
}

/// Who talks is not even asked, for as long as it takes to close somebody else.
async fn talking(server: &TestServer) {
    in_time(async |_| {
        let mut wire = Wire::connect(server.address(), PATH).await;
        let mut other = Wire::connect(server.address(), PATH).await;
        let mut ticks = interval(Duration::from_millis(200));
        let mut talked = Instant::now();
        loop {
            tokio::select! {
                frame = other.next_frame() => if frame.expect("no close came").0 == CLOSE { return Ok(()) },
                _ = ticks.tick() => {
                    wire.send_text(r#"{"event":"pusher:ping"}"#).await;
                    let (first, answer) = wire.next_frame().await.expect("the connection ended");
                    if first != TEXT && talked.elapsed() >= Duration::from_millis(900) {
                        return Err(format!("it said nothing for {:?}", talked.elapsed()));
                    }
                    assert_eq!((first, &*answer), (TEXT, &br#"{"event":"pusher:pong","data":"{}"}"#[..]));
                    talked = Instant::now();
                }
            }
        }
    })
    .await;
}

// G-42, G-43
#[tokio::test]
async fn any_frame_answers_a_ping() {
    let server = TestServer::start_with(|config| {
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(20.0);
    })
    .await;
    let answering = async |answer: u8, payload: &str| {
        let connecting = Instant::now();
        let mut wire = Wire::connect(server.address(), PATH).await;
        for _ in 0..2 {
            while wire.next_frame().await.expect("the connection ended").0 != PING {}
            wire.send(answer, payload.as_bytes()).await;
        }
        // Without an answer there is no second ping, but a close.
        assert!(connecting.elapsed() >= Duration::from_millis(1800), "two pings in {:?}", connecting.elapsed());
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
    in_time(nothing_is_left_of_a_silent_one).await;
}

async fn nothing_is_left_of_a_silent_one(factor: u32) -> Result<(), String> {
    let times = Seconds(f64::from(factor));
    let server = TestServer::start_with(|config| {
        config.connections.ping_seconds = times;
        config.connections.pong_seconds = times;
    })
    .await;
    let mut silent = server.connect().await;
    silent.sign_in(&json!({ "id": "silent" })).await;
    silent.subscribe("a").await;
    let last_heard = Instant::now();
    silent.join("presence-room", "silent").await;
    let mut observer = server.connect().await;
    observer.join("presence-room", "observer").await;
    let signed_in = users(&server).await;
    if last_heard.elapsed() >= 2 * times.duration() {
        return Err(format!("it may be closed already after {:?}", last_heard.elapsed()));
    }
    assert!(signed_in.ends_with(" 1"), "{signed_in}");
    // Nobody reads `silent`, so nobody answers for it; whoever reads `observer` answers.
    let removed = match observer.next_text_or_close().await {
        Ok(text) => text,
        Err(close) => return Err(format!("the observer answers too late: {close:?}")),
    };
    assert_eq!(
        removed,
        r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"silent\"}","channel":"presence-room"}"#
    );
    let room = json!({ "channels": { "presence-room": { "user_count": 1 } } });
    let parameters = [("filter_by_prefix", "presence-"), ("info", "user_count")];
    assert_eq!(server.api().get("/channels", &parameters).await.ok(), room);
    assert_eq!(server.api().get("/channels/a", &[]).await.ok()["occupied"], false);
    assert!(users(&server).await.ends_with(" 0"));
    silent.next_event("pusher_internal:member_added").await;
    assert_eq!(silent.next_close().await.0, 4201);
    Ok(())
}

/// The line that tells how many users are signed in.
async fn users(server: &TestServer) -> String {
    let metrics = http::request(server.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    metrics.lines().find(|line| line.starts_with("gema_users{")).unwrap().to_owned()
}

/// A server whose app wants to know within this time who is there. One node: each has a quota of its own.
async fn curious_server(seconds: f64) -> TestServer {
    TestServer::start_single_with(|config| {
        config.limits.enable_user_authentication = true;
        config.limits.user_authentication_timeout_seconds = Seconds(seconds);
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
    in_time(only_the_authorized_are_kept).await;
}

async fn only_the_authorized_are_kept(factor: u32) -> Result<(), String> {
    let time = Duration::from_secs(factor.into());
    let server = curious_server(time.as_secs_f64()).await;
    let (authorized, others, connecting) = within(time, authorized_and_others(&server)).await?;
    for mut client in others {
        assert_eq!(client.next_close().await, (4009, "Connection not authorized within timeout".to_owned()));
    }
    assert!(connecting.elapsed() >= time * 9 / 10, "closed after {:?}", connecting.elapsed());
    for mut client in authorized {
        still_there(&mut client).await;
    }
    Ok(())
}

/// Three connections of each kind, and when the others began to connect.
async fn authorized_and_others(server: &TestServer) -> ([Client; 3], [Client; 3], Instant) {
    let mut signed_in = server.connect().await;
    signed_in.sign_in(&json!({ "id": "me" })).await;
    let mut on_private = server.connect().await;
    on_private.subscribe("private-a").await;
    let mut on_presence = server.connect().await;
    on_presence.join("presence-a", "me").await;

    let connecting = Instant::now();
    let idle = server.connect().await;
    let mut on_public = server.connect().await;
    on_public.subscribe("a").await;
    let mut refused = server.connect().await;
    refused.send(r#"{"event":"pusher:subscribe","data":{"channel":"private-a","auth":"app-key:0"}}"#).await;
    refused.next_event("pusher:subscription_error").await;
    refused.next_event("pusher:error").await;
    ([signed_in, on_private, on_presence], [idle, on_public, refused], connecting)
}

/// From protocol 6 on the code of the close says it all.
#[tokio::test]
async fn an_old_client_is_told_in_an_event_that_it_was_not_authorized_in_time() {
    let server = curious_server(1.0).await;
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
    let server = curious_server(3600.0).await;
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
