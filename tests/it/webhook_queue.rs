//! Webhooks that wait in Redis: they outlive the node that put them there.

use std::collections::BTreeSet;
use std::collections::HashMap;

use gema::config::AppEntry;
use gema::config::Seconds;
use gema::config::WebhooksDriver;
use serde_json::Value;
use serde_json::json;
use support::proxy::Proxy;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Received;
use support::receiver::Receiver;
use support::redis_server::TestRedis;
use support::server::TestServer;

async fn server_on(redis: &TestRedis, receiver: &Receiver, queue_events_max: usize) -> TestServer {
    TestServer::start_cluster_on(redis, 2, |config| {
        config.webhooks.driver = WebhooksDriver::Redis;
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.webhooks.queue_events_max = queue_events_max;
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
    })
    .await
}

fn occupied(channel: &str) -> Value {
    json!({ "name": "channel_occupied", "channel": channel })
}

fn vacated(channel: &str) -> Value {
    json!({ "name": "channel_vacated", "channel": channel })
}

/// Waits until nothing waits on either node.
async fn all_gone(server: &TestServer) {
    for node in 0..2 {
        server.figure_becomes(node, "gema_webhook_events_waiting", "", 0.0).await;
    }
}

/// What an application believes of a channel by what it was told; the next event must fit.
#[derive(Debug, Default)]
struct Believed {
    occupied: bool,
    members: BTreeSet<String>,
}

impl Believed {
    fn hear(&mut self, event: &Value) {
        let user_id = || event["user_id"].as_str().unwrap().to_owned();
        let fits = match event["name"].as_str().unwrap() {
            "channel_occupied" => !std::mem::replace(&mut self.occupied, true),
            "member_added" => self.occupied && self.members.insert(user_id()),
            "member_removed" => self.members.remove(&user_id()),
            _ => self.members.is_empty() && std::mem::take(&mut self.occupied),
        };
        assert!(fits, "{event} does not follow, after which there is {self:?}");
    }
}

// G-302
#[tokio::test]
async fn what_happens_on_different_nodes_is_told_in_the_order_in_which_it_happened() {
    let (redis, mut receiver) = (TestRedis::start().await, Receiver::start().await);
    let server = server_on(&redis, &receiver, 100_000).await;
    let mut clients = [server.connect_at(0).await, server.connect_at(1).await];
    for channel in (0..300).map(|number| format!("presence-{}", number % 30)) {
        for (client, user_id) in clients.iter_mut().zip(["7", if channel.ends_with('5') { "7" } else { "8" }]) {
            let channel_data = json!({ "user_id": user_id, "user_info": {} }).to_string();
            client.send_subscribe(&channel, Some(&channel_data)).await;
        }
        for client in &mut clients {
            client.unsubscribe(&channel).await;
        }
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_subscribe(&format!("last-{number}"), None).await;
    }
    let mut believed: HashMap<String, Believed> = HashMap::new();
    let all_is_told = |believed: &HashMap<String, Believed>| {
        let occupied = believed.iter().filter(|(_, believed)| believed.occupied).map(|(channel, _)| channel.as_str());
        occupied.collect::<BTreeSet<_>>() == BTreeSet::from(["last-0", "last-1"])
    };
    while !all_is_told(&believed) {
        let event = receiver.next_event().await;
        believed.entry(event["channel"].as_str().unwrap().to_owned()).or_default().hear(&event);
    }
    assert!(receiver.rest().is_empty());
}

/// Large events are dropped long before there are too many of them.
#[tokio::test]
async fn what_waits_in_redis_is_bounded_in_bytes() {
    const BYTES_MAX: usize = 256 * 1024;
    let redis = TestRedis::start().await;
    let receiver = Receiver::start_with(&[], Answer::Hang).await;
    let server = TestServer::start_cluster_on(&redis, 1, |config| {
        config.webhooks.driver = WebhooksDriver::Redis;
        config.webhooks.stored_bytes_max = BYTES_MAX;
        config.apps[0].webhooks = vec![receiver.webhook("/", &["client_event"])];
    })
    .await;
    let mut client = server.connect_at(0).await;
    client.subscribe("private-a").await;
    let data = "x".repeat(9_000);
    for _ in 0..100 {
        client.send_json(json!({ "event": "client-x", "channel": "private-a", "data": data })).await;
    }
    let until = std::time::Instant::now() + support::client::PATIENCE;
    while server.figure(0, "gema_webhook_events_total", "result=\"dropped\"").await < 60.0 {
        assert!(std::time::Instant::now() < until, "nothing is dropped");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    client.settle().await;
    let streams: Vec<String> = redis.run(&["KEYS", "*:queue:*"]).await;
    let bytes: usize = redis.run(&["MEMORY", "USAGE", &streams[0], "SAMPLES", "0"]).await;
    assert!(bytes < BYTES_MAX * 5 / 4, "{bytes}");
    assert!(redis.run::<u64>(&["XLEN", &streams[0]]).await > 10);
}

/// Somebody has used up a stream's ids: it begins anew.
#[tokio::test]
async fn a_stream_that_takes_no_more_ids_is_replaced() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let server = server_on(&redis, &receiver, 1000).await;
    let mut client = server.connect_at(0).await;
    client.subscribe("one").await;
    receiver.next_events(&[occupied("one")]).await;
    all_gone(&server).await;
    let streams: Vec<String> = redis.run(&["KEYS", "*:queue:*"]).await;
    let last = "18446744073709551615-18446744073709551615";
    redis.run::<()>(&["XADD", &streams[0], last, "event", "junk"]).await;
    client.subscribe("two").await;
    receiver.next_events(&[occupied("two")]).await;
}

