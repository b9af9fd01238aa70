//! Settings that have no effect beside the others.
//! `load` warns about them.

use std::collections::BTreeMap;

use super::ClusterDriver;
use super::Config;
use super::StoreDriver;
use super::WebhooksDriver;
use super::fault::{Fault, Subject};
use super::loaded;
use super::origin::Origin;
use super::schema;

/// Why nothing about several nodes has an effect.
pub(super) const LOCAL: &str = "cluster.driver is local; set it to redis to run several nodes as one";

/// A warning for each setting that is not the default and has no effect.
pub(super) fn warnings(config: &Config, origins: &BTreeMap<String, Origin>) -> Vec<Fault> {
    let default = Config::default();
    let (values, defaults) = (schema::object(config), schema::object(&default));
    let secrets: Vec<&str> = loaded::secrets_that_differ(config, &default).collect();
    let warning = |(key, origin): (&String, &Origin)| {
        let (section, field) = key.split_once('.')?;
        let because = because(section, field, config)?;
        let subject = match origin {
            Origin::Variable(name) | Origin::Option(name) => Subject { key: name.clone(), origin: None },
            _ => Subject { key: key.clone(), origin: Some(origin.clone()) },
        };
        let differs = values[section].get(field) != defaults[section].get(field) || secrets.contains(&key.as_str());
        differs.then(|| subject.fault(format!("has no effect, because {because}")))
    };
    origins.iter().filter_map(warning).collect()
}

/// Why a setting has no effect beside the others, if it has none.
fn because(section: &str, field: &str, config: &Config) -> Option<&'static str> {
    let (redis, nats, driver) = (&config.redis, &config.nats, config.app_store.driver);
    let is_nats = config.cluster.driver == ClusterDriver::Nats;
    Some(match (section, field) {
        ("cluster" | "app_store", "driver") => return None,
        ("connections", "compression_bytes_min") if !config.connections.compression => {
            "connections.compression is false"
        }
        ("redis", _) if !config.needs_redis() && is_nats => "cluster.driver is nats, and nothing else uses Redis",
        ("redis", _) if !config.needs_redis() => LOCAL,
        ("redis", "key_prefix") if !config.keeps_in_redis() && is_nats => {
            "nothing is kept in Redis; nats.prefix is that of NATS"
        }
        ("cluster", "name") | ("redis", "key_prefix") if !config.keeps_in_redis() && !is_nats => LOCAL,
        ("cluster", "name") => return None,
        ("cluster", _) if config.cluster.driver == ClusterDriver::Local => LOCAL,
        ("redis", "host" | "port") if redis.is_bare_socket() => "Redis is at a Unix socket",
        ("redis", "host" | "port" | "db" | "username" | "password")
            if !redis.url.is_empty() && !redis.is_bare_socket() =>
        {
            "redis.url is set, which says it"
        }
        ("redis", "host" | "port") if !redis.sentinels.is_empty() => "redis.sentinels is set",
        ("redis", "host" | "port") if !redis.cluster_nodes.is_empty() => "redis.cluster_nodes is set",
        ("redis", "tls_verify") if !redis.speaks_tls() => "redis.tls is false",
        ("redis", "username") if redis.password.is_empty() => "redis.password is empty",
        ("redis", "sentinel_password" | "sentinel_master") if redis.sentinels.is_empty() => "redis.sentinels is empty",
        ("nats", _) if !is_nats => "cluster.driver is not nats",
        ("nats", "tls_verify") if !nats.speaks_tls() => "nats.tls is false",
        ("nats", "user") if nats.password.is_empty() => "nats.password is empty",
        ("nats", "password") if nats.user.is_empty() => "nats.user is empty",
        ("app_store", _) if driver == StoreDriver::Config => {
            "app_store.driver is config; set it to mysql or postgres to take apps from a database"
        }
        ("mysql", _) if driver != StoreDriver::Mysql => "app_store.driver is not mysql",
        ("postgres", _) if driver != StoreDriver::Postgres => "app_store.driver is not postgres",
        ("dynamodb", _) if driver != StoreDriver::Dynamodb => "app_store.driver is not dynamodb",
        ("sqs", _) if config.webhooks.driver != WebhooksDriver::Sqs => "webhooks.driver is not sqs",
        ("mysql", "tls_verify") if !config.mysql.tls => "mysql.tls is false",
        ("postgres", "tls_verify") if !config.postgres.tls => "postgres.tls is false",
        _ => return None,
    })
}
