//! Webhooks of apps that change or go while something is still to be told.

use gema::config::AppEntry;
use gema::config::Config;
use gema::config::KeyPair;
use gema::config::Seconds;
use gema::config::Secret;
use gema::config::WebhooksDriver;
use serde_json::Value;
use serde_json::json;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Received;
use support::receiver::Receiver;
use support::redis_server::TestRedis;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

const ROOM: &str = "presence-room";
const KEPT: &str = "kept";

/// What the operator says anew.
type Change = fn(&mut Config);

fn of(name: &str, channel: &str) -> Value {
    json!({ "name": name, "channel": channel })
}

fn member(name: &str) -> Value {
    json!({ "name": name, "channel": ROOM, "user_id": "7" })
}

/// A node whose events wait in memory, or in Redis.
async fn server_with(redis: Option<&TestRedis>, receiver: &Receiver) -> TestServer {
    TestServer::start_single_with(|config| {
        if let Some(redis) = redis {
            redis.point(config);
            config.webhooks.driver = WebhooksDriver::Redis;
        }
        config.webhooks.leave_delay_seconds = Seconds(3.0);
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
        config.apps.push(AppEntry::new(KEPT, "kept-key", "kept-secret"));
    })
    .await
}

/// The requests until one brings this event.
async fn until(receiver: &mut Receiver, event: &Value) -> Vec<Received> {
    let mut requests = Vec::new();
    while !requests.last().is_some_and(|last: &Received| last.events().contains(event)) {
        requests.push(receiver.next().await);
    }
    requests
}

// G-277, G-280
#[tokio::test]
async fn the_last_to_leave_an_app_that_is_removed_are_told_of() {
    let redis = TestRedis::start().await;
    for redis in [None, Some(&redis)] {
        let mut receiver = Receiver::start().await;
        let mut server = server_with(redis, &receiver).await;
        server.connect().await.join(ROOM, "7").await;
        receiver.next_events(&[of("channel_occupied", ROOM), member("member_added")]).await;
        server.reload(|config| config.apps.retain(|app| app.id == KEPT)).await;
        receiver.next_events(&[member("member_removed"), of("channel_vacated", ROOM)]).await;
        server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
    }
}

// G-302
#[tokio::test]
async fn an_app_that_comes_back_goes_on_with_what_waits() {
    let redis = TestRedis::start().await;
    for redis in [None, Some(&redis)] {
        let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
        let mut server = server_with(redis, &receiver).await;
        let mut app = AppEntry::new(APP_ID, APP_KEY, APP_SECRET);
        app.webhooks = vec![receiver.webhook("/", &ALL)];
        server.connect().await.subscribe("before").await;
        receiver.next().await;
        server.reload(|config| config.apps.retain(|app| app.id == KEPT)).await;
        // Its connections are counted for as long as it is known.
        while server.metric("soketi_new_connections_total", None).await > 0.0 {
            server.quiet().await;
        }
        server.reload(|config| config.apps.push(app)).await;
        let mut client = server.connect().await;
        client.subscribe("after").await;
        receiver.answer(Answer::Status(200));
        let requests = until(&mut receiver, &of("channel_occupied", "after")).await;
        server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
        let has_first = |request: &Received| request.events().contains(&of("channel_occupied", "before"));
        assert!(requests.iter().any(has_first) && !receiver.rest().iter().any(has_first), "{requests:?}");
    }
}

// G-299, G-302
#[tokio::test]
async fn what_waits_goes_out_in_order_as_the_operator_says_now() {
    let token = |config: &mut Config| {
        config.apps[0].webhooks[0].headers.insert("X-Token".to_owned(), Secret::new("right"));
    };
    let key = |config: &mut Config| {
        let app = &mut config.apps[0];
        app.keys = vec![KeyPair { key: APP_KEY.to_owned(), secret: Secret::new(APP_SECRET) }];
        (app.key, app.secret) = ("new-key".to_owned(), Secret::new("new-secret"));
    };
    let kinds = |config: &mut Config| config.apps[0].webhooks[0].event_types.truncate(1);
    let changes: [(Change, _); 3] =
        [(token, Some(("X-Token", "right"))), (key, Some(("X-Pusher-Key", "new-key"))), (kinds, None)];
    let redis = TestRedis::start().await;
    for redis in [None, Some(&redis)] {
        for (change, header) in changes {
            let mut receiver = Receiver::start_with(&[], Answer::Status(401)).await;
            let mut server = server_with(redis, &receiver).await;
            let mut client = server.connect().await;
            client.subscribe("before").await;
            let first = receiver.next().await;
            server.reload(change).await;
            client.subscribe("after").await;
            receiver.answer(Answer::Status(200));
            let requests = until(&mut receiver, &of("channel_occupied", "after")).await;
            let (last, repeated) = requests.split_last().unwrap();
            assert!(!repeated.is_empty() && repeated.iter().all(|request| request.body == first.body), "{repeated:?}");
            assert_eq!(last.events(), [of("channel_occupied", "after")]);
            for request in [last, &repeated[repeated.len() - 1]] {
                assert!(header.is_none_or(|(name, value)| request.header(name) == Some(value)), "{}", request.head);
            }
            server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
            assert!(receiver.rest().is_empty());
        }
    }
}

#[tokio::test]
async fn one_that_is_gone_still_gets_what_waits() {
    let redis = TestRedis::start().await;
    for redis in [None, Some(&redis)] {
        let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
        let (mut server, mut other) = (server_with(redis, &receiver).await, Receiver::start().await);
        server.reload(|config| config.apps[0].webhooks.push(other.webhook("/", &ALL))).await;
        let mut client = server.connect().await;
        client.subscribe("first").await;
        receiver.next().await;
        client.subscribe("second").await;
        until(&mut other, &of("channel_occupied", "second")).await;
        server.reload(|config| config.apps[0].webhooks.clear()).await;
        receiver.answer(Answer::Status(200));
        until(&mut receiver, &of("channel_occupied", "second")).await;
        server.figure_becomes(0, "gema_webhook_events_waiting", "", 0.0).await;
    }
}

// G-276
#[tokio::test]
async fn what_happens_while_nobody_wants_to_hear_of_it_is_known_later() {
    let mut receiver = Receiver::start().await;
    let mut server = TestServer::start_cluster_with(2, |config| {
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
    })
    .await;
    let webhooks = vec![receiver.webhook("/", &ALL)];
    let mut client = server.connect_at(0).await;
    client.subscribe("left").await;
    receiver.next_events(&[of("channel_occupied", "left")]).await;
    client.subscribe("kept").await;
    receiver.next_events(&[of("channel_occupied", "kept")]).await;
    server.reload(|config| config.apps[0].webhooks.clear()).await;
    client.unsubscribe("left").await;
    client.nothing_came().await;
    server.reload(|config| config.apps[0].webhooks = webhooks).await;
    client.subscribe("left").await;
    receiver.next_events(&[of("channel_occupied", "left")]).await;
    client.unsubscribe("kept").await;
    receiver.next_events(&[of("channel_vacated", "kept")]).await;
    assert!(receiver.rest().is_empty());
}
