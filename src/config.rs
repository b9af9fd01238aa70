//! The configuration, parsed and checked once. Parts receive their own section, never the whole.

mod build;
mod fault;
mod load;
mod loaded;
mod no_effect;
mod origin;
mod over_nats;
mod reload;
mod row;
mod schema;
mod settings;
mod sources;
mod suggest;
mod tree;
mod warnings;

pub use fault::{Fault, Subject};
pub use load::{OptionValue, load, load_in, load_with};
pub use loaded::{Faults, Loaded};
pub use origin::Origin;
pub use row::RowApp;
pub use settings::apps::{App, AppEntry, KeyPair, Limits};
pub use settings::aws::{Credentials, Dynamodb, Function, Sqs};
pub use settings::cluster::{Cluster, ClusterDriver, Limiter, LimiterDriver, Outage};
pub use settings::connections::Connections;
pub use settings::dashboard::Dashboard;
pub use settings::http::Http;
pub use settings::ingest::Ingest;
pub use settings::log::{Log, LogFormat, LogLevel};
pub use settings::metrics::Metrics;
pub use settings::nats::Nats;
pub use settings::raw_clients::RawClients;
pub use settings::redis::{Redis, host_and_port};
pub use settings::server::Server;
pub use settings::store::{AppStore, Database, Mysql, Postgres, StoreDriver};
pub use settings::tls::Tls;
pub use settings::values::{Seconds, Secret};
pub use settings::webhooks::{ChannelFilter, LeftOut, Webhook, Webhooks, WebhooksDriver};
pub use sources::dotenv::variables as dotenv_variables;
pub use sources::file::settings as settings_of_file;
pub use sources::variables::process as process_environment;

use serde::{Deserialize, Serialize};

use fault::FaultList;
use settings::apps;
use settings::aws::NO_AWS;
use settings::connections::{MESSAGE_BYTES, MESSAGE_SPARE};
use settings::flow_rules;
use settings::history_rules;

/// Everything that an operator can set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses, threads and the way of leaving.
    pub server: Server,
    /// TLS on the main port.
    pub tls: Tls,
    /// Times and limits of each WebSocket connection.
    pub connections: Connections,
    /// The signed HTTP API.
    pub http: Http,
    /// The second port: metrics and memory use.
    pub metrics: Metrics,
    /// The operator's page on the metrics port.
    pub dashboard: Dashboard,
    /// The level and the format of the log.
    pub log: Log,
    /// Several nodes as one server.
    pub cluster: Cluster,
    /// Limits per second of several nodes.
    pub limiter: Limiter,
    /// Where Redis is, and how it lets us in.
    pub redis: Redis,
    /// Where NATS is, and how it lets us in.
    pub nats: Nats,
    /// Where the apps come from.
    pub app_store: AppStore,
    /// MySQL or MariaDB, if the apps are there.
    pub mysql: Database<Mysql>,
    /// PostgreSQL, if the apps are there.
    pub postgres: Database<Postgres>,
    /// A table of DynamoDB, if the apps are there.
    pub dynamodb: Dynamodb,
    /// Events of Laravel's `redis` broadcaster.
    pub ingest: Ingest,
    /// How webhooks are sent.
    pub webhooks: Webhooks,
    /// A queue of SQS, if webhooks go through one.
    pub sqs: Sqs,
    /// The limits of every app that has none of its own.
    pub limits: Limits,
    /// The apps, unless a database has them; without any, Soketi's default app.
    pub apps: Vec<AppEntry>,
}

impl Config {
    /// The id of an app with a secret that everybody knows, if there is one.
    pub fn with_public_secret(&self) -> Option<String> {
        self.apps().into_iter().find(App::has_public_secret).map(|app| app.id)
    }

    /// The bytes of a message that holds the largest event of a client, with as much room for escapes and for its
    /// envelope as the defaults leave.
    fn message_bytes_needed(&self) -> usize {
        let apps = self.apps();
        let limits = apps.iter().map(|app| &app.limits).chain([&self.limits]);
        let largest = limits.map(Limits::event_bytes_max).max().unwrap_or_default();
        largest.saturating_mul(2).saturating_add(MESSAGE_SPARE).min(*MESSAGE_BYTES.end())
    }

