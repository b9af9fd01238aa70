//! Presence over several nodes: exact for every observer, at the same price however many nodes there are.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::redis_server::TestRedis;
use support::server::TestServer;
use tokio::time::timeout;

use crate::presence;

const ROOM: &str = "presence-room";

// G-106, G-114, G-116, G-117, G-118, G-119, G-120, G-178
#[test]
fn on_three_nodes_everybody_hears_of_each_member_exactly_once_however_connections_come_and_go() {
    presence::holds(TestServer::start_cluster(3));
}

#[tokio::test]
async fn the_newest_user_info_on_any_node_holds_and_then_the_newest_that_remains() {
    presence::newest_info_holds(&TestServer::start_cluster(2).await, 2).await;
}

/// The back end asks the node that somebody has just left.
#[tokio::test]
async fn who_has_left_a_node_no_longer_counts_there_at_once() {
    let server = TestServer::start_cluster(2).await;
    let mut elsewhere = server.connect_at(1).await;
    elsewhere.join(ROOM, "stays").await;
    let api = server.api_at(0);
    let mut clients = Vec::new();
    for number in 0..40 {
        let mut client = server.connect_at(0).await;
        client.join(ROOM, &number.to_string()).await;
        clients.push(client);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.unsubscribe(ROOM).await;
        client.send(r#"{"event":"pusher:ping","data":{}}"#).await;
        while client.next().await["event"] != "pusher:pong" {}
        let users = api.get(&format!("/channels/{ROOM}/users"), &[]).await.ok();
        let ids: Vec<&str> =
            users["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap()).collect();
        assert!(!ids.contains(&&*number.to_string()), "{ids:?}");
        assert_eq!(ids.len(), 40 - number);
    }
    // A user that is on another node stays, whoever leaves here.
    let mut tab = server.connect_at(0).await;
    tab.join(ROOM, "stays").await;
    tab.unsubscribe(ROOM).await;
    for _ in 0..10 {
        let facts = api.get(&format!("/channels/{ROOM}"), &[("info", "user_count")]).await.ok();
        assert_eq!(facts["user_count"], 1);
    }
}

// G-178
#[tokio::test]
async fn of_many_who_come_and_go_at_once_on_all_nodes_each_is_seen_exactly_once() {
    const USERS: usize = 90;
    const NODES: usize = 3;
    let server = TestServer::start_cluster(NODES).await;
    let mut observers = Vec::new();
    for node in 0..NODES {
        let mut client = server.connect_at(node).await;
        client.join(ROOM, &format!("observer-{node}")).await;
        observers.push(client);
    }
    for observer in &mut observers {
        observer.settle().await;
    }
    let come = (0..USERS).map(async |user| {
        let mut client = server.connect_at(user % NODES).await;
        client.join(ROOM, &user.to_string()).await;
        client
    });
    let mut clients = join_all(come).await;
    for observer in &mut observers {
        assert_eq!(seen(observer, "pusher_internal:member_added").await, everybody(USERS));
    }
    join_all(clients.iter_mut().map(|client| client.unsubscribe(ROOM))).await;
    // Those who leave at the same time may still hear of each other, but then the observers must hear of all.
    join_all(clients.iter_mut().map(Client::settle)).await;
    for observer in &mut observers {
        assert_eq!(seen(observer, "pusher_internal:member_removed").await, everybody(USERS));
    }
}

fn everybody(users: usize) -> Vec<String> {
    let mut ids: Vec<String> = (0..users).map(|user| user.to_string()).collect();
    ids.sort();
    ids
}

/// The users of all frames that an observer got, which must be of this kind.
async fn seen(observer: &mut Client, event: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for frame in observer.settle().await {
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!(frame["event"], event, "{frame}");
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        ids.push(data["user_id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    ids
}

#[tokio::test]
async fn a_join_costs_the_same_one_round_trip_whatever_the_number_of_nodes() {
    let (two, three) = (commands_of_joins(2).await, commands_of_joins(3).await);
    let kinds = |commands: &[Command]| {
        let mut kinds: Vec<String> = commands.iter().map(|command| command.kind.clone()).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&two), kinds(&three));
    for commands in [two, three] {
        // The answer to this one is waited for; the rest only tells the new number of connections.
        let scripts = commands.iter().filter(|command| command.kind.starts_with("EVAL")).count();
        assert_eq!(scripts, JOINS, "{commands:#?}");
        assert!(commands.len() <= JOINS * 3, "{commands:#?}");
        let clients: BTreeSet<&str> = commands.iter().map(|command| &*command.client).collect();
        assert_eq!(clients.len(), 1, "other nodes have something to say about it: {commands:#?}");
    }
}

const JOINS: usize = 10;

/// What was said to Redis, and by whom.
#[derive(Debug)]
struct Command {
    kind: String,
    client: String,
}

/// What nodes say to Redis about a channel while users join it on one of them, without what scripts do in Redis.
async fn commands_of_joins(nodes: usize) -> Vec<Command> {
    /// What the test says behind all that the nodes say.
    const END: &str = "that-was-all";
    let redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, nodes, |_| ()).await;
    let mut observers = Vec::new();
    for node in 0..nodes {
        let mut observer = server.connect_at(node).await;
        observer.join(ROOM, &format!("observer-{node}")).await;
        observers.push(observer);
    }
    let mut joiners = Vec::new();
    for _ in 0..JOINS {
        joiners.push(server.connect_at(0).await);
    }
    server.quiet().await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut commands = client.get_async_monitor().await.unwrap().into_on_message::<String>();
    for (number, joiner) in joiners.iter_mut().enumerate() {
        joiner.join(ROOM, &number.to_string()).await;
    }
    server.quiet().await;
    redis.run::<String>(&["ECHO", END]).await;
    let mut about = Vec::new();
    loop {
        let command = timeout(PATIENCE, commands.next()).await.expect("nothing comes").expect("Redis is there");
        if command.contains(END) {
            return about;
        }
        // 1795272389.500981 [0 127.0.0.1:53822] "EVALSHA" "562249d1597ac0308bc3a59229b2d8c2460d1eb9" …
        let words: Vec<&str> = command.splitn(5, ' ').collect();
        if command.contains(ROOM) && words[2] != "lua]" {
            about.push(Command { kind: words[3].trim_matches('"').to_uppercase(), client: words[2].to_owned() });
        }
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_connection_that_a_full_channel_refuses() {
    let server = TestServer::start_cluster_with(2, |config| {
        config.limits.max_presence_members_per_channel = 1;
        let rule = r#"{"match":"*","max_subscription_age_seconds":3600}"#;
        config.limits.channel_rules = vec![serde_json::from_str(rule).unwrap()];
    })
    .await;
    let mut first = server.connect_at(0).await;
    first.join("presence-full", "ada").await;
    let mut refused = server.connect_at(1).await;
    refused.send_subscribe("presence-full", Some(r#"{"user_id":"bob"}"#)).await;
    refused.next_event("pusher:subscription_error").await;
    refused.next_error(None, "Presence channel member limit reached").await;
    assert_eq!(server.figure(1, "gema_views", "").await, 0.0);
    refused.join("presence-other", "bob").await;
    assert_eq!(server.figure(1, "gema_views", "").await, 1.0);
}

/// Whoever hangs up at the moment of the refusal was never in, and must not be counted out.
#[tokio::test]
async fn a_channel_outlives_those_who_hang_up_while_they_are_refused() {
    const CHANNELS: usize = 60;
    const ROUNDS: u64 = 20;
    let server = TestServer::start_cluster_with(2, |config| config.limits.max_presence_members_per_channel = 1).await;
    let name = |number: usize| format!("presence-{number}");
    let mut first = server.connect_at(0).await;
    for number in 0..CHANNELS {
        first.join(&name(number), "ada").await;
    }
    for round in 0..ROUNDS {
        let refused = async |number: usize| {
            let mut client = server.connect_at(1).await;
            client.send_subscribe(&name(number), Some(r#"{"user_id":"bob"}"#)).await;
            // The answer takes about as long.
            tokio::time::sleep(Duration::from_micros(100 * (number as u64 + round) % 6000)).await;
        };
        futures_util::stream::iter((0..CHANNELS).map(refused)).buffer_unordered(10).collect::<Vec<()>>().await;
    }
    server.figure_becomes(1, "soketi_connected", "", 0.0).await;
    assert_eq!(server.figure(1, "gema_panics_total", "").await, 0.0);
    for number in 0..CHANNELS {
        first.unsubscribe(&name(number)).await;
    }
    first.settle().await;
    let mut second = server.connect_at(1).await;
    for number in 0..CHANNELS {
        second.join(&name(number), "bob").await;
        server.api_at(1).publish(&name(number), "e", "1").await;
        assert_eq!(second.next_event("e").await, json!(1));
    }
}
