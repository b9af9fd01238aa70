//! Who reads slowly is known by time; and what waits for such readers is bounded all the same.

use std::cell::Cell;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Config;
use gema::config::Seconds;
use serde_json::json;
use support::attempts::in_time;
use support::attempts::unless_late;
use support::attempts::within;
use support::barrier::Figures;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Api;
use support::process::Process;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;
use tokio::time::interval;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::PONG;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;

const PATH: &str = "/app/app-key?protocol=7";

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("burst-{number}")).collect()
}

/// A client on all of these channels.
async fn reader(server: &TestServer, channels: &[String]) -> Client {
    let mut client = server.connect().await;
    for channel in channels {
        client.subscribe(channel).await;
    }
    client
}

/// One request that publishes so many bytes on all of these channels.
async fn trigger(server: &TestServer, channels: &[String], bytes: usize) {
    let body = json!({ "name": "e", "channels": channels, "data": "x".repeat(bytes) });
    server.api().post("/events", &body.to_string()).await.ok();
}

/// The client gets an event of so many bytes on each of these channels, in this order, and nothing else.
async fn receive(client: &mut Client, channels: &[String], bytes: usize) {
    for channel in channels {
        let frame = client.next().await;
        assert_eq!((&frame["event"], &frame["channel"]), (&json!("e"), &json!(channel)));
        assert_eq!(frame["data"].as_str().unwrap().len(), bytes);
    }
}

#[tokio::test]
async fn a_large_event_on_many_channels_at_once_reaches_who_reads() {
    let server = TestServer::start().await;
    for (subscribed, triggered, bytes) in [(21, 20, 99_000), (100, 100, 20_000)] {
        let channels = names(subscribed);
        let mut client = reader(&server, &channels).await;
        let to = &channels[..triggered];
        tokio::join!(trigger(&server, to, bytes), receive(&mut client, to, bytes));
        client.nothing_came().await;
    }
    assert_eq!(server.metric("gema_refusals_total", Some("slow_reader")).await, 0.0);
}

#[tokio::test]
async fn thirty_large_events_at_once_reach_who_reads() {
    let server = TestServer::start().await;
    let channels = vec!["burst".to_owned()];
    let mut client = reader(&server, &channels).await;
    let all = join_all((0..30).map(|_| trigger(&server, &channels, 99_000)));
    let expected = vec!["burst".to_owned(); 30];
    tokio::join!(all, receive(&mut client, &expected, 99_000));
    client.nothing_came().await;
}

/// A reader is judged after a second, and may have 256 KB waiting before.
fn impatient(config: &mut Config) {
    config.connections.outbox_bytes_max = 256 * 1024;
    config.connections.slow_seconds = Seconds(1.0);
}

