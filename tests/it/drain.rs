//! Leaving: nobody new comes in, everybody is told, nothing accepted is lost, and it ends in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Config;
use gema::config::Seconds;
use gema::server::Drained;
use support::attempts::in_time;
use support::attempts::within;
use support::bus::TestBus;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::process::Process;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::Wire;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7";
const CLOSED: &str = "Server closed. Please reconnect shortly.";

/// One node, without another to take over.
async fn server_with(drain_seconds: f64) -> TestServer {
    TestServer::start_single_with(|config| leave_within(config, drain_seconds)).await
}

/// Two nodes, of which the first one leaves.
async fn nodes_with(drain_seconds: f64) -> TestServer {
    TestServer::start_cluster_with(2, |config| leave_within(config, drain_seconds)).await
}

fn leave_within(config: &mut Config, drain_seconds: f64) {
    config.server.drain_seconds = Seconds(drain_seconds);
    // Each shard spreads its own connections; here there shall be one order for all.
    config.server.workers = 1;
}

// G-60
#[tokio::test]
async fn others_take_over_connections_that_are_closed_spread_over_the_first_half_of_the_time() {
    in_time(closes_are_spread).await;
}

async fn closes_are_spread(factor: u32) -> Result<(), String> {
    const CLIENTS: usize = 60;
    let drain = factor * Duration::from_secs(2);
    let mut server = nodes_with(drain.as_secs_f64()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect_at(0).await);
    }
    let began = Instant::now();
    let closes = clients.into_iter().map(async |mut client| {
        assert_eq!(client.next_close().await, (4200, CLOSED.to_owned()));
        let closed = began.elapsed();
        client.ended().await;
        closed
    });
    let (mut closes, drained) = tokio::join!(join_all(closes), server.drain_at(0));
    assert_eq!(drained.connections, CLIENTS);
    closes.sort();
    assert!(closes[CLIENTS - 1] >= drain * 9 / 20, "{closes:?}");
    let waves = closes.chunk_by(|a, b| *b - *a < Duration::from_millis(5)).count();
    // A busy machine brings many at once, and some after the first half.
    if drained.left > 0 || drained.took >= drain || waves < 5 {
        return Err(format!("{drained:?} in {waves} waves: {closes:?}"));
    }
    Ok(())
}

