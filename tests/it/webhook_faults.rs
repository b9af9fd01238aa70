//! Webhooks whose endpoint fails: nothing is lost or changed while it is tried again, and nobody else notices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use gema::config::AppEntry;
use gema::config::Config;
use gema::config::Seconds;
use gema::config::Secret;
use gema::config::Webhook;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use serde_json::json;
use support::barrier::Figures;
use support::client::Client;
use support::client::PATIENCE;
use support::process::Process;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Received;
use support::receiver::Receiver;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;

async fn server_with(webhooks: Vec<Webhook>, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_single_with(|config| {
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = webhooks;
        change(config);
    })
    .await
}

fn occupied(channel: &str) -> Value {
    json!({ "name": "channel_occupied", "channel": channel })
}

/// The requests until one brings this event.
async fn until(receiver: &mut Receiver, event: &Value) -> Vec<Received> {
    let mut requests = Vec::new();
    loop {
        requests.push(receiver.next().await);
        if requests[requests.len() - 1].events().contains(event) {
            return requests;
        }
    }
}

// G-298, G-299, G-302
#[tokio::test]
async fn what_fails_is_sent_again_as_it_was_and_the_rest_waits() {
    let faults = [
        [Answer::Status(500), Answer::Status(302)],
        [Answer::Hang, Answer::Status(404)],
        [Answer::Trickle, Answer::Close],
    ];
    let mut receivers = Vec::new();
    for faults in &faults {
        receivers.push(Receiver::start_with(faults, Answer::Status(200)).await);
    }
    let webhooks = receivers.iter().map(|receiver| receiver.webhook("/", &ALL)).collect();
    let server = server_with(webhooks, |config| {
        // An answer that comes late for want of time would count as none.
        config.webhooks.timeout_seconds = Seconds(5.0);
        config.webhooks.batch_seconds = Seconds(0.0);
    })
    .await;
    let mut client = server.connect().await;
    let began = Instant::now();
    client.subscribe("first").await;
    for receiver in &mut receivers {
        let first = receiver.next().await;
        // What comes meanwhile has to wait.
        client.subscribe(&format!("later-{}", first.at.elapsed().as_nanos())).await;
        let (second, third) = (receiver.next().await, receiver.next().await);
        for again in [&second, &third] {
            let differs = |line: &&str| !line.starts_with("Host");
            let lines =
                |request: &Received| request.head.lines().filter(differs).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!((lines(again), &again.body), (lines(&first), &first.body));
        }
        // The first one may have been read late.
        assert!(second.at - began >= Duration::from_millis(800), "{:?}", second.at - began);
        assert!(third.at - began >= Duration::from_millis(800 + 1600), "{:?}", third.at - began);
        assert_eq!(first.events()[0], occupied("first"));
    }
    client.subscribe("last").await;
    let mut orders = Vec::new();
    for receiver in &mut receivers {
        let requests = until(receiver, &occupied("last")).await;
        orders.push(requests.iter().flat_map(Received::events).collect::<Vec<_>>());
    }
    assert_eq!(orders[0].len(), 4, "{orders:?}");
    assert!(orders.iter().all(|order| orders[0].ends_with(order) && order.len() > 1), "{orders:?}");
}

