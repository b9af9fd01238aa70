//! A connection to Redis: to one server, to the one that Sentinels name, or to a Redis Cluster.
//! Each link opens one or two.

use std::time::Duration;

use indexmap::IndexMap;
use redis::AsyncConnectionConfig;
use redis::Client;
use redis::Cmd;
use redis::ConnectionAddr;
use redis::ConnectionInfo;
use redis::IntoConnectionInfo;
use redis::ProtocolVersion;
use redis::PushInfo;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::RedisResult;
use redis::TlsMode;
use redis::Value;
use redis::aio::ConnectionLike;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Route;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::cluster_routing::Slot;
use redis::cluster_routing::SlotAddr;
use tokio::runtime::Handle;

use crate::config;
use crate::config::host_and_port;
use crate::redis::error::is_of_a_moving_slot;
use crate::redis::error::is_of_one_command;
use crate::redis::error::is_of_the_link;
use crate::redis::sentinel;
use crate::redis::sentinel::Master;

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long an answer may take. A connection without one counts as lost.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How often a quiet connection is asked whether it still lives.
pub const PING: Duration = Duration::from_secs(2);

/// How often a slot that moves to another master of a Redis Cluster is tried …
const ARRIVAL_TRIES: usize = 20;
/// … and the pause in between. After that its commands are refused.
const ARRIVAL_PAUSE: Duration = Duration::from_millis(50);

/// A connection that sends commands and receives topics. Clones share it.
#[derive(Clone)]
pub enum RedisConnection {
    /// To one server, which Sentinels may have named.
    One(MultiplexedConnection, Option<Master>),
    /// To the masters of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisConnection(..)")
    }
}

impl RedisConnection {
    /// Connects. Push messages of Redis go to `on_push`, on the connection's own task.
    pub async fn open(
        options: &config::Redis,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        if options.cluster_nodes.is_empty() {
            return open_one(options, on_push).await.map(|(connection, master)| Self::One(connection, master));
        }
        let client = cluster_client(options)?.push_sender(sender(on_push)).build()?;
        Ok(Self::Cluster(client.get_async_connection().await?))
    }

    /// Same as [`RedisConnection::open`], but the connection's task runs on this runtime, so `on_push` may block its
    /// thread.
    pub async fn open_on(
        runtime: &Handle,
        options: &config::Redis,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let options = options.clone();
        let opened = runtime.spawn(async move { Self::open(&options, on_push).await });
        opened.await.map_err(std::io::Error::other)?
    }

    /// Sends commands, which Redis carries out in this order. Each has an answer of its own. Without commands nothing
    /// is sent: the library refuses an empty pipeline.
    pub async fn ask(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::One(connection, _) => {
                let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.ignore_errors().query_async(connection).await
            }
            Self::Cluster(connection) => ask_cluster(connection, &commands).await,
        }
    }

    /// Same as [`RedisConnection::ask`], but an error that keeps Redis from doing anything, such as a lack of memory,
    /// is an error of the whole call.
    pub async fn ask_each(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        let answers = self.ask(commands).await?;
        let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        match errors.find(|error| !is_of_one_command(error)).cloned() {
            Some(error) => Err(error),
            None => Ok(answers),
        }
    }

    /// Sends one command.
    pub async fn ask_one(&mut self, command: Cmd) -> RedisResult<Value> {
        self.ask(vec![command]).await?.pop().unwrap_or(Ok(Value::Nil))
    }

    /// Subscribes to topics. Ends when Redis has confirmed it.
    pub async fn subscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        if topics.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection, _) => connection.subscribe(topics).await,
            Self::Cluster(connection) => {
                let each = topics.iter().map(|topic| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(topic).await }
                });
                futures_util::future::try_join_all(each).await.map(|_| ())
            }
        }
    }

    /// Unsubscribes from topics.
    pub async fn unsubscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        if topics.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection, _) => connection.unsubscribe(topics).await,
            Self::Cluster(connection) => {
                for topic in topics {
                    connection.sunsubscribe(topic).await?;
                }
                Ok(())
            }
        }
    }

    /// Subscribes to all topics that match. Ends when Redis has confirmed it. It does not receive messages that a Redis
    /// Cluster publishes in one slot.
    pub async fn psubscribe(&mut self, globs: &[String]) -> RedisResult<()> {
        if globs.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection, _) => connection.psubscribe(globs).await,
            Self::Cluster(connection) => connection.psubscribe(globs).await,
        }
    }

    /// Unsubscribes from patterns.
    pub async fn punsubscribe(&mut self, globs: &[String]) -> RedisResult<()> {
        if globs.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection, _) => connection.punsubscribe(globs).await,
            Self::Cluster(connection) => connection.punsubscribe(globs).await,
        }
    }

    /// Whether both lead to the same server, as far as Sentinels name it.
    pub fn is_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(_, master), Self::One(_, other)) => master == other,
            _ => true,
        }
    }

    /// Ends when the Sentinels have made another server the master. Never without Sentinels.
    pub async fn superseded(&self, options: &config::Redis) -> RedisError {
        match self {
            Self::One(_, master) => superseded(options, master.as_ref()).await,
            Self::Cluster(_) => std::future::pending().await,
        }
    }

    /// The command that publishes on a topic.
    pub fn publish(&self) -> &'static str {
        match self {
            Self::One(..) => "PUBLISH",
            Self::Cluster(_) => "SPUBLISH",
        }
    }
}

