//! Redis, and Laravel's events in it.

use std::net::SocketAddr;

use support::redis_server::TestRedis;
use support::redis_server::cluster_name;
use support::redis_server::free_port;

use crate::Case;
use crate::Diagnosis;
use crate::configuration;
use crate::gema;

/// A diagnosis with a server that needs no Redis, and a configuration that does.
async fn with(redis: &str) -> Diagnosis {
    with_name("doctors", redis).await
}

async fn with_name(name: &str, redis: &str) -> Diagnosis {
    let server = gema(&[]).await;
    let more = format!("[cluster]\ndriver = \"redis\"\nname = \"{name}\"\n[redis]\n{redis}");
    Case::empty().config(&configuration(server.address, &more)).diagnose().await
}

fn port(redis: &TestRedis) -> String {
    format!("port = {}\n", redis.port())
}

#[tokio::test]
async fn a_redis_that_is_away_is_named() {
    let diagnosis = with(&format!("port = {}", free_port())).await;
    diagnosis.names(&[("redis", "redis_unreachable")]).says("127.0.0.1:").passes(&["signature", "files"]);
    let diagnosis = with("host = \"nowhere.invalid\"").await;
    diagnosis.names(&[("redis", "redis_unreachable")]).says("nowhere.invalid");
}

/// The server reaches Redis by its own way, whatever the configuration here says.
#[tokio::test]
async fn a_server_that_has_lost_its_redis_is_named() {
    let port = free_port().to_string();
    let server = gema(&[("GEMA_CLUSTER_DRIVER", "redis"), ("GEMA_REDIS_PORT", &port)]).await;
    let diagnosis = Case::empty().config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[("ready", "server_degraded")]).says("Redis is away").passes(&["connect", "signature"]);
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let redis = TestRedis::start_with("of-redis").await;
    with(&port(&redis)).await.names(&[("redis", "redis_password")]);
    let diagnosis = with(&format!("{}password = \"hush\"", port(&redis))).await;
    diagnosis.names(&[("redis", "redis_password")]);
    assert!(!diagnosis.text.contains("hush"));
    with(&format!("{}password = \"of-redis\"", port(&redis))).await.names(&[]).passes(&["redis"]);
}

#[tokio::test]
async fn missing_rights_are_named_with_the_commands() {
    let redis = TestRedis::start().await;
    let rights = async |user: &str, rights: &[&str]| {
        let words = [&["ACL", "SETUSER", user, "on", ">of-redis"][..], rights].concat();
        let _: () = redis.run(&words).await;
        with(&format!("{}username = \"{user}\"\npassword = \"of-redis\"", port(&redis))).await
    };
    let all = "+@connection +@pubsub +@scripting +@read +@write +time".split(' ');
    let all = |prefix: &[&'static str]| [prefix, &all.clone().collect::<Vec<_>>()].concat();
    let diagnosis = rights("right", &all(&["~doctors:*", "&doctors:*"])).await;
    diagnosis.names(&[]).passes(&["redis"]);
    let diagnosis = rights("mute", &all(&["~doctors:*"])).await;
    diagnosis.names(&[("redis", "redis_rights")]).says("no permission to subscribe, publish under doctors:");
    let diagnosis = rights("other", &all(&["~shop:*", "&doctors:*"])).await;
    diagnosis.names(&[("redis", "redis_rights")]).says("no permission to set, get, evalsha, del under doctors:");
    let diagnosis = rights("reader", &["~doctors:*", "&doctors:*", "+@connection", "+@pubsub", "+@read"]).await;
    diagnosis.names(&[("redis", "redis_rights")]).says("script, set");
}

/// A Redis before 6.0 does not know the command HELLO.
#[tokio::test]
async fn an_old_redis_is_named() {
    let redis = TestRedis::start_like("", &["--rename-command", "HELLO", ""]).await;
    with(&port(&redis)).await.names(&[("redis", "redis_too_old")]).says("Redis must be version 6.0 or later");
}

#[tokio::test]
async fn a_full_redis_is_named() {
    let redis = TestRedis::start().await;
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    with(&port(&redis)).await.names(&[("redis", "redis_full")]);
}

#[tokio::test]
async fn a_replica_is_named() {
    let redis = TestRedis::start().await;
    let _: () = redis.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    with(&port(&redis)).await.names(&[("redis", "redis_read_only")]);
}

#[tokio::test]
async fn what_redis_refuses_otherwise_is_shown() {
    let redis = TestRedis::start().await;
    with(&format!("{}db = 99", port(&redis)))
        .await
        .names(&[("redis", "redis_failed")])
        .says("DB index is out of range");
}

#[tokio::test]
async fn nodes_of_another_application_under_the_same_name_are_named() {
    let redis = TestRedis::start().await;
    let (name, redis_port) = (cluster_name(), redis.port().to_string());
    let node = |id: &'static str| {
        let (name, redis_port) = (name.clone(), redis_port.clone());
        async move {
            let variables = [
                ("GEMA_CLUSTER_DRIVER", "redis"),
                ("GEMA_CLUSTER_NAME", &*name),
                ("GEMA_REDIS_PORT", &*redis_port),
                ("SOKETI_DEFAULT_APP_ID", id),
                ("SOKETI_DEFAULT_APP_KEY", "another-key"),
                ("SOKETI_DEFAULT_APP_SECRET", "another"),
            ];
            gema(&variables).await
        }
    };
    let same = node("app-id").await;
    with_name(&name, &port(&redis)).await.names(&[]);
    same.terminate();
    same.stopped().await;
    let _other = node("warehouse").await;
    let diagnosis = with_name(&name, &port(&redis)).await;
    diagnosis.names(&[("redis", "redis_other_cluster")]).says("they have warehouse");
}

