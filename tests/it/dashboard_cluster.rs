//! The operator's page of several nodes.

use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt;
use serde_json::Value;
use serde_json::json;
use support::bus::Bus;
use support::client::PATIENCE;
use support::node::Cluster;
use support::process::Process;
use support::redis_server::TestRedis;
use tokio::time::timeout;

use crate::dashboard::Events;
use crate::dashboard::OPERATOR;
use crate::dashboard::VIEWER;
use crate::dashboard::get;
use crate::dashboard::post;

fn cluster<'a>(bus: impl Into<Bus<'a>>) -> Cluster {
    Cluster::on(bus).with("GEMA_DASHBOARD_TOKEN", VIEWER).with("GEMA_DASHBOARD_OPERATOR_TOKEN", OPERATOR)
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
    let bus = Bus::shared().await;
    let [one, other] = cluster(bus).nodes().await;
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
    let bus = Bus::shared().await;
    let [one, hangs, dies] = cluster(bus).nodes().await;
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
async fn a_node_that_is_back_takes_the_place_of_the_one_that_was_killed() {
    let bus = Bus::shared().await;
    let cluster = cluster(bus);
    let [one, dies] = cluster.nodes().await;
    let one = one.process();
    let two_are_up = |state: &Value| states(state) == ["up", "up"];
    becomes(one, "/dashboard/api/state", two_are_up).await;
    let port = dies.process().address.port().to_string();
    dies.kill().await;
    becomes(one, "/dashboard/api/state", |state| states(state) == ["lost", "up"]).await;
    let back = cluster.with("GEMA_SERVER_PORT", &port).node().await;
    let state = becomes(one, "/dashboard/api/state", two_are_up).await;
    assert_eq!(state["glance"]["values"]["nodes"], 2, "{}", state["glance"]);
    // The new one does not list its forerunner, either.
    becomes(back.process(), "/dashboard/api/state", two_are_up).await;
}

#[tokio::test]
async fn a_node_without_an_operators_token_lets_no_operator_of_another_act() {
    let bus = Bus::shared().await;
    let looks = Cluster::on(bus).with("GEMA_DASHBOARD_TOKEN", VIEWER);
    let (acts, looks) = (looks.with("GEMA_DASHBOARD_OPERATOR_TOKEN", OPERATOR).node().await, looks.node().await);
    let mut client = looks.member("presence-warehouse", "siti").await;
    let (acts, looks) = (acts.process(), looks.process());
    let found = becomes(acts, "/dashboard/api/connections?user=siti", |found| found["total"] == 1).await;
    let connection = &found["connections"][0];
    let closed = json!({ "app": "app-id", "socket": connection["socket"] });
    let drained = json!({ "node": connection["node"] });
    for (path, body) in [("disconnect", closed), ("drain", drained)] {
        let answer = post(acts, &format!("/dashboard/api/{path}"), OPERATOR, &body).await;
        let reason = answer.refused(403);
        assert!(reason.contains("dashboard.operator_token") && reason.contains("Set it there"), "{path}: {reason}");
    }
    assert_eq!(states(&get(looks, "/dashboard/api/state", VIEWER).await.ok()), ["up", "up"]);
    client.nothing_came().await;
}

#[tokio::test]
async fn an_answer_of_another_node_is_bounded() {
    let redis = TestRedis::shared().await;
    let cluster = cluster(redis);
    let [one, other] = cluster.nodes().await;
    let (one, other) = (one.process(), other.process());
    becomes(one, "/dashboard/api/state", |state| states(state) == ["up", "up"]).await;
    let id = get(other, "/dashboard/api/state", VIEWER).await.ok()["node"].as_str().unwrap().to_owned();
    // It answers nothing by itself from now on.
    other.signal("STOP");
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut control = client.get_async_pubsub().await.unwrap();
    control.subscribe(cluster.key(&format!("nodes:{id}"))).await.unwrap();
    let mut messages = control.into_on_message();
    let path = format!("/dashboard/api/history?node={id}");
    let answers = [
        (json!({ "name": "short" }).to_string(), 200),
        (json!({ "name": "x".repeat(1024 * 1024) }).to_string(), 503),
        ("[]".to_owned(), 503),
    ];
    for (body, status) in answers {
        // An answer may come too late on a busy machine.
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = async {
                loop {
                    let message = timeout(PATIENCE, messages.next()).await.expect("a question comes").unwrap();
                    let message: Vec<u8> = message.get_payload().unwrap();
                    let text = String::from_utf8_lossy(&message).into_owned();
                    let Some(ask) = text.strip_prefix("gema/1 ask ") else { continue };
                    let fields: Vec<&str> = ask.split(' ').collect();
                    let (asker, request) = (fields[0], fields[2]);
                    let answer = format!("gema/1 answer {id} {asker} {request} {}\n{body}", body.len());
                    return redis.run::<()>(&["PUBLISH", &cluster.key(&format!("nodes:{asker}")), &answer]).await;
                }
            };
            let (asked, ()) = tokio::join!(get(one, &path, VIEWER), answer);
            if asked.status == status {
                assert!(status != 200 || asked.ok()["name"] == "short", "{asked:?}");
                break;
            }
            assert!(asked.status == 503 && Instant::now() < until, "{status}: {} {}", asked.status, asked.body.len());
        }
    }
    other.signal("CONT");
}

#[tokio::test]
async fn a_problem_of_one_node_is_on_the_page_of_the_other() {
    let bus = Bus::shared().await;
    let [one, other] = cluster(bus).nodes().await;
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
async fn what_other_nodes_miss_is_a_problem_that_stays_after_redis_is_back() {
    let mut redis = TestRedis::start().await;
    let cluster = cluster(&redis).with("GEMA_CLUSTER_OUTAGE", "local").with("GEMA_CLUSTER_BUFFER_SECONDS", "0.1");
    let [one, _other] = cluster.nodes().await;
    let mut events = Events::open(one.process(), "").await;
    redis.kill();
    one.bus_is(false, PATIENCE).await;
    one.api().publish("orders", "e", "1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    one.api().publish("orders", "e", "2").await;
    let glance = events.find("glance", |glance| glance["code"] == "outage_local").await;
    assert!(glance["values"]["events"].as_u64().unwrap() >= 1, "{glance}");
    redis.restart().await;
    events.find("glance", |glance| glance["code"] == "all_well").await;
    becomes(one.process(), "/dashboard/api/state", |state| {
        let missed = state["problems"].as_array().unwrap().iter().find(|problem| problem["code"] == "outage_drops");
        missed.is_some_and(|problem| problem["count"] == 2 && problem["resolved"] == false)
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
