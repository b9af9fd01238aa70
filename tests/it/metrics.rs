//! What operators, orchestrators and Prometheus see: Soketi's names, truthful numbers, plain answers.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;
use support::barrier::Figures;
use support::http;
use support::http::Answer;
use support::server::TestServer;

use crate::wire::Wire;

const PATH: &str = "/app/app-key?protocol=7";

const DOCUMENT: &str = include_str!("../../docs/operation.md");

async fn get(address: SocketAddr, path: &str) -> Answer {
    http::request(address, "GET", path, &[], b"").await
}

async fn metrics(server: &TestServer) -> Answer {
    get(server.metrics_address(), "/metrics").await
}

#[tokio::test]
async fn soketis_names_have_soketis_labels_and_kinds() {
    let server = TestServer::start().await;
    let answer = metrics(&server).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let port = server.port().port();
    for (name, kind) in [
        ("connected", "gauge"),
        ("new_connections_total", "counter"),
        ("new_disconnections_total", "counter"),
        ("socket_received_bytes", "counter"),
        ("socket_transmitted_bytes", "counter"),
        ("ws_messages_received_total", "counter"),
        ("ws_messages_sent_total", "counter"),
        ("http_received_bytes", "counter"),
        ("http_transmitted_bytes", "counter"),
        ("http_calls_received_total", "counter"),
    ] {
        let lines = format!("# TYPE soketi_{name} {kind}\nsoketi_{name}{{app_id=\"app-id\",port=\"{port}\"}} 0\n");
        assert!(answer.body.contains(&lines), "{lines}{}", answer.body);
    }
}

/// Every name of Soketi 1.6.1, after its prefix. Those of the second half have a port for a label only.
const SOKETIS: [&str; 47] = [
    "connected",
    "new_connections_total",
    "new_disconnections_total",
    "socket_received_bytes",
    "socket_transmitted_bytes",
    "ws_messages_received_total",
    "ws_messages_sent_total",
    "http_received_bytes",
    "http_transmitted_bytes",
    "http_calls_received_total",
    "horizontal_adapter_resolve_time",
    "horizontal_adapter_resolved_promises",
    "horizontal_adapter_uncomplete_promises",
    "horizontal_adapter_sent_requests",
    "horizontal_adapter_received_requests",
    "horizontal_adapter_received_responses",
    "process_cpu_user_seconds_total",
    "process_cpu_system_seconds_total",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_heap_bytes",
    "process_open_fds",
    "process_max_fds",
    "nodejs_eventloop_lag_seconds",
    "nodejs_eventloop_lag_min_seconds",
    "nodejs_eventloop_lag_max_seconds",
    "nodejs_eventloop_lag_mean_seconds",
    "nodejs_eventloop_lag_stddev_seconds",
    "nodejs_eventloop_lag_p50_seconds",
    "nodejs_eventloop_lag_p90_seconds",
    "nodejs_eventloop_lag_p99_seconds",
    "nodejs_active_resources",
    "nodejs_active_resources_total",
    "nodejs_active_handles",
    "nodejs_active_handles_total",
    "nodejs_active_requests",
    "nodejs_active_requests_total",
    "nodejs_heap_size_total_bytes",
    "nodejs_heap_size_used_bytes",
    "nodejs_heap_space_size_total_bytes",
    "nodejs_heap_space_size_used_bytes",
    "nodejs_heap_space_size_available_bytes",
    "nodejs_external_memory_bytes",
    "nodejs_version_info",
    "nodejs_gc_duration_seconds",
];

/// Those that are not served, and why, as in the table of docs/operation.md.
const NOT_SERVED: [(&str, &str); 5] = [
    ("nodejs_eventloop_lag_*", "there is no such loop; `gema_publish_to_socket_seconds` tells how long events take"),
    ("nodejs_active_*", "the same; see `soketi_connected` and `soketi_process_open_fds`"),
    (
        "nodejs_heap_*, nodejs_external_memory_bytes",
        "there is no such heap; see `soketi_process_resident_memory_bytes`",
    ),
    ("nodejs_gc_duration_seconds", "there is no garbage collector"),
    ("nodejs_version_info", "there is no Node; see `gema_build_info`"),
];

