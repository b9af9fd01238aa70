//! Whatever is refused is counted under a cause of its own, and the log says what differs and what to do about it.

use std::io::BufRead;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use gema::refusal::Cause;
use serde_json::Value;
use serde_json::json;
use support::barrier::Figures;
use support::certificates::file;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Api;
use support::process::Process;
use support::server::token;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;

use crate::wire::Wire;
use crate::wire::upgrade_head;

#[test]
fn the_documents_list_every_cause() {
    let row = |cause: &Cause| {
        let code = cause.code().map_or(String::new(), |code| code.to_string());
        format!("| `{}` | {code} | {} | {} |\n", cause.name(), cause.sentence(), cause.remedy())
    };
    let table: String = Cause::ALL.iter().map(row).collect();
    let table = format!("| `cause` | `code` | what happened | what to do |\n| --- | --- | --- | --- |\n{table}\n");
    let document = include_str!("../../docs/operation.md");
    assert!(document.contains(&table), "docs/operation.md must have this table:\n{table}");
}

const CONFIG: &str = r#"
[connections]
channels_max = 3
message_bytes_max = 32768
subscriptions_per_second = 0
[http]
request_bytes_max = 20000
[metrics]
enabled = true
[limits]
enable_client_messages = true
max_event_payload_in_kb = 1
[[limits.channel_rules]]
match = "ruled.*"
require = "private"
client_events = "deny"
[[apps]]
id = "app-id"
key = "app-key"
secret = "hush-first"
keys = [{ key = "second-key", secret = "hush-second" }]
[[apps]]
id = "other"
key = "other-key"
secret = "hush-other"
[[apps]]
id = "off"
key = "off-key"
secret = "hush-off"
enabled = false
[[apps]]
id = "tls"
key = "tls-key"
secret = "hush-tls"
require_tls = true
[[apps]]
id = "shop"
key = "shop-key"
secret = "hush-shop"
allowed_origins = ["*.shop.example"]
[[apps]]
id = "none"
key = "none-key"
secret = "hush-none"
max_connections = 1
max_backend_events_per_second = 0
max_read_requests_per_second = 0
max_client_events_per_second = 0
[[apps]]
id = "quiet"
key = "quiet-key"
secret = "hush-quiet"
enable_client_messages = false
"#;

struct Server(Process);

impl Server {
    async fn start(config: &str, variables: &[(&str, &str)]) -> Self {
        let path = file(config).replace(".pem", ".toml");
        std::fs::write(&path, config).unwrap();
        Self(Process::start_with(&["start", &format!("--config={path}")], variables).await)
    }

    fn api(&self, id: &str, key: &str, secret: &str) -> Api {
        Api::new(self.0.address, id, key, secret)
    }

    async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Client {
        Client::open(self.0.address, path, headers).await
    }

    async fn connect(&self, key: &str) -> Client {
        let mut client = self.open(&format!("/app/{key}?protocol=7"), &[]).await;
        client.established().await;
        client
    }

    /// Opens a connection that is refused with this code.
    async fn refused(&self, path: &str, headers: &[(&str, &str)], code: u16) {
        let mut client = self.open(path, headers).await;
        client.next_event("pusher:error").await;
        assert_eq!(client.next_close().await.0, code, "{path}");
        client.ended().await;
    }

    async fn handshake(&self, head: &str, status: u16) {
        let (answer, _) = Wire::upgrade(self.0.address, head).await;
        assert_eq!(answer.status, status, "{head}");
    }

    /// The first line that has these fields.
    async fn line(&self, fields: &[(&str, &str)]) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.0.log.lines();
            let has = |line: &Value| fields.iter().all(|(name, value)| line[name] == *value);
            if let Some(line) = lines.iter().find(|line| has(line)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "no line with {fields:?}: {lines:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A refusal has been counted, and told with these words.
    async fn told(&self, cause: Cause, app: &str, details: &str) -> Value {
        let code = cause.code().map_or(String::new(), |code| code.to_string());
        let line = self.line(&[("cause", cause.name()), ("app", app), ("level", "WARN")]).await;
        assert_eq!(line["message"], cause.sentence(), "{line}");
        assert_eq!(line["remedy"], cause.remedy(), "{line}");
        assert_eq!(line["code"].as_u64().map_or(String::new(), |code| code.to_string()), code, "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        let detail = line["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(details), "{details:?} is not in {line}");
        let label = format!("app_id=\"{app}\",cause=\"{}\",code=\"{code}\",", cause.name());
        let figures = Figures::of(self.0.metrics_address).await;
        assert!(figures.sum("gema_refusals_total", &label) >= 1.0, "{label}");
        line
    }

    /// Secrets and signatures stay where they are.
    fn has_told_no_secret(&self) {
        for line in self.0.log.lines() {
            let line = line.to_string();
            assert!(!line.contains("hush-"), "{line}");
            let is_hex = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!line.split(|letter: char| !letter.is_ascii_alphanumeric()).any(is_hex), "{line}");
        }
    }
}

