//! Redis as gema's configuration names it: whether it lets gema in, takes what gema writes, and who else is there.
//! `doctor` runs it where the configuration is known. It writes one key of its own and removes it.

use ::redis::Cmd;
use ::redis::RedisError;
use ::redis::RedisResult;
use ::redis::Value;
use ::redis::cmd;
use tokio::time::timeout;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::report::Step;
use crate::config;
use crate::config::App;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::config::LimiterDriver;
use crate::config::StoreDriver;
use crate::config::WebhooksDriver;
use crate::protocol::envelope::NodeId;
use crate::redis::connection::ANSWER_TIME;
use crate::redis::connection::RedisConnection;
use crate::redis::error::advice;
use crate::redis::names::Names;
use crate::redis::value::texts;

const STEP: &str = "redis";
/// How long the key of the test lives if it cannot be removed.
const KEY_MILLISECONDS: u64 = 5_000;
/// A script that does what gema's do: it reads the clock.
const SCRIPT: &str = "return redis.call('TIME')";

/// Tests Redis, if gema uses it for anything but Laravel's events.
pub(super) async fn check(config: &Config, apps: &[App]) -> Vec<Step> {
    let is_used = config.cluster.driver == ClusterDriver::Redis
        || config.limiter.driver == LimiterDriver::Redis
        || config.webhooks.driver == WebhooksDriver::Redis;
    if !is_used && !config.ingest.is_on() {
        return vec![Step::skipped(STEP, "gema does not use it")];
    }
    let options = &config.redis;
    let mut connection = match timeout(ANSWER_TIME, RedisConnection::open(options, |_| ())).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return vec![failed(&error, options)],
        Err(_) => return vec![Step::failed(STEP, Cause::RedisUnreachable, options.place())],
    };
    let mut steps: Vec<Step> = old(config, &mut connection).await.into_iter().collect();
    if is_used {
        let names = Names::new(&config.cluster.name, &options.key_prefix);
        steps.extend(try_commands(&mut connection, &names, options).await);
        if config.cluster.driver == ClusterDriver::Redis {
            steps.extend(soketi(&mut connection, &names).await);
            let is_known = config.app_store.driver == StoreDriver::Config;
            steps.extend(others(&mut connection, &names, apps).await.filter(|_| is_known));
        }
    }
    if steps.is_empty() {
        steps.push(Step::passed(STEP, format!("{} does what gema needs", options.place())));
    }
    steps
}

/// The step of an error.
pub(super) fn failed(error: &RedisError, options: &config::Redis) -> Step {
    let (place, text) = (options.place(), error.to_string());
    let has = |words: &[&str]| words.iter().any(|word| error.code() == Some(word) || text.contains(word));
    let cause = match () {
        () if has(&["WRONGPASS", "NOAUTH", "invalid username-password", "Password authentication failed"]) => {
            Cause::RedisPassword
        }
        () if has(&["unknown command"]) => Cause::RedisTooOld,
        () if has(&["NOPERM", "no permission"]) => Cause::RedisRights,
        () if has(&["OOM"]) => Cause::RedisFull,
        () if has(&["READONLY"]) => Cause::RedisReadOnly,
        () if error.is_io_error() || error.is_timeout() || error.is_connection_refusal() => Cause::RedisUnreachable,
        () => Cause::RedisFailed,
    };
    let advice = advice(error, options).map_or(String::new(), |advice| format!("; {advice}"));
    Step::failed(STEP, cause, format!("{place}: {}{advice}", text.replace(char::is_control, " ")))
}