#[tokio::test]
async fn every_name_of_soketi_is_served_or_has_a_reason_not_to_be() {
    let server = TestServer::start_cluster(2).await;
    server.api_at(0).get("/channels", &[]).await.ok();
    for node in [0, 1] {
        server.api_at(node).post("/users/nobody/terminate_connections", "{}").await.ok();
    }
    let body = get(server.metrics_address(), "/metrics").await.body;
    let excuse = |name: &str| {
        NOT_SERVED.iter().find(|(names, _)| {
            names.split(", ").any(|own| own.strip_suffix('*').map_or(own == name, |start| name.starts_with(start)))
        })
    };
    let port = server.port().port();
    let started = body.lines().find(|line| line.starts_with("soketi_process_start_time_seconds{")).unwrap();
    let seconds = started.rsplit(' ').next().unwrap();
    assert!(seconds.bytes().all(|byte| byte.is_ascii_digit()), "panels read digits alone: {started}");
    for name in SOKETIS {
        let app = if name.starts_with("process_") { "" } else { "app_id=\"app-id\"," };
        let sample = ["", "_count"].map(|end| format!("\nsoketi_{name}{end}{{{app}port=\"{port}\"}} "));
        let is_served = sample.iter().any(|sample| body.contains(sample));
        let reads_procfs = name.starts_with("process_") && cfg!(not(target_os = "linux"));
        assert_eq!(is_served || reads_procfs, excuse(name).is_none(), "{name}\n{body}");
    }
    assert!(body.contains(concat!("\ngema_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")), "{body}");
    let row = |(names, why): &(&str, &str)| format!("| `{}` | {why} |\n", names.replace(", ", "`, `"));
    let table: String = NOT_SERVED.iter().map(row).collect();
    assert!(DOCUMENT.contains(&format!("| not served | because |\n| --- | --- |\n{table}\n")), "{table}");
}

/// The names of metrics in the source: literals that begin with `gema_`, and those of counters.
fn names_in_source() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folder = fs::read_dir(source.join("metrics")).unwrap().map(|entry| entry.unwrap().path());
    let texts = folder.chain([source.join("metrics.rs")]).map(|file| fs::read_to_string(file).unwrap());
    let mut names = BTreeSet::new();
    for text in texts {
        for literal in text.split('"').skip(1).step_by(2) {
            let name = literal.strip_prefix("gema_").unwrap_or(literal);
            let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
            if is_name && (name.len() < literal.len() || name.ends_with("_total")) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[tokio::test]
async fn the_document_names_each_metric_and_no_other() {
    let change = |config: &mut gema::config::Config| {
        config.ingest.prefixes = vec!["laravel_=app-id".to_owned()];
        config.limits.raw_clients.channels = vec!["raw".to_owned()];
        config.limits.history_rules = vec![serde_json::from_str(r#"{"match":"orders","seconds":1}"#).unwrap()];
    };
    let server = TestServer::start_cluster_with(2, change).await;
    let _raw = server.open("/app/app-key").await;
    let body = metrics(&server).await.body;
    let own = |name: &str| name.split_once('_').unwrap().1.to_owned();
    let served = body.lines().filter_map(|line| Some(own(line.strip_prefix("# HELP ")?.split(' ').next()?)));
    let names: BTreeSet<String> = served.chain(names_in_source()).collect();
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("Metrics\n")).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let documented: BTreeSet<String> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.starts_with("gema_") || name.starts_with("soketi_"))
        .map(own)
        .collect();
    let missing: Vec<_> = names.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/operation.md lacks {missing:?}");
    let known: BTreeSet<String> = names.into_iter().chain(SOKETIS.map(str::to_owned)).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(unknown.is_empty(), "docs/operation.md has {unknown:?}, which nobody counts");
}

#[tokio::test]
async fn figures_of_the_process_are_true() {
    let server = TestServer::start_single().await;
    let _client = server.connect().await;
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let figure = async |name: &str| server.figure(0, &format!("soketi_process_{name}"), "").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..3600.0).contains(&(now - figure("start_time_seconds").await)));
    let open_max = rlimit::Resource::NOFILE.get().unwrap().0 as f64;
    assert!((5.0..open_max).contains(&figure("open_fds").await));
    assert_eq!(figure("max_fds").await, open_max);
    let (resident, size) = (figure("resident_memory_bytes").await, figure("virtual_memory_bytes").await);
    assert!(1e6 < resident && resident < size, "{resident} {size}");
    assert!(figure("heap_bytes").await > 1e6);
    // Of one moment: the process goes on.
    let figures = Figures::of(server.metrics_address()).await;
    let [total, user] =
        ["cpu_seconds_total", "cpu_user_seconds_total"].map(|name| figures.sum(&format!("soketi_process_{name}"), ""));
    assert!(0.0 < user && user <= total, "{total} {user}");
}