async fn subscribe(client: &mut Client, channel: &str, auth: &str, channel_data: Option<&str>) {
    let mut data = json!({ "channel": channel, "auth": auth });
    if let Some(channel_data) = channel_data {
        data["channel_data"] = channel_data.into();
    }
    client.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
}

#[tokio::test]
async fn refused_requests_and_connections_are_told_with_what_differs() {
    let server = Server::start(CONFIG, &[]).await;
    let address = server.0.address;

    assert_eq!(http::request(address, "GET", "/nowhere?auth=1", &[], b"").await.status, 404);
    server.told(Cause::PathNotFound, "", "GET /nowhere").await;
    assert_eq!(http::request(address, "GET", "/apps/app-id/events", &[], b"").await.status, 405);
    server.told(Cause::MethodNotAllowed, "", "GET /apps/app-id/events").await;
    http::raw(address, b"NONSENSE\r\n\r\n").await;
    server.told(Cause::InvalidHttp, "", "").await;

    let head = upgrade_head("/app/app-key?protocol=7", &[]);
    server.handshake(&head.replace("Version: 13", "Version: 12"), 426).await;
    server.told(Cause::WebSocketVersion, "", "sec-websocket-version: 12").await;
    let without_key: Vec<&str> = head.lines().filter(|line| !line.starts_with("Sec-WebSocket-Key")).collect();
    server.handshake(&(without_key.join("\r\n") + "\r\n"), 400).await;
    server.told(Cause::WebSocketKey, "", "").await;
    assert_eq!(http::request(address, "GET", "/app/app-key", &[], b"").await.status, 426);
    server.told(Cause::NoUpgrade, "", "no upgrade").await;

    server.refused("/nothing", &[], 4005).await;
    server.told(Cause::ConnectPath, "", "").await;
    server.refused("/app/nobody", &[], 4001).await;
    server.told(Cause::ConnectUnknownKey, "", "the key is nobody").await;
    server.refused("/app/app-id", &[], 4001).await;
    server.told(Cause::ConnectAppId, "app-id", "the key is app-id").await;
    server.refused("/app/off-key", &[], 4003).await;
    server.told(Cause::ConnectDisabled, "off", "").await;
    server.refused("/app/tls-key", &[("x-forwarded-proto", "https")], 4000).await;
    let hint =
        "X-Forwarded-Proto: https from untrusted 127.0.0.1: add it to server.trusted_proxies if it is your proxy";
    server.told(Cause::ConnectTls, "tls", hint).await;
    server.refused("/app/app-key?protocol=9", &[], 4007).await;
    server.told(Cause::ConnectProtocol, "app-id", "protocol=9").await;
    server.refused("/app/shop-key", &[("origin", "https://evil.example")], 4009).await;
    let line = server.told(Cause::ConnectOrigin, "shop", "https://evil.example is not among allowed_origins").await;
    assert_eq!(line["origin"], "https://evil.example");
    let _only = server.connect("none-key").await;
    server.refused("/app/none-key", &[], 4004).await;
    server.told(Cause::ConnectAppFull, "none", "max_connections is 1").await;
    server.has_told_no_secret();
}

