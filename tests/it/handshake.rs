//! Handshakes as proxies and devices send them, and heads that no server may guess the meaning of.

use std::net::SocketAddr;

use support::client::PATIENCE;
use support::http;
use support::http::Answer;
use support::process::Process;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::Wire;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0";

/// A handshake without these lines.
fn without(lines: &[&str]) -> String {
    let mut head = upgrade_head(PATH, &[]);
    for line in lines {
        assert!(head.contains(line), "{line}");
        head = head.replace(&format!("{line}\r\n"), "");
    }
    head
}

/// As the four set-ups of nginx pass a browser's handshake on.
fn bare_heads() -> [String; 5] {
    let (connection, upgrade) = ("Connection: Upgrade", "Upgrade: websocket");
    let old = |head: String| head.replace("HTTP/1.1", "HTTP/1.0");
    [
        old(without(&[connection, upgrade])).replace("Host", "Connection: close\r\nHost"),
        without(&[connection, upgrade]).replace("Host", "Connection: close\r\nHost"),
        old(upgrade_head(PATH, &[])),
        without(&[connection, upgrade]),
        old(without(&[connection, upgrade])).replace("Host", "Connection: keep-alive\r\nHost"),
    ]
}

async fn lives(wire: &mut Wire) {
    assert_eq!(wire.next_event().await, "pusher:connection_established");
    wire.subscribe("news").await;
}

#[tokio::test]
async fn a_handshake_that_lost_its_upgrade_on_the_way_is_served_and_counted() {
    let server = TestServer::start_single().await;
    for head in bare_heads() {
        let (answer, mut wire) = Wire::upgrade(server.address(), &head).await;
        assert_eq!(answer.status, 101, "{head}");
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        lives(&mut wire).await;
        server.api().publish("news", "e", "1").await;
        assert_eq!(wire.next_text().await, r#"{"event":"e","data":"1","channel":"news"}"#);
    }
    assert_eq!(server.figure(0, "gema_bare_handshakes_total", "").await, 5.0);
    let mut whole = Wire::upgrade(server.address(), &upgrade_head(PATH, &[])).await.1;
    lives(&mut whole).await;
    assert_eq!(server.figure(0, "gema_bare_handshakes_total", "").await, 5.0);
}

#[tokio::test]
async fn a_handshake_that_lost_its_upgrade_leaves_one_line_with_the_remedy() {
    let process = Process::start(&[]).await;
    for _ in 0..3 {
        for head in bare_heads() {
            lives(&mut Wire::upgrade(process.address, &head).await.1).await;
        }
    }
    process.log.find(|line| line.to_string().contains("handshake")).await;
    let lines = process.log.lines();
    let lines: Vec<_> = lines.iter().filter(|line| line.to_string().contains("handshake")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let message = lines[0]["message"].as_str().unwrap();
    for remedy in [
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header Connection \"upgrade\";",
    ] {
        assert!(message.contains(remedy), "{message}");
    }
    assert_eq!(lines[0]["proxy"], "127.0.0.1");
}

#[tokio::test]
async fn the_answer_is_spelled_as_in_the_rfc() {
    let server = TestServer::start().await;
    for head in bare_heads().into_iter().chain([upgrade_head(PATH, &[("Sec-WebSocket-Protocol", "mqtt")])]) {
        let offers = head.contains("mqtt");
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let expected = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{}\r\n",
            if offers { "Sec-WebSocket-Protocol: mqtt\r\n" } else { "" }
        );
        let mut answer = vec![0; expected.len()];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), expected, "{head}");
    }
}

#[tokio::test]
async fn a_handshake_needs_exactly_one_key_of_16_bytes() {
    let server = TestServer::start().await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let refused = async |head: String| {
        let (answer, _) = Wire::upgrade(server.address(), &head).await;
        assert_eq!(answer.status, 400, "{head}");
    };
    for other in ["", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZ_==", "c2hvcnQ=", &"A".repeat(24)] {
        let other = format!("Sec-WebSocket-Key: {other}");
        refused(upgrade_head(PATH, &[]).replace(key, &other)).await;
        refused(without(&["Connection: Upgrade", "Upgrade: websocket"]).replace(key, &other)).await;
    }
    refused(without(&[key])).await;
    refused(upgrade_head(PATH, &[]).replace(key, &format!("{key}\r\n{key}"))).await;
    let nothing = without(&["Connection: Upgrade", "Upgrade: websocket", key]);
    assert_eq!(Wire::upgrade(server.address(), &nothing).await.0.status, 426);
    server.connect().await;
}