#[tokio::test]
async fn events_are_counted_by_name_as_long_as_there_are_not_too_many() {
    let server = TestServer::start_single().await;
    for name in ["scada.data.received", "permintaan_baru", "scada.data.received"] {
        server.api().publish("news", name, "1").await;
    }
    for number in 0..150 {
        server.api().publish("news", &format!("e{number}"), "1").await;
    }
    let mut clients = [server.connect().await, server.connect().await];
    for client in &mut clients {
        client.subscribe("private-a").await;
    }
    clients[0].send_json(json!({ "event": "client-typing", "channel": "private-a", "data": "1" })).await;
    clients[1].next_event("client-typing").await;

    let body = metrics(&server).await.body;
    let count = |event: &str| {
        let port = server.port().port();
        let series = format!("gema_events_total{{app_id=\"app-id\",event=\"{event}\",port=\"{port}\"}} ");
        body.lines().find_map(|line| line.strip_prefix(&series)).map(|count| count.parse::<u32>().unwrap())
    };
    assert_eq!(count("scada.data.received"), Some(2));
    assert_eq!(count("permintaan_baru"), Some(1));
    assert_eq!(count("e96"), Some(1));
    assert_eq!(count("e97"), None);
    assert_eq!(count("pusher:others"), Some(53));
    assert_eq!(count("client-*"), Some(1));
}

