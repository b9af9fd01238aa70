//! Defaults, files and the environment become one checked `Config`; every mistake is found at once.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use config::builder::{ConfigBuilder, DefaultState};
use config::{ConfigError, Map, Source, Value, ValueKind};

use super::Config;
use super::StoreDriver;
use super::cluster;
use super::cluster::LOCAL;
use super::dotenv;
use super::env;
use super::env::Variable;
use super::fallback;
use super::file;
use super::loaded;
use super::loaded::{Loaded, key_of};
use super::options::Said;
use super::store;
use super::translate::translate;
use super::tree;
use super::tree::Checked;

/// Why a configuration may not be served: every mistake, not just the first.
#[derive(Debug, thiserror::Error)]
pub struct Faults {
    /// A sentence each, naming the file or variable, the key and the remedy.
    pub faults: Vec<String>,
    /// What is right all the same, with the warnings about it.
    pub good: Box<Loaded>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.iter().map(|fault| format!("fault: {fault}"));
        let warnings = self.good.warnings.iter().map(|warning| format!("warning: {warning}"));
        f.write_str(&faults.chain(warnings).collect::<Vec<_>>().join("\n"))
    }
}

/// Reads `files`, later ones over earlier ones, and puts `environment` over them.
///
/// ```
/// let environment = [("SOKETI_PORT".to_owned(), "7001".to_owned())];
/// let loaded = gema::config::load(&[], environment).unwrap();
/// assert_eq!(loaded.config.server.port, 7001);
/// assert_eq!(loaded.origins["server.port"], "SOKETI_PORT");
/// ```
pub fn load(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Faults> {
    Sources::new(environment).load(files)
}

/// The same, with those variables of `folder`'s `.env` that `environment` lacks.
pub fn load_in(
    folder: &Path,
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Faults> {
    let mut sources = Sources::new(environment);
    sources.read_dotenv(&folder.join(".env"));
    sources.load(files)
}

/// What there is beside the files.
#[derive(Default)]
struct Sources {
    variables: Vec<Variable>,
    /// All variables by name, for files that ask for them.
    by_name: BTreeMap<String, String>,
    /// Why there may be more variables than we know of.
    unread: Option<String>,
    faults: Vec<String>,
}

impl Sources {
    fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let by_name: BTreeMap<String, String> = environment.into_iter().collect();
        let variable =
            |(name, value): (&String, &String)| Variable { name: name.clone(), value: value.clone(), place: None };
        Self { variables: by_name.iter().map(variable).collect(), by_name, ..Self::default() }
    }

    fn read_dotenv(&mut self, path: &Path) {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Some call a folder so that has nothing to do with it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return,
            Err(error) => return self.unread = Some(file::unreadable(".env", &error)),
        };
        let mut found = BTreeMap::new();
        for entry in dotenv::read(&text, &self.by_name, env::is_read) {
            let place = format!(".env:{}", entry.line);
            match entry.value {
                _ if self.by_name.contains_key(&entry.name) => (),
                Ok(value) => drop(found.insert(entry.name, (value, place))),
                Err(what) if env::is_read(&entry.name) => {
                    self.faults.push(format!("{} (from {place}) {what}", entry.name));
                }
                Err(_) => (),
            }
        }
        for (name, (value, place)) in found {
            self.by_name.insert(name.clone(), value.clone());
            self.variables.push(Variable { name, value, place: Some(place) });
        }
    }

    fn load(self, files: &[PathBuf]) -> Result<Loaded, Faults> {
        let Self { variables, by_name, unread, mut faults } = self;
        let mut said: Vec<Said> = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for file in files {
            match file::read(file, &by_name) {
                Ok(settings) => {
                    let (soketis, own) = translate(settings, !file::is_ours_alone(file));
                    said.push(soketis);
                    layers.push(Layer(own));
                }
                Err(fault) => faults.push(fault),
            }
        }
        said.push(env::read(variables));
        let broadcaster = said.iter_mut().find_map(|said| said.broadcaster.take());
        let cluster_mode = settle(&mut said, &mut faults);
        let mut warnings: Vec<String> = unread.iter().cloned().collect();
        warnings.extend(said.iter_mut().flat_map(|said| std::mem::take(&mut said.warnings)));
        let ignored: Vec<String> = said.iter_mut().flat_map(|said| std::mem::take(&mut said.ignored)).collect();
        let unread_apps: Vec<_> = said.iter_mut().flat_map(|said| std::mem::take(&mut said.unread_apps)).collect();
        warnings.extend(ignored.iter().cloned());
        let files_have_apps = layers.iter().any(Layer::has_apps);
        let fallbacks: Vec<_> = said.iter_mut().flat_map(|said| std::mem::take(&mut said.fallbacks)).collect();
        let mut merged = merge(said, layers, &mut faults);
        fallback::complete(&mut merged, &fallbacks, files_have_apps);

        let Checked { config, faults: found, warnings: without_effect, faulty, origins } = tree::check(merged);
        warnings.extend(without_effect);
        let mut loaded = Loaded { config, warnings, ignored, origins };
        loaded.complete();
        faults.extend(found);
        faults.extend(loaded.refuse_default_app(&unread_apps));
        for fault in loaded.config.validate() {
            if !faulty.contains(key_of(&fault)) {
                faults.push(loaded.with_origin(&fault));
            }
        }
        if let Some(who) = cluster_mode.filter(|_| loaded.config.redis.cluster_nodes.is_empty()) {
            if !loaded.config.needs_redis() {
                loaded.warnings.push(format!("{who} has no effect, because {LOCAL}"));
            } else if !faulty.contains("redis.cluster_nodes") {
                faults.push(format!(
                    "{who} is true, but redis.cluster_nodes is empty; name the nodes in SOKETI_DB_REDIS_CLUSTER_NODES"
                ));
            }
        }
        if loaded.config.apps.is_empty() && loaded.config.app_store.driver == StoreDriver::Config {
            // Whoever wrote that file does not want an app that everybody knows.
            faults.extend(unread.map(|why| format!("{why}; make it readable, since nothing else names an app")));
        }
        if !faults.is_empty() {
            return Err(Faults { faults, good: Box::new(loaded) });
        }
        if let Some((true, who)) = broadcaster.filter(|_| !loaded.config.ingest.is_on()) {
            loaded.warnings.push(format!(
                "{who} is redis, but ingest.prefixes is empty, so gema hears no events of Laravel; set it to pusher, \
                 or ingest.prefixes to Laravel's REDIS_PREFIX and the app, such as laravel_database_=app-id"
            ));
        }
        let of_values = loaded.config.warnings();
        let of_values = of_values.iter().map(|warning| loaded.with_origin(warning));
        let more: Vec<String> = idle(&loaded.config, &loaded.origins).into_iter().chain(of_values).collect();
        loaded.warnings.extend(more);
        loaded.config.redis.complete_socket();
        Ok(loaded)
    }
}

