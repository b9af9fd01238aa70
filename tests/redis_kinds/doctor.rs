//! `gema doctor` on the other ways to Redis.

use std::process::Stdio;

use serde_json::Value;
use support::process::Process;
use support::process::program;
use support::redis_kinds::RedisCluster;
use support::redis_kinds::Watched;
use tokio::process::Command;

/// The step about Redis: its state, and its cause or text.
async fn step(variables: &[(&str, &str)]) -> (String, String) {
    let server = Process::start(&[]).await;
    let port = server.address.port().to_string();
    let output = Command::new(program())
        .args(["doctor", "--json"])
        .env_clear()
        .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", &port), ("GEMA_CLUSTER_DRIVER", "redis")])
        .envs(variables.iter().copied())
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step = answer["steps"].as_array().unwrap().iter().find(|step| step["step"] == "redis").unwrap();
    let text = step.get("cause").unwrap_or(&step["text"]);
    (step["state"].as_str().unwrap().to_owned(), text.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_doctor_finds_nothing_wrong_with_a_redis_cluster() {
    let redis = RedisCluster::start();
    let (state, text) = step(&[("GEMA_REDIS_CLUSTER_NODES", &redis.nodes())]).await;
    assert_eq!(state, "passed", "{text}");
    let node = redis.masters[0].port.to_string();
    let (state, text) = step(&[("GEMA_REDIS_PORT", &node)]).await;
    assert_eq!((state.as_str(), text.as_str()), ("failed", "redis_failed"));
}

#[tokio::test]
async fn the_doctor_asks_the_master_that_sentinels_name() {
    let redis = Watched::start("hush-redis", "hush-sentinel");
    let address = redis.sentinel.address();
    let with = |name: &'static str, password: &'static str| {
        let address = address.clone();
        async move {
            step(&[
                ("GEMA_REDIS_SENTINELS", &*address),
                ("GEMA_REDIS_SENTINEL_MASTER", name),
                ("GEMA_REDIS_SENTINEL_PASSWORD", password),
                ("GEMA_REDIS_PASSWORD", "hush-redis"),
            ])
            .await
        }
    };
    let (state, text) = with("shop", "hush-sentinel").await;
    assert_eq!(state, "passed", "{text}");
    assert_eq!(with("shop", "hush-wrong").await.1, "redis_password");
    assert_eq!(with("nobody", "hush-sentinel").await.1, "redis_unreachable");
}
