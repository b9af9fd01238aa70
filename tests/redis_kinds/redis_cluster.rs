//! Two nodes on a Redis Cluster, with slots that move and masters that die.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use gema::config::ClusterDriver;
use serde_json::json;
use support::attempts::in_time;
use support::client::PATIENCE;
use support::node::Cluster;
use support::node::Node;
use support::node::becomes;
use support::node::eventually;
use support::observer::Observer;
use support::receiver::ALL;
use support::receiver::Receiver;
use support::redis_kinds::RedisCluster;
use support::redis_server::TestRedis;
use support::redis_server::cluster_name;
use support::sequence::Publisher;
use support::server::APP_ID;
use support::server::TestServer;

use crate::told;

const ROOM: &str = "presence-room";
/// Between two events of a publisher.
const PAUSE: Duration = Duration::from_millis(5);
/// Until nodes have found a slot or a master in its new place.
const FOUND_MAX: Duration = Duration::from_secs(15);

fn on(redis: &RedisCluster) -> Cluster {
    Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_CLUSTER_NODES", &redis.nodes())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Where the nodes talk to each other.
fn control(cluster: &Cluster) -> String {
    let topic = cluster.topic("any");
    format!("{}:nodes", topic.split(":{").next().unwrap())
}

/// Channels of this kind, some on each master.
fn on_each_master(redis: &RedisCluster, cluster: &Cluster, kind: &str) -> Vec<String> {
    let channels: Vec<String> = (0..12).map(|number| format!("{kind}{number}")).collect();
    let owners: BTreeSet<usize> = channels.iter().map(|name| redis.slot_of(&cluster.topic(name)).1).collect();
    assert_eq!(owners.len(), 3);
    channels
}

#[tokio::test]
async fn two_nodes_on_a_redis_cluster_are_one_server() {
    let redis = RedisCluster::start();
    let cluster = on(&redis);
    let nodes: [Node; 2] = cluster.nodes().await;

    for channel in on_each_master(&redis, &cluster, "orders") {
        let mut clients = [nodes[0].subscribed(&channel).await, nodes[1].subscribed(&channel).await];
        for (node, data) in nodes.iter().zip(["1", "2"]) {
            node.api().publish(&channel, "e", data).await;
            for client in &mut clients {
                assert_eq!(client.next_event("e").await, data.parse::<i64>().unwrap());
            }
        }
        for node in &nodes {
            assert_eq!(node.subscriptions(&channel).await, 2);
        }
    }

    for channel in on_each_master(&redis, &cluster, "presence-") {
        let mut ada = nodes[0].member(&channel, "ada").await;
        let mut bob = nodes[1].connect().await;
        assert_eq!(bob.join(&channel, "bob").await["ids"], json!(["ada", "bob"]));
        assert_eq!(ada.next_event("pusher_internal:member_added").await["user_id"], "bob");
        for node in &nodes {
            assert_eq!(node.users(&channel).await, ["ada", "bob"]);
        }
        bob.close().await;
        assert_eq!(ada.next_event("pusher_internal:member_removed").await["user_id"], "bob");
    }

    for channel in on_each_master(&redis, &cluster, "cache-") {
        nodes[0].api().publish(&channel, "e", "7").await;
        eventually("an event is remembered", PATIENCE, async || {
            let answer = nodes[1].api().get(&format!("/channels/{channel}"), &[("info", "cache")]).await.ok();
            answer["cache"]["data"] == "7"
        })
        .await;
        assert_eq!(nodes[1].subscribed(&channel).await.next_event("e").await, 7);
    }
    let log = nodes[0].log() + &nodes[1].log();
    let warnings: Vec<&str> = log.lines().filter(|line| !line.contains("has no effect")).collect();
    assert!(!warnings.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{warnings:#?}");
}

#[tokio::test]
async fn a_snapshot_that_no_rule_keeps_any_more_goes_from_a_redis_cluster() {
    let redis = RedisCluster::start();
    let name = cluster_name();
    let mut server = TestServer::start_single_with(|config| {
        config.cluster.driver = ClusterDriver::Redis;
        config.cluster.name.clone_from(&name);
        config.redis.cluster_nodes = redis.nodes().split(',').map(str::to_owned).collect();
        let rule = json!({ "match": "scada-*", "snapshot": { "max_age_seconds": 600, "key": "sensor" } });
        config.limits.flow_rules = serde_json::from_value(json!([rule])).unwrap();
    })
    .await;
    server.api().publish("scada-a", "reading", r#"{"sensor":"a"}"#).await;
    let key = format!("{name}:{{{APP_ID}:scada-a}}:last_events");
    let master = &redis.masters[redis.slot_of(&key).1];
    let both = async || master.cli(&["EXISTS", &key, &format!("{key}:times")]).trim().to_owned();
    becomes("the event is stored", PATIENCE, &both, "2".to_owned()).await;
    server.reload(|config| config.limits.flow_rules = Vec::new()).await;
    becomes("the snapshot is gone", PATIENCE, &both, "0".to_owned()).await;
}

#[tokio::test]
async fn who_joins_on_the_other_node_gets_the_snapshot_from_a_redis_cluster() {
    let redis = RedisCluster::start();
    let rules = json!([{
        "match": "scada-*", "snapshot": { "max_age_seconds": 600 },
        "conflate": { "key": "sensor", "window_ms": 3_600_000 }
    }]);
    let cluster = on(&redis).with("GEMA_LIMITS_FLOW_RULES", &rules.to_string());
    let nodes: [Node; 2] = cluster.nodes().await;
    for channel in on_each_master(&redis, &cluster, "scada-") {
        for sensor in ["a", "b"] {
            nodes[0].api().publish(&channel, "reading", &json!({ "sensor": sensor }).to_string()).await;
        }
        let key = format!("{}:last_events", cluster.topic(&channel));
        let master = &redis.masters[redis.slot_of(&key).1];
        eventually("both events are stored", PATIENCE, async || master.cli(&["HLEN", &key]).trim() == "2").await;
        let left: i64 = master.cli(&["TTL", &key]).trim().parse().unwrap();
        assert!((1..=600).contains(&left), "{left}");
        let mut page = nodes[1].subscribed(&channel).await;
        let mut sensors = [page.next_event("reading").await, page.next_event("reading").await];
        sensors.sort_unstable_by_key(|data| data.to_string());
        assert_eq!(sensors, [json!({ "sensor": "a" }), json!({ "sensor": "b" })]);
        nodes[0].api().publish(&channel, "reading", r#"{"sensor":"c"}"#).await;
        assert_eq!(page.next_event("reading").await["sensor"], "c");
    }
}

#[tokio::test]
async fn webhooks_are_told_once_by_way_of_a_redis_cluster() {
    let redis = RedisCluster::start();
    let mut receiver = Receiver::start().await;
    let webhooks = json!([{ "url": format!("http://{}/", receiver.address), "event_types": ALL }]);
    let cluster = on(&redis)
        .with("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks.to_string())
        .with("SOKETI_QUEUE_DRIVER", "redis")
        .with("GEMA_WEBHOOKS_LEAVE_DELAY_SECONDS", "0");
    let nodes: [Node; 2] = cluster.nodes().await;
    let channels = on_each_master(&redis, &cluster, "presence-");
    let mut clients = Vec::new();
    for channel in &channels {
        for node in &nodes {
            clients.push(node.member(channel, "ada").await);
        }
    }
    for client in clients {
        client.close().await;
    }
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..4 * channels.len() {
        let event = receiver.next_event().await;
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        told.entry(text("channel")).or_default().push(text("name"));
    }
    assert_eq!(told.len(), channels.len());
    for names in told.values() {
        assert_eq!(names, &["channel_occupied", "member_added", "member_removed", "channel_vacated"]);
    }
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_limit_holds_for_the_nodes_of_a_redis_cluster_together() {
    // A node does not wait long for a Redis that is too slow.
    in_time(async |_| a_limit_holds_for_both().await).await;
}

async fn a_limit_holds_for_both() -> Result<(), String> {
    const LIMIT: f64 = 5.0;
    /// A slow machine asks so seldom that none may be refused.
    const REQUESTS_MAX: usize = 100;
    let redis = RedisCluster::start();
    let cluster = on(&redis).with("GEMA_LIMITER_DRIVER", "redis");
    let nodes: [Node; 2] = cluster.with("GEMA_LIMITS_MAX_READ_REQUESTS_PER_SECOND", &LIMIT.to_string()).nodes().await;
    let began = Instant::now();
    let mut accepted = 0.0;
    for node in nodes.iter().cycle().take(REQUESTS_MAX) {
        let answer = node.api().get("/channels/c", &[]).await;
        if answer.status == 429 {
            break;
        }
        answer.ok();
        accepted += 1.0;
    }
    let most = LIMIT * (1.0 + began.elapsed().as_secs_f64());
    for node in &nodes {
        let alone = node.figures().await.sum("gema_limiter_local_total", "");
        if alone > 0.0 {
            return Err(format!("{alone} requests were decided without Redis"));
        }
    }
    assert!(accepted <= most, "{accepted} of {most}");
    Ok(())
}

#[tokio::test]
async fn users_and_lists_span_the_nodes_of_a_redis_cluster() {
    let redis = RedisCluster::start();
    let nodes: [Node; 2] = on(&redis).nodes().await;
    let mut watcher = nodes[0].connect().await;
    watcher.sign_in(&json!({ "id": "watcher", "watchlist": ["ada"] })).await;
    watcher.next_event("pusher_internal:watchlist_events").await;
    let mut ada = nodes[1].connect().await;
    ada.sign_in(&json!({ "id": "ada" })).await;
    let online = json!({ "events": [{ "name": "online", "user_ids": ["ada"] }] });
    assert_eq!(watcher.next_event("pusher_internal:watchlist_events").await, online);

    ada.subscribe("#server-to-user-ada").await;
    nodes[0].api().publish("#server-to-user-ada", "e", "1").await;
    assert_eq!(ada.next_event("e").await, 1);

    let channels: Vec<String> = (0..10).map(|number| format!("list-{number}")).collect();
    let mut clients = Vec::new();
    for (number, channel) in channels.iter().enumerate() {
        clients.push(nodes[number % 2].subscribed(channel).await);
    }
    for node in &nodes {
        eventually("all channels are listed", PATIENCE, async || {
            let list = node.api().get("/channels", &[("filter_by_prefix", "list-")]).await.ok();
            list["channels"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>()
                == channels.iter().cloned().collect()
        })
        .await;
    }

    nodes[0].api().post("/users/ada/terminate_connections", "{}").await.ok();
    assert_eq!(ada.next_close().await.0, 4009);
    ada.ended().await;
    let offline = json!({ "events": [{ "name": "offline", "user_ids": ["ada"] }] });
    assert_eq!(watcher.next_event("pusher_internal:watchlist_events").await, offline);
}

#[tokio::test]
async fn a_soketi_on_the_same_redis_cluster_is_noticed() {
    let redis = RedisCluster::lone(&[], "");
    let _soketi = tokio::process::Command::new("redis-cli")
        .args(["-p", &redis.port.to_string(), "SUBSCRIBE", "redis-adapter#comms#req"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("somebody listens", PATIENCE, async || {
        redis.cli(&["PUBSUB", "CHANNELS"]).contains("redis-adapter#comms#req")
    })
    .await;
    let cluster = Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_CLUSTER_NODES", &redis.address());
    told(&cluster.node().await, "a Soketi server uses the same Redis and prefix", "").await;
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_topics_along_and_nothing_is_lost() {
    let redis = RedisCluster::start();
    let cluster = on(&redis);
    let nodes: [Node; 2] = cluster.nodes().await;
    let observers = [Observer::start(&nodes[0], ROOM, "ada").await, Observer::start(&nodes[1], ROOM, "bob").await];
    let members = names(&["ada", "bob"]);
    let listeners = [nodes[0].listener("numbers", 2).await, nodes[1].listener("numbers", 2).await];
    let flow = async |node: usize, source: &str| nodes[node].publisher("numbers", source).await.flow(PAUSE);
    let flows = [flow(0, "one").await, flow(1, "two").await];

    for topic in
        ["numbers", ROOM, "numbers"].map(|channel| cluster.topic(channel)).into_iter().chain([control(&cluster)])
    {
        let before = connects(&nodes).await;
        for flow in &flows {
            flow.goes_on(20).await;
        }
        let (slot, owner) = redis.slot_of(&topic);
        redis.move_slot(slot, owner, (owner + 1) % 3);
        eventually("both nodes have noticed", FOUND_MAX, async || {
            let now = connects(&nodes).await;
            now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
    }
    for flow in &flows {
        flow.goes_on(20).await;
    }
    let mut publishers: Vec<Publisher> = Vec::new();
    for flow in flows {
        let mut publisher = flow.stop().await;
        publisher.end().await;
        publishers.push(publisher);
    }
    for listener in listeners {
        let (_, heard) = listener.heard().await;
        heard.assert_exactly("one", &publishers[0].accepted);
        heard.assert_exactly("two", &publishers[1].accepted);
    }
    assert_eq!(publishers.iter().map(|publisher| publisher.refused.len()).sum::<usize>(), 0);

    let _eve = nodes[1].member(ROOM, "eve").await;
    let all = names(&["ada", "bob", "eve"]);
    for (observer, node) in observers.iter().zip(&nodes) {
        observer.sees(&all, FOUND_MAX).await;
        assert_eq!(node.users(ROOM).await, all);
        for member in &members {
            assert_eq!(observer.news_of(member).1, 0, "{member} was said to have gone");
        }
    }
}

#[tokio::test]
async fn a_slot_that_is_left_half_moved_holds_up_nobody_for_long() {
    let redis = RedisCluster::start();
    let cluster = on(&redis);
    let nodes: [Node; 2] = cluster.nodes().await;
    let (slot, from) = redis.slot_of(&cluster.topic(ROOM));
    let to = (from + 1) % 3;
    redis.begin_to_move(slot, from, to);
    let observers = [Observer::start(&nodes[0], ROOM, "ada").await, Observer::start(&nodes[1], ROOM, "bob").await];
    nodes[0].reaches(&nodes[1], "elsewhere").await;
    redis.finish_moving(slot, from, to);
    for observer in &observers {
        observer.sees(&names(&["ada", "bob"]), FOUND_MAX).await;
    }
    assert_eq!((observers[0].news_of("bob"), observers[1].news_of("ada")), ((1, 0), (1, 0)));
}

async fn connects(nodes: &[Node; 2]) -> [f64; 2] {
    let figure = async |node: &Node| node.figures().await.sum("gema_redis_connects_total", "");
    [figure(&nodes[0]).await, figure(&nodes[1]).await]
}

#[tokio::test]
async fn when_a_master_dies_the_nodes_follow_to_its_replica() {
    let redis = RedisCluster::with_replica();
    let cluster = on(&redis).with("GEMA_CLUSTER_BUFFER_SECONDS", "30");
    let nodes: [Node; 2] = cluster.nodes().await;
    let of_first = |kind: &str| {
        let mut channels = (0..).map(|number| format!("{kind}{number}"));
        channels.find(|name| redis.slot_of(&cluster.topic(name)).1 == 0).unwrap()
    };
    let (room, numbers) = (of_first("presence-"), of_first("numbers"));
    let observers = [Observer::start(&nodes[0], &room, "ada").await, Observer::start(&nodes[1], &room, "bob").await];
    let mut clients = [nodes[0].subscribed(&numbers).await, nodes[1].subscribed(&numbers).await];

    redis.masters[0].kill();
    for node in &nodes {
        node.bus_is(false, FOUND_MAX).await;
    }
    // What is here is served from here.
    nodes[0].api().publish(&numbers, "e", "1").await;
    assert_eq!(clients[0].next_event("e").await, 1);
    for node in &nodes {
        node.bus_is(true, FOUND_MAX).await;
    }
    assert_eq!(clients[1].next_event("e").await, 1);
    let _eve = nodes[1].member(&room, "eve").await;
    for (observer, node) in observers.iter().zip(&nodes) {
        observer.sees(&names(&["ada", "bob", "eve"]), FOUND_MAX).await;
        assert_eq!((observer.news_of("ada").1, observer.news_of("bob").1), (0, 0));
        assert_eq!(node.users(&room).await, ["ada", "bob", "eve"]);
    }
    nodes[0].api().publish(&numbers, "e", "2").await;
    for client in &mut clients {
        assert_eq!(client.next_event("e").await, 2);
    }
}

#[tokio::test]
async fn what_laravel_publishes_on_any_master_is_heard_once() {
    let redis = RedisCluster::start();
    let alone = on(&redis).with("GEMA_CLUSTER_DRIVER", "local").with("GEMA_INGEST_PREFIXES", "laravel_=app-id");
    let nodes = [alone.node().await, alone.node().await];
    let mut clients = [nodes[0].subscribed("orders").await, nodes[1].subscribed("orders").await];
    let mut hear = async |master: usize| {
        redis.masters[master].cli(&["PUBLISH", "laravel_orders", &format!(r#"{{"event":"e","data":"{master}"}}"#)]);
        for client in &mut clients {
            assert_eq!(client.next_event("e").await, json!(master));
        }
    };
    for master in 0..3 {
        hear(master).await;
    }
    // Whoever listened to the one that dies goes to another one.
    let listeners =
        |master: usize| redis.masters[master].cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).matches("psub=1").count();
    let dying = (0..3).find(|&master| listeners(master) > 0).unwrap();
    redis.masters[dying].kill();
    let others: Vec<usize> = (0..3).filter(|&master| master != dying).collect();
    eventually("both nodes listen to other masters", FOUND_MAX, async || {
        others.iter().map(|&master| listeners(master)).sum::<usize>() == 2
    })
    .await;
    for master in others {
        hear(master).await;
    }
}
