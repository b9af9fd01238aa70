//! Webhooks: what is told, to whom, and when.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use gema::config::AppEntry;
use gema::config::ChannelFilter;
use gema::config::Config;
use gema::config::KeyPair;
use gema::config::Seconds;
use gema::config::Secret;
use gema::config::Webhook;
use gema::protocol::signature::Signer;
use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::client::Client;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Received;
use support::receiver::Receiver;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

/// Time to be back in: long enough for a slow machine where a test comes back, short where it waits for the end.
const LONG: f64 = 30.0;

fn occupied(channel: &str) -> Value {
    json!({ "name": "channel_occupied", "channel": channel })
}

fn vacated(channel: &str) -> Value {
    json!({ "name": "channel_vacated", "channel": channel })
}

fn member(name: &str, channel: &str, user_id: &str) -> Value {
    json!({ "name": name, "channel": channel, "user_id": user_id })
}

fn told(client: &Client, channel: &str, data: &str) -> Value {
    let socket_id = &client.socket_id;
    json!({ "name": "client_event", "channel": channel, "event": "client-x", "data": data, "socket_id": socket_id })
}

async fn server_with(webhooks: Vec<Webhook>, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_single_with(|config| {
        config.webhooks.leave_delay_seconds = Seconds(0.0);
        config.apps[0].webhooks = webhooks;
        change(config);
    })
    .await
}

/// A server and an application that hears of everything.
async fn all_told(change: impl FnOnce(&mut Config)) -> (TestServer, Receiver) {
    let receiver = Receiver::start().await;
    let server = server_with(vec![receiver.webhook("/hooks", &ALL)], change).await;
    (server, receiver)
}

async fn whisper(client: &mut Client, channel: &str, data: Value) {
    client.send_json(json!({ "event": "client-x", "channel": channel, "data": data })).await;
}

// G-276, G-277
#[tokio::test]
async fn a_channel_is_occupied_once_and_vacated_after_the_delay() {
    let delay = Duration::from_millis(500);
    let (server, mut receiver) = all_told(|config| config.webhooks.leave_delay_seconds = Seconds(0.5)).await;
    let (mut a, mut b) = (server.connect().await, server.connect().await);
    a.subscribe("news").await;
    b.subscribe("news").await;
    receiver.next_events(&[occupied("news")]).await;
    a.unsubscribe("news").await;
    a.nothing_came().await;
    let left = Instant::now();
    b.close().await;
    let request = receiver.next().await;
    assert_eq!(request.events(), [vacated("news")]);
    assert!(request.at - left >= delay, "{:?}", request.at - left);
    assert!(receiver.rest().is_empty());
}

// G-278, G-280
#[tokio::test]
async fn who_is_back_within_the_delay_was_never_gone() {
    let (server, mut receiver) = all_told(|config| config.webhooks.leave_delay_seconds = Seconds(LONG)).await;
    let mut client = server.connect().await;
    client.join("presence-room", "7").await;
    client.subscribe("private-a").await;
    receiver
        .next_events(&[occupied("presence-room"), member("member_added", "presence-room", "7"), occupied("private-a")])
        .await;
    client.close().await;
    let mut client = server.connect().await;
    client.join("presence-room", "7").await;
    client.subscribe("private-a").await;
    whisper(&mut client, "private-a", json!("1")).await;
    receiver.next_events(&[told(&client, "private-a", "1")]).await;
}

// G-279, G-280, G-281
#[tokio::test]
async fn a_member_comes_with_the_first_connection_and_leaves_with_the_last() {
    in_time(a_member_comes_and_leaves_once).await;
}

