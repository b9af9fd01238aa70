//! Webhooks while nodes and Redis fail.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::eventually;
use support::node::outlast;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Receiver;
use support::redis_server::TestRedis;

use crate::full;
use crate::traffic::ROOM;

fn cluster(redis: &TestRedis, receiver: &Receiver) -> Cluster {
    let webhooks = json!([{ "url": format!("http://{}/", receiver.address), "event_types": ALL }]);
    Cluster::on(redis)
        .with("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks.to_string())
        .with("GEMA_WEBHOOKS_LEAVE_DELAY_SECONDS", "0")
}

fn of(name: &str, channel: &str) -> Value {
    json!({ "name": name, "channel": channel })
}

fn member(name: &str, user_id: &str) -> Value {
    json!({ "name": name, "channel": ROOM, "user_id": user_id })
}

/// The next events must be these, in any order.
async fn next(receiver: &mut Receiver, mut expected: Vec<Value>) {
    while !expected.is_empty() {
        let event = receiver.next_event().await;
        let place = expected.iter().position(|other| *other == event);
        expected.swap_remove(place.unwrap_or_else(|| panic!("{event} is none of {expected:?}")));
    }
}

pub async fn what_only_a_killed_node_had_is_told_to_have_ended_once() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let [dying, here, there] = cluster(&redis, &receiver).nodes().await;
    let _clients = [dying.subscribed("news").await, here.subscribed("news").await, dying.subscribed("only").await];
    let _members = [dying.member(ROOM, "7").await, dying.member(ROOM, "8").await, there.member(ROOM, "8").await];
    let mut came = vec![of("channel_occupied", "news"), of("channel_occupied", "only"), of("channel_occupied", ROOM)];
    came.extend([member("member_added", "7"), member("member_added", "8")]);
    next(&mut receiver, came).await;
    dying.kill().await;
    next(&mut receiver, vec![of("channel_vacated", "only"), member("member_removed", "7")]).await;
    let _last = here.subscribed("last").await;
    next(&mut receiver, vec![of("channel_occupied", "last")]).await;
    assert!(receiver.rest().is_empty());
}

pub async fn without_redis_each_node_decides_by_itself_and_nothing_is_told_twice_when_it_is_back() {
    let mut redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let cluster = cluster(&redis, &receiver);
    let [here, there] = cluster.nodes().await;
    let before = here.subscribed("before").await;
    next(&mut receiver, vec![of("channel_occupied", "before")]).await;
    redis.kill();
    let clients = [here.subscribed("news").await, there.subscribed("news").await];
    next(&mut receiver, vec![of("channel_occupied", "news"), of("channel_occupied", "news")]).await;
    redis.restart().await;
    let leases = cluster.key("{webhooks}:leases");
    eventually("both nodes are back", BACK_MAX, async || redis.run::<u64>(&["ZCARD", &leases]).await == 2).await;
    let holders = cluster.key("{webhooks:app-id}:holders:news");
    eventually("both have said what they have", BACK_MAX, async || redis.run::<u64>(&["SCARD", &holders]).await == 2)
        .await;
    for client in clients.into_iter().chain([before]) {
        client.close().await;
    }
    next(&mut receiver, vec![of("channel_vacated", "news"), of("channel_vacated", "before")]).await;
    assert!(receiver.rest().is_empty());
}

pub async fn a_killed_node_loses_no_webhook_that_waits_in_redis() {
    const CHANNELS: usize = 300;
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start_with(&[], Answer::Status(503)).await;
    let cluster = cluster(&redis, &receiver).with("SOKETI_QUEUE_DRIVER", "redis");
    let [dying, _here] = cluster.nodes().await;
    let mut client = dying.connect().await;
    let mut expected = Vec::new();
    for number in 0..CHANNELS {
        let channel = format!("c-{number}");
        client.subscribe(&channel).await;
        expected.push(of("channel_occupied", &channel));
    }
    let stream = async || redis.run::<Vec<String>>(&["KEYS", "*:queue:*"]).await.pop();
    let length = async || match stream().await {
        Some(stream) => redis.run::<usize>(&["XLEN", &stream]).await,
        None => 0,
    };
    eventually("all of it waits in Redis", BACK_MAX, async || length().await == CHANNELS).await;
    dying.kill().await;
    receiver.rest();
    receiver.answer(Answer::Status(200));
    // At least once, and in order; then that what the node had has ended.
    let mut came: Vec<Value> = Vec::new();
    let mut ended = 0;
    while ended < CHANNELS {
        let event = receiver.next_event().await;
        match event["name"] == "channel_vacated" {
            true => ended += 1,
            false if !came.contains(&event) => came.push(event),
            false => (),
        }
    }
    assert_eq!(came, expected);
}

