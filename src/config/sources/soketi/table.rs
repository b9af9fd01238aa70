//! The table of foreign names and the settings that they mean: names of Soketi's variables and options, those in
//! configurations that were written for it, and Laravel's.

/// The meaning of a variable or an option.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum Means<'a> {
    /// Sets the key.
    Key(&'a str),
    /// Sets the key, which is in seconds.
    Milliseconds(&'a str),
    /// Sets the key, which is in bytes.
    Mebibytes(&'a str),
    /// Sets the key if nothing else does.
    Fallback(&'static str),
    /// Sets the key to one of these values; any other is a fault, for this reason.
    Choice(&'static str, &'static [&'static str], &'static str),
    /// Sets the key to the hosts and ports of a JSON array; a host without a port has this one.
    Nodes(&'static str, u16),
    /// Options of ioredis, of which TLS counts.
    Options,
    /// One option of ioredis.
    Ioredis(&'a str),
    /// Sets the key, which is in seconds, unless it means for ever.
    Lifetime(&'a str),
    /// Sets the key to the text without braces, which in a Redis Cluster choose a slot.
    Untagged(&'static str),
    /// Sets the name of the cluster if its nodes meet in NATS.
    NatsPrefix,
    /// Switches on the first key if it is `true` or an object, which may switch off the second one.
    Tls(&'static str, &'static str),
    /// Whether Soketi looks at its cluster nodes.
    ClusterMode,
    /// How Laravel broadcasts; the first name counts.
    Broadcaster,
    /// Makes the log talkative.
    Talkative,
    /// Selects what is there once; anything else than these values is a fault, for this reason.
    Only(&'static [&'static str], &'static str),
    /// Belongs to what is not selected: without effect, for this reason, unless it has Soketi's default.
    Parameter(&'static str, &'static str),
}

#[cfg(test)]
impl<'a> Means<'a> {
    /// The key that it sets.
    pub(in crate::config) fn key(self) -> Option<&'a str> {
        match self {
            Key(key)
            | Milliseconds(key)
            | Mebibytes(key)
            | Lifetime(key)
            | Untagged(key)
            | Tls(key, _)
            | Fallback(key)
            | Choice(key, ..)
            | Nodes(key, _) => Some(key),
            NatsPrefix => Some("cluster.name"),
            Talkative => Some("log.level"),
            Options => Some("redis.tls"),
            Ioredis(_) | ClusterMode | Broadcaster | Only(..) | Parameter(..) => None,
        }
    }
}

#[cfg(test)]
use Means::{Broadcaster, Fallback};
use Means::{
    Choice, ClusterMode, Ioredis, Key, Lifetime, Mebibytes, Milliseconds, NatsPrefix, Nodes, Only, Options, Parameter,
    Talkative, Tls, Untagged,
};

const ADAPTERS: &str = "nodes meet in Redis or NATS; use redis or nats";
const NO_QUESTIONS: &str = "gema asks no other nodes";
const CLUSTER_ADAPTER: &str = "the adapter cluster is not selected";
const NODES: &str = "nodes find each other";
const APP_MANAGERS: &str = "apps are in the configuration as [[apps]], or in one of these databases";
const APP_CACHE: &str = "apps from a database are always kept for a while, see app_store.cache_seconds";
const SQL_VERSION: &str = "gema speaks with every version of that server";
const SQL_CLIENT: &str = "gema has a client of its own, see app_store.* for its settings";
const SQL_POOL: &str = "connections are made when they are needed, and kept, see app_store.connections_max";
const CACHES: &str = "nodes remember cached events where they meet, and one by itself in its memory";
const WORKERS: &str = "every node sends its webhooks itself, so none is left to a worker; leave the worker out";
const SQS_CLIENT: &str = "credentials come from AWS_ACCESS_KEY_ID and its like, and sqs.* has the rest";
const SQS_CONSUMER: &str = "gema takes messages out of the queue in its own way, see sqs.* for its settings";
const SQS_BATCH: &str = "messages that are taken out together are delivered together anyway";
const LIMITERS: &str = "nodes share limits by way of Redis; use redis";
const QUEUES: &str = "webhooks wait in gema's memory, in Redis or in SQS";
const ENDPOINTS: &str = "each endpoint gets one request after the other";

const METRICS: &str = "metrics are Prometheus', on metrics.port";
const CREDENTIALS: &str = "no answer of gema depends on cookies";
const MONITORING: &str = "gema's figures are its metrics, on metrics.port";
const SCALING: &str = "nodes become one server by adapter.driver; set it to redis if there are several";
const UNCOMPRESSED: &str = "gema compresses no messages";

/// Names that are not Soketi's, but in configurations that were written for it. A star is any name.
pub(in crate::config) const OTHERS: [(&str, Means<'static>); 20] = [
    ("server.cors.credentials", Parameter("true", CREDENTIALS)),
    ("server.cors.origin", Key("http.cors_origins")),
    ("server.cors.methods", Key("http.cors_methods")),
    ("server.cors.allowedHeaders", Key("http.cors_headers")),
    ("server.maxPayload", Key("connections.message_bytes_max")),
    ("server.perMessageDeflate", Parameter("false", UNCOMPRESSED)),
    ("database.driver", Parameter("", SCALING)),
    // Soketi hands these on to its clients of databases.
    ("database.redis.*", Ioredis("*")),
    ("database.mysql.ssl", Tls("mysql.tls", "mysql.tls_verify")),
    ("database.mysql.*", Parameter("", SQL_CLIENT)),
    ("database.postgres.ssl", Tls("postgres.tls", "postgres.tls_verify")),
    ("database.postgres.*", Parameter("", SQL_CLIENT)),
    ("metrics.redis", Parameter("", METRICS)),
    ("monitoring", Parameter("", MONITORING)),
    ("statistics", Parameter("", MONITORING)),
    ("appManager.array.apps.*.enableStatistics", Parameter("", MONITORING)),
    ("appManager.array.apps.*.enableStatistic", Parameter("", MONITORING)),
    ("appManager.array.apps.*.enableStats", Parameter("", MONITORING)),
    ("appManager.array.apps.*.enable_statistics", Parameter("", MONITORING)),
    ("appManager.array.apps.*.enable_stats", Parameter("", MONITORING)),
];

/// The meaning of `option` in a file.
pub(in crate::config) fn option(option: &str) -> Option<Means<'static>> {
    let soketis = TABLE.iter().find(|(_, name, _)| *name == option).map(|(_, _, means)| *means);
    let others = || OTHERS.iter().find(|(name, _)| *name == option).map(|(_, means)| *means);
    soketis.or_else(others)
}

/// Every name that stands for one value in a file.
pub(in crate::config) fn options<'a>() -> impl Iterator<Item = &'a str> {
    let others = OTHERS.iter().map(|(name, _)| -> &'a str { name });
    TABLE.iter().map(|(_, name, _)| -> &'a str { name }).chain(others).filter(|name| !name.contains('*'))
}

/// Laravel's names for the first app and for Redis.
pub(in crate::config) const LARAVEL: [(&str, &str); 9] = [
    ("PUSHER_APP_ID", "apps.0.id"),
    ("PUSHER_APP_KEY", "apps.0.key"),
    ("PUSHER_APP_SECRET", "apps.0.secret"),
    ("REDIS_URL", "redis.url"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_DB", "redis.db"),
    ("REDIS_USERNAME", "redis.username"),
    ("REDIS_PASSWORD", "redis.password"),
];

/// Laravel's names for the way of its events, the newer one first.
pub(in crate::config) const BROADCASTER: [&str; 2] = ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"];

const WEBSOCKETS_PAGE: &str = "it is about laravel-websockets' own page; gema's is at /dashboard on metrics.port";
const WEBSOCKETS_PORT: &str = "it is where laravel-websockets' own page connects, not where the server listens; set SOKETI_PORT or start with --port";
const WEBSOCKETS_TLS: &str = "gema reads TLS by its own names; set SOKETI_SSL_CERT, SOKETI_SSL_KEY and SOKETI_SSL_PASS to the same, or remove it";
const WEBSOCKETS_NODES: &str = "several nodes are switched on by gema's own name; set SOKETI_ADAPTER_DRIVER=redis";
const WEBSOCKETS_REDIS: &str = "Redis has the address of REDIS_URL or REDIS_HOST";

/// The variables of laravel-websockets, 1.x and 2.x, apart from those that are Laravel's. None of them sets anything:
/// they are often left over in a `.env` of today.
pub(in crate::config) const LARAVEL_WEBSOCKETS: [(&str, Means<'static>); 14] = [
    ("LARAVEL_WEBSOCKETS_PORT", Parameter("6001", WEBSOCKETS_PORT)),
    ("LARAVEL_WEBSOCKETS_DOMAIN", Parameter("", WEBSOCKETS_PAGE)),
    ("LARAVEL_WEBSOCKETS_PATH", Parameter("", WEBSOCKETS_PAGE)),
    ("LARAVEL_WEBSOCKETS_STATISTICS_DRIVER", Parameter("", MONITORING)),
    ("LARAVEL_WEBSOCKETS_SSL_LOCAL_CERT", Parameter("", WEBSOCKETS_TLS)),
    ("LARAVEL_WEBSOCKETS_SSL_CA", Parameter("", WEBSOCKETS_TLS)),
    ("LARAVEL_WEBSOCKETS_SSL_LOCAL_PK", Parameter("", WEBSOCKETS_TLS)),
    ("LARAVEL_WEBSOCKETS_SSL_PASSPHRASE", Parameter("", WEBSOCKETS_TLS)),
    ("LARAVEL_WEBSOCKETS_REPLICATION_DRIVER", Parameter("local", WEBSOCKETS_NODES)),
    ("LARAVEL_WEBSOCKETS_REPLICATION_CONNECTION", Parameter("default", WEBSOCKETS_REDIS)),
    ("WEBSOCKETS_REPLICATION_MODE", Parameter("local", WEBSOCKETS_NODES)),
    ("WEBSOCKETS_REDIS_REPLICATION_CONNECTION", Parameter("default", WEBSOCKETS_REDIS)),
    ("PUSHER_APP_HOST", Parameter("", WEBSOCKETS_PAGE)),
    ("PUSHER_APP_PATH", Parameter("", WEBSOCKETS_PAGE)),
];

/// Every variable of Soketi 1.6.1 without the `SOKETI_` before it, and every option as it is called in a file.
/// An option without a variable has no name there.
#[rustfmt::skip]
pub(in crate::config) const TABLE: [(&str, &str, Means<'static>); 122] = [
    ("ADAPTER_DRIVER", "adapter.driver", Choice("cluster.driver", &["local", "redis", "nats"], ADAPTERS)),
    ("ADAPTER_REDIS_REQUESTS_TIMEOUT", "adapter.redis.requestsTimeout", Parameter("5000", NO_QUESTIONS)),
    ("ADAPTER_REDIS_PREFIX", "adapter.redis.prefix", Untagged("cluster.name")),
    ("ADAPTER_REDIS_PUB_OPTIONS", "adapter.redis.redisPubOptions", Options),
    ("ADAPTER_REDIS_SUB_OPTIONS", "adapter.redis.redisSubOptions", Options),
    ("ADAPTER_REDIS_CLUSTER_MODE", "adapter.redis.clusterMode", ClusterMode),
    ("ADAPTER_CLUSTER_REQUESTS_TIMEOUT", "adapter.cluster.requestsTimeout", Parameter("5000", CLUSTER_ADAPTER)),
    ("ADAPTER_NATS_REQUESTS_TIMEOUT", "adapter.nats.requestsTimeout", Parameter("5000", NO_QUESTIONS)),
    ("ADAPTER_NATS_PREFIX", "adapter.nats.prefix", NatsPrefix),
    ("ADAPTER_NATS_SERVERS", "adapter.nats.servers", Key("nats.servers")),
    ("ADAPTER_NATS_USER", "adapter.nats.user", Key("nats.user")),
    ("ADAPTER_NATS_PASSWORD", "adapter.nats.pass", Key("nats.password")),
    ("ADAPTER_NATS_TOKEN", "adapter.nats.token", Key("nats.token")),
    ("ADAPTER_NATS_TIMEOUT", "adapter.nats.timeout", Milliseconds("nats.connect_seconds")),
    ("ADAPTER_NATS_NODES_NUMBER", "adapter.nats.nodesNumber", Parameter("", NODES)),
    ("APP_MANAGER_DRIVER", "appManager.driver", Choice("app_store.driver", &["array", "mysql", "mariadb", "postgres", "dynamodb"], APP_MANAGERS)),
    ("APP_MANAGER_CACHE_ENABLED", "appManager.cache.enabled", Parameter("false", APP_CACHE)),
    ("APP_MANAGER_CACHE_TTL", "appManager.cache.ttl", Lifetime("app_store.cache_seconds")),
    ("APP_MANAGER_DYNAMODB_TABLE", "appManager.dynamodb.table", Key("dynamodb.table")),
    ("APP_MANAGER_DYNAMODB_REGION", "appManager.dynamodb.region", Key("dynamodb.region")),
    ("APP_MANAGER_DYNAMODB_ENDPOINT", "appManager.dynamodb.endpoint", Key("dynamodb.endpoint")),
    ("APP_MANAGER_MYSQL_TABLE", "appManager.mysql.table", Key("mysql.table")),
    ("APP_MANAGER_MYSQL_VERSION", "appManager.mysql.version", Parameter("8.0", SQL_VERSION)),
    ("APP_MANAGER_MYSQL_USE_V2", "appManager.mysql.useMysql2", Parameter("false", SQL_CLIENT)),
    ("APP_MANAGER_POSTGRES_TABLE", "appManager.postgres.table", Key("postgres.table")),
    ("APP_MANAGER_POSTGRES_VERSION", "appManager.postgres.version", Parameter("13.3", SQL_VERSION)),
    ("CACHE_DRIVER", "cache.driver", Parameter("memory", CACHES)),
    ("CACHE_REDIS_OPTIONS", "cache.redis.redisOptions", Parameter("{}", CACHES)),
    ("CACHE_REDIS_CLUSTER_MODE", "cache.redis.clusterMode", Parameter("false", CACHES)),
    ("CHANNEL_LIMITS_MAX_NAME_LENGTH", "channelLimits.maxNameLength", Key("limits.max_channel_name_length")),
    ("CHANNEL_CACHE_TTL", "channelLimits.cacheTtl", Key("limits.cache_ttl_seconds")),
    ("CLUSTER_HOST", "cluster.hostname", Parameter("0.0.0.0", CLUSTER_ADAPTER)),
    ("CLUSTER_KEEPALIVE_INTERVAL", "cluster.helloInterval", Parameter("500", CLUSTER_ADAPTER)),
    ("CLUSTER_CHECK_INTERVAL", "cluster.checkInterval", Parameter("500", CLUSTER_ADAPTER)),
    ("CLUSTER_NODE_TIMEOUT", "cluster.nodeTimeout", Parameter("2000", CLUSTER_ADAPTER)),
    ("CLUSTER_MASTER_TIMEOUT", "cluster.masterTimeout", Parameter("2000", CLUSTER_ADAPTER)),
    ("CLUSTER_PORT", "cluster.port", Parameter("11002", CLUSTER_ADAPTER)),
    ("CLUSTER_PREFIX", "cluster.prefix", Parameter("", CLUSTER_ADAPTER)),
    ("CLUSTER_IGNORE_PROCESS", "cluster.ignoreProcess", Parameter("true", CLUSTER_ADAPTER)),
    ("CLUSTER_BROADCAST_ADDRESS", "cluster.broadcast", Parameter("255.255.255.255", CLUSTER_ADAPTER)),
    ("CLUSTER_UNICAST_ADDRESSES", "cluster.unicast", Parameter("", CLUSTER_ADAPTER)),
    ("CLUSTER_MULTICAST_ADDRESS", "cluster.multicast", Parameter("", CLUSTER_ADAPTER)),
    ("DB_MYSQL_HOST", "database.mysql.host", Key("mysql.host")),
    ("DB_MYSQL_PORT", "database.mysql.port", Key("mysql.port")),
    ("DB_MYSQL_USERNAME", "database.mysql.user", Key("mysql.username")),
    ("DB_MYSQL_PASSWORD", "database.mysql.password", Key("mysql.password")),
    ("DB_MYSQL_DATABASE", "database.mysql.database", Key("mysql.database")),
    ("DB_POSTGRES_HOST", "database.postgres.host", Key("postgres.host")),
    ("DB_POSTGRES_PORT", "database.postgres.port", Key("postgres.port")),
    ("DB_POSTGRES_USERNAME", "database.postgres.user", Key("postgres.username")),
    ("DB_POSTGRES_PASSWORD", "database.postgres.password", Key("postgres.password")),
    ("DB_POSTGRES_DATABASE", "database.postgres.database", Key("postgres.database")),
    ("DB_REDIS_HOST", "database.redis.host", Key("redis.host")),
    ("DB_REDIS_PORT", "database.redis.port", Key("redis.port")),
    ("DB_REDIS_DB", "database.redis.db", Key("redis.db")),
    ("DB_REDIS_USERNAME", "database.redis.username", Key("redis.username")),
    ("DB_REDIS_PASSWORD", "database.redis.password", Key("redis.password")),
    ("DB_REDIS_KEY_PREFIX", "database.redis.keyPrefix", Untagged("redis.key_prefix")),
    ("DB_REDIS_SENTINELS", "database.redis.sentinels", Nodes("redis.sentinels", 26379)),
    ("DB_REDIS_SENTINEL_PASSWORD", "database.redis.sentinelPassword", Key("redis.sentinel_password")),
    ("DB_REDIS_INSTANCE_NAME", "database.redis.name", Key("redis.sentinel_master")),
    ("DB_REDIS_CLUSTER_NODES", "database.redis.clusterNodes", Nodes("redis.cluster_nodes", 6379)),
    ("DB_POOLING_ENABLED", "databasePooling.enabled", Parameter("false", SQL_POOL)),
    ("DB_POOLING_MIN", "databasePooling.min", Parameter("0", SQL_POOL)),
    ("DB_POOLING_MAX", "databasePooling.max", Key("app_store.connections_max")),
    ("DEBUG", "debug", Talkative),
    ("EVENT_MAX_CHANNELS_AT_ONCE", "eventLimits.maxChannelsAtOnce", Key("limits.max_event_channels_at_once")),
    ("EVENT_MAX_NAME_LENGTH", "eventLimits.maxNameLength", Key("limits.max_event_name_length")),
    ("EVENT_MAX_SIZE_IN_KB", "eventLimits.maxPayloadInKb", Key("limits.max_event_payload_in_kb")),
    ("EVENT_MAX_BATCH_SIZE", "eventLimits.maxBatchSize", Key("limits.max_event_batch_size")),
    ("HOST", "host", Key("server.host")),
    ("HTTP_ACCEPT_TRAFFIC_MEMORY_THRESHOLD", "httpApi.acceptTraffic.memoryThreshold", Key("server.accept_traffic_memory_percent")),
    ("METRICS_ENABLED", "metrics.enabled", Key("metrics.enabled")),
    ("METRICS_DRIVER", "metrics.driver", Parameter("prometheus", METRICS)),
    ("METRICS_HOST", "metrics.host", Key("metrics.host")),
    ("METRICS_PROMETHEUS_PREFIX", "metrics.prometheus.prefix", Key("metrics.prefix")),
    ("METRICS_SERVER_PORT", "metrics.port", Key("metrics.port")),
    ("MODE", "mode", Only(&["full", "server"], WORKERS)),
    ("PORT", "port", Key("server.port")),
    ("PATH_PREFIX", "pathPrefix", Key("server.path_prefix")),
    ("PRESENCE_MAX_MEMBERS", "presence.maxMembersPerChannel", Key("limits.max_presence_members_per_channel")),
    ("PRESENCE_MAX_MEMBER_SIZE", "presence.maxMemberSizeInKb", Key("limits.max_presence_member_size_in_kb")),
    ("QUEUE_DRIVER", "queue.driver", Choice("webhooks.driver", &["sync", "redis", "sqs"], QUEUES)),
    ("QUEUE_REDIS_CONCURRENCY", "queue.redis.concurrency", Parameter("1", ENDPOINTS)),
    ("QUEUE_REDIS_OPTIONS", "queue.redis.redisOptions", Options),
    ("QUEUE_REDIS_CLUSTER_MODE", "queue.redis.clusterMode", ClusterMode),
    ("QUEUE_SQS_REGION", "queue.sqs.region", Key("sqs.region")),
    ("QUEUE_SQS_ENDPOINT", "queue.sqs.endpoint", Key("sqs.endpoint")),
    ("QUEUE_SQS_CLIENT_OPTIONS", "queue.sqs.clientOptions", Parameter("{}", SQS_CLIENT)),
    ("QUEUE_SQS_URL", "queue.sqs.queueUrl", Key("sqs.queue_url")),
    ("QUEUE_SQS_PROCESS_BATCH", "queue.sqs.processBatch", Parameter("false", SQS_BATCH)),
    ("QUEUE_SQS_BATCH_SIZE", "queue.sqs.batchSize", Key("sqs.batch_size")),
    ("QUEUE_SQS_POLLING_WAIT_TIME_MS", "queue.sqs.pollingWaitTimeMs", Milliseconds("sqs.polling_wait_seconds")),
    ("RATE_LIMITER_DRIVER", "rateLimiter.driver", Choice("limiter.driver", &["local", "redis"], LIMITERS)),
    ("RATE_LIMITER_REDIS_OPTIONS", "rateLimiter.redis.redisOptions", Options),
    ("RATE_LIMITER_REDIS_CLUSTER_MODE", "rateLimiter.redis.clusterMode", ClusterMode),
    ("SHUTDOWN_GRACE_PERIOD", "shutdownGracePeriod", Milliseconds("server.drain_seconds")),
    ("SSL_CERT", "ssl.certPath", Key("tls.cert_path")),
    ("SSL_KEY", "ssl.keyPath", Key("tls.key_path")),
    ("SSL_PASS", "ssl.passphrase", Key("tls.passphrase")),
    ("SSL_CA", "ssl.caPath", Key("tls.ca_path")),
    ("USER_AUTHENTICATION_TIMEOUT", "userAuthenticationTimeout", Milliseconds("limits.user_authentication_timeout_seconds")),
    ("WEBHOOKS_BATCHING", "webhooks.batching.enabled", Key("webhooks.batch")),
    ("WEBHOOKS_BATCHING_DURATION", "webhooks.batching.duration", Milliseconds("webhooks.batch_seconds")),
    ("", "cors.credentials", Parameter("true", CREDENTIALS)),
    ("", "cors.origin", Key("http.cors_origins")),
    ("", "cors.methods", Key("http.cors_methods")),
    ("", "cors.allowedHeaders", Key("http.cors_headers")),
    ("", "httpApi.requestLimitInMb", Mebibytes("http.request_bytes_max")),
    ("", "instance.process_id", Parameter("", "the system gives each process its number")),
    ("", "queue.sqs.consumerOptions", Parameter("{}", SQS_CONSUMER)),
    ("DEFAULT_APP_ID", "appManager.array.apps.0.id", Key("apps.0.id")),
    ("DEFAULT_APP_KEY", "appManager.array.apps.0.key", Key("apps.0.key")),
    ("DEFAULT_APP_SECRET", "appManager.array.apps.0.secret", Key("apps.0.secret")),
    ("DEFAULT_APP_MAX_CONNS", "appManager.array.apps.0.maxConnections", Key("apps.0.max_connections")),
    ("DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "appManager.array.apps.0.enableClientMessages", Key("apps.0.enable_client_messages")),
    ("DEFAULT_APP_ENABLED", "appManager.array.apps.0.enabled", Key("apps.0.enabled")),
    ("DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC", "appManager.array.apps.0.maxBackendEventsPerSecond", Key("apps.0.max_backend_events_per_second")),
    ("DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC", "appManager.array.apps.0.maxClientEventsPerSecond", Key("apps.0.max_client_events_per_second")),
    ("DEFAULT_APP_MAX_READ_REQ_PER_SEC", "appManager.array.apps.0.maxReadRequestsPerSecond", Key("apps.0.max_read_requests_per_second")),
    ("DEFAULT_APP_USER_AUTHENTICATION", "appManager.array.apps.0.enableUserAuthentication", Key("apps.0.enable_user_authentication")),
    ("DEFAULT_APP_WEBHOOKS", "appManager.array.apps.0.webhooks", Key("apps.0.webhooks")),
];
