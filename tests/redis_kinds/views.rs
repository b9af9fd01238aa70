//! Group views where nodes do not meet in one Redis that lets them listen to whatever they like.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::node::Cluster;
use support::node::Node;
use support::node::eventually;
use support::redis_kinds::RedisCluster;
use support::redis_kinds::Server;
use support::redis_server::TestRedis;
use support::server::APP_ID;

use crate::told;

const GROUP: &str = "private-gudang.A";

fn grant(patterns: &[String]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({ "grant": patterns, "exp": now + 3600 }).to_string()
}

async fn viewer(node: &Node, patterns: &[String]) -> Client {
    let mut client = node.connect().await;
    client.send_subscribe(GROUP, Some(&grant(patterns))).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    client
}

/// The next event must be seen in the view.
async fn sees(viewer: &mut Client, data: &str) {
    let event = format!(r#"{{"event":"e","data":"{data}","channel":"{GROUP}"}}"#);
    assert_eq!(viewer.next_text().await, event);
}

#[tokio::test]
async fn over_a_redis_cluster_named_channels_are_seen() {
    let redis = RedisCluster::start();
    let cluster = Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_CLUSTER_NODES", &redis.nodes());
    let nodes: [Node; 2] = cluster.nodes().await;
    let clinics: Vec<String> = (0..12).map(|number| format!("stok.K{number}")).collect();
    let mut viewers = [viewer(&nodes[0], &clinics).await, viewer(&nodes[1], &clinics).await];
    let mut number = 0;
    let mut publish_everywhere = async |viewers: &mut [Client; 2], channel: &str| {
        for node in &nodes {
            number += 1;
            node.api().publish(channel, "e", &number.to_string()).await;
            for viewer in viewers.iter_mut() {
                sees(viewer, &number.to_string()).await;
            }
        }
    };
    for clinic in &clinics {
        publish_everywhere(&mut viewers, clinic).await;
    }
    for kind in ["private-", "presence-", "cache-", "private-cache-", "presence-cache-"] {
        publish_everywhere(&mut viewers, &format!("{kind}{}", clinics[0])).await;
    }
    // Channels come and go, and the views stay.
    let mut clinic = nodes[0].subscribed(&clinics[1]).await;
    publish_everywhere(&mut viewers, &clinics[1]).await;
    clinic.unsubscribe(&clinics[1]).await;
    let listeners = async || {
        let topic = cluster.topic(&clinics[1]);
        let owner = redis.slot_of(&topic).1;
        redis.masters[owner].cli(&["PUBSUB", "SHARDNUMSUB", &topic]).lines().last().unwrap().to_owned()
    };
    eventually("the node listens for its view only", PATIENCE, async || listeners().await == "2").await;
    publish_everywhere(&mut viewers, &clinics[1]).await;

    let (slot, owner) = redis.slot_of(&cluster.topic(&clinics[2]));
    let connects = async |node: &Node| node.figures().await.sum("gema_redis_connects_total", "");
    let before = [connects(&nodes[0]).await, connects(&nodes[1]).await];
    redis.move_slot(slot, owner, (owner + 1) % 3);
    for (node, before) in nodes.iter().zip(before) {
        eventually("the node has noticed", PATIENCE, async || connects(node).await > before).await;
    }
    publish_everywhere(&mut viewers, &clinics[2]).await;

    let [mut viewer, _] = viewers;
    viewer.unsubscribe(GROUP).await;
    viewer.send_subscribe(GROUP, Some(&grant(&["stok.*".to_owned()]))).await;
    let message = "channel_data.grant has a pattern stok.*, but over a Redis Cluster a star cannot be heard; name each channel, or let the nodes meet in one Redis or behind Sentinels";
    viewer.next_refusal(GROUP, "AuthError", 401, message).await;
    eventually("the node does not listen any more", PATIENCE, async || listeners().await == "1").await;
}

/// A Redis whose only user may listen to what these patterns of an ACL allow, and two nodes that meet there.
async fn with_rights(channels: impl Fn(&str) -> String) -> (Server, [Node; 2]) {
    let cluster = Cluster::on(&TestRedis::absent(""));
    let everything = cluster.topic("").replace(&format!("{{{APP_ID}:}}"), "*");
    let channels = channels(&everything);
    let user = format!("user gema on >hush ~* {channels} +@connection +@pubsub +@scripting +@read +@write +time");
    let redis = Server::start(&["user default off", &user]);
    let nodes = cluster.with("GEMA_REDIS_URL", &format!("redis://gema:hush@{}", redis.address())).nodes().await;
    (redis, nodes)
}

#[tokio::test]
async fn a_user_of_redis_who_may_listen_to_this_cluster_only_is_enough_for_views() {
    let (_redis, nodes) = with_rights(|everything| format!("&{everything}")).await;
    let mut viewers = [
        viewer(&nodes[0], &["stok.*".to_owned(), "stok.1".to_owned()]).await,
        viewer(&nodes[0], &["*.1".to_owned()]).await,
    ];
    for data in ["1", "2"] {
        nodes[1].api().publish("private-stok.1", "e", data).await;
        nodes[1].api().publish("harga", "e", data).await;
        for viewer in &mut viewers {
            sees(viewer, data).await;
        }
    }
    let log = nodes[0].log() + &nodes[1].log();
    assert!(!log.contains("NOPERM") && !log.contains("the link to Redis is lost"), "{log}");
}

#[tokio::test]
async fn a_user_of_redis_with_other_rights_is_told_of_and_views_see_their_node() {
    let (_redis, nodes) = with_rights(|_| "&test-*".to_owned()).await;
    let mut viewer = viewer(&nodes[0], &["stok.*".to_owned()]).await;
    told(&nodes[0], "views see what is published on this node only", "to the letter").await;
    nodes[0].api().publish("stok.1", "e", "1").await;
    sees(&mut viewer, "1").await;
    nodes[0].reaches(&nodes[1], "orders").await;
    assert!(!nodes[0].log().contains("the link to Redis is lost"), "{}", nodes[0].log());
}
