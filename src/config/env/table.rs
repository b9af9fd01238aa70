//! Which variable means what: Soketi's and Laravel's names.

/// What a variable does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Means<'a> {
    /// Sets the key.
    Key(&'a str),
    /// Sets the key, which is in seconds.
    Milliseconds(&'a str),
    /// Sets the key if nothing else does.
    Fallback(&'static str),
    /// Sets the key to one of these values; any other is a fault, for this reason.
    Choice(&'static str, &'static [&'static str], &'static str),
    /// Sets the key to the hosts and ports of a JSON array; a host without a port has this one.
    Nodes(&'static str, u16),
    /// Options of ioredis, of which TLS counts.
    Options,
    /// Whether Soketi looks at its cluster nodes.
    ClusterMode,
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
    pub(super) fn key(self) -> Option<&'a str> {
        match self {
            Key(key) | Milliseconds(key) | Fallback(key) | Choice(key, ..) | Nodes(key, _) => Some(key),
            Talkative => Some("log.level"),
            Options => Some("redis.tls"),
            ClusterMode | Only(..) | Parameter(..) => None,
        }
    }
}

#[cfg(test)]
use Means::Fallback;
use Means::{Choice, ClusterMode, Key, Milliseconds, Nodes, Only, Options, Parameter, Talkative};

const ADAPTERS: &str = "nodes meet in Redis; use redis";
const CLUSTER_ADAPTER: &str = "the adapter cluster is not selected";
const NATS_ADAPTER: &str = "the adapter nats is not selected";
const APP_CACHE: &str = "apps from files and variables need no cache";
const DYNAMODB: &str = "the app manager dynamodb is not selected";
const MYSQL: &str = "the app manager mysql is not selected";
const POSTGRES: &str = "the app manager postgres is not selected";
const SQL: &str = "no app manager with a database is selected";
const REDIS_CACHE: &str = "the cache driver redis is not selected";
const REDIS_QUEUE: &str = "the queue driver redis is not selected";
const SQS: &str = "the queue driver sqs is not selected";
const REDIS_LIMITER: &str = "the rate limiter redis is not selected";
const WEBHOOKS: &str = "gema sends no webhooks so far";
const TLS: &str = "gema does not speak TLS itself so far; let a proxy in front of it do so";

/// Laravel's names for the first app and for Redis.
pub(super) const LARAVEL: [(&str, &str); 9] = [
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

/// Every variable of Soketi 1.6.1, without the `SOKETI_` before it.
pub(super) const TABLE: [(&str, Means<'static>); 115] = [
    ("ADAPTER_DRIVER", Choice("cluster.driver", &["local", "redis"], ADAPTERS)),
    ("ADAPTER_REDIS_REQUESTS_TIMEOUT", Parameter("5000", "gema asks no other nodes")),
    ("ADAPTER_REDIS_PREFIX", Key("cluster.name")),
    ("ADAPTER_REDIS_PUB_OPTIONS", Options),
    ("ADAPTER_REDIS_SUB_OPTIONS", Options),
    ("ADAPTER_REDIS_CLUSTER_MODE", ClusterMode),
    ("ADAPTER_CLUSTER_REQUESTS_TIMEOUT", Parameter("5000", CLUSTER_ADAPTER)),
    ("ADAPTER_NATS_REQUESTS_TIMEOUT", Parameter("5000", NATS_ADAPTER)),
    ("ADAPTER_NATS_PREFIX", Parameter("", NATS_ADAPTER)),
    ("ADAPTER_NATS_SERVERS", Parameter(r#"["127.0.0.1:4222"]"#, NATS_ADAPTER)),
    ("ADAPTER_NATS_USER", Parameter("", NATS_ADAPTER)),
    ("ADAPTER_NATS_PASSWORD", Parameter("", NATS_ADAPTER)),
    ("ADAPTER_NATS_TOKEN", Parameter("", NATS_ADAPTER)),
    ("ADAPTER_NATS_TIMEOUT", Parameter("10000", NATS_ADAPTER)),
    ("ADAPTER_NATS_NODES_NUMBER", Parameter("", NATS_ADAPTER)),
    ("APP_MANAGER_DRIVER", Only(&["array"], "gema takes apps from files and variables only so far")),
    ("APP_MANAGER_CACHE_ENABLED", Parameter("false", APP_CACHE)),
    ("APP_MANAGER_CACHE_TTL", Parameter("-1", APP_CACHE)),
    ("APP_MANAGER_DYNAMODB_TABLE", Parameter("apps", DYNAMODB)),
    ("APP_MANAGER_DYNAMODB_REGION", Parameter("us-east-1", DYNAMODB)),
    ("APP_MANAGER_DYNAMODB_ENDPOINT", Parameter("", DYNAMODB)),
    ("APP_MANAGER_MYSQL_TABLE", Parameter("apps", MYSQL)),
    ("APP_MANAGER_MYSQL_VERSION", Parameter("8.0", MYSQL)),
    ("APP_MANAGER_MYSQL_USE_V2", Parameter("false", MYSQL)),
    ("APP_MANAGER_POSTGRES_TABLE", Parameter("apps", POSTGRES)),
    ("APP_MANAGER_POSTGRES_VERSION", Parameter("13.3", POSTGRES)),
    ("CACHE_DRIVER", Only(&["memory"], "gema keeps cached events in its own memory so far")),
    ("CACHE_REDIS_OPTIONS", Parameter("{}", REDIS_CACHE)),
    ("CACHE_REDIS_CLUSTER_MODE", Parameter("false", REDIS_CACHE)),
    ("CHANNEL_LIMITS_MAX_NAME_LENGTH", Key("limits.max_channel_name_length")),
    ("CHANNEL_CACHE_TTL", Key("limits.cache_ttl_seconds")),
    ("CLUSTER_HOST", Parameter("0.0.0.0", CLUSTER_ADAPTER)),
    ("CLUSTER_KEEPALIVE_INTERVAL", Parameter("500", CLUSTER_ADAPTER)),
    ("CLUSTER_CHECK_INTERVAL", Parameter("500", CLUSTER_ADAPTER)),
    ("CLUSTER_NODE_TIMEOUT", Parameter("2000", CLUSTER_ADAPTER)),
    ("CLUSTER_MASTER_TIMEOUT", Parameter("2000", CLUSTER_ADAPTER)),
    ("CLUSTER_PORT", Parameter("11002", CLUSTER_ADAPTER)),
    ("CLUSTER_PREFIX", Parameter("", CLUSTER_ADAPTER)),
    ("CLUSTER_IGNORE_PROCESS", Parameter("true", CLUSTER_ADAPTER)),
    ("CLUSTER_BROADCAST_ADDRESS", Parameter("255.255.255.255", CLUSTER_ADAPTER)),
    ("CLUSTER_UNICAST_ADDRESSES", Parameter("", CLUSTER_ADAPTER)),
    ("CLUSTER_MULTICAST_ADDRESS", Parameter("", CLUSTER_ADAPTER)),
    ("DB_MYSQL_HOST", Parameter("127.0.0.1", MYSQL)),
    ("DB_MYSQL_PORT", Parameter("3306", MYSQL)),
    ("DB_MYSQL_USERNAME", Parameter("root", MYSQL)),
    ("DB_MYSQL_PASSWORD", Parameter("password", MYSQL)),
    ("DB_MYSQL_DATABASE", Parameter("main", MYSQL)),
    ("DB_POSTGRES_HOST", Parameter("127.0.0.1", POSTGRES)),
    ("DB_POSTGRES_PORT", Parameter("5432", POSTGRES)),
    ("DB_POSTGRES_USERNAME", Parameter("postgres", POSTGRES)),
    ("DB_POSTGRES_PASSWORD", Parameter("password", POSTGRES)),
    ("DB_POSTGRES_DATABASE", Parameter("main", POSTGRES)),
    ("DB_REDIS_HOST", Key("redis.host")),
    ("DB_REDIS_PORT", Key("redis.port")),
    ("DB_REDIS_DB", Key("redis.db")),
    ("DB_REDIS_USERNAME", Key("redis.username")),
    ("DB_REDIS_PASSWORD", Key("redis.password")),
    ("DB_REDIS_KEY_PREFIX", Key("redis.key_prefix")),
    ("DB_REDIS_SENTINELS", Nodes("redis.sentinels", 26379)),
    ("DB_REDIS_SENTINEL_PASSWORD", Key("redis.sentinel_password")),
    ("DB_REDIS_INSTANCE_NAME", Key("redis.sentinel_master")),
    ("DB_REDIS_CLUSTER_NODES", Nodes("redis.cluster_nodes", 6379)),
    ("DB_POOLING_ENABLED", Parameter("false", SQL)),
    ("DB_POOLING_MIN", Parameter("0", SQL)),
    ("DB_POOLING_MAX", Parameter("7", SQL)),
    ("DEBUG", Talkative),
    ("EVENT_MAX_CHANNELS_AT_ONCE", Key("limits.max_event_channels_at_once")),
    ("EVENT_MAX_NAME_LENGTH", Key("limits.max_event_name_length")),
    ("EVENT_MAX_SIZE_IN_KB", Key("limits.max_event_payload_in_kb")),
    ("EVENT_MAX_BATCH_SIZE", Key("limits.max_event_batch_size")),
    ("HOST", Key("server.host")),
    ("HTTP_ACCEPT_TRAFFIC_MEMORY_THRESHOLD", Key("server.accept_traffic_memory_percent")),
    ("METRICS_ENABLED", Key("metrics.enabled")),
    ("METRICS_DRIVER", Only(&["prometheus"], "there is no other")),
    ("METRICS_HOST", Key("metrics.host")),
    ("METRICS_PROMETHEUS_PREFIX", Key("metrics.prefix")),
    ("METRICS_SERVER_PORT", Key("metrics.port")),
    ("MODE", Only(&["full", "server"], "gema has no workers so far")),
    ("PORT", Key("server.port")),
    ("PATH_PREFIX", Key("server.path_prefix")),
    ("PRESENCE_MAX_MEMBERS", Key("limits.max_presence_members_per_channel")),
    ("PRESENCE_MAX_MEMBER_SIZE", Key("limits.max_presence_member_size_in_kb")),
    ("QUEUE_DRIVER", Only(&["sync"], WEBHOOKS)),
    ("QUEUE_REDIS_CONCURRENCY", Parameter("1", REDIS_QUEUE)),
    ("QUEUE_REDIS_OPTIONS", Parameter("{}", REDIS_QUEUE)),
    ("QUEUE_REDIS_CLUSTER_MODE", Parameter("false", REDIS_QUEUE)),
    ("QUEUE_SQS_REGION", Parameter("us-east-1", SQS)),
    ("QUEUE_SQS_ENDPOINT", Parameter("", SQS)),
    ("QUEUE_SQS_CLIENT_OPTIONS", Parameter("{}", SQS)),
    ("QUEUE_SQS_URL", Parameter("", SQS)),
    ("QUEUE_SQS_PROCESS_BATCH", Parameter("false", SQS)),
    ("QUEUE_SQS_BATCH_SIZE", Parameter("1", SQS)),
    ("QUEUE_SQS_POLLING_WAIT_TIME_MS", Parameter("0", SQS)),
    ("RATE_LIMITER_DRIVER", Only(&["local"], "each node counts for itself so far")),
    ("RATE_LIMITER_REDIS_OPTIONS", Parameter("{}", REDIS_LIMITER)),
    ("RATE_LIMITER_REDIS_CLUSTER_MODE", Parameter("false", REDIS_LIMITER)),
    ("SHUTDOWN_GRACE_PERIOD", Milliseconds("server.drain_seconds")),
    ("SSL_CERT", Only(&[], TLS)),
    ("SSL_KEY", Only(&[], TLS)),
    ("SSL_PASS", Parameter("", TLS)),
    ("SSL_CA", Parameter("", TLS)),
    ("USER_AUTHENTICATION_TIMEOUT", Milliseconds("limits.user_authentication_timeout_seconds")),
    ("WEBHOOKS_BATCHING", Parameter("false", WEBHOOKS)),
    ("WEBHOOKS_BATCHING_DURATION", Parameter("50", WEBHOOKS)),
    ("DEFAULT_APP_ID", Key("apps.0.id")),
    ("DEFAULT_APP_KEY", Key("apps.0.key")),
    ("DEFAULT_APP_SECRET", Key("apps.0.secret")),
    ("DEFAULT_APP_MAX_CONNS", Key("apps.0.max_connections")),
    ("DEFAULT_APP_ENABLE_CLIENT_MESSAGES", Key("apps.0.enable_client_messages")),
    ("DEFAULT_APP_ENABLED", Key("apps.0.enabled")),
    ("DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC", Key("apps.0.max_backend_events_per_second")),
    ("DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC", Key("apps.0.max_client_events_per_second")),
    ("DEFAULT_APP_MAX_READ_REQ_PER_SEC", Key("apps.0.max_read_requests_per_second")),
    ("DEFAULT_APP_USER_AUTHENTICATION", Key("apps.0.enable_user_authentication")),
    ("DEFAULT_APP_WEBHOOKS", Only(&["[]"], WEBHOOKS)),
];
