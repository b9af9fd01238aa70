//! A new process takes the place of an old one: on the same port, without a connection that is refused.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Api;
use support::process::Process;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::time::timeout;

const PATH: &str = "/app/app-key?protocol=7";

#[tokio::test]
async fn a_second_server_on_the_same_ports_is_refused_unless_it_is_told_to_share_them() {
    let first = Process::start(&[]).await;
    let (port, metrics_port) = (first.address.port().to_string(), first.metrics_address.port().to_string());
    let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_gema"))
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", &port), ("GEMA_METRICS_PORT", &metrics_port)])
        .stdout(Stdio::null())
        .output();
    let second = timeout(PATIENCE, second).await.expect("it serves").unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("is another server running there? server.share_port = true"), "{told}");
}

/// A server that shares its port with everybody who wants to, as Soketi does.
fn sharing(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(16)
}

#[tokio::test]
async fn a_server_that_shares_its_port_with_everybody_is_noticed() {
    let soketi = sharing("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = soketi.local_addr().unwrap().port().to_string();
    let gema = tokio::process::Command::new(env!("CARGO_BIN_EXE_gema"))
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", &port), ("GEMA_METRICS_PORT", "0")])
        .stdout(Stdio::null())
        .output();
    let gema = timeout(PATIENCE, gema).await.expect("it serves").unwrap();
    let told = String::from_utf8(gema.stderr).unwrap();
    assert!(told.contains(&format!("127.0.0.1:{port} cannot be bound")), "{told}");
    // With one worker nobody else can come later, either.
    let gema = Process::start(&[("GEMA_SERVER_WORKERS", "1")]).await;
    for address in [gema.address, gema.metrics_address] {
        assert!(sharing(address).is_err(), "{address} is shared");
    }
    let gema = Process::start(&[("GEMA_SERVER_WORKERS", "1"), ("GEMA_SERVER_SHARE_PORT", "true")]).await;
    sharing(gema.address).unwrap();
}

#[tokio::test]
async fn a_metrics_port_that_another_program_has_is_told_with_its_own_remedy() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let server = tokio::process::Command::new(env!("CARGO_BIN_EXE_gema"))
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_METRICS_PORT", &port)])
        .env("GEMA_METRICS_HOST", "127.0.0.1")
        .stdout(Stdio::null())
        .output();
    let server = timeout(PATIENCE, server).await.expect("it serves").unwrap();
    assert_eq!(server.status.code(), Some(1));
    let told = String::from_utf8(server.stderr).unwrap();
    assert!(told.contains(&format!("metrics.host and metrics.port 127.0.0.1:{port} cannot be bound")), "{told}");
    assert!(told.contains("choose another metrics.port") && !told.contains("share_port"), "{told}");
}

#[tokio::test]
async fn a_successor_on_the_same_port_takes_over_without_a_connection_that_is_refused() {
    let share = ("GEMA_SERVER_SHARE_PORT", "true");
    let old = Process::start(&[share, ("GEMA_SERVER_DRAIN_SECONDS", "10")]).await;
    let address = old.address;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::open(address, PATH, &[]).await;
        client.established().await;
        clients.push(client);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let load = [0; 4].map(|_| tokio::spawn(connect_and_publish(address, Arc::clone(&stop), Arc::clone(&served))));
    let more = async |more: usize| {
        let until = served.load(Ordering::Relaxed) + more;
        while served.load(Ordering::Relaxed) < until {
            assert!(load.iter().all(|load| !load.is_finished()), "a connection was refused");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    more(100).await;

    let (port, metrics_port) = (address.port().to_string(), old.metrics_address.port().to_string());
    let shared = [share, ("GEMA_SERVER_PORT", &*port), ("GEMA_METRICS_PORT", &*metrics_port)];
    let new = Process::start(&shared).await;
    assert_eq!((new.address, new.metrics_address), (address, old.metrics_address));
    more(100).await;
    old.terminate();
    for mut client in clients {
        // At once, since somebody is there.
        assert_eq!(client.next_close().await.0, 4200);
        client.ended().await;
    }
    assert_eq!(old.stopped().await["left"], 0);
    more(100).await;
    stop.store(true, Ordering::Relaxed);
    for load in load {
        load.await.expect("no connection is refused, no answer is missing");
    }

    new.terminate();
    new.stopped().await;
}

/// One after the other, as often as it can: a WebSocket, an event that is accepted, a request. Who comes to the old
/// process in its last moment may be told to come again at once.
async fn connect_and_publish(address: std::net::SocketAddr, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    let api = Api::new(address, APP_ID, APP_KEY, APP_SECRET);
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::open(address, PATH, &[]).await;
        let first = client.next().await;
        let may_stay = first["event"] == "pusher:connection_established";
        assert!(may_stay || first["data"]["code"] == 4200, "{first}");
        api.publish("a", "e", "1").await;
        assert_eq!(http::request(address, "GET", "/", &[], b"").await.status, 200);
        served.fetch_add(1, Ordering::Relaxed);
    }
}
