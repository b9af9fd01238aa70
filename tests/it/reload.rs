//! Apps and limits change while the server runs.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use gema::config::AppEntry;
use gema::config::KeyPair;
use gema::config::Secret;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http;
use support::http::Api;
use support::process::Process;
use support::redis_server::TestRedis;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

const DISABLED: (u16, &str) = (4003, "Application disabled");
const UNKNOWN: u16 = 4001;

fn own() -> AppEntry {
    let mut app = AppEntry::new(APP_ID, APP_KEY, APP_SECRET);
    app.enable_client_messages = Some(true);
    app
}

fn other() -> AppEntry {
    AppEntry::new("other", "other-key", "other-secret")
}

/// The code and reason that a connection to this key is refused with.
async fn refused(server: &TestServer, key: &str) -> (u16, String) {
    let mut client = server.open(&format!("/app/{key}?protocol=7")).await;
    assert_eq!(client.next().await["event"], "pusher:error");
    client.next_close().await
}

async fn whisper(client: &mut Client, event: &str) {
    client.send_json(json!({ "event": event, "channel": "private-a", "data": "1" })).await;
}

async fn is_closed(client: &mut Client) {
    let (code, reason) = client.next_close().await;
    assert_eq!((code, &*reason), DISABLED);
    client.ended().await;
}

#[tokio::test]
async fn an_app_comes_and_works_at_once() {
    let mut server = TestServer::start().await;
    let mut old = server.connect().await;
    old.subscribe("news").await;
    assert_eq!(refused(&server, "other-key").await.0, UNKNOWN);

    server.reload(|config| config.apps = vec![own(), other()]).await;

    let mut clients = [server.connect_to("other-key").await, server.connect_to("other-key").await];
    for client in &mut clients {
        client.subscribe("news").await;
    }
    server.api_of("other", "other-key", "other-secret").publish("news", "e", "2").await;
    for client in &mut clients {
        assert_eq!(client.next_event("e").await, json!(2));
    }
    server.api().publish("news", "e", "1").await;
    assert_eq!(old.next_event("e").await, json!(1));
}

#[tokio::test]
async fn an_app_that_is_gone_loses_its_connections_and_may_come_back() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own(), other()]).await;
    let mut staying = server.connect().await;
    staying.subscribe("news").await;
    for _ in 0..2 {
        let mut clients = [server.connect_to("other-key").await, server.connect_to("other-key").await];
        clients[0].subscribe("news").await;
        clients[1].subscribe("sport").await;

        server.reload(|config| config.apps = vec![own()]).await;

        for client in &mut clients {
            is_closed(client).await;
        }
        assert_eq!(refused(&server, "other-key").await.0, UNKNOWN);
        let api = server.api_of("other", "other-key", "other-secret");
        assert_eq!(api.get("/channels", &[]).await.status, 404);

        server.reload(|config| config.apps = vec![own(), other()]).await;

        assert_eq!(api.get("/channels", &[]).await.ok()["channels"], json!({}));
    }
    server.api().publish("news", "e", "1").await;
    staying.next_event("e").await;
}

async fn series_of(app_id: &str, metrics: SocketAddr) -> Vec<String> {
    let text = http::request(metrics, "GET", "/metrics", &[], b"").await.body;
    let label = format!("app_id=\"{app_id}\"");
    text.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
}

/// Whatever was counted of it, with whichever labels; what other apps have stays.
#[tokio::test]
async fn an_app_that_is_gone_leaves_no_series_behind() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own(), other()]).await;
    let api = server.api_of("other", "other-key", "other-secret");
    let mut client = server.connect_to("other-key").await;
    client.subscribe("news").await;
    api.publish("news", "e", "1").await;
    client.next_event("e").await;
    client.send_subscribe("private-a", Some("{}")).await;
    client.send("nonsense").await;
    server.api_of("other", "other-key", "wrong").get("/channels", &[]).await;
    client.settle().await;
    let metrics = server.metrics_address();
    assert!(series_of("other", metrics).await.iter().any(|series| series.starts_with("gema_refusals_total")));
    drop(client);

    server.reload(|config| config.apps = vec![own()]).await;

    // Its webhooks are kept for 20 s.
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        let left = series_of("other", metrics).await;
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{left:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!series_of(APP_ID, metrics).await.is_empty());
}

