//! Nodes that die, and nodes that only seem to.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use support::bus::TestBus;
use support::client::Client;
use support::node::ANSWERED_MAX;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::NOTICED_MAX;
use support::node::Node;
use support::node::eventually;
use support::node::in_time;
use support::node::know_each_other;
use support::node::outlast;
use support::observer::Observer;
use support::pace;
use support::proxy::Proxy;
use support::redis_server::TestRedis;

use crate::traffic::ROOM;
use crate::traffic::names;

/// How long a node does nothing. Longer than the others wait for a sign of life.
const STOPPED: Duration = Duration::from_secs(25);

async fn members(node: &Node, users: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for user in users {
        clients.push(node.member(ROOM, user).await);
    }
    clients
}

// G-183, G-275
pub async fn a_killed_node_is_gone_everywhere_and_its_members_leave_once() {
    let bus = TestBus::start().await;
    let cluster = Cluster::on(&bus);
    let [dying, here, there] = cluster.nodes().await;
    let observers = [Observer::start(&here, ROOM, "here").await, Observer::start(&there, ROOM, "there").await];
    let own = ["ada", "bob", "eve"];
    let _members = members(&dying, &own).await;
    let _of_both = [members(&dying, &["both"]).await, members(&here, &["both"]).await];
    let _news = [dying.subscribed("news").await, here.subscribed("news").await, dying.subscribed("only-there").await];
    let mut user = dying.connect().await;
    user.sign_in(&json!({ "id": "7" })).await;
    let mut watcher = there.connect().await;
    watcher.sign_in(&json!({ "id": "watcher", "watchlist": ["7"] })).await;
    watcher.sees_online(&["7"]).await;
    for observer in &observers {
        observer.sees(&names(&["here", "there", "both", "ada", "bob", "eve"]), BACK_MAX).await;
    }
    eventually("everybody is counted", BACK_MAX, async || there.subscriptions("news").await == 2).await;

    let killed = pace::now();
    dying.kill().await;
    for observer in &observers {
        observer.sees(&names(&["here", "there", "both"]), GONE_MAX).await;
    }
    println!("a killed node's members have left after {:?}", pace::now() - killed);
    let offline = watcher.next_within(GONE_MAX).await;
    assert!(offline["data"].as_str().unwrap().contains("offline"), "{offline}");
    for node in [&here, &there] {
        let all_gone = async || {
            let only_there = node.api().get("/channels/only-there", &[]).await.ok()["occupied"] == false;
            only_there && node.subscriptions("news").await == 1 && node.subscriptions(ROOM).await == 3
        };
        eventually("its connections are no longer counted", GONE_MAX.saturating_sub(pace::now() - killed), all_gone)
            .await;
        assert_eq!(node.users(ROOM).await, names(&["both", "here", "there"]));
    }
    know_each_other([&here, &there]).await;

    // A node that takes its place is like any other.
    let new = cluster.node().await;
    know_each_other([&here, &there, &new]).await;
    let _back = members(&new, &["ada"]).await;
    for observer in &observers {
        observer.sees(&names(&["here", "there", "both", "ada"]), BACK_MAX).await;
        for (user, news) in [("ada", (2, 1)), ("bob", (1, 1)), ("eve", (1, 1)), ("both", (1, 0))] {
            assert_eq!(observer.news_of(user), news, "{user}");
        }
    }
    here.reaches(&new, "x").await;
    new.reaches(&there, "x").await;
}

pub async fn a_node_that_was_stopped_comes_back_with_its_members() {
    let bus = TestBus::start().await;
    let [sleeper, here, there] = Cluster::on(&bus).nodes().await;
    let mut observers = vec![
        Observer::start(&here, ROOM, "here").await,
        Observer::start(&there, ROOM, "there").await,
        Observer::start(&sleeper, ROOM, "asleep").await,
    ];
    let own = ["ada", "bob", "eve"];
    let _members = members(&sleeper, &own).await;
    let leaver = here.member(ROOM, "leaver").await;
    let everybody = names(&["here", "there", "asleep", "ada", "bob", "eve", "leaver"]);
    for observer in &observers {
        observer.sees(&everybody, BACK_MAX).await;
    }
    let mut reader = sleeper.subscribed("news").await;
    let _other_reader = there.subscribed("news").await;

    sleeper.pause();
    let stopped = Instant::now();
    for observer in &observers[..2] {
        observer.sees(&names(&["here", "there", "leaver"]), STOPPED).await;
    }
    println!("a stopped node's members have left after {:?}", stopped.elapsed());
    eventually("its connections are no longer counted", STOPPED, async || there.subscriptions("news").await == 1).await;
    leaver.close().await;
    let _comer = in_time("a join", ANSWERED_MAX, there.member(ROOM, "comer")).await;
    outlast(stopped, STOPPED).await;
    sleeper.resume();

    let everybody = names(&["here", "there", "asleep", "ada", "bob", "eve", "comer"]);
    for observer in &observers[..2] {
        observer.sees(&everybody, BACK_MAX).await;
    }
    // Somebody whom Redis does not know any more may be of a node that is about to come back.
    observers[2].sees(&everybody, GONE_MAX).await;
    for observer in &observers {
        assert_eq!(observer.news_of("comer"), (1, 0));
        assert_eq!(observer.news_of("leaver").1, 1);
    }
    for user in own {
        for observer in &observers[..2] {
            assert_eq!(observer.news_of(user), (2, 1), "{user}");
        }
        // For their own node they were never away.
        assert_eq!(observers[2].news_of(user), (1, 0), "{user}");
    }
    know_each_other([&sleeper, &here, &there]).await;
    for node in [&sleeper, &here, &there] {
        let mut expected = everybody.clone();
        expected.sort();
        assert_eq!(node.users(ROOM).await, expected);
        eventually("its connections are counted again", BACK_MAX, async || node.subscriptions("news").await == 2).await;
    }
    here.api().publish("news", "e", "1").await;
    reader.next_event("e").await;
    sleeper.reaches(&there, "x").await;

    // And when it dies in earnest, they leave once more.
    observers.truncate(2);
    sleeper.kill().await;
    for observer in &observers {
        observer.sees(&names(&["here", "there", "comer"]), GONE_MAX).await;
        assert_eq!(observer.news_of("ada"), (2, 2));
    }
}

