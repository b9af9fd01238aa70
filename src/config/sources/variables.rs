//! From environment variables to keys: the only reader of the environment.
//! `sources` calls it.

use std::collections::BTreeMap;

use crate::config::schema;
use crate::config::sources::soketi;
use crate::config::sources::soketi::{BROADCASTER, LARAVEL, LARAVEL_WEBSOCKETS, Means, Setting, TABLE, Translation};
use crate::config::sources::variable::Variable;
use crate::config::suggest::{did_you_mean, nearest};

/// The environment of this process, for [`load`](crate::config::load()).
pub fn process() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Reads the variables that concern us; all others are somebody else's.
pub(in crate::config) fn read(mut variables: Vec<Variable>) -> Translation {
    let keys = schema::keys();
    let known = known(&keys);
    // Our own names come last, since they win.
    variables.sort_by_key(|variable| (variable.name.starts_with("GEMA_"), variable.name.clone()));
    let mut translation = Translation::default();
    for variable in variables {
        let (name, value, subject) = (&variable.name, &variable.value, variable.subject());
        match known.get(name) {
            _ if is_reverbs(name) && is_service_link(name, value) => (),
            // Whether they count is known when all sources are.
            _ if is_reverbs(name) => translation.reverb.push(variable),
            // A service called `redis` is not what Laravel means.
            Some(Means::Fallback(_)) if is_service_link(name, value) => (),
            Some(_) if is_service_link(name, value) => translation.warnings.push(subject.fault(
                "has no effect, because Kubernetes made it for a service of that name; set it for the pod, or switch \
                 enableServiceLinks off",
            )),
            Some(means) => {
                let Some(value) = soketi::given(value) else { continue };
                let setting = Setting { subject: &subject, origin: &variable.origin(), value: &value };
                translation.warn_of_quotes(setting, means);
                translation.apply(setting, means);
            }
            None if !concerns_us(name) || is_service_link(name, value) => (),
            None => unknown(&mut translation, &variable, &keys),
        }
    }
    translation
}

/// Where an app belongs that variables name.
const PLACE_OF_APP: &str = "set SOKETI_DEFAULT_APP_ID, SOKETI_DEFAULT_APP_KEY and SOKETI_DEFAULT_APP_SECRET";

/// One of Soketi's variables may be another program's, or nobody's; ours are only ours.
fn unknown(translation: &mut Translation, variable: &Variable, keys: &[String]) {
    let (name, subject) = (&variable.name, variable.subject());
    let is_of_websockets = name.starts_with(WEBSOCKETS);
    let names: Vec<String> = match is_of_websockets {
        true => LARAVEL_WEBSOCKETS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        false => keys.iter().map(|key| own(key)).chain(soketis()).collect(),
    };
    let names = names.iter().map(String::as_str);
    if name.starts_with("GEMA_") {
        let otherwise = if variable.line.is_some() { "remove it" } else { "unset it" };
        let meant = did_you_mean(name, names, otherwise);
        return translation.faults.push(subject.fault(format!("is not a variable of gema; {meant}")));
    }
    let default = if name == UNPREFIXED.0 {
        Some(UNPREFIXED.1)
    } else {
        let meant = nearest(name, names);
        let remedy = meant.as_ref().map(|meant| format!("did you mean {meant}?"));
        let whose = if is_of_websockets { "laravel-websockets" } else { "Soketi" };
        translation.unread(&subject, whose, &remedy.unwrap_or_else(|| "keep it if another program does".to_owned()));
        meant.and_then(|meant| Some(APP.iter().find(|(variable, _)| *variable == meant)?.1))
    };
    let value = soketi::given(&variable.value);
    if default.zip(value).is_some_and(|(default, value)| value != default) {
        translation.unread_apps.push((subject, PLACE_OF_APP));
    }
}

/// The variables that name the default app, with Soketi's defaults.
const APP: [(&str, &str); 3] = [
    ("SOKETI_DEFAULT_APP_ID", "app-id"),
    ("SOKETI_DEFAULT_APP_KEY", "app-key"),
    ("SOKETI_DEFAULT_APP_SECRET", "app-secret"),
];
/// Soketi's name before 1.0, which it does not read any more.
const UNPREFIXED: (&str, &str) = ("DEFAULT_APP_SECRET", "app-secret");

/// The start of laravel-websockets' names.
const WEBSOCKETS: &str = "LARAVEL_WEBSOCKETS_";