// G-298, G-299, G-302
#[tokio::test]
async fn what_waits_in_redis_goes_out_in_order_and_is_gone_then() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start_with(&[Answer::Status(500)], Answer::Status(200)).await;
    let server = server_on(&redis, &receiver, 1000).await;
    let mut client = server.connect_at(0).await;
    let channels: Vec<String> = (0..20).map(|number| format!("c-{number}")).collect();
    for channel in &channels {
        client.subscribe(channel).await;
    }
    let (first, again) = (receiver.next().await, receiver.next().await);
    assert_eq!((&again.body, &again.head), (&first.body, &first.head));
    let mut events = again.events();
    while events.len() < channels.len() {
        events.extend(receiver.next().await.events());
    }
    assert_eq!(events, channels.iter().map(|channel| occupied(channel)).collect::<Vec<_>>());
    all_gone(&server).await;
    let streams: Vec<String> = redis.run(&["KEYS", "*:queue:*"]).await;
    assert_eq!(streams.len(), 1);
    assert_eq!(redis.run::<u64>(&["XLEN", &streams[0]]).await, 0);
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn beyond_the_bound_the_oldest_in_redis_are_dropped_and_counted() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
    let server = server_on(&redis, &receiver, 100).await;
    let mut client = server.connect_at(0).await;
    for number in 0..150 {
        client.subscribe(&format!("c-{number}")).await;
    }
    server.figure_becomes(0, "gema_webhook_events_total", r#"result="dropped""#, 50.0).await;
    receiver.answer(Answer::Status(200));
    let last = occupied("c-149");
    let mut requests: Vec<Received> = Vec::new();
    while !requests.last().is_some_and(|request| request.events().contains(&last)) {
        requests.push(receiver.next().await);
    }
    all_gone(&server).await;
}

#[tokio::test]
async fn while_redis_is_away_events_wait_in_memory() {
    let mut redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let server = server_on(&redis, &receiver, 1000).await;
    let mut client = server.connect_at(0).await;
    client.subscribe("before").await;
    receiver.next_events(&[occupied("before")]).await;
    all_gone(&server).await;
    redis.kill();
    client.subscribe("meanwhile").await;
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 1.0).await;
    client.unsubscribe("before").await;
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 2.0).await;
    assert!(receiver.rest().is_empty());
    redis.restart().await;
    receiver.next_events(&[occupied("meanwhile"), vacated("before")]).await;
    client.subscribe("after").await;
    receiver.next_events(&[occupied("after")]).await;
    all_gone(&server).await;
    assert!(receiver.rest().is_empty());
}

