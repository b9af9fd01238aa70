//! A connection to Redis: to one server, to the one that Sentinels name, or to a Redis Cluster.

use std::ops::RangeInclusive;
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
use redis::sentinel::SentinelClientBuilder;
use redis::sentinel::SentinelServerType;

use crate::config;
use crate::config::host_and_port;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Between two tries to connect: from the first to the second, and so on.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);
/// How long an answer may take; then the connection counts as lost.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A slot that moves from one master of a Redis Cluster to another has this often …
const ARRIVAL_TRIES: usize = 20;
/// … this time to arrive; then what belongs to it is refused.
const ARRIVAL_PAUSE: Duration = Duration::from_millis(50);

/// See the module. Clones share the connection.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    One(MultiplexedConnection),
    /// To the masters of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection(..)")
    }
}

impl Connection {
    /// Connects. What Redis says unasked goes to `hear`, on the connection's own task.
    pub async fn open(options: &config::Redis, hear: impl Fn(PushInfo) + Send + Sync + 'static) -> RedisResult<Self> {
        if options.cluster_nodes.is_empty() {
            return open_one(options, hear).await.map(Self::One);
        }
        let client = cluster_client(options)?.push_sender(sender(hear)).build()?;
        Ok(Self::Cluster(client.get_async_connection().await?))
    }

    /// Does all of these in this order; each has an answer of its own. Nothing is asked for no commands: the library
    /// refuses an empty pipeline.
    pub async fn ask(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::One(connection) => {
                let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.ignore_errors().query_async(connection).await
            }
            Self::Cluster(connection) => ask_cluster(connection, &commands).await,
        }
    }

    /// The same, but what keeps Redis from doing anything, such as a lack of memory, is an error of all of them.
    pub async fn ask_each(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        let answers = self.ask(commands).await?;
        let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        match errors.find(|error| !is_of_one_command(error)).cloned() {
            Some(error) => Err(error),
            None => Ok(answers),
        }
    }

    /// Does one thing.
    pub async fn ask_one(&mut self, command: Cmd) -> RedisResult<Value> {
        self.ask(vec![command]).await?.pop().unwrap_or(Ok(Value::Nil))
    }

    /// Begins to listen; ends when Redis has confirmed it.
    pub(super) async fn subscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        if topics.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) => connection.subscribe(topics).await,
            Self::Cluster(connection) => {
                let each = topics.iter().map(|topic| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(topic).await }
                });
                futures_util::future::try_join_all(each).await.map(|_| ())
            }
        }
    }

    /// Listens no longer.
    pub(super) async fn unsubscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        if topics.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) => connection.unsubscribe(topics).await,
            Self::Cluster(connection) => {
                for topic in topics {
                    connection.sunsubscribe(topic).await?;
                }
                Ok(())
            }
        }
    }

    /// Begins to listen to all topics that match; ends when Redis has confirmed it. What a Redis Cluster tells to one
    /// slot is not heard so.
    pub(super) async fn psubscribe(&mut self, globs: &[String]) -> RedisResult<()> {
        if globs.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) => connection.psubscribe(globs).await,
            Self::Cluster(connection) => connection.psubscribe(globs).await,
        }
    }

    /// Listens to them no longer.
    pub(super) async fn punsubscribe(&mut self, globs: &[String]) -> RedisResult<()> {
        if globs.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) => connection.punsubscribe(globs).await,
            Self::Cluster(connection) => connection.punsubscribe(globs).await,
        }
    }

    /// The command that tells something on a topic.
    pub(super) fn publish(&self) -> &'static str {
        match self {
            Self::One(_) => "PUBLISH",
            Self::Cluster(_) => "SPUBLISH",
        }
    }
}

/// Connects to one server: to that of a Redis Cluster which answers first, where plain pub/sub reaches all of them.
pub(crate) async fn open_one(
    options: &config::Redis,
    hear: impl Fn(PushInfo) + Send + Sync + 'static,
) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIME))
        .set_response_timeout(Some(ANSWER_TIME))
        .set_push_sender(sender(hear));
    let clients = match () {
        () if !options.sentinels.is_empty() => {
            vec![tokio::time::timeout(ANSWER_TIME, master(options)).await.map_err(std::io::Error::from)??]
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
    outcome
}

/// What the library wants of those who hear.
fn sender(hear: impl Fn(PushInfo) + Send + Sync + 'static) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync {
    move |info| {
        hear(info);
        Ok(())
    }
}

/// Pauses between tries to connect, longer and longer, and not at the same time on every node.
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(*RETRY.start())
    }
}

