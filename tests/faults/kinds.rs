//! Redis in its other forms: slots on several servers, and Sentinels.

use std::time::Instant;

use serde_json::json;

use crate::node::BACK_MAX;
use crate::node::Cluster;
use crate::node::Node;
use crate::node::eventually;
use crate::redis_server::TestRedis;
use crate::traffic::NUMBERS;
use crate::traffic::Room;
use crate::traffic::Traffic;
use crate::traffic::together_again;

/// Longer than it takes to find another master.
const BUFFER_SECONDS: &str = "60";

/// Events that may be on their way while a slot moves: 5 ms each, on a machine with many other things to do.
const ON_ITS_WAY: u64 = 40;

pub async fn nodes_are_one_over_a_redis_cluster_even_while_a_slot_moves() {
    const CHANNELS: usize = 30;
    let servers = TestRedis::start_slots(3).await;
    let addresses: Vec<String> = servers[..2].iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let cluster = Cluster::on(&servers[0]).with("GEMA_REDIS_CLUSTER_NODES", &addresses.join(","));
    let nodes: [Node; 2] = cluster.nodes().await;
    // So many that each server has some of them.
    for number in 0..CHANNELS {
        nodes[number % 2].reaches(&nodes[1 - number % 2], &format!("news-{number}")).await;
    }
    let mut clients = [nodes[0].connect().await, nodes[1].connect().await];
    for client in &mut clients {
        client.sign_in(&json!({ "id": "7" })).await;
    }
    nodes[0].api().publish("cache-x", "e", "1").await;
    eventually("what is remembered is remembered everywhere", BACK_MAX, async || {
        let facts = nodes[1].api().get("/channels/cache-x", &[("info", "cache")]).await.ok();
        facts["cache"]["data"] == "1"
    })
    .await;
    nodes[0].api().post("/users/7/terminate_connections", "{}").await.ok();
    for client in &mut clients {
        assert_eq!(client.next_close().await.0, 4009);
    }

    let mut room = Room::start(&nodes).await;
    room.changes(&nodes).await;
    room.is_right(&nodes).await;
    let traffic = Traffic::start(&nodes).await;
    let began = traffic.at().map(|number| number.saturating_sub(ON_ITS_WAY));
    let topic = cluster.topic(NUMBERS);
    let owner = move_slot(&servers, &topic).await;
    let listening = ["PUBSUB", "SHARDNUMSUB", &topic];
    eventually("both nodes listen to the new owner of the slot", BACK_MAX, async || {
        owner.run::<(String, u64)>(&listening).await.1 == 2
    })
    .await;
    together_again(&nodes).await;
    traffic.reaches_both(&nodes).await;
    let ended = traffic.at();
    traffic.arrives_but([began[0]..ended[0], began[1]..ended[1]]).await;
    room.is_right(&nodes).await;
}

/// Has the slot of this topic, in which there are no keys, served by another server; returns that one.
async fn move_slot<'a>(servers: &'a [TestRedis], topic: &str) -> &'a TestRedis {
    let slot = servers[0].run::<u64>(&["CLUSTER", "KEYSLOT", topic]).await.to_string();
    let mut ids = Vec::new();
    let mut owner = None;
    for (index, server) in servers.iter().enumerate() {
        ids.push(server.run::<String>(&["CLUSTER", "MYID"]).await);
        // The others answer that it is not theirs.
        if server.try_run::<u64>(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await.is_ok()
            && server.try_run::<u64>(&["SPUBLISH", topic, ""]).await.is_ok()
        {
            owner = Some(index);
        }
    }
    let from = owner.expect("somebody serves the slot");
    let to = (from + 1) % servers.len();
    servers[to].run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]).await;
    servers[from].run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]).await;
    for server in [to, from] {
        servers[server].run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]).await;
    }
    &servers[to]
}

pub async fn nodes_follow_when_sentinels_name_another_master() {
    let mut master = TestRedis::start().await;
    let replica = TestRedis::start_replica(master.port()).await;
    replica.says(&["INFO", "replication"], &["master_link_status:up"]).await;
    let sentinel = TestRedis::start_sentinel(master.port()).await;
    sentinel.says(&["INFO", "sentinel"], &["status=ok", "slaves=1"]).await;
    let cluster = Cluster::on(&master).with("GEMA_CLUSTER_BUFFER_SECONDS", BUFFER_SECONDS);
    let nodes: [Node; 2] =
        cluster.with("GEMA_REDIS_SENTINELS", &format!("127.0.0.1:{}", sentinel.port())).nodes().await;
    let traffic = Traffic::start(&nodes).await;
    let mut room = Room::start(&nodes).await;
    master.kill();
    for node in &nodes {
        node.redis_is(false, BACK_MAX).await;
    }
    room.changes(&nodes).await;
    replica.says(&["INFO", "replication"], &["role:master"]).await;
    let promoted = Instant::now();
    for node in &nodes {
        node.redis_is(true, BACK_MAX).await;
    }
    println!("back {:?} after Redis has another master", promoted.elapsed());
    room.is_right(&nodes).await;
    together_again(&nodes).await;
    assert_eq!(traffic.arrives().await, 0, "the buffer was not full");
}