/// The version, where Redis tells it.
async fn old(config: &Config, connection: &mut RedisConnection) -> Option<Step> {
    let answer = connection.ask_one(cmd("INFO").arg("server").take()).await.ok()?;
    let text = match &answer {
        Value::Map(nodes) => texts(&nodes.first()?.1).concat(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => return None,
    };
    let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"))?.trim();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let is = (numbers.next()?, numbers.next().unwrap_or_default());
    let needed = match () {
        () if !config.redis.cluster_nodes.is_empty() => (7, 0),
        () if config.webhooks.driver == WebhooksDriver::Redis => (6, 2),
        () => (6, 0),
    };
    (is < needed).then(|| {
        let detail = format!("it is {version}; this configuration needs {}.{}", needed.0, needed.1);
        Step::failed(STEP, Cause::RedisTooOld, detail)
    })
}

/// Does what gema does, on a topic and a key of its own. All rights that are missing make one step.
async fn try_commands(connection: &mut RedisConnection, names: &Names, options: &config::Redis) -> Vec<Step> {
    let topic = format!("{}:doctor", names.start());
    let key = format!("{}:{{doctor}}:{}", names.start(), std::process::id());
    let publish = connection.publish();
    let mut outcomes: Vec<(&str, RedisResult<()>)> =
        vec![("subscribe", connection.subscribe(std::slice::from_ref(&topic)).await)];
    outcomes.push(("unsubscribe", connection.unsubscribe(std::slice::from_ref(&topic)).await));
    let script = connection.ask_one(cmd("SCRIPT").arg("LOAD").arg(SCRIPT).take()).await;
    let hash = script.as_ref().map(|hash| texts(&Value::Array(vec![hash.clone()])).concat()).unwrap_or_default();
    outcomes.push(("script", script.map(|_| ())));
    let commands: [(&str, Cmd); 5] = [
        ("publish", cmd(publish).arg(&topic).arg("").take()),
        ("set", cmd("SET").arg(&key).arg("1").arg("PX").arg(KEY_MILLISECONDS).take()),
        ("get", cmd("GET").arg(&key).take()),
        ("evalsha", cmd("EVALSHA").arg(hash).arg(1).arg(&key).take()),
        ("del", cmd("DEL").arg(&key).take()),
    ];
    for (name, command) in commands {
        outcomes.push((name, connection.ask_one(command).await.map(|_| ())));
    }
    let is_denied = |error: &RedisError| error.to_string().contains("NOPERM") || error.code() == Some("NOPERM");
    let denied: Vec<&str> = outcomes
        .iter()
        .filter(|(name, outcome)| {
            // Without the script there is none to call.
            outcome.as_ref().is_err_and(is_denied) && *name != "unsubscribe"
        })
        .map(|(name, _)| *name)
        .collect();
    let mut steps = Vec::new();
    if !denied.is_empty() {
        let detail = format!("{}: no permission to {} under {}:", options.place(), denied.join(", "), names.start());
        steps.push(Step::failed(STEP, Cause::RedisRights, detail));
    }
    let is_new = |error: &&RedisError| !is_denied(error) && !error.to_string().contains("NOSCRIPT");
    let error = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).find(is_new);
    steps.extend(error.map(|error| failed(error, options)));
    steps
}

/// Whether a Soketi server listens under the same prefix.
async fn soketi(connection: &mut RedisConnection, names: &Names) -> Option<Step> {
    let topics = names.soketi();
    let answer = connection.ask_one(cmd("PUBSUB").arg("NUMSUB").arg(&topics[..]).take()).await.ok()?;
    let counts = |value: &Value| matches!(value, Value::Int(count) if *count > 0);
    let is_there = match &answer {
        Value::Array(parts) => parts.iter().any(counts),
        Value::Map(topics) => topics.iter().any(|(_, count)| counts(count)),
        _ => false,
    };
    is_there.then(|| Step::failed(STEP, Cause::RedisSoketi, ""))
}

/// Whether nodes are there that have no app of this configuration.
async fn others(connection: &mut RedisConnection, names: &Names, apps: &[App]) -> Option<Step> {
    let leases = connection.ask_one(cmd("ZRANGE").arg(names.leases()).arg(0).arg(-1).take()).await.ok()?;
    for node in texts(&leases).iter().filter_map(|node| NodeId::parse(node)) {
        let answer = connection.ask_one(cmd("SMEMBERS").arg(names.apps(node)).take()).await.ok()?;
        let theirs = texts(&answer);
        let is_ours = |id: &String| apps.iter().any(|app| app.id == *id);
        if !theirs.is_empty() && !theirs.iter().any(is_ours) {
            return Some(Step::failed(STEP, Cause::RedisOtherCluster, format!("they have {}", theirs.join(", "))));
        }
    }
    None
}