/// Ends when the Sentinels have made another server the master. Never if they have not named this one.
pub async fn superseded(options: &config::Redis, master: Option<&Master>) -> RedisError {
    match master {
        Some(master) => sentinel::superseded(options, master).await,
        None => std::future::pending().await,
    }
}

/// Connects to one server: to that of a Redis Cluster which answers first, where plain pub/sub reaches all of them.
/// Returns it with the master if Sentinels have named it.
pub async fn open_one(
    options: &config::Redis,
    on_push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> RedisResult<(MultiplexedConnection, Option<Master>)> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIME))
        .set_response_timeout(Some(ANSWER_TIME))
        .set_push_sender(sender(on_push));
    let mut master = None;
    let clients = match () {
        () if !options.sentinels.is_empty() => {
            let Master { host, port, .. } = master.insert(sentinel::master(options).await?);
            let info = address(host, *port, tls_mode(options)).into_connection_info()?;
            vec![Client::open(login(info, options))?]
        }
        () if !options.cluster_nodes.is_empty() => {
            let mut nodes = addresses(&options.cluster_nodes, tls_mode(options));
            // Not everybody to the same one.
            let first = rand::random_range(0..nodes.len().max(1));
            nodes.rotate_left(first);
            let client = |node: ConnectionAddr| Client::open(login(node.into_connection_info()?, options));
            nodes.into_iter().map(client).collect::<RedisResult<_>>()?
        }
        () => vec![Client::open(connection_info(options)?)?],
    };
    let mut outcome = Err(std::io::Error::other("redis.cluster_nodes names no node").into());
    for client in clients {
        outcome = client.get_multiplexed_async_connection_with_config(&settings).await;
        if outcome.is_ok() {
            break;
        }
    }
    Ok((outcome?, master))
}

/// Calls `on_push` in the form that the library needs.
fn sender(on_push: impl Fn(PushInfo) + Send + Sync + 'static) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync {
    move |info| {
        on_push(info);
        Ok(())
    }
}

/// Like [`RedisConnection::ask`] on a Redis Cluster. Commands for a slot that is moving to another master are sent
/// again, in the same order, until it has arrived.
async fn ask_cluster(connection: &ClusterConnection, commands: &[Cmd]) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut answers = ask_together(connection, commands).await?;
    for _ in 0..ARRIVAL_TRIES {
        let (late, again): (Vec<usize>, Vec<Cmd>) = answers
            .iter()
            .zip(commands)
            .enumerate()
            .filter(|(_, (answer, _))| answer.as_ref().is_err_and(is_of_a_moving_slot))
            .map(|(place, (_, command))| (place, command.clone()))
            .unzip();
        if late.is_empty() {
            break;
        }
        tokio::time::sleep(ARRIVAL_PAUSE).await;
        for (place, answer) in late.into_iter().zip(ask_together(connection, &again).await?) {
            answers[place] = answer;
        }
    }
    Ok(answers)
}

