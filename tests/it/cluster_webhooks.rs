//! Webhooks of several nodes: whatever happens is told once.

use gema::config::Seconds;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::receiver::ALL;
use support::receiver::Receiver;
use support::server::TestServer;

const ROOM: &str = "presence-room";

async fn two_nodes(receiver: &Receiver, leave_delay_seconds: f64) -> TestServer {
    TestServer::start_cluster_with(2, |config| {
        config.webhooks.leave_delay_seconds = Seconds(leave_delay_seconds);
        config.limits.enable_subscription_count = true;
        config.apps[0].webhooks = vec![receiver.webhook("/", &ALL)];
    })
    .await
}

fn of(name: &str, channel: &str) -> Value {
    json!({ "name": name, "channel": channel })
}

fn member(name: &str) -> Value {
    json!({ "name": name, "channel": ROOM, "user_id": "7" })
}

fn count(channel: &str, count: u32) -> Value {
    json!({ "name": "subscription_count", "channel": channel, "subscription_count": count })
}

/// A client event on a private channel; returns what is told of it.
async fn whisper(client: &mut Client, channel: &str) -> Value {
    client.send_json(json!({ "event": "client-x", "channel": channel, "data": "1" })).await;
    let socket_id = &client.socket_id;
    json!({ "name": "client_event", "channel": channel, "event": "client-x", "data": "1", "socket_id": socket_id })
}

// G-276, G-277, G-279, G-280
#[tokio::test]
async fn the_first_on_any_node_comes_and_the_last_on_any_node_leaves() {
    let mut receiver = Receiver::start().await;
    let server = two_nodes(&receiver, 0.0).await;
    let (mut here, mut there) = (server.connect_at(0).await, server.connect_at(1).await);
    here.join(ROOM, "7").await;
    receiver.next_events(&[of("channel_occupied", ROOM), member("member_added")]).await;
    there.join(ROOM, "7").await;
    // What this node says later shows what it has not said.
    there.subscribe("private-a").await;
    receiver.next_events(&[of("channel_occupied", "private-a"), count("private-a", 1)]).await;
    let told = whisper(&mut there, "private-a").await;
    receiver.next_events(&[told]).await;
    here.unsubscribe(ROOM).await;
    here.subscribe("private-b").await;
    receiver.next_events(&[of("channel_occupied", "private-b"), count("private-b", 1)]).await;
    there.unsubscribe(ROOM).await;
    receiver.next_events(&[member("member_removed"), of("channel_vacated", ROOM)]).await;
    assert!(receiver.rest().is_empty());
}

/// A round of nothing but client events has no commands for Redis, and must not cost the link to it.
#[tokio::test]
async fn a_tab_that_closes_while_somebody_types_is_no_news_while_the_user_is_on_another_node() {
    let mut receiver = Receiver::start().await;
    let server = two_nodes(&receiver, 0.0).await;
    let (mut there, mut tab) = (server.connect_at(1).await, server.connect_at(0).await);
    there.join(ROOM, "7").await;
    receiver.next_events(&[of("channel_occupied", ROOM), member("member_added")]).await;
    let mut typist = server.connect_at(0).await;
    typist.subscribe("private-a").await;
    receiver.next_events(&[of("channel_occupied", "private-a"), count("private-a", 1)]).await;
    tab.join(ROOM, "7").await;
    let told = whisper(&mut typist, "private-a").await;
    receiver.next_events(&[told]).await;
    tab.unsubscribe(ROOM).await;
    // What this node says later shows what it has not said.
    tab.subscribe("private-b").await;
    receiver.next_events(&[of("channel_occupied", "private-b"), count("private-b", 1)]).await;
    there.unsubscribe(ROOM).await;
    receiver.next_events(&[member("member_removed"), of("channel_vacated", ROOM)]).await;
    assert!(receiver.rest().is_empty());
}

// G-278, G-280
#[tokio::test]
async fn who_goes_to_another_node_was_never_gone() {
    let mut receiver = Receiver::start().await;
    let server = two_nodes(&receiver, 1.0).await;
    let mut here = server.connect_at(0).await;
    here.join(ROOM, "7").await;
    receiver.next_events(&[of("channel_occupied", ROOM), member("member_added")]).await;
    here.close().await;
    let mut there = server.connect_at(1).await;
    there.join(ROOM, "7").await;
    there.subscribe("private-a").await;
    let told = whisper(&mut there, "private-a").await;
    receiver.next_events(&[of("channel_occupied", "private-a"), count("private-a", 1), told]).await;
    there.unsubscribe(ROOM).await;
    // Longer than here had to wait.
    receiver.next_events(&[member("member_removed"), of("channel_vacated", ROOM)]).await;
    assert!(receiver.rest().is_empty());
}

// G-286
#[tokio::test]
async fn the_number_on_all_nodes_is_told_by_one() {
    let mut receiver = Receiver::start().await;
    let server = two_nodes(&receiver, 0.0).await;
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = server.connect_at(number % 2).await;
        client.send_subscribe("news", None).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
        client.settle().await;
        clients.push(client);
        let expected: &[Value] = if number == 0 { &[of("channel_occupied", "news")] } else { &[] };
        receiver.next_events(expected).await;
        receiver.next_events(&[count("news", number as u32 + 1)]).await;
    }
    assert!(receiver.rest().is_empty());
}
