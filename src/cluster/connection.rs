//! A connection to Redis: to one server, to the one that Sentinels name, or to a Redis Cluster.

use std::time::Duration;

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
use redis::sentinel::SentinelClientBuilder;
use redis::sentinel::SentinelServerType;

use crate::config;
use crate::config::host_and_port;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long an answer may take; then the connection counts as lost.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// See the module. Clones share the connection.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects. What Redis says unasked goes to `hear`, on the connection's own task.
    pub(super) async fn open(
        options: &config::Redis,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let hear = move |info| {
            hear(info);
            Ok::<(), ()>(())
        };
        if !options.cluster_nodes.is_empty() {
            let client = cluster_client(options)?.push_sender(hear).build()?;
            return Ok(Self::Cluster(client.get_async_connection().await?));
        }
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME))
            .set_response_timeout(Some(ANSWER_TIME))
            .set_push_sender(hear);
        let client = match options.sentinels.is_empty() {
            true => Client::open(connection_info(options)?)?,
            false => tokio::time::timeout(ANSWER_TIME, master(options)).await.map_err(std::io::Error::from)??,
        };
        Ok(Self::One(client.get_multiplexed_async_connection_with_config(&settings).await?))
    }

    /// Does all of these in this order; each has an answer of its own.
    pub(super) async fn ask(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            Self::One(connection) => {
                let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.ignore_errors().query_async(connection).await
            }
            Self::Cluster(connection) => {
                // Begun in this order, so that those for the same slot are done in it.
                let answers = commands.iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(command).await }
                });
                let answers = futures_util::future::join_all(answers).await;
                match answers.iter().find_map(|answer| answer.as_ref().err().filter(|error| is_of_the_link(error))) {
                    Some(error) => Err(error.clone()),
                    None => Ok(answers),
                }
            }
        }
    }

    /// Does one thing.
    pub(super) async fn ask_one(&mut self, command: Cmd) -> RedisResult<Value> {
        self.ask(vec![command]).await?.pop().unwrap_or(Ok(Value::Nil))
    }

    /// Begins to listen; ends when Redis has confirmed it.
    pub(super) async fn subscribe(&mut self, topics: &[String]) -> RedisResult<()> {
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

    /// The command that tells something on a topic.
    pub(super) fn publish(&self) -> &'static str {
        match self {
            Self::One(_) => "PUBLISH",
            Self::Cluster(_) => "SPUBLISH",
        }
    }
}

/// Whether it is not Redis' answer to one command that is wrong.
fn is_of_the_link(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

fn address(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    match tls {
        true => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

fn addresses(nodes: &[String], tls: bool) -> Vec<ConnectionAddr> {
    nodes.iter().filter_map(|node| host_and_port(node)).map(|(host, port)| address(host, port, tls)).collect()
}

fn connection_info(options: &config::Redis) -> RedisResult<ConnectionInfo> {
    if !options.url.is_empty() {
        let info = options.url.expose_text().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        return Ok(info.set_redis_settings(settings));
    }
    let info = address(&options.host, options.port, options.tls).into_connection_info()?;
    let mut settings = RedisConnectionInfo::default().set_db(options.db).set_protocol(ProtocolVersion::RESP3);
    if !options.password.is_empty() {
        settings = settings.set_password(options.password.expose_text());
        if !options.username.is_empty() {
            settings = settings.set_username(&options.username);
        }
    }
    Ok(info.set_redis_settings(settings))
}

/// The server that the Sentinels name.
async fn master(options: &config::Redis) -> RedisResult<Client> {
    let sentinels = addresses(&options.sentinels, false);
    let mut builder = SentinelClientBuilder::new(sentinels, &options.sentinel_master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(options.db);
    if options.tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
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
    builder.build()?.async_get_client().await
}

fn cluster_client(options: &config::Redis) -> RedisResult<redis::cluster::ClusterClientBuilder> {
    let nodes = addresses(&options.cluster_nodes, options.tls);
    let mut builder = ClusterClient::builder(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(CONNECT_TIME)
        .response_timeout(ANSWER_TIME)
        .overall_response_timeout(Some(ANSWER_TIME))
        .retries(3);
    if !options.password.is_empty() {
        builder = builder.password(options.password.expose_text());
        if !options.username.is_empty() {
            builder = builder.username(&options.username);
        }
    }
    Ok(builder)
}
