//! A whole server whose apps are rows of a table.

use std::net::Ipv4Addr;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Config;
use gema::config::Seconds;
use gema::server::Server as Gema;
use serde_json::json;
use support::barrier::Figures;
use support::client::Client;
use support::http::Api;
use support::http::Connection;
use support::process::Process;
use support::redis_server::TestRedis;
use support::redis_server::cluster_name;

use crate::servers::KINDS;
use crate::servers::Kind;
use crate::servers::Server;
use crate::small_table;

/// Long enough for a test to see what is remembered, short enough to see the change.
const CACHE: Seconds = Seconds(1.0);

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

pub async fn gema(server: &Server, table: &str, change: impl FnOnce(&mut Config)) -> Gema {
    let mut config = server.config(table);
    config.server.host = Ipv4Addr::LOCALHOST.into();
    config.server.port = 0;
    config.server.workers = 2;
    config.metrics.host = Ipv4Addr::LOCALHOST.into();
    config.metrics.port = 0;
    config.metrics.enabled = true;
    config.app_store.cache_seconds = CACHE;
    change(&mut config);
    Gema::start(&config).await.unwrap()
}

async fn open(gema: &Gema, key: &str) -> Client {
    Client::open(gema.address(), &format!("/app/{key}?protocol=7"), &[]).await
}

pub async fn connect(gema: &Gema, key: &str) -> Client {
    let mut client = open(gema, key).await;
    client.established().await;
    client
}

async fn refused(gema: &Gema, key: &str) -> u16 {
    let mut client = open(gema, key).await;
    assert_eq!(client.next().await["event"], "pusher:error");
    client.next_close().await.0
}

fn api(gema: &Gema, id: &str) -> Api {
    Api::new(gema.address(), id, &format!("{id}-key"), &format!("{id}-secret"))
}

async fn publish(gema: &Gema, id: &str) -> u16 {
    api(gema, id).post("/events", &json!({ "name": "e", "channel": "news", "data": "1" }).to_string()).await.status
}

#[tokio::test]
async fn apps_of_a_table_are_served_and_changes_reach_living_connections() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "served").await;
        server.run("INSERT INTO served VALUES ('b', 'b-key', 'b-secret', -1), ('c', 'c-key', 'c-secret', -1)").await;
        let gema = gema(server, "served", |_| ()).await;
        let (mut of_a, mut of_b) = (connect(&gema, "a-key").await, connect(&gema, "b-key").await);
        for client in [&mut of_a, &mut of_b] {
            client.subscribe("news").await;
        }
        assert_eq!(publish(&gema, "a").await, 200);
        of_a.next_event("e").await;
        assert_eq!((refused(&gema, "x-key").await, publish(&gema, "x").await), (4001, 404));

        // Deleted: its connections are told, the others are not touched.
        server.run("DELETE FROM served WHERE id = 'b'").await;
        assert_eq!(of_b.next_close().await.0, 4003, "{kind:?}");
        assert_eq!((refused(&gema, "b-key").await, publish(&gema, "b").await), (4001, 404));

        // Disabled, and enabled again.
        server.run("ALTER TABLE served ADD COLUMN enabled smallint").await;
        server.run("UPDATE served SET enabled = 0 WHERE id = 'a'").await;
        assert_eq!(of_a.next_close().await.0, 4003);
        assert_eq!((refused(&gema, "a-key").await, publish(&gema, "a").await), (4003, 403));
        connect(&gema, "c-key").await;
        gema.drain().await;
    }
}

