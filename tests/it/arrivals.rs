//! Connections that never ask for anything, and what one address may have before it asks.

use std::time::Duration;

use futures_util::future::join_all;
use gema::config::Seconds;
use support::barrier::Figures;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Api;
use support::process::Process;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;
use support::server::authority;
use support::tunnel::secured;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::Wire;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0";
const FILES: usize = 256;
/// More than the process may have open.
const CROWD: usize = 300;

/// A process whose silent connections would live for longer than any test.
async fn start(variables: &[(&str, &str)]) -> Process {
    let patient = [("GEMA_HTTP_REQUEST_SECONDS", "3600"), ("GEMA_METRICS_ENABLED", "true")];
    Process::start_with_files_and(FILES, &[&patient, variables].concat()).await
}

async fn crowd(process: &Process, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(process.address).await.unwrap());
    }
    all
}

fn api(process: &Process) -> Api {
    Api::new(process.address, APP_ID, APP_KEY, APP_SECRET)
}

async fn closed(process: &Process) -> f64 {
    Figures::of(process.metrics_address).await.sum("gema_refusals_total", r#"cause="silent_connection""#)
}

/// Waits until so many have been closed at least.
async fn becomes_closed(process: &Process, count: f64) {
    let (name, label) = ("gema_refusals_total", r#"cause="silent_connection""#);
    Figures::become_so(process.metrics_address, name, label, PATIENCE, |closed| closed >= count).await;
}

/// Whether the server has ended a connection.
async fn is_ended(stream: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(1), stream.read_u8()).await.is_ok()
}

#[tokio::test]
async fn silent_connections_do_not_stop_publishing_and_the_oldest_go_first() {
    let process = start(&[]).await;
    let mut listener = Client::open(process.address, PATH, &[]).await;
    listener.established().await;
    listener.subscribe("news").await;
    let mut silent = crowd(&process, CROWD).await;
    for number in 0..10 {
        api(&process).publish("news", "e", &number.to_string()).await;
        assert_eq!(listener.next_event("e").await, number);
    }
    timeout(PATIENCE, silent[0].read_u8()).await.expect("the oldest is still open").unwrap_err();
    becomes_closed(&process, (CROWD - FILES / 2) as f64).await;
    assert!(!is_ended(silent.last_mut().unwrap()).await, "the youngest has been closed");
    // The youngest may still ask.
    let last = silent.last_mut().unwrap();
    last.write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, last.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    process.log.about("silent_connection").await;
}

#[tokio::test]
async fn connections_that_still_send_what_nobody_reads_go_as_silent_ones_do() {
    let process = start(&[]).await;
    let mut lingering = Vec::new();
    for _ in 0..CROWD {
        let mut stream = TcpStream::connect(process.address).await.unwrap();
        // Refused before the body was read, of which the rest never comes.
        let head = "POST /apps/nobody/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        lingering.push(stream);
    }
    for number in 0..10 {
        api(&process).publish("news", "e", &number.to_string()).await;
    }
    becomes_closed(&process, 1.0).await;
}

#[tokio::test]
async fn a_trusted_proxy_is_not_limited_as_one_address() {
    let process = start(&[("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let mut silent = crowd(&process, FILES * 5 / 8).await;
    api(&process).publish("news", "e", "1").await;
    assert_eq!(closed(&process).await, 0.0);
    for stream in &mut silent {
        assert!(!is_ended(stream).await);
    }
}

#[tokio::test]
async fn a_trusted_proxy_that_names_no_client_is_none_itself() {
    let server = TestServer::start_single_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.connections.per_address_max = 1;
        config.connections.handshakes_per_address_per_second = 1;
    })
    .await;
    let mut all = Vec::new();
    for _ in 0..10 {
        all.push(server.connect().await);
    }
    assert_eq!(server.figure(0, "gema_refusals_total", "").await, 0.0);
}

#[tokio::test]
async fn refused_connections_that_linger_count_for_their_address() {
    let server = TestServer::start_single_with(|config| {
        config.connections.per_address_max = 2;
        config.connections.close_seconds = Seconds(3600.0);
    })
    .await;
    let refused = async |path: &str| {
        let (answer, mut wire) = Wire::upgrade(server.address(), &upgrade_head(path, &[])).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        wire.next_event().await;
        let (code, _) = wire.next_close().await;
        (code, wire)
    };
    let mut lingering = Vec::new();
    for path in ["/app/nobody?protocol=7", "/nowhere"] {
        let (code, wire) = refused(path).await;
        assert!([4001, 4005].contains(&code), "{code}");
        lingering.push(wire);
    }
    for path in [PATH, "/app/nobody?protocol=7", "/nowhere"] {
        assert_eq!(refused(path).await.0, 4100, "{path}");
    }
    drop(lingering);
    let mut client = loop {
        let (_, mut wire) = Wire::upgrade(server.address(), &upgrade_head(PATH, &[])).await;
        if wire.next_event().await == "pusher:connection_established" {
            break wire;
        }
    };
    client.subscribe("news").await;
}

#[tokio::test]
async fn an_address_that_connects_too_fast_is_cut_off_before_tls() {
    let server = TestServer::start_single_with(|config| {
        config.tls = authority().issue();
        config.connections.handshakes_per_address_per_second = 5;
    })
    .await;
    let config = std::sync::Arc::new(authority().client());
    let handshake = async || {
        let stream = TcpStream::connect(server.port()).await.unwrap();
        timeout(PATIENCE, secured(stream, std::sync::Arc::clone(&config))).await.unwrap()
    };
    // One after the other may be slow enough on a busy machine.
    let (mut open, mut cut) = (Vec::new(), 0);
    while cut == 0 {
        for result in join_all((0..20).map(|_| handshake())).await {
            match result {
                Ok(stream) => open.push(stream),
                Err(_) => cut += 1,
            }
        }
        assert!(open.len() < 200, "handshakes are not limited");
    }
    assert!(open.len() >= 5, "{} of {}", open.len(), open.len() + cut);
    server.figure_becomes(0, "gema_refusals_total", r#"cause="address_handshakes""#, cut as f64).await;
}

#[tokio::test]
async fn an_application_that_publishes_over_tls_is_not_limited_by_it() {
    let server = TestServer::start_single_with(|config| {
        config.tls = authority().issue();
        config.connections.handshakes_per_address_per_second = 5;
    })
    .await;
    for number in 0..50 {
        server.api().publish("news", "e", &number.to_string()).await;
    }
    server.connect().await;
    assert_eq!(server.figure(0, "gema_refusals_total", "").await, 0.0);
}

#[tokio::test]
async fn an_application_is_believed_to_be_one_by_its_signature_only() {
    let server = TestServer::start_single_with(|config| {
        config.tls = authority().issue();
        config.connections.handshakes_per_address_per_second = 5;
    })
    .await;
    let config = std::sync::Arc::new(authority().client());
    let asked = "OPTIONS /apps/app-id/events HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n\
                 Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let preflight = async || -> std::io::Result<()> {
        let stream = TcpStream::connect(server.port()).await?;
        let mut stream = secured(stream, std::sync::Arc::clone(&config)).await?;
        stream.write_all(asked.as_bytes()).await?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    };
    let (mut answered, mut cut) = (0, 0);
    while cut == 0 {
        for result in join_all((0..20).map(|_| timeout(PATIENCE, preflight()))).await {
            if result.unwrap().is_ok() { answered += 1 } else { cut += 1 }
        }
        assert!(answered < 300, "handshakes are not limited");
    }
    server.figure_becomes(0, "gema_refusals_total", r#"cause="address_handshakes""#, f64::from(cut)).await;
}

#[tokio::test]
async fn refused_websockets_that_stay_leave_the_api_its_reserve() {
    let process = start(&[("GEMA_CONNECTIONS_CLOSE_SECONDS", "60")]).await;
    let mut refused = Vec::new();
    for _ in 0..CROWD {
        let (answer, wire) = Wire::upgrade(process.address, &upgrade_head("/app/nobody?protocol=7", &[])).await;
        assert_eq!(answer.status, 101);
        // Nobody answers its close.
        refused.push(wire);
    }
    for number in 0..10 {
        api(&process).publish("news", "e", &number.to_string()).await;
    }
}