#[tokio::test]
async fn who_takes_nothing_for_too_long_is_closed_and_the_others_are_not() {
    const EVENTS: usize = 200;
    let server = TestServer::start_with(impatient).await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("feed").await;
    let mut other = server.connect().await;
    other.subscribe("feed").await;
    let padding = "x".repeat(20_000);
    for number in 0..EVENTS {
        server.api().publish("feed", &format!("e{number}"), &padding).await;
        assert_eq!(other.next().await["event"], format!("e{number}"));
    }
    server.metric_becomes("gema_refusals_total", Some("slow_reader"), 1.0).await;
    let dropped = server.metric("gema_drops_total", Some("slow_reader")).await;
    let mut received = 0;
    let code = loop {
        match stalled.next_frame().await.expect("the connection ended without a close") {
            (TEXT, _) => received += 1,
            (CLOSE, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 4100);
    assert!(dropped > 0.0 && received + dropped as usize <= EVENTS, "{received} received, {dropped} dropped");
    other.nothing_came().await;
    assert_eq!(server.metric("soketi_connected", None).await, 1.0);
}

#[tokio::test]
async fn who_takes_something_now_and_then_is_kept_however_far_behind() {
    in_time(who_takes_something_is_kept).await;
}

async fn who_takes_something_is_kept(factor: u32) -> Result<(), String> {
    const EVENTS: usize = 30;
    let slow = factor * Duration::from_secs(3);
    let server = TestServer::start_with(|config| {
        impatient(config);
        config.connections.slow_seconds = Seconds(slow.as_secs_f64());
    })
    .await;
    let mut steady = Wire::connect_narrow(server.address(), PATH).await;
    steady.subscribe("feed").await;
    let padding = "x".repeat(90_000);
    let publish = async {
        for number in 0..EVENTS {
            server.api().publish("feed", &format!("e{number}"), &padding).await;
        }
    };
    let (read_at, pause) = (Cell::new(Instant::now()), Cell::new(Duration::ZERO));
    let longest_pause = || pause.get().max(read_at.get().elapsed());
    let read = async {
        let mut ticks = interval(slow / 15);
        for number in 0..EVENTS {
            ticks.tick().await;
            let event = steady.next_event().await;
            pause.set(longest_pause());
            read_at.set(Instant::now());
            assert_eq!(event, format!("e{number}"));
        }
    };
    let read = unless_late(|| longest_pause() >= slow, read);
    tokio::join!(publish, read).1?;
    assert_eq!(server.metric("soketi_connected", None).await, 1.0);
    Ok(())
}

#[tokio::test]
async fn nobody_may_have_more_waiting_than_the_hard_bound() {
    let server = TestServer::start_with(|config| {
        config.connections.outbox_bytes_max = 64 * 1024;
        config.connections.backlog_bytes_max = 256 * 1024;
        config.connections.slow_seconds = Seconds(86_400.0);
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("feed").await;
    for _ in 0..100 {
        server.api().publish("feed", "e", &"x".repeat(20_000)).await;
    }
    server.metric_becomes("gema_refusals_total", Some("slow_reader_backlog"), 1.0).await;
}

/// Waits until the figure of the one node is like this; returns it.
async fn becomes(server: &TestServer, name: &str, so: impl Fn(f64) -> bool) -> f64 {
    Figures::become_so(server.metrics_address(), name, "", PATIENCE, so).await
}

#[tokio::test]
async fn when_all_together_hold_too_much_the_slowest_goes_first() {
    const EACH: usize = 24;
    let server = TestServer::start_single_with(|config| {
        config.server.workers = 1;
        // Enough for two readers and what has been begun of the others, but not for three.
        config.connections.waiting_bytes_max = 5_000_000;
        config.connections.slow_seconds = Seconds(86_400.0);
    })
    .await;
    let mut stalled = Vec::new();
    let padding = "x".repeat(90_000);
    for number in 0..4 {
        let channel = format!("feed-{number}");
        let mut wire = Wire::connect_narrow(server.address(), PATH).await;
        wire.subscribe(&channel).await;
        for _ in 0..EACH {
            server.api().publish(&channel, "e", &padding).await;
        }
        stalled.push(wire);
        if number == 0 {
            becomes(&server, "gema_outbox_memory_bytes", |held| held > 1_700_000.0).await;
        }
    }
    server.metric_becomes("gema_refusals_total", Some("slow_reader_memory"), 2.0).await;
    becomes(&server, "gema_outbox_memory_bytes", |held| held < 6_000_000.0).await;
    for (number, wire) in stalled.iter_mut().enumerate() {
        let mut events = 0;
        let closed = loop {
            match wire.next_frame().await {
                Some((TEXT, _)) if events == EACH - 1 => break false,
                Some((TEXT, _)) => events += 1,
                _ => break true,
            }
        };
        assert_eq!(closed, number < 2, "reader {number} after {events} events");
    }
}

/// The event is large for one reader, and small for the process.
#[tokio::test]
async fn what_waits_for_many_is_held_once() {
    const READERS: usize = 20;
    let server = TestServer::start_single_with(|config| {
        config.server.workers = 1;
        config.connections.slow_seconds = Seconds(86_400.0);
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        let mut wire = Wire::connect_narrow(server.address(), PATH).await;
        wire.subscribe("feed").await;
        stalled.push(wire);
    }
    for _ in 0..20 {
        server.api().publish("feed", "e", &"x".repeat(90_000)).await;
    }
    let waiting = becomes(&server, "gema_outbox_bytes", |waiting| waiting > 10_000_000.0).await;
    let held = server.figure(0, "gema_outbox_memory_bytes", "").await;
    assert!(held < 2_500_000.0, "{waiting} bytes wait, {held} are held");
    for wire in &mut stalled {
        for _ in 0..20 {
            wire.next_text().await;
        }
    }
    server.figure_becomes(0, "gema_outbox_memory_bytes", "", 0.0).await;
}

#[tokio::test]
async fn who_pings_and_never_reads_has_one_pong_waiting() {
    const PINGS: usize = 30_000;
    let server = TestServer::start_single_with(|config| config.connections.outbox_bytes_max = 64 * 1024).await;
    let mut wire = Wire::connect_narrow(server.address(), PATH).await;
    let some = masked(PING, &[b'x'; 100]).repeat(PINGS / 100);
    for _ in 0..100 {
        wire.send_bytes(&some).await;
    }
    wire.send_text(r#"{"event":"pusher:subscribe","data":{"channel":"behind"}}"#).await;
    server.metric_becomes("gema_channels", None, 1.0).await;
    let held = becomes(&server, "gema_outbox_memory_bytes", |held| held > 0.0).await;
    assert!(held < 50_000.0, "{held} bytes are held for one that does not read");
}

#[tokio::test]
async fn publishers_are_served_while_many_flood() {
    // On a busy machine the flood may go on while the requests are not even sent.
    in_time(async |_| few_messages_come_before_requests().await).await;
}

async fn few_messages_come_before_requests() -> Result<(), String> {
    const FLOODERS: usize = 10;
    const BYTES: usize = 128 * 1024;
    let server = TestServer::start_single_with(|config| config.server.workers = 1).await;
    let mut flooders = Vec::new();
    for _ in 0..FLOODERS {
        flooders.push(Wire::connect(server.address(), PATH).await);
    }
    let ping = masked(TEXT, br#"{"event":"pusher:pong"}"#);
    let flood = ping.repeat(BYTES / ping.len());
    let messages = (FLOODERS * (BYTES / ping.len())) as f64;
    let sending = join_all(flooders.iter_mut().map(async |wire| wire.send_bytes(&flood).await));
    let publishing = async {
        let name = "soketi_ws_messages_received_total";
        let before = becomes(&server, name, |received| received > 0.0).await;
        for _ in 0..5 {
            server.api().publish("a", "e", "").await;
        }
        server.metric(name, None).await - before
    };
    let (_, taken) = tokio::join!(sending, publishing);
    server.metric_becomes("soketi_ws_messages_received_total", None, messages).await;
    if taken < messages / 4.0 {
        return Ok(());
    }
    Err(format!("{taken} messages of a flood of {messages} came before five requests"))
}

/// The time in which a process is stopped is not the time of its readers.
#[tokio::test]
async fn a_process_that_was_stopped_closes_nobody_who_has_read_meanwhile() {
    in_time(a_stopped_process_closes_nobody).await;
}

async fn a_stopped_process_closes_nobody(factor: u32) -> Result<(), String> {
    const EVENTS: usize = 60;
    let slow = factor * Duration::from_secs(3);
    let process = Process::start(&[
        ("GEMA_SERVER_WORKERS", "1"),
        ("GEMA_CONNECTIONS_OUTBOX_BYTES_MAX", "65536"),
        ("GEMA_CONNECTIONS_SLOW_SECONDS", &slow.as_secs().to_string()),
    ])
    .await;
    let began = Instant::now();
    let mut reader = Wire::connect_narrow(process.address, PATH).await;
    reader.subscribe("feed").await;
    let api = Api::new(process.address, APP_ID, APP_KEY, APP_SECRET);
    for _ in 0..EVENTS {
        api.publish("feed", "e", &"x".repeat(20_000)).await;
    }
    process.signal("STOP");
    if began.elapsed() >= slow {
        return Err(format!("the reader may be closed already after {:?}", began.elapsed()));
    }
    let mut received = 0;
    // The reader gets the bytes that the kernel has, then nothing for as long as a slow reader may take.
    while let Ok(frame) = timeout(slow + Duration::from_millis(500), reader.next_frame()).await {
        assert_eq!(frame.expect("the connection ended").0, TEXT);
        received += 1;
    }
    assert!(received < EVENTS - 5, "the reader has not stalled: {received}");
    process.signal("CONT");
    within(slow, async {
        while received < EVENTS {
            assert_eq!(reader.next_event().await, "e", "after {received}");
            received += 1;
        }
    })
    .await
}

/// Its ping waits behind the events, so the answer cannot come in time.
#[tokio::test]
async fn who_reads_all_the_time_may_answer_a_ping_when_it_comes() {
    in_time(a_ping_is_answered_when_it_comes).await;
}

async fn a_ping_is_answered_when_it_comes(factor: u32) -> Result<(), String> {
    const EVENTS: usize = 100;
    let pong = Duration::from_secs(factor.into());
    let server = TestServer::start_with(|config| {
        config.connections.ping_seconds = Seconds(1.0);
        config.connections.pong_seconds = Seconds(pong.as_secs_f64());
    })
    .await;
    let mut steady = Wire::connect_narrow(server.address(), PATH).await;
    steady.subscribe("feed").await;
    let publish = async {
        for _ in 0..EVENTS {
            server.api().publish("feed", "e", &"x".repeat(90_000)).await;
        }
    };
    let (read_at, pause) = (Cell::new(Instant::now()), Cell::new(Duration::ZERO));
    let longest_pause = || pause.get().max(read_at.get().elapsed());
    let read = async {
        let mut ticks = interval(pong / 10);
        let mut events = 0;
        while events < EVENTS {
            ticks.tick().await;
            let frame = steady.next_frame().await;
            pause.set(longest_pause());
            read_at.set(Instant::now());
            match frame.expect("the connection ended") {
                (TEXT, _) => events += 1,
                (PING, payload) => steady.send(PONG, &payload).await,
                other => panic!("{other:?} after {events} events"),
            }
        }
    };
    tokio::join!(publish, unless_late(|| longest_pause() >= pong / 2, read)).1
}

#[tokio::test]
async fn what_a_cache_channel_remembers_is_held_once_for_all_who_join() {
    const READERS: usize = 10;
    const ROUNDS: usize = 10;
    let server = TestServer::start_single_with(|config| {
        config.server.workers = 1;
        config.connections.outbox_bytes_max = 16 * 1024 * 1024;
    })
    .await;
    server.api().publish("cache-x", "e", &"x".repeat(90_000)).await;
    let mut stalled = Vec::new();
    for number in 0..READERS {
        let mut wire = Wire::connect_narrow(server.address(), PATH).await;
        for _ in 0..ROUNDS {
            wire.send_text(r#"{"event":"pusher:subscribe","data":{"channel":"cache-x"}}"#).await;
            wire.send_text(r#"{"event":"pusher:unsubscribe","data":{"channel":"cache-x"}}"#).await;
        }
        wire.send_text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"end-{number}"}}}}"#)).await;
        stalled.push(wire);
    }
    server.metric_becomes("gema_channels", None, READERS as f64).await;
    let waiting = becomes(&server, "gema_outbox_bytes", |waiting| waiting > 3_000_000.0).await;
    let held = server.figure(0, "gema_outbox_memory_bytes", "").await;
    assert!(held < 300_000.0, "{waiting} bytes wait, {held} are held");
    drop(stalled);
    server.figure_becomes(0, "gema_outbox_memory_bytes", "", 0.0).await;
}

#[tokio::test]
async fn who_has_little_waiting_is_not_closed_for_what_others_hold() {
    let server = TestServer::start_single_with(|config| {
        config.server.workers = 1;
        // Enough for two of the others and what has been begun of the rest, but not for three.
        config.connections.waiting_bytes_max = 5_000_000;
        config.connections.slow_seconds = Seconds(86_400.0);
    })
    .await;
    let waiting = async || server.figure(0, "gema_outbox_bytes", "").await;
    let mut idle = Wire::connect_narrow(server.address(), PATH).await;
    idle.subscribe("idle").await;
    let stall = async {
        while waiting().await == 0.0 {
            server.api().publish("idle", "e", &"x".repeat(20_000)).await;
        }
    };
    timeout(PATIENCE, stall).await.expect("the reader does not stall");
    // It is stalled for longer than anybody else.
    sleep(Duration::from_millis(1500)).await;
    let mut others = Vec::new();
    for number in 0..4 {
        let channel = format!("feed-{number}");
        let mut wire = Wire::connect_narrow(server.address(), PATH).await;
        wire.subscribe(&channel).await;
        for _ in 0..24 {
            server.api().publish(&channel, "e", &"x".repeat(90_000)).await;
        }
        others.push(wire);
    }
    server.metric_becomes("gema_refusals_total", Some("slow_reader_memory"), 2.0).await;
    server.api().publish("idle", "last", "").await;
    let reaches_the_end = async { while idle.next_event().await != "last" {} };
    timeout(PATIENCE, reaches_the_end).await.expect("the idle reader gets nothing more");
}