#[tokio::test]
async fn refused_api_requests_are_told_with_what_differs() {
    let server = Server::start(CONFIG, &[]).await;
    let event = |data: &str| json!({ "name": "e", "channel": "c", "data": data }).to_string();
    let body = event("1");
    let right = server.api("app-id", "app-key", "hush-first");

    assert_eq!(server.api("nobody", "app-key", "hush-first").post("/events", &body).await.status, 404);
    server.told(Cause::ApiUnknownApp, "", "no app known here has the id nobody").await;
    assert_eq!(server.api("app-id", "other-key", "hush-other").post("/events", &body).await.status, 401);
    server.told(Cause::ApiUnknownKey, "app-id", "the key other-key is one of app other").await;
    assert_eq!(server.api("app-id", "app-key", "hush-other").post("/events", &body).await.status, 401);
    server.told(Cause::ApiSignature, "app-id", "it is signed with the secret of app other").await;
    assert_eq!(server.api("other", "other-key", "typo").post("/events", &body).await.status, 401);
    server.told(Cause::ApiSignature, "other", "none of the secrets known here").await;
    assert_eq!(right.at(1).post("/events", &body).await.status, 401);
    server.told(Cause::ApiExpired, "app-id", "Timestamp expired").await;
    let path = right.path("/events");
    let query = right.signed_query("POST", &path, &[], "{}");
    let post = async |query: &str, body: &str| {
        http::request(server.0.address, "POST", &format!("{path}?{query}"), &[], body.as_bytes()).await.status
    };
    assert_eq!(post(&query, &body).await, 401);
    server.told(Cause::ApiOtherBody, "app-id", "body_md5").await;
    assert_eq!(post("auth_key=app-key", &body).await, 401);
    server.told(Cause::ApiUnsigned, "app-id", "Version required").await;
    assert_eq!(right.post("/events", &event(&"x".repeat(30_000))).await.status, 413);
    server.told(Cause::ApiBodyTooLarge, "app-id", "20000 bytes").await;
    assert_eq!(right.post("/events", &event(&"x".repeat(2000))).await.status, 413);
    server.told(Cause::ApiEventTooLarge, "app-id", "1024 bytes").await;
    assert_eq!(right.post("/events", r#"{"name":"hush-data"#).await.status, 400);
    server.told(Cause::ApiBody, "app-id", "not valid").await;
    assert_eq!(right.post("/events", &body.replace("\"c\"", "\"a b\"")).await.status, 400);
    server.told(Cause::ApiChannel, "app-id", "Invalid channel name: a b").await;
    assert_eq!(right.get("/channels", &[("info", "user_count")]).await.status, 400);
    server.told(Cause::ApiInfo, "app-id", "presence").await;
    assert_eq!(right.post("/events", &body.replace("\"c\"", "\"ruled.1\"")).await.status, 403);
    let line = server.told(Cause::ApiForbidden, "app-id", "use private-ruled.1").await;
    assert_eq!(line["channel"], "ruled.1");
    assert_eq!(server.api("off", "off-key", "hush-off").post("/events", &body).await.status, 403);
    server.told(Cause::ApiDisabled, "off", "").await;
    let none = server.api("none", "none-key", "hush-none");
    assert_eq!(none.post("/events", &body).await.status, 429);
    let line = server.told(Cause::ApiEventRate, "none", "max_backend_events_per_second is 0").await;
    assert_eq!(line["channel"], "c");
    assert_eq!(none.get("/channels", &[]).await.status, 429);
    server.told(Cause::ApiReadRate, "none", "max_read_requests_per_second is 0").await;
    server.has_told_no_secret();
}

/// A token for something of this connection.
fn sign(client: &Client, key: &str, secret: &str, rest: &str) -> String {
    token(key, secret, &format!("{}:{rest}", client.socket_id))
}

#[tokio::test]
async fn refused_messages_are_told_with_what_differs() {
    let server = Server::start(CONFIG, &[]).await;
    let mut client = server.connect("app-key").await;
    let zeros = "0".repeat(64);

    subscribe(&mut client, "private-x", "", None).await;
    let line = server.told(Cause::SubscribeNoAuth, "app-id", "").await;
    assert_eq!((&line["channel"], &line["socket_id"]), (&"private-x".into(), &(&*client.socket_id).into()));
    subscribe(&mut client, "private-x", "no-colon", None).await;
    server.told(Cause::SubscribeFormat, "app-id", "key:signature").await;
    subscribe(&mut client, "private-x", &format!("other-key:{zeros}"), None).await;
    server.told(Cause::SubscribeUnknownKey, "app-id", "the key other-key is one of app other").await;
    let auth = sign(&client, "app-key", "hush-other", "private-x");
    subscribe(&mut client, "private-x", &auth, None).await;
    server.told(Cause::SubscribeSignature, "app-id", "it is signed with the secret of app other").await;
    subscribe(&mut client, "a b", "", None).await;
    server.told(Cause::SubscribeName, "app-id", "a b").await;
    subscribe(&mut client, "#server-to-user-1", "", None).await;
    server.told(Cause::SubscribeNotAuthorized, "app-id", "").await;
    subscribe(&mut client, "ruled.1", "", None).await;
    server.told(Cause::SubscribeForbidden, "app-id", "use private-ruled.1").await;
    let data = r#"{"user_id":""}"#;
    let auth = sign(&client, "app-key", "hush-first", &format!("presence-x:{data}"));
    subscribe(&mut client, "presence-x", &auth, Some(data)).await;
    server.told(Cause::SubscribeMember, "app-id", "").await;
    client.unsubscribe("never").await;
    server.told(Cause::UnsubscribeUnknown, "app-id", "never").await;
    let auth = sign(&client, "app-key", "hush-first", "private-ruled.1");
    for (channel, auth) in [("a", ""), ("b", ""), ("private-ruled.1", &*auth), ("a", ""), ("c", "")] {
        subscribe(&mut client, channel, auth, None).await;
    }
    server.told(Cause::SubscribeTwice, "app-id", "").await;
    server.told(Cause::SubscribeTooMany, "app-id", "3 channels").await;
    server.has_told_no_secret();
}

#[tokio::test]
async fn refused_sign_ins_and_client_events_are_told_with_what_differs() {
    let server = Server::start(CONFIG, &[]).await;
    let mut client = server.connect("app-key").await;
    let zeros = "0".repeat(64);
    let auth = sign(&client, "app-key", "hush-first", "private-ruled.1");
    for (channel, auth) in [("a", ""), ("private-ruled.1", &*auth)] {
        subscribe(&mut client, channel, auth, None).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    for (auth, cause, detail) in [
        ("no-colon".to_owned(), Cause::SignInFormat, "key:signature"),
        (format!("other-key:{zeros}"), Cause::SignInUnknownKey, "is one of app other"),
        (
            sign(&client, "app-key", "hush-second", r#":user::{"id":"1"}"#),
            Cause::SignInSignature,
            "it is signed with the secret of the app's key second-key, but names the key app-key",
        ),
    ] {
        let data = json!({ "auth": auth, "user_data": r#"{"id":"1"}"# });
        client.send_json(json!({ "event": "pusher:signin", "data": data })).await;
        server.told(cause, "app-id", detail).await;
    }

    for (event, channel, data, cause) in [
        ("client-x", "a", "1", Cause::ClientEventChannel),
        ("typing", "a", "1", Cause::ClientEventName),
        ("client-x", "private-never", "1", Cause::ClientEventNotSubscribed),
        ("client-x", "private-ruled.1", "1", Cause::ClientEventForbidden),
    ] {
        client.send_json(json!({ "event": event, "channel": channel, "data": data })).await;
        let line = server.told(cause, "app-id", "").await;
        assert_eq!(line["channel"], channel);
    }
    let mut quiet = server.connect("quiet-key").await;
    quiet.send(r#"{"event":"client-x","channel":"private-a","data":1}"#).await;
    server.told(Cause::ClientEventsDisabled, "quiet", "enable_client_messages").await;
    let mut none = server.connect("none-key").await;
    let auth = sign(&none, "none-key", "hush-none", "private-a");
    subscribe(&mut none, "private-a", &auth, None).await;
    none.next_event("pusher_internal:subscription_succeeded").await;
    none.send(r#"{"event":"client-x","channel":"private-a","data":1}"#).await;
    server.told(Cause::ClientEventRate, "none", "").await;
    let data = "x".repeat(2000);
    none.send_json(json!({ "event": "client-x", "channel": "private-a", "data": data })).await;
    server.told(Cause::ClientEventTooLarge, "none", "1024 bytes").await;

    client.send("nonsense").await;
    server.told(Cause::InvalidMessage, "app-id", "Received invalid JSON").await;
    client.send(r#"{"type":"heartbeat"}"#).await;
    server.told(Cause::ForeignMessage, "app-id", "Missing parameter: event").await;
    client.send(&"x".repeat(40_000)).await;
    server.told(Cause::MessageTooBig, "app-id", "32768 bytes").await;
    server.has_told_no_secret();
}

#[tokio::test]
async fn an_address_that_wants_too_much_is_named_with_its_proxy() {
    let config = "[metrics]\nenabled = true\n[connections]\nper_address_max = 1\nstrict_protocol = true\n";
    let server = Server::start(config, &[]).await;
    server.refused("/app/app-key", &[], 4008).await;
    server.told(Cause::ConnectNoProtocol, "app-id", "").await;
    server.refused("/app/app-key?protocol=7&version=x", &[], 4006).await;
    server.told(Cause::ConnectVersion, "app-id", "version=x").await;
    let _only = server.connect("app-key").await;
    server.refused("/app/app-key?protocol=7", &[("x-forwarded-for", "192.0.2.1")], 4100).await;
    server.told(Cause::ConnectAddress, "app-id", "X-Forwarded-For from untrusted 127.0.0.1").await;
}

#[tokio::test]
async fn too_many_handshakes_are_told() {
    let config = "[metrics]\nenabled = true\n[connections]\nhandshakes_per_address_per_second = 1\n";
    let server = Server::start(config, &[]).await;
    let until = Instant::now() + PATIENCE;
    let head = upgrade_head("/app/app-key?protocol=7", &[]);
    while Wire::upgrade(server.0.address, &head).await.0.status != 429 {
        assert!(Instant::now() < until, "handshakes are not limited");
    }
    server.told(Cause::AddressHandshakes, "", "").await;
}

#[tokio::test]
async fn debug_tells_of_connections_subscriptions_and_events() {
    let variables = [("SOKETI_DEBUG", "1"), ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true")];
    let server = Server::start("", &variables).await;
    let api = server.api("app-id", "app-key", "app-secret");
    api.publish("news", "early", "1").await;
    let early = server.line(&[("message", "published"), ("event", "early")]).await;
    assert_eq!((&early["subscribers"], &early["channel"]), (&0.into(), &"news".into()));
    assert_eq!((&early["app"], &early["level"]), (&"app-id".into(), &"DEBUG".into()));

    let mut clients = [server.connect("app-key").await, server.connect("app-key").await];
    for client in &mut clients {
        client.subscribe("news").await;
        client.subscribe("private-a").await;
    }
    let socket_id = clients[0].socket_id.clone();
    let connected = server.line(&[("message", "connected"), ("socket_id", &socket_id)]).await;
    assert_eq!((&connected["app"], &connected["address"]), (&"app-id".into(), &"127.0.0.1".into()));
    server.line(&[("message", "subscribed"), ("socket_id", &socket_id), ("channel", "private-a")]).await;
    api.publish("news", "late", "1").await;
    assert_eq!(server.line(&[("message", "published"), ("event", "late")]).await["subscribers"], 2);
    clients[0].send(r#"{"event":"client-x","channel":"private-a","data":"hush-data"}"#).await;
    assert_eq!(server.line(&[("message", "client event"), ("socket_id", &socket_id)]).await["subscribers"], 1);
    for _ in 0..2 {
        clients[0].send("nonsense").await;
    }
    server.line(&[("cause", "invalid_message"), ("level", "WARN")]).await;
    server.line(&[("cause", "invalid_message"), ("level", "DEBUG")]).await;
    clients[0].unsubscribe("news").await;
    server.line(&[("message", "unsubscribed"), ("channel", "news")]).await;
    let [first, _] = clients;
    first.close().await;
    server.line(&[("message", "disconnected"), ("socket_id", &socket_id)]).await;
    server.has_told_no_secret();
}

/// Sends so many subscriptions that are refused, with two names in turn.
async fn alternate(address: std::net::SocketAddr, count: usize) {
    let mut client = Client::open(address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    for _ in 0..count / 100 {
        let texts = (0..100).map(|number| {
            let data = json!({ "channel": format!("ruled.{}", number % 2) });
            json!({ "event": "pusher:subscribe", "data": data }).to_string()
        });
        client.send_together(&texts.collect::<Vec<_>>()).await;
        for _ in 0..200 {
            client.next().await;
        }
    }
}

// Before there was a budget, each of these had a line.
#[tokio::test]
async fn a_connection_that_alternates_refused_names_has_a_budget() {
    const REFUSED: usize = 5000;
    for debug in ["0", "1"] {
        let server = Server::start(CONFIG, &[("SOKETI_DEBUG", debug)]).await;
        let began = Instant::now();
        alternate(server.0.address, REFUSED).await;
        let seconds = began.elapsed().as_secs() as usize + 2;
        let figure = r#"app_id="app-id",cause="subscribe_forbidden""#;
        let counted = Figures::of(server.0.metrics_address).await.sum("gema_refusals_total", figure);
        assert_eq!(counted, REFUSED as f64);
        let log = server.0.log.clone();
        server.0.terminate();
        server.0.stopped().await;
        let lines = log.lines();
        let about = |line: &&Value| line["cause"] == "subscribe_forbidden";
        let written = lines.iter().filter(about).filter(|line| line["lines"].is_null()).count();
        let per_second = if debug == "1" { 110 } else { 10 };
        assert!(written <= per_second * seconds, "{written} lines in {seconds} s");
        // The number of all that have no line of their own.
        let warnings = lines.iter().filter(about).filter(|line| line["level"] == "WARN");
        let told: u64 = warnings.filter_map(|line| line["repeated"].as_u64()).sum();
        assert_eq!(told, REFUSED as u64 - 1, "{lines:#?}");
        if debug == "1" {
            assert!(lines.iter().filter(about).any(|line| line["lines"].as_u64() > Some(0)), "{lines:#?}");
        }
    }
}

// Before they were quoted, a name could look like fields of the line.
#[tokio::test]
async fn a_long_name_with_quotes_forges_no_field_of_a_text_line() {
    let path = file(CONFIG).replace(".pem", ".toml");
    std::fs::write(&path, CONFIG).unwrap();
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_gema"))
        .args(["start", &format!("--config={path}")])
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_LOG_FORMAT", "text")])
        .envs([("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = loop {
        let line = log.next_line().await.unwrap().unwrap();
        if let Some((_, rest)) = line.split_once(" ready address=") {
            break rest.split(' ').next().unwrap().trim_matches('"').parse().unwrap();
        }
    };
    let mut client = Client::open(address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    let name = format!(r#"x" cause="slow_reader" app="victim" {}"#, "é".repeat(5000));
    client.send_json(json!({ "event": "pusher:unsubscribe", "data": { "channel": name } })).await;
    client.next_event("pusher:error").await;
    let line = loop {
        let line = tokio::time::timeout(PATIENCE, log.next_line()).await.unwrap().unwrap().unwrap();
        if line.contains(Cause::UnsubscribeUnknown.name()) {
            break line;
        }
    };
    assert!(line.len() < 3000, "{} bytes: {line}", line.len());
    assert_eq!(line.matches(r#" cause=""#).count(), 1, "{line}");
    assert_eq!(line.matches(r#" app=""#).count(), 1, "{line}");
    for field in ["channel", "detail"] {
        assert_eq!(line.matches(&format!(r#" {field}=""#)).count(), 1, "{line}");
    }
}

// Before the log had a thread of its own, a shard waited here for whoever reads it.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let path = file(CONFIG).replace(".pem", ".toml");
    std::fs::write(&path, CONFIG).unwrap();
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_gema"))
        .args(["start", &format!("--config={path}")])
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_LOG_FORMAT", "json")])
        .envs([("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0"), ("SOKETI_DEBUG", "1")])
        .envs([("GEMA_SERVER_WORKERS", "1")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(process.stdout.take().unwrap());
    let ready = loop {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "ready" {
            break line;
        }
    };
    let address = ready["address"].as_str().unwrap().parse().unwrap();
    let metrics = ready["metrics_address"].as_str().unwrap().parse().unwrap();
    let api = Api::new(address, "app-id", "app-key", "hush-first");
    let mut client = Client::open(address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    client.subscribe("news").await;
    // A pipe holds 64 KiB, some 250 lines.
    let began = Instant::now();
    let mut events = 0;
    while events < 300 || began.elapsed() < Duration::from_secs(5) {
        alternate(address, 100).await;
        for _ in 0..10 {
            api.publish("news", "e", "1").await;
            client.next_event("e").await;
            events += 1;
        }
    }
    let label = r#"cause="left_out""#;
    assert!(Figures::of(metrics).await.sum("gema_log_dropped_total", label) > 0.0);
    // The end does not wait for whoever reads, either.
    support::process::signal(process.id(), "TERM");
    let ended = tokio::task::spawn_blocking(move || process.wait().unwrap());
    assert!(tokio::time::timeout(PATIENCE, ended).await.expect("the process does not end").unwrap().success());
    let mut rest = Vec::new();
    log.read_to_end(&mut rest).unwrap();
    // A pipe is full before all of its pages are.
    assert!(rest.len() > 48 * 1024, "the pipe was not full: {}", rest.len());
}