#[tokio::test]
async fn slashes_around_the_path_of_a_websocket_are_as_good_as_one() {
    let server = TestServer::start_single().await;
    let prefixed = TestServer::start_single_with(|config| config.server.path_prefix = "/ws".to_owned()).await;
    for (server, paths) in [
        (&server, ["//app/app-key", "/app/app-key/", "/app//app-key", "///app//app-key//"]),
        (&prefixed, ["/ws//app/app-key", "//ws/app/app-key/", "/ws/app/app-key", "//ws///app/app-key"]),
    ] {
        for path in paths {
            let (answer, mut wire) = Wire::upgrade(server.address(), &upgrade_head(path, &[])).await;
            assert_eq!(answer.status, 101, "{path}");
            lives(&mut wire).await;
        }
    }
    // `path` of Pusher's library for PHP is put before what is signed.
    for (server, before) in [(&server, "/"), (&prefixed, "/ws/"), (&prefixed, "//ws")] {
        let (path, body) = (server.api().path("/events"), r#"{"name":"e","channel":"c","data":"1"}"#);
        let query = server.api().signed_query("POST", &path, &[], body);
        let target = format!("{before}{path}?{query}");
        http::request(server.address(), "POST", &target, &[], body.as_bytes()).await.ok();
    }
}

/// A request of these lines, whose connection must end with the answer.
async fn ask(address: SocketAddr, lines: &[&str], body: &str) -> Answer {
    http::raw(address, format!("{}\r\n\r\n{body}", lines.join("\r\n")).as_bytes()).await
}

#[tokio::test]
async fn a_request_names_its_host_once_on_both_ports() {
    let server = TestServer::start_single().await;
    for address in [server.address(), server.metrics_address()] {
        for hosts in [
            &[][..],
            &["Host: a b"],
            &["Host: a", "Host: a"],
            &["Host: a", "host: b"],
            &["Host: a/b"],
            &["Host: a, b"],
            &["Host: me@a"],
            &["Host: a:b"],
        ] {
            let lines = [&["GET /ready HTTP/1.1"], hosts].concat();
            let answer = ask(address, &lines, "").await;
            assert_eq!(answer.status, 400, "{hosts:?}");
            assert!(answer.body.contains("Host"), "{hosts:?}: {answer:?}");
        }
        for (version, host) in [("1.1", "Host: [::1]:6001"), ("1.1", "Host: gema_1:6001"), ("1.1", "Host:")] {
            let request = format!("GET /ready HTTP/{version}");
            assert_eq!(ask(address, &[&request, host, "Connection: close"], "").await.status, 200, "{host}");
        }
        assert_eq!(ask(address, &["GET /ready HTTP/1.0"], "").await.status, 200);
    }
    let (two, head) = ("Host: localhost\r\nHost: localhost", upgrade_head(PATH, &[]));
    assert_eq!(Wire::upgrade(server.address(), &head.replace("Host: localhost", two)).await.0.status, 400);
    server.figure_becomes(0, "gema_refusals_total", r#"app_id="""#, 17.0).await;
}

#[tokio::test]
async fn a_body_is_chunked_once_and_not_encoded_otherwise() {
    let server = TestServer::start_single().await;
    let (path, body) = (server.api().path("/events"), r#"{"name":"e","channel":"c","data":"1"}"#);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let mut client = server.connect().await;
    client.subscribe("c").await;
    let post = async |encodings: &[&str]| {
        let query = server.api().signed_query("POST", &path, &[], body);
        let request = format!("POST {path}?{query} HTTP/1.1");
        let encodings: Vec<_> = encodings.iter().map(|encoding| format!("Transfer-Encoding: {encoding}")).collect();
        let mut lines = vec![&*request, "Host: localhost"];
        lines.extend(encodings.iter().map(String::as_str));
        ask(server.address(), &lines, &chunks).await.status
    };
    for encodings in [&["gzip, chunked"][..], &["gzip", "chunked"], &["identity,chunked"], &["xchunked, chunked"]] {
        assert_eq!(post(encodings).await, 501, "{encodings:?}");
    }
    for encodings in [&["chunked, chunked"][..], &["chunked", "chunked"], &["chunked,Chunked"]] {
        assert_eq!(post(encodings).await, 400, "{encodings:?}");
    }
    client.nothing_came().await;
    let query = server.api().signed_query("POST", &path, &[], body);
    let request = format!("POST {path}?{query} HTTP/1.1");
    let lines = [&*request, "Host: localhost", "Connection: close", "Transfer-Encoding: Chunked"];
    ask(server.address(), &lines, &chunks).await.ok();
    assert_eq!(client.next_event("e").await, 1);
}