#[tokio::test]
async fn a_disabled_app_loses_its_connections_and_no_other_does() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own(), other()]).await;
    let mut staying = server.connect().await;
    staying.subscribe("news").await;
    let mut clients = [server.connect_to("other-key").await, server.connect_to("other-key").await];

    server.reload(|config| config.apps[1].enabled = false).await;

    for client in &mut clients {
        is_closed(client).await;
    }
    assert_eq!(refused(&server, "other-key").await, (DISABLED.0, DISABLED.1.to_owned()));
    let api = server.api_of("other", "other-key", "other-secret");
    assert_eq!(api.get("/channels", &[]).await.status, 403);
    server.api().publish("news", "e", "1").await;
    staying.next_event("e").await;

    server.reload(|config| config.apps[1].enabled = true).await;

    server.connect_to("other-key").await;
}

#[tokio::test]
async fn a_request_whose_body_comes_late_obeys_the_rules_of_that_time() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own()]).await;
    let request = server.api().post_bytes("/events", r#"{"name":"e","channel":"news","data":"1"}"#);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut publisher = http::Connection::open(server.address()).await;
    publisher.send(format!("{head}\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(publisher.answer().await.status, 100);

    server.reload(|config| config.apps[0].enabled = false).await;

    publisher.send(body).await;
    assert_eq!(publisher.answer().await.status, 403);
}

#[tokio::test]
async fn changed_limits_hold_for_living_connections() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own()]).await;
    let mut client = server.connect().await;
    client.subscribe("private-a").await;

    server.reload(|config| config.apps[0].enable_client_messages = Some(false)).await;
    whisper(&mut client, "client-e").await;
    assert_eq!(client.next().await["event"], "pusher:error");

    server
        .reload(|config| {
            config.apps[0].enable_client_messages = Some(true);
            config.limits.max_event_name_length = 10;
            config.limits.max_client_events_per_second = 1;
        })
        .await;
    whisper(&mut client, "client-much-too-long").await;
    assert_eq!(client.next().await["data"]["message"], "Event name too long");
    // More than a slow machine takes seconds for.
    for _ in 0..50 {
        whisper(&mut client, "client-e").await;
    }
    assert_eq!(client.next().await["data"]["code"], 4301);
    client.settle().await;
    let body = json!({ "name": "much-too-long", "channel": "news", "data": "1" }).to_string();
    assert_eq!(server.api().post("/events", &body).await.status, 400);

    server.reload(|config| config.limits.max_client_events_per_second = -1).await;
    for _ in 0..5 {
        whisper(&mut client, "client-e").await;
    }
    client.nothing_came().await;
}

#[tokio::test]
async fn keys_are_changed_without_a_gap() {
    let mut server = TestServer::start_with(|config| config.apps = vec![own()]).await;
    let mut client = server.connect().await;
    let new = || KeyPair { key: "new-key".to_owned(), secret: Secret::new("new-secret") };

    server.reload(|config| config.apps[0].keys = vec![new()]).await;
    let mut with_new = server.connect_to("new-key").await;
    with_new.subscribe("news").await;
    client.subscribe("private-a").await;

    server
        .reload(|config| {
            config.apps[0] = AppEntry::new(APP_ID, "new-key", "new-secret");
        })
        .await;
    assert_eq!(refused(&server, APP_KEY).await.0, UNKNOWN);
    assert_eq!(server.api().get("/channels", &[]).await.status, 401);
    let api = server.api_of(APP_ID, "new-key", "new-secret");
    api.publish("news", "e", "1").await;
    with_new.next_event("e").await;
    // Who is in already stays in.
    api.publish("private-a", "e", "1").await;
    client.next_event("e").await;
}