    /// The apps with every limit resolved; Soketi's default app where none is configured. None if a database has them.
    pub fn apps(&self) -> Vec<App> {
        if self.app_store.driver != StoreDriver::Config {
            return Vec::new();
        }
        if self.apps.is_empty() {
            return vec![AppEntry::soketi_default().resolve(&self.limits)];
        }
        self.apps.iter().map(|entry| entry.resolve(&self.limits)).collect()
    }

    /// Whether anything is kept in Redis.
    fn keeps_in_redis(&self) -> bool {
        self.cluster.driver == ClusterDriver::Redis
            || self.limiter.driver == LimiterDriver::Redis
            || self.webhooks.driver == WebhooksDriver::Redis
    }

    /// Whether anything needs the Redis of `[redis]`.
    fn needs_redis(&self) -> bool {
        self.keeps_in_redis() || self.ingest.is_on()
    }

    /// Adds a fault where raw clients of an app could not stay or join. The limits of an app decide, so it takes both.
    fn validate_raw_clients(&self, faults: &mut FaultList) {
        let place = |index: usize| match self.apps.get(index).is_some_and(|app| app.raw_clients.is_some()) {
            true => format!("apps.{index}.raw_clients.channels"),
            false => "limits.raw_clients.channels".to_owned(),
        };
        let conflicts = match self.app_store.driver {
            StoreDriver::Config => self.apps().iter().map(|app| app.limits.raw_conflict()).collect(),
            _ => vec![self.limits.raw_conflict()],
        };
        for (index, text) in conflicts.into_iter().enumerate() {
            let fault = text.map(|text| Fault::new(place(index), text));
            faults.0.extend(fault.filter(|fault| !faults.0.contains(fault)));
        }
    }