#[tokio::test]
async fn traffic_is_counted_to_the_byte() {
    let server = TestServer::start().await;
    let mut client = server.open(PATH).await;
    let mut received = vec![client.next_text().await];
    let sent = [r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#, r#"{"event":"pusher:ping","data":{}}"#, "é"];
    for text in sent {
        client.send(text).await;
        received.push(client.next_text().await);
    }
    let body = r#"{"name":"e","channel":"a","data":"1"}"#;
    server.api().post("/events", body).await.ok();
    received.push(client.next_text().await);
    let channels = server.api().get("/channels", &[]).await;
    assert_eq!(channels.ok(), json!({ "channels": { "a": {} } }));

    let bytes = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>() as f64;
    let received: Vec<&str> = received.iter().map(String::as_str).collect();
    for (name, value) in [
        ("soketi_connected", 1.0),
        ("soketi_new_connections_total", 1.0),
        ("soketi_new_disconnections_total", 0.0),
        ("soketi_ws_messages_received_total", 3.0),
        ("soketi_socket_received_bytes", bytes(&sent)),
        ("soketi_ws_messages_sent_total", 5.0),
        ("soketi_socket_transmitted_bytes", bytes(&received)),
        ("soketi_http_calls_received_total", 2.0),
        ("soketi_http_received_bytes", body.len() as f64),
        ("soketi_http_transmitted_bytes", (2 + channels.body.len()) as f64),
        ("gema_deliveries_total", 1.0),
        ("gema_channels", 1.0),
    ] {
        // What a turn has sent is counted before the turn ends, not before it is heard.
        server.metric_becomes(name, None, value).await;
    }
    client.close().await;
    for (name, value) in [("soketi_connected", 0.0), ("soketi_new_disconnections_total", 1.0), ("gema_channels", 0.0)] {
        assert_eq!(server.metric(name, None).await, value, "{name}");
    }
}

#[tokio::test]
async fn json_has_the_shape_that_soketi_gives_it() {
    let server = TestServer::start().await;
    let _client = server.connect().await;
    for query in ["json=1", "json=true", "x=y&json=no"] {
        let families = get(server.metrics_address(), &format!("/metrics?{query}")).await.ok();
        let families = families.as_array().unwrap();
        let connected = families.iter().find(|family| family["name"] == "soketi_connected").unwrap();
        let labels = json!({ "app_id": "app-id", "port": server.port().port().to_string() });
        let values = json!([{ "value": 1.0, "labels": labels }]);
        assert_eq!(
            *connected,
            json!({
                "help": "Open connections", "name": "soketi_connected", "type": "gauge", "values": values,
                "aggregator": "sum",
            })
        );
        let latency = families.iter().find(|family| family["name"] == "gema_publish_to_socket_seconds").unwrap();
        assert_eq!(latency["type"], "histogram");
        assert!(families.iter().all(|family| family["values"].is_array() && family["help"].is_string()));
    }
    assert_ne!(get(server.metrics_address(), "/metrics?json=").await.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn another_prefix_takes_the_place_of_soketis() {
    let server = TestServer::start_with(|config| config.metrics.prefix = "chat_".to_owned()).await;
    let _client = server.connect().await;
    assert_eq!(server.metric("chat_connected", None).await, 1.0);
    assert!(!metrics(&server).await.body.contains("soketi_"));
}

#[tokio::test]
async fn refused_connections_leave_the_gauges_as_they_are() {
    // Limits of each node.
    let server = TestServer::start_single_with(|config| {
        config.limits.max_connections = 1;
        config.connections.connections_max = 3;
    })
    .await;
    let client = server.connect().await;
    for (path, code) in [
        ("/app/nobody", 4001),
        ("/app/app-id", 4001),
        ("/nothing", 4005),
        (PATH, 4004),
        ("/app/app-key?protocol=9", 4007),
    ] {
        let mut refused = server.open(path).await;
        refused.next_event("pusher:error").await;
        assert_eq!(refused.next_close().await.0, code);
        assert_eq!(server.metric("soketi_connected", None).await, 1.0, "{path}");
        refused.ended().await;
        assert_eq!(server.metric("soketi_connected", None).await, 1.0, "{path}");
    }
    // The others belong to no app.
    for cause in ["connect_app_full", "connect_protocol", "app_id_as_key"] {
        assert_eq!(server.metric("gema_refusals_total", Some(cause)).await, 1.0, "{cause}");
    }
    client.close().await;
    let text = metrics(&server).await.body;
    assert!(!text.lines().any(|line| line.contains(" -")), "something is negative: {text}");
    assert_eq!(server.metric("soketi_connected", None).await, 0.0);
    assert_eq!(server.metric("soketi_new_connections_total", None).await, 1.0);
    assert_eq!(server.metric("soketi_new_disconnections_total", None).await, 1.0);
}

#[tokio::test]
async fn refusals_are_counted_by_cause() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let causes = [
        ("subscribe_no_auth", r#"{"event":"pusher:subscribe","data":{"channel":"private-a"}}"#, 2),
        ("unsubscribe_unknown", r#"{"event":"pusher:unsubscribe","data":{"channel":"a"}}"#, 1),
        ("sign_in_unknown_key", r#"{"event":"pusher:signin","data":{"auth":"x:y","user_data":"{\"id\":\"1\"}"}}"#, 1),
        ("client_event_not_subscribed", r#"{"event":"client-a","channel":"private-a","data":1}"#, 1),
        ("invalid_message", "nonsense", 1),
        ("foreign_message", r#"{"type":"heartbeat"}"#, 1),
    ];
    for (cause, message, answers) in causes {
        let before = server.metric("gema_refusals_total", Some(cause)).await;
        client.send(message).await;
        assert_eq!(client.settle().await.len(), answers, "{message}");
        assert_eq!(server.metric("gema_refusals_total", Some(cause)).await, before + 1.0, "{message}");
    }
    assert_eq!(server.api_of("app-id", "app-key", "wrong").get("/channels", &[]).await.status, 401);
    assert_eq!(server.api().post("/events", "{}").await.status, 400);
    for cause in ["api_signature", "api_body"] {
        assert_eq!(server.metric("gema_refusals_total", Some(cause)).await, 1.0, "{cause}");
    }
    assert_eq!(server.metric("soketi_http_calls_received_total", None).await, 0.0);
}

#[tokio::test]
async fn events_for_a_reader_that_is_gone_are_counted() {
    const EVENTS: usize = 64;
    let server = TestServer::start_with(|config| {
        config.connections.outbox_bytes_max = 64 * 1024 * 1024;
        config.server.workers = 1;
    })
    .await;
    let mut stalled = Wire::connect_narrow(server.address(), PATH).await;
    stalled.subscribe("a").await;
    let data = "x".repeat(90_000);
    for _ in 0..EVENTS {
        server.api().publish("a", "e", &data).await;
    }
    // The answer comes at the end of a turn in which everything before it has been put down.
    server.connect().await.nothing_came().await;
    let waiting = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("gema_outbox_bytes ")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
    };
    let outbox = waiting(&metrics(&server).await.body);
    let frame = format!(r#"{{"event":"e","data":"{data}","channel":"a"}}"#).len() + 10;
    assert!((frame..frame * EVENTS).contains(&outbox), "the reader has not stalled: {outbox}");
    drop(stalled);
    server.metric_becomes("soketi_connected", None, 0.0).await;
    // The first of them has been begun, maybe.
    let dropped = server.metric("gema_drops_total", Some("disconnected")).await;
    assert_eq!(dropped, outbox.div_ceil(frame) as f64, "{outbox}");
    assert_eq!(waiting(&metrics(&server).await.body), 0);
}

#[tokio::test]
async fn health_is_told_on_both_ports_and_metrics_on_one() {
    let server = TestServer::start().await;
    let (main, second) = (server.address(), server.metrics_address());
    for (address, path) in [(main, "/"), (main, "/health/live"), (main, "/ready"), (second, "/"), (second, "/ready")] {
        let answer = get(address, path).await;
        assert_eq!((answer.status, &*answer.body), (200, "OK"), "{path}");
    }
    let usage = get(second, "/usage").await.ok();
    let memory = &usage["memory"];
    let number = |name: &str| memory[name].as_f64().unwrap();
    assert_eq!(memory.as_object().unwrap().len(), 4, "{memory}");
    assert_eq!(number("free") + number("used"), number("total"));
    assert!((number("percent") - number("used") / number("total") * 100.0).abs() < 1e-9, "{memory}");
    assert!(number("used") > 1e6, "{memory}");
    for (address, path) in [(main, "/metrics"), (main, "/usage"), (second, "/apps/app-id/channels"), (second, "/x")] {
        assert_eq!(get(address, path).await.refused(404), "Not found", "{path}");
    }
    assert_eq!(http::request(main, "POST", "/ready", &[], b"").await.status, 405);
}

#[tokio::test]
async fn metrics_can_be_off_while_the_rest_of_their_port_works() {
    // Without metrics several nodes could not be asked whether they are done.
    let server = TestServer::start_single_with(|config| {
        config.metrics.enabled = false;
        config.server.path_prefix = "/ws".to_owned();
    })
    .await;
    assert_eq!(get(server.metrics_address(), "/ws/metrics").await.refused(404), "Not found");
    assert!(get(server.metrics_address(), "/ws/usage").await.ok()["memory"].is_object());
    let elsewhere = "Not found: every path begins with /ws here (server.path_prefix)";
    for path in ["/usage", "/metrics", "/"] {
        assert_eq!(get(server.metrics_address(), path).await.refused(404), elsewhere);
    }
    assert_eq!(get(server.address(), "/ws/ready").await.body, "OK");
}

#[tokio::test]
async fn traffic_is_accepted_up_to_a_share_of_the_memory() {
    let server = TestServer::start_with(|config| config.server.accept_traffic_memory_percent = 100.0).await;
    let answer = get(server.address(), "/accept-traffic").await.ok();
    let memory = &answer["memory"];
    let number = |name: &str| memory[name].as_f64().unwrap();
    assert_eq!(memory.as_object().unwrap().len(), 3, "{memory}");
    assert!((number("percentUsage") - number("usedSize") / number("totalSize") * 100.0).abs() < 1e-9, "{memory}");

    let narrow = TestServer::start_with(|config| config.server.accept_traffic_memory_percent = 1.0).await;
    let percent_of_all = vec![1_u8; (number("totalSize") / 100.0) as usize];
    let answer = get(narrow.address(), "/accept-traffic").await;
    assert_eq!(answer.refused(503), "Low on memory here. Choose another server.");
    assert_eq!(get(narrow.address(), "/ready").await.status, 200);
    assert_eq!(percent_of_all.last(), Some(&1));
}

#[tokio::test]
async fn pages_of_other_origins_may_read_the_metrics_port() {
    let origin = ("origin", "https://panel.example");
    let server = TestServer::start_single().await;
    for path in ["/usage", "/metrics", "/metrics?json=1"] {
        let answer = http::request(server.metrics_address(), "GET", path, &[origin], b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")), "{path}");
    }
    let narrow =
        TestServer::start_single_with(|config| config.http.cors_origins = vec!["https://a.example".to_owned()]).await;
    let answer = http::request(narrow.metrics_address(), "GET", "/usage", &[origin], b"").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
}
