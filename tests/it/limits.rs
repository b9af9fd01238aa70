//! What an app may use in a second, on one node and on all nodes together, and what the process may open.

use std::time::Instant;

use futures_util::future::join_all;
use gema::config::Config;
use gema::config::LimiterDriver;
use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::Api;
use support::process::Process;
use support::redis_server::TestRedis;
use support::redis_server::cluster_name;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

const SHARED_LIMIT: u32 = 5;

/// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `Retry-After`.
fn allowance(answer: &Answer) -> [Option<&str>; 3] {
    ["x-ratelimit-limit", "x-ratelimit-remaining", "retry-after"].map(|name| answer.header(name))
}

#[tokio::test]
async fn an_answer_tells_what_is_left_of_a_limit() {
    let one = json!({ "name": "e", "channel": "c", "data": "" });
    let three = json!({ "name": "e", "channels": ["a", "b", "c"], "data": "", "info": "subscription_count" });
    let asking = json!({ "name": "e", "channel": "c", "data": "", "info": "subscription_count" });
    for (rest, body, left) in [
        ("/events", &one, "7"),
        ("/events", &three, "5"),
        ("/batch_events", &json!({ "batch": [one, one] }), "6"),
        ("/batch_events", &json!({ "batch": [asking, one] }), "6"),
    ] {
        let server = TestServer::start_single_with(|config| config.limits.max_backend_events_per_second = 8).await;
        let answer = server.api().post(rest, &body.to_string()).await;
        answer.ok();
        assert_eq!(allowance(&answer), [Some("8"), Some(left), Some("1")], "{body}");
        let reading = server.api().get("/channels", &[]).await;
        reading.ok();
        assert_eq!(allowance(&reading), [None; 3], "reading has no limit");
    }
    for rest in ["/channels", "/channels/c", "/channels/presence-c/users"] {
        let server = TestServer::start_single_with(|config| config.limits.max_read_requests_per_second = 8).await;
        let answer = server.api().get(rest, &[]).await;
        answer.ok();
        assert_eq!(allowance(&answer), [Some("8"), Some("7"), Some("1")], "{rest}");
    }
}