async fn a_member_comes_and_leaves_once(factor: u32) -> Result<(), String> {
    let delay = Seconds(factor.into());
    let (server, mut receiver) = all_told(|config| config.webhooks.leave_delay_seconds = delay).await;
    let mut observer = server.connect().await;
    observer.join("presence-room", "observer").await;
    let (mut a, mut b) = (server.connect().await, server.connect().await);
    // A number in `channel_data` is text in the webhook.
    let data = r#"{"user_id":7}"#;
    for client in [&mut a, &mut b] {
        client.send_subscribe("presence-room", Some(data)).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    let added = |user_id| member("member_added", "presence-room", user_id);
    receiver.next_events(&[occupied("presence-room"), added("observer"), added("7")]).await;
    a.close().await;
    b.close().await;
    observer.next_event("pusher_internal:member_added").await;
    observer.next_event("pusher_internal:member_removed").await;
    let heard = Instant::now();
    let request = receiver.next().await;
    assert_eq!(request.events(), [member("member_removed", "presence-room", "7")]);
    if request.at > heard { Ok(()) } else { Err("the WebSocket event comes with the webhook".to_owned()) }
}

// G-282, G-283, G-284, G-287
#[tokio::test]
async fn client_events_are_told_when_they_are_accepted() {
    let (server, mut receiver) = all_told(|_| ()).await;
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": "7" })).await;
    client.subscribe("#server-to-user-7").await;
    client.join("presence-room", "7").await;
    client.subscribe("private-a").await;
    client.subscribe("public").await;
    for channel in ["public", "private-unknown", "#server-to-user-7"] {
        whisper(&mut client, channel, json!(1)).await;
        client.next_event("pusher:error").await;
    }
    whisper(&mut client, "private-a", json!({ "on": true })).await;
    whisper(&mut client, "presence-room", json!("é\n")).await;
    let mut of_member = told(&client, "presence-room", "é\n");
    of_member["user_id"] = "7".into();
    receiver
        .next_events(&[
            occupied("presence-room"),
            member("member_added", "presence-room", "7"),
            occupied("private-a"),
            occupied("public"),
            told(&client, "private-a", r#"{"on":true}"#),
            of_member,
        ])
        .await;
    client.close().await;
    for _ in 0..4 {
        assert_ne!(receiver.next_event().await["channel"], "#server-to-user-7");
    }
    assert!(receiver.rest().is_empty());
}

// G-285
#[tokio::test]
async fn a_cache_miss_is_told_once_until_the_cache_is_filled() {
    let (server, mut receiver) = all_told(|config| config.limits.cache_ttl_seconds = Seconds(0.2)).await;
    let miss = json!({ "name": "cache_miss", "channel": "cache-x" });
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.subscribe("cache-x").await;
        client.next_event("pusher:cache_miss").await;
        clients.push(client);
    }
    server.api().publish("cache-x", "e", "1").await;
    // It is forgotten again after a while.
    let mut late = server.connect().await;
    loop {
        late.subscribe("cache-x").await;
        let after = late.next().await;
        late.unsubscribe("cache-x").await;
        if after["event"] == "pusher:cache_miss" {
            break;
        }
    }
    late.subscribe("private-end").await;
    receiver.next_events(&[occupied("cache-x"), miss.clone(), miss, occupied("private-end")]).await;
}

// G-286
#[tokio::test]
async fn the_number_of_subscribers_is_a_number() {
    let (server, mut receiver) = all_told(|config| config.limits.enable_subscription_count = true).await;
    let (mut a, mut b) = (server.connect().await, server.connect().await);
    let count = |count: u32| json!({ "name": "subscription_count", "channel": "news", "subscription_count": count });
    a.send_subscribe("news", None).await;
    receiver.next_events(&[occupied("news"), count(1)]).await;
    b.send_subscribe("news", None).await;
    receiver.next_events(&[count(2)]).await;
    a.close().await;
    receiver.next_events(&[count(1)]).await;
    b.close().await;
    receiver.next_events(&[count(0), vacated("news")]).await;
    let mut client = server.connect().await;
    client.join("presence-room", "7").await;
    receiver.next_events(&[occupied("presence-room"), member("member_added", "presence-room", "7")]).await;
    assert!(receiver.rest().is_empty());
}

// G-288
#[tokio::test]
async fn an_endpoint_hears_of_what_it_has_chosen() {
    let mut receivers = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    let mut chosen = receivers[1].webhook("/", &["channel_occupied"]);
    chosen.filter =
        ChannelFilter { channel_name_starts_with: "beta-".to_owned(), channel_name_ends_with: "-app".to_owned() };
    let webhooks = vec![receivers[0].webhook("/", &["channel_vacated"]), chosen, receivers[2].webhook("/", &[])];
    let server = server_with(webhooks, |_| ()).await;
    let mut client = server.connect().await;
    for channel in ["beta-1", "other-app", "beta-app", "beta-2-app"] {
        client.subscribe(channel).await;
        client.unsubscribe(channel).await;
    }
    for channel in ["beta-1", "other-app", "beta-app", "beta-2-app"] {
        receivers[0].next_events(&[vacated(channel)]).await;
    }
    receivers[1].next_events(&[occupied("beta-app"), occupied("beta-2-app")]).await;
    server.drain().await;
    assert!(receivers.iter_mut().all(|receiver| receiver.rest().is_empty()));
}

// G-289, G-290, G-291, G-293
#[tokio::test]
async fn a_request_is_signed_by_the_apps_oldest_key() {
    let receiver = &mut Receiver::start().await;
    let mut webhook = receiver.webhook("/hooks?token=x", &["channel_occupied"]);
    for (name, value) in [("X-Custom", "abc"), ("X-Pusher-Key", "no"), ("content-type", "no"), ("User-Agent", "me")] {
        webhook.headers.insert(name.to_owned(), Secret::new(value));
    }
    let server = server_with(vec![webhook], |config| {
        config.apps[0].keys = vec![KeyPair { key: "newer".to_owned(), secret: Secret::new("newer-secret") }];
    })
    .await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    server.connect_to("newer").await.subscribe("news").await;
    let request = receiver.next().await;
    assert!(request.head.starts_with("POST /hooks?token=x HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("Content-Type"), Some("application/json"));
    assert_eq!(request.header("X-Pusher-Key"), Some(APP_KEY));
    assert_eq!(request.header("X-Pusher-Signature"), Some(&*signature(&request)));
    assert_eq!((request.header("X-Custom"), request.header("User-Agent")), (Some("abc"), Some("me")));
    let body = request.json();
    assert_eq!(body.as_object().unwrap().len(), 2);
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!((before..=after).contains(&body["time_ms"].as_u64().unwrap()), "{body}");
    assert_eq!(request.events(), [occupied("news")]);
}

fn signature(request: &Received) -> String {
    Signer::new(APP_SECRET.as_bytes()).sign(&[request.body.as_bytes()])
}

// G-292
#[test]
fn the_published_signatures_are_reproduced() {
    let signer = Signer::new(b"7ad3773142a6692b25b8");
    for (events, signature) in [
        (
            r#"{"name":"channel_occupied","channel":"project-3"}"#,
            "73654ae6d45e9562503ac8d017e634454e3e309c82b32e49c67677dde9e798b3",
        ),
        (
            r#"{"name":"member_added","channel":"presence-foobar","user_id":"10"},{"name":"channel_occupied","channel":"presence-foobar"}"#,
            "b61260af5f880468d4f667a0b0c436ca5a1bd9cf39b0d0e1133754c40dff8fa2",
        ),
        (
            r#"{"name":"client_event","channel":"presence-foobar","event":"client-typing","data":"{\"on\":true}","socket_id":"1234.1234","user_id":"10"}"#,
            "4a33ae7206f2bb7cf594bb43923ec7bcfcdab8a435bd22d174bdaf8bf85102ab",
        ),
    ] {
        let body = format!(r#"{{"time_ms":1327078148132,"events":[{events}]}}"#);
        assert_eq!(signer.sign(&[body.as_bytes()]), signature, "{body}");
    }
}

// G-295
#[tokio::test]
async fn without_batching_each_event_has_its_request() {
    let (server, mut receiver) = all_told(|config| config.webhooks.batch = false).await;
    let mut client = server.connect().await;
    let channels = ["a", "b", "c", "d"];
    for channel in channels {
        client.subscribe(channel).await;
    }
    for channel in channels {
        let request = receiver.next().await;
        assert_eq!((request.events(), request.connection), (vec![occupied(channel)], 0), "over one connection");
    }
}

// G-296
#[tokio::test]
async fn with_batching_what_was_gathered_goes_out_in_order() {
    in_time(what_was_gathered_goes_out_in_order).await;
}

async fn what_was_gathered_goes_out_in_order(factor: u32) -> Result<(), String> {
    let gathering = Duration::from_secs(factor.into());
    let (server, mut receiver) = all_told(|config| {
        config.webhooks.batch_seconds = Seconds(gathering.as_secs_f64());
        config.webhooks.batch_events_max = 5;
    })
    .await;
    let mut client = server.connect().await;
    let channels: Vec<String> = (0..8).map(|number| format!("c-{number}")).collect();
    let began = Instant::now();
    for channel in &channels {
        client.subscribe(channel).await;
    }
    if began.elapsed() >= gathering {
        return Err(format!("eight subscriptions took {:?}", began.elapsed()));
    }
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!((first.events().len(), second.events().len()), (5, 3));
    let all: Vec<Value> = [first.events(), second.events()].concat();
    assert_eq!(all, channels.iter().map(|channel| occupied(channel)).collect::<Vec<_>>());
    Ok(())
}

// G-291
#[tokio::test]
async fn each_app_has_its_own_requests_and_signature() {
    let (mut receiver, mut others) = (Receiver::start().await, Receiver::start().await);
    let mut other = AppEntry::new("other", "other-key", "other-secret");
    other.webhooks = vec![others.webhook("/", &ALL)];
    let server = server_with(vec![receiver.webhook("/", &ALL)], |config| config.apps.push(other)).await;
    let (mut a, mut b) = (server.connect().await, server.connect_to("other-key").await);
    a.subscribe("one").await;
    b.subscribe("two").await;
    receiver.next_events(&[occupied("one")]).await;
    let request = others.next().await;
    assert_eq!((request.events(), request.header("X-Pusher-Key")), (vec![occupied("two")], Some("other-key")));
    let signed = Signer::new(b"other-secret").sign(&[request.body.as_bytes()]);
    assert_eq!(request.header("X-Pusher-Signature"), Some(&*signed));
}

#[tokio::test]
async fn an_app_gets_its_webhooks_while_the_server_runs() {
    let mut receiver = Receiver::start().await;
    let mut server = server_with(vec![], |_| ()).await;
    let mut client = server.connect().await;
    client.subscribe("before").await;
    let webhook = receiver.webhook("/", &ALL);
    server.reload(|config| config.apps[0].webhooks = vec![webhook]).await;
    client.subscribe("after").await;
    receiver.next_events(&[occupied("after")]).await;
    server.reload(|config| config.apps[0].webhooks.clear()).await;
    client.subscribe("later").await;
    client.unsubscribe("after").await;
    server.drain().await;
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn whoever_is_there_at_the_end_is_told_to_have_left() {
    let (server, mut receiver) = all_told(|config| {
        config.webhooks.leave_delay_seconds = Seconds(LONG);
        config.server.drain_seconds = Seconds(60.0);
    })
    .await;
    let mut client = server.connect().await;
    client.join("presence-room", "7").await;
    let (_, drained) = tokio::join!(client.ended(), server.drain());
    assert_eq!(drained.left, 0);
    receiver
        .next_events(&[
            occupied("presence-room"),
            member("member_added", "presence-room", "7"),
            member("member_removed", "presence-room", "7"),
            vacated("presence-room"),
        ])
        .await;
}

#[tokio::test]
async fn an_endpoint_in_the_own_network_is_not_reached_where_that_is_not_allowed() {
    let mut receiver = Receiver::start().await;
    let mut by_name = receiver.webhook("/", &ALL);
    by_name.url = Secret::new(format!("http://localhost:{}/", receiver.address.port()));
    let webhooks = vec![receiver.webhook("/", &ALL), by_name];
    let server = server_with(webhooks, |config| {
        config.webhooks.allow_private_addresses = false;
        config.webhooks.retry_seconds = Seconds(0.0);
    })
    .await;
    server.connect().await.subscribe("news").await;
    server.figure_becomes(0, "gema_webhook_requests_total", r#"result="failed""#, 2.0).await;
    assert!(receiver.rest().is_empty());
}

// G-297
#[tokio::test]
async fn any_2xx_is_a_success_whatever_comes_with_it() {
    let answers = [Answer::Status(204), Answer::Status(299), Answer::Endless];
    let mut receiver = Receiver::start_with(&answers, Answer::Status(200)).await;
    let server = server_with(vec![receiver.webhook("/", &ALL)], |_| ()).await;
    let mut client = server.connect().await;
    for channel in ["a", "b", "c", "d"] {
        client.subscribe(channel).await;
        assert_eq!(receiver.next().await.events(), [occupied(channel)]);
    }
}
