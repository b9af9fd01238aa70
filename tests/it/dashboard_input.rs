//! Bad input and crowds at the operator's page: hostile names, foreign pages, and more of everything than one can read.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::iter;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::request;
use support::process::Process;
use support::server::channel_auth;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dashboard::Events;
use crate::dashboard::OPERATOR;
use crate::dashboard::VIEWER;
use crate::dashboard::bearer;
use crate::dashboard::connect;
use crate::dashboard::cookie;
use crate::dashboard::get;
use crate::dashboard::login;
use crate::dashboard::paths;
use crate::dashboard::post;
use crate::dashboard::start;
use crate::wire::upgrade_head;

/// The longest list of one answer, with everything around it.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Markup, a command for terminals, a mark that turns the direction of a line, and the end of an event of a stream.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\u{1b}[2J\u{202e}\u{2066}\n\nevent: now\ndata: {}\n\n&quot;'\"\\";

/// An answer that no list makes too long.
async fn bounded(process: &Process, path: &str) -> Value {
    let answer = get(process, path, VIEWER).await;
    assert!(answer.body.len() <= ANSWER_BYTES_MAX, "{path}: {} bytes", answer.body.len());
    answer.ok()
}

fn rows(answer: &Value, of: &str) -> usize {
    answer[of].as_array().unwrap_or_else(|| panic!("{answer}")).len()
}

#[tokio::test]
async fn of_ten_thousand_channels_the_page_gets_a_bounded_list() {
    let process = start(&[("GEMA_CONNECTIONS_SUBSCRIPTIONS_PER_SECOND", "1000000")]).await;
    let mut client = connect(&process).await;
    let long = "x".repeat(180);
    for part in 0..100 {
        let subscribe = |number: u32| {
            let channel = format!("orders.{:05}.{long}", part * 100 + number);
            json!({ "event": "pusher:subscribe", "data": { "channel": channel } }).to_string()
        };
        client.send_together(&(0..100).map(subscribe).collect::<Vec<_>>()).await;
        for _ in 0..100 {
            client.next_event("pusher_internal:subscription_succeeded").await;
        }
    }
    for (query, total, shown) in [
        ("", 10_000, 100),
        ("?limit=100000000", 10_000, 1000),
        ("?limit=0&sort=events", 10_000, 1),
        ("?app=app-id&match=orders.0012*&limit=5&sort=subscribers", 10, 5),
        ("?match=*.09999.*", 1, 1),
        ("?match=invoices*", 0, 0),
        ("?app=other", 0, 0),
    ] {
        let answer = bounded(&process, &format!("/dashboard/api/channels{query}")).await;
        assert_eq!((&answer["total"], rows(&answer, "channels")), (&json!(total), shown), "{query}");
    }
    assert_eq!(bounded(&process, "/dashboard/api/state").await["apps"][0]["channels"], 10_000);
    let found = bounded(&process, "/dashboard/api/connections?app=app-id").await;
    assert_eq!((&found["connections"][0]["channels_total"], &found["total"]), (&json!(10_000), &json!(1)));
    assert!(rows(&found["connections"][0], "channels") <= 100);
}

/// Connections that say nothing more. Each needs a file here and one in the server.
async fn open_many(process: &Process, count: usize) -> Vec<TcpStream> {
    let open = async |number: usize| {
        // Whatever a client says of itself is as long as it may be.
        let path = format!("/app/app-key?protocol=7&client=js&version=8.4.0-{number}");
        let head = upgrade_head(&path, &[("Origin", &format!("https://{}.example", "x".repeat(200)))]);
        let mut stream = TcpStream::connect(process.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 512]);
        while !received.windows(22).any(|part| part == b"connection_established") {
            let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("no handshake").unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&buffer[..read]);
        }
        stream
    };
    iter(0..count).map(open).buffer_unordered(50).collect().await
}

