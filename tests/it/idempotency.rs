//! Publishing twice: a request that is repeated with its idempotency key gets the first answer and delivers nothing.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::future::join_all;
use gema::config::AppEntry;
use gema::config::Seconds;
use gema::protocol::idempotency::BodyHash;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use serde_json::json;
use support::bus::TestBus;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::Api;
use support::http::Connection;
use support::redis_server::TestRedis;
use support::server::APP_ID;
use support::server::TestServer;

const OTHER_BODY: &str =
    "The idempotency key belongs to another request: the body is not the same; use a new key for each event";
const RUNNING: &str = "The first request with this idempotency key has not been finished yet, try again";
const BAD_KEY: &str = "The idempotency key must have 1 to 255 printable ASCII characters";
const DIFFER: &str =
    "The request has two idempotency keys that differ; send one, or the same in query, header and body";

fn event(channel: &str, name: &str) -> Value {
    json!({ "name": name, "channel": channel, "data": "" })
}

fn query(key: &str) -> Vec<(&str, &str)> {
    vec![("idempotency_key", key)]
}

fn header(key: &str) -> Vec<(&str, &str)> {
    vec![("Idempotency-Key", key)]
}

async fn post(api: &Api, key: &str, body: &Value) -> Answer {
    api.post_with("/events", &[], &header(key), &body.to_string()).await
}

async fn subscribed(server: &TestServer, channel: &str) -> Client {
    let mut client = server.connect().await;
    client.subscribe(channel).await;
    client
}

/// The names of the events that have come on a channel since the last look.
async fn delivered(server: &TestServer, client: &mut Client, channel: &str) -> Vec<String> {
    server.quiet().await;
    server.api().publish(channel, "mark", "").await;
    let mut names = Vec::new();
    loop {
        let name = client.next().await["event"].as_str().unwrap().to_owned();
        if name == "mark" {
            return names;
        }
        names.push(name);
    }
}