/// Who makes Soketi look for a Redis Cluster, if anybody does; the last who says it counts.
fn settle(said: &mut [Said], faults: &mut Vec<String>) -> Option<String> {
    let last = said.iter().rev().find_map(|said| said.cluster_mode.clone());
    let cluster_mode = last.filter(|(mode, _)| *mode).map(|(_, who)| who);
    for said in said {
        said.settle_cluster_mode(cluster_mode.is_some());
        faults.append(&mut said.faults);
    }
    cluster_mode
}

/// A warning for each setting that is not the default and has no effect beside the others.
fn idle(config: &Config, origins: &BTreeMap<String, String>) -> Vec<String> {
    let default = Config::default();
    let (values, defaults) = (tree::object(config), tree::object(&default));
    let secrets: Vec<&str> = loaded::secrets_that_differ(config, &default).collect();
    let value_of = |values: &tree::Object, key: &str| {
        let (section, field) = key.split_once('.')?;
        values.get(section)?.get(field).cloned()
    };
    let warning = |(key, origin): (&String, &String)| {
        let because = cluster::without_effect(key, config).or_else(|| store::without_effect(key, config))?;
        // Only places have a line.
        let who = if origin.contains(':') { format!("{key} (from {origin})") } else { origin.clone() };
        let differs = value_of(&values, key) != value_of(&defaults, key) || secrets.contains(&key.as_str());
        differs.then(|| format!("{who} has no effect, because {because}"))
    };
    origins.iter().filter_map(warning).collect()
}