impl Backoff {
    /// How long a connection must have held for the next one to be tried at once.
    pub(crate) const STABLE: Duration = *RETRY.end();

    /// Waits for the next try.
    pub(crate) async fn pause(&mut self) {
        let jitter = rand::random_range(0.75..1.25);
        tokio::time::sleep(self.0.mul_f64(jitter)).await;
        self.0 = (self.0 * 2).min(*RETRY.end());
    }
}

/// The same on a Redis Cluster. What belongs to a slot that is on its way to another master is asked again, in the
/// same order, until it has arrived.
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

/// Those for the same slot go out as one, so that they are done in this order.
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

/// Asks the master of a slot. What has no slot is for all masters.
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
    let word = |place| match command.args_iter().nth(place) {
        Some(redis::Arg::Simple(word)) => Some(word),
        _ => None,
    };
    match word(0)? {
        b"PING" | b"SCRIPT" | b"PUBSUB" => None,
        b"EVALSHA" => word(3).map(Slot::for_key),
        _ => word(1).map(Slot::for_key),
    }
}

/// Whether the key is not, or not yet, where the slot is going.
fn is_of_a_moving_slot(error: &redis::RedisError) -> bool {
    error.code().is_some_and(|code| ["ASK", "TRYAGAIN"].contains(&code))
}

/// What an operator can do about an error that says it only to those who know Redis well.
pub(crate) fn advice(error: &redis::RedisError, options: &config::Redis) -> Option<&'static str> {
    let text = error.to_string();
    let has_all = |parts: &[&str]| parts.iter().all(|part| text.contains(part));
    match () {
        () if has_all(&["unknown command", "HELLO"]) => Some("Redis must be version 6.0 or later"),
        () if has_all(&["unknown command", "SSUBSCRIBE"]) => Some("a Redis Cluster must be version 7.0 or later"),
        () if error.code() == Some("MOVED") && options.cluster_nodes.is_empty() => {
            Some("this is a node of a Redis Cluster; name it in redis.cluster_nodes")
        }
        () if has_all(&["UnknownIssuer"]) => Some(
            "SSL_CERT_FILE may name a file with the authority's certificate; redis.tls_verify = false takes any, which is \
             safe on a network of your own only",
        ),
        () if has_all(&["CertificateRequired"]) => {
            Some("gema has no certificate of its own to show; Redis must run with tls-auth-clients no")
        }
        () => None,
    }
}

/// Whether it is not Redis' answer to one command that is wrong.
fn is_of_the_link(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// Whether it is only a command's own key that is wrong. Redis before 7 calls whatever a script runs into an ERR.
fn is_of_one_command(error: &redis::RedisError) -> bool {
    let text = error.to_string();
    matches!(error.code(), Some("ERR" | "WRONGTYPE"))
        && !["OOM", "READONLY", "MISCONF"].iter().any(|code| text.contains(code))
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

/// Whether to speak TLS, and with whom.
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

/// The server that the Sentinels name.
async fn master(options: &config::Redis) -> RedisResult<Client> {
    let sentinels = addresses(&options.sentinels, None);
    let mut builder = SentinelClientBuilder::new(sentinels, &options.sentinel_master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(options.db);
    if let Some(mode) = tls_mode(options) {
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    if !options.sentinel_password.is_empty() {
        builder = builder.set_client_to_sentinel_password(options.sentinel_password.expose_text());
    }
    if !options.password.is_empty() {
        builder = builder.set_client_to_redis_password(options.password.expose_text());
        if !options.username.is_empty() {
            builder = builder.set_client_to_redis_username(&options.username);
        }
    }
    let named = builder.build()?.async_get_client().await;
    named.map_err(|error| std::io::Error::other(format!("no Sentinel names the master: {error}")).into())
}

fn cluster_client(options: &config::Redis) -> RedisResult<redis::cluster::ClusterClientBuilder> {
    let nodes = addresses(&options.cluster_nodes, tls_mode(options));
    let mut builder = ClusterClient::builder(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(CONNECT_TIME)
        .response_timeout(ANSWER_TIME)
        .overall_response_timeout(Some(ANSWER_TIME))
        // What is tried again behind our back may overtake what came after it.
        .retries(0);
    if !options.password.is_empty() {
        builder = builder.password(options.password.expose_text());
        if !options.username.is_empty() {
            builder = builder.username(&options.username);
        }
    }
    Ok(builder)
}