async fn on_all_nodes(server: &TestServer, name: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..server.nodes() {
        sum += server.figure(node, name, "").await;
    }
    sum
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_and_delivers_nothing() {
    let server = TestServer::start().await;
    let api = server.api();
    let mut client = subscribed(&server, "c").await;
    let asking = json!({ "name": "e", "channel": "c", "data": "", "info": "subscription_count" });
    let with_key = json!({ "name": "e", "channel": "c", "data": "", "idempotency_key": "in-body" });
    let batch = json!({ "batch": [event("c", "e"), asking] });
    let info = r#"{"channels":{"c":{"subscription_count":1}}}"#;
    let batch_info = r#"{"batch":[{},{"subscription_count":1}]}"#;
    let requests = [
        ("/events", query("a"), vec![], event("c", "e"), "{}", 1),
        ("/events", vec![], header("b"), event("c", "e"), "{}", 1),
        ("/events", vec![], vec![], with_key, "{}", 1),
        ("/events", query("same"), header("same"), asking.clone(), info, 1),
        ("/batch_events", query("a"), vec![], batch.clone(), batch_info, 2),
        ("/batch_events", vec![], header("b"), batch, batch_info, 2),
    ];
    for (rest, parameters, headers, body, expected, events) in &requests {
        let first = api.post_with(rest, parameters, headers, &body.to_string()).await;
        first.ok();
        assert_eq!(first.body, *expected, "{body}");
        assert_eq!(delivered(&server, &mut client, "c").await, vec!["e"; *events], "{body}");
    }
    // An answer of now would say that two are there.
    let _second = subscribed(&server, "c").await;
    for (rest, parameters, headers, body, expected, _) in &requests {
        for _ in 0..server.nodes() {
            let repeated = api.post_with(rest, parameters, headers, &body.to_string()).await;
            repeated.ok();
            assert_eq!(repeated.body, *expected, "{body}");
        }
    }
    assert_eq!(delivered(&server, &mut client, "c").await, [""; 0]);
    let repeated = requests.len() * server.nodes();
    assert_eq!(on_all_nodes(&server, "gema_idempotency_repeated_total").await, repeated as f64);
    assert_eq!(on_all_nodes(&server, "gema_idempotency_local_total").await, 0.0);
}

#[tokio::test]
async fn a_key_holds_for_one_body_of_one_path_and_app() {
    let server =
        TestServer::start_with(|config| config.apps.push(AppEntry::new("other", "other-key", "other-secret"))).await;
    let api = server.api();
    let mut client = subscribed(&server, "c").await;
    post(&api, "k", &event("c", "first")).await.ok();
    for _ in 0..server.nodes() {
        let refused = post(&api, "k", &event("c", "second")).await;
        assert_eq!(refused.refused(409), OTHER_BODY);
        assert_eq!(refused.header("retry-after"), None, "it would be refused again");
    }
    assert_eq!(server.metric("gema_refusals_total", Some("api_idempotency_reuse")).await, server.nodes() as f64);
    let batch = json!({ "batch": [event("c", "third")] }).to_string();
    api.post_with("/batch_events", &[], &[("Idempotency-Key", "k")], &batch).await.ok();
    post(&api, "other", &event("c", "first")).await.ok();
    let other = server.api_of("other", "other-key", "other-secret");
    post(&other, "k", &event("c", "of-another-app")).await.ok();
    // Without a key nothing is remembered.
    for _ in 0..2 {
        api.post("/events", &event("c", "fourth").to_string()).await.ok();
    }
    assert_eq!(delivered(&server, &mut client, "c").await, ["first", "third", "first", "fourth", "fourth"]);
}

#[tokio::test]
async fn a_request_that_was_refused_may_be_tried_again() {
    let server = TestServer::start_with(|config| config.limits.max_backend_events_per_second = 1).await;
    let api = server.api();
    let mut client = subscribed(&server, "c").await;
    let too_much = json!({ "name": "e", "channels": ["c", "d"], "data": "" });
    for _ in 0..server.nodes() {
        post(&api, "k", &too_much).await.refused(429);
    }
    post(&api, "k", &event("c", "e")).await.ok();
    for _ in 0..2 * server.nodes() {
        // A repeated request takes nothing from the rate, which one more would exceed.
        post(&api, "k", &event("c", "e")).await.ok();
    }
    assert_eq!(client.next().await["event"], "e");
    client.nothing_came().await;
}

#[tokio::test]
async fn a_key_of_another_form_is_refused() {
    let server = TestServer::start().await;
    let api = server.api();
    let mut client = subscribed(&server, "c").await;
    let long = "k".repeat(256);
    let body = event("c", "e").to_string();
    let in_body = |key: Value| json!({ "name": "e", "channel": "c", "data": "", "idempotency_key": key }).to_string();
    let (a, b) = (("Idempotency-Key", "a"), ("Idempotency-Key", "b"));
    for (parameters, headers, body, sentence) in [
        (query(""), vec![], body.clone(), BAD_KEY),
        (query(&long), vec![], body.clone(), BAD_KEY),
        (vec![], header(&long), body.clone(), BAD_KEY),
        (vec![], header(""), body.clone(), BAD_KEY),
        (vec![], header("a\tb"), body.clone(), BAD_KEY),
        (vec![], header("é"), body.clone(), BAD_KEY),
        (vec![], vec![], in_body(json!("\n")), BAD_KEY),
        (vec![], vec![], in_body(json!(7)), "Expected idempotency_key parameter to be a string"),
        (query("a"), vec![b], body.clone(), DIFFER),
        (vec![], vec![a, b], body.clone(), DIFFER),
        (query("a"), vec![], in_body(json!("b")), DIFFER),
        (vec![], header("a"), in_body(json!("b")), DIFFER),
    ] {
        let refused = api.post_with("/events", &parameters, &headers, &body).await;
        assert_eq!(refused.refused(400), sentence, "{parameters:?} {headers:?} {body}");
    }
    // Events of a batch have no keys, and `null` is none.
    let mut strange = event("c", "e");
    strange["idempotency_key"] = json!(7);
    for _ in 0..2 {
        api.post("/batch_events", &json!({ "batch": [strange] }).to_string()).await.ok();
        api.post("/events", &in_body(Value::Null)).await.ok();
    }
    assert_eq!(delivered(&server, &mut client, "c").await, ["e"; 4]);
}

#[tokio::test]
async fn requests_that_are_repeated_at_the_same_time_deliver_once() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, "c").await;
    let body = json!({ "name": "e", "channel": "c", "data": "", "info": "subscription_count" });
    for round in 0..5 {
        let key = format!("k{round}");
        let nodes = (0..24).map(|place| server.api_at(place % server.nodes()));
        let requests = nodes.map(async |api| {
            let until = Instant::now() + PATIENCE;
            loop {
                let answer = post(&api, &key, &body).await;
                if answer.status == 200 {
                    return answer.body;
                }
                // Another node was still at it.
                assert!(server.nodes() > 1, "{answer:?}");
                assert_eq!(answer.refused(409), RUNNING);
                assert!(Instant::now() < until, "the first request does not end");
            }
        });
        let answers = join_all(requests).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(delivered(&server, &mut client, "c").await, ["e"], "{key}");
    }
}

