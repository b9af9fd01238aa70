//! Two nodes behind the nginx of the machine, with the configuration that is shipped.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::client::Client;
use crate::client::PATIENCE;
use crate::http;
use crate::http::Api;
use crate::process::signal;
use crate::server::APP_ID;
use crate::server::APP_KEY;
use crate::server::APP_SECRET;
use crate::server::TestServer;
use crate::wire::Wire;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0&flash=false";

/// Longer than nginx waits by itself (60 s).
const SILENCE: Duration = Duration::from_secs(70);

/// nginx with `config/nginx.conf`. Ends with the test.
struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    async fn start(server: &TestServer) -> Self {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nginx-{}", address.port()));
        fs::create_dir_all(&folder).unwrap();
        let mut site = include_str!("../../config/nginx.conf").to_owned();
        for (name, own) in [
            ("listen 80;", format!("listen {address};")),
            ("gema-1:6001", server.address_at(0).to_string()),
            ("gema-2:6001", server.address_at(1).to_string()),
        ] {
            assert_eq!(site.matches(name).count(), 1, "{name}");
            site = site.replace(name, &own);
        }
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|name| format!("{name}_temp_path {}/{name};", folder.display())).join("\n");
        let whole = format!(
            "pid nginx.pid;\nerror_log error.log notice;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\n{site}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), whole).unwrap();
        let child = Command::new("nginx")
            .args(["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"])
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs nginx");
        let nginx = Self { child, address, folder };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < until, "nginx does not listen: {}", nginx.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        nginx
    }

    /// Reads its configuration anew; returns when another worker has taken over.
    async fn reload(&self) {
        let before = self.log().matches("start worker process ").count();
        signal(self.child.id(), "HUP");
        let until = Instant::now() + PATIENCE;
        while self.log().matches("start worker process ").count() == before {
            assert!(Instant::now() < until, "nginx does not reload: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn api(&self) -> Api {
        Api::new(self.address, APP_ID, APP_KEY, APP_SECRET)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed, it would leave its workers behind.
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_connection_through_nginx_outlives_a_long_silence() {
    let server = TestServer::start_cluster(2).await;
    let nginx = Nginx::start(&server).await;
    let mut wires = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(nginx.address, PATH).await;
        wire.subscribe("a").await;
        wires.push(wire);
    }
    tokio::time::sleep(SILENCE).await;
    nginx.api().publish("a", "e", "1").await;
    for mut wire in wires {
        assert_eq!(wire.next_text().await, r#"{"event":"e","data":"1","channel":"a"}"#);
    }
}

#[tokio::test]
async fn strangers_do_not_make_nginx_believe_that_a_node_is_gone() {
    let server = TestServer::start_cluster(2).await;
    let nginx = Nginx::start(&server).await;
    let stranger = Api::new(nginx.address, "nobody", "no-key", "no-secret");
    for size in [1_000_000, 11_000_000, 20_000_000] {
        let body = "x".repeat(size);
        for _ in 0..10 {
            assert!([404, 413].contains(&stranger.post("/events", &body).await.status), "{}", nginx.log());
        }
        Wire::connect(nginx.address, PATH).await;
        nginx.api().publish("a", "e", "1").await;
    }
    assert!(!nginx.log().contains("upstream"), "{}", nginx.log());
}

#[tokio::test]
async fn nothing_is_lost_while_nginx_reads_its_configuration_anew() {
    let server = TestServer::start_cluster(2).await;
    let nginx = Nginx::start(&server).await;
    let mut client = Client::open(nginx.address, PATH, &[]).await;
    client.established().await;
    client.subscribe("a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicUsize::new(0));
    let publisher = tokio::spawn(publish(nginx.address, nginx.api(), Arc::clone(&stop), Arc::clone(&published)));
    let more = async || {
        let until = published.load(Ordering::Relaxed) + 30;
        while published.load(Ordering::Relaxed) < until {
            assert!(!publisher.is_finished(), "a request or a connection was refused: {}", nginx.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    for _ in 0..3 {
        more().await;
        nginx.reload().await;
    }
    more().await;
    stop.store(true, Ordering::Relaxed);
    publisher.await.expect("all requests are answered");
    let mut heard: Vec<usize> = Vec::new();
    while heard.len() < published.load(Ordering::Relaxed) {
        heard.push(client.next_event("e").await.as_u64().unwrap() as usize);
    }
    // One request after the other may go to another node, so only each node's own are in order.
    heard.sort_unstable();
    assert_eq!(heard, (0..published.load(Ordering::Relaxed)).collect::<Vec<_>>());
    assert_eq!(http::request(nginx.address, "GET", "/metrics", &[], b"").await.status, 404);
}

/// Publishes numbers, one after the other, and opens a connection with each.
async fn publish(address: SocketAddr, api: Api, stop: Arc<AtomicBool>, published: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        api.publish("a", "e", &published.load(Ordering::Relaxed).to_string()).await;
        published.fetch_add(1, Ordering::Relaxed);
        let mut client = Client::open(address, PATH, &[]).await;
        client.established().await;
        client.close().await;
    }
}
