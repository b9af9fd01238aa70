//! What one client address may do, whichever proxy it comes through.

use std::time::Instant;

use gema::config::Config;
use support::client::PATIENCE;
use support::http::Answer;
use support::server::TestServer;

use crate::wire::Wire;
use crate::wire::upgrade_head;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0";

fn trust_this_machine(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

async fn accepted(server: &TestServer, address: &str) -> support::client::Client {
    let mut client = server.open_with(PATH, &[("x-forwarded-for", address)]).await;
    client.established().await;
    client
}

async fn refused(server: &TestServer, address: &str) {
    let mut client = server.open_with(PATH, &[("x-forwarded-for", address)]).await;
    client.next_error(Some(4100), "Too many connections from this address").await;
    assert_eq!(client.next_close().await, (4100, "Too many connections from this address".to_owned()));
}

async fn handshake(server: &TestServer, address: &str) -> Answer {
    Wire::upgrade(server.address(), &upgrade_head(PATH, &[("X-Forwarded-For", address)])).await.0
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let server = TestServer::start_single_with(|config| {
        trust_this_machine(config);
        config.connections.per_address_max = 2;
    })
    .await;
    let first = accepted(&server, "192.0.2.1").await;
    let _second = accepted(&server, "203.0.113.7, 192.0.2.1").await;
    refused(&server, "192.0.2.1").await;
    refused(&server, "198.51.100.9, 192.0.2.1, 127.0.0.5").await;
    let _other = accepted(&server, "192.0.2.2").await;
    assert_eq!(server.metric("gema_refusals_total", Some("address_connections")).await, 2.0);
    first.close().await;
    server.metric_becomes("soketi_connected", None, 2.0).await;
    let _third = accepted(&server, "192.0.2.1").await;
    refused(&server, "192.0.2.1").await;
    let _networks = (accepted(&server, "2001:db8::1").await, accepted(&server, "2001:db8::2").await);
    refused(&server, "2001:db8:0:0:ffff::3").await;
    let _next = accepted(&server, "2001:db8:0:1::1").await;
}

#[tokio::test]
async fn nobody_hides_behind_what_is_no_address() {
    let server = TestServer::start_single_with(|config| {
        trust_this_machine(config);
        config.connections.per_address_max = 1;
    })
    .await;
    let open = async |addresses: &str| {
        let (answer, mut wire) =
            Wire::upgrade(server.address(), &upgrade_head(PATH, &[("X-Forwarded-For", addresses)])).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        let first = wire.next_event().await;
        (wire, first)
    };
    let mut wires = Vec::new();
    for address in ["192.0.2.1", "192.0.2.2"] {
        let (wire, first) = open(&format!("é, {address}, 127.0.0.5")).await;
        assert_eq!(first, "pusher:connection_established");
        wires.push(wire);
        let (_, first) = open(&format!("\u{1F600}, {address}")).await;
        assert_eq!(first, "pusher:error");
    }
}

#[tokio::test]
async fn who_is_no_trusted_proxy_speaks_for_itself_alone() {
    let server = TestServer::start_single_with(|config| config.connections.per_address_max = 1).await;
    let _client = accepted(&server, "192.0.2.1").await;
    refused(&server, "192.0.2.2").await;
}

#[tokio::test]
async fn handshakes_that_come_too_fast_are_told_when_to_come_again() {
    let server = TestServer::start_single_with(|config| {
        trust_this_machine(config);
        config.connections.handshakes_per_address_per_second = 1;
    })
    .await;
    assert_eq!(handshake(&server, "192.0.2.1").await.status, 101);
    let until = Instant::now() + PATIENCE;
    let too_fast = loop {
        match handshake(&server, "192.0.2.1").await {
            answer if answer.status == 429 => break answer,
            _ => assert!(Instant::now() < until, "handshakes are not limited"),
        }
    };
    assert_eq!(too_fast.header("retry-after"), Some("1"));
    server.figure_becomes(0, "gema_refusals_total", r#"cause="address_handshakes""#, 1.0).await;
    assert_eq!(handshake(&server, "192.0.2.2").await.status, 101);
    server.api().publish("news", "e", "requests are not handshakes").await;
    while handshake(&server, "192.0.2.1").await.status != 101 {
        assert!(Instant::now() < until, "an address that has waited is still refused");
    }
}