// G-302
#[tokio::test]
async fn what_happens_while_redis_is_away_overtakes_nothing_that_waits_there() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
    let way = Proxy::start(redis.port()).await;
    let server = TestServer::start_cluster_on(&redis, 1, |config| {
        config.redis.port = way.port();
        config.webhooks.driver = WebhooksDriver::Redis;
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("room").await;
    assert_eq!(receiver.next().await.events(), [occupied("room")]);
    way.freeze();
    way.cut();
    client.unsubscribe("room").await;
    // What is in Redis is nobody's, and what is here waits, too.
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 2.0).await;
    assert!(receiver.rest().iter().all(|request| request.events() == [occupied("room")]));
    receiver.answer(Answer::Status(200));
    way.thaw();
    receiver.next_events(&[occupied("room"), vacated("room")]).await;
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn of_what_waits_for_redis_the_oldest_is_dropped_beyond_the_bound_and_counted() {
    const EVENTS: usize = 300;
    let mut redis = TestRedis::absent("");
    let mut receiver = Receiver::start().await;
    let server = TestServer::start_single_with(|config| {
        redis.point(config);
        config.webhooks.driver = WebhooksDriver::Redis;
        config.webhooks.queue_bytes_max = 64 * 1024;
        config.apps[0].webhooks = vec![receiver.webhook("/", &["client_event"])];
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("private-a").await;
    for number in 0..EVENTS {
        let data = format!("{number:01000}");
        client.send_json(json!({ "event": "client-x", "channel": "private-a", "data": data })).await;
    }
    client.nothing_came().await;
    let until = std::time::Instant::now() + support::client::PATIENCE;
    let (dropped, waiting) = loop {
        let dropped = server.figure(0, "gema_webhook_events_total", r#"result="dropped""#).await;
        let waiting = server.figure(0, "gema_webhook_events_waiting", "").await;
        if dropped + waiting >= EVENTS as f64 && dropped > 0.0 {
            break (dropped, waiting);
        }
        assert!(std::time::Instant::now() < until, "{dropped} are dropped and {waiting} wait");
    };
    assert!((30.0..=65.0).contains(&waiting), "{waiting}");
    assert!(server.figure(0, "gema_webhook_bytes_waiting", "").await <= 65_536.0);
    assert!(server.figure(0, "gema_webhook_oldest_seconds", "").await > 0.0);
    assert!(receiver.rest().is_empty());
    redis.restart().await;
    for number in dropped as usize..EVENTS {
        assert_eq!(receiver.next_event().await["data"], format!("{number:01000}"));
    }
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
}

#[tokio::test]
async fn who_leaves_while_redis_is_away_sends_what_waits() {
    let redis = TestRedis::absent("");
    let mut receiver = Receiver::start().await;
    let server = TestServer::start_single_with(|config| {
        redis.point(config);
        config.webhooks.driver = WebhooksDriver::Redis;
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("room").await;
    server.figure_becomes(0, "gema_webhook_events_waiting", "", 1.0).await;
    assert!(receiver.rest().is_empty());
    server.drain().await;
    receiver.next_events(&[occupied("room"), vacated("room")]).await;
}

#[tokio::test]
async fn what_is_no_text_is_passed_over() {
    let (redis, mut receiver) = (TestRedis::start().await, Receiver::start().await);
    let server = server_on(&redis, &receiver, 1000).await;
    let mut client = server.connect_at(0).await;
    client.subscribe("before").await;
    receiver.next_events(&[occupied("before")]).await;
    let streams: Vec<String> = redis.run(&["KEYS", "*:queue:*"]).await;
    let mut add = redis::cmd("XADD");
    add.arg(&streams[0]).arg("*").arg("event").arg(b"\xff\xfe");
    add.query_async::<String>(&mut redis.connection().await).await.unwrap();
    client.subscribe("after").await;
    receiver.next_events(&[occupied("after")]).await;
    all_gone(&server).await;
    assert_eq!(redis.run::<u64>(&["XLEN", &streams[0]]).await, 0);
}

#[tokio::test]
async fn a_key_that_is_something_else_harms_no_other_app() {
    const CHANNELS: usize = 10;
    let (redis, mut receiver) = (TestRedis::start().await, Receiver::start().await);
    let dead = Receiver::start_with(&[], Answer::Status(500)).await;
    let server = TestServer::start_cluster_on(&redis, 1, |config| {
        config.webhooks.driver = WebhooksDriver::Redis;
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
        let mut other = AppEntry::new("other", "other-key", "other-secret");
        other.webhooks = vec![dead.webhook("/", &ALL)];
        config.apps.push(other);
    })
    .await;
    let (mut client, mut elsewhere) = (server.connect().await, server.connect_to("other-key").await);
    client.subscribe("before").await;
    receiver.next_events(&[occupied("before")]).await;
    for key in redis.run::<Vec<String>>(&["KEYS", "*{webhooks:app-id}:*"]).await {
        let replace = "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'junk')";
        redis.run::<()>(&["EVAL", replace, "1", &key]).await;
    }
    // Between those of the other app is what cannot be told.
    for channel in (0..CHANNELS).map(|number| format!("c-{number}")) {
        let holders = format!("{}:{{webhooks:app-id}}:holders:{channel}", server.cluster());
        redis.run::<()>(&["SET", &holders, "junk"]).await;
        elsewhere.subscribe(&channel).await;
        client.subscribe(&channel).await;
    }
    server.figure_becomes(0, "gema_webhook_events_total", r#"result="dropped""#, CHANNELS as f64).await;
    let streams: Vec<String> = redis.run(&["KEYS", "*{webhooks:other}:queue:*"]).await;
    assert_eq!(redis.run::<usize>(&["XLEN", &streams[0]]).await, CHANNELS);
    client.subscribe("after").await;
    receiver.next_events(&[occupied("after")]).await;
}
