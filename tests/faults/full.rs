//! Redis is out of memory: it tells what is published, and refuses what is written.

use crate::node::BACK_MAX;
use crate::node::Cluster;
use crate::node::GONE_MAX;
use crate::node::know_each_other;
use crate::observer::Observer;
use crate::redis_server::TestRedis;
use crate::traffic::ROOM;
use crate::traffic::names;

async fn fill(redis: &TestRedis) {
    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
}

async fn relieve(redis: &TestRedis) {
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

pub async fn a_node_that_stops_meanwhile_leaves_nobody_behind() {
    let redis = TestRedis::start().await;
    let [stopping, staying] = Cluster::on(&redis).nodes().await;
    let observer = Observer::start(&staying, ROOM, "here").await;
    let _members = [stopping.member(ROOM, "ada").await, stopping.member(ROOM, "bob").await];
    observer.sees(&names(&["here", "ada", "bob"]), BACK_MAX).await;
    fill(&redis).await;
    stopping.stop().await;
    relieve(&redis).await;
    observer.sees(&names(&["here"]), GONE_MAX).await;
    know_each_other([&staying]).await;
    assert_eq!(staying.users(ROOM).await, ["here"]);
}