// G-274
#[tokio::test]
async fn a_refusal_tells_the_limit_too() {
    let server = TestServer::start_single_with(|config| config.limits.max_backend_events_per_second = 0).await;
    let refused = server.api().post("/events", r#"{"name":"e","channel":"c","data":""}"#).await;
    assert_eq!(refused.refused(429), "The app may publish nothing: its max_backend_events_per_second is 0");
    assert_eq!(allowance(&refused), [Some("0"), Some("0"), None]);
    let terminated = server.api().post("/users/1/terminate_connections", "{}").await;
    terminated.ok();
    assert_eq!(allowance(&terminated), [None; 3]);
}

#[tokio::test]
async fn what_is_more_than_the_limit_is_not_to_be_tried_again() {
    let redis = TestRedis::start().await;
    for driver in [LimiterDriver::Local, LimiterDriver::Redis] {
        let server = TestServer::start_single_with(|config| {
            config.redis.port = redis.port();
            config.limiter.driver = driver;
            config.limits.max_backend_events_per_second = 5;
        })
        .await;
        let channels: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
        let event = json!({ "name": "e", "channel": "c", "data": "" });
        let publish = async |rest: &str, body: Value| server.api().post(rest, &body.to_string()).await;
        for (rest, body) in [
            ("/events", json!({ "name": "e", "channels": channels, "data": "" })),
            ("/batch_events", json!({ "batch": vec![&event; 10] })),
        ] {
            let refused = publish(rest, body).await;
            let sentence = "This request counts as 10 events, but the app may publish 5 in a second; \
                            send fewer at once, or raise max_backend_events_per_second";
            assert_eq!(refused.refused(429), sentence);
            assert_eq!(allowance(&refused), [Some("5"), Some("5"), None]);
        }
        // They have used up nothing.
        publish("/batch_events", json!({ "batch": vec![&event; 5] })).await.ok();
    }
}

// G-274
#[tokio::test]
async fn nodes_of_a_cluster_share_a_limit() {
    let server = TestServer::start_cluster_with(2, |config| {
        config.limiter.driver = LimiterDriver::Redis;
        config.limits.max_backend_events_per_second = SHARED_LIMIT.into();
    })
    .await;
    let body = json!({ "name": "e", "channel": "c", "data": "" }).to_string();
    let apis = [server.api_at(0), server.api_at(1)];
    let publish = async |api: &Api| api.post("/events", &body).await;
    together_within(SHARED_LIMIT, &[&server], async || until_refused(&apis, publish).await).await;
}

// G-274
#[tokio::test]
async fn nodes_share_a_limit_while_redis_is_there_and_each_has_its_own_meanwhile() {
    let mut redis = TestRedis::absent("");
    let cluster = cluster_name();
    let share = |config: &mut Config| {
        config.cluster.name.clone_from(&cluster);
        config.redis.port = redis.port();
        config.limiter.driver = LimiterDriver::Redis;
        config.limits.max_read_requests_per_second = SHARED_LIMIT.into();
    };
    let servers = [TestServer::start_single_with(share).await, TestServer::start_single_with(share).await];
    let apis = [servers[0].api(), servers[1].api()];
    for (server, api) in servers.iter().zip(&apis) {
        for _ in 0..SHARED_LIMIT {
            api.get("/channels", &[]).await.ok();
        }
        server.figure_becomes(0, "gema_limiter_local_total", "", SHARED_LIMIT.into()).await;
    }

    redis.restart().await;
    let bucket = format!("{cluster}:{{{APP_ID}}}:read_requests");
    for api in &apis {
        // Another node's bucket may have just gone by itself.
        redis.run::<u64>(&["DEL", &bucket]).await;
        let until = Instant::now() + PATIENCE;
        while redis.run::<u64>(&["EXISTS", &bucket]).await == 0 {
            assert!(Instant::now() < until, "a node does not find Redis again");
            answered(&api.get("/channels", &[]).await);
        }
    }
    let all: Vec<&TestServer> = servers.iter().collect();
    let read = async |api: &Api| api.get("/channels", &[]).await;
    together_within(SHARED_LIMIT, &all, async || until_refused(&apis, read).await).await;

    redis.pause();
    for (server, api) in servers.iter().zip(&apis) {
        let before = server.figure(0, "gema_limiter_local_total", "").await;
        let until = Instant::now() + PATIENCE;
        while server.figure(0, "gema_limiter_local_total", "").await == before {
            assert!(Instant::now() < until, "nobody decides while Redis is away");
            answered(&api.get("/channels", &[]).await);
        }
    }
    redis.resume();
    together_within(SHARED_LIMIT, &all, async || until_refused(&apis, read).await).await;
}

#[track_caller]
fn answered(answer: &Answer) {
    assert!([200, 429].contains(&answer.status), "{answer:?}");
}

/// How many requests are accepted, asking one node after the other until one of them refuses. A slow machine asks so
/// seldom that none may be refused.
async fn until_refused(apis: &[Api], ask: impl AsyncFn(&Api) -> Answer) -> u32 {
    const ACCEPTED_MAX: usize = 20 * SHARED_LIMIT as usize;
    let mut accepted = 0;
    for api in apis.iter().cycle().take(ACCEPTED_MAX) {
        let answer = ask(api).await;
        answered(&answer);
        if answer.status == 429 {
            break;
        }
        accepted += 1;
    }
    accepted
}

/// All nodes must not accept more in a round than one could alone. One in which Redis was too slow says nothing.
async fn together_within(limit: u32, servers: &[&TestServer], round: impl AsyncFn() -> u32) {
    let until = Instant::now() + PATIENCE;
    loop {
        let before = decided_alone(servers).await;
        let began = Instant::now();
        let accepted = round().await;
        let most = f64::from(limit) * (1.0 + began.elapsed().as_secs_f64());
        if decided_alone(servers).await == before && accepted > 0 {
            assert!(f64::from(accepted) <= most, "{accepted} of {most}");
            return;
        }
        assert!(Instant::now() < until, "Redis is too slow");
    }
}

async fn decided_alone(servers: &[&TestServer]) -> f64 {
    let mut sum = 0.0;
    for server in servers {
        for node in 0..server.nodes() {
            sum += server.figure(node, "gema_limiter_local_total", "").await;
        }
    }
    sum
}

// G-274
#[tokio::test]
async fn many_at_once_get_no_more_than_one_after_the_other() {
    const LIMIT: u32 = 50;
    let server = TestServer::start_cluster_with(2, |config| {
        config.limiter.driver = LimiterDriver::Redis;
        config.limits.max_read_requests_per_second = LIMIT.into();
    })
    .await;
    let apis = [server.api_at(0), server.api_at(1)];
    together_within(LIMIT, &[&server], async || {
        let crowd = apis.iter().cycle().take(2 * LIMIT as usize).map(|api| api.get("/channels/c", &[]));
        let answers = join_all(crowd).await;
        answers.iter().for_each(answered);
        answers.iter().map(|answer| u32::from(answer.status == 200)).sum()
    })
    .await;
}

#[tokio::test]
async fn redis_is_not_asked_for_each_request() {
    // What is in reserve is not good for long, and a Redis that is too slow is not waited for.
    in_time(async |_| redis_is_asked_now_and_then().await).await;
}

async fn redis_is_asked_now_and_then() -> Result<(), String> {
    const REQUESTS: u64 = 200;
    for limit in [1000, 1] {
        let redis = TestRedis::start().await;
        let server = TestServer::start_single_with(|config| {
            config.redis.port = redis.port();
            config.limiter.driver = LimiterDriver::Redis;
            config.limits.max_read_requests_per_second = limit;
        })
        .await;
        let mut accepted = 0;
        for _ in 0..REQUESTS {
            let answer = server.api().get("/channels/c", &[]).await;
            answered(&answer);
            accepted += u64::from(answer.status == 200);
        }
        let asked = redis.calls("HMGET").await;
        // A reserve covers most of what is accepted. What is refused asks only when there could be another token.
        let most = if limit == 1 { 3 * accepted + 10 } else { accepted / 4 };
        let without = server.figure(0, "gema_limiter_local_total", "").await;
        if asked > most || without > 0.0 {
            return Err(format!("{asked} times for {accepted} of {limit} a second, and {without} without Redis"));
        }
        assert!(asked > 1, "Redis was asked {asked} times to accept {accepted} of {limit} a second");
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_of_sockets_leaves_the_api_its_files() {
    const FILES: usize = 256;
    let process = Process::start_with_files(FILES).await;
    let path = format!("/app/{APP_KEY}?protocol=7");
    let mut taken = Vec::new();
    let mut refused = loop {
        let mut client = Client::open(process.address, &path, &[]).await;
        let first = client.next_text().await;
        if first.contains("pusher:error") {
            break client;
        }
        taken.push(client);
        assert!(taken.len() < FILES, "nobody is refused");
    };
    assert!(taken.len() > FILES / 2, "only {} are taken", taken.len());
    assert_eq!(refused.next_close().await, (4100, "Over capacity".to_owned()));
    let api = Api::new(process.address, APP_ID, APP_KEY, APP_SECRET);
    let mut listener = taken.pop().unwrap();
    listener.subscribe("news").await;
    // None of these goes by itself.
    let mut late = Vec::new();
    for number in 0..FILES {
        late.push(Client::open(process.address, &path, &[]).await);
        api.publish("news", "e", &number.to_string()).await;
        listener.next_event("e").await;
    }
    for mut client in late {
        client.next_error(Some(4100), "Over capacity").await;
        assert_eq!(client.next_close().await, (4100, "Over capacity".to_owned()));
    }
}
