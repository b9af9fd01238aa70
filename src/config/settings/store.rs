//! Where the apps come from, and the databases that may hold them.

use std::marker::PhantomData;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::config::fault::FaultList;
use crate::config::settings::redis::is_name;
use crate::config::settings::section;
use crate::config::settings::values::{DAY, Seconds, Secret};

section! {
    /// Where the apps come from, and how long what was read of them is good.
    pub struct AppStore {
        /// Where the apps are.
        pub driver: StoreDriver = StoreDriver::Config,
        /// How long an app is served before the database is asked again.
        pub cache_seconds: Seconds = Seconds(60.0) => 1.0..=DAY,
        /// How long after the database's last word an app is served while the database cannot be asked.
        pub stale_seconds: Seconds = Seconds(3600.0) => 0.0..=DAY,
        /// Ids and keys that are remembered, those without an app included.
        // An app needs two, its id and its key.
        pub cache_entries_max: u64 = 10_000 => 100..=10_000_000,
        /// Time for a lookup, connecting included.
        // Connecting clients wait for it.
        pub timeout_seconds: Seconds = Seconds(5.0) => 0.1..=60.0,
        /// Connections to the database at once; they are made when they are needed, and kept.
        pub connections_max: u32 = 7 => 1..=1000,
    }
}

/// Where the apps are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreDriver {
    /// This configuration; Soketi's word is `array`.
    #[default]
    #[serde(alias = "array")]
    Config,
    /// MySQL or MariaDB, which `[mysql]` describes.
    #[serde(alias = "mariadb")]
    Mysql,
    /// PostgreSQL, which `[postgres]` describes; Laravel's word is `pgsql`.
    #[serde(alias = "pgsql", alias = "postgresql")]
    Postgres,
    /// A table of DynamoDB, which `[dynamodb]` describes. Only in builds with the feature `aws`.
    Dynamodb,
}

/// Where a database is, and how it lets us in; with Soketi's defaults for the server `S`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database<S> {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The name of the account.
    pub username: String,
    /// Empty for none.
    pub password: Secret,
    /// The database's name.
    pub database: String,
    /// The table's name, behind that of its schema and a dot if need be.
    pub table: String,
    /// Whether to speak TLS, with the system's certificate authorities.
    pub tls: bool,
    /// Whether the server must show a certificate of an authority that the system trusts, for its name.
    pub tls_verify: bool,
    #[serde(skip)]
    server: PhantomData<S>,
}

/// MySQL and MariaDB.
#[derive(Debug, Clone, Copy)]
pub struct Mysql;

/// PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Default for Database<Mysql> {
    fn default() -> Self {
        Self::on(3306, "root")
    }
}

impl Default for Database<Postgres> {
    fn default() -> Self {
        Self::on(5432, "postgres")
    }
}

impl<S> Database<S> {
    fn on(port: u16, username: &str) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            username: username.to_owned(),
            password: Secret::new("password"),
            database: "main".to_owned(),
            table: "apps".to_owned(),
            tls: false,
            tls_verify: true,
            server: PhantomData,
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// The names that the table's name consists of.
    pub fn table_path(&self) -> impl Iterator<Item = &str> {
        self.table.split('.')
    }

    pub(in crate::config) fn validate(&self, section: &str, faults: &mut FaultList) {
        faults.add_if(
            !is_name(&self.host) && self.host.parse::<Ipv6Addr>().is_err(),
            format!("{section}.host"),
            format!(
                "must be a host name or an address alone; a port belongs into {section}.port, and \
                 {section}.tls switches TLS on"
            ),
        );
        faults.within(&format!("{section}.port"), self.port, 1..=u16::MAX);
        for (field, name) in [("username", &self.username), ("database", &self.database)] {
            faults.add_if(
                name.is_empty() || name.contains(char::is_control),
                format!("{section}.{field}"),
                format!("is {name:?}; it must be a name, without control characters"),
            );
        }
        // No server takes longer names.
        let is_name = |name: &str| (1..=64).contains(&name.chars().count()) && !name.contains(char::is_control);
        if self.table_path().count() > 2 || !self.table_path().all(is_name) {
            let table = &self.table;
            faults.add(
                format!("{section}.table"),
                format!(
                    "is {table:?}; it must be the name of a table, such as \"apps\", or of a schema and a \
                 table, such as \"shop.apps\", of 1 to 64 characters each"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::fault::sentences;

    fn faults(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        sentences(&config.validate())
    }

    #[test]
    fn each_server_has_soketis_defaults() {
        let config = Config::default();
        assert_eq!((config.mysql.port, config.mysql.username.as_str()), (3306, "root"));
        assert_eq!((config.postgres.port, config.postgres.username.as_str()), (5432, "postgres"));
        let partly: Database<Postgres> = serde_json::from_str(r#"{"host":"db"}"#).unwrap();
        assert_eq!((partly.host.as_str(), partly.port), ("db", 5432));
    }

    #[test]
    fn what_no_server_takes_is_told_with_its_key() {
        let found = faults(|config| {
            config.mysql.host = "db:3306".to_owned();
            config.mysql.port = 0;
            config.mysql.username = String::new();
            config.postgres.database = "a\0".to_owned();
            config.app_store.timeout_seconds = Seconds(0.0);
            config.app_store.connections_max = 0;
        });
        let keys: Vec<&str> = found.iter().filter_map(|fault| fault.split(' ').next()).collect();
        assert_eq!(
            keys,
            [
                "app_store.timeout_seconds",
                "app_store.connections_max",
                "mysql.host",
                "mysql.port",
                "mysql.username",
                "postgres.database"
            ]
        );
    }

    #[test]
    fn a_table_may_have_an_odd_name_but_a_name() {
        for table in ["apps", "my apps", "shop.apps", "a`b\"c", "Äpps"] {
            assert_eq!(faults(|config| config.mysql.table = table.to_owned()), [""; 0], "{table}");
        }
        for table in ["", ".", "apps.", "a.b.c", "a\0", &"x".repeat(65)] {
            let found = faults(|config| config.postgres.table = table.to_owned());
            assert_eq!(found.len(), 1, "{table:?}");
            assert!(found[0].starts_with("postgres.table is "), "{found:?}");
        }
    }
}
