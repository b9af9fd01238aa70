//! Defaults, files and the environment become one checked `Config`; every mistake is found at once.
//! `cli` calls it, and so does a reload.

use std::path::{Path, PathBuf};

use config::{ConfigError, Source};

use super::StoreDriver;
use super::build;
use super::build::Build;
use super::fault::Fault;
use super::loaded::{Faults, Loaded};
use super::no_effect;
use super::no_effect::LOCAL;
use super::origin::Origin;
use super::sources::Sources;
use super::sources::laravel;
use super::sources::reverb;
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
    from(Sources::read(files, environment.into_iter().collect(), None))
}

/// Same as [`load`], with those variables of `folder`'s `.env` that `environment` lacks.
pub fn load_in(
    folder: &Path,
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Faults> {
    load_with(folder, files, environment, &[])
}

/// Same as [`load_in`], with options of the command line, which win over all others.
pub fn load_with(
    folder: &Path,
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
    options: &[OptionValue],
) -> Result<Loaded, Faults> {
    let mut sources = Sources::read(files, environment.into_iter().collect(), Some(&folder.join(".env")));
    let value = |given: &OptionValue| Origin::Option(given.option.to_owned()).value(given.value.as_str());
    sources.layers.push(options.iter().map(|given| (given.key.to_owned(), value(given))).collect());
    from(sources)
}

/// The value of a setting on the command line.
#[derive(Debug, Clone)]
pub struct OptionValue {
    /// With its dashes, such as `--port`.
    pub option: &'static str,
    /// The setting, such as `server.port`.
    pub key: &'static str,
    /// As it was written.
    pub value: String,
}

fn from(mut sources: Sources) -> Result<Loaded, Faults> {
    let mut faults = std::mem::take(&mut sources.faults);
    let mut merged = merge(std::mem::take(&mut sources.layers)).unwrap_or_else(|error| {
        faults.push(error.to_string().into());
        Group::new()
    });
    let mut reverb = sources.read_reverb(&merged);
    faults.append(&mut reverb.faults);
    sources.warnings.append(&mut reverb.warnings);
    sources.warnings.extend(reverb::put(&mut merged, &reverb));
    laravel::complete(&mut merged, &sources.fallbacks, sources.files_have_apps);

    let (config, Build { faults: of_values, warnings: without_effect, origins, .. }) = build::config(merged);
    let warnings = std::mem::take(&mut sources.warnings);
    let mut loaded = Loaded { config, warnings, origins, clients: reverb.clients };
    loaded.warnings.extend(without_effect);
    loaded.complete();
    let of_apps = loaded.refuse_default_app(&sources.unread_apps);
    // A webhook that cannot be read is not in `config`, and the next one has its number there.
    let is_known = |fault: &Fault| {
        let is_same = |known: &Fault| known.subject.key == fault.subject.key;
        !fault.subject.key.contains(".webhooks.") && of_values.iter().any(is_same)
    };
    let of_checks = loaded.config.validate().into_iter().filter(|fault| !is_known(fault));
    let of_checks: Vec<Fault> = of_checks.map(|fault| loaded.locate(fault)).collect();
    let has_nodes = of_values.iter().any(|fault| fault.subject.key == "redis.cluster_nodes");
    faults.extend(of_values.into_iter().chain(of_apps).chain(of_checks));
    if let Some(mode) = sources.cluster_mode.filter(|_| loaded.config.redis.cluster_nodes.is_empty()) {
        if !loaded.config.needs_redis() {
            loaded.warnings.push(mode.fault(format!("has no effect, because {LOCAL}")));
        } else if !has_nodes {
            faults.push(
                mode.fault(
                    "is true, but redis.cluster_nodes is empty; name the nodes in SOKETI_DB_REDIS_CLUSTER_NODES",
                ),
            );
        }
    }
    if loaded.config.apps.is_empty() && loaded.config.app_store.driver == StoreDriver::Config {
        // The writer of that file does not want an app that everybody knows.
        faults.extend(sources.unreadable.map(|Fault { subject, text, .. }| {
            subject.fault(format!("{text}; make it readable, since nothing else names an app"))
        }));
    }
    if !faults.is_empty() {
        return Err(Faults { faults, good: Box::new(loaded) });
    }
    let redis = sources.broadcaster.filter(|(broadcaster, _)| broadcaster == "redis" && !loaded.config.ingest.is_on());
    if let Some((_, variable)) = redis {
        loaded.warnings.push(variable.fault(
            "is redis, but ingest.prefixes is empty, so gema hears no events of Laravel; set it to pusher, or \
             ingest.prefixes to Laravel's REDIS_PREFIX and the app, such as laravel_database_=app-id",
        ));
    }
    loaded.warnings.extend(no_effect::warnings(&loaded.config, &loaded.origins));
    let of_values: Vec<Fault> = loaded.config.warnings().into_iter().map(|warning| loaded.locate(warning)).collect();
    loaded.warnings.extend(of_values);
    loaded.config.redis.complete_socket();
    Ok(loaded)
}

/// Puts each layer over those before it.
fn merge(layers: Vec<Group>) -> Result<Group, ConfigError> {
    let mut merged = config::Config::default();
    for layer in layers {
        let mut source = config::Config::default();
        source.cache = layer.into();
        source.collect_to(&mut merged.cache)?;
    }
    merged.cache.into_table()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimiterDriver;
    use crate::config::fault::sentences;
    use crate::config::sources::soketi::CLUSTER_MODE;

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
    fn a_webhook_behind_one_that_cannot_be_read_has_its_fault_told() {
        let webhooks = r#"[{"event_types":["channel_occupied"]},{"url":"ftp://x","event_types":["channel_occupied"]}]"#;
        let faults = load_env(&[("SOKETI_DEFAULT_APP_WEBHOOKS", webhooks)]).unwrap_err();
        let faults = sentences(&faults.faults);
        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].contains("is missing") && faults[1].contains("must be a whole URL"), "{faults:#?}");
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
        // A variable that Laravel 11 no longer reads may be left over.
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