/// Whether a variable is Soketi's, laravel-websockets' or ours by its name.
fn concerns_us(name: &str) -> bool {
    ["SOKETI_", "GEMA_", WEBSOCKETS].iter().any(|start| name.starts_with(start)) || name == UNPREFIXED.0
}

/// Whether a variable is Reverb's by its name. Laravel's other variables of Redis count without Reverb, too.
fn is_reverbs(name: &str) -> bool {
    name.starts_with("REVERB_") || name == "REDIS_TIMEOUT"
}

/// Whether anything is read from a variable of that name.
pub(in crate::config) fn is_read(name: &str) -> bool {
    let is_laravels = LARAVEL.iter().any(|(laravels, _)| *laravels == name) || BROADCASTER.contains(&name);
    is_laravels || concerns_us(name) || is_reverbs(name) || LARAVEL_WEBSOCKETS.iter().any(|(other, _)| *other == name)
}

/// The variables that set `key`: Soketi's and Laravel's, where they have one, and ours.
#[cfg(test)]
pub(in crate::config) fn variables_of(key: &str) -> Vec<String> {
    let of_key = |(name, _, means): &(&str, &str, Means<'_>)| !name.is_empty() && means.key() == Some(key);
    let soketis = TABLE.iter().filter(|row| of_key(row)).map(|(name, ..)| format!("SOKETI_{name}"));
    let laravels = LARAVEL.iter().filter(|(_, other)| *other == key).map(|(name, _)| (*name).to_owned());
    let own = (!key.starts_with("apps.")).then(|| own(key));
    soketis.chain(laravels).chain(own).collect()
}

/// `GEMA_SERVER_PORT` for `server.port`.
fn own(key: &str) -> String {
    format!("GEMA_{}", key.replace('.', "_").to_uppercase())
}

fn soketis() -> impl Iterator<Item = String> {
    TABLE.iter().filter(|(name, ..)| !name.is_empty()).map(|(name, ..)| format!("SOKETI_{name}"))
}

fn known(keys: &[String]) -> BTreeMap<String, Means<'_>> {
    let means = TABLE.iter().filter(|(name, ..)| !name.is_empty()).map(|(_, _, means)| *means);
    let soketis = soketis().zip(means);
    let own = keys.iter().map(|key| (own(key), Means::Key(key)));
    let laravels = LARAVEL.iter().map(|(name, key)| ((*name).to_owned(), Means::Fallback(key)));
    let broadcaster = BROADCASTER.iter().map(|name| ((*name).to_owned(), Means::Broadcaster));
    let websockets = LARAVEL_WEBSOCKETS.iter().map(|(name, means)| ((*name).to_owned(), *means));
    soketis.chain(own).chain(laravels).chain(broadcaster).chain(websockets).collect()
}