#[tokio::test]
async fn a_request_whose_publisher_has_gone_is_remembered_too() {
    let bus = TestBus::start().await;
    let server = TestServer::start_cluster_on(&bus, 2, |config| config.cluster.buffer_seconds = Seconds(600.0)).await;
    let api = server.api_at(0);
    let mut client = server.connect_at(0).await;
    client.subscribe("c").await;
    // The number of connections elsewhere comes from the bus, which does not answer.
    bus.pause();
    let mut body = event("c", "e");
    body["info"] = json!("subscription_count");
    body["idempotency_key"] = json!("k");
    let body = body.to_string();
    let mut connection = Connection::open(server.address()).await;
    connection.send(api.post_bytes("/events", &body)).await;
    assert_eq!(client.next().await["event"], "e");
    drop(connection);
    // This takes as long as the server waits for the bus. By then it knows that the publisher has gone.
    post(&api, "later", &event("c", "later")).await.ok();
    assert_eq!(client.next().await["event"], "later");
    let repeat = api.post("/events", &body);
    let resume = async {
        tokio::task::yield_now().await;
        bus.resume();
    };
    let (repeated, ()) = tokio::join!(repeat, resume);
    assert_eq!(repeated.ok(), json!({ "channels": { "c": { "subscription_count": 1 } } }));
    api.publish("c", "mark", "").await;
    assert_eq!(client.next().await["event"], "mark");
}

#[tokio::test]
async fn without_the_bus_a_node_decides_alone() {
    let mut bus = TestBus::start().await;
    let server = TestServer::start_cluster_on(&bus, 1, |config| config.cluster.buffer_seconds = Seconds(600.0)).await;
    let api = server.api_at(0);
    let mut client = subscribed(&server, "c").await;
    bus.kill();
    for _ in 0..3 {
        post(&api, "k", &event("c", "e")).await.ok();
    }
    assert_eq!(post(&api, "k", &event("c", "other")).await.refused(409), OTHER_BODY);
    api.publish("c", "mark", "").await;
    assert_eq!(client.next().await["event"], "e");
    assert_eq!(client.next().await["event"], "mark");
    assert_eq!(server.figure(0, "gema_idempotency_local_total", "").await, 1.0);
    assert_eq!(server.figure(0, "gema_idempotency_repeated_total", "").await, 2.0);
}

#[tokio::test]
async fn redis_has_a_key_for_ten_minutes_and_what_is_there_counts() {
    let redis = TestRedis::shared().await;
    let server = TestServer::start_cluster(2).await;
    let mut client = subscribed(&server, "c").await;
    let name = |key: &str| format!("{}:{{{APP_ID}}}:idempotency:events:{key}", server.cluster());
    let body = event("c", "e");
    let (first, second) = (server.api_at(0), server.api_at(1));

    post(&first, "k", &body).await.ok();
    let left = redis.run::<i64>(&["PTTL", &name("k")]).await;
    assert!((300_000..=600_000).contains(&left), "{left}");
    post(&second, "k", &body).await.ok();
    assert_eq!(delivered(&server, &mut client, "c").await, ["e"]);
    // As if its time were over.
    assert_eq!(redis.run::<u64>(&["DEL", &name("k")]).await, 1);
    post(&second, "k", &body).await.ok();
    assert_eq!(delivered(&server, &mut client, "c").await, ["e"]);

    // A node is at it, or has crashed.
    let mut connection = redis.connection().await;
    let hash = BodyHash::of(body.to_string().as_bytes());
    let mut store = redis::cmd("SET");
    store.arg(name("crashed")).arg(hash.as_bytes()).exec_async(&mut connection).await.unwrap();
    let refused = post(&first, "crashed", &body).await;
    assert_eq!(refused.refused(409), RUNNING);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(redis.run::<u64>(&["DEL", &name("crashed")]).await, 1);
    post(&first, "crashed", &body).await.ok();
    assert_eq!(delivered(&server, &mut client, "c").await, ["e"]);

    // No node has written this.
    redis.run::<String>(&["SET", &name("foreign"), "{}"]).await;
    assert_eq!(server.figure(0, "gema_idempotency_local_total", "").await, 0.0);
    post(&first, "foreign", &body).await.ok();
    assert_eq!(server.figure(0, "gema_idempotency_local_total", "").await, 1.0);
    assert_eq!(delivered(&server, &mut client, "c").await, ["e"]);
}