#[tokio::test]
async fn a_soketi_under_the_same_prefix_is_named() {
    let redis = TestRedis::start().await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", redis.port())).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(|_| Ok::<(), ()>(()));
    let mut soketi = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    soketi.subscribe("doctors#redis-adapter#comms#req").await.unwrap();
    with(&port(&redis)).await.names(&[("redis", "redis_soketi")]);
}

/// Laravel's `.env` for its `redis` broadcaster.
fn laravel(port: u16, more: &str) -> Case {
    Case::empty().env(&format!("BROADCAST_CONNECTION=redis\nREDIS_HOST=127.0.0.1\nREDIS_PORT={port}\n{more}"))
}

fn ingest(address: SocketAddr, redis: &TestRedis, prefix: &str) -> String {
    configuration(address, &format!("[redis]\n{}[ingest]\nprefixes = [\"{prefix}=app-id\"]", port(redis)))
}

#[tokio::test]
async fn a_prefix_under_which_nothing_is_published_is_named() {
    let redis = TestRedis::start().await;
    let server = gema(&[]).await;
    let with = async |env: &str, prefix: &str| {
        laravel(redis.port(), env).config(&ingest(server.address, &redis, prefix)).diagnose().await
    };
    let diagnosis = with("APP_NAME=\"My Shop\"", "laravel_database_").await;
    diagnosis.names(&[("ingest", "ingest_prefix")]);
    diagnosis.says("Laravel has my_shop_database_ or my-shop-database-, gema has laravel_database_");
    with("REDIS_PREFIX=s_", "s").await.names(&[("ingest", "ingest_prefix")]).says("Laravel has s_, gema has s");
    with("REDIS_PREFIX=s_", "s_").await.names(&[]).passes(&["ingest"]);
    with("APP_NAME=\"My Shop\"", "my-shop-database-").await.names(&[]).passes(&["ingest"]);
}

#[tokio::test]
async fn another_redis_than_laravels_is_named() {
    let redis = TestRedis::start().await;
    let server = gema(&[]).await;
    let case = laravel(free_port(), "REDIS_PREFIX=s_").config(&ingest(server.address, &redis, "s_"));
    case.diagnose().await.names(&[("ingest", "ingest_other_redis")]).says("Laravel has 127.0.0.1:");
}
