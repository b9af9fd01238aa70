//! Several nodes as one server: whatever one of them is told, the clients of all of them see.

use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::node::becomes;
use support::server::TestServer;

const ROOM: &str = "presence-room";

fn added(user_id: &str) -> String {
    let data = json!({ "user_id": user_id, "user_info": { "name": user_id } }).to_string();
    format!(r#"{{"event":"pusher_internal:member_added","data":{},"channel":"{ROOM}"}}"#, json!(data))
}

fn removed(user_id: &str) -> String {
    let data = json!({ "user_id": user_id }).to_string();
    format!(r#"{{"event":"pusher_internal:member_removed","data":{},"channel":"{ROOM}"}}"#, json!(data))
}

fn published(channel: &str, name: &str, data: &str) -> String {
    format!(r#"{{"event":"{name}","data":"{data}","channel":"{channel}"}}"#)
}

/// One connection on each of two nodes.
async fn one_each(server: &TestServer) -> [Client; 2] {
    [server.connect_at(0).await, server.connect_at(1).await]
}

async fn subscribed(server: &TestServer, channel: &str) -> [Client; 2] {
    let mut clients = one_each(server).await;
    for client in &mut clients {
        client.subscribe(channel).await;
    }
    clients
}

// G-178
#[tokio::test]
async fn a_user_on_two_nodes_comes_once_and_goes_once() {
    let server = TestServer::start_cluster(2).await;
    let mut observers = one_each(&server).await;
    observers[0].join(ROOM, "a").await;
    let presence = observers[1].join(ROOM, "b").await;
    assert_eq!((&presence["count"], &presence["hash"]["a"]), (&json!(2), &json!({ "name": "a" })));
    assert_eq!(observers[0].settle().await, [added("b")]);
    for first_to_go in [0, 1] {
        let mut clients = one_each(&server).await;
        for client in &mut clients {
            assert_eq!(client.join(ROOM, "ada").await["count"], 3);
        }
        for observer in &mut observers {
            assert_eq!(observer.settle().await, [added("ada")]);
        }
        let [mut one, mut two] = clients;
        if first_to_go == 1 {
            std::mem::swap(&mut one, &mut two);
        }
        one.close().await;
        for observer in &mut observers {
            observer.nothing_came().await;
        }
        assert_eq!(two.settle().await, Vec::<String>::new());
        two.close().await;
        for observer in &mut observers {
            assert_eq!(observer.settle().await, [removed("ada")]);
        }
    }
}

#[tokio::test]
async fn each_node_counts_its_own_connections_towards_the_quota() {
    let server = TestServer::start_cluster_with(2, |config| config.limits.max_connections = 1).await;
    let [_here, _there] = one_each(&server).await;
    let mut third = Client::open(server.address_at(0), "/app/app-key?protocol=7", &[]).await;
    assert_eq!(third.next().await["data"]["code"], 4004);
}

// G-179
#[tokio::test]
async fn an_event_reaches_the_subscribers_of_every_node_once_but_not_the_excluded_one() {
    let server = TestServer::start_cluster(2).await;
    for channel in ["news", "private-news", "private-encrypted-news", "cache-news"] {
        let mut clients = subscribed(&server, channel).await;
        for client in &mut clients {
            client.settle().await;
        }
        for publisher in 0..2 {
            server.api_at(publisher).publish(channel, "e", "1").await;
            for client in &mut clients {
                assert_eq!(client.settle().await, [published(channel, "e", "1")]);
            }
            for excluded in 0..2 {
                let socket_id = clients[excluded].socket_id.clone();
                let event = json!({ "name": "e", "channel": channel, "data": "2", "socket_id": socket_id });
                let batch = json!({ "batch": [event] });
                for (path, body) in [("/events", &event), ("/batch_events", &batch)] {
                    server.api_at(publisher).post(path, &body.to_string()).await.ok();
                    clients[excluded].nothing_came().await;
                    assert_eq!(clients[1 - excluded].settle().await, [published(channel, "e", "2")]);
                }
            }
        }
    }
}

#[tokio::test]
async fn name_and_data_cross_character_for_character() {
    let server = TestServer::start_cluster(2).await;
    let mut clients = subscribed(&server, "news").await;
    let long = "x".repeat(90_000);
    let data = ["", "{\"a\": 1.0}", "é😀\u{2028}\u{0} \" \\ /", "gema/1 ", &long];
    for (number, data) in data.into_iter().enumerate() {
        let name = format!("e \"{number}\" é");
        server.api_at(number % 2).publish("news", &name, data).await;
        let [here, there] = [clients[0].next_text().await, clients[1].next_text().await];
        assert_eq!(here, there);
        let frame: Value = serde_json::from_str(&here).unwrap();
        assert_eq!(frame, json!({ "event": name, "data": data, "channel": "news" }));
    }
}

#[tokio::test]
async fn one_event_for_many_channels_reaches_each_of_them_on_each_node() {
    let server = TestServer::start_cluster(2).await;
    let channels: Vec<String> = (0..100).map(|number| format!("news-{number}")).collect();
    let mut clients = one_each(&server).await;
    for client in &mut clients {
        for channel in &channels {
            client.subscribe(channel).await;
        }
    }
    let body = json!({ "name": "e", "channels": channels, "data": "1" }).to_string();
    server.api_at(0).post("/events", &body).await.ok();
    let mut expected: Vec<String> = channels.iter().map(|channel| published(channel, "e", "1")).collect();
    expected.sort();
    for client in &mut clients {
        // Order is promised within a channel.
        let mut came = client.settle().await;
        came.sort();
        assert_eq!(came, expected);
    }
}

// G-180
#[tokio::test]
async fn a_client_event_tells_its_sender_on_other_nodes_too() {
    let server = TestServer::start_cluster(2).await;
    let mut clients = one_each(&server).await;
    clients[0].join(ROOM, "ada").await;
    clients[1].join(ROOM, "bob").await;
    assert_eq!(clients[0].settle().await, [added("bob")]);
    for (sender, user_id) in [(0, "ada"), (1, "bob")] {
        clients[sender].send_json(json!({ "event": "client-typing", "data": { "on": true }, "channel": ROOM })).await;
        clients[sender].nothing_came().await;
        let data = r#"{\"on\":true}"#;
        assert_eq!(
            clients[1 - sender].settle().await,
            [format!(r#"{{"event":"client-typing","data":"{data}","channel":"{ROOM}","user_id":"{user_id}"}}"#)]
        );
    }
    let mut clients = subscribed(&server, "private-x").await;
    clients[0].send_json(json!({ "event": "client-a", "data": "1", "channel": "private-x" })).await;
    clients[0].nothing_came().await;
    assert_eq!(clients[1].settle().await, [published("private-x", "client-a", "1")]);
}

// G-181
#[tokio::test]
async fn what_a_cache_channel_remembers_all_nodes_remember() {
    let server = TestServer::start_cluster(2).await;
    for channel in ["cache-x", "private-cache-x", "private-encrypted-cache-x"] {
        let miss = format!(r#"{{"event":"pusher:cache_miss","data":"{{}}","channel":"{channel}"}}"#);
        let mut clients = subscribed(&server, channel).await;
        for client in &mut clients {
            assert_eq!(client.settle().await, [miss.as_str()]);
        }
        for (publisher, data) in [(0, "1"), (1, "2")] {
            server.api_at(publisher).publish(channel, "e", data).await;
            for client in &mut clients {
                assert_eq!(client.settle().await, [published(channel, "e", data)]);
            }
            let mut newcomers = subscribed(&server, channel).await;
            for (node, newcomer) in newcomers.iter_mut().enumerate() {
                assert_eq!(newcomer.settle().await, [published(channel, "e", data)]);
                let facts = server.api_at(node).get(&format!("/channels/{channel}"), &[("info", "cache")]).await.ok();
                assert_eq!(facts["cache"]["data"], data);
            }
        }
    }
    // Nobody listens, but somebody may come.
    server.api_at(0).publish("cache-y", "e", "3").await;
    server.quiet().await;
    let mut late = server.connect_at(1).await;
    late.subscribe("cache-y").await;
    assert_eq!(late.settle().await, [published("cache-y", "e", "3")]);
}

fn watch(kind: &str, ids: &[&str]) -> String {
    let data = json!({ "events": [{ "name": kind, "user_ids": ids }] }).to_string();
    format!(r#"{{"event":"pusher_internal:watchlist_events","data":{}}}"#, json!(data))
}

// G-182
#[tokio::test]
async fn watchers_hear_of_users_on_any_node() {
    let server = TestServer::start_cluster(2).await;
    let mut watchers = one_each(&server).await;
    for (watcher, id) in watchers.iter_mut().zip(["ada", "bob"]) {
        watcher.sign_in(&json!({ "id": id, "watchlist": ["7"] })).await;
        assert_eq!(watcher.settle().await, [watch("offline", &["7"])]);
    }
    for first_to_go in [0, 1] {
        let mut clients = one_each(&server).await;
        for (number, client) in clients.iter_mut().enumerate() {
            client.sign_in(&json!({ "id": "7" })).await;
            for watcher in &mut watchers {
                let news = if number == 0 { vec![watch("online", &["7"])] } else { Vec::new() };
                assert_eq!(watcher.settle().await, news);
            }
        }
        // Who comes now, on whatever node, sees the same.
        for mut newcomer in one_each(&server).await {
            newcomer.sign_in(&json!({ "id": "eve", "watchlist": ["7", "8"] })).await;
            let state = newcomer.next_event("pusher_internal:watchlist_events").await;
            let expected = json!([{ "name": "online", "user_ids": ["7"] }, { "name": "offline", "user_ids": ["8"] }]);
            assert_eq!(state["events"], expected);
        }
        let [mut one, mut two] = clients;
        if first_to_go == 1 {
            std::mem::swap(&mut one, &mut two);
        }
        one.close().await;
        for watcher in &mut watchers {
            watcher.nothing_came().await;
        }
        two.close().await;
        for watcher in &mut watchers {
            assert_eq!(watcher.settle().await, [watch("offline", &["7"])]);
        }
    }
}

// G-182
#[tokio::test]
async fn an_event_for_a_user_reaches_them_on_every_node() {
    let server = TestServer::start_cluster(2).await;
    let channel = "#server-to-user-7";
    let mut clients = one_each(&server).await;
    let mut others = one_each(&server).await;
    for client in &mut clients {
        client.sign_in(&json!({ "id": "7" })).await;
        client.subscribe(channel).await;
    }
    for other in &mut others {
        other.sign_in(&json!({ "id": "8" })).await;
        other.subscribe("#server-to-user-8").await;
    }
    for node in 0..2 {
        server.api_at(node).publish(channel, "hello", "1").await;
        for client in &mut clients {
            assert_eq!(client.settle().await, [published(channel, "hello", "1")]);
        }
    }
    for other in &mut others {
        other.nothing_came().await;
    }
}

// G-275
#[tokio::test]
async fn every_count_and_list_covers_all_nodes() {
    let server = TestServer::start_cluster(2).await;
    let mut clients = one_each(&server).await;
    for (client, own) in clients.iter_mut().zip(["here", "there"]) {
        client.subscribe("news").await;
        client.subscribe(own).await;
    }
    let mut members = Vec::new();
    for (node, user_id) in [(0, "ada"), (1, "ada"), (1, "bob")] {
        let mut client = server.connect_at(node).await;
        client.join(ROOM, user_id).await;
        members.push(client);
    }
    server.quiet().await;
    for node in 0..2 {
        let api = server.api_at(node);
        let get = async |path: &str, info: &str, prefix: &str| {
            let parameters = [("filter_by_prefix", prefix), ("info", info)];
            api.get(path, &parameters[usize::from(prefix.is_empty())..]).await.ok()
        };
        assert_eq!(
            get("/channels", "subscription_count", "").await,
            json!({ "channels": {
                "news": { "subscription_count": 2 }, "here": { "subscription_count": 1 },
                "there": { "subscription_count": 1 }, "presence-room": { "subscription_count": 3 },
            } })
        );
        assert_eq!(
            get("/channels", "user_count", "presence-").await,
            json!({ "channels": { "presence-room": { "user_count": 2 } } })
        );
        assert_eq!(
            get("/channels/news", "subscription_count", "").await,
            json!({ "occupied": true, "subscription_count": 2 })
        );
        for own in ["here", "there"] {
            assert_eq!(get(&format!("/channels/{own}"), "", "").await, json!({ "occupied": true }));
        }
        assert_eq!(
            get("/channels/presence-room", "user_count,subscription_count", "").await,
            json!({ "occupied": true, "user_count": 2, "subscription_count": 3 })
        );
        let mut users = get("/channels/presence-room/users", "", "").await["users"].as_array().unwrap().clone();
        users.sort_by_key(Value::to_string);
        assert_eq!(users, [json!({ "id": "ada" }), json!({ "id": "bob" })]);
        let event = json!({
            "name": "e", "data": "1", "channels": ["news", ROOM], "info": "subscription_count,user_count",
        });
        let answer = api.post("/events", &event.to_string()).await.ok();
        assert_eq!(
            answer,
            json!({ "channels": {
                "news": { "subscription_count": 2 }, "presence-room": { "subscription_count": 3, "user_count": 2 },
            } })
        );
    }
    let [here, _there] = clients;
    here.close().await;
    server.quiet().await;
    for node in 0..2 {
        let facts = server.api_at(node).get("/channels", &[("info", "subscription_count")]).await.ok();
        assert_eq!(
            facts["channels"],
            json!({
                "news": { "subscription_count": 1 }, "there": { "subscription_count": 1 },
                "presence-room": { "subscription_count": 3 },
            })
        );
    }
}

#[tokio::test]
async fn thousands_of_channels_are_listed_once_each_while_their_counts_change() {
    const CHANNELS: usize = 2_500;
    let server = TestServer::start_cluster_with(2, |config| config.connections.subscriptions_per_second = 0).await;
    let subscribe = |number| json!({ "event": "pusher:subscribe", "data": { "channel": format!("c-{number}") } });
    let all: Vec<String> = (0..CHANNELS).map(|number| subscribe(number).to_string()).collect();
    let counts = async || -> Vec<u64> {
        let answer = server.api_at(1).get("/channels", &[("info", "subscription_count")]).await.ok();
        let channels = answer["channels"].as_object().unwrap().values();
        channels.map(|channel| channel["subscription_count"].as_u64().unwrap()).collect()
    };
    let mut one = server.connect_at(0).await;
    one.send_together(&all).await;
    assert_eq!(one.settle().await.len(), CHANNELS);
    becomes("channels", PATIENCE, async || counts().await.len(), CHANNELS).await;
    let mut two = server.connect_at(0).await;
    two.send_together(&all).await;
    let twice = async || {
        let counts = counts().await;
        assert!(counts.len() == CHANNELS && counts.iter().all(|count| (1..=2).contains(count)), "{counts:?}");
        counts.iter().filter(|count| **count == 2).count()
    };
    becomes("channels with two subscribers", PATIENCE, twice, CHANNELS).await;
}

// G-275
#[tokio::test]
async fn a_termination_closes_a_users_connections_on_every_node() {
    let server = TestServer::start_cluster(2).await;
    for node in 0..2 {
        let mut clients = one_each(&server).await;
        let mut others = one_each(&server).await;
        for client in &mut clients {
            client.sign_in(&json!({ "id": "siti" })).await;
        }
        for other in &mut others {
            other.sign_in(&json!({ "id": "budi" })).await;
        }
        let answer = server.api_at(node).post("/users/siti/terminate_connections", "{}").await;
        assert_eq!(answer.ok(), json!({}));
        for client in &mut clients {
            assert_eq!(client.next_close().await, (4009, "You got disconnected by the app.".to_owned()));
            client.ended().await;
        }
        for other in &mut others {
            other.nothing_came().await;
        }
        let asked = async |name: &str| server.figure(node, &format!("soketi_horizontal_adapter_{name}"), "").await;
        assert_eq!((asked("sent_requests").await, asked("received_responses").await), (1.0, 1.0));
        assert_eq!(server.figure(1 - node, "soketi_horizontal_adapter_received_requests", "").await, 1.0);
    }
}

#[tokio::test]
async fn nodes_that_terminate_at_the_same_time_are_told_each_what_it_asked_for() {
    let server = TestServer::start_cluster(2).await;
    for _ in 0..5 {
        let mut clients = Vec::new();
        for (user, pairs) in [("siti", 1), ("budi", 2)] {
            for _ in 0..pairs {
                for mut client in one_each(&server).await {
                    client.sign_in(&json!({ "id": user })).await;
                    clients.push(client);
                }
            }
        }
        let terminate = async |node: usize, user: &str| {
            let answer = server.api_at(node).post(&format!("/users/{user}/terminate_connections"), "{}").await;
            answer.header("x-connections-closed").unwrap().to_owned()
        };
        let closed = tokio::join!(terminate(0, "siti"), terminate(1, "budi"));
        assert_eq!(closed, ("2".to_owned(), "4".to_owned()));
        for client in &mut clients {
            client.ended().await;
        }
    }
}

#[tokio::test]
async fn subscribers_are_counted_over_all_nodes() {
    let server = TestServer::start_cluster_with(2, |config| config.limits.enable_subscription_count = true).await;
    let mut clients = one_each(&server).await;
    for (number, client) in clients.iter_mut().enumerate() {
        client.subscribe("news").await;
        hears_count(client, number + 1).await;
    }
    hears_count(&mut clients[0], 2).await;
    let [one, mut two] = clients;
    one.close().await;
    hears_count(&mut two, 1).await;
}

/// Waits until a client is told this number of subscribers.
async fn hears_count(client: &mut Client, count: usize) {
    while client.next_event("pusher_internal:subscription_count").await["subscription_count"] != count {}
}

#[tokio::test]
async fn each_app_hears_itself_only_on_other_nodes_too() {
    let app = gema::config::AppEntry::new("2", "key-2", "secret-2");
    let server = TestServer::start_cluster_with(2, |config| config.apps.push(app)).await;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        first.push(server.connect_to("app-key").await);
        second.push(server.connect_to("key-2").await);
        first.push(server.connect_to("app-key").await);
        second.push(server.connect_to("key-2").await);
    }
    for client in first.iter_mut().chain(&mut second) {
        client.send_subscribe("news", None).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
    }
    server.api().publish("news", "e", "1").await;
    for client in &mut first {
        assert_eq!(client.settle().await, [published("news", "e", "1")]);
    }
    for client in &mut second {
        client.nothing_came().await;
    }
}

#[tokio::test]
async fn a_member_limit_holds_over_all_nodes() {
    let server = TestServer::start_cluster_with(2, |config| config.limits.max_presence_members_per_channel = 2).await;
    let mut clients = one_each(&server).await;
    for (client, id) in clients.iter_mut().zip(["ada", "bob"]) {
        client.join(ROOM, id).await;
    }
    for mut late in one_each(&server).await {
        let channel_data = json!({ "user_id": "late", "user_info": {} }).to_string();
        late.send_subscribe(ROOM, Some(&channel_data)).await;
        late.next_refusal(ROOM, "LimitReached", 403, "Presence channel member limit reached").await;
        // Another connection of somebody who is there already is no other member.
        late.join(ROOM, "ada").await;
        late.close().await;
    }
}
