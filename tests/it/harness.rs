//! The tests' own tools do what they say.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use support::nats_server::TestNats;
use support::process::program;
use support::proxy::Proxy;
use support::redis_server::TestRedis;
use support::redis_server::run;

#[test]
fn the_program_is_the_one_that_cargo_names() {
    assert_eq!(program(), Path::new(env!("CARGO_BIN_EXE_gema")));
}

#[tokio::test]
async fn a_private_redis_does_what_a_test_asks_of_it() {
    let mut redis = TestRedis::start().await;
    redis.run::<()>(&["SET", "a", "1"]).await;
    assert_eq!(redis.run::<String>(&["GET", "a"]).await, "1");
    assert_eq!(redis.calls("GET").await, 1);
    redis.pause();
    let asked = tokio::time::timeout(Duration::from_millis(100), redis.run::<String>(&["GET", "a"])).await;
    assert!(asked.is_err(), "a paused Redis answers");
    redis.resume();
    assert_eq!(redis.run::<String>(&["GET", "a"]).await, "1");
    let port = redis.port();
    redis.kill();
    assert!(redis.try_connection().await.is_err());
    redis.restart_with("secret").await;
    assert_eq!(redis.port(), port);
    assert_eq!(redis.run::<Option<String>>(&["GET", "a"]).await, None);
    let nobody = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut nobody = nobody.get_multiplexed_async_connection().await.unwrap();
    let refused = redis::cmd("PING").query_async::<String>(&mut nobody).await;
    assert!(refused.is_err(), "it needs no password");
}

#[tokio::test]
async fn a_proxy_is_as_slow_and_as_deaf_as_it_is_told_to_be() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    proxy.delay(Duration::from_millis(50));
    let began = Instant::now();
    run::<String>(&mut connection, &["PING"]).await;
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    proxy.delay(Duration::ZERO);
    proxy.freeze();
    let mut other = connection.clone();
    let ping = ["INCR", "a"];
    let asked = tokio::time::timeout(Duration::from_millis(100), run::<u64>(&mut other, &ping)).await;
    assert!(asked.is_err(), "a frozen proxy passes something on");
    proxy.thaw();
    assert_eq!(run::<u64>(&mut connection, &["INCR", "a"]).await, 2, "what was held back arrives first");
    proxy.cut();
    let cut = redis::cmd("PING").query_async::<String>(&mut connection).await;
    assert!(cut.is_err(), "the connection has not been cut");
    assert_eq!(proxy.connections(), 1);
    assert!(proxy.bytes() > 0);
}

#[tokio::test]
async fn a_private_nats_does_what_a_test_asks_of_it() {
    let mut nats = TestNats::start().await;
    let mut connection = nats.connection().await;
    connection.publish("a", b"1").await.unwrap();
    nats.pause();
    let published = tokio::time::timeout(Duration::from_millis(100), connection.publish("a", b"2")).await;
    assert!(published.is_err(), "a paused NATS answers");
    nats.resume();
    connection = nats.connection().await;
    let port = nats.port();
    nats.stop();
    assert!(connection.publish("a", b"3").await.is_err(), "the connection has not ended");
    assert!(nats.try_connection().await.is_err());
    nats.restart_as_it_was().await;
    nats.crash();
    nats.restart_with("secret").await;
    assert_eq!(nats.port(), port);
    nats.connection().await.publish("a", b"4").await.unwrap();
    nats.token = "wrong".to_owned();
    let refused = nats.try_connection().await.unwrap_err().to_string();
    assert!(refused.contains("Authorization Violation"), "{refused}");
}