#[tokio::test]
async fn what_was_accepted_before_is_delivered_before_the_close() {
    const EVENTS: usize = 200;
    let server = server_with(60.0).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect().await;
        client.subscribe("private-orders").await;
        clients.push(client);
    }
    let mut sender = clients.pop().unwrap();
    for number in 0..EVENTS {
        server.api().publish("private-orders", "e", &number.to_string()).await;
    }
    for number in 0..EVENTS {
        sender.send(&format!(r#"{{"event":"client-e","channel":"private-orders","data":"{number}"}}"#)).await;
    }
    sender.settle().await;
    let hear = clients.into_iter().map(async |mut client| {
        for name in ["e", "client-e"] {
            for number in 0..EVENTS {
                assert_eq!(
                    client.next_text().await,
                    format!(r#"{{"event":"{name}","data":"{number}","channel":"private-orders"}}"#)
                );
            }
        }
        assert_eq!(client.next_close().await.0, 4100);
        client.ended().await;
    });
    let leave = async {
        assert_eq!(sender.next_close().await.0, 4100);
        sender.ended().await;
    };
    let (_, (), drained) = tokio::join!(join_all(hear), leave, server.drain());
    assert_eq!(drained.left, 0);
}

// G-61
#[tokio::test]
async fn while_it_leaves_it_says_so_and_takes_nobody_new() {
    in_time(it_says_that_it_leaves).await;
}

async fn it_says_that_it_leaves(factor: u32) -> Result<(), String> {
    let drain = factor * Duration::from_secs(4);
    let mut server = nodes_with(drain.as_secs_f64()).await;
    let (address, metrics_address) = (server.address(), server.metrics_address());
    let ready = async || http::request(metrics_address, "GET", "/ready", &[], b"").await;
    assert_eq!((ready().await.status, ready().await.body.as_str()), (200, "OK"));
    // Accepted before those that come now, but not yet a WebSocket.
    let head = upgrade_head(PATH, &[]);
    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(&head.as_bytes()[..20]).await.unwrap();
    // One of two is closed at once; the other one stays for half of the time.
    let mut clients = vec![server.connect_at(0).await, server.connect_at(0).await];
    let watch = within(drain / 2, async {
        let (first, at, _) =
            futures_util::future::select_all(clients.iter_mut().map(|c| Box::pin(c.next_close()))).await;
        assert_eq!(first.0, 4200);
        let mut gone = clients.remove(at);
        let answer = ready().await;
        assert_eq!(answer.refused(503), "The server is closing. Choose another server.");
        let metrics = http::request(metrics_address, "GET", "/metrics", &[], b"").await;
        assert!(metrics.body.contains("\nsoketi_connected{"), "{metrics:?}");
        for _ in 0..20 {
            assert_refused(address).await;
        }
        late.write_all(&head.as_bytes()[20..]).await.unwrap();
        assert_sent_away(late).await;
        // All that was still within the drain.
        let mut last = clients.remove(0);
        last.nothing_came().await;
        gone.ended().await;
        last
    });
    let end = async {
        let mut last = watch.await?;
        assert_eq!(last.next_close().await.0, 4200);
        last.ended().await;
        Ok::<(), String>(())
    };
    let (watched, drained) = tokio::join!(end, server.drain_at(0));
    watched?;
    all_left(&drained)?;
    assert_eq!(drained.connections, 2);
    assert_refused(address).await;
    assert!(TcpStream::connect(metrics_address).await.is_err(), "the metrics port is still open");
    Ok(())
}

/// Who answers the close too late is left.
fn all_left(drained: &Drained) -> Result<(), String> {
    if drained.left == 0 { Ok(()) } else { Err(format!("{drained:?}")) }
}

/// Who had not finished the handshake hears an error, then the close.
async fn assert_sent_away(mut stream: TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"Please reconnect shortly.") {
        let count = timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("no refusal").unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains(r#"{"event":"pusher:error","data":{"code":4200,"#), "{answer}");
}

/// A newcomer finds no open port, or is sent away without having been established.
async fn assert_refused(address: SocketAddr) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(upgrade_head(PATH, &[]).as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    if let Ok(answer) = timeout(PATIENCE, exchange).await.expect("neither refused nor served") {
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains(r#""code":4200"#), "{answer}");
        assert!(!answer.contains("connection_established"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_has_begun_is_answered_and_its_event_delivered() {
    in_time(what_has_begun_is_answered).await;
}

async fn what_has_begun_is_answered(factor: u32) -> Result<(), String> {
    let drain = factor * Duration::from_secs(2);
    let mut server = nodes_with(drain.as_secs_f64()).await;
    let mut clients = vec![server.connect_at(0).await, server.connect_at(0).await];
    for client in &mut clients {
        client.subscribe("a").await;
    }
    let body = r#"{"name":"late","channel":"a","data":"1"}"#;
    let path = server.api().path("/events");
    let query = server.api().signed_query("POST", &path, &[], body);
    let headers = format!("Host: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("POST {path}?{query} HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.unwrap();
    // The server waits for the body now.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let publish = within(drain / 2, async {
        let (closed, at, _) =
            futures_util::future::select_all(clients.iter_mut().map(|c| Box::pin(c.next_close()))).await;
        assert_eq!(closed.0, 4200);
        let mut gone = clients.remove(at);
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end").unwrap();
        assert_eq!(http::parse(&answer).ok(), serde_json::json!({}));
        let mut left = clients.remove(0);
        assert_eq!(left.next_text().await, r#"{"event":"late","data":"1","channel":"a"}"#);
        gone.ended().await;
        left
    });
    let end = async {
        let mut left = publish.await?;
        assert_eq!(left.next_close().await.0, 4200);
        left.ended().await;
        Ok::<(), String>(())
    };
    let (published, drained) = tokio::join!(end, server.drain_at(0));
    published?;
    all_left(&drained)
}

#[tokio::test]
async fn a_peer_that_does_not_answer_the_close_costs_no_more_than_the_configured_time() {
    in_time(async |_| a_deaf_peer_costs_the_configured_time().await).await;
}

async fn a_deaf_peer_costs_the_configured_time() -> Result<(), String> {
    let server = server_with(1.0).await;
    let mut deaf = Wire::connect(server.address(), PATH).await;
    let stalled_request = TcpStream::connect(server.address()).await.unwrap();
    let idle_metrics = TcpStream::connect(server.metrics_address()).await.unwrap();
    let drained = timeout(PATIENCE, server.drain()).await.expect("the drain does not end");
    assert_eq!((drained.connections, drained.left), (1, 1));
    let took = drained.took;
    assert!(Duration::from_millis(900) < took, "{took:?}");
    assert_eq!(deaf.next_close().await.0, 4100);
    drop((stalled_request, idle_metrics));
    if took < Duration::from_millis(3000) { Ok(()) } else { Err(format!("the drain took {took:?}")) }
}

/// Who is closed first must not be back before a process that is started anew.
#[tokio::test]
async fn alone_it_closes_everybody_soon_so_that_they_return_after_a_second() {
    const CLIENTS: usize = 20;
    let server = server_with(60.0).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect().await);
    }
    let closes = clients.into_iter().map(async |mut client| {
        assert_eq!(client.next_close().await, (4100, CLOSED.to_owned()));
        client.ended().await;
    });
    let (_, drained) = tokio::join!(join_all(closes), server.drain());
    assert_eq!((drained.connections, drained.left), (CLIENTS, 0));
    assert!(drained.took < Duration::from_secs(25), "{drained:?}");
}

/// With nobody to take over, who is closed must not look for others and then wait long.
#[tokio::test]
async fn nodes_that_leave_together_are_each_as_good_as_alone() {
    const CLIENTS: usize = 20;
    let server = TestServer::start_cluster_with(2, |config| leave_within(config, 60.0)).await;
    let mut clients = Vec::new();
    for node in [0, 1] {
        for _ in 0..CLIENTS {
            clients.push(server.connect_at(node).await);
        }
    }
    let closes = clients.into_iter().map(async |mut client| {
        let (code, reason) = client.next_close().await;
        assert_eq!(reason, CLOSED);
        client.ended().await;
        code
    });
    let (codes, drained) = tokio::join!(join_all(closes), server.drain());
    assert_eq!((drained.connections, drained.left), (2 * CLIENTS, 0));
    assert!(drained.took < Duration::from_secs(25), "{drained:?}");
    // Until one node hears of the other some may be sent to it.
    assert!(codes.iter().filter(|&&code| code == 4100).count() > CLIENTS, "{codes:?}");
}

#[tokio::test]
async fn a_node_that_loses_the_bus_while_it_leaves_no_longer_counts_on_others() {
    const CLIENTS: usize = 20;
    let mut bus = TestBus::start().await;
    let mut server = TestServer::start_cluster_on(&bus, 2, |config| leave_within(config, 60.0)).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect_at(0).await);
    }
    let closes = async {
        let all = clients.iter_mut().map(|client| Box::pin(client.next_close()));
        let ((code, _), _, left) = futures_util::future::select_all(all).await;
        assert_eq!(code, 4200);
        bus.kill();
        join_all(left).await
    };
    let (_, drained) = tokio::join!(closes, server.drain_at(0));
    assert!(drained.took < Duration::from_secs(25), "{drained:?}");
}

#[tokio::test]
async fn while_balancers_are_given_notice_everybody_is_served() {
    in_time(serves_during_notice).await;
}

async fn serves_during_notice(factor: u32) -> Result<(), String> {
    let notice = factor * Duration::from_secs(3);
    let server = TestServer::start_single_with(|config| {
        config.server.drain_seconds = Seconds(60.0 + notice.as_secs_f64());
        config.server.drain_notice_seconds = Seconds(notice.as_secs_f64());
    })
    .await;
    let mut before = server.connect().await;
    before.subscribe("a").await;
    let address = server.address();
    let (api, metrics_address) = (server.api(), server.metrics_address());
    let watch = within(notice, async {
        while http::request(metrics_address, "GET", "/ready", &[], b"").await.status == 200 {}
        assert_eq!(http::request(address, "GET", "/ready", &[], b"").await.status, 503);
        let mut late = Client::open(address, PATH, &[]).await;
        late.established().await;
        late.subscribe("a").await;
        api.publish("a", "e", "1").await;
        for client in [&mut before, &mut late] {
            assert_eq!(client.next_text().await, r#"{"event":"e","data":"1","channel":"a"}"#);
        }
        [before, late]
    });
    let end = async {
        for mut client in watch.await? {
            assert_eq!(client.next_close().await.0, 4100);
            client.ended().await;
        }
        Ok::<(), String>(())
    };
    let (watched, drained) = tokio::join!(end, server.drain());
    watched?;
    assert_eq!(drained.left, 0);
    Ok(())
}

#[tokio::test]
async fn a_server_without_connections_leaves_at_once() {
    let server = server_with(60.0).await;
    server.connect().await.close().await;
    let drained = timeout(PATIENCE, server.drain()).await.expect("the drain does not end");
    assert_eq!((drained.connections, drained.left), (0, 0));
}

// G-60, G-61
#[tokio::test]
async fn sigterm_ends_the_program_in_good_order() {
    let process = Process::start(&[("GEMA_SERVER_DRAIN_SECONDS", "60")]).await;
    let address = process.address;
    let ready = http::request(process.metrics_address, "GET", "/ready", &[], b"").await;
    assert_eq!(ready.status, 200);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::open(address, PATH, &[]).await;
        client.established().await;
        clients.push(client);
    }
    process.terminate();
    let hear = clients.into_iter().map(async |mut client| {
        assert_eq!(client.next_close().await, (4100, CLOSED.to_owned()));
        client.ended().await;
    });
    let (_, stopped) = tokio::join!(join_all(hear), process.stopped());
    assert_eq!((&stopped["connections"], &stopped["left"]), (&10.into(), &0.into()), "{stopped}");
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

// G-62
#[tokio::test]
async fn a_full_server_refuses_until_somebody_leaves() {
    // A limit of the process.
    let server = TestServer::start_single_with(|config| config.connections.connections_max = 2).await;
    let mut first = server.connect().await;
    let second = server.connect().await;
    let mut third = server.open(PATH).await;
    third.next_error(Some(4100), "Over capacity").await;
    assert_eq!(third.next_close().await, (4100, "Over capacity".to_owned()));
    third.ended().await;
    first.nothing_came().await;
    second.close().await;
    let mut fourth = server.connect().await;
    fourth.nothing_came().await;
}