/// The values of one file or of the environment.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Layer {
    /// From keys such as `apps.0.id`, which the `config` crate writes `apps[0].id`.
    fn of(values: BTreeMap<String, Value>) -> Self {
        let key = |key: String| match key.split('.').collect::<Vec<_>>()[..] {
            ["apps", index, field] => format!("apps[{index}].{field}"),
            _ => key,
        };
        Self(values.into_iter().map(|(name, value)| (key(name), value)).collect())
    }

    fn has_apps(&self) -> bool {
        matches!(self.0.get("apps").map(|apps| &apps.kind), Some(ValueKind::Array(apps)) if !apps.is_empty())
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Of each file what it says in our own words wins, and the environment over all files.
fn merge(said: Vec<Said>, own: Vec<Layer>, faults: &mut Vec<String>) -> Map<String, Value> {
    let mut builder: ConfigBuilder<DefaultState> = config::Config::builder();
    let mut own = own.into_iter();
    for said in said {
        builder = builder.add_source(Layer::of(said.values));
        if let Some(own) = own.next() {
            builder = builder.add_source(own);
        }
    }
    match builder.build().and_then(|merged| merged.cache.into_table()) {
        Ok(merged) => merged,
        Err(error) => {
            faults.push(error.to_string());
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LimiterDriver;
    use super::super::options::CLUSTER_MODE;
    use super::*;

    fn load_env(variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
        load(&[], variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn nothing_at_all_gives_soketis_default_app() {
        let loaded = load_env(&[]).unwrap();
        assert!(loaded.config.apps.is_empty() && loaded.origins.is_empty());
        assert_eq!(loaded.config.apps()[0].id, "app-id");
    }

    #[test]
    fn variables_become_what_their_keys_want() {
        let loaded = load_env(&[
            ("SOKETI_METRICS_ENABLED", "TRUE"),
            ("SOKETI_EVENT_MAX_SIZE_IN_KB", "0.5"),
            ("SOKETI_DEFAULT_APP_ENABLED", "no"),
            ("SOKETI_DEFAULT_APP_SECRET", "007"),
            ("SOKETI_DEBUG", "1"),
            ("GEMA_HTTP_CORS_ORIGINS", "https://a.example, https://b.example"),
            ("GEMA_LIMITS_ALLOWED_ORIGINS", r#"["a.example"]"#),
            ("GEMA_SERVER_TRUSTED_PROXIES", "10.0.0.0/8,::1"),
        ])
        .unwrap();
        let (config, app) = (&loaded.config, &loaded.config.apps()[0]);
        assert!(config.metrics.enabled && !app.enabled);
        assert_eq!(app.limits.event_bytes_max(), 512);
        assert_eq!((app.id.as_str(), app.keys[0].secret.expose()), ("app-id", &b"007"[..]));
        assert_eq!(config.log.level, super::super::LogLevel::Debug);
        assert_eq!(config.http.cors_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(config.limits.allowed_origins, ["a.example"]);
        assert_eq!(format!("{:?}", config.server.trusted_proxies), "[10.0.0.0/8, ::1/128]");
    }

    #[test]
    fn laravels_names_count_where_soketis_are_missing() {
        let loaded = load_env(&[
            ("PUSHER_APP_ID", "laravel"),
            ("PUSHER_APP_KEY", "null"),
            ("PUSHER_APP_SECRET", "hush"),
            ("SOKETI_DEFAULT_APP_SECRET", "mine"),
        ])
        .unwrap();
        let app = &loaded.config.apps[0];
        assert_eq!((app.id.as_str(), app.key.as_str(), app.secret.expose()), ("laravel", "app-key", &b"mine"[..]));
        assert_eq!(loaded.origins["apps.0.id"], "PUSHER_APP_ID");
    }

    #[test]
    fn every_fault_is_told_at_once_and_a_value_is_blamed_once() {
        let faults = load_env(&[
            ("SOKETI_PORT", "70000"),
            ("SOKETI_PATH_PREFIX", "ws"),
            ("GEMA_SERVER_PROT", "1"),
            ("GEMA_SERVER_BACKLOG", "many"),
            ("SOKETI_DEFAULT_APP_MAX_CONNS", "1.5"),
        ])
        .unwrap_err()
        .faults;
        assert_eq!(faults.len(), 5, "{faults:#?}");
        assert!(faults.contains(
            &"server.port (from SOKETI_PORT) is 70000; it must be a whole number from 0 to 65535".to_owned()
        ));
        assert!(
            faults.iter().any(|fault| fault.starts_with("server.path_prefix (from SOKETI_PATH_PREFIX) is \"ws\";"))
        );
    }

    #[test]
    fn settings_show_values_and_origins_but_no_secrets() {
        let lines = load_env(&[("SOKETI_PORT", "7001"), ("SOKETI_DEFAULT_APP_SECRET", "hush")]).unwrap().settings();
        let line = |key: &str| lines.iter().find(|line| line.starts_with(key)).unwrap();
        assert!(line("server.port = 7001 ").ends_with("# SOKETI_PORT"));
        assert!(line("server.host = ").ends_with("# default"));
        assert!(line("apps.0.secret = \"***\"").ends_with("# SOKETI_DEFAULT_APP_SECRET"));
        assert!(!lines.join("").contains("hush"));
    }

    #[test]
    fn redis_has_no_effect_on_a_single_node() {
        let loaded = load_env(&[
            ("SOKETI_HOST", "127.0.0.1"),
            ("SOKETI_ADAPTER_REDIS_PREFIX", "shop"),
            ("SOKETI_ADAPTER_REDIS_CLUSTER_MODE", "true"),
            ("SOKETI_DB_REDIS_HOST", "redis"),
            ("SOKETI_DB_REDIS_PORT", "6379"),
            ("GEMA_REDIS_PASSWORD", "hush"),
        ])
        .unwrap();
        let because = "has no effect, because cluster.driver is local; set it to redis to run several nodes as one";
        let idle = [CLUSTER_MODE, "SOKETI_ADAPTER_REDIS_PREFIX", "SOKETI_DB_REDIS_HOST", "GEMA_REDIS_PASSWORD"];
        assert_eq!(loaded.warnings, idle.map(|who| format!("{who} {because}")), "a default is not worth a word");
    }

    #[test]
    fn laravels_broadcaster_needs_a_redis_but_no_other_nodes() {
        let loaded = load_env(&[
            ("SOKETI_HOST", "127.0.0.1"),
            ("BROADCAST_CONNECTION", "redis"),
            ("GEMA_INGEST_PREFIXES", "laravel_database_=app-id, shop_=app-id"),
            ("REDIS_HOST", "laravel"),
            ("GEMA_REDIS_KEY_PREFIX", "shop:"),
            ("GEMA_CLUSTER_NAME", "shop"),
        ])
        .unwrap();
        assert_eq!(loaded.config.ingest.prefixes, ["laravel_database_=app-id", "shop_=app-id"]);
        assert_eq!(loaded.config.redis.host, "laravel");
        assert_eq!(
            loaded.warnings,
            ["GEMA_CLUSTER_NAME", "GEMA_REDIS_KEY_PREFIX"].map(|who| format!("{who} has no effect, because {LOCAL}"))
        );
        let faults = load_env(&[("GEMA_INGEST_PREFIXES", "x=nobody"), (CLUSTER_MODE, "1")]).unwrap_err().faults;
        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].starts_with("ingest.prefixes (from GEMA_INGEST_PREFIXES) gives \"x\" to \"nobody\""));
        assert!(faults[1].contains("redis.cluster_nodes is empty"));
    }

    #[test]
    fn laravels_broadcaster_is_warned_of_where_nobody_hears_it() {
        let warnings = |variables: &[(&str, &str)]| {
            let host = [("SOKETI_HOST", "127.0.0.1")];
            load_env(&[&host, variables].concat()).unwrap().warnings
        };
        for name in ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"] {
            let found = warnings(&[(name, "redis")]);
            assert!(found.len() == 1 && found[0].starts_with(&format!("{name} is redis, but")), "{found:?}");
            assert_eq!(warnings(&[(name, "pusher")]), [""; 0]);
            assert_eq!(warnings(&[(name, "redis"), ("GEMA_INGEST_PREFIXES", "x=app-id")]), [""; 0]);
        }
        // What Laravel 11 no longer reads may be left over.
        assert_eq!(warnings(&[("BROADCAST_DRIVER", "redis"), ("BROADCAST_CONNECTION", "pusher")]), [""; 0]);
    }

    #[test]
    fn what_another_way_to_redis_outweighs_has_no_effect() {
        let loaded = load_env(&[
            ("SOKETI_HOST", "127.0.0.1"),
            ("SOKETI_ADAPTER_DRIVER", "redis"),
            ("SOKETI_DB_REDIS_HOST", "redis"),
            ("SOKETI_DB_REDIS_INSTANCE_NAME", "shop"),
            ("GEMA_REDIS_URL", "redis://elsewhere"),
            ("GEMA_REDIS_KEY_PREFIX", "shop:"),
        ])
        .unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "SOKETI_DB_REDIS_HOST has no effect, because redis.url is set, which says it",
                "SOKETI_DB_REDIS_INSTANCE_NAME has no effect, because redis.sentinels is empty",
            ]
        );
        let nobody =
            [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_ADAPTER_DRIVER", "redis"), ("GEMA_REDIS_USERNAME", "gema")];
        let warnings = load_env(&nobody).unwrap().warnings;
        assert_eq!(warnings, ["GEMA_REDIS_USERNAME has no effect, because redis.password is empty"]);
    }

    #[test]
    fn redis_may_be_there_for_limits_alone() {
        let limiter = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_RATE_LIMITER_DRIVER", "redis")];
        let others = [
            ("SOKETI_RATE_LIMITER_REDIS_OPTIONS", r#"{"tls":{}}"#),
            ("SOKETI_ADAPTER_REDIS_PREFIX", "shop"),
            ("REDIS_HOST", "laravel"),
            ("GEMA_CLUSTER_STRICT", "true"),
        ];
        let loaded = load_env(&[&limiter[..], &others].concat()).unwrap();
        let because = "has no effect, because cluster.driver is local; set it to redis to run several nodes as one";
        assert_eq!(loaded.warnings, [format!("GEMA_CLUSTER_STRICT {because}")]);
        assert_eq!(loaded.config.limiter.driver, LimiterDriver::Redis);
        assert_eq!((loaded.config.redis.host.as_str(), loaded.config.redis.tls), ("laravel", true));
        let cluster = [
            ("SOKETI_RATE_LIMITER_REDIS_CLUSTER_MODE", "true"),
            (CLUSTER_MODE, "false"),
            ("SOKETI_DB_REDIS_CLUSTER_NODES", r#"[{"host":"a","port":1}]"#),
        ];
        let loaded = load_env(&[&limiter[..], &cluster].concat()).unwrap();
        assert_eq!((loaded.config.redis.cluster_nodes, loaded.warnings), (vec!["a:1".to_owned()], Vec::new()));
        let faults = load_env(&[limiter[0], limiter[1], cluster[0]]).unwrap_err().faults;
        assert!(faults[0].starts_with("SOKETI_RATE_LIMITER_REDIS_CLUSTER_MODE is true, but"), "{faults:?}");
    }

    #[test]
    fn cluster_mode_needs_nodes_from_wherever() {
        let mode = [("SOKETI_ADAPTER_DRIVER", "redis"), (CLUSTER_MODE, "1")];
        let faults = load_env(&mode).unwrap_err().faults;
        assert_eq!(
            faults,
            [format!(
                "{CLUSTER_MODE} is true, but redis.cluster_nodes is empty; name the nodes in SOKETI_DB_REDIS_CLUSTER_NODES"
            )]
        );
        for nodes in
            [("GEMA_REDIS_CLUSTER_NODES", "a:1"), ("SOKETI_DB_REDIS_CLUSTER_NODES", r#"[{"host":"a","port":1}]"#)]
        {
            let loaded = load_env(&[mode[0], mode[1], nodes]).unwrap();
            assert_eq!(loaded.config.redis.cluster_nodes, ["a:1"]);
        }
    }
}