/// Sends the commands for each slot together, so that they are carried out in this order.
async fn ask_together(connection: &ClusterConnection, commands: &[Cmd]) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut parts: IndexMap<Option<Slot>, Vec<usize>> = IndexMap::new();
    for (place, command) in commands.iter().enumerate() {
        parts.entry(slot_of(command)).or_default().push(place);
    }
    let asked = parts.iter().map(|(slot, places)| {
        let commands: Vec<&Cmd> = places.iter().map(|&place| &commands[place]).collect();
        ask_slot(connection.clone(), *slot, commands)
    });
    let mut answers: Vec<(usize, RedisResult<Value>)> = Vec::with_capacity(commands.len());
    for (places, part) in parts.values().zip(futures_util::future::join_all(asked).await) {
        match part {
            Ok(part) => answers.extend(places.iter().copied().zip(part)),
            Err(error) if is_of_the_link(&error) => return Err(error),
            Err(error) => answers.extend(places.iter().map(|&place| (place, Err(error.clone())))),
        }
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Sends commands to the master of a slot. Those without a slot go to all masters.
async fn ask_slot(
    mut connection: ClusterConnection,
    slot: Option<Slot>,
    commands: Vec<&Cmd>,
) -> RedisResult<Vec<RedisResult<Value>>> {
    let Some(slot) = slot else {
        let mut answers = Vec::new();
        for command in commands {
            answers.push(connection.req_packed_command(command).await?.extract_error());
        }
        return Ok(answers);
    };
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    let count = commands.len();
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let master = SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master));
    let answers = connection.route_pipeline(pipeline, 0, count, master).await?;
    Ok(answers.into_iter().map(Value::extract_error).collect())
}

/// The slot of a command's first key or topic.
fn slot_of(command: &Cmd) -> Option<Slot> {
    let argument = |place| match command.args_iter().nth(place) {
        Some(redis::Arg::Simple(text)) => Some(text),
        _ => None,
    };
    match argument(0)? {
        b"PING" | b"SCRIPT" | b"PUBSUB" => None,
        b"EVALSHA" => argument(3).map(Slot::for_key),
        _ => argument(1).map(Slot::for_key),
    }
}

fn address(host: &str, port: u16, tls: Option<TlsMode>) -> ConnectionAddr {
    match tls {
        Some(mode) => {
            let insecure = matches!(mode, TlsMode::Insecure);
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure, tls_params: None }
        }
        None => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

fn addresses(nodes: &[String], tls: Option<TlsMode>) -> Vec<ConnectionAddr> {
    nodes.iter().filter_map(|node| host_and_port(node)).map(|(host, port)| address(host, port, tls)).collect()
}

/// Whether to use TLS, and to check the certificate.
fn tls_mode(options: &config::Redis) -> Option<TlsMode> {
    options.tls.then_some(if options.tls_verify { TlsMode::Secure } else { TlsMode::Insecure })
}

fn connection_info(options: &config::Redis) -> RedisResult<ConnectionInfo> {
    if !options.url.is_empty() {
        let info = options.url.expose_text().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let address = match info.addr() {
            ConnectionAddr::TcpTls { host, port, .. } if !options.tls_verify => {
                address(host, *port, Some(TlsMode::Insecure))
            }
            address => address.clone(),
        };
        return Ok(address.into_connection_info()?.set_redis_settings(settings));
    }
    Ok(login(address(&options.host, options.port, tls_mode(options)).into_connection_info()?, options))
}

fn login(info: ConnectionInfo, options: &config::Redis) -> ConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_db(options.db).set_protocol(ProtocolVersion::RESP3);
    if !options.password.is_empty() {
        settings = settings.set_password(options.password.expose_text());
        if !options.username.is_empty() {
            settings = settings.set_username(&options.username);
        }
    }
    info.set_redis_settings(settings)
}

fn cluster_client(options: &config::Redis) -> RedisResult<redis::cluster::ClusterClientBuilder> {
    let nodes = addresses(&options.cluster_nodes, tls_mode(options));
    let mut builder = ClusterClient::builder(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(CONNECT_TIME)
        .response_timeout(ANSWER_TIME)
        .overall_response_timeout(Some(ANSWER_TIME))
        // A command that the library repeats may be overtaken by later ones.
        .retries(0);
    if !options.password.is_empty() {
        builder = builder.password(options.password.expose_text());
        if !options.username.is_empty() {
            builder = builder.username(&options.username);
        }
    }
    Ok(builder)
}