/// Whoever buries a dead node finds its apps in there.
#[tokio::test]
async fn the_other_nodes_know_of_an_app_that_has_come_later() {
    let redis = TestRedis::shared().await;
    let mut server = TestServer::start_cluster(2).await;
    server.reload(|config| config.apps = vec![own(), other()]).await;
    for _ in 0..2 {
        server.connect_to("other-key").await.subscribe("news").await;
    }
    server.quiet().await;
    let pattern = format!("*{}:{{node:*}}:apps", server.cluster());
    let keys: Vec<String> = redis.run(&["KEYS", &pattern]).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        let apps: Vec<String> = redis.run(&["SMEMBERS", &key]).await;
        assert!(apps.contains(&"other".to_owned()), "{apps:?}");
    }
}

/// A file of its own for a test.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn on_sighup_files_are_read_anew_and_nothing_with_a_fault_is_taken() {
    let app = |id: &str| format!("[[apps]]\nid = \"{id}\"\nkey = \"{id}-key\"\nsecret = \"{id}-secret\"\n");
    let path = file("reload.toml", &app("one"));
    let gema = Process::start_with(&["start", "--config", path.to_str().unwrap()], &[]).await;
    let mut client = Client::open(gema.address, "/app/one-key?protocol=7", &[]).await;
    client.established().await;
    client.subscribe("news").await;
    let publish = async |id: &str| {
        let api = Api::new(gema.address, id, &format!("{id}-key"), &format!("{id}-secret"));
        api.post("/events", &json!({ "name": "e", "channel": "news", "data": "1" }).to_string()).await.status
    };

    fs::write(&path, app("one") + &app("two") + "[limits]\nmax_conections = 5\n").unwrap();
    gema.signal("HUP");
    gema.log.line("the configuration has not changed, because the new one has faults").await;
    let faults: Vec<String> = gema.log.lines().iter().filter(|line| line["level"] == "ERROR").map(message).collect();
    assert!(faults[0].contains("reload.toml") && faults[0].contains("limits.max_conections"), "{faults:?}");
    assert!(faults[0].contains("max_connections"), "{faults:?}");
    assert_eq!(publish("two").await, 404);

    // As it is while somebody writes it.
    fs::write(&path, "").unwrap();
    gema.signal("HUP");
    gema.log
        .line("the app has Soketi's default secret, which everybody knows; give it one, or restart if it is meant")
        .await;
    assert_eq!(publish("app").await, 404);
    assert_eq!(publish("one").await, 200);
    client.next_event("e").await;

    fs::write(&path, app("one") + &app("two") + "[connections]\nping_seconds = 60\n").unwrap();
    gema.signal("HUP");
    gema.log.line("the configuration has been read anew").await;
    let restart = gema.log.line("these values have changed, but take effect with a restart only").await;
    assert_eq!(restart["keys"], "connections.ping_seconds");
    assert_eq!(publish("two").await, 200);
    assert_eq!(publish("one").await, 200);
    client.next_event("e").await;

    gema.terminate();
    tokio::time::timeout(PATIENCE, gema.stopped()).await.unwrap();
}