#[tokio::test]
async fn a_row_may_have_raw_clients_who_name_the_app_by_its_id() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "with_raw").await;
        server.run("ALTER TABLE with_raw ADD COLUMN raw_clients json").await;
        server.run(r#"UPDATE with_raw SET raw_clients = '{"channels":["news"],"accept_id":true}'"#).await;
        server.run(r#"INSERT INTO with_raw VALUES ('b', 'b-key', 'b-secret', 5, '{"channels":["private-x"]}')"#).await;
        let gema = gema(server, "with_raw", |_| ()).await;
        // The app is not known yet, and its id is no key.
        let mut raw = Client::open(gema.address(), "/app/a", &[]).await;
        assert_eq!(publish(&gema, "a").await, 200);
        let text = raw.next_message().await.into_text().unwrap();
        assert_eq!(text, r#"{"event":"e","data":1,"channel":"news"}"#, "{kind:?}");
        assert_eq!(refused(&gema, "a").await, 4001);
        // A private channel cannot be listed, so this app has no raw clients.
        Client::open(gema.address(), "/app/b-key", &[]).await.established().await;
        gema.drain().await;
    }
}

async fn ready(gema: &Gema) -> (u16, String) {
    let answer = support::http::request(gema.address(), "GET", "/ready", &[], b"").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_is_noticed_at_the_start_and_when_it_does() {
    for kind in KINDS {
        let server = Server::own(kind).await;
        small_table(&server, "late").await;
        let gema = gema(&server, "late", |config| {
            (config.mysql.username, config.postgres.username) = ("late".to_owned(), "late".to_owned());
            config.app_store.timeout_seconds = Seconds(5.0);
        })
        .await;
        // Nobody has asked for an app.
        let message = "The database with the apps has not answered yet. Choose another server.";
        assert_eq!(ready(&gema).await, (503, message.to_owned()), "{kind:?}");
        assert_eq!(refused(&gema, "a-key").await, 4100);
        server
            .run_either(
                "CREATE USER late@127.0.0.1 IDENTIFIED BY 'password'; GRANT SELECT ON *.* TO late@127.0.0.1",
                "CREATE ROLE late LOGIN PASSWORD 'password'; GRANT SELECT ON late TO late",
            )
            .await;
        until("the database lets gema in", async || ready(&gema).await == (200, "OK".to_owned())).await;
        connect(&gema, "a-key").await;
        // One that is away later is a smaller matter: what is known is served.
        server.kill();
        until("the outage is noticed", async || {
            connect(&gema, "a-key").await;
            ready(&gema).await == (200, "OK, degraded: the database with the apps is away".to_owned())
        })
        .await;
        gema.drain().await;
    }
}

#[tokio::test]
async fn the_log_names_the_database_that_does_not_answer_and_the_webhook_that_is_left_out() {
    let server = Server::own(Kind::Postgres).await;
    small_table(&server, "apps").await;
    server
        .run(
            "ALTER TABLE apps ADD COLUMN webhooks text; UPDATE apps SET webhooks = \
             '[{\"url\":\"https://x.example:8443/hush\",\"id\":7},{\"url\":\"https://y.example/hush\",\"event_types\":[\"odd\"]}]'",
        )
        .await;
    let port = server.port.to_string();
    let process = Process::start(&[
        ("GEMA_APP_STORE_DRIVER", "postgres"),
        ("GEMA_METRICS_ENABLED", "true"),
        ("GEMA_APP_STORE_CACHE_SECONDS", "1"),
        ("GEMA_POSTGRES_PORT", &port),
        ("GEMA_POSTGRES_DATABASE", "postgres"),
        ("GEMA_POSTGRES_USERNAME", "late"),
    ])
    .await;
    let away = process.log.find(|line| line["level"] == "ERROR").await;
    assert_eq!(away["place"], format!("127.0.0.1:{port}"), "{away}");
    assert!(away["message"].as_str().unwrap().starts_with("the app store does not answer, so no app is known"));
    assert!(away["reason"].as_str().unwrap().contains("late") && !away.to_string().contains("password\""), "{away}");
    server.run("CREATE ROLE late LOGIN PASSWORD 'password'; GRANT SELECT ON apps TO late").await;
    process.log.line("the app store answers").await;
    let mut client = Client::open(process.address, "/app/a-key?protocol=7", &[]).await;
    client.established().await;
    // Read anew several times, and told once.
    let queries = async || Figures::of(process.metrics_address).await.sum("gema_app_store_query_seconds_count", "");
    let first = queries().await;
    until("the row is read anew", async || queries().await >= first + 2.0).await;
    let told = |starts: &str| {
        let lines = process.log.lines();
        let told = lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(starts)));
        told.cloned().collect::<Vec<_>>()
    };
    let left_out = told("a webhook of the app is left out");
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!((&left_out[0]["app_id"], &left_out[0]["endpoint"]), (&json!("a"), &json!("x.example:8443")));
    assert!(left_out[0]["message"].as_str().unwrap().contains("apps.webhooks.0.event_types is missing"));
    assert_eq!(told("apps.webhooks.1.event_types has \"odd\", which is no event").len(), 1);
    assert!(!format!("{:?}", process.log.lines()).contains("hush"));
    process.terminate();
    process.stopped().await;
}

#[tokio::test]
async fn an_app_that_cannot_be_looked_up_is_never_called_unknown() {
    for kind in KINDS {
        let server = Server::own(kind).await;
        small_table(&server, "away").await;
        let gema = gema(&server, "away", |config| config.app_store.timeout_seconds = Seconds(4.0)).await;
        let mut client = connect(&gema, "a-key").await;
        client.subscribe("news").await;

        server.pause();

        // Known ones are served beyond their time.
        tokio::time::sleep(CACHE.duration() * 2).await;
        connect(&gema, "a-key").await;
        assert_eq!(publish(&gema, "a").await, 200, "{kind:?}");
        client.next_event("e").await;
        // Others are to come back: clients do at 4100, back ends at 503.
        assert_eq!((refused(&gema, "x-key").await, publish(&gema, "x").await), (4100, 503));

        server.resume();

        until("the database is asked again", async || refused(&gema, "x-key").await == 4001).await;
        client.nothing_came().await;
        gema.drain().await;
    }
}