#[tokio::test]
async fn of_ten_thousand_connections_the_page_gets_a_bounded_list() {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // Other tests of this process have files open, too.
    let count = usize::try_from(files / 2).unwrap().min(10_000);
    let process = start(&[]).await;
    let connections = open_many(&process, count).await;
    let mut budi = connect(&process).await;
    budi.join("presence-warehouse", "budi").await;
    let all = bounded(&process, "/dashboard/api/connections?app=app-id&limit=100000000").await;
    assert_eq!((&all["total"], rows(&all, "connections")), (&json!(count + 1), (count + 1).min(1000)));
    // Searches at once look at all; none of them fails.
    let search = async |_| bounded(&process, "/dashboard/api/connections?user=budi").await;
    let found: Vec<Value> = iter(0..10).map(search).buffer_unordered(10).collect().await;
    assert!(found.iter().all(|found| found["total"] == 1 && found["connections"][0]["user"] == "budi"), "{found:?}");
    bounded(&process, "/dashboard/api/state").await;
    let mut events = Events::open(&process, "").await;
    events.find("now", |now| now["connections"] == count + 1).await;
    drop(connections);
    events.find("now", |now| now["connections"] == 1).await;
}

#[tokio::test]
async fn in_a_flood_no_second_has_more_rows_than_one_can_read() {
    const EVENTS: u64 = 10_000;
    let process = start(&[("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true")]).await;
    let mut client = connect(&process).await;
    let auth = channel_auth(&client.socket_id, "private-orders", None);
    let subscribe = json!({ "event": "pusher:subscribe", "data": { "channel": "private-orders", "auth": auth } });
    client.send_json(subscribe).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    let mut viewers = Vec::new();
    for query in ["?live=1", "?live=1&filter=kind:client_event"] {
        viewers.push((Events::open(&process, query).await, BTreeMap::new(), 0));
    }
    let event = json!({ "event": "client-typing", "channel": "private-orders", "data": "x" }).to_string();
    let hundred = vec![event; 100];
    for _ in 0..EVENTS / 100 {
        client.send_together(&hundred).await;
    }
    for (events, rows_by_second, seen) in &mut viewers {
        while *seen < EVENTS {
            let data = events.find("rows", |_| true).await;
            let rows = data["rows"].as_array().unwrap();
            *seen += rows.len() as u64 + data["left_out"].as_u64().unwrap();
            for row in rows {
                *rows_by_second.entry(row["at_ms"].as_u64().unwrap() / 1000).or_insert(0) += 1;
            }
        }
        assert!(rows_by_second.values().all(|rows| (1..=60).contains(rows)), "{rows_by_second:?}");
    }
}

#[tokio::test]
async fn twenty_watch_at_once_and_one_more_is_told_why_not() {
    let process = start(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Events::open(&process, "?live=1").await);
    }
    let answer = get(&process, "/dashboard/api/stream?live=1", VIEWER).await;
    let reason = answer.refused(503);
    assert!(reason.contains("20 of one address") && reason.contains("Close one"), "{reason}");
    assert_eq!(answer.header("retry-after"), Some("5"));
    let _client = connect(&process).await;
    for viewer in &mut viewers {
        viewer.row_of("connect").await;
        // It comes each second.
        viewer.find("now", |now| now["connections"] == 1).await;
    }
    bounded(&process, "/dashboard/api/state").await;
}