    /// Every fault of the values, each with its key and the remedy.
    pub fn validate(&self) -> Vec<Fault> {
        let mut faults = FaultList::default();
        self.server.validate(&mut faults);
        self.tls.validate(&mut faults);
        self.connections.check_bounds("connections", &mut faults);
        self.http.validate(&mut faults);
        self.metrics.validate(&mut faults);
        self.dashboard.validate(&mut faults);
        self.cluster.validate(&mut faults);
        self.redis.validate(&mut faults);
        self.nats.validate(&mut faults);
        self.app_store.check_bounds("app_store", &mut faults);
        self.mysql.validate("mysql", &mut faults);
        self.postgres.validate("postgres", &mut faults);
        self.dynamodb.validate(&mut faults);
        faults.add_if(
            self.app_store.driver == StoreDriver::Dynamodb && !cfg!(feature = "aws"),
            "app_store.driver",
            format!("is dynamodb, but {NO_AWS}"),
        );
        let apps = (self.app_store.driver == StoreDriver::Config).then(|| self.apps());
        self.ingest.validate(apps.as_deref(), &mut faults);
        self.webhooks.check_bounds("webhooks", &mut faults);
        let has_queue = self.webhooks.driver == WebhooksDriver::Sqs;
        faults.add_if(has_queue && !cfg!(feature = "aws"), "webhooks.driver", format!("is sqs, but {NO_AWS}"));
        self.sqs.validate(has_queue, &mut faults);
        self.limits.validate(&mut faults);
        apps::validate(&self.apps, &mut faults);
        flow_rules::validate(&self.limits, &self.apps, &mut faults);
        history_rules::validate(&self.limits, &self.apps, &mut faults);
        over_nats::validate(self, &mut faults);
        self.validate_raw_clients(&mut faults);
        let (server, metrics) = (&self.server, &self.metrics);
        let same_host = server.host == metrics.host || server.host.is_unspecified() || metrics.host.is_unspecified();
        faults.add_if(
            server.port == metrics.port && server.port != 0 && same_host,
            "metrics.port",
            format!("is {}, as is server.port; give them different ports", metrics.port),
        );
        faults.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;

    use super::*;

    fn shipped(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
    }

    #[test]
    fn default_toml_shows_every_key_with_its_default() {
        let file = shipped("default.toml");
        let (name, text) = (file.display().to_string(), std::fs::read_to_string(&file).unwrap());
        let loaded = load(&[file], []).unwrap();
        for key in schema::keys() {
            let is_there = matches!(loaded.origins.get(&key), Some(Origin::Line { file, .. }) if *file == name);
            // An empty group has no value of its own, so nothing says where it was set.
            let is_empty_group = || text.contains(&format!("\n{} = {{}}\n", key.trim_start_matches("limits.")));
            assert!(is_there || is_empty_group(), "{key} is not in default.toml");
        }
        let mut sections = loaded.config.clone();
        sections.apps.clear();
        assert_eq!(schema::object(&sections), schema::object(&Config::default()));
        let apps = |config: &Config| format!("{:?}", config.apps());
        assert_eq!(apps(&loaded.config), apps(&Config::default()));
        assert_eq!(loaded.config.apps()[0].keys[0].secret, AppEntry::soketi_default().secret);
    }

    #[test]
    fn default_toml_shows_every_field_of_an_app_as_a_comment() {
        let text = std::fs::read_to_string(shipped("default.toml")).unwrap();
        let (_, app) = text.split_once("[[apps]]").unwrap();
        let defaults = schema::app_fields();
        for (field, default) in &defaults {
            let line = app.lines().find_map(|line| line.trim_start_matches('#').strip_prefix(&format!("{field} = ")));
            let shown = line.unwrap_or_else(|| panic!("{field} is not in default.toml"));
            if !["id", "key", "secret"].contains(&field.as_str()) {
                assert_eq!(shown, default.to_string(), "{field}");
            }
        }
    }

    #[test]
    fn default_toml_names_the_variables_of_every_key() {
        let text = std::fs::read_to_string(shipped("default.toml")).unwrap();
        let (mut section, mut above) = (String::new(), "");
        let mut seen = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).replace("apps", "apps.0");
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with("# ")) {
                let key = format!("{section}.{}", key.trim_start_matches('#'));
                for variable in sources::variables::variables_of(&key) {
                    assert!(above.contains(&variable), "{variable} is not above {key}");
                    seen.push(variable);
                }
            }
            above = line;
        }
        let of_app = schema::app_fields().into_iter().map(|(field, _)| format!("apps.0.{field}"));
        let keys = schema::keys().into_iter().chain(of_app);
        assert_eq!(seen, keys.flat_map(|key| sources::variables::variables_of(&key)).collect::<Vec<_>>());
    }

    /// The example's secrets are there to be changed, and that is all that is to be said of it.
    fn only_the_secrets_are_warned_of(warnings: &[Fault]) {
        assert!(!warnings.is_empty());
        for warning in warnings {
            assert!(warning.text.contains("has a secret that stands in gema's README, docs or examples"), "{warning}");
        }
    }

    #[test]
    fn example_toml_has_neither_faults_nor_other_warnings() {
        let loaded = load(&[shipped("example.toml")], []).unwrap();
        only_the_secrets_are_warned_of(&loaded.warnings);
        let app = &loaded.config.apps()[0];
        assert_eq!(app.limits.max_client_events_per_second, 10);
        assert!(app.limits.max_connections > 0 && app.limits.max_read_requests_per_second > 0);
    }

    #[test]
    fn the_comments_of_example_toml_have_neither_faults_nor_other_warnings() {
        let text = std::fs::read_to_string(shipped("example.toml")).unwrap();
        let setting = |line: &str| line.starts_with("#[") || (line.starts_with('#') && !line.starts_with("# "));
        let lines = text.lines().map(|line| if setting(line) { &line[1..] } else { line });
        let file = std::env::temp_dir().join(format!("gema-example-{}.toml", std::process::id()));
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let loaded = load(std::slice::from_ref(&file), []);
        std::fs::remove_file(file).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.config.cluster.driver, ClusterDriver::Redis);
        only_the_secrets_are_warned_of(&loaded.warnings);
    }

    #[test]
    fn every_fault_has_its_key() {
        let mut config = Config::default();
        config.server.path_prefix = "ws/".to_owned();
        config.server.backlog = 0;
        config.server.drain_seconds = Seconds(f64::NAN);
        config.tls.key_path = "server.key".to_owned();
        config.connections.activity_timeout_seconds = 0;
        config.http.cors_origins = vec!["*".to_owned(), "https://a.example/x".to_owned()];
        config.http.cors_methods = vec!["G T".to_owned()];
        config.metrics.prefix = "9-".to_owned();
        config.metrics.port = config.server.port;
        config.limits.max_event_batch_size = 0;
        config.limits.max_event_payload_in_kb = f64::INFINITY;
        let faults = config.validate();
        assert_eq!(faults.len(), 12, "{faults:#?}");
        for fault in faults {
            assert!(schema::keys().contains(&fault.subject.key), "{fault}");
        }
    }

    #[test]
    fn a_notice_to_balancers_must_leave_time_to_close_the_connections() {
        let mut config = Config::default();
        config.server.drain_notice_seconds = Seconds(2.9);
        assert_eq!(config.validate(), [""; 0]);
        config.server.drain_notice_seconds = Seconds(3.0);
        assert!(config.validate()[0].text.starts_with("is 3; it must be less than "));
    }

    #[test]
    fn a_public_secret_is_warned_of_where_others_can_reach_it() {
        let mut config = Config::default();
        assert!(config.warnings()[0].text.contains("Soketi's default secret"));
        config.server.host = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn every_secret_that_is_shipped_is_known_to_be_public() {
        let found = |text: &str| -> Vec<String> {
            let after =
                ["secret = \"", "secret: '", "PUSHER_APP_SECRET=\"", "PUSHER_APP_SECRET: '", "PUSHER_APP_SECRET="];
            let word = |rest: &str| rest.split(['"', '\'', ' ', '\n']).next().unwrap().to_owned();
            let words = after.iter().flat_map(|mark| text.split(mark).skip(1).map(word));
            // The last one is what `gema config` prints in place of a secret.
            words.filter(|word| !["", "…", "***"].contains(&word.as_str())).collect()
        };
        let mut secrets = Vec::new();
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let files = ["README.md", "compose.yaml"].map(|file| root.join(file)).into_iter();
        let folders = ["config", "docs", "examples/chat", "examples/clinics"].into_iter();
        let folders = folders.flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
        for file in files.chain(folders.map(|entry| entry.unwrap().path())).filter(|file| file.is_file()) {
            secrets.extend(found(&std::fs::read_to_string(file).unwrap()));
        }
        assert!(secrets.len() > 8, "{secrets:?}");
        for secret in secrets {
            let mut app = AppEntry::new("a", "k", &secret).resolve(&Limits::default());
            assert_eq!(warnings::of_keys(&app).len(), usize::from(secret != "app-secret"), "{secret}");
            app.enabled = false;
            assert_eq!(warnings::of_keys(&app), [""; 0], "{secret}");
        }
    }

    #[test]
    fn limits_per_address_are_warned_of_where_a_proxy_is_everybody() {
        let mut config = Config { apps: vec![AppEntry::new("a", "k", "secret")], ..Config::default() };
        config.connections.per_address_max = 10;
        config.connections.handshakes_per_address_per_second = 1;
        assert_eq!(config.warnings(), [""; 0]);
        config.server.host = IpAddr::from([127, 0, 0, 1]);
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(warnings[0].text.starts_with("counts all clients"), "{warnings:#?}");
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn a_page_without_tls_is_warned_of_where_others_can_reach_it() {
        let mut config = Config { apps: vec![AppEntry::new("a", "k", "secret")], ..Config::default() };
        assert_eq!(config.warnings(), [""; 0]);
        config.dashboard.token = Secret::new("viewer-token-0123456789");
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert_eq!(warnings[0].subject.key, "metrics.host");
        assert!(warnings[0].text.starts_with("is 0.0.0.0, so the token"), "{warnings:#?}");
        // TLS is on the main port only.
        config.tls.cert_path = "server.pem".to_owned();
        assert_eq!(config.warnings().len(), 1);
        config.metrics.host = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(config.warnings(), [""; 0]);
        config.metrics.host = IpAddr::from([0, 0, 0, 0]);
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn events_that_cannot_be_sent_or_delivered_are_warned_of() {
        let mut config = Config { apps: vec![AppEntry::new("a", "k", " secret\n")], ..Config::default() };
        config.limits.max_event_payload_in_kb = 20_000.0;
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        config.cluster.driver = ClusterDriver::Redis;
        config.cluster.buffer_bytes_max = 1024 * 1024;
        config.redis.password = Secret::new("hush\n");
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 5, "{warnings:#?}");
        assert_eq!(warnings[0].subject.key, "redis.password");
        assert!(!fault::sentences(&warnings).concat().contains("hush"), "{warnings:#?}");
    }
}
