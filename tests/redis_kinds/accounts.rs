//! Sockets, users, passwords and databases, and servers that cannot do what is needed.

use support::client::PATIENCE;
use support::node::Cluster;
use support::node::Node;
use support::node::eventually;
use support::redis_kinds::RedisCluster;
use support::redis_kinds::Server;
use support::redis_server::TestRedis;

use crate::told;

fn at(url: &str) -> Cluster {
    Cluster::on(&TestRedis::absent("")).with("GEMA_REDIS_URL", url)
}

async fn is_refused(url: &str, says: &str) {
    let node = at(url).node().await;
    told(&node, "there is no link to Redis", says).await;
    node.serves_locally("orders").await;
    assert!(!node.log().contains("hush"), "{}", node.log());
}

#[tokio::test]
async fn nodes_meet_at_a_unix_socket() {
    let folder = std::env::temp_dir().join(format!("gema-socket-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("redis.sock");
    let _redis = Server::start(&[&format!("unixsocket {}", socket.display()), "requirepass hush"]);
    for scheme in ["unix", "redis+unix"] {
        let nodes: [Node; 2] = at(&format!("{scheme}://{}?pass=hush&db=2", socket.display())).nodes().await;
        nodes[0].reaches(&nodes[1], "orders").await;
    }
    is_refused(&format!("unix://{}?pass=hush-wrong", socket.display()), "WRONGPASS").await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_socket_takes_password_and_database_from_where_they_are_said() {
    let folder = std::env::temp_dir().join(format!("gema-path-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("redis.sock");
    let password = "h&u s+h%";
    let lines = [&format!("unixsocket {}", socket.display()), &format!("requirepass \"{password}\"")];
    let redis = Server::start(&lines.map(String::as_str));
    let at = at(&format!("unix://{}", socket.display()));
    let nodes: [Node; 2] = at.with("SOKETI_DB_REDIS_PASSWORD", password).with("SOKETI_DB_REDIS_DB", "2").nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
    let _ada = nodes[0].member("presence-room", "ada").await;
    assert_eq!(nodes[1].users("presence-room").await, ["ada"]);
    let keys = redis.cli(&["-a", password, "INFO", "keyspace"]);
    assert!(keys.contains("db2:") && !keys.contains("db0:"), "{keys}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_user_of_redis_with_what_is_needed_is_enough() {
    let redis = Server::start(&[
        "user default off",
        "user gema on >hush%: ~gema-keys:* &gema-keys:* +@connection +@pubsub +@scripting +@read +@write +time",
    ]);
    let url = format!("redis://gema:hush%25%3A@{}/3", redis.address());
    let nodes: [Node; 2] = at(&url).with("GEMA_REDIS_KEY_PREFIX", "gema-keys:").nodes().await;
    nodes[0].reaches(&nodes[1], "orders").await;
    nodes[1].api().publish("cache-orders", "e", "1").await;
    eventually("an event is remembered", PATIENCE, async || {
        nodes[0].api().get("/channels/cache-orders", &[("info", "cache")]).await.ok()["cache"]["data"] == "1"
    })
    .await;
    let _ada = nodes[0].member("presence-room", "ada").await;
    assert_eq!(nodes[1].users("presence-room").await, ["ada"]);
    let log = nodes[0].log() + &nodes[1].log();
    assert!(!log.contains("hush") && !log.contains("NOPERM"), "{log}");
}

#[tokio::test]
async fn links_that_do_not_open_leave_no_connection_behind() {
    const TRIES: u32 = 5;
    // The last step before a link is open needs DEL.
    let redis = Server::start(&["user gema on >hush ~* &* +@all -del"]);
    let node = at(&format!("redis://gema:hush@{}", redis.address())).node().await;
    eventually("the node has tried some times", PATIENCE, async || {
        let refused = redis.cli(&["ACL", "LOG"]);
        let count = refused.split_once("count\n").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        count.is_some_and(|count: u32| count >= TRIES)
    })
    .await;
    let clients = redis.cli(&["CLIENT", "LIST"]);
    let own = clients.lines().filter(|line| line.contains("user=gema")).count();
    assert!(own <= 2, "{own} connections: {clients}{}", node.log());
}

#[tokio::test]
async fn a_user_who_may_not_is_told_of() {
    let redis =
        Server::start(&["user deaf on >hush ~* +@all resetchannels", "user weak on >hush ~* &* -@all +@connection"]);
    for user in ["deaf", "weak"] {
        is_refused(&format!("redis://{user}:hush@{}", redis.address()), "this user has no permissions to").await;
    }
    is_refused(&format!("redis://nobody:hush@{}", redis.address()), "WRONGPASS").await;
}

#[tokio::test]
async fn laravels_events_need_few_rights_and_say_which() {
    let redis = Server::start(&[
        "user ears on >hush ~x &laravel_* -@all +@connection +@pubsub",
        "user deaf on >hush ~x resetchannels -@all +@connection +@pubsub",
    ]);
    let alone = |user: &str| {
        at(&format!("redis://{user}:hush@{}", redis.address()))
            .with("GEMA_CLUSTER_DRIVER", "local")
            .with("GEMA_INGEST_PREFIXES", "laravel_=app-id")
    };
    let node = alone("ears").node().await;
    let mut client = node.subscribed("orders").await;
    redis.cli(&["PUBLISH", "laravel_orders", r#"{"event":"e","data":"1"}"#]);
    assert_eq!(client.next_event("e").await, 1);
    let node = alone("deaf").node().await;
    told(&node, "Laravel's redis broadcaster cannot be listened to", "must allow &PREFIX* for each prefix").await;
    node.serves_locally("orders").await;
}

#[tokio::test]
async fn a_redis_that_asks_for_a_password_is_told_of() {
    let redis = Server::start(&["requirepass hush"]);
    is_refused(&format!("redis://{}", redis.address()), "NOAUTH").await;
    is_refused(&format!("redis://:hush-wrong@{}", redis.address()), "WRONGPASS").await;
}

#[tokio::test]
async fn a_redis_before_version_6_is_told_of() {
    let redis = Server::start(&["rename-command HELLO \"\""]);
    is_refused(&format!("redis://{}", redis.address()), "Redis must be version 6.0 or later").await;
}

#[tokio::test]
async fn a_redis_cluster_before_version_7_is_told_of() {
    let redis = RedisCluster::lone(&["rename-command SSUBSCRIBE \"\""], "");
    let node = at("").with("GEMA_REDIS_CLUSTER_NODES", &redis.address()).node().await;
    told(&node, "there is no link to Redis", "a Redis Cluster must be version 7.0 or later").await;
    node.serves_locally("orders").await;
}

#[tokio::test]
async fn a_redis_alone_is_no_redis_cluster() {
    let redis = Server::start(&[]);
    let node = at("").with("GEMA_REDIS_CLUSTER_NODES", &redis.address()).node().await;
    told(&node, "there is no link to Redis", "cluster support disabled").await;
    node.serves_locally("orders").await;
}

#[tokio::test]
async fn a_lone_node_of_a_redis_cluster_is_told_of() {
    let redis = RedisCluster::start();
    for master in &redis.masters {
        let node = at(&format!("redis://{}", master.address())).node().await;
        // One master may have all that a link needs, but none has all channels.
        for channel in ["one", "two", "three", "four", "presence-one", "presence-two", "presence-three"] {
            if channel.starts_with("presence-") {
                node.member(channel, "ada").await;
            } else {
                node.serves_locally(channel).await;
            }
        }
        told(&node, "", "name it in redis.cluster_nodes").await;
    }
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_told_of() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    is_refused(&format!("redis://:hush@{address}"), "").await;
}