#[tokio::test]
async fn hostile_names_are_text_in_each_answer() {
    let process = start(&[("GEMA_DASHBOARD_PAYLOADS", "true")]).await;
    let query = "protocol=7&client=%3Cscript%3E%1b%5B2J&version=%E2%80%AE8";
    let origin = ("Origin", "https://<b>\"'.example");
    let mut client = Client::open(process.address, &format!("/app/app-key?{query}"), &[origin]).await;
    client.established().await;
    let channel_data = json!({ "user_id": HOSTILE, "user_info": { "name": HOSTILE } }).to_string();
    client.send_subscribe("presence-warehouse", Some(&channel_data)).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    let member = get(&process, "/dashboard/api/channel?app=app-id&name=presence-warehouse", VIEWER).await;
    assert_eq!(member.json()["members"], json!([{ "id": HOSTILE, "info": { "name": HOSTILE } }]));
    let found = get(&process, "/dashboard/api/connections?app=app-id", VIEWER).await;
    assert_eq!(found.json()["connections"][0]["user"], HOSTILE);
    for answer in [member, found, get(&process, "/dashboard/api/state", VIEWER).await] {
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let is_control = |letter: char| letter.is_control();
        assert!(!answer.body.contains(is_control), "{:?}", answer.body);
    }
    // Names of 100 KB, which nobody can look for.
    let long = "x".repeat(100_000);
    for path in [
        format!("/dashboard/api/connections?user={long}"),
        format!("/dashboard/api/channels?match={long}"),
        format!("/dashboard/api/channel?app=app-id&name={long}"),
        format!("/dashboard/api/state?node={long}"),
        format!("/dashboard/{long}"),
    ] {
        let answer = get(&process, &path, VIEWER).await;
        assert!([200, 400, 404, 414, 431].contains(&answer.status), "{answer:?}");
        assert!(answer.body.len() < 8 * 1024, "{} bytes", answer.body.len());
    }
    for (path, body, status) in [
        ("publish", json!({ "app": "app-id", "channel": long, "event": "e", "data": "" }), 400),
        ("publish", json!({ "app": "app-id", "channel": "a", "event": long, "data": "" }), 400),
        ("publish", json!({ "app": long, "channel": "a", "event": "e", "data": "" }), 404),
        ("publish", json!({ "app": "app-id", "channel": "a", "event": "e", "data": "", "except": long }), 400),
        ("disconnect", json!({ "app": "app-id", "socket": long }), 200),
        ("disconnect", json!({ "app": "app-id", "user": long }), 200),
        ("drain", json!({ "node": long }), 404),
        ("log", json!({ "level": long }), 400),
        ("log", json!({ "level": "debug", "channel": long }), 400),
        ("login", json!({ "token": long }), 401),
    ] {
        let answer = post(&process, &format!("/dashboard/api/{path}"), OPERATOR, &body).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.len() < 8 * 1024, "{path}: {} bytes", answer.body.len());
    }
    let log = format!("{:?}", process.log.lines());
    assert!(!log.contains(&long[..1000]), "a line of the log has a name of 100 KB");
    bounded(&process, "/dashboard/api/state").await;
}

/// The head of an answer that may go on without end.
async fn head(process: &Process, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(process.metrics_address).await.unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            return support::http::parse(&received[..end + 4]);
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut received)).await.expect("no answer").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&received));
    }
}