#[tokio::test]
async fn a_thousand_connections_with_one_unknown_key_cost_one_query() {
    let server = Server::shared(Kind::Postgres).await;
    small_table(server, "crowd").await;
    let gema = gema(server, "crowd", |config| config.app_store.cache_seconds = Seconds(60.0)).await;
    connect(&gema, "a-key").await;
    let before = queries(&gema).await;
    for _ in 0..10 {
        join_all((0..100).map(|_| async { assert_eq!(refused(&gema, "nobody").await, 4001) })).await;
    }
    assert_eq!(queries(&gema).await - before, 1);
    gema.drain().await;
}

#[tokio::test]
async fn handshakes_that_come_too_fast_cost_no_query() {
    let server = Server::shared(Kind::Postgres).await;
    small_table(server, "hasty").await;
    let gema = gema(server, "hasty", |config| {
        config.connections.handshakes_per_address_per_second = 1;
        // Known apps are not read anew meanwhile.
        config.app_store.cache_seconds = Seconds(600.0);
    })
    .await;
    connect(&gema, "a-key").await;
    let before = queries(&gema).await;
    let (mut accepted, mut too_fast) = (0, 0);
    while too_fast < 20 {
        let target = format!("/app/nobody-{accepted}-{too_fast}?protocol=7");
        match support::http::request(gema.address(), "GET", &target, &UPGRADE, b"").await.status {
            429 => too_fast += 1,
            status => {
                assert_eq!(status, 101);
                accepted += 1;
            }
        }
    }
    assert_eq!(queries(&gema).await - before, accepted);
    gema.drain().await;
}

#[tokio::test]
async fn requests_for_unknown_apps_cost_an_address_as_many_queries_as_handshakes() {
    const LIMIT: u32 = 5;
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "strangers").await;
        let gema = gema(server, "strangers", |config| {
            config.connections.handshakes_per_address_per_second = LIMIT;
            config.app_store.cache_seconds = Seconds(600.0);
        })
        .await;
        assert_eq!(publish(&gema, "a").await, 200);
        let before = queries(&gema).await;
        let mut connection = Connection::open(gema.address()).await;
        let began = Instant::now();
        let mut refused = 0_u32;
        for number in 0..200 {
            let unknown = api(&gema, &format!("nobody-{number}"));
            connection.send(unknown.post_bytes("/events", "{}")).await;
            match connection.answer().await.status {
                404 => (),
                status => {
                    assert_eq!(status, 429);
                    refused += 1;
                }
            }
        }
        let most = f64::from(LIMIT) * (1.0 + began.elapsed().as_secs_f64());
        let asked = queries(&gema).await - before;
        let answered = 200 - refused;
        assert!(refused > 0 && f64::from(answered) <= most, "{answered} answered, {refused} refused");
        // The node itself asks once at its start, which may end after the first publish.
        assert!(asked <= u64::from(answered) + 1, "{asked} queries, {answered} answered");
        // Who has an app is served all the same.
        for _ in 0..50 {
            assert_eq!(publish(&gema, "a").await, 200);
        }
        gema.drain().await;
    }
}

/// A balancer sends nobody to a node that is not ready, so the link must not wait for an app to be asked for.
#[tokio::test]
async fn a_fresh_node_of_a_cluster_is_ready_before_any_app_is_asked_for() {
    let redis = TestRedis::shared().await;
    let server = Server::shared(Kind::Postgres).await;
    small_table(server, "fresh").await;
    let gema = gema(server, "fresh", |config| {
        redis.configure(config, &cluster_name());
        config.cluster.strict = true;
    })
    .await;
    let ready = async || support::http::request(gema.address(), "GET", "/ready", &[], b"").await;
    until("the node is ready", async || ready().await.status == 200).await;
    assert_eq!(ready().await.body, "OK");
    let mut client = connect(&gema, "a-key").await;
    client.subscribe("news").await;
    assert_eq!(publish(&gema, "a").await, 200);
    client.next_event("e").await;
    gema.drain().await;
}

/// `cargo test --release --test stores connect_costs -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn connect_costs() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "connecting").await;
        let rows: Vec<_> = (0..1000).map(|number| format!("('n{number}', 'k{number}', 's', 1)")).collect();
        server.run(&format!("INSERT INTO connecting VALUES {}", rows.join(", "))).await;
        let gema = gema(server, "connecting", |config| config.app_store.cache_seconds = Seconds(600.0)).await;
        connect(&gema, "a-key").await;
        for what in ["cold", "warm"] {
            let mut took = Vec::new();
            for number in 0..1000 {
                let began = Instant::now();
                let client = connect(&gema, &format!("k{number}")).await;
                took.push(began.elapsed());
                client.close().await;
            }
            took.sort();
            println!("{kind:?}: a connect with the cache {what}: median {:?}, p99 {:?}", took[500], took[990]);
        }
        gema.drain().await;
    }
}

async fn queries(gema: &Gema) -> u64 {
    let text = support::http::request(gema.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix("gema_app_store_query_seconds_count "));
    line.unwrap().parse().unwrap()
}

pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + support::client::PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