// G-298
#[tokio::test]
async fn an_endpoint_that_is_not_there_yet_is_waited_for() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let mut receiver = Receiver::start().await;
    let mut webhook = receiver.webhook("/", &ALL);
    webhook.url = Secret::new(format!("http://{address}/"));
    let server = server_with(vec![webhook], |_| ()).await;
    server.connect().await.subscribe("news").await;
    server.figure_becomes(0, "gema_webhook_requests_total", r#"result="failed""#, 1.0).await;
    receiver.also_at(socket.listen(16).unwrap());
    receiver.next_events(&[occupied("news")]).await;
    server.figure_becomes(0, "gema_webhook_events_total", r#"result="delivered""#, 2.0).await;
}

// G-300
#[tokio::test]
async fn after_its_time_a_webhook_is_given_up_with_a_line_in_the_log() {
    assert_eq!(Config::default().webhooks.retry_seconds, Seconds(300.0));
    let mut receiver = Receiver::start_with(&[], Answer::Status(503)).await;
    let url = format!("http://{}/hooks?token=hush", receiver.address);
    let webhooks = json!([{ "url": url, "event_types": ["channel_occupied"] }]).to_string();
    let process = Process::start(&[
        ("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks),
        ("SOKETI_WEBHOOKS_BATCHING", "false"),
        ("GEMA_WEBHOOKS_RETRY_SECONDS", "8"),
    ])
    .await;
    let mut client = Client::open(process.address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    client.subscribe("first").await;
    client.subscribe("second").await;
    let line = process.log.line("a webhook is given up, and its events are lost").await;
    assert_eq!(line["host"], receiver.address.to_string(), "{line}");
    assert_eq!(
        (&line["app"], &line["events"], &line["error"]),
        (&json!("app-id"), &json!(1), &json!("it answers 503 Service Unavailable"))
    );
    assert!(!line.to_string().contains("hush"), "{line}");
    receiver.answer(Answer::Status(200));
    let all: Vec<Value> = until(&mut receiver, &occupied("second")).await.iter().flat_map(Received::events).collect();
    assert!(all.len() >= 3 && all[..2].iter().all(|event| *event == occupied("first")), "{all:?}");
}

#[tokio::test]
async fn what_can_never_be_sent_is_given_up_at_once() {
    let url = format!("http://shop.example/{}", "x".repeat(70_000));
    let webhooks = json!([{ "url": url, "event_types": ["channel_occupied"] }]).to_string();
    let process = Process::start(&[("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks), ("GEMA_METRICS_ENABLED", "true")]).await;
    let mut client = Client::open(process.address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    client.subscribe("news").await;
    let line = process.log.line("a webhook is given up, and its events are lost").await;
    assert_eq!((&line["events"], &line["error"]), (&json!(1), &json!("its URL or a header cannot be sent")));
    let figures = Figures::of(process.metrics_address).await;
    assert_eq!(figures.sum("gema_webhook_events_total", r#"result="expired""#), 1.0);
    assert_eq!(figures.sum("gema_webhook_requests_total", r#"result="failed""#), 1.0);
}

// G-301
#[tokio::test]
async fn a_dead_endpoint_is_noticed_by_nobody_else() {
    const EVENTS: usize = 300;
    let dead = Receiver::start_with(&[], Answer::Hang).await;
    let (mut healthy, mut others) = (Receiver::start().await, Receiver::start().await);
    let mut other = AppEntry::new("other", "other-key", "other-secret");
    other.enable_client_messages = Some(true);
    other.webhooks = vec![others.webhook("/", &["channel_occupied"])];
    let webhooks = vec![dead.webhook("/", &ALL), healthy.webhook("/", &["channel_occupied"])];
    let server = server_with(webhooks, |config| {
        config.webhooks.queue_bytes_max = 64 * 1024;
        config.apps.push(other);
        config.apps.push(AppEntry::new("plain", "plain-key", "plain-secret"));
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("private-a").await;
    let data = "x".repeat(1000);
    for _ in 0..EVENTS {
        client.send_json(json!({ "event": "client-x", "channel": "private-a", "data": data })).await;
    }
    client.nothing_came().await;
    healthy.next_events(&[occupied("private-a")]).await;
    let mut elsewhere = server.connect_to("other-key").await;
    elsewhere.subscribe("news").await;
    others.next_events(&[occupied("news")]).await;
    // Beyond the bound the oldest are gone, and counted: of those 300 KB 64 and a request under way are left.
    let figures = async |name, label| server.figure(0, name, label).await;
    let until = Instant::now() + PATIENCE;
    let (dropped, waiting) = loop {
        let dropped = figures("gema_webhook_events_total", r#"result="dropped""#).await;
        let waiting = figures("gema_webhook_events_waiting", r#"app_id="app-id""#).await;
        if dropped + waiting > EVENTS as f64 {
            break (dropped, waiting);
        }
        assert!(Instant::now() < until, "{dropped} are dropped and {waiting} wait");
    };
    assert_eq!(dropped + waiting, 1.0 + EVENTS as f64);
    assert!(figures("gema_webhook_bytes_waiting", r#"app_id="app-id""#).await < 240_000.0);
    assert!(figures("gema_webhook_oldest_seconds", r#"app_id="app-id""#).await > 0.0);
    let [with, without] = subscribing(&server, ["app-key", "plain-key"]).await;
    println!("subscribing: {with:?} with a dead endpoint, {without:?} without webhooks");
    assert!(with < without * 5 + Duration::from_millis(5), "{with:?} instead of {without:?}");
}

/// How long a subscription takes to each of two apps: the medians. They take turns, so that the machine is as busy for
/// one as for the other.
async fn subscribing(server: &TestServer, keys: [&str; 2]) -> [Duration; 2] {
    let mut clients = [server.connect_to(keys[0]).await, server.connect_to(keys[1]).await];
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..200 {
        for (client, times) in clients.iter_mut().zip(&mut times) {
            let began = Instant::now();
            client.subscribe(&format!("c-{number}")).await;
            times.push(began.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}

#[tokio::test]
async fn a_certificate_is_checked() {
    let address = secure_receiver().await;
    let url = format!("https://{address}/");
    let webhooks = json!([{ "url": url, "event_types": ["channel_occupied"] }]).to_string();
    let authority = tls_file("authority.pem");
    let variables =
        [("SOKETI_DEFAULT_APP_WEBHOOKS", &*webhooks), ("GEMA_METRICS_ENABLED", "true"), ("SSL_CERT_FILE", &*authority)];
    for trusted in [true, false] {
        let process = Process::start(&variables[..if trusted { 3 } else { 2 }]).await;
        let mut client = Client::open(process.address, "/app/app-key?protocol=7", &[]).await;
        client.established().await;
        client.subscribe("news").await;
        if trusted {
            let (name, label) = ("gema_webhook_requests_total", r#"result="delivered""#);
            Figures::become_so(process.metrics_address, name, label, PATIENCE, |now| now == 1.0).await;
        } else {
            let line = process.log.line("a webhook is not delivered, and is tried again").await;
            assert!(line["error"].as_str().unwrap().contains("certificate"), "{line}");
        }
    }
}

fn tls_file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis_kinds/tls").join(name).to_str().unwrap().to_owned()
}

/// Answers 200 to whatever comes over TLS.
async fn secure_receiver() -> std::net::SocketAddr {
    let chain = CertificateDer::pem_file_iter(tls_file("redis.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(tls_file("redis.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    address
}
