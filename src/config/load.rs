//! Defaults, files and the environment become one checked `Config`; every mistake is found at once.
//! `cli` calls it, and so does a reload.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use config::builder::{ConfigBuilder, DefaultState};
use config::{ConfigError, Map, Source, Value, ValueKind};

use super::Config;
use super::StoreDriver;
use super::build;
use super::build::Build;
use super::cluster;
use super::cluster::LOCAL;
use super::dotenv;
use super::env;
use super::env::Variable;
use super::fallback;
use super::fault::{Fault, Subject};
use super::file;
use super::loaded;
use super::loaded::{Faults, Loaded};
use super::options::Translation;
use super::origin::Origin;
use super::schema;
use super::store;
use super::translate::translate;
use super::tree::Group;

/// Reads `files`, later ones over earlier ones, and puts `environment` over them.
///
/// ```
/// use gema::config::Origin;
///
/// let environment = [("SOKETI_PORT".to_owned(), "7001".to_owned())];
/// let loaded = gema::config::load(&[], environment).unwrap();
/// assert_eq!(loaded.config.server.port, 7001);
/// assert_eq!(loaded.origins["server.port"], Origin::Variable("SOKETI_PORT".to_owned()));
/// ```
pub fn load(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Faults> {
    Sources::new(environment).load(files)
}

/// Same as [`load`], with those variables of `folder`'s `.env` that `environment` lacks.
pub fn load_in(
    folder: &Path,
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Faults> {
    let mut sources = Sources::new(environment);
    sources.read_dotenv(&folder.join(".env"));
    sources.load(files)
}

/// The sources beside the files.
#[derive(Default)]
struct Sources {
    variables: Vec<Variable>,
    /// All variables by name, for files that ask for them.
    by_name: BTreeMap<String, String>,
    /// Why there may be more variables than we know of.
    unreadable: Option<Fault>,
    faults: Vec<Fault>,
}

impl Sources {
    fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let by_name: BTreeMap<String, String> = environment.into_iter().collect();
        let variable =
            |(name, value): (&String, &String)| Variable { name: name.clone(), value: value.clone(), line: None };
        Self { variables: by_name.iter().map(variable).collect(), by_name, ..Self::default() }
    }

    fn read_dotenv(&mut self, path: &Path) {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Some call a folder so that has nothing to do with it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return,
            Err(error) => return self.unreadable = Some(file::unreadable(".env", &error)),
        };
        let mut found = BTreeMap::new();
        for entry in dotenv::read(&text, &self.by_name, env::is_read) {
            let (name, line) = (entry.name, Some(entry.line));
            match entry.value {
                _ if self.by_name.contains_key(&name) => (),
                Ok(value) => drop(found.insert(name.clone(), Variable { name, value, line })),
                Err(text) if env::is_read(&name) => {
                    self.faults.push(Variable { name, value: String::new(), line }.subject().fault(text));
                }
                Err(_) => (),
            }
        }
        for variable in found.into_values() {
            self.by_name.insert(variable.name.clone(), variable.value.clone());
            self.variables.push(variable);
        }
    }

    fn load(self, files: &[PathBuf]) -> Result<Loaded, Faults> {
        let Self { variables, by_name, unreadable, mut faults } = self;
        let mut translations: Vec<Translation> = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for file in files {
            match file::read(file, &by_name) {
                Ok(settings) => {
                    let (soketis, own) = translate(settings, !file::is_ours_alone(file));
                    translations.push(soketis);
                    layers.push(Layer(own));
                }
                Err(fault) => faults.push(fault),
            }
        }
        translations.push(env::read(variables));
        let broadcaster = translations.iter_mut().find_map(|translation| translation.broadcaster.take());
        let cluster_mode = settle(&mut translations);
        let (mut warnings, mut unread_apps, mut fallbacks) = (Vec::new(), Vec::new(), Vec::new());
        for translation in &mut translations {
            faults.append(&mut translation.faults);
            warnings.append(&mut translation.warnings);
            unread_apps.append(&mut translation.unread_apps);
            fallbacks.append(&mut translation.fallbacks);
        }
        warnings.sort_by_key(|warning| warning.unread);
        warnings.splice(0..0, unreadable.clone());
        let files_have_apps = layers.iter().any(Layer::has_apps);
        let mut merged = merge(translations, layers, &mut faults);
        fallback::complete(&mut merged, &fallbacks, files_have_apps);

        let (config, built) = build::config(merged);
        let Build { faults: of_values, warnings: without_effect, origins, .. } = built;
        warnings.extend(without_effect);
        let mut loaded = Loaded { config, warnings, origins };
        loaded.complete();
        let is_known = |key: &str| of_values.iter().any(|fault| fault.subject.key == key);
        let more: Vec<Fault> = loaded.refuse_default_app(&unread_apps);
        let of_checks = loaded.config.validate().into_iter().filter(|fault| !is_known(&fault.subject.key));
        let of_checks = of_checks.map(|fault| loaded.locate(fault)).collect::<Vec<_>>();
        let mut of_cluster = None;
        if let Some(mode) = cluster_mode.filter(|_| loaded.config.redis.cluster_nodes.is_empty()) {
            if !loaded.config.needs_redis() {
                loaded.warnings.push(mode.fault(format!("has no effect, because {LOCAL}")));
            } else if !is_known("redis.cluster_nodes") {
                of_cluster = Some(mode.fault(
                    "is true, but redis.cluster_nodes is empty; name the nodes in SOKETI_DB_REDIS_CLUSTER_NODES",
                ));
            }
        }
        faults.extend(of_values.into_iter().chain(more).chain(of_checks).chain(of_cluster));
        if loaded.config.apps.is_empty() && loaded.config.app_store.driver == StoreDriver::Config {
            // Whoever wrote that file does not want an app that everybody knows.
            let remedy = |fault: Fault| format!("{}; make it readable, since nothing else names an app", fault.text);
            faults.extend(unreadable.map(|fault| fault.subject.clone().fault(remedy(fault))));
        }
        if !faults.is_empty() {
            return Err(Faults { faults, good: Box::new(loaded) });
        }
        if let Some((true, variable)) = broadcaster.filter(|_| !loaded.config.ingest.is_on()) {
            loaded.warnings.push(variable.fault(
                "is redis, but ingest.prefixes is empty, so gema hears no events of Laravel; set it to pusher, or \
                 ingest.prefixes to Laravel's REDIS_PREFIX and the app, such as laravel_database_=app-id",
            ));
        }
        let of_values = loaded.config.warnings().into_iter().map(|warning| loaded.locate(warning));
        let more: Vec<Fault> = idle(&loaded.config, &loaded.origins).into_iter().chain(of_values).collect();
        loaded.warnings.extend(more);
        loaded.config.redis.complete_socket();
        Ok(loaded)
    }
}