/// Whether Kubernetes made the variable, which happens when a service is called `soketi` or `gema`.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_url = PROTOCOLS.iter().any(|protocol| value.starts_with(&format!("{protocol}://")));
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        rest.starts_with(|digit: char| digit.is_ascii_digit())
            && PROTOCOLS.iter().any(|protocol| rest.contains(&protocol.to_uppercase()))
    });
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || of_port || (is_url && name.ends_with("_PORT"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::sources::soketi::CLUSTER_MODE;
    use Means::{Only, Parameter};

    fn read_all(variables: &[(&str, &str)]) -> Translation {
        let variable =
            |&(name, value): &(&str, &str)| Variable { name: name.to_owned(), value: value.to_owned(), line: None };
        let mut translation = read(variables.iter().map(variable).collect());
        translation.settle_cluster_mode(translation.cluster_mode.as_ref().is_some_and(|(mode, _)| *mode));
        let is_nats = translation.values.get("cluster.driver").is_some_and(|driver| driver.kind.to_string() == "nats");
        translation.settle_name(is_nats);
        translation
    }

    fn text(environment: &Translation, key: &str) -> String {
        environment.values[key].kind.to_string()
    }

    #[test]
    fn each_variable_is_there_once_and_sets_a_key_that_exists() {
        let names: BTreeSet<String> = soketis().collect();
        assert_eq!(names.len(), 115, "104 of the options and 11 of the default app");
        let (keys, fields) = (schema::keys(), schema::app_fields());
        for (name, _, means) in TABLE {
            if let Some(key) = means.key() {
                let field = key.strip_prefix("apps.0.");
                assert!(
                    field.map_or(keys.iter().any(|known| known == key), |field| fields.contains_key(field)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn milliseconds_become_seconds() {
        let environment = read_all(&[("SOKETI_SHUTDOWN_GRACE_PERIOD", "2500")]);
        assert_eq!(text(&environment, "server.drain_seconds"), "2.5");
        let environment = read_all(&[("SOKETI_SHUTDOWN_GRACE_PERIOD", "3s")]);
        assert_eq!(environment.faults, ["SOKETI_SHUTDOWN_GRACE_PERIOD is \"3s\"; it must be a number of milliseconds"]);
    }

    #[test]
    fn empty_and_null_are_not_set() {
        let environment = read_all(&[("SOKETI_PORT", ""), ("SOKETI_HOST", "null"), ("PUSHER_APP_KEY", " ")]);
        assert!(environment.values.is_empty() && environment.fallbacks.is_empty());
    }

    #[test]
    fn quotes_are_taken_as_json() {
        let environment =
            read_all(&[("SOKETI_METRICS_PROMETHEUS_PREFIX", "\"\""), ("SOKETI_DEFAULT_APP_KEY", "\"k\"")]);
        assert_eq!(text(&environment, "metrics.prefix"), "");
        assert_eq!(text(&environment, "apps.0.key"), "k");
    }

    #[test]
    fn what_soketi_has_by_default_is_accepted_without_a_word() {
        for (name, _, means) in TABLE.into_iter().filter(|(name, ..)| !name.is_empty()) {
            let default = match means {
                Only(works, _) => works.first().copied().unwrap_or_default(),
                Parameter(default, _) => default,
                _ => continue,
            };
            let environment = read_all(&[(&format!("SOKETI_{name}"), default)]);
            assert!(environment.faults.is_empty() && environment.warnings.is_empty(), "{name}");
        }
        let environment =
            read_all(&[("SOKETI_ADAPTER_REDIS_CLUSTER_MODE", "FALSE"), ("SOKETI_CACHE_REDIS_OPTIONS", "{ }")]);
        assert!(environment.warnings.is_empty());
    }

    #[test]
    fn a_feature_that_is_not_there_is_refused() {
        for (name, value) in [
            ("SOKETI_ADAPTER_DRIVER", "cluster"),
            ("SOKETI_APP_MANAGER_DRIVER", "mongodb"),
            ("SOKETI_QUEUE_DRIVER", "beanstalkd"),
            ("SOKETI_RATE_LIMITER_DRIVER", "cluster"),
            ("SOKETI_MODE", "worker"),
        ] {
            let environment = read_all(&[(name, value)]);
            assert_eq!(environment.faults.len(), 1, "{name}");
            let fault = environment.faults[0].to_string();
            assert!(fault.starts_with(&format!("{name} must be ")), "{name}");
            assert!(!fault.contains("hush"), "a value may hold secrets");
        }
    }

    #[test]
    fn a_parameter_of_what_is_not_selected_is_warned_of() {
        let environment = read_all(&[("SOKETI_CLUSTER_PREFIX", "hush"), ("SOKETI_CLUSTER_PORT", "11002")]);
        assert_eq!(
            environment.warnings,
            ["SOKETI_CLUSTER_PREFIX has no effect, because the adapter cluster is not selected"]
        );
    }

    #[test]
    fn soketis_redis_adapter_is_understood() {
        let environment = read_all(&[
            ("SOKETI_ADAPTER_DRIVER", "redis"),
            ("SOKETI_ADAPTER_REDIS_PREFIX", "shop"),
            ("SOKETI_ADAPTER_REDIS_PUB_OPTIONS", r#"{"tls":{}}"#),
            ("SOKETI_ADAPTER_REDIS_SUB_OPTIONS", r#"{"tls":{}}"#),
            ("SOKETI_DB_REDIS_PASSWORD", "0012"),
            ("SOKETI_DB_REDIS_USERNAME", "null"),
            ("SOKETI_DB_REDIS_SENTINELS", r#"[{"host":"a","port":1},{"host":"b"}]"#),
        ]);
        assert!(environment.faults.is_empty() && environment.warnings.is_empty(), "{environment:?}");
        let text = |key| text(&environment, key);
        assert_eq!((text("cluster.driver"), text("cluster.name")), ("redis".to_owned(), "shop".to_owned()));
        assert_eq!((text("redis.tls"), text("redis.password")), ("true".to_owned(), "0012".to_owned()));
        let sentinels = environment.values["redis.sentinels"].clone().into_array().unwrap();
        assert_eq!(sentinels.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:26379"]);
        assert!(!environment.values.contains_key("redis.username"));
    }

    #[test]
    fn soketis_nats_adapter_is_understood() {
        let environment = read_all(&[
            ("SOKETI_ADAPTER_DRIVER", "nats"),
            ("SOKETI_ADAPTER_NATS_PREFIX", "shop"),
            ("SOKETI_ADAPTER_NATS_SERVERS", r#"["a:1","b:2"]"#),
            ("SOKETI_ADAPTER_NATS_USER", "gema"),
            ("SOKETI_ADAPTER_NATS_PASSWORD", "0012"),
            ("SOKETI_ADAPTER_NATS_TOKEN", "null"),
            ("SOKETI_ADAPTER_NATS_TIMEOUT", "2500"),
        ]);
        assert!(environment.faults.is_empty() && environment.warnings.is_empty(), "{environment:?}");
        let text = |key| text(&environment, key);
        assert_eq!((text("cluster.driver"), text("cluster.name")), ("nats".to_owned(), "shop".to_owned()));
        assert_eq!((text("nats.user"), text("nats.password")), ("gema".to_owned(), "0012".to_owned()));
        assert_eq!(
            (text("nats.connect_seconds"), text("nats.servers")),
            ("2.5".to_owned(), r#"["a:1","b:2"]"#.to_owned())
        );
        assert!(!environment.values.contains_key("nats.token"));
    }

    #[test]
    fn of_soketis_prefixes_that_of_its_adapter_names_the_cluster() {
        let prefixes = [("SOKETI_ADAPTER_NATS_PREFIX", "over-nats"), ("SOKETI_ADAPTER_REDIS_PREFIX", "over-redis")];
        for (driver, name, unused) in [("nats", "over-nats", prefixes[1].0), ("redis", "over-redis", prefixes[0].0)] {
            let environment = read_all(&[&prefixes[..], &[("SOKETI_ADAPTER_DRIVER", driver)]].concat());
            assert_eq!(text(&environment, "cluster.name"), name);
            let [warning] = &environment.warnings[..] else { panic!("{:?}", environment.warnings) };
            assert!(warning.to_string().starts_with(&format!("{unused} has no effect, because cluster.driver is ")));
        }
        let own = [("GEMA_CLUSTER_NAME", "own"), ("SOKETI_ADAPTER_DRIVER", "nats"), prefixes[0]];
        let environment = read_all(&own);
        assert_eq!(text(&environment, "cluster.name"), "own");
        let because = "has no effect, because GEMA_CLUSTER_NAME sets cluster.name, too";
        assert_eq!(environment.warnings, [format!("{} {because}", prefixes[0].0)]);
    }

    #[test]
    fn what_soketi_has_by_default_for_redis_sets_nothing_odd() {
        let environment = read_all(&[
            ("SOKETI_ADAPTER_REDIS_PREFIX", ""),
            ("SOKETI_ADAPTER_REDIS_PUB_OPTIONS", "{}"),
            ("SOKETI_ADAPTER_REDIS_CLUSTER_MODE", "false"),
            ("SOKETI_DB_REDIS_SENTINELS", "null"),
            ("SOKETI_DB_REDIS_CLUSTER_NODES", "[]"),
        ]);
        assert!(environment.values.is_empty() && environment.faults.is_empty() && environment.warnings.is_empty());
    }

    #[test]
    fn an_adapter_that_is_not_there_is_refused_with_a_remedy() {
        let environment = read_all(&[
            ("SOKETI_ADAPTER_DRIVER", "cluster"),
            ("SOKETI_ADAPTER_REDIS_SUB_OPTIONS", r#"{"password":"hush"}"#),
            ("SOKETI_DB_REDIS_SENTINELS", "hush:1"),
            (CLUSTER_MODE, "maybe"),
        ]);
        assert_eq!(
            environment.faults,
            [
                "SOKETI_ADAPTER_DRIVER must be local or redis or nats or left out: nodes meet in Redis or NATS; use redis \
                 or nats",
                "SOKETI_ADAPTER_REDIS_CLUSTER_MODE is \"maybe\"; it must be true or false",
                "SOKETI_ADAPTER_REDIS_SUB_OPTIONS has password, which is set elsewhere; remove it there and set \
                 GEMA_REDIS_PASSWORD",
                "SOKETI_DB_REDIS_SENTINELS must be a JSON array of hosts and ports, such as \
                 [{\"host\":\"redis-1\",\"port\":26379}]",
            ]
        );
    }

    #[test]
    fn other_nodes_are_not_asked_so_their_time_has_no_effect() {
        let names = ["SOKETI_ADAPTER_NATS_REQUESTS_TIMEOUT", "SOKETI_ADAPTER_REDIS_REQUESTS_TIMEOUT"];
        let environment = read_all(&names.map(|name| (name, "100")));
        assert_eq!(
            environment.warnings,
            names.map(|name| format!("{name} has no effect, because gema asks no other nodes"))
        );
    }

    #[test]
    fn soketis_cluster_nodes_count_in_its_cluster_mode_only() {
        let nodes = ("SOKETI_DB_REDIS_CLUSTER_NODES", r#"[{"host":"a","port":1}]"#);
        let environment = read_all(&[nodes]);
        assert!(environment.values.is_empty());
        assert_eq!(
            environment.warnings,
            ["SOKETI_DB_REDIS_CLUSTER_NODES has no effect, because SOKETI_ADAPTER_REDIS_CLUSTER_MODE is not true"]
        );
        let environment = read_all(&[nodes, ("SOKETI_ADAPTER_REDIS_CLUSTER_MODE", "TRUE")]);
        assert!(environment.values.contains_key("redis.cluster_nodes") && environment.warnings.is_empty());
        let environment = read_all(&[("GEMA_REDIS_CLUSTER_NODES", "a:1")]);
        assert!(environment.values.contains_key("redis.cluster_nodes"), "our own list needs no mode");
    }

    #[test]
    fn unknown_variables_of_ours_are_refused_those_of_soketi_told_and_others_are_not_looked_at() {
        let environment =
            read_all(&[("SOKETI_PROT", "1"), ("GEMA_LOG_LEVLE", ""), ("PATH", "/bin"), ("PUSHER_HOST", "x")]);
        assert_eq!(environment.faults, ["GEMA_LOG_LEVLE is not a variable of gema; did you mean GEMA_LOG_LEVEL?"]);
        assert_eq!(
            environment.warnings,
            ["SOKETI_PROT has no effect, because neither Soketi nor gema reads it; did you mean SOKETI_PORT?"]
        );
    }

    #[test]
    fn any_word_but_no_makes_the_log_talkative_as_with_soketi() {
        for word in ["1", "true", "info", "*"] {
            assert_eq!(text(&read_all(&[("SOKETI_DEBUG", word)]), "log.level"), "debug", "{word}");
        }
        for word in ["0", "FALSE", "off", ""] {
            assert!(read_all(&[("SOKETI_DEBUG", word)]).values.is_empty(), "{word}");
        }
    }

    #[test]
    fn quotes_of_composes_lists_count_only_where_text_is_meant() {
        let environment = read_all(&[
            ("SOKETI_DEBUG", "'1'"),
            ("SOKETI_ADAPTER_DRIVER", "'redis'"),
            ("SOKETI_DEFAULT_APP_SECRET", "'hush'"),
        ]);
        assert_eq!(
            (text(&environment, "log.level"), text(&environment, "cluster.driver")),
            ("debug".into(), "redis".into())
        );
        assert_eq!(text(&environment, "apps.0.secret"), "'hush'");
        assert!(environment.warnings[0].text.starts_with("begins and ends with a quote"));
        assert_eq!(environment.warnings.len(), 1);
    }

    #[test]
    fn variables_that_kubernetes_makes_for_services_are_not_settings() {
        let environment = read_all(&[
            ("SOKETI_SERVICE_HOST", "10.0.0.1"),
            ("SOKETI_SERVICE_PORT_HTTP", "6001"),
            ("SOKETI_PORT_6001_TCP_ADDR", "10.0.0.1"),
            ("GEMA_METRICS_SERVICE_PORT", "9601"),
            ("GEMA_PORT", "tcp://10.0.0.1:6001"),
            ("SOKETI_PORT", "tcp://10.0.0.1:6001"),
            ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ]);
        assert_eq!(environment.faults, [""; 0]);
        assert!(environment.values.is_empty() && environment.fallbacks.is_empty());
        assert_eq!(environment.warnings.len(), 1, "only SOKETI_PORT could have been meant");
        assert!(!soketis().any(|name| is_service_link(&name, "1")));
        assert!(!schema::keys().iter().any(|key| is_service_link(&own(key), "1")));
    }

    #[test]
    fn our_own_name_wins_over_soketis_and_says_so() {
        let environment = read_all(&[("GEMA_SERVER_PORT", "1"), ("SOKETI_PORT", "2")]);
        assert_eq!(text(&environment, "server.port"), "1");
        assert_eq!(environment.warnings, ["SOKETI_PORT has no effect, because GEMA_SERVER_PORT sets server.port, too"]);
    }
}
