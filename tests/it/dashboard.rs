//! The operator's page: who is let in, what it shows, and what it costs. Each test runs the program as an operator would.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::Api;
use support::http::request;
use support::process::Process;
use support::process::program;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const VIEWER: &str = "viewer-token-0123456789";
pub(crate) const OPERATOR: &str = "operator-token-0123456789";

/// The program with both tokens.
pub(crate) async fn start(variables: &[(&str, &str)]) -> Process {
    let tokens = [("GEMA_DASHBOARD_TOKEN", VIEWER), ("GEMA_DASHBOARD_OPERATOR_TOKEN", OPERATOR)];
    Process::start(&[&tokens[..], variables].concat()).await
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub(crate) async fn get(process: &Process, path: &str, token: &str) -> Answer {
    request(process.metrics_address, "GET", path, &[("Authorization", &bearer(token))], b"").await
}

pub(crate) async fn post(process: &Process, path: &str, token: &str, body: &Value) -> Answer {
    let body = body.to_string();
    request(process.metrics_address, "POST", path, &[("Authorization", &bearer(token))], body.as_bytes()).await
}

pub(crate) async fn login(process: &Process, token: &str) -> Answer {
    let body = json!({ "token": token }).to_string();
    request(process.metrics_address, "POST", "/dashboard/api/login", &[], body.as_bytes()).await
}

/// The cookie that an answer sets, without its attributes.
pub(crate) fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    set.split(';').next().unwrap().to_owned()
}

async fn state(process: &Process) -> Value {
    get(process, "/dashboard/api/state", VIEWER).await.ok()
}

/// The stream of events.
pub(crate) struct Events {
    stream: TcpStream,
    received: Vec<u8>,
    text: String,
    /// The problems so far, by code.
    problems: HashMap<String, Value>,
}

impl Events {
    pub(crate) async fn open(process: &Process, query: &str) -> Self {
        let mut stream = TcpStream::connect(process.metrics_address).await.unwrap();
        let head = format!(
            "GET /dashboard/api/stream{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VIEWER}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self { stream, received: Vec::new(), text: String::new(), problems: HashMap::new() };
        loop {
            events.read().await;
            if let Some(end) = events.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(events.received.drain(..end + 4).collect()).unwrap();
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
                return events;
            }
        }
    }

    async fn read(&mut self) -> usize {
        let mut buffer = [0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("nothing comes").unwrap();
        self.received.extend_from_slice(&buffer[..read]);
        read
    }

    /// Takes whole chunks of the body.
    fn unchunk(&mut self) {
        while let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
            let length = std::str::from_utf8(&self.received[..end]).unwrap();
            let length = usize::from_str_radix(length, 16).unwrap_or_else(|_| panic!("{length:?} is no length"));
            if self.received.len() < end + 4 + length {
                return;
            }
            let chunk: Vec<u8> = self.received.drain(..end + 4 + length).collect();
            self.text.push_str(std::str::from_utf8(&chunk[end + 2..end + 2 + length]).unwrap());
        }
    }

    /// The next event with its data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            self.unchunk();
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let Some((name, data)) = event.split_once("\ndata: ") else { continue };
                let name = name.strip_prefix("event: ").unwrap().to_owned();
                let data: Value = serde_json::from_str(data).unwrap();
                for problem in data.as_array().filter(|_| name == "problems").into_iter().flatten() {
                    self.problems.insert(problem["code"].as_str().unwrap().to_owned(), problem.clone());
                }
                return Some((name, data));
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// The first event that is like this.
    pub(crate) async fn find(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let (own, data) = self.next().await.expect("the stream ends");
            if own == name && is_it(&data) {
                return data;
            }
            assert!(Instant::now() < until, "no such {name}");
        }
    }

    /// The first row that is like this.
    async fn row(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let rows = self.find("rows", |data| data["rows"].as_array().unwrap().iter().any(&is_it)).await;
        rows["rows"].as_array().unwrap().iter().find(|row| is_it(row)).unwrap().clone()
    }

    /// The first row of this kind.
    pub(crate) async fn row_of(&mut self, kind: &str) -> Value {
        self.row(|row| row["kind"] == kind).await
    }

    /// The problem with this code, once it has come.
    pub(crate) async fn problem(&mut self, code: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        while !self.problems.contains_key(code) {
            self.next().await.expect("the stream ends");
            assert!(Instant::now() < until, "no problem {code} among {:?}", self.problems.keys());
        }
        self.problems[code].clone()
    }
}

/// Each path that wants a token, with a body where it takes one.
pub(crate) fn paths() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "/dashboard/api/state", Value::Null),
        ("GET", "/dashboard/api/history?range=15m", Value::Null),
        ("GET", "/dashboard/api/channels", Value::Null),
        ("GET", "/dashboard/api/channel?app=app-id&name=a", Value::Null),
        ("GET", "/dashboard/api/connections?app=app-id", Value::Null),
        ("GET", "/dashboard/api/stream", Value::Null),
        ("GET", "/dashboard/api/nothing", Value::Null),
        ("POST", "/dashboard/api/publish", json!({ "app": "app-id", "channel": "a", "event": "e", "data": "" })),
        ("POST", "/dashboard/api/disconnect", json!({ "app": "app-id", "user": "nobody" })),
        ("POST", "/dashboard/api/drain", json!({ "node": "none" })),
        ("POST", "/dashboard/api/log", json!({ "level": "debug", "minutes": 1, "app": "none" })),
    ]
}

