//! Channels that remember their last event.

use std::time::Duration;
use std::time::Instant;

use gema::config::Seconds;
use serde_json::json;
use support::attempts::in_time;
use support::client::Client;
use support::client::PATIENCE;
use support::server::TestServer;
use tokio::time::timeout;

const MISS: &str = r#"{"event":"pusher:cache_miss","data":"{}","channel":"cache-x"}"#;

/// Every type of cache channel.
const CHANNELS: [&str; 4] = ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x"];

fn published(channel: &str, event: &str, data: &str) -> String {
    format!(r#"{{"event":"{event}","data":"{data}","channel":"{channel}"}}"#)
}

fn miss(channel: &str) -> String {
    format!(r#"{{"event":"pusher:cache_miss","data":"{{}}","channel":"{channel}"}}"#)
}

/// A new connection joins, whatever the type of the channel. What comes behind the success is left to read.
async fn newcomer(server: &TestServer, channel: &str) -> Client {
    let mut client = server.connect().await;
    if channel.starts_with("presence-") {
        let user_id = client.socket_id.clone();
        client.join(channel, &user_id).await;
    } else {
        client.subscribe(channel).await;
    }
    client
}

// G-131
#[tokio::test]
async fn an_empty_cache_is_a_miss_behind_the_success() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send(r#"{"event":"pusher:subscribe","data":{"channel":"cache-x"}}"#).await;
    let succeeded = r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"cache-x"}"#;
    assert_eq!(client.settle().await, [succeeded, MISS]);
    // Joining again is asking again; a channel without a cache never answers.
    client.unsubscribe("cache-x").await;
    client.subscribe("cache-x").await;
    assert_eq!(client.settle().await, [MISS]);
    client.subscribe("cached").await;
    client.nothing_came().await;
}

// G-132, G-133
#[tokio::test]
async fn a_newcomer_gets_the_last_event_and_nothing_else() {
    let server = TestServer::start().await;
    let api = server.api();
    api.publish("cache-x", "first", r#"{"a":1}"#).await;
    let first = r#"{"event":"first","data":"{\"a\":1}","channel":"cache-x"}"#;
    assert_eq!(newcomer(&server, "cache-x").await.settle().await, [first]);
    let mut client = newcomer(&server, "cache-x").await;
    assert_eq!(client.settle().await, [first]);
    api.publish("cache-x", "second", "hello").await;
    assert_eq!(client.settle().await, [published("cache-x", "second", "hello")]);
    assert_eq!(newcomer(&server, "cache-x").await.settle().await, [published("cache-x", "second", "hello")]);
    // The event of one channel is not that of another.
    assert_eq!(newcomer(&server, "cache-y").await.settle().await, [miss("cache-y")]);
}

// G-134, G-138
#[tokio::test]
async fn an_event_outlives_the_lack_of_subscribers() {
    let server = TestServer::start().await;
    server.api().publish("cache-x", "news", "1").await;
    for _ in 0..3 {
        let mut client = newcomer(&server, "cache-x").await;
        assert_eq!(client.settle().await, [published("cache-x", "news", "1")]);
        client.close().await;
    }
    let facts = server.api().get("/channels/cache-x", &[("info", "cache,subscription_count")]).await.ok();
    assert_eq!((&facts["occupied"], &facts["subscription_count"]), (&json!(false), &json!(0)));
    assert_eq!(facts["cache"]["data"], "1");
}

// G-135
#[tokio::test]
async fn an_event_that_leaves_its_sender_out_is_remembered() {
    let server = TestServer::start().await;
    let mut sender = newcomer(&server, "cache-x").await;
    assert_eq!(sender.settle().await, [MISS]);
    let body = json!({ "name": "news", "channel": "cache-x", "data": "1", "socket_id": sender.socket_id });
    assert_eq!(server.api().post("/events", &body.to_string()).await.ok(), json!({}));
    sender.nothing_came().await;
    assert_eq!(newcomer(&server, "cache-x").await.settle().await, [published("cache-x", "news", "1")]);
    // As a newcomer it is no longer the one that was left out.
    sender.unsubscribe("cache-x").await;
    sender.subscribe("cache-x").await;
    assert_eq!(sender.settle().await, [published("cache-x", "news", "1")]);
}

// G-136
#[tokio::test]
async fn only_what_the_application_publishes_is_remembered() {
    let server = TestServer::start_with(|config| config.limits.enable_subscription_count = true).await;
    for channel in ["private-cache-x", "presence-cache-x"] {
        let mut sender = newcomer(&server, channel).await;
        assert_eq!(sender.next_text().await, miss(channel));
        let mut other = newcomer(&server, channel).await;
        assert_eq!(other.next_text().await, miss(channel));
        sender.send_json(json!({ "event": "client-x", "data": "1", "channel": channel })).await;
        let event = loop {
            match other.next().await {
                count if count["event"] == "pusher_internal:subscription_count" => (),
                event => break event,
            }
        };
        assert_eq!(event["event"], "client-x");
        let mut third = newcomer(&server, channel).await;
        assert_eq!(third.next_text().await, miss(channel), "a client event was remembered");

        server.api().publish(channel, "news", "1").await;
        sender.send_json(json!({ "event": "client-x", "data": "2", "channel": channel })).await;
        sender.settle().await;
        third.close().await;
        let mut fourth = newcomer(&server, channel).await;
        assert_eq!(fourth.next_text().await, published(channel, "news", "1"));
    }
}

// G-137
#[tokio::test]
async fn an_event_is_forgotten_when_its_time_is_over() {
    in_time(an_event_has_its_time).await;
}

async fn an_event_has_its_time(factor: u32) -> Result<(), String> {
    let lifetime = Duration::from_secs(factor.into());
    let ttl = Seconds(lifetime.as_secs_f64());
    let server = TestServer::start_with(|config| config.limits.cache_ttl_seconds = ttl).await;
    let api = server.api();
    let began = Instant::now();
    api.publish("cache-x", "news", "1").await;
    let mut client = newcomer(&server, "cache-x").await;
    let first = client.next_text().await;
    if began.elapsed() >= lifetime {
        return Err(format!("the event may be forgotten after {:?}", began.elapsed()));
    }
    assert_eq!(first, published("cache-x", "news", "1"));
    let forgotten = async {
        loop {
            client.unsubscribe("cache-x").await;
            client.subscribe("cache-x").await;
            match client.next_text().await {
                text if text == MISS => break,
                text => assert_eq!(text, published("cache-x", "news", "1")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("the event is never forgotten");
    assert!(began.elapsed() >= lifetime, "forgotten after {:?}", began.elapsed());
    let facts = api.get("/channels/cache-x", &[("info", "cache")]).await.ok();
    assert_eq!(facts, json!({ "occupied": true, "cache": null }));
    Ok(())
}

// G-139, G-140
#[tokio::test]
async fn every_type_of_cache_channel_remembers() {
    let server = TestServer::start().await;
    for channel in CHANNELS {
        let mut first = newcomer(&server, channel).await;
        assert_eq!(first.settle().await, [miss(channel)]);
        server.api().publish(channel, "news", "1").await;
        assert_eq!(first.settle().await, [published(channel, "news", "1")]);
        let mut second = newcomer(&server, channel).await;
        assert_eq!(second.settle().await, [published(channel, "news", "1")]);
        let came = first.settle().await;
        assert_eq!(came.len(), usize::from(channel.starts_with("presence-")), "{came:?}");
    }
}

/// The newest are remembered, in so many bytes of the whole process.
#[tokio::test]
async fn beyond_the_bound_the_events_that_were_published_longest_ago_are_forgotten() {
    const BYTES_MAX: usize = 1024 * 1024;
    let server = TestServer::start_single_with(|config| config.server.cached_events_bytes_max = BYTES_MAX).await;
    let data = "x".repeat(20_000);
    for number in 0..120 {
        server.api().publish(&format!("cache-{number}"), "e", &data).await;
    }
    // One that is published again is among the newest, and what it was before takes up no room.
    for _ in 0..60 {
        server.api().publish("cache-80", "e", &data).await;
    }
    let bytes = server.figure(0, "gema_cached_events_bytes", "").await;
    assert!((BYTES_MAX as f64 * 0.9..=BYTES_MAX as f64).contains(&bytes), "{bytes}");
    let forgotten = server.figure(0, "gema_cached_events_forgotten_total", "").await;
    assert!((60.0..=80.0).contains(&forgotten), "{forgotten}");
    let mut client = server.connect().await;
    for (number, is_there) in [(0, false), (60, false), (80, true), (119, true)] {
        client.subscribe(&format!("cache-{number}")).await;
        let event = if is_there { "e" } else { "pusher:cache_miss" };
        assert_eq!(client.next().await["event"], event, "cache-{number}");
    }
}