pub async fn a_large_node_is_buried_by_one_that_still_lives() {
    /// In each direction.
    const DELAY: Duration = Duration::from_secs(1);
    /// More than a survivor can clear while a lease lasts, at that pace.
    const CHANNELS: usize = 4000;
    /// Those of one connection.
    const TOGETHER: usize = 100;
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let cluster = Cluster::on(&redis);
    let (dying, far) = (cluster.node().await, cluster.over(proxy.port()));
    let survivors = [far.node().await, far.node().await];
    know_each_other([&dying].into_iter().chain(&survivors)).await;
    let observers =
        [Observer::start(&survivors[0], ROOM, "one").await, Observer::start(&survivors[1], ROOM, "two").await];
    let mut clients = Vec::new();
    for first in (0..CHANNELS).step_by(TOGETHER) {
        let mut client = dying.connect().await;
        for number in first..first + TOGETHER {
            let channel_data = json!({ "user_id": "ada" }).to_string();
            client.send_subscribe(&format!("presence-{number}"), Some(&channel_data)).await;
        }
        for _ in 0..TOGETHER {
            client.next_event("pusher_internal:subscription_succeeded").await;
        }
        clients.push(client);
    }
    proxy.delay(DELAY);
    dying.kill().await;
    let leases = cluster.key("{nodes}:leases");
    let left = async || redis.run::<u64>(&["ZCARD", &leases]).await;
    eventually("the dead one is buried", GONE_MAX * 3, async || left().await == 2).await;
    proxy.delay(Duration::ZERO);
    survivors[0].reaches(&survivors[1], "x").await;
    for (observer, node) in observers.iter().zip(&survivors) {
        observer.sees(&names(&["one", "two"]), BACK_MAX).await;
        for user in ["one", "two"] {
            assert_eq!(observer.news_of(user).1, 0, "{user} has not been away");
        }
        assert!(!node.log().contains("took this one for dead"), "{}", node.log());
    }
}

pub async fn a_node_without_subscribers_stops_listening_after_a_while() {
    /// So long a node may wait whether somebody comes back, the time included until it looks again.
    const LINGERING_MAX: Duration = Duration::from_secs(45);
    let redis = TestRedis::start().await;
    let cluster = Cluster::on(&redis);
    let [node, other] = cluster.nodes().await;
    let topics = ["news", ROOM].map(|channel| cluster.topic(channel));
    let mut clients = [node.subscribed("news").await, node.member(ROOM, "ada").await];
    let listening = async || {
        let mut numbers = Vec::new();
        for topic in &topics {
            numbers.push(redis.run::<(String, u64)>(&["PUBSUB", "NUMSUB", topic]).await.1);
        }
        numbers
    };
    assert_eq!(listening().await, [1, 1]);
    clients[0].unsubscribe("news").await;
    clients[1].unsubscribe(ROOM).await;
    eventually("nobody listens", LINGERING_MAX, async || listening().await == [0, 0]).await;
    // Whoever comes then hears everything again.
    clients[0].subscribe("news").await;
    other.api().publish("news", "e", "1").await;
    clients[0].next_event("e").await;
}

/// It waits for a node that was there before the link was lost, and will not come back.
pub async fn a_node_that_stops_while_it_waits_for_others_sends_what_it_has_accepted() {
    const EVENTS: usize = 5;
    let mut bus = TestBus::start().await;
    let [dying, stopping, here] = Cluster::on(&bus).nodes().await;
    let mut reader = here.subscribed("news").await;
    dying.kill().await;
    bus.kill();
    for node in [&stopping, &here] {
        node.bus_is(false, NOTICED_MAX).await;
    }
    bus.restart().await;
    for node in [&stopping, &here] {
        node.bus_is(true, BACK_MAX).await;
    }
    for number in 0..EVENTS {
        stopping.api().publish("news", "e", &number.to_string()).await;
    }
    stopping.stop().await;
    for number in 0..EVENTS {
        assert_eq!(reader.next_event("e").await, number);
    }
}
