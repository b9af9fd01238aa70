//! Laravel's events in Redis: whether gema listens where Laravel publishes.
//! `doctor` runs it where the configuration is known.

use tokio::time::timeout;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::laravel::Laravel;
use crate::cli::doctor::redis;
use crate::cli::doctor::report::Step;
use crate::config::Config;
use crate::redis::connection::ANSWER_TIME;
use crate::redis::connection::RedisConnection;

const STEP: &str = "ingest";

/// Tests the prefixes and the right to listen to them.
pub(super) async fn check(config: &Config, laravel: Option<&Laravel>) -> Vec<Step> {
    if !config.ingest.is_on() {
        return vec![Step::skipped(STEP, "ingest.prefixes is empty: Laravel publishes through the API")];
    }
    let mut steps: Vec<Step> = listen(config).await.into_iter().collect();
    let Some(laravel) = laravel.filter(|laravel| laravel.broadcaster().value == "redis") else {
        if steps.is_empty() {
            steps.push(Step::skipped(STEP, "no .env with BROADCAST_CONNECTION=redis tells what Laravel publishes"));
        }
        return steps;
    };
    steps.extend(other_redis(config, laravel));
    let theirs = laravel.redis_prefixes();
    let ours: Vec<&str> = config.ingest.owners().map(|(prefix, _)| prefix).collect();
    if !theirs.iter().any(|prefix| ours.contains(&prefix.as_str())) {
        let detail = format!("Laravel has {}, gema has {}", theirs.join(" or "), ours.join(", "));
        steps.push(Step::failed(STEP, Cause::IngestPrefix, detail));
    }
    if steps.is_empty() {
        steps.push(Step::passed(STEP, format!("gema listens to {}", ours.join(", "))));
    }
    steps
}

/// The fault of the subscription. One of the connection is told by the step before.
async fn listen(config: &Config) -> Option<Step> {
    let opened = timeout(ANSWER_TIME, RedisConnection::open(&config.redis, |_| ())).await;
    let mut connection = opened.ok()?.ok()?;
    let globs: Vec<String> = config.ingest.owners().map(|(prefix, _)| format!("{prefix}*")).collect();
    let error = connection.psubscribe(&globs).await.err()?;
    let step = redis::failed(&error, &config.redis);
    Some(Step { name: STEP, ..step })
}

/// Whether Laravel names another Redis. One that gets its address by a URL or Sentinels is not compared.
fn other_redis(config: &Config, laravel: &Laravel) -> Option<Step> {
    let redis = &config.redis;
    if laravel.get("REDIS_URL").is_some() || !redis.url.is_empty() || !redis.sentinels.is_empty() {
        return None;
    }
    let host = laravel.get("REDIS_HOST").unwrap_or("127.0.0.1");
    let port = laravel.get("REDIS_PORT").and_then(|port| port.parse().ok()).unwrap_or(6379);
    let plain = |host: &str| if host == "localhost" { "127.0.0.1".to_owned() } else { host.to_owned() };
    // Another name may be the same machine, another port is another Redis.
    let is_same = plain(host) == plain(&redis.host) && port == redis.port;
    (!is_same && redis.cluster_nodes.is_empty()).then(|| {
        let detail = format!("Laravel has {host}:{port}, gema has {}", redis.place());
        Step::failed(STEP, Cause::IngestOtherRedis, detail)
    })
}