#[tokio::test]
async fn no_answer_may_be_shown_in_a_frame_or_read_by_another_page() {
    let process = start(&[("GEMA_HTTP_CORS_ORIGINS", "*")]).await;
    let (viewer, operator) = (bearer(VIEWER), bearer(OPERATOR));
    let files =
        [("GET", "/dashboard"), ("GET", "/dashboard/"), ("GET", "/dashboard/page.js"), ("GET", "/dashboard/no.js")];
    let api = paths().into_iter().map(|(method, path, _)| (method, path));
    let others = [("POST", "/dashboard/api/login"), ("POST", "/dashboard/api/logout"), ("PUT", "/dashboard/api/state")];
    for (method, path) in files.into_iter().chain(api).chain(others) {
        for headers in [
            &[][..],
            &[("Authorization", &*viewer)],
            &[("Authorization", &*operator), ("Origin", "https://evil.example")],
            &[("Cookie", "gema_dashboard=viewer.1.00"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")],
        ] {
            let answer = head(&process, method, path, headers).await;
            assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{method} {path} {headers:?}: {answer:?}");
            let policy = answer.header("content-security-policy").unwrap_or_default();
            assert!(policy.contains("frame-ancestors 'none'"), "{method} {path} {headers:?}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path} {headers:?}: {answer:?}");
        }
        let asks = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", method)];
        let answer = head(&process, "OPTIONS", path, &asks).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path}: {answer:?}");
        assert!(answer.status >= 400, "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_node_or_of_another_role_opens_nothing() {
    let (process, other) = (start(&[]).await, start(&[("GEMA_DASHBOARD_TOKEN", "another-viewer-0123456789")]).await);
    let own = cookie(&login(&process, VIEWER).await);
    let foreign = cookie(&login(&other, "another-viewer-0123456789").await);
    let value = own.strip_prefix("gema_dashboard=").unwrap();
    let (_, signed) = value.split_once('.').unwrap();
    let forged = [
        foreign.clone(),
        format!("gema_dashboard=operator.{signed}"),
        format!("gema_dashboard={}", &value[..value.len() - 1]),
        format!("gema_dashboard={value}0"),
        format!("gema_dashboard={}", value.replacen(char::is_numeric, "9", 1)),
        format!("gema_dashboard={VIEWER}"),
        format!("gema_dashboard={}", "9".repeat(30_000)),
    ];
    for (method, path, _) in paths() {
        for cookie in forged.iter().filter(|cookie| **cookie != own) {
            let headers = [("Cookie", &**cookie), ("Sec-Fetch-Site", "same-origin")];
            let status = head(&process, method, path, &headers).await.status;
            assert!([401, 431].contains(&status), "{method} {path} {cookie}: {status}");
        }
    }
    let state = request(process.metrics_address, "GET", "/dashboard/api/state", &[("Cookie", &own)], b"").await;
    assert_eq!(state.ok()["role"], "viewer");
    // A browser may send both.
    let both = format!("{foreign}; {own}");
    let state = request(process.metrics_address, "GET", "/dashboard/api/state", &[("Cookie", &both)], b"").await;
    assert_eq!(state.ok()["role"], "viewer");
}

#[tokio::test]
async fn the_log_has_each_action_with_the_address_and_without_data() {
    let process = start(&[("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let mut client = connect(&process).await;
    client.subscribe("orders").await;
    let id = get(&process, "/dashboard/api/state", VIEWER).await.ok()["node"].clone();
    let act = async |path: &str, body: Value| {
        let (path, body) = (format!("/dashboard/api/{path}"), body.to_string());
        let headers = [("Authorization", &*bearer(OPERATOR)), ("X-Forwarded-For", "192.0.2.7")];
        request(process.metrics_address, "POST", &path, &headers, body.as_bytes()).await
    };
    act("publish", json!({ "app": "app-id", "channel": "orders", "event": "shipped", "data": "hush" })).await.ok();
    act("disconnect", json!({ "app": "app-id", "user": "budi" })).await.ok();
    act("disconnect", json!({ "app": "app-id", "socket": client.socket_id })).await.ok();
    act("log", json!({ "level": "debug", "minutes": 1, "channel": "orders" })).await.ok();
    assert_eq!(act("drain", json!({ "node": id })).await.status, 202);
    let socket = client.socket_id.clone();
    for (message, fields) in [
        ("an operator publishes an event", json!({ "app": "app-id", "channel": "orders", "event": "shipped" })),
        ("an operator closes connections", json!({ "app": "app-id", "user": "budi", "closed": 0 })),
        ("an operator closes connections", json!({ "app": "app-id", "socket": socket, "closed": 1 })),
        ("an operator changes the log for a time", json!({ "log_level": "debug", "minutes": 1, "channel": "orders" })),
        ("an operator drains a node", json!({ "node": id })),
    ] {
        let fields = fields.as_object().unwrap().clone();
        let is_it =
            |line: &Value| line["message"] == message && fields.iter().all(|(name, value)| line[name] == *value);
        let line = process.log.find(is_it).await;
        assert_eq!((&line["level"], &line["role"]), (&json!("INFO"), &json!("operator")), "{line}");
        assert_eq!(line["address"], "192.0.2.7", "{line}");
    }
    let log = format!("{:?}", process.log.lines());
    for secret in ["hush", OPERATOR, VIEWER] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    process.stopped().await;
}

#[tokio::test]
async fn viewers_search_and_look_while_connections_come_and_go() {
    let process = start(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Events::open(&process, "?live=1").await);
    }
    let began = Instant::now();
    for _ in 0..10 {
        let connections = open_many(&process, 50).await;
        let found = bounded(&process, "/dashboard/api/connections?app=app-id&limit=1000").await;
        assert!(found["total"].as_u64().unwrap() >= 50, "{}", found["total"]);
        bounded(&process, "/dashboard/api/channels").await;
        drop(connections);
        assert_eq!(request(process.metrics_address, "GET", "/ready", &[], b"").await.status, 200);
    }
    println!("ten rounds take {:?}", began.elapsed());
    for viewer in &mut viewers {
        viewer.find("now", |now| now["connections"] == 0).await;
    }
}
