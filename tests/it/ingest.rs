//! Events of Laravel's `redis` broadcaster: what it publishes in Redis reaches the right connections, once, as if the
//! `pusher` driver had sent it; whatever else is published there does nothing.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use gema::config::AppEntry;
use gema::config::Config;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use support::barrier::Figures;
use support::client::Client;
use support::client::PATIENCE;
use support::process::Process;
use support::proxy::Proxy;
use support::redis_server::TestRedis;
use support::redis_server::run;
use support::server::APP_ID;
use support::server::TestServer;

/// As Laravel has it.
const SCRIPT: &str = "for i = 2, #ARGV do\n  redis.call('publish', ARGV[i], ARGV[1])\nend";

const OTHER_APP: &str = "other-id";

/// A Laravel application with a prefix of its own.
struct Laravel {
    redis: MultiplexedConnection,
    prefix: String,
    /// Messages that gema has to hear.
    published: u64,
}

impl Laravel {
    async fn with_prefix(redis: &TestRedis, prefix: &str) -> Self {
        Self { redis: redis.connection().await, prefix: prefix.to_owned(), published: 0 }
    }

    /// Publishes one message on these channels, as Laravel does.
    async fn broadcast(&mut self, channels: &[&str], message: &str) {
        let names: Vec<String> = channels.iter().map(|channel| format!("{}{channel}", self.prefix)).collect();
        let mut command = vec!["EVAL", SCRIPT, "0", message];
        command.extend(names.iter().map(String::as_str));
        run::<()>(&mut self.redis, &command).await;
        self.published += channels.len() as u64;
    }