/// A request of the property test: the node, the path, the key and the body, each by number.
type Step = (usize, usize, usize, usize);

/// As many channels as an event may have, and more than may be published in a second.
const REFUSED: usize = 2;

fn body_of(path: usize, number: usize) -> Value {
    let event = |name: String| json!({ "name": name, "channel": "c", "data": "" });
    match (path, number) {
        (0, REFUSED) => {
            let channels: Vec<String> = (0..100).map(|channel| format!("d{channel}")).collect();
            json!({ "name": "e", "channels": channels, "data": "" })
        }
        (0, number) => event(format!("single-{number}")),
        (_, number) => json!({ "batch": [event(format!("batch-{number}")), event(format!("batch-{number}"))] }),
    }
}

#[tokio::test]
async fn any_requests_with_any_keys_on_any_nodes_deliver_what_the_model_says() {
    let server = TestServer::start_with(|config| config.limits.max_backend_events_per_second = 99).await;
    let apis: Vec<Api> = (0..server.nodes()).map(|node| server.api_at(node)).collect();
    let mut client = subscribed(&server, "c").await;
    let mut runner = TestRunner::deterministic();
    for case in 0..24 {
        let steps = vec((0..apis.len(), 0..2_usize, 0..3_usize, 0..3_usize), 1..12);
        let steps: Vec<Step> = steps.new_tree(&mut runner).unwrap().current();
        // For each path and key the body that was accepted.
        let mut model: HashMap<(usize, usize), usize> = HashMap::new();
        let mut expected = Vec::new();
        for &(node, path, key, body) in &steps {
            let known = model.get(&(path, key)).copied();
            let is_refused = path == 0 && body == REFUSED;
            let status = match known {
                Some(other) if other != body => 409,
                None if is_refused => 429,
                _ => 200,
            };
            let (rest, json) = (["/events", "/batch_events"][path], body_of(path, body).to_string());
            let header = [("Idempotency-Key", &*format!("{case}-{key}"))];
            let until = Instant::now() + PATIENCE;
            let answer = loop {
                let answer = apis[node].post_with(rest, &[], &header, &json).await;
                // A fast machine exceeds the rate.
                if answer.status != 429 || status == 429 {
                    break answer;
                }
                assert!(Instant::now() < until, "the rate does not come back");
            };
            assert_eq!(answer.status, status, "case {case}, {steps:?}: {answer:?}");
            if status == 200 && known.is_none() {
                model.insert((path, key), body);
                let name = ["single", "batch"][path];
                expected.extend(std::iter::repeat_n(format!("{name}-{body}"), path + 1));
            }
        }
        let mut names = delivered_within_rate(&server, &mut client).await;
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "case {case}: {steps:?}");
    }
}

/// Like `delivered`, but where the rate may be used up.
async fn delivered_within_rate(server: &TestServer, client: &mut Client) -> Vec<String> {
    server.quiet().await;
    let until = Instant::now() + PATIENCE;
    while server.api().post("/events", &event("c", "mark").to_string()).await.status == 429 {
        assert!(Instant::now() < until, "the rate does not come back");
    }
    let mut names = Vec::new();
    loop {
        let name = client.next().await["event"].as_str().unwrap().to_owned();
        if name == "mark" {
            return names;
        }
        names.push(name);
    }
}
