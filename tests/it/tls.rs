//! TLS on the main port, and clients that are on the wrong one.

use std::fs;
use std::sync::Arc;

use futures_util::future::join_all;
use gema::config::AppEntry;
use gema::config::Config;
use gema::config::Seconds;
use gema::config::Tls;
use gema::server::Server;
use gema::tls::Certificates;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS12;
use serde_json::json;
use support::barrier::Figures;
use support::certificates::Authority;
use support::certificates::file;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Answer;
use support::server::TestServer;
use support::server::authority;
use support::tunnel::Tunnel;
use support::tunnel::secured;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::wire::CLOSE;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0";

/// A server whose main port speaks TLS.
async fn start() -> TestServer {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_single_with(|config| {
        config.tls = authority().issue();
        change(config);
    })
    .await
}

async fn open(server: &TestServer, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    secured(TcpStream::connect(server.port()).await.unwrap(), Arc::new(config)).await
}

/// So many have been refused for this cause.
async fn refused(server: &TestServer, cause: &str, count: f64) {
    server.figure_becomes(0, "gema_refusals_total", &format!("cause=\"{cause}\""), count).await;
}

const CERTIFICATE_END: &str = "gema_tls_certificate_expiration_timestamp_seconds";

/// The certificates that the server shows.
async fn shown(server: &TestServer) -> Vec<CertificateDer<'static>> {
    let stream = open(server, authority().client()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap().to_vec()
}

fn certificate(tls: &Tls) -> String {
    fs::read_to_string(&tls.cert_path).unwrap()
}

/// Why these files cannot be used.
fn fault(tls: &Tls) -> String {
    Certificates::load(tls).expect_err("the files cannot be used").to_string()
}

