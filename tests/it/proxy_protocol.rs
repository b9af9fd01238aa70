//! The PROXY protocol before WebSockets and requests.

use std::net::SocketAddr;

use gema::config::Config;
use support::client::PATIENCE;
use support::http;
use support::process::Process;
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
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn believe_proxies(config: &mut Config) {
    config.server.proxy_protocol = true;
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    // The header stands before TLS, so these tests speak for themselves.
    config.tls = gema::config::Tls::default();
}

fn one(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let own = if client.contains(':') { "::1" } else { "10.0.0.1" };
    format!("PROXY {family} {client} {own} 50000 443\r\n").into_bytes()
}

fn two(client: [u8; 4], secure: bool) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14".to_vec();
    header.extend_from_slice(&client);
    header.extend_from_slice(&[10, 0, 0, 1, 0xc3, 0x50, 0x01, 0xbb]);
    header.extend_from_slice(&[0x20, 0, 5, u8::from(secure), 0, 0, 0, 0]);
    header
}

/// The first event of a WebSocket behind this header.
async fn first_event(address: SocketAddr, header: &[u8]) -> (Wire, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(header).await.unwrap();
    let (answer, mut wire) = Wire::upgrade_on(stream, &upgrade_head(PATH, &[])).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    let event = wire.next_text().await;
    (wire, event)
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let server = TestServer::start_single_with(|config| {
        believe_proxies(config);
        config.connections.per_address_max = 1;
    })
    .await;
    let address = server.address();
    let mut open = Vec::new();
    for header in [one("192.0.2.1"), one("2001:db8::1"), two([192, 0, 2, 2], false), one("192.0.2.3")] {
        let (wire, event) = first_event(address, &header).await;
        assert!(event.contains("connection_established"), "{event}");
        open.push(wire);
    }
    for header in [one("192.0.2.1"), two([192, 0, 2, 1], true), one("2001:db8::2"), two([192, 0, 2, 3], false)] {
        assert!(first_event(address, &header).await.1.contains("Too many connections"));
    }
    // In its own name a proxy is not limited.
    for header in [&b"PROXY UNKNOWN\r\n"[..], LOCAL, LOCAL] {
        open.push(first_event(address, header).await.0);
    }
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_together_with_a_request() {
    let server = TestServer::start_single_with(believe_proxies).await;
    let request = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for header in [one("192.0.2.1"), two([192, 0, 2, 2], true)] {
        let whole = [&header[..], request].concat();
        assert_eq!(http::raw(server.address(), &whole).await.body, "OK");
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in whole {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(http::parse(&answer).body, "OK");
    }
    // The metrics port is nobody's but the operator's.
    assert_eq!(http::raw(server.metrics_address(), request).await.body, "OK");
}

#[tokio::test]
async fn a_proxy_says_that_its_client_speaks_tls() {
    let server = TestServer::start_single_with(|config| {
        believe_proxies(config);
        config.limits.require_tls = true;
    })
    .await;
    let established = async |secure| {
        let (_wire, event) = first_event(server.address(), &two([192, 0, 2, 2], secure)).await;
        event.contains("connection_established")
    };
    assert!(established(true).await);
    assert!(!established(false).await);
}

#[tokio::test]
async fn tls_follows_the_header() {
    let server = TestServer::start_single_with(|config| {
        believe_proxies(config);
        config.tls = authority().issue();
    })
    .await;
    let mut stream = TcpStream::connect(server.port()).await.unwrap();
    stream.write_all(&one("192.0.2.1")).await.unwrap();
    let mut stream = secured(stream, std::sync::Arc::new(authority().client())).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(http::parse(&answer).status, 200);
}

/// What the server answers to these bytes, until it ends the connection.
async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is kept");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_header_that_nobody_wants_ends_the_connection_and_the_log_says_what_to_set() {
    let request = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let others = [("GEMA_SERVER_PROXY_PROTOCOL", "true"), ("GEMA_SERVER_TRUSTED_PROXIES", "192.0.2.9")];
    for (variables, setting) in [(&[][..], "server.proxy_protocol"), (&others[..], "server.trusted_proxies")] {
        let process = Process::start(variables).await;
        for header in [one("192.0.2.1"), two([192, 0, 2, 2], true)] {
            assert_eq!(answer(process.address, &[&header[..], request].concat()).await, "");
        }
        let line = process.log.about("proxy_header").await;
        assert!(line.to_string().contains(setting), "{line}");
        // Everybody else is served.
        assert!(answer(process.address, request).await.ends_with("OK"));
    }
}

#[tokio::test]
async fn a_trusted_proxy_without_a_header_is_not_believed_to_be_a_client() {
    let process =
        Process::start(&[("GEMA_SERVER_PROXY_PROTOCOL", "true"), ("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1")]).await;
    for bytes in [
        &b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[..],
        b"PROXY TCP4 nobody nowhere 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xffxxxx",
        &[b'P'; 300],
    ] {
        assert_eq!(answer(process.address, bytes).await, "");
    }
    let line = process.log.about("proxy_header_missing").await.to_string();
    assert!(line.contains("server.proxy_protocol") && line.contains("server.trusted_proxies"), "{line}");
}

#[tokio::test]
async fn a_proxy_that_does_not_tell_of_tls_is_told_of_and_its_client_is_not_to_be_trusted() {
    let process = Process::start(&[
        ("GEMA_SERVER_PROXY_PROTOCOL", "true"),
        ("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1"),
        ("GEMA_LIMITS_REQUIRE_TLS", "true"),
    ])
    .await;
    let mut stream = TcpStream::connect(process.address).await.unwrap();
    stream.write_all(&one("192.0.2.1")).await.unwrap();
    let (answer, _wire) = Wire::upgrade_on(stream, &upgrade_head(PATH, &[("x-forwarded-proto", "https")])).await;
    assert_eq!(answer.status, 101);
    let line = process.log.about("connect_tls").await;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("send-proxy-v2-ssl") && !detail.contains("192.0.2.1"), "{line}");
}
