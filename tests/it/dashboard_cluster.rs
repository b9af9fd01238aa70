//! The operator's page of several nodes over Redis.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use support::client::PATIENCE;
use support::node::Cluster;
use support::process::Process;
use support::redis_server::TestRedis;

use crate::dashboard::Events;
use crate::dashboard::OPERATOR;
use crate::dashboard::VIEWER;
use crate::dashboard::get;
use crate::dashboard::post;

fn cluster(redis: &TestRedis) -> Cluster {
    Cluster::on(redis).with("GEMA_DASHBOARD_TOKEN", VIEWER).with("GEMA_DASHBOARD_OPERATOR_TOKEN", OPERATOR)
}

/// Waits until an answer is like this.
async fn becomes(process: &Process, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = get(process, path, VIEWER).await.ok();
        if is_it(&answer) {
            return answer;
        }
        assert!(Instant::now() < until, "{path} is {answer:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn states(state: &Value) -> Vec<String> {
    let nodes = state["nodes"].as_array().unwrap().iter();
    let mut states: Vec<String> = nodes.map(|node| node["state"].as_str().unwrap().to_owned()).collect();
    states.sort();
    states
}

#[tokio::test]
async fn each_node_shows_all_and_finds_everybody() {
    let redis = TestRedis::shared().await;
    let [one, other] = cluster(redis).nodes().await;
    let mut here = one.connect().await;
    let mut there = other.member("presence-warehouse", "siti").await;
    here.join("presence-warehouse", "budi").await;
    there.next_event("pusher_internal:member_added").await;
    let (one, other) = (one.process(), other.process());
    let state =
        becomes(one, "/dashboard/api/state", |state| state["now"]["connections"] == 2 && states(state) == ["up", "up"])
            .await;
    assert_eq!(state["nodes"][0]["connections"], 1);
    let id_there = get(other, "/dashboard/api/state", VIEWER).await.ok()["node"].clone();
    let found = get(one, "/dashboard/api/connections?user=siti", VIEWER).await.ok();
    assert_eq!((&found["total"], &found["connections"][0]["node"]), (&json!(1), &id_there), "{found}");
    let path = "/dashboard/api/channel?app=app-id&name=presence-warehouse";
    let channel = becomes(one, path, |channel| channel["subscribers"] == 2).await;
    assert_eq!(channel["nodes"].as_array().unwrap().len(), 2);
    let channels = get(one, "/dashboard/api/channels", VIEWER).await.ok();
    assert_eq!(channels["channels"][0]["subscribers"], 2, "{channels}");
    let id = id_there.as_str().unwrap();
    let history = get(one, &format!("/dashboard/api/history?node={id}"), VIEWER).await.ok();
    assert_eq!(history["series"]["connections"].as_array().unwrap().last(), Some(&json!(1)));
    let theirs = get(one, &format!("/dashboard/api/state?node={id}"), VIEWER).await.ok();
    assert_eq!((&theirs["node"], &theirs["now"]["connections"]), (&id_there, &json!(1)));
    assert_eq!(get(one, "/dashboard/api/state?node=none", VIEWER).await.status, 404);
    let event = json!({ "app": "app-id", "channel": "presence-warehouse", "event": "e", "data": "x" });
    let answer = post(one, "/dashboard/api/publish", OPERATOR, &event).await.ok();
    let sockets = answer["nodes"].as_array().unwrap().iter().map(|node| node["sockets"].as_u64().unwrap());
    assert_eq!(sockets.collect::<Vec<_>>(), [1, 1], "{answer}");
    here.next_event("e").await;
    there.next_event("e").await;
    let socket = found["connections"][0]["socket"].clone();
    let closed = json!({ "app": "app-id", "socket": socket });
    assert_eq!(post(one, "/dashboard/api/disconnect", OPERATOR, &closed).await.ok(), json!({ "closed": 1 }));
    there.next_close().await;
    assert_eq!(post(one, "/dashboard/api/drain", OPERATOR, &json!({ "node": id })).await.status, 202);
    other.log.line("stopping").await;
    becomes(one, "/dashboard/api/state", |state| states(state) == ["up"]).await;
}

#[tokio::test]
async fn a_node_that_hangs_or_dies_is_lost_and_the_sentence_says_so() {
    let redis = TestRedis::shared().await;
    let [one, hangs, dies] = cluster(redis).nodes().await;
    let (one, hangs) = (one.process(), hangs.process());
    becomes(one, "/dashboard/api/state", |state| states(state) == ["up", "up", "up"]).await;
    let began = Instant::now();
    hangs.signal("STOP");
    let lost = |state: &Value| states(state) == ["lost", "up", "up"] && state["glance"]["code"] == "nodes_lost";
    let state = becomes(one, "/dashboard/api/state", lost).await;
    println!("lost after {:?}", began.elapsed());
    assert_eq!(state["glance"]["level"], "bad");
    hangs.signal("CONT");
    becomes(one, "/dashboard/api/state", |state| states(state) == ["up", "up", "up"]).await;
    dies.process().signal("KILL");
    becomes(one, "/dashboard/api/state", lost).await;
}

#[tokio::test]
async fn a_problem_of_one_node_is_on_the_page_of_the_other() {
    let redis = TestRedis::shared().await;
    let [one, other] = cluster(redis).nodes().await;
    let mut events = Events::open(one.process(), "").await;
    let mut client = other.connect().await;
    client.send(r#"{"event":"pusher:subscribe","data":{"channel":"private-orders"}}"#).await;
    let problem = events.problem("subscribe_no_auth").await;
    let id = get(other.process(), "/dashboard/api/state", VIEWER).await.ok()["node"].clone();
    assert_eq!(problem["where"]["node"], id);
}

#[tokio::test]
async fn redis_that_is_away_is_a_problem_until_it_is_back() {
    let mut redis = TestRedis::start().await;
    let [one] = cluster(&redis).nodes().await;
    let mut events = Events::open(one.process(), "").await;
    events.find("glance", |glance| glance["code"] == "all_well").await;
    redis.kill();
    let glance = events.find("glance", |glance| glance["code"] == "redis_away").await;
    assert!(glance["text"].as_str().unwrap().starts_with("Redis has been away for "), "{glance}");
    becomes(one.process(), "/dashboard/api/state", |state| {
        state["problems"].as_array().unwrap().iter().any(|problem| problem["code"] == "redis_lost")
    })
    .await;
    redis.restart().await;
    events.find("glance", |glance| glance["code"] == "all_well").await;
    becomes(one.process(), "/dashboard/api/state", |state| {
        let lost = state["problems"].as_array().unwrap().iter().find(|problem| problem["code"] == "redis_lost");
        lost.is_some_and(|problem| problem["resolved"] == true)
    })
    .await;
}

#[tokio::test]
async fn without_a_token_nothing_is_in_redis() {
    let redis = TestRedis::start().await;
    let [_one, _other] = Cluster::on(&redis).nodes().await;
    let [_page] = cluster(&redis).nodes().await;
    // A node with a page writes its status; by then one without would have written its own.
    let until = Instant::now() + PATIENCE;
    loop {
        let keys: Vec<String> = redis.run(&["KEYS", "*:status"]).await;
        if !keys.is_empty() {
            assert_eq!(keys.len(), 1, "{keys:?}");
            break;
        }
        assert!(Instant::now() < until, "no status comes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