/// The setting that makes Soketi look for a Redis Cluster, if there is one; the last source that has it counts.
fn settle(translations: &mut [Translation]) -> Option<Subject> {
    let last = translations.iter().rev().find_map(|translation| translation.cluster_mode.clone());
    let cluster_mode = last.filter(|(mode, _)| *mode).map(|(_, subject)| subject);
    for translation in translations {
        translation.settle_cluster_mode(cluster_mode.is_some());
    }
    cluster_mode
}

/// A warning for each setting that is not the default and has no effect beside the others.
fn idle(config: &Config, origins: &BTreeMap<String, Origin>) -> Vec<Fault> {
    let default = Config::default();
    let (values, defaults) = (schema::object(config), schema::object(&default));
    let secrets: Vec<&str> = loaded::secrets_that_differ(config, &default).collect();
    let value_of = |values: &schema::Object, key: &str| {
        let (section, field) = key.split_once('.')?;
        values.get(section)?.get(field).cloned()
    };
    let warning = |(key, origin): (&String, &Origin)| {
        let because = cluster::without_effect(key, config).or_else(|| store::without_effect(key, config))?;
        let subject = match origin {
            Origin::Variable(name) => Subject { key: name.clone(), origin: None },
            _ => Subject { key: key.clone(), origin: Some(origin.clone()) },
        };
        let differs = value_of(&values, key) != value_of(&defaults, key) || secrets.contains(&key.as_str());
        differs.then(|| subject.fault(format!("has no effect, because {because}")))
    };
    origins.iter().filter_map(warning).collect()
}

/// The values of one file or of the environment.
#[derive(Debug, Clone)]
struct Layer(Group);

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

    fn collect(&self) -> Result<Group, ConfigError> {
        Ok(self.0.clone())
    }
}

/// In each file our own names win over Soketi's, and the environment wins over all files.
fn merge(translations: Vec<Translation>, own: Vec<Layer>, faults: &mut Vec<Fault>) -> Group {
    let mut builder: ConfigBuilder<DefaultState> = config::Config::builder();
    let mut own = own.into_iter();
    for translation in translations {
        builder = builder.add_source(Layer::of(translation.values));
        if let Some(own) = own.next() {
            builder = builder.add_source(own);
        }
    }
    match builder.build().and_then(|merged| merged.cache.into_table()) {
        Ok(merged) => merged,
        Err(error) => {
            faults.push(error.to_string().into());
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LimiterDriver;
    use super::super::fault::sentences;
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
        assert_eq!(loaded.origins["apps.0.id"], Origin::Variable("PUSHER_APP_ID".to_owned()));
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
        .unwrap_err();
        let faults = sentences(&faults.faults);
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
        let faults = load_env(&[("GEMA_INGEST_PREFIXES", "x=nobody"), (CLUSTER_MODE, "1")]).unwrap_err();
        let faults = sentences(&faults.faults);
        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].starts_with("ingest.prefixes (from GEMA_INGEST_PREFIXES) gives \"x\" to \"nobody\""));
        assert!(faults[1].contains("redis.cluster_nodes is empty"));
    }

    #[test]
    fn laravels_broadcaster_is_warned_of_where_nobody_hears_it() {
        let warnings = |variables: &[(&str, &str)]| {
            let host = [("SOKETI_HOST", "127.0.0.1")];
            sentences(&load_env(&[&host, variables].concat()).unwrap().warnings)
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
        let faults = sentences(&load_env(&[limiter[0], limiter[1], cluster[0]]).unwrap_err().faults);
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