// G-278, G-280
pub async fn who_goes_to_another_node_while_one_is_stopped_was_never_gone() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let cluster = cluster(&redis, &receiver).with("GEMA_WEBHOOKS_LEAVE_DELAY_SECONDS", "15");
    let [leaving, staying] = cluster.nodes().await;
    let _clients = [leaving.member(ROOM, "7").await, leaving.subscribed("only").await];
    let came = [of("channel_occupied", ROOM), member("member_added", "7"), of("channel_occupied", "only")];
    next(&mut receiver, came.into()).await;
    leaving.stop().await;
    let _back = staying.member(ROOM, "7").await;
    next(&mut receiver, vec![of("channel_vacated", "only")]).await;
    let _last = staying.subscribed("last").await;
    next(&mut receiver, vec![of("channel_occupied", "last")]).await;
    assert!(receiver.rest().is_empty());
}

pub async fn a_node_that_was_taken_for_dead_tells_what_it_still_has() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let cluster = cluster(&redis, &receiver);
    let [sleeping, awake] = cluster.nodes().await;
    let _clients = [sleeping.subscribed("only").await, awake.subscribed("both").await];
    next(&mut receiver, vec![of("channel_occupied", "only"), of("channel_occupied", "both")]).await;
    let _other = sleeping.subscribed("both").await;
    // A node decides by itself what it has not asked Redis for.
    let holders = cluster.key("{webhooks:app-id}:holders:both");
    eventually("both nodes have it", BACK_MAX, async || redis.run::<u64>(&["SCARD", &holders]).await == 2).await;
    sleeping.pause();
    next(&mut receiver, vec![of("channel_vacated", "only")]).await;
    sleeping.resume();
    next(&mut receiver, vec![of("channel_occupied", "only")]).await;
    let _last = sleeping.subscribed("last").await;
    next(&mut receiver, vec![of("channel_occupied", "last")]).await;
    assert!(receiver.rest().is_empty());
}

pub async fn nodes_that_could_not_renew_their_leases_tell_nothing_twice() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start().await;
    let cluster = cluster(&redis, &receiver);
    let [here, there] = cluster.nodes().await;
    let _clients = [here.member(ROOM, "7").await, there.subscribed("news").await];
    let came = [of("channel_occupied", ROOM), member("member_added", "7"), of("channel_occupied", "news")];
    next(&mut receiver, came.into()).await;
    full::fill(&redis).await;
    outlast(Instant::now(), full::LONG).await;
    full::relieve(&redis).await;
    full::live(&redis, &cluster.key("{webhooks}:leases"), 2).await;
    let _last = [here.subscribed("last-here").await, there.subscribed("last-there").await];
    next(&mut receiver, vec![of("channel_occupied", "last-here"), of("channel_occupied", "last-there")]).await;
    assert!(receiver.rest().is_empty());
}

// G-302
pub async fn a_node_that_slept_takes_no_endpoint_back() {
    let redis = TestRedis::start().await;
    let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
    let cluster = cluster(&redis, &receiver).with("SOKETI_QUEUE_DRIVER", "redis").with("GEMA_CLUSTER_DRIVER", "local");
    let owner = async || match redis.run::<Vec<String>>(&["KEYS", "*:owner:*"]).await.pop() {
        Some(key) => redis.run::<Option<String>>(&["GET", &key]).await,
        None => None,
    };
    let sleeping = cluster.node().await;
    let mut client = sleeping.subscribed("room").await;
    assert_eq!(receiver.next().await.events(), [of("channel_occupied", "room")]);
    let first = owner().await;
    let _awake = cluster.node().await;
    sleeping.pause();
    eventually("the other node takes over", GONE_MAX, async || owner().await.is_some_and(|now| Some(now) != first))
        .await;
    receiver.rest();
    let body = receiver.next().await.body;
    let second = owner().await;
    sleeping.resume();
    client.unsubscribe("room").await;
    // Each node would make a body of its own.
    for _ in 0..3 {
        assert_eq!(receiver.next().await.body, body);
        assert_eq!(owner().await, second);
    }
    receiver.answer(Answer::Status(200));
    let mut again = receiver.next().await;
    while again.body == body && again.events() == [of("channel_occupied", "room")] {
        again = receiver.next().await;
    }
    assert_eq!(again.events(), [of("channel_vacated", "room")]);
    assert!(receiver.rest().is_empty());
}