#[tokio::test]
async fn flow_rules_change_on_sighup_and_each_has_a_line_in_the_log() {
    let app = "[[apps]]\nid = \"one\"\nkey = \"one-key\"\nsecret = \"one-secret\"\n";
    let sample = |every: &str| format!("[[limits.flow_rules]]\nmatch = \"news\"\nsample = {{ every = {every} }}\n");
    let path = file("reload-flow-rules.toml", &(app.to_owned() + &sample("2")));
    let gema = Process::start_with(&["start", "--config", path.to_str().unwrap()], &[]).await;
    let mut client = Client::open(gema.address, "/app/one-key?protocol=7", &[]).await;
    client.established().await;
    client.subscribe("news").await;
    let publish = async |data: u32| {
        let api = Api::new(gema.address, "one", "one-key", "one-secret");
        api.publish("news", "e", &data.to_string()).await;
    };
    let reload = async |text: &str, message: &str| {
        fs::write(&path, text).unwrap();
        let before = gema.log.lines().len();
        gema.signal("HUP");
        gema.log.find(|_| gema.log.lines()[before..].iter().any(|line| line["message"] == message)).await;
    };
    let rule =
        |every: u32| format!("flow rule news samples all events: of {every} events of each name the first passes");
    assert_eq!(gema.log.line(&rule(2)).await["apps"], "one");
    for data in 1..=3 {
        publish(data).await;
    }
    for data in [1, 3] {
        assert_eq!(client.next_event("e").await, json!(data));
    }

    let unchanged = "the configuration has not changed, because the new one has faults";
    reload(&(app.to_owned() + &sample("0")), unchanged).await;
    for data in 4..=5 {
        publish(data).await;
    }
    assert_eq!(client.next_event("e").await, json!(5));

    reload(&(app.to_owned() + &sample("3")), &rule(3)).await;
    for data in 6..=9 {
        publish(data).await;
    }
    for data in [6, 9] {
        assert_eq!(client.next_event("e").await, json!(data));
    }

    reload(app, "the configuration has been read anew").await;
    for data in 10..=11 {
        publish(data).await;
        assert_eq!(client.next_event("e").await, json!(data));
    }
}

#[tokio::test]
async fn history_rules_change_on_sighup_and_each_has_a_line_in_the_log() {
    let app = "[[apps]]\nid = \"one\"\nkey = \"one-key\"\nsecret = \"one-secret\"\n";
    let last = |count: &str| {
        format!("[[limits.history_rules]]\nmatch = \"news\"\nseconds = 3600\nreplay = {{ last = {count} }}\n")
    };
    let path = file("reload-history-rules.toml", &(app.to_owned() + &last("2")));
    let gema = Process::start_with(&["start", "--config", path.to_str().unwrap()], &[]).await;
    let rule = |count: u32| {
        format!(
            "history rule news keeps the events of each channel for 3600 s, at most 1000 events and 1048576 bytes: a \
             known user who was cut off gets those that are missing; everybody else who joins gets the last {count} events"
        )
    };
    assert_eq!(gema.log.line(&rule(2)).await["apps"], "one");
    let publish = async |data: u32| {
        let api = Api::new(gema.address, "one", "one-key", "one-secret");
        api.publish("news", "e", &data.to_string()).await;
    };
    let reload = async |text: &str, message: &str| {
        fs::write(&path, text).unwrap();
        let before = gema.log.lines().len();
        gema.signal("HUP");
        gema.log.find(|_| gema.log.lines()[before..].iter().any(|line| line["message"] == message)).await;
    };
    // A newcomer gets these, and then what is published.
    let gets = async |old: &[u32], live: u32| {
        let mut client = Client::open(gema.address, "/app/one-key?protocol=7", &[]).await;
        client.established().await;
        client.subscribe("news").await;
        publish(live).await;
        for data in old.iter().chain(&[live]) {
            assert_eq!(client.next_event("e").await, json!(data));
        }
    };
    for data in 1..=3 {
        publish(data).await;
    }
    gets(&[2, 3], 4).await;
    let unchanged = "the configuration has not changed, because the new one has faults";
    reload(&(app.to_owned() + &last("0")), unchanged).await;
    gets(&[3, 4], 5).await;
    reload(&(app.to_owned() + &last("3")), &rule(3)).await;
    gets(&[3, 4, 5], 6).await;
    reload(app, "the configuration has been read anew").await;
    gets(&[], 7).await;
    reload(&(app.to_owned() + &last("3")), &rule(3)).await;
    gets(&[], 8).await;
}

fn message(line: &serde_json::Value) -> String {
    line["message"].as_str().unwrap().to_owned()
}