#[tokio::test]
async fn without_a_token_there_is_no_page() {
    let process = Process::start(&[]).await;
    let files = [("GET", "/dashboard", Value::Null), ("POST", "/dashboard/api/login", json!({ "token": "x" }))];
    for (method, path, body) in paths().into_iter().chain(files) {
        let answer = request(process.metrics_address, method, path, &[], body.to_string().as_bytes()).await;
        assert!(answer.refused(404).contains("dashboard.token"), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn each_path_wants_a_token_and_acting_an_operators() {
    let process = start(&[]).await;
    for (method, path, body) in paths() {
        let ask = async |headers: &[(&str, &str)]| {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            request(process.metrics_address, method, path, headers, body.as_bytes()).await
        };
        let answer = ask(&[]).await;
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
        for headers in [[("Cookie", "gema_dashboard=viewer.00")], [("Authorization", "Basic dmlld2Vy")]] {
            assert_eq!(ask(&headers).await.status, 401, "{method} {path} {headers:?}");
        }
        if method == "POST" {
            let viewer = ask(&[("Authorization", &bearer(VIEWER))]).await;
            assert_eq!(viewer.status, 403, "{method} {path}: {viewer:?}");
            let operator = ask(&[("Authorization", &bearer(OPERATOR))]).await;
            assert!([200, 202, 404].contains(&operator.status), "{method} {path}: {operator:?}");
        } else if !path.contains("stream") {
            let viewer = ask(&[("Authorization", &bearer(VIEWER))]).await;
            assert!([200, 404].contains(&viewer.status), "{method} {path}: {viewer:?}");
        }
    }
    // Without a token nobody learns either which parameters there are.
    let long = "*".repeat(513);
    for path in [
        "/dashboard/api/stream".to_owned(),
        "/dashboard/api/channel".to_owned(),
        "/dashboard/api/connections?limit=many".to_owned(),
        format!("/dashboard/api/stream?live=1&filter={long}"),
        format!("/dashboard/api/channels?match={long}"),
    ] {
        let answer = request(process.metrics_address, "GET", &path, &[], b"").await;
        assert_eq!(answer.status, 401, "{path}");
        if path.contains('?') {
            let answer = get(&process, &path, VIEWER).await;
            let reason = answer.refused(400);
            assert!(!path.contains(&long) || reason.contains("512"), "{reason}");
        }
    }
    let path = format!("/dashboard/api/channels?match={}", &long[1..]);
    get(&process, &path, VIEWER).await.ok();
    for (method, path) in [("PUT", "/dashboard/api/state"), ("DELETE", "/dashboard"), ("GET", "/dashboard/api/login")] {
        assert_eq!(request(process.metrics_address, method, path, &[], b"").await.status, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn a_login_gives_a_cookie_that_scripts_cannot_read() {
    let process = start(&[]).await;
    let answer = login(&process, OPERATOR).await;
    assert_eq!(answer.ok(), json!({ "role": "operator" }));
    let set = answer.header("set-cookie").unwrap().to_owned();
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/dashboard/api"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains(OPERATOR), "{set}");
    let operator = cookie(&answer);
    let viewer = cookie(&login(&process, VIEWER).await);
    for (cookie, role) in [(&operator, "operator"), (&viewer, "viewer")] {
        let headers = [("Cookie", &**cookie)];
        let answer = request(process.metrics_address, "GET", "/dashboard/api/state", &headers, b"").await;
        assert_eq!(answer.ok()["role"], role);
    }
    // The same on another node with the same token, and no longer with another one.
    let (same, other) = (start(&[]).await, start(&[("GEMA_DASHBOARD_OPERATOR_TOKEN", "another-0123456789")]).await);
    let ask = async |process: &Process| {
        let headers = [("Cookie", &*operator)];
        request(process.metrics_address, "GET", "/dashboard/api/state", &headers, b"").await.status
    };
    assert_eq!((ask(&same).await, ask(&other).await), (200, 401));
    let gone = [("Cookie", &*viewer), ("Sec-Fetch-Site", "same-origin")];
    let gone = request(process.metrics_address, "POST", "/dashboard/api/logout", &gone, b"").await;
    assert_eq!(gone.status, 204);
    assert!(gone.header("set-cookie").unwrap().starts_with("gema_dashboard=; "), "{gone:?}");
    assert!(gone.header("set-cookie").unwrap().contains("Max-Age=0"), "{gone:?}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_with_tls_the_cookie_is_for_tls_only() {
    let process = start(&[("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let body = json!({ "token": VIEWER }).to_string();
    let headers = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "192.0.2.1")];
    let answer = request(process.metrics_address, "POST", "/dashboard/api/login", &headers, body.as_bytes()).await;
    assert!(answer.header("set-cookie").unwrap().contains("; Secure"), "{answer:?}");
}

#[tokio::test]
async fn no_other_page_acts_with_the_cookie() {
    let process = start(&[]).await;
    let operator = cookie(&login(&process, OPERATOR).await);
    let body = json!({ "app": "app-id", "channel": "a", "event": "e", "data": "x" }).to_string();
    let act = async |headers: &[(&str, &str)]| {
        let headers = [&[("Cookie", &*operator)], headers].concat();
        let path = "/dashboard/api/publish";
        request(process.metrics_address, "POST", path, &headers, body.as_bytes()).await.status
    };
    for headers in [
        &[][..],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "http://localhost:1")],
        &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_eq!(act(headers).await, 403, "{headers:?}");
    }
    assert_eq!(act(&[("Origin", "http://localhost")]).await, 200);
    assert_eq!(act(&[("Sec-Fetch-Site", "same-origin")]).await, 200);
    // Nothing for pages of other origins to read, whatever http.cors_origins says.
    let headers = [("Authorization", &*bearer(VIEWER)), ("Origin", "https://evil.example")];
    let answer = request(process.metrics_address, "GET", "/dashboard/api/state", &headers, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn another_page_cannot_use_up_the_attempts_of_its_visitor() {
    let process = start(&[]).await;
    let body = json!({ "token": "wrong" }).to_string();
    let attempt = async |headers: &[(&str, &str)]| {
        let path = "/dashboard/api/login";
        request(process.metrics_address, "POST", path, headers, body.as_bytes()).await.status
    };
    for _ in 0..3 {
        for headers in [
            &[("Origin", "https://evil.example")][..],
            &[("Origin", "null")],
            &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")],
        ] {
            assert_eq!(attempt(headers).await, 403, "{headers:?}");
        }
    }
    assert_eq!(attempt(&[("Origin", "http://localhost")]).await, 401);
    assert_eq!(login(&process, VIEWER).await.ok()["role"], "viewer");
}

#[tokio::test]
async fn after_five_wrong_tokens_an_address_has_to_wait_and_no_token_is_told() {
    let process = start(&[]).await;
    for attempt in 0..5 {
        let answer = login(&process, &format!("hush-{attempt}")).await;
        assert_eq!(answer.status, 401);
        assert!(!answer.body.contains("hush"), "{answer:?}");
    }
    let answer = login(&process, VIEWER).await;
    assert_eq!(answer.status, 429);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(get(&process, "/dashboard/api/state", VIEWER).await.status, 429);
    let line = process.log.about("dashboard_token").await;
    assert!(line["remedy"].as_str().unwrap().contains("dashboard.token"), "{line}");
    process.log.about("dashboard_attempts").await;
    let log = format!("{:?}", process.log.lines());
    for secret in ["hush", VIEWER, OPERATOR] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_state_shows_everything_and_no_secret() {
    let process = start(&[("GEMA_SERVER_NAME", "gema-x2x7q")]).await;
    let mut client = connect(&process).await;
    client.subscribe("orders").await;
    let state = state(&process).await;
    for (name, kind) in [
        ("glance", "object"),
        ("nodes", "array"),
        ("redis", "object"),
        ("now", "object"),
        ("limits", "object"),
        ("problems", "array"),
        ("apps", "array"),
        ("webhooks", "array"),
        ("flow_rules", "array"),
        ("settings", "array"),
        ("snippets", "object"),
        ("warnings", "array"),
        ("public", "object"),
    ] {
        assert_eq!(state[name].is_object(), kind == "object", "{name}: {}", state[name]);
        assert_eq!(state[name].is_array(), kind == "array", "{name}: {}", state[name]);
    }
    assert_eq!((&state["role"], &state["nodes"][0]["this"]), (&json!("viewer"), &json!(true)));
    assert_eq!(state["nodes"][0]["name"], "gema-x2x7q");
    let setting = |key: &str| {
        let settings = state["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key}")).clone()
    };
    assert_eq!(
        setting("dashboard.token"),
        json!({
            "key": "dashboard.token", "value": "***", "origin": "GEMA_DASHBOARD_TOKEN"
        })
    );
    assert_eq!(setting("server.backlog")["origin"], "default");
    assert_eq!(state["public"]["port"], process.address.port());
    let text = state.to_string();
    for secret in [VIEWER, OPERATOR, "app-secret"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let glance = state["glance"]["text"].as_str().unwrap();
    assert!(glance.ends_with('.'), "{glance}");
}

#[tokio::test]
async fn the_stream_brings_figures_problems_and_rows() {
    let process = start(&[]).await;
    let mut events = Events::open(&process, "?live=1").await;
    events.find("now", |now| now["connections"] == 0).await;
    let mut client = connect(&process).await;
    client.subscribe("orders").await;
    let row = events.row(|row| row["kind"] == "subscribe").await;
    assert_eq!((&row["app"], &row["channel"], &row["level"]), (&json!("app-id"), &json!("orders"), &json!("debug")));
    assert!(row["socket"].is_string() && row["at_ms"].is_u64() && row["id"].is_u64(), "{row}");
    api(&process).publish("orders", "shipped", "{\"secret\":\"payload\"}").await;
    let row = events.row(|row| row["kind"] == "publish").await;
    assert_eq!((&row["event"], &row["fields"]["subscribers"]), (&json!("shipped"), &json!("1")));
    assert!(!row.to_string().contains("payload"), "{row}");
    client.send(r#"{"event":"pusher:subscribe","data":{"channel":"private-orders"}}"#).await;
    let row = events.row(|row| row["kind"] == "refusal").await;
    assert_eq!(row["fields"]["cause"], "subscribe_no_auth");
    let problem = events.problem("subscribe_no_auth").await;
    assert_eq!((&problem["where"]["app"], &problem["where"]["channel"]), (&json!("app-id"), &json!("private-orders")));
    assert!(problem["remedy"].as_str().unwrap().contains("authEndpoint"), "{problem}");
    events.find("now", |now| now["connections"] == 1 && now["connections_peak"] == 1).await;
    drop(client);
    events.row(|row| row["kind"] == "disconnect").await;
}

pub(crate) async fn connect(process: &Process) -> Client {
    let mut client = Client::open(process.address, "/app/app-key?protocol=7&client=js&version=8.4.0", &[]).await;
    client.established().await;
    client
}

fn api(process: &Process) -> Api {
    Api::new(process.address, "app-id", "app-key", "app-secret")
}

#[tokio::test]
async fn the_page_and_its_files_have_headers_that_keep_others_out() {
    let process = start(&[]).await;
    let page = request(process.metrics_address, "GET", "/dashboard", &[], b"").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{page:?}");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let tag = page.header("etag").unwrap();
    let again = request(process.metrics_address, "GET", "/dashboard", &[("If-None-Match", tag)], b"").await;
    assert_eq!((again.status, &*again.body), (304, ""));
    let slash = request(process.metrics_address, "GET", "/dashboard/", &[], b"").await;
    assert_eq!((slash.status, slash.header("location")), (308, Some("../dashboard")));
    for (path, status) in [("/dashboard/%2e%2e%2fCargo.toml", 401), ("/dashboard/none.js", 404)] {
        assert_eq!(request(process.metrics_address, "GET", path, &[], b"").await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_viewer_who_never_reads_delays_nobody_and_each_gets_fifty_rows_a_second() {
    let process = start(&[]).await;
    let mut silent = TcpStream::connect(process.metrics_address).await.unwrap();
    let head = format!(
        "GET /dashboard/api/stream?live=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VIEWER}\r\n\r\n"
    );
    silent.write_all(head.as_bytes()).await.unwrap();
    let mut events = Events::open(&process, "?live=1&filter=kind:publish").await;
    let api = api(&process);
    let (mut seen, mut rows_shown, began) = (0, 0, Instant::now());
    for _ in 0..300 {
        api.publish("orders", "shipped", "{}").await;
    }
    while seen < 300 {
        let rows = events.find("rows", |_| true).await;
        let shown = rows["rows"].as_array().unwrap().len() as u64;
        rows_shown += shown;
        let rows_max = 50 * (began.elapsed().as_secs() + 2);
        assert!(shown <= 150 && rows_shown <= rows_max, "{shown} rows at once, {rows_shown} of {rows_max}");
        seen += shown + rows["left_out"].as_u64().unwrap();
    }
    assert_eq!(seen, 300);
}

#[tokio::test]
async fn an_operator_publishes_and_disconnects() {
    let process = start(&[]).await;
    let (mut one, mut other) = (connect(&process).await, connect(&process).await);
    one.subscribe("orders").await;
    other.subscribe("orders").await;
    let event = json!({ "app": "app-id", "channel": "orders", "event": "shipped", "data": { "id": 7 } });
    let answer = post(&process, "/dashboard/api/publish", OPERATOR, &event).await.ok();
    assert_eq!((&answer["nodes"][0]["sockets"], &answer["thinned_by"]), (&json!(2), &Value::Null));
    assert_eq!(one.next_event("shipped").await, json!({ "id": 7 }));
    for (wrong, status) in [
        (json!({ "app": "none", "channel": "orders", "event": "e", "data": "" }), 404),
        (json!({ "app": "app-id", "channel": "or ders", "event": "e", "data": "" }), 400),
        (json!({ "app": "app-id", "channel": "orders", "event": "e".repeat(300), "data": "" }), 400),
        (json!({ "app": "app-id" }), 400),
        (json!([]), 400),
    ] {
        assert_eq!(post(&process, "/dashboard/api/publish", OPERATOR, &wrong).await.status, status, "{wrong}");
    }
    let channels = get(&process, "/dashboard/api/channels?match=or*", VIEWER).await.ok();
    assert_eq!((&channels["total"], &channels["channels"][0]["subscribers"]), (&json!(1), &json!(2)));
    let channel = get(&process, "/dashboard/api/channel?app=app-id&name=orders", VIEWER).await.ok();
    assert_eq!(channel["nodes"][0]["subscribers"], 2);
}

#[tokio::test]
async fn connections_are_found_by_user_socket_address_and_channel() {
    let process = start(&[]).await;
    let (mut budi, _other) = (connect(&process).await, connect(&process).await);
    budi.join("presence-warehouse", "budi").await;
    let list = async |query: &str| get(&process, &format!("/dashboard/api/connections?{query}"), VIEWER).await;
    let all = list("address=127.0.0.").await.ok();
    assert_eq!((&all["total"], all["connections"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(list("address=127.0.0.&limit=1").await.ok()["connections"].as_array().unwrap().len(), 1);
    let found = list("user=budi").await.ok();
    let connection = &found["connections"][0];
    assert_eq!(found["total"], 1);
    assert_eq!((&connection["app"], &connection["user"]), (&json!("app-id"), &json!("budi")));
    assert_eq!((&connection["library"], &connection["protocol"]), (&json!("js 8.4.0"), &json!(7)));
    assert_eq!(connection["channels"], json!(["presence-warehouse"]));
    let socket = connection["socket"].as_str().unwrap();
    for (query, total) in [
        (format!("socket={socket}"), 1),
        ("channel=presence-warehouse".to_owned(), 1),
        ("channel=warehouse".to_owned(), 0),
        ("user=siti".to_owned(), 0),
        ("app=other".to_owned(), 0),
        ("app=app-id&user=budi".to_owned(), 1),
    ] {
        assert_eq!(list(&query).await.ok()["total"], total, "{query}");
    }
    assert_eq!(list("").await.status, 400);
    let closed = json!({ "app": "app-id", "socket": socket });
    assert_eq!(post(&process, "/dashboard/api/disconnect", OPERATOR, &closed).await.ok(), json!({ "closed": 1 }));
    assert_eq!(budi.next_close().await.0, 4009);
    assert_eq!(post(&process, "/dashboard/api/disconnect", OPERATOR, &json!({ "app": "app-id" })).await.status, 400);
}

#[tokio::test]
async fn a_history_has_each_series() {
    let process = start(&[]).await;
    let mut events = Events::open(&process, "").await;
    events.find("now", |_| true).await;
    for (range, step, length) in [("15m", 1, 900), ("24h", 60, 1440)] {
        let history = get(&process, &format!("/dashboard/api/history?range={range}"), VIEWER).await.ok();
        assert_eq!(history["step_seconds"], step);
        let series = history["series"].as_object().unwrap();
        assert_eq!(series.len(), 12);
        assert!(series.values().all(|values| values.as_array().unwrap().len() == length));
        assert_eq!(series["connections"].as_array().unwrap().last(), Some(&json!(0)));
        assert_eq!(series["connections"][0], Value::Null);
    }
    for wrong in ["history?range=1y", "connections?app=a&limit=many", "channel?app=app-id"] {
        let answer = get(&process, &format!("/dashboard/api/{wrong}"), VIEWER).await;
        assert!(answer.status == 400 && answer.json()["error"].is_string(), "{answer:?}");
    }
}

#[tokio::test]
async fn an_operator_drains_the_node() {
    let process = start(&[]).await;
    let id = state(&process).await["node"].clone();
    let mut events = Events::open(&process, "").await;
    let answer = post(&process, "/dashboard/api/drain", OPERATOR, &json!({ "node": id })).await;
    assert_eq!(answer.status, 202);
    events.find("bye", |_| true).await;
    let line = process.log.line("stopping").await;
    assert_eq!(line["signal"], "the operator's page");
    process.stopped().await;
}

#[tokio::test]
async fn the_log_says_more_of_one_app_for_some_minutes() {
    let process = start(&[("GEMA_LOG_LEVEL", "info")]).await;
    let wanted = json!({ "level": "debug", "minutes": 5, "channel": "orders*" });
    let answer = post(&process, "/dashboard/api/log", OPERATOR, &wanted).await.ok();
    assert!(answer["until_ms"].is_u64(), "{answer}");
    let mut client = connect(&process).await;
    client.subscribe("invoices").await;
    client.subscribe("orders.7").await;
    let line = process.log.find(|line| line["message"] == "subscribed").await;
    assert_eq!(line["channel"], "orders.7");
    assert!(!process.log.lines().iter().any(|line| line["channel"] == "invoices" || line["message"] == "connected"));
    for wrong in [json!({ "level": "loud" }), json!({ "level": "debug", "minutes": 0 })] {
        assert_eq!(post(&process, "/dashboard/api/log", OPERATOR, &wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn each_failure_is_a_problem_with_a_remedy() {
    let process = start(&[("GEMA_LIMITS_ALLOWED_ORIGINS", "shop.example")]).await;
    let mut events = Events::open(&process, "").await;
    let open = async |path: &str, headers: &[(&str, &str)]| Client::open(process.address, path, headers).await;
    let shop = [("Origin", "https://shop.example")];
    let _unknown_key = open("/app/nobody?protocol=7", &[]).await;
    let _app_id = open("/app/app-id?protocol=7", &[]).await;
    let _origin = open("/app/app-key?protocol=7", &[("Origin", "https://evil.example")]).await;
    let _protocol = open("/app/app-key?protocol=3", &shop).await;
    let _path = open("/wrong/app-key", &[]).await;
    let mut client = open("/app/app-key?protocol=7", &shop).await;
    client.established().await;
    let wrong = format!("app-key:{}", "0".repeat(64));
    for (channel, auth) in [("private-a", None), ("private-b", Some("nonsense")), ("private-c", Some(&*wrong))] {
        client.send_json(json!({ "event": "pusher:subscribe", "data": { "channel": channel, "auth": auth } })).await;
    }
    client.send("no json").await;
    client.send_json(json!({ "event": "client-typing", "channel": "private-a", "data": "1" })).await;
    let api = |id: &str, key: &str, secret: &str| Api::new(process.address, id, key, secret);
    let event = r#"{"name":"e","channel":"a","data":"1"}"#;
    api("none", "app-key", "app-secret").post("/events", event).await.refused(404);
    api("app-id", "other", "app-secret").post("/events", event).await.refused(401);
    api("app-id", "app-key", "wrong").post("/events", event).await.refused(401);
    api("app-id", "app-key", "app-secret").at(1).post("/events", event).await.refused(401);
    request(process.address, "GET", "/nothing", &[], b"").await.refused(404);
    let expected = [
        "connect_unknown_key",
        "app_id_as_key",
        "connect_origin",
        "connect_protocol",
        "connect_path",
        "subscribe_no_auth",
        "subscribe_auth_format",
        "subscribe_signature",
        "invalid_message",
        "client_events_disabled",
        "api_unknown_app",
        "api_unknown_key",
        "api_signature",
        "api_expired",
        "path_not_found",
    ];
    for code in expected {
        let problem = events.problem(code).await;
        for field in ["sentence", "remedy"] {
            assert!(!problem[field].as_str().unwrap().is_empty(), "{problem}");
        }
        assert!(problem["count"].as_u64().unwrap() >= 1, "{problem}");
    }
    let state = state(&process).await;
    let of = |code: &str| {
        let problems = state["problems"].as_array().unwrap();
        problems.iter().find(|problem| problem["code"] == code).unwrap().clone()
    };
    assert_eq!(of("connect_origin")["where"]["origin"], "https://evil.example");
    assert_eq!(of("connect_origin")["where"]["address"], "127.0.0.0/24");
    assert_eq!(of("subscribe_signature")["where"]["channel"], "private-c");
    assert_eq!(of("subscribe_signature")["live"], "kind:refusal cause:subscribe_signature");
    let text = state.to_string();
    assert!(!text.contains(&"0".repeat(64)) && !text.contains("app-secret"), "a signature or secret is shown");
}

#[tokio::test]
async fn problems_agree_with_the_metrics() {
    let process = start(&[("GEMA_METRICS_ENABLED", "true")]).await;
    for _ in 0..25 {
        request(process.address, "GET", "/nothing", &[], b"").await.refused(404);
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let state = state(&process).await;
        let problems = state["problems"].as_array().unwrap();
        let count = problems.iter().find(|one| one["code"] == "path_not_found").map(|one| one["count"].clone());
        if count == Some(json!(25)) {
            break;
        }
        assert!(Instant::now() < until, "{count:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let metrics = request(process.metrics_address, "GET", "/metrics", &[], b"").await.body;
    let line = metrics.lines().find(|line| line.contains("cause=\"path_not_found\"")).unwrap();
    assert!(line.ends_with(" 25"), "{line}");
}

#[tokio::test]
async fn hostile_names_come_as_json_and_cut() {
    let process = start(&[("GEMA_CONNECTIONS_MESSAGE_BYTES_MAX", "300000")]).await;
    let mut events = Events::open(&process, "?live=1").await;
    let mut client = connect(&process).await;
    let evil = "<script>alert(1)</script>\u{1b}[2J\u{202e}\u{0}\n\nevent: now\ndata: {}\n\n";
    for name in [evil.to_owned(), "x".repeat(100_000), "\u{202e}é".repeat(40_000)] {
        client.send_json(json!({ "event": "pusher:subscribe", "data": { "channel": name } })).await;
        let row = events.row(|row| row["kind"] == "refusal" && row["fields"]["cause"] == "subscribe_name").await;
        let text = row.to_string();
        assert!(text.len() < 8 * 1024, "{} bytes", text.len());
        let shown = row["channel"].as_str().unwrap();
        assert!(name.starts_with(&shown.trim_end_matches('…')[..20]), "{shown}");
    }
    // Whatever was sent, the stream goes on in one piece.
    events.find("now", |now| now["at_ms"].is_u64()).await;
    assert!(state(&process).await.to_string().len() < 256 * 1024);
}

#[tokio::test]
async fn twenty_watch_and_no_delivered_byte_changes() {
    let process = start(&[]).await;
    let deliver = async || {
        let mut client = connect(&process).await;
        client.subscribe("orders").await;
        let mut texts = Vec::new();
        for number in 0..20 {
            api(&process).publish("orders", "shipped", &format!("{number}")).await;
            texts.push(client.next_text().await);
        }
        texts
    };
    let before = deliver().await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Events::open(&process, "?live=1&filter=kind:publish").await);
    }
    assert_eq!(deliver().await, before);
    for viewer in &mut viewers {
        viewer.row(|row| row["event"] == "shipped").await;
    }
    drop(viewers);
    assert_eq!(deliver().await, before);
}

#[tokio::test]
async fn filters_choose_the_rows_and_more_viewers_than_may_are_told() {
    let process = start(&[]).await;
    let mut orders = Events::open(&process, "?live=1&filter=channel:orders*%20kind:publish").await;
    let mut warnings = Events::open(&process, "?live=1&filter=level:warn").await;
    let api = api(&process);
    api.publish("invoices", "e", "1").await;
    request(process.address, "GET", "/nothing", &[], b"").await.refused(404);
    api.publish("orders.1", "e", "1").await;
    let rows = orders.find("rows", |_| true).await;
    let names: Vec<&Value> = rows["rows"].as_array().unwrap().iter().map(|row| &row["channel"]).collect();
    assert_eq!((names, &rows["left_out"]), (vec![&json!("orders.1")], &json!(0)));
    let rows = warnings.find("rows", |_| true).await;
    assert!(rows["rows"].as_array().unwrap().iter().all(|row| row["level"] == "warn"), "{rows}");
    let mut open = Vec::new();
    let refused = loop {
        let headers = [("Authorization", &*bearer(VIEWER)), ("Range", "bytes=0-0")];
        let head = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        let mut stream = TcpStream::connect(process.metrics_address).await.unwrap();
        let request = format!("GET /dashboard/api/stream?live=1 HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut begin)).await.unwrap().unwrap();
        if &begin != b"HTTP/1.1 200" {
            break String::from_utf8(begin.to_vec()).unwrap();
        }
        open.push(stream);
        assert!(open.len() < 200, "there is no limit");
    };
    assert_eq!(refused, "HTTP/1.1 503");
    // One who leaves makes room.
    drop(open);
    let until = Instant::now() + PATIENCE;
    loop {
        let path = "/dashboard/api/stream?live=1";
        let mut stream = TcpStream::connect(process.metrics_address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VIEWER}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut begin)).await.unwrap().unwrap();
        if &begin == b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < until, "no room is made");
    }
}

#[tokio::test]
async fn the_level_of_the_log_changes_at_sighup() {
    let folder = std::env::temp_dir().join(format!("gema-dashboard-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("gema.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let words = ["start", "--config", file.to_str().unwrap()];
    let process = Process::start_with(&words, &[]).await;
    connect(&process).await.close().await;
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    process.signal("HUP");
    process.log.line("the configuration has been read anew").await;
    assert!(!process.log.lines().iter().any(|line| line["message"] == "connected"));
    let _client = connect(&process).await;
    process.log.line("connected").await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn the_settings_on_the_page_change_at_sighup() {
    let folder = std::env::temp_dir().join(format!("gema-dashboard-settings-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("gema.toml");
    let write = |app: &str, seconds: u32, level: &str| {
        let text = format!(
            "[log]\nlevel = \"{level}\"\n[server]\ndrain_seconds = {seconds}\n\
             [[apps]]\nid = \"{app}\"\nkey = \"{app}-key\"\nsecret = \"{app}-secret-0123456789\"\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("old", 11, "info");
    let tokens = [("GEMA_DASHBOARD_TOKEN", VIEWER)];
    let process = Process::start_with(&["start", "--config", file.to_str().unwrap()], &tokens).await;
    let shown = async || {
        let state = state(&process).await;
        let setting = |key: &str| {
            let mut all = state["settings"].as_array().unwrap().iter();
            all.find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key}"))["value"].clone()
        };
        (state["snippets"]["env"].as_str().unwrap().to_owned(), setting("log.level"), setting("server.drain_seconds"))
    };
    let (env, level, seconds) = shown().await;
    assert!(env.contains("PUSHER_APP_KEY=old-key"), "{env}");
    assert_eq!((level, seconds), (json!("info"), json!(11.0)));
    write("new", 12, "debug");
    process.signal("HUP");
    process.log.line("the configuration has been read anew").await;
    let (env, level, seconds) = shown().await;
    assert!(env.contains("PUSHER_APP_KEY=new-key"), "{env}");
    // The one holds at once, the other after a restart only.
    assert_eq!((level, seconds), (json!("debug"), json!(11.0)));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn the_memory_of_the_page_is_a_metric() {
    let process = start(&[("GEMA_METRICS_ENABLED", "true")]).await;
    let mut events = Events::open(&process, "").await;
    events.find("now", |_| true).await;
    events.find("now", |_| true).await;
    let metrics = request(process.metrics_address, "GET", "/metrics", &[], b"").await.body;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!((1.0..4e6).contains(&value("gema_dashboard_bytes ")));
    assert_eq!(value("gema_dashboard_streams "), 1.0);
    let without = Process::start(&[("GEMA_METRICS_ENABLED", "true")]).await;
    let metrics = request(without.metrics_address, "GET", "/metrics", &[], b"").await.body;
    assert!(!metrics.contains("gema_dashboard"));
}

#[tokio::test]
async fn data_is_shown_only_if_the_operator_wants_it_and_never_logged() {
    let process = start(&[("GEMA_DASHBOARD_PAYLOADS", "true"), ("GEMA_LOG_LEVEL", "debug")]).await;
    let mut events = Events::open(&process, "?live=1").await;
    let mut client = connect(&process).await;
    client.join("presence-warehouse", "budi").await;
    api(&process).publish("orders", "shipped", "hush-data").await;
    let row = events.row(|row| row["kind"] == "publish").await;
    assert_eq!((&row["event"], &row["fields"]["data"]), (&json!("shipped"), &json!("hush-data")));
    let long = "x".repeat(9000);
    api(&process).publish("orders", "long", &long).await;
    let row = events.row(|row| row["kind"] == "publish").await;
    let shown = row["fields"]["data"].as_str().unwrap();
    assert!(row["event"] == "long" && shown.len() <= 2048 + 3 && long.starts_with(shown.trim_end_matches('…')));
    let channel = get(&process, "/dashboard/api/channel?app=app-id&name=presence-warehouse", VIEWER).await.ok();
    assert_eq!(channel["members"], json!([{ "id": "budi", "info": { "name": "budi" } }]));
    process.log.find(|line| line["message"] == "published" && line["event"] == "long").await;
    let log = format!("{:?}", process.log.lines());
    assert!(!log.contains("hush-data") && !log.contains("xxxx"), "the log has data");
}

#[tokio::test]
async fn a_page_for_one_run_needs_no_configuration() {
    let mut child = tokio::process::Command::new(program())
        .args(["start", "--dashboard"])
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0")])
        .envs([("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("nothing is printed").unwrap().unwrap();
    let (url, token) = line.split_once("#token=").unwrap_or_else(|| panic!("{line}"));
    let address = url.split("http://").nth(1).unwrap().strip_suffix("/dashboard").unwrap().parse().unwrap();
    assert_eq!(token.len(), 32);
    let headers = [("Authorization", &*bearer(token))];
    let state = request(address, "GET", "/dashboard/api/state", &headers, b"").await;
    assert_eq!(state.ok()["role"], "operator");
    assert!(!state.body.contains(token), "the token is in the settings");
    // The token is no change of the configuration.
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut log = String::new();
    while !log.contains("has been read anew") {
        log += &timeout(PATIENCE, lines.next_line()).await.expect("nothing is logged").unwrap().unwrap();
    }
    assert!(!log.contains("restart only"), "{log}");
    child.kill().await.unwrap();
    assert!(log.contains("ready") && !log.contains(token), "{log}");
}

#[tokio::test]
async fn a_webhook_that_is_not_accepted_is_a_problem_and_its_attempts_are_rows() {
    let hook = r#"[{"url":"http://127.0.0.1:1/webhooks/soketi?token=hush","event_types":["channel_occupied"]}]"#;
    let process =
        start(&[("SOKETI_DEFAULT_APP_WEBHOOKS", hook), ("GEMA_WEBHOOKS_ALLOW_PRIVATE_ADDRESSES", "true")]).await;
    let mut events = Events::open(&process, "?live=1&filter=kind:webhook").await;
    let mut client = connect(&process).await;
    client.subscribe("orders").await;
    let row = events.row(|row| row["text"] == "webhook not accepted").await;
    assert_eq!((&row["app"], &row["fields"]["host"]), (&json!("app-id"), &json!("127.0.0.1:1")));
    let problem = events.problem("webhook_failed").await;
    assert_eq!(problem["where"]["endpoint"], "127.0.0.1:1");
    assert!(problem["remedy"].as_str().unwrap().contains("2xx"), "{problem}");
    let state = state(&process).await;
    let endpoint = &state["webhooks"][0];
    assert_eq!((&endpoint["app"], &endpoint["last_status"]), (&json!("app-id"), &Value::Null));
    assert_eq!(endpoint["url"], "http://127.0.0.1:1/webhooks/soketi");
    assert!(endpoint["failed"].as_u64().unwrap() >= 1 && endpoint["error"].is_string(), "{endpoint}");
    assert!(!state.to_string().contains("hush"), "the URL's token is shown");
}
