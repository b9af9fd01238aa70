//! Two nodes behind the nginx of the machine, with the configuration that is shipped. `tests/clients/proxies.test.js` has
//! what holds for every proxy.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use gema::config::Tls;
use gema::config::load;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Api;
use support::nginx::Nginx;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;
use support::server::authority;
use support::tunnel::secured;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const PATH: &str = "/app/app-key?protocol=7&client=js&version=8.6.0&flash=false";

/// nginx with `config/nginx-main.conf` and `config/nginx.conf`, in front of the server's nodes.
pub async fn start(server: &TestServer) -> Nginx {
    start_for([server.address_at(0), server.address_at(1)], None).await
}

/// The same in front of these nodes; with a certificate it speaks TLS.
async fn start_for(nodes: [SocketAddr; 2], tls: Option<&Tls>) -> Nginx {
    Nginx::shipped(2, |address| {
        let listen = match tls {
            None => format!("listen {address};"),
            Some(Tls { cert_path, key_path, .. }) => {
                format!("listen {address} ssl; ssl_certificate {cert_path}; ssl_certificate_key {key_path};")
            }
        };
        vec![("listen 80;", listen), ("gema-1:6001", nodes[0].to_string()), ("gema-2:6001", nodes[1].to_string())]
    })
    .await
}

fn api(nginx: &Nginx) -> Api {
    Api::new(nginx.address, APP_ID, APP_KEY, APP_SECRET)
}

#[tokio::test]
async fn nothing_is_lost_while_nginx_reads_its_configuration_anew() {
    let server = TestServer::start_cluster(2).await;
    let nginx = start(&server).await;
    let mut client = Client::open(nginx.address, PATH, &[]).await;
    client.established().await;
    client.subscribe("a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicUsize::new(0));
    let publisher = tokio::spawn(publish(nginx.address, api(&nginx), Arc::clone(&stop), Arc::clone(&published)));
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

#[tokio::test]
async fn publishers_go_to_the_other_node_when_theirs_is_gone() {
    // Without a tunnel, which would go on to take connections.
    let mut server = TestServer::start_cluster_with(2, |config| config.tls = Tls::default()).await;
    let nginx = start(&server).await;
    let mut client = server.connect_at(1).await;
    client.subscribe("a").await;
    api(&nginx).publish("a", "e", "1").await;
    server.drain_at(0).await;
    for n in 2..20 {
        api(&nginx).publish("a", "e", &n.to_string()).await;
    }
    for n in 1..20 {
        assert_eq!(client.next_event("e").await, n);
    }
}

/// `config/example.toml` is for a server behind this nginx.
#[tokio::test]
async fn over_tls_the_example_lets_each_address_in_and_counts_it_by_itself() {
    let example = load(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml")], []).unwrap().config;
    assert!(example.limits.require_tls && example.connections.per_address_max > 0);
    let server = TestServer::start_single_with(|config| {
        config.server.trusted_proxies = example.server.trusted_proxies;
        config.limits = example.limits;
        config.connections = example.connections;
        config.connections.per_address_max = 2;
    })
    .await;
    let nginx = start_for([server.address(); 2], Some(&authority().issue())).await;
    let mut open = Vec::new();
    for last in 2..5 {
        for nth in 1..=3 {
            let mut page = Page::open(nginx.address, Ipv4Addr::new(127, 0, 0, last)).await;
            let first = page.next().await;
            let expected = if nth <= 2 { "pusher:connection_established" } else { "pusher:error" };
            assert_eq!(first["event"], expected, "{first}");
            if nth > 2 {
                let refusal = json!({ "code": 4100, "message": "Too many connections from this address" });
                assert_eq!(first["data"], refusal);
            }
            open.push(page);
        }
    }
}

/// A page that speaks TLS, from any address of the loopback.
struct Page(WebSocketStream<TlsStream<TcpStream>>);

impl Page {
    async fn open(nginx: SocketAddr, own: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        let stream = socket.connect(nginx).await.unwrap();
        let stream = secured(stream, Arc::new(authority().client())).await.unwrap();
        let mut request = format!("wss://{nginx}{PATH}").into_client_request().unwrap();
        request.headers_mut().insert("origin", "https://example.com".parse().unwrap());
        let (socket, _) = timeout(PATIENCE, client_async(request, stream)).await.expect("no answer").unwrap();
        Self(socket)
    }

    /// What it is told next.
    async fn next(&mut self) -> Value {
        let message = timeout(PATIENCE, self.0.next()).await.expect("nothing came").unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }
}
