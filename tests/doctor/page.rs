//! Causes for which a page is refused.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use support::client::Client;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::Case;
use crate::configuration;
use crate::gema;

const PATH: &str = "/app/app-key?protocol=7";

#[tokio::test]
async fn a_key_that_no_app_has_is_named() {
    let server = gema(&[]).await;
    let case = Case::empty().laravel(server.address, "VITE_PUSHER_APP_KEY=old-key");
    let diagnosis = case.config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[("connect", "unknown_key")]).says("old-key; gema's configuration has app-key");
    diagnosis.passes(&["upgrade", "signature"]);
    let diagnosis = Case::empty().laravel(server.address, "PUSHER_APP_KEY=old-key").diagnose().await;
    diagnosis.names(&[("connect", "unknown_key"), ("signature", "unknown_key")]);
}

#[tokio::test]
async fn an_id_in_the_place_of_a_key_is_named() {
    let server = gema(&[]).await;
    let diagnosis = Case::empty().laravel(server.address, "VITE_PUSHER_APP_KEY=app-id").diagnose().await;
    diagnosis.names(&[("connect", "app_id_as_key")]).passes(&["signature"]);
    let diagnosis = Case::empty().laravel(server.address, "PUSHER_APP_KEY=app-id").diagnose().await;
    diagnosis.names(&[("connect", "app_id_as_key"), ("signature", "app_id_as_key")]);
}

#[tokio::test]
async fn a_disabled_app_is_named() {
    let server = gema(&[("SOKETI_DEFAULT_APP_ENABLED", "false")]).await;
    let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
    diagnosis.names(&[("connect", "app_disabled"), ("signature", "app_disabled")]);
}

#[tokio::test]
async fn an_origin_that_the_app_does_not_take_is_named() {
    let server = gema(&[("GEMA_LIMITS_ALLOWED_ORIGINS", "shop.example")]).await;
    let diagnosis = Case::empty().laravel(server.address, "APP_URL=https://other.example/x").diagnose().await;
    diagnosis.names(&[("origin", "origin_not_allowed")]).says("https://other.example [").passes(&["signature"]);
    let case = Case::empty().laravel(server.address, "").words(&["--origin", "https://shop.example"]);
    case.diagnose().await.names(&[]).passes(&["origin"]);
    let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
    diagnosis.names(&[("origin", "origin_not_allowed")]).says("--origin names");
}

#[tokio::test]
async fn full_quotas_are_told_apart() {
    for (variable, cause) in [
        ("SOKETI_DEFAULT_APP_MAX_CONNS", "connection_quota"),
        ("GEMA_CONNECTIONS_CONNECTIONS_MAX", "server_full"),
        ("GEMA_CONNECTIONS_PER_ADDRESS_MAX", "address_full"),
    ] {
        let server = gema(&[(variable, "1")]).await;
        let mut client = Client::open(server.address, PATH, &[]).await;
        client.established().await;
        let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
        diagnosis.names(&[("connect", cause)]).passes(&["upgrade", "signature"]);
    }
}

#[tokio::test]
async fn an_address_that_connects_too_fast_is_named() {
    let server = gema(&[("GEMA_CONNECTIONS_HANDSHAKES_PER_ADDRESS_PER_SECOND", "1")]).await;
    let flood = tokio::spawn(connect_for_ever(server.address));
    let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
    flood.abort();
    let failed = diagnosis.failed();
    assert!(failed.contains(&("upgrade", "handshake_rate")), "{}", diagnosis.text);
}

async fn connect_for_ever(address: SocketAddr) {
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(request.as_bytes()).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_without_its_database_is_named() {
    let port = support::redis_server::free_port().to_string();
    let server = gema(&[
        ("GEMA_APP_STORE_DRIVER", "mysql"),
        ("GEMA_MYSQL_PORT", &port),
        ("GEMA_MYSQL_HOST", "127.0.0.1"),
        ("GEMA_APP_STORE_TIMEOUT_SECONDS", "0.5"),
    ])
    .await;
    let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
    let failed = ["connect", "signature", "ready"].map(|step| (step, "server_unavailable"));
    diagnosis.names(&failed).says("The database with the apps has not answered yet");
}

/// A proxy that answers the handshake itself and then passes nothing on.
#[tokio::test]
async fn a_connection_over_which_nothing_comes_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await {
                    while socket.next().await.is_some() {}
                }
            });
        }
    });
    let diagnosis = Case::empty().url(&format!("http://{address}")).diagnose().await;
    assert!(diagnosis.failed().contains(&("connect", "no_answer")), "{}", diagnosis.text);
}
