//! A page behind a line of 20 KB/s, on a channel where far more is published.
//!
//! `SLOW_LINK_ROUNDS=6000 cargo test --release --test it slow_link -- --nocapture` publishes 10,000 readings/s for a
//! minute.

use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::interval;

use crate::wire::CLOSE;
use crate::wire::TEXT;
use crate::wire::Wire;

const CHANNEL: &str = "scada-realtime";
const SENSORS: usize = 100;
/// Most events of one request.
const BATCH: usize = 10;
/// A round publishes a reading of each sensor, and begins so long after the one before.
const ROUND: Duration = Duration::from_millis(10);
/// The line's bytes in one of its ticks: 20 KB/s.
const TICK_BYTES: usize = 2_000;
const TICK: Duration = Duration::from_millis(100);
/// Most that may wait for the page in the server.
const OUTBOX_MAX: f64 = 64.0 * 1024.0;
/// Most that is on the way to the page, outbox included, once it may read as it likes: what came before the last reading
/// of each sensor.
const LAST_BYTES_MAX: usize = 128 * 1024;

/// The page, and what it has got.
struct Page {
    wire: Wire,
    newest: Vec<u64>,
    bytes: usize,
}

impl Page {
    /// Joins the channel on a connection with little room for what is received.
    async fn join(server: &TestServer) -> Self {
        let mut wire = Wire::connect_narrow(server.address(), "/app/app-key?protocol=7").await;
        wire.subscribe(CHANNEL).await;
        Self { wire, newest: vec![0; SENSORS], bytes: 0 }
    }

    /// Takes one frame. Breaks with the code of a close.
    async fn read(&mut self) -> ControlFlow<u16> {
        match self.wire.next_frame().await {
            Some((TEXT, payload)) => {
                self.bytes += payload.len();
                let event: Value = serde_json::from_slice(&payload).unwrap();
                let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
                let sensor = data["sensor"].as_u64().unwrap() as usize;
                let value = data["value"].as_u64().unwrap();
                assert!(value > self.newest[sensor], "{value} of {sensor} after {}", self.newest[sensor]);
                self.newest[sensor] = value;
                ControlFlow::Continue(())
            }
            Some((CLOSE, payload)) => ControlFlow::Break(u16::from_be_bytes([payload[0], payload[1]])),
            Some((_, payload)) => {
                self.bytes += payload.len();
                ControlFlow::Continue(())
            }
            None => panic!("the connection ended without a close"),
        }
    }

    /// Reads at 20 KB/s until the flood is over.
    async fn read_slowly(&mut self, mut is_over: watch::Receiver<bool>) -> ControlFlow<u16> {
        let mut ticks = interval(TICK);
        while !*is_over.borrow() {
            tokio::select! {
                _ = ticks.tick() => (),
                _ = is_over.changed() => break,
            }
            let until = self.bytes + TICK_BYTES;
            while self.bytes < until && !*is_over.borrow() {
                tokio::select! {
                    step = self.read() => step?,
                    _ = is_over.changed() => (),
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Publishes the rounds over some connections, each for sensors of its own. Returns the last value.
async fn flood(server: &TestServer, rounds: u64) -> u64 {
    let lane = async |lane: usize| {
        let api = server.api();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let (mut ticks, mut answers) = (interval(ROUND), [0; 4096]);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for value in 1..=rounds {
            ticks.tick().await;
            let event = |sensor: usize| {
                let data = json!({ "sensor": sensor, "value": value, "padding": "x".repeat(150) }).to_string();
                json!({ "channel": CHANNEL, "name": "reading", "data": data })
            };
            let batch: Vec<Value> = (0..BATCH).map(|number| event(lane * BATCH + number)).collect();
            let request = api.post_bytes("/batch_events", &json!({ "batch": batch }).to_string());
            stream.write_all(request.as_bytes()).await.unwrap();
            let count = stream.read(&mut answers).await.unwrap();
            assert!(answers[..count].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answers[..count]));
        }
    };
    let lanes: Vec<_> = (0..SENSORS / BATCH).map(lane).collect();
    futures_util::future::join_all(lanes).await;
    rounds
}

fn rounds() -> u64 {
    std::env::var("SLOW_LINK_ROUNDS").map_or(100, |rounds| rounds.parse().unwrap())
}

async fn server(rules: Value) -> TestServer {
    TestServer::start_with(|config| {
        config.limits.flow_rules = serde_json::from_value(rules).unwrap();
        config.connections.backlog_bytes_max = 512 * 1024;
        config.connections.outbox_bytes_max = 256 * 1024;
    })
    .await
}

#[tokio::test]
async fn a_page_on_a_slow_line_has_the_last_value_of_each_sensor_soon_after_the_flood() {
    let rule = json!({ "match": "scada-*", "conflate": { "key": "sensor", "window_ms": 50 } });
    let server = server(json!([rule])).await;
    let mut page = Page::join(&server).await;
    let (over, is_over) = watch::channel(false);
    let publish = async {
        let last = flood(&server, rounds()).await;
        over.send_replace(true);
        last
    };
    let watched = async {
        let (mut most, mut is_over) = (0.0_f64, is_over.clone());
        while !*is_over.borrow() {
            let waiting = server.figure(0, "gema_outbox_bytes", "").await;
            assert!(waiting <= OUTBOX_MAX, "{waiting} bytes wait for one page");
            most = most.max(waiting);
            tokio::select! {
                () = tokio::time::sleep(TICK) => (),
                _ = is_over.changed() => (),
            }
        }
        most
    };
    let (last, slow, most) = tokio::join!(publish, page.read_slowly(is_over.clone()), watched);
    assert_eq!(slow, ControlFlow::Continue(()));
    let before = page.bytes;
    while page.newest.iter().any(|newest| *newest < last) {
        assert_eq!(page.read().await, ControlFlow::Continue(()));
    }
    let late = page.bytes - before;
    println!("{before} bytes came during the flood, {late} after it; at most {most} waited in the outbox");
    // TLS and the tunnel of these tests have buffers of their own.
    let is_tls = std::env::var_os("GEMA_TEST_TLS").is_some();
    let late_max = if is_tls { 2 * LAST_BYTES_MAX } else { LAST_BYTES_MAX };
    assert!(late <= late_max, "{late} bytes came until each sensor was right");
}

#[tokio::test]
async fn without_a_rule_such_a_page_is_closed() {
    let server = server(json!([])).await;
    let mut page = Page::join(&server).await;
    let (over, is_over) = watch::channel(false);
    let publish = async {
        flood(&server, rounds()).await;
        over.send_replace(true);
    };
    let (_, slow) = tokio::join!(publish, page.read_slowly(is_over));
    let mut step = slow;
    while step.is_continue() {
        step = page.read().await;
    }
    assert_eq!(step, ControlFlow::Break(4100));
}
