//! Sentinels: they name the master, and say when another server has taken its place. The old one may still answer then, as
//! after a pause, until the Sentinels have made it a replica.
//! `connection` asks them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::AsyncConnectionConfig;
use redis::Client;
use redis::ConnectionAddr;
use redis::IntoConnectionInfo;
use redis::ProtocolVersion;
use redis::PushInfo;
use redis::PushKind;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio::time::timeout_at;

use crate::config;
use crate::config::host_and_port;
use crate::redis::error::fault;

/// How long a Sentinel may take to connect, and then for each answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How much longer than the first Sentinel the others may take. One that is late with a failover is not alone then.
const OTHERS_TIME: Duration = Duration::from_millis(500);
/// How often a Sentinel is asked for the master, in case it has not announced another one.
const LOOK: Duration = Duration::from_secs(1);

/// A server that a Sentinel names as the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its name or address.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// The Sentinels' number for it, which grows with each failover.
    epoch: u64,
}

/// The master that the Sentinels name. If they differ, the latest one counts.
pub(super) async fn master(options: &config::Redis) -> RedisResult<Master> {
    let ask = |client: Client| async move {
        let mut sentinel = client.get_multiplexed_async_connection_with_config(&settings()).await?;
        ask(&mut sentinel, &options.sentinel_master).await
    };
    let mut answers: FuturesUnordered<_> = clients(options, ProtocolVersion::RESP2)?.into_iter().map(ask).collect();
    let (mut latest, mut failed, mut until): (Option<Master>, _, _) = (None, None, Instant::now() + 2 * ANSWER_TIME);
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        match answer {
            Ok(master) => {
                until = until.min(Instant::now() + OTHERS_TIME);
                latest = latest.filter(|latest| latest.epoch >= master.epoch).or(Some(master));
            }
            Err(error) => failed = Some(error),
        }
    }
    let cause = failed.map_or("none answers in time".to_owned(), |error| error.to_string());
    latest.ok_or_else(|| std::io::Error::other(format!("no Sentinel names the master: {cause}")).into())
}

/// Ends when a Sentinel names another server as the master, after a later failover.
pub(super) async fn superseded(options: &config::Redis, master: &Master) -> RedisError {
    let follow = |client: Client| async move {
        while follow(&client, &options.sentinel_master, master).await.is_err() {
            sleep(LOOK).await;
        }
    };
    // Only with this protocol a connection that listens can ask.
    let clients = clients(options, ProtocolVersion::RESP3).unwrap_or_default();
    let mut followed: FuturesUnordered<_> = clients.into_iter().map(follow).collect();
    if followed.next().await.is_none() {
        std::future::pending::<()>().await;
    }
    fault("the Sentinels have made another server the master")
}

/// Ends when this Sentinel names a later master.
async fn follow(client: &Client, name: &str, master: &Master) -> RedisResult<()> {
    let switched = Arc::new(Notify::new());
    let on_push = {
        let switched = Arc::clone(&switched);
        move |push: PushInfo| {
            if push.kind == PushKind::Message {
                switched.notify_one();
            }
            Ok::<(), ()>(())
        }
    };
    let settings = settings().set_push_sender(on_push);
    let mut sentinel = client.get_multiplexed_async_connection_with_config(&settings).await?;
    // A Sentinel may not permit it.
    let _ = sentinel.subscribe("+switch-master").await;
    loop {
        let named = ask(&mut sentinel, name).await?;
        if named.epoch > master.epoch && (&named.host, named.port) != (&master.host, master.port) {
            return Ok(());
        }
        let _ = timeout(LOOK, switched.notified()).await;
    }
}

/// Asks a Sentinel for the master.
async fn ask(sentinel: &mut MultiplexedConnection, name: &str) -> RedisResult<Master> {
    let mut questions = redis::pipe();
    questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    questions.cmd("SENTINEL").arg("MASTER").arg(name);
    let (named, state): (Option<(String, u16)>, HashMap<String, String>) = questions.query_async(sentinel).await?;
    let (host, port) = named.ok_or(fault("it knows no such master"))?;
    let of_state = |field: &str| state.get(field).map(String::as_str).unwrap_or_default();
    // In the midst of a failover the state is that of the old master.
    let is_same = of_state("ip") == host && of_state("port").parse() == Ok(port);
    if is_same && of_state("flags").contains("_down") {
        return Err(fault("the master is down"));
    }
    Ok(Master { host, port, epoch: of_state("config-epoch").parse().unwrap_or_default() })
}

fn settings() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER_TIME)).set_response_timeout(Some(ANSWER_TIME))
}

fn clients(options: &config::Redis, protocol: ProtocolVersion) -> RedisResult<Vec<Client>> {
    let client = |(host, port): (&str, u16)| {
        let mut settings = RedisConnectionInfo::default().set_protocol(protocol);
        if !options.sentinel_password.is_empty() {
            settings = settings.set_password(options.sentinel_password.expose_text());
        }
        let address = ConnectionAddr::Tcp(host.to_owned(), port).into_connection_info()?;
        Client::open(address.set_redis_settings(settings))
    };
    options.sentinels.iter().filter_map(|sentinel| host_and_port(sentinel)).map(client).collect()
}