    /// The same on one channel with a payload that excludes nobody.
    async fn event(&mut self, channel: &str, name: &str, number: usize) {
        let message = format!(r#"{{"event":"{name}","data":{{"n":{number},"socket":null}},"socket":null}}"#);
        self.broadcast(&[channel], &message).await;
    }

    /// Waits until every node has heard all of it.
    async fn heard(&self, server: &TestServer) {
        let until = Instant::now() + PATIENCE;
        for node in 0..server.nodes() {
            while taken(server, node).await < self.published as f64 {
                assert!(Instant::now() < until, "a node has not heard everything");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(taken(server, node).await, self.published as f64, "a node has heard too much");
        }
    }

    /// Everything that has come to a connection once all of it has been heard.
    async fn received(&self, server: &TestServer, client: &mut Client) -> Vec<String> {
        self.heard(server).await;
        client.settle().await
    }
}

/// Messages that a node has heard, of any use or none.
async fn taken(server: &TestServer, node: usize) -> f64 {
    server.figure(node, "gema_ingest_messages_total", "").await
        + server.figure(node, "gema_ingest_dropped_total", "").await
}

async fn dropped(server: &TestServer, cause: &str) -> f64 {
    server.figure(0, "gema_ingest_dropped_total", &format!(r#"cause="{cause}""#)).await
}

/// A prefix that no other test has.
fn prefix() -> String {
    static PREFIXES: AtomicUsize = AtomicUsize::new(0);
    format!("laravel-{}-database_", PREFIXES.fetch_add(1, Ordering::Relaxed))
}

/// A server, of as many nodes as there are to be, for what a Laravel publishes in the tests' Redis.
async fn start() -> (TestServer, Laravel) {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> (TestServer, Laravel) {
    let redis = TestRedis::shared().await;
    let laravel = Laravel::with_prefix(redis, &prefix()).await;
    let server = TestServer::start_with(|config| {
        redis.point(config);
        config.ingest.prefixes = vec![format!("{}={APP_ID}", laravel.prefix)];
        change(config);
    })
    .await;
    (server, laravel)
}

/// One node by itself that hears what is published with these prefixes.
async fn start_on(redis: &TestRedis, prefixes: &[String]) -> TestServer {
    TestServer::start_single_with(|config| {
        redis.point(config);
        config.ingest.prefixes = prefixes.to_vec();
        config.apps.push(AppEntry::new(OTHER_APP, "other-key", "other-secret"));
    })
    .await
}

/// A connection on a channel of each node.
async fn on_each_node(server: &TestServer, channel: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in 0..server.nodes() {
        let mut client = server.connect_at(node).await;
        client.subscribe(channel).await;
        clients.push(client);
    }
    clients
}

/// The frame of `Laravel::event`.
fn frame(channel: &str, name: &str, number: usize) -> String {
    format!(r#"{{"event":"{name}","data":"{{\"n\":{number}}}","channel":"{channel}"}}"#)
}

// G-317, G-318, G-322
#[tokio::test]
async fn what_laravel_publishes_arrives_as_the_pusher_driver_would_have_sent_it() {
    const CHANNEL: &str = "private-orders.7";
    let (server, mut laravel) = start().await;
    let mut clients = on_each_node(&server, CHANNEL).await;
    // Left as recorded, letter by letter.
    for (message, event, data) in [
        (r#"{"event":"e","data":{"socket":null},"socket":null}"#, "e", r"[]"),
        (
            r#"{"event":"App\\Events\\OrderShipped","data":{"id":7,"socket":null},"socket":null}"#,
            r"App\\Events\\OrderShipped",
            r#"{\"id\":7}"#,
        ),
        (
            r#"{"event":"order.shipped","data":{"name":"\u00e9\/\ud83d\ude00","price":1.0,"socket":null},"socket":null}"#,
            "order.shipped",
            r#"{\"name\":\"\\u00e9\\/\\ud83d\\ude00\",\"price\":1.0}"#,
        ),
        (r#"{"event":"by-hand","data":"as it is"}"#, "by-hand", "as it is"),
        (r#"{"event":"bare"}"#, "bare", "{}"),
    ] {
        laravel.broadcast(&[CHANNEL], message).await;
        let expected = format!(r#"{{"event":"{event}","data":"{data}","channel":"{CHANNEL}"}}"#);
        for client in &mut clients {
            assert_eq!(client.next_text().await, expected, "{message}");
        }
    }
    // A phpredis cluster publishes each channel by itself.
    let name = format!("{}{CHANNEL}", laravel.prefix);
    run::<u64>(&mut laravel.redis, &["PUBLISH", &name, r#"{"event":"e","data":{"a":1,"socket":null}}"#]).await;
    for client in &mut clients {
        assert_eq!(client.next_event("e").await, json!({ "a": 1 }));
        client.nothing_came().await;
    }
}

// G-319
#[tokio::test]
async fn the_socket_is_left_out_and_nobody_else() {
    let (server, mut laravel) = start().await;
    let mut sender = server.connect().await;
    sender.subscribe("orders").await;
    let mut others = on_each_node(&server, "orders").await;
    let id = sender.socket_id.clone();
    let message = format!(r#"{{"event":"e","data":{{"n":1,"socket":"{id}"}},"socket":"{id}"}}"#);
    laravel.broadcast(&["orders"], &message).await;
    for socket in ["null", r#""1.2""#, r#""nobody""#, "7"] {
        let message = format!(r#"{{"event":"e","data":{{"n":2,"socket":{socket}}},"socket":{socket}}}"#);
        laravel.broadcast(&["orders"], &message).await;
    }
    let to_all = vec![frame("orders", "e", 2); 4];
    assert_eq!(laravel.received(&server, &mut sender).await, to_all);
    for other in &mut others {
        assert_eq!(other.settle().await, [&[frame("orders", "e", 1)], &to_all[..]].concat());
    }
}

#[tokio::test]
async fn an_event_on_205_channels_reaches_each_of_them_once() {
    let (server, mut laravel) = start().await;
    let names: Vec<String> = (0..205).map(|number| format!("presence-{number}")).collect();
    let mut client = server.connect().await;
    let watched = [0, 99, 100, 204];
    for number in watched {
        client.join(&names[number], "ada").await;
    }
    let channels: Vec<&str> = names.iter().map(String::as_str).collect();
    laravel.broadcast(&channels, r#"{"event":"e","data":{"n":1,"socket":null},"socket":null}"#).await;
    let came = laravel.received(&server, &mut client).await;
    assert_eq!(came, watched.map(|number| frame(&names[number], "e", 1)));
}

// G-323
#[tokio::test]
async fn in_a_cluster_each_subscriber_gets_each_event_once_and_no_node_tells_another() {
    const EVENTS: usize = 200;
    let redis = TestRedis::shared().await;
    let mut laravel = Laravel::with_prefix(redis, &prefix()).await;
    let prefixes = vec![format!("{}={APP_ID}", laravel.prefix)];
    let server = TestServer::start_cluster_with(2, |config| config.ingest.prefixes = prefixes).await;
    let mut clients = on_each_node(&server, "orders").await;
    clients.extend(on_each_node(&server, "orders").await);
    for number in 0..EVENTS {
        laravel.event("orders", "e", number).await;
    }
    let expected: Vec<String> = (0..EVENTS).map(|number| frame("orders", "e", number)).collect();
    for client in &mut clients {
        assert_eq!(laravel.received(&server, client).await, expected);
    }
    for node in 0..2 {
        assert_eq!(server.figure(node, "gema_cluster_messages_total", "").await, 0.0);
    }
    // What comes over the HTTP API is told, as ever.
    server.api_at(0).publish("orders", "e", "1").await;
    for client in &mut clients {
        assert_eq!(client.next_event("e").await, 1);
    }
}

#[tokio::test]
async fn a_cache_channel_remembers_on_every_node() {
    let (server, mut laravel) = start().await;
    let mut early = on_each_node(&server, "cache-x").await;
    laravel.event("cache-x", "first", 1).await;
    // Nobody has ever been on this one.
    laravel.event("private-cache-y", "other", 2).await;
    for client in &mut early {
        let miss = r#"{"event":"pusher:cache_miss","data":"{}","channel":"cache-x"}"#.to_owned();
        assert_eq!(laravel.received(&server, client).await, [miss, frame("cache-x", "first", 1)]);
    }
    for (channel, name, number) in [("cache-x", "first", 1), ("private-cache-y", "other", 2)] {
        for client in &mut on_each_node(&server, channel).await {
            assert_eq!(client.settle().await, [frame(channel, name, number)]);
        }
        for node in 0..server.nodes() {
            let facts = server.api_at(node).get(&format!("/channels/{channel}"), &[("info", "cache")]).await.ok();
            assert_eq!(facts["cache"]["data"], json!(format!(r#"{{"n":{number}}}"#)), "{facts}");
        }
    }
    // The last one counts, wherever it came from.
    server.api().publish("private-cache-y", "over-http", "3").await;
    for client in &mut on_each_node(&server, "private-cache-y").await {
        let came = client.settle().await;
        assert_eq!(came, [r#"{"event":"over-http","data":"3","channel":"private-cache-y"}"#]);
    }
    laravel.event("private-cache-y", "again", 4).await;
    laravel.heard(&server).await;
    for client in &mut on_each_node(&server, "private-cache-y").await {
        assert_eq!(client.settle().await, [frame("private-cache-y", "again", 4)]);
    }
}

// G-321
#[tokio::test]
async fn what_other_software_publishes_is_ignored() {
    let (server, mut laravel) = start().await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let event = r#"{"event":"e","data":{"n":1,"socket":null},"socket":null}"#;
    let junk = ["", "1", "junk", "[]", r#"["event"]"#, r#"{"event":1}"#, r#"{"data":{}}"#, r#"{"event":"e""#];
    for message in junk {
        laravel.broadcast(&["orders"], message).await;
    }
    let names = ["", "a b", "orders:1", "#server-to-user-1", "#private-orders", "{tag}orders"];
    laravel.broadcast(&names, event).await;
    assert_eq!(laravel.received(&server, &mut client).await, [""; 0]);
    assert_eq!(dropped(&server, "foreign").await, (junk.len() + names.len()) as f64);
    assert_eq!(taken(&server, 0).await, dropped(&server, "foreign").await);
    laravel.event("orders", "e", 1).await;
    assert_eq!(client.next_text().await, frame("orders", "e", 1));
}

#[tokio::test]
async fn limits_and_reserved_names_hold_as_over_http() {
    let (server, mut laravel) = start_with(|config| {
        config.limits.max_event_name_length = 30;
        config.limits.max_channel_name_length = 10;
        config.limits.max_event_payload_in_kb = 0.0625;
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let long = "x".repeat(64 - r#"{"n":""}"#.len());
    let name = "e".repeat(30);
    let event = |name: &str, text: &str| {
        format!(r#"{{"event":"{name}","data":{{"n":"{text}","socket":"1.2"}},"socket":"1.2"}}"#)
    };
    for name in ["", &format!("{name}e"), "pusher:e", "pusher_internal:member_added"] {
        laravel.broadcast(&["orders"], &event(name, "")).await;
    }
    laravel.broadcast(&["orders"], &event("e", &format!("{long}x"))).await;
    laravel.broadcast(&["orders-1234"], &event("e", "")).await;
    laravel.broadcast(&["orders"], &event(&name, &long)).await;
    // Laravel writes letters as escapes, which count as the letters.
    let (escaped, half) = ("\\u00e9".repeat(28), "\\\\u00e9".repeat(28));
    laravel.broadcast(&["orders"], &event("e", &escaped)).await;
    laravel.broadcast(&["orders"], &event("e", &format!("{escaped}x"))).await;
    let fits = format!(r#"{{"event":"{name}","data":"{{\"n\":\"{long}\"}}","channel":"orders"}}"#);
    let fits_too = format!(r#"{{"event":"e","data":"{{\"n\":\"{half}\"}}","channel":"orders"}}"#);
    assert_eq!(laravel.received(&server, &mut client).await, [fits, fits_too]);
    assert_eq!(dropped(&server, "refused").await, 7.0);
}

#[tokio::test]
async fn rules_for_channels_hold_as_over_http() {
    let rules = [
        r#"{"match":"secret.*","require":"private"}"#,
        r#"{"match":"orders.*","require":"private","on_public_publish":"upgrade"}"#,
    ];
    let rules = rules.map(|rule| serde_json::from_str(rule).unwrap()).to_vec();
    let (server, mut laravel) = start_with(|config| config.limits.channel_rules = rules).await;
    let mut client = server.connect().await;
    client.subscribe("private-secret.1").await;
    client.subscribe("private-orders.7").await;
    laravel.event("secret.1", "e", 1).await;
    laravel.event("orders.7", "e", 2).await;
    assert_eq!(laravel.received(&server, &mut client).await, [frame("private-orders.7", "e", 2)]);
    assert_eq!(dropped(&server, "refused").await, 1.0);
    assert_eq!(server.metric("gema_policy_refusals_total", None).await, server.nodes() as f64);
}

// G-320
#[tokio::test]
async fn plaintext_for_encrypted_channels_is_dropped_with_one_line_for_many() {
    let redis = TestRedis::start().await;
    let gema = Process::start(&[
        ("GEMA_INGEST_PREFIXES", "laravel_database_=app-id"),
        ("GEMA_REDIS_PORT", &redis.port().to_string()),
        ("GEMA_METRICS_ENABLED", "true"),
    ])
    .await;
    let mut client = Client::open(gema.address, "/app/app-key?protocol=7", &[]).await;
    client.established().await;
    // Anybody may join the public one, so it tells when all of it has been heard.
    client.subscribe("done").await;
    for secret in ["private-encrypted-a", "private-encrypted-b", "private-encrypted-cache-c"] {
        let auth = support::server::channel_auth(&client.socket_id, secret, None);
        client.send_json(json!({ "event": "pusher:subscribe", "data": { "channel": secret, "auth": auth } })).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    let mut laravel = Laravel::with_prefix(&redis, "laravel_database_").await;
    for number in 0..100 {
        laravel.event("private-encrypted-a", "e", number).await;
        laravel.event("private-encrypted-b", "e", number).await;
    }
    laravel.event("private-encrypted-cache-c", "e", 0).await;
    laravel.event("done", "e", 1).await;
    assert_eq!(client.next_event("pusher:cache_miss").await, json!({}));
    assert_eq!(client.next_text().await, frame("done", "e", 1));
    client.nothing_came().await;
    let cause = r#"cause="encrypted""#;
    assert_eq!(Figures::of(gema.metrics_address).await.sum("gema_ingest_dropped_total", cause), 201.0);
    let told = |line: &&serde_json::Value| line["message"].as_str().unwrap().contains("for an encrypted channel");
    gema.log.find(|line| told(&line)).await;
    let lines = gema.log.lines();
    let lines: Vec<_> = lines.iter().filter(told).collect();
    // More of them only if all this took longer than a line is worth.
    assert_eq!(lines[0]["level"], "ERROR", "{lines:?}");
    assert_eq!(lines[0]["channel"], "laravel_database_private-encrypted-a");
    assert!(lines.len() < 20, "{lines:?}");
}

#[tokio::test]
async fn every_letter_of_a_prefix_means_itself() {
    let redis = TestRedis::start().await;
    let odd = r"shop*?[a-z]\é=";
    let server = start_on(&redis, &[format!("{odd}={APP_ID}")]).await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let mut stranger = Laravel::with_prefix(&redis, r"shopXYb\é=").await;
    stranger.event("orders", "e", 1).await;
    let mut laravel = Laravel::with_prefix(&redis, odd).await;
    laravel.event("orders", "e", 2).await;
    assert_eq!(laravel.received(&server, &mut client).await, [frame("orders", "e", 2)]);
}

#[tokio::test]
async fn the_longest_prefix_says_whose_an_event_is() {
    let redis = TestRedis::start().await;
    let prefixes = ["=app-id", "shop_=other-id", "shop_old_=app-id", "else_=nobody"].map(str::to_owned);
    let server = TestServer::start_single_with(|config| {
        redis.point(config);
        config.ingest.prefixes = prefixes.to_vec();
        config.apps.push(AppEntry::new(OTHER_APP, "other-key", "other-secret"));
        config.apps.push(AppEntry::new("nobody", "nobodys-key", "nobodys-secret"));
    })
    .await;
    let mut ours = server.connect().await;
    let mut other = server.connect_to("other-key").await;
    for client in [&mut ours, &mut other] {
        client.subscribe("orders").await;
        client.subscribe("shop_orders").await;
    }
    let mut laravel = Laravel::with_prefix(&redis, "").await;
    laravel.event("orders", "e", 1).await;
    laravel.event("shop_orders", "e", 2).await;
    laravel.event("shop_old_orders", "e", 3).await;
    laravel.event("else_orders", "e", 4).await;
    let came = laravel.received(&server, &mut ours).await;
    assert_eq!(came, [frame("orders", "e", 1), frame("orders", "e", 3)]);
    assert_eq!(other.settle().await, [frame("orders", "e", 2)]);
}

#[tokio::test]
async fn the_events_of_an_app_that_is_not_there_are_dropped_until_it_is() {
    let (mut server, mut laravel) = start().await;
    server.reload(|config| config.apps[0].enabled = false).await;
    laravel.event("orders", "e", 1).await;
    laravel.heard(&server).await;
    assert_eq!(dropped(&server, "no_app").await, 1.0);
    server.reload(|config| config.apps[0].enabled = true).await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    laravel.event("orders", "e", 2).await;
    assert_eq!(laravel.received(&server, &mut client).await, [frame("orders", "e", 2)]);
}

// G-324
#[tokio::test]
async fn without_a_prefix_nothing_is_listened_to() {
    let redis = TestRedis::start().await;
    let server = start_on(&redis, &[]).await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let mut laravel = Laravel::with_prefix(&redis, "").await;
    laravel.event("orders", "e", 1).await;
    assert_eq!(redis.run::<u64>(&["PUBSUB", "NUMPAT"]).await, 0);
    client.nothing_came().await;
    let cluster = TestServer::start_cluster_on(&redis, 2, |_| ()).await;
    let mut clients = on_each_node(&cluster, "orders").await;
    laravel.event("orders", "e", 1).await;
    assert_eq!(redis.run::<u64>(&["PUBSUB", "NUMPAT"]).await, 0);
    for client in &mut clients {
        client.nothing_came().await;
    }
}

#[tokio::test]
async fn redis_may_come_late_go_and_come_back() {
    let mut redis = TestRedis::absent("");
    let server = start_on(&redis, &[format!("laravel_={APP_ID}")]).await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    assert_eq!(server.figure(0, "gema_ingest_up", "").await, 0.0);
    for round in 0..3 {
        redis.restart().await;
        server.figure_becomes(0, "gema_ingest_up", "", 1.0).await;
        Laravel::with_prefix(&redis, "laravel_").await.event("orders", "e", round).await;
        assert_eq!(client.next_text().await, frame("orders", "e", round));
        redis.kill();
        server.figure_becomes(0, "gema_ingest_up", "", 0.0).await;
        server.api().publish("orders", "e", "1").await;
        assert_eq!(client.next_event("e").await, 1);
    }
    client.nothing_came().await;
}

#[tokio::test]
async fn a_connection_that_has_gone_dumb_is_made_anew_and_says_nothing_twice() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let server = TestServer::start_single_with(|config| {
        redis.point(config);
        config.redis.port = proxy.port();
        config.ingest.prefixes = vec![format!("laravel_={APP_ID}")];
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let mut laravel = Laravel::with_prefix(&redis, "laravel_").await;
    laravel.event("orders", "e", 1).await;
    laravel.heard(&server).await;
    proxy.freeze();
    server.figure_becomes(0, "gema_ingest_up", "", 0.0).await;
    laravel.event("orders", "lost", 2).await;
    proxy.thaw();
    server.figure_becomes(0, "gema_ingest_up", "", 1.0).await;
    laravel.event("orders", "e", 3).await;
    let came: Vec<String> = [client.next_text().await, client.next_text().await].into();
    assert_eq!(came, [frame("orders", "e", 1), frame("orders", "e", 3)]);
    client.nothing_came().await;
}

#[tokio::test]
async fn of_a_flood_nothing_is_missing() {
    const EVENTS: usize = 10_000;
    const CHANNELS: usize = 10;
    const SUBSCRIBERS: usize = 100;
    let (server, laravel) = start().await;
    let mut listening = Vec::new();
    for number in 0..SUBSCRIBERS {
        let channel = format!("channel-{}", number % CHANNELS);
        let mut client = server.connect().await;
        client.subscribe(&channel).await;
        listening.push(tokio::spawn(async move {
            for number in 0..EVENTS / CHANNELS {
                assert_eq!(client.next_text().await, frame(&channel, "e", number));
            }
            client.nothing_came().await;
        }));
    }
    let mut redis = laravel.redis.clone();
    for number in 0..EVENTS / CHANNELS {
        let mut pipeline = redis::pipe();
        for channel in 0..CHANNELS {
            let message = format!(r#"{{"event":"e","data":{{"n":{number},"socket":null}},"socket":null}}"#);
            pipeline.cmd("PUBLISH").arg(format!("{}channel-{channel}", laravel.prefix)).arg(message).ignore();
        }
        pipeline.query_async::<()>(&mut redis).await.unwrap();
    }
    for client in listening {
        client.await.unwrap();
    }
    assert_eq!(taken(&server, 0).await, EVENTS as f64);
}

#[tokio::test]
async fn an_alarm_by_http_takes_along_what_waits_before_the_other_nodes() {
    const CHANNEL: &str = "scada";
    let redis = TestRedis::shared().await;
    let mut laravel = Laravel::with_prefix(redis, &prefix()).await;
    let rule =
        json!([{ "match": CHANNEL, "at": "ingest", "except": ["alarm"], "conflate": { "window_ms": 3_600_000 } }]);
    let server = TestServer::start_cluster_on(redis, 2, |config| {
        config.ingest.prefixes = vec![format!("{}={APP_ID}", laravel.prefix)];
        config.limits.flow_rules = serde_json::from_value(rule).unwrap();
    })
    .await;
    let mut clients = on_each_node(&server, CHANNEL).await;
    for number in 0..3 {
        laravel.event(CHANNEL, "e", number).await;
    }
    laravel.heard(&server).await;
    let alarm = r#"{"event":"alarm","data":"-","channel":"scada"}"#;
    server.api_at(0).publish(CHANNEL, "alarm", "-").await;
    let [first, last] = [0, 2].map(|number| frame(CHANNEL, "e", number));
    assert_eq!(clients[0].settle().await, [&*first, &last, alarm]);
    // Each node has its own order.
    assert_eq!(clients[1].settle().await, [&*first, alarm]);
    server.api_at(1).publish(CHANNEL, "alarm", "-").await;
    assert_eq!(clients[1].settle().await, [&*last, alarm]);
    assert_eq!(clients[0].settle().await, [alarm]);
}