#[tokio::test]
async fn websockets_and_requests_go_over_tls() {
    let server = start_with(|config| config.limits.require_tls = true).await;
    let mut client = server.connect().await;
    client.subscribe("news").await;
    server.api().publish("news", "e", "over TLS").await;
    assert_eq!(client.next_text().await, r#"{"event":"e","data":"over TLS","channel":"news"}"#);
    assert_eq!(server.api().get("/channels", &[]).await.ok(), json!({ "channels": { "news": {} } }));
    client.close().await;
    server.metric_becomes("soketi_connected", None, 0.0).await;
}

#[tokio::test]
async fn tls_1_2_and_http_1_1_are_spoken_and_http_2_alone_is_not() {
    let server = start().await;
    let mut old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(authority().roots())
        .with_no_client_auth();
    old.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut stream = open(&server, old).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(exchange(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.status, 200);
    let mut modern = authority().client();
    modern.alpn_protocols = vec![b"h2".to_vec()];
    assert!(open(&server, modern).await.is_err(), "HTTP/2 is agreed on");
}

async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no answer").unwrap();
    http::parse(&answer)
}

#[tokio::test]
async fn what_comes_together_with_the_upgrade_is_read() {
    let server = start().await;
    let mut stream = open(&server, authority().client()).await.unwrap();
    let subscribe = masked(TEXT, br#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#);
    stream.write_all(&[upgrade_head(PATH, &[]).as_bytes(), &subscribe].concat()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("subscription_succeeded") {
        assert!(timeout(PATIENCE, stream.read_buf(&mut received)).await.expect("nothing came").unwrap() > 0);
    }
}

#[tokio::test]
async fn a_connection_ends_with_a_word_of_tls() {
    let server = start().await;
    let mut stream = open(&server, authority().client()).await.unwrap();
    stream
        .write_all(&[upgrade_head(PATH, &[]).as_bytes(), &masked(CLOSE, &1000_u16.to_be_bytes())].concat())
        .await
        .unwrap();
    let mut received = Vec::new();
    // An end of TCP alone would be an error.
    timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server does not close").unwrap();
    assert!(received.ends_with(&[CLOSE, 2, 0x03, 0xE8]), "{:?}", String::from_utf8_lossy(&received));
}

#[tokio::test]
async fn ten_thousand_small_frames_arrive_in_order_in_both_directions() {
    const FRAMES: usize = 10_000;
    let server = start_with(|config| config.connections.outbox_bytes_max = 64 * 1024 * 1024).await;
    let (mut sender, mut receiver) = (server.connect().await, server.connect().await);
    sender.subscribe("private-feed").await;
    receiver.subscribe("private-feed").await;
    let texts: Vec<String> = (0..FRAMES)
        .map(|number| format!(r#"{{"event":"client-e","data":"{number}","channel":"private-feed"}}"#))
        .collect();
    let receive = async {
        for text in &texts {
            assert_eq!(&receiver.next_text().await, text);
        }
    };
    tokio::join!(sender.send_together(&texts), receive);
    receiver.nothing_came().await;
}

#[tokio::test]
async fn records_that_come_byte_by_byte_are_put_together() {
    let server = start().await;
    let mut config = authority().client();
    config.max_fragment_size = Some(64);
    let tunnel = Tunnel::start_split(server.port(), Arc::new(config));
    let mut client = Client::open(tunnel.address(), PATH, &[]).await;
    client.established().await;
    client.subscribe("news").await;
    let text = json!({ "event": "client-e", "channel": "news", "data": "x".repeat(2000) }).to_string();
    client.send(&text).await;
    client.next_error(None, "Client event rejected - only supported on private and presence channels").await;
    client.nothing_came().await;
}

#[tokio::test]
async fn a_large_backlog_is_read_late_and_whole() {
    const EVENTS: usize = 200;
    let server = start_with(|config| config.connections.outbox_bytes_max = 64 * 1024 * 1024).await;
    let mut late = Wire::connect_narrow(server.address(), PATH).await;
    late.subscribe("feed").await;
    let padding = "x".repeat(90_000);
    for number in 0..EVENTS {
        server.api().publish("feed", &format!("e{number}"), &padding).await;
    }
    Figures::become_so(server.metrics_address(), "gema_outbox_bytes", "", PATIENCE, |waiting| waiting > 0.0).await;
    for number in 0..EVENTS {
        assert_eq!(late.next_text().await, format!(r#"{{"event":"e{number}","data":"{padding}","channel":"feed"}}"#));
    }
    server.figure_becomes(0, "gema_outbox_bytes", "", 0.0).await;
}

/// A reader that is behind on a channel with a flow rule gets the newest event of each key, also where frames wait to be
/// encrypted.
#[tokio::test]
async fn a_reader_that_is_behind_catches_up() {
    const ROUNDS: usize = 200;
    let server = start_with(|config| {
        let rule = json!([{ "match": "scada", "conflate": { "key": "k", "window_ms": 1 } }]);
        config.limits.flow_rules = serde_json::from_value(rule).unwrap();
        config.connections.outbox_bytes_max = 256 * 1024;
        config.connections.slow_seconds = Seconds(1.0);
        config.connections.behind_seconds = Seconds(3600.0);
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("scada").await;
    let mut page = server.connect().await;
    page.subscribe("scada").await;
    let text = |key: &str, number: usize| format!(r#"{{"k":"{key}","n":{number},"p":"{}"}}"#, "x".repeat(20_000));
    for number in 0..=ROUNDS {
        for key in ["a", "b"] {
            server.api().publish("scada", "reading", &text(key, number)).await;
            while !page.next_text().await.contains(&format!(r#"\"n\":{number},"#)) {}
        }
    }
    assert!(server.figure(0, "gema_flow_events_total", "outcome=\"behind\"").await > 0.0, "nobody was behind");
    let (mut last, mut count) = ([None, None], 0);
    while last != [Some(ROUNDS), Some(ROUNDS)] {
        let event: serde_json::Value = serde_json::from_str(&stalled.next_text().await).unwrap();
        let data: serde_json::Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        let place = usize::from(data["k"] == "b");
        let number = data["n"].as_u64().map(|number| number as usize);
        assert!(last[place] < number, "{number:?} after {:?}", last[place]);
        last[place] = number;
        count += 1;
    }
    assert!(count < 2 * ROUNDS, "it has skipped some");
    assert_eq!(server.metric("gema_refusals_total", Some("slow_reader")).await, 0.0);
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_closed_with_4100() {
    const EVENTS: usize = 400;
    let server = start_with(|config| {
        config.connections.outbox_bytes_max = 256 * 1024;
        config.connections.backlog_bytes_max = 256 * 1024;
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("feed").await;
    let padding = "x".repeat(20_000);
    for number in 0..EVENTS {
        server.api().publish("feed", &format!("e{number}"), &padding).await;
    }
    server.metric_becomes("soketi_connected", None, 0.0).await;
    assert!(server.metric("gema_drops_total", Some("slow_reader")).await > 0.0, "nothing was dropped");
    let mut received = 0;
    let close = loop {
        match stalled.next_frame().await.expect("the connection ended without a close") {
            (TEXT, payload) => {
                let event = format!(r#"{{"event":"e{received}","data":"{padding}","channel":"feed"}}"#);
                assert_eq!(String::from_utf8(payload).unwrap(), event);
            }
            (CLOSE, payload) => break payload,
            other => panic!("{other:?}"),
        }
        received += 1;
    };
    assert_eq!(close[..2], 4100_u16.to_be_bytes());
    assert!((1..EVENTS).contains(&received), "{received}");
}

#[tokio::test]
async fn half_handshakes_are_cut_and_hold_up_nobody() {
    // Time enough for a handshake that is in no way slow.
    let server = start_with(|config| config.http.request_seconds = Seconds(5.0)).await;
    let half = join_all((0..50).map(|_| async {
        let mut stream = TcpStream::connect(server.port()).await.unwrap();
        // The beginning of a ClientHello of 512 bytes.
        stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        stream
    }))
    .await;
    server.connect().await.close().await;
    for mut stream in half {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("half a handshake is waited for");
    }
    refused(&server, "tls_handshake", 50.0).await;
}

#[tokio::test]
async fn garbage_on_a_port_with_tls_is_counted() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.port()).await.unwrap();
    stream.write_all(&[0x16; 600]).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("garbage is waited for");
    refused(&server, "tls_handshake", 1.0).await;
    // After the handshake.
    let mut stream = open(&server, authority().client()).await.unwrap();
    stream.write_all(upgrade_head(PATH, &[]).as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    stream.get_mut().0.write_all(&[0x55; 600]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("garbage is read as TLS");
    server.metric_becomes("soketi_connected", None, 0.0).await;
    server.connect().await.close().await;
}

#[tokio::test]
async fn a_client_without_tls_hears_in_plain_words_that_it_is_wrong() {
    let server = start().await;
    let upgrade = upgrade_head(PATH, &[]);
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /apps/app-id/events HTTP/1.0\r\n\r\n", &upgrade] {
        let answer = http::raw(server.port(), request.as_bytes()).await;
        assert_eq!(answer.refused(400), "This port speaks TLS: use https:// and wss://", "{request}");
    }
    // A probe that says nothing is no client.
    drop(TcpStream::connect(server.port()).await.unwrap());
    server.connect().await.close().await;
    refused(&server, "plain_on_tls_port", 3.0).await;
    assert_eq!(http::request(server.metrics_address(), "GET", "/ready", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_client_with_tls_on_a_plain_port_is_cut_off_and_counted() {
    let server = TestServer::start_single_with(|config| config.tls = Tls::default()).await;
    assert!(open(&server, authority().client()).await.is_err());
    // A hello of which the first byte comes alone.
    let mut stream = TcpStream::connect(server.port()).await.unwrap();
    stream.write_all(&[0x16]).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("TLS is waited for");
    assert!(answer.is_empty(), "{answer:?}");
    refused(&server, "tls_on_plain_port", 2.0).await;
    server.connect().await.close().await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let mut server = start().await;
    let before = shown(&server).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(server.figure(0, CERTIFICATE_END, "").await > now);
    let mut living = server.connect().await;
    let new = authority().issue();
    server.reload(|config| config.tls = new.clone()).await;
    let after = shown(&server).await;
    assert_ne!(after, before);
    living.nothing_came().await;
    // 2020-01-01, as `a_certificate_that_has_ended_is_warned_of` has it.
    server.reload(|config| config.tls = authority().issue_until(2020)).await;
    assert_eq!(server.figure(0, CERTIFICATE_END, "").await, 1_577_836_800.0);
    server.reload(|config| config.tls = new.clone()).await;
    let after = shown(&server).await;
    for broken in [Tls { key_path: authority().issue().key_path, ..new.clone() }, Tls::default()] {
        server.reload(|config| config.tls = broken).await;
        assert_eq!(shown(&server).await, after);
    }
    let with_another_app = |config: &mut Config| {
        config.tls = Tls { key_path: authority().issue().key_path, ..new };
        config.apps = vec![AppEntry::new("other", "other-key", "other-secret")];
    };
    server.reload(with_another_app).await;
    living.nothing_came().await;
    server.connect().await;
}

#[tokio::test]
async fn a_chain_is_completed_from_the_authorities() {
    let root = Authority::self_signed();
    let (outer, stranger) = (root.intermediate(), Authority::self_signed());
    let alone = outer.issue();
    let ca_path = file(&[&*stranger.pem, &root.pem, &outer.pem].concat());
    let completed = Tls { ca_path, ..alone.clone() };
    let bundled = Tls { cert_path: file(&[certificate(&alone), outer.pem.clone()].concat()), ..alone.clone() };
    for (tls, trusted) in [(alone, false), (completed, true), (bundled, true)] {
        let server = TestServer::start_single_with(|config| config.tls = tls).await;
        assert_eq!(open(&server, root.client()).await.is_ok(), trusted);
        assert!(open(&server, stranger.client()).await.is_err());
    }
}

#[tokio::test]
async fn encrypted_keys_are_opened_with_the_passphrase() {
    let path = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let with = |key: &str, passphrase: &str| Tls {
        cert_path: path("certificate.pem"),
        key_path: path(key),
        passphrase: gema::config::Secret::new(passphrase),
        ca_path: String::new(),
    };
    Certificates::load(&with("encrypted.key", "hush")).unwrap();
    assert!(fault(&with("encrypted.key", "")).contains(", but tls.passphrase is empty; "));
    for tls in [with("encrypted.key", "hash"), with("encrypted_by_openssl.key", "hush")] {
        let fault = fault(&tls);
        assert!(fault.starts_with("tls.passphrase does not open"), "{fault}");
        assert!(fault.contains("openssl pkcs8 -topk8") && !fault.contains("hush"), "{fault}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_told_to_be_what_they_are() {
    let path = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    for (key, kind) in [
        ("p521.key", "an ECDSA key on the curve P-521"),
        ("p521_sec1.key", "an ECDSA key on the curve P-521"),
        ("rsa1024.key", "an RSA key of 1024 bits"),
        ("rsa1024_pkcs1.key", "an RSA key of 1024 bits"),
    ] {
        let fault = fault(&Tls { cert_path: path("certificate.pem"), key_path: path(key), ..Tls::default() });
        let told =
            format!("tls.key_path: the key in {} cannot be used, because it is {kind}; make an RSA key", path(key));
        assert!(fault.starts_with(&told), "{fault}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_with_key_file_and_remedy() {
    let good = authority().issue();
    let nowhere = "/nowhere/a.pem".to_owned();
    let empty = file("");
    let broken = file(&certificate(&good).replace("MII", "!!!"));
    let cert = |cert_path: &str| Tls { cert_path: cert_path.to_owned(), ..good.clone() };
    let key = |key_path: &str| Tls { key_path: key_path.to_owned(), ..good.clone() };
    let ca = |ca_path: &str| Tls { ca_path: ca_path.to_owned(), ..good.clone() };
    for (tls, begin) in [
        (cert(&nowhere), "tls.cert_path: /nowhere/a.pem cannot be read".to_owned()),
        (cert(&empty), format!("tls.cert_path: {empty} holds no readable certificate")),
        (cert(&good.key_path), format!("tls.cert_path: {} holds no readable certificate", good.key_path)),
        (cert(&broken), format!("tls.cert_path: {broken} ")),
        (key(&nowhere), "tls.key_path: /nowhere/a.pem cannot be read".to_owned()),
        (key(&good.cert_path), format!("tls.key_path: {} holds no readable private key", good.cert_path)),
        (key(&authority().issue().key_path), format!("tls.cert_path: the first certificate in {}", good.cert_path)),
        (ca(&nowhere), "tls.ca_path: /nowhere/a.pem cannot be read".to_owned()),
        (ca(&empty), format!("tls.ca_path: {empty} holds no readable certificate")),
    ] {
        let fault = fault(&tls);
        assert!(fault.starts_with(&begin), "{fault}");
    }
    let mut config = Config::default();
    (config.server.port, config.metrics.port, config.tls) = (0, 0, key(&nowhere));
    let refused = Server::start(&config).await.expect_err("the server starts without its key");
    assert!(refused.to_string().starts_with("tls.key_path: /nowhere/a.pem"), "{refused}");
}

#[test]
fn a_certificate_that_has_ended_is_warned_of() {
    let warning = |tls: &Tls| Certificates::load(tls).unwrap().warning();
    assert_eq!(warning(&authority().issue()), None);
    let ended = warning(&authority().issue_until(2020)).unwrap();
    assert!(ended.to_string().starts_with("tls.cert_path: the certificate ended at 2020-01-01T00:00:00Z"), "{ended}");
}
