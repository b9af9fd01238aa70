//! Soketi's variables and options, and the settings of gema that they mean.
//! `variables` and `translate` call it.

mod ioredis;
mod table;
pub(in crate::config) mod translate;
mod unread;

use std::collections::BTreeMap;

use config::Value;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::Value as Json;

pub(in crate::config) use self::table::{BROADCASTER, LARAVEL, LARAVEL_WEBSOCKETS, Means, TABLE, option, options};
use crate::config::fault::{Fault, Subject};
use crate::config::origin::Origin;
use crate::config::settings::values::boolean;
use crate::config::sources::variable::Variable;
use crate::config::suggest::nearest;

/// With it Soketi looks for a Redis Cluster.
pub(in crate::config) const CLUSTER_MODE: &str = "SOKETI_ADAPTER_REDIS_CLUSTER_MODE";

/// Why options of Redis that say how hard to try have no effect.
pub(in crate::config) const OWN_LINK: &str = "gema's link to Redis has times and retries of its own";

/// The characters that are escaped in the path of a URL.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A variable or an option with its value.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct Setting<'a> {
    pub(in crate::config) subject: &'a Subject,
    /// The origin of the value that it sets.
    pub(in crate::config) origin: &'a Origin,
    /// As text, as a variable has it.
    pub(in crate::config) value: &'a str,
}

/// The settings of the environment or of a file.
#[derive(Debug, Default)]
pub(in crate::config) struct Translation {
    /// Our keys, such as `server.port` and `apps.0.id`, with their values.
    pub(in crate::config) values: BTreeMap<String, Value>,
    /// The variable or option that set each of them.
    pub(in crate::config) subjects: BTreeMap<String, Subject>,
    /// Keys with the values that they have if nothing else gives them one.
    pub(in crate::config) fallbacks: Vec<(&'static str, Value)>,
    /// Whether Soketi would look for a Redis Cluster, and by which setting.
    pub(in crate::config) cluster_mode: Option<(bool, Subject)>,
    /// Laravel's broadcaster, and the variable that names it.
    pub(in crate::config) broadcaster: Option<(String, Subject)>,
    /// Reverb's variables, which count only if no other source names the app.
    pub(in crate::config) reverb: Vec<Variable>,
    /// Where clients connect: variables of Reverb that count, with their values. They are only shown.
    pub(in crate::config) clients: Vec<(String, String, Origin)>,
    /// The setting with the nodes of a Redis Cluster in Soketi's way, which counts in that mode only.
    pub(in crate::config) cluster_nodes: Option<Subject>,
    /// The name of the cluster if its nodes meet in NATS.
    pub(in crate::config) nats_name: Option<(Subject, Value)>,
    /// Whether it may have been written for Soketi, which ignores unknown names.
    pub(in crate::config) is_soketis: bool,
    pub(in crate::config) faults: Vec<Fault>,
    pub(in crate::config) warnings: Vec<Fault>,
    /// Settings that name an app where none is read, with the place where it belongs.
    pub(in crate::config) unread_apps: Vec<(Subject, &'static str)>,
}

impl Translation {
    /// A name that nobody reads: a mistake, unless Soketi would serve it.
    pub(in crate::config) fn unknown(&mut self, subject: &Subject, meant: Option<&str>) {
        let remedy = meant.map_or_else(|| "remove it".to_owned(), |meant| format!("did you mean {meant}?"));
        match self.is_soketis {
            true => self.unread(subject, "Soketi", &remedy),
            false => self.faults.push(subject.fault(format!("is not a setting; {remedy}"))),
        }
    }

    /// Warns about a name that neither the program `whose` it may be nor gema reads.
    pub(in crate::config) fn unread(&mut self, subject: &Subject, whose: &str, remedy: &str) {
        let text = format!("has no effect, because neither {whose} nor gema reads it; {remedy}");
        self.warnings.push(Fault { unread: true, ..subject.fault(text) });
    }

    /// Warns if a value that counts to the letter has the quotes around it that Compose leaves there.
    pub(in crate::config) fn warn_of_quotes(&mut self, Setting { subject, value, .. }: Setting<'_>, means: &Means<'_>) {
        let (Means::Key(key) | Means::Fallback(key)) = means else { return };
        let is_text = ["apps.0.id", "apps.0.key", "apps.0.secret"].contains(key)
            || [".password", ".token"].iter().any(|end| key.ends_with(end));
        if is_text && unquoted(value) != value {
            self.warnings.push(subject.fault(
                "begins and ends with a quote, which counts as a part of it; in a list of Compose write NAME=value \
                 without quotes",
            ));
        }
    }

    /// Translates `setting`, which is not empty.
    pub(in crate::config) fn apply(&mut self, mut setting: Setting<'_>, means: &Means<'_>) {
        if !matches!(means, Means::Key(_) | Means::Fallback(_)) {
            setting.value = unquoted(setting.value);
        }
        let Setting { subject, origin, value } = setting;
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return self.faults.push(subject.fault("is not UTF-8 text; set it anew"));
        }
        let number = || value.trim().parse::<f64>().ok();
        match *means {
            // Soketi's default, which is no name.
            Means::Key("cluster.name") if value.is_empty() => (),
            // Soketi's users write them for Redis Cluster; gema puts its own where they are needed.
            Means::Untagged(key) => {
                let value = value.replace(['{', '}'], "");
                if key != "cluster.name" || !value.is_empty() {
                    self.set(subject, key, origin.value(value));
                }
            }
            Means::Key(key) => self.set(subject, key, origin.value(value)),
            Means::Fallback(key) => self.fallbacks.push((key, origin.value(value))),
            Means::Choice(key, choices, _) if choices.contains(&value.trim()) => {
                self.set(subject, key, origin.value(value.trim()));
            }
            Means::NatsPrefix if value.is_empty() => (),
            Means::NatsPrefix => self.nats_name = Some((subject.clone(), origin.value(value))),
            Means::Nodes(key, port) => self.nodes(setting, key, port),
            Means::Options => self.ioredis(setting, value),
            Means::Ioredis(option) => self.ioredis_option(setting, option),
            Means::ClusterMode => match boolean(value) {
                None => self.faults.push(subject.fault(format!("is {value:?}; it must be true or false"))),
                Some(mode) => {
                    if !matches!(self.cluster_mode, Some((true, _))) {
                        self.cluster_mode = Some((mode, subject.clone()));
                    }
                }
            },
            Means::Broadcaster => {
                self.broadcaster.get_or_insert_with(|| (value.trim().to_owned(), subject.clone()));
            }
            Means::Milliseconds(key) => match number().filter(|number| number.is_finite()) {
                Some(number) => self.set(subject, key, origin.value(number / 1000.0)),
                None => self.faults.push(subject.fault(format!("is {value:?}; it must be a number of milliseconds"))),
            },
            Means::Mebibytes(key) => match number().filter(|number| *number >= 0.0) {
                // Cut off well beyond what any key takes.
                Some(number) => self.set(subject, key, origin.value((number * 1024.0 * 1024.0).min(1e15) as i64)),
                None => self.faults.push(subject.fault(format!("is {value:?}; it must be a number of megabytes"))),
            },
            Means::Lifetime(_) if number().is_some_and(|number| number < 0.0) => (),
            Means::Lifetime(key) => self.set(subject, key, origin.value(value)),
            Means::Tls(key, verify) => self.tls(setting, key, verify),
            // With Soketi any other word switches it on.
            Means::Talkative if boolean(value) == Some(false) => (),
            Means::Talkative => self.set(subject, "log.level", origin.value("debug")),
            Means::Only(works, _) if works.iter().any(|works| same(value, works)) => (),
            Means::Only(works, because) | Means::Choice(_, works, because) => {
                self.faults.push(subject.fault(format!("must be {} or left out: {because}", works.join(" or "))));
            }
            Means::Parameter(default, _) if same(value, default) => (),
            Means::Parameter(_, because) => {
                self.warnings.push(subject.fault(format!("has no effect, because {because}")));
            }
        }
    }

    /// Sets `key`; two that set the same value do not contradict each other.
    pub(in crate::config) fn set(&mut self, subject: &Subject, key: &str, value: Value) {
        let kind = value.kind.clone();
        let before = self.values.insert(key.to_owned(), value).filter(|before| before.kind != kind);
        let other = self.subjects.insert(key.to_owned(), subject.clone());
        if let (Some(_), Some(other)) = (before, other) {
            self.warnings.push(other.fault(format!("has no effect, because {subject} sets {key}, too")));
        }
    }

    fn tls(&mut self, Setting { subject, origin, value }: Setting<'_>, key: &str, verify: &str) {
        match serde_json::from_str(value).unwrap_or_default() {
            Json::Bool(false) => (),
            Json::Bool(true) => self.set(subject, key, origin.value("true")),
            Json::Object(details) if details.iter().all(ioredis::is_about_trust) => {
                self.set(subject, key, origin.value("true"));
                if details.values().any(|trusts| *trusts == Json::Bool(false)) {
                    self.set(subject, verify, origin.value("false"));
                }
            }
            _ => self.faults.push(subject.fault(
                "must be true, false, {} or {\"rejectUnauthorized\":false}: gema trusts the system's certificate \
                 authorities; add yours to them",
            )),
        }
    }

    fn nodes(&mut self, Setting { subject, origin, value }: Setting<'_>, key: &str, port: u16) {
        match ioredis::nodes(value, port) {
            Some(nodes) if nodes.is_empty() => (),
            Some(nodes) => {
                self.set(subject, key, origin.value(nodes));
                if key == "redis.cluster_nodes" {
                    self.cluster_nodes = Some(subject.clone());
                }
            }
            None => self.faults.push(subject.fault(format!(
                "must be a JSON array of hosts and ports, such as [{{\"host\":\"redis-1\",\"port\":{port}}}]"
            ))),
        }
    }

    fn ioredis(&mut self, Setting { subject, origin, .. }: Setting<'_>, options: &str) {
        let options = ioredis::options(options);
        self.faults.extend(options.faults.into_iter().map(|fault| subject.fault(fault)));
        let idle = options.idle.into_iter();
        let idle = idle.map(|idle| subject.fault(format!("has {idle}, which has no effect, because {OWN_LINK}")));
        self.warnings.extend(idle);
        if options.tls {
            self.set(subject, "redis.tls", origin.value("true"));
        }
        if options.unverified {
            self.set(subject, "redis.tls_verify", origin.value("false"));
        }
    }

    fn ioredis_option(&mut self, setting: Setting<'_>, option: &str) {
        let Setting { subject, origin, value } = setting;
        match option {
            "path" => {
                let path = percent_encoding::utf8_percent_encode(value, IN_PATH);
                self.set(subject, "redis.url", origin.value(format!("unix://{path}")));
            }
            "tls" => {
                let value: Json = serde_json::from_str(value).unwrap_or_default();
                self.ioredis(setting, &serde_json::json!({ "tls": value }).to_string());
            }
            _ if ioredis::is_idle(option) => {
                self.warnings.push(subject.fault(format!("has no effect, because {OWN_LINK}")));
            }
            "natMap" => self.faults.push(subject.fault(
                "is not there: gema connects to the addresses that Redis names; let it name reachable ones, or leave \
                 it out",
            )),
            _ => self.unknown(subject, nearest(&format!("database.redis.{option}"), options()).as_deref()),
        }
    }

    /// Of Soketi's prefixes that of its adapter names the cluster.
    pub(in crate::config) fn settle_name(&mut self, is_nats: bool) {
        let own = self.subjects.get("cluster.name").cloned();
        let is_of_redis = |own: &Subject| ["SOKETI_ADAPTER_REDIS_PREFIX", "adapter.redis.prefix"].contains(&&*own.key);
        if let Some(own) = own.as_ref().filter(|own| is_nats && is_of_redis(own)) {
            self.warnings.push(own.fault("has no effect, because cluster.driver is nats"));
            self.values.remove("cluster.name");
        }
        let Some((subject, name)) = self.nats_name.take() else { return };
        match own.filter(|own| !is_of_redis(own)) {
            _ if !is_nats => self.warnings.push(subject.fault("has no effect, because cluster.driver is not nats")),
            Some(own) => {
                self.warnings.push(subject.fault(format!("has no effect, because {own} sets cluster.name, too")));
            }
            None => drop(self.values.insert("cluster.name".to_owned(), name)),
        }
    }

    /// Soketi looks at its cluster nodes in cluster mode only; for us it is the list that counts.
    pub(in crate::config) fn settle_cluster_mode(&mut self, cluster_mode: bool) {
        let Some(subject) = self.cluster_nodes.take_if(|_| !cluster_mode) else { return };
        let mode = if subject.key.starts_with("SOKETI_") { CLUSTER_MODE } else { "adapter.redis.clusterMode" };
        self.warnings.push(subject.fault(format!("has no effect, because {mode} is not true")));
        self.values.remove("redis.cluster_nodes");
    }
}

/// A value as Soketi reads it: empty and `null` are none, quotes around it belong to JSON.
pub(in crate::config) fn given(raw: &str) -> Option<String> {
    match raw.trim() {
        "" | "null" => None,
        trimmed if trimmed.starts_with('"') => Some(serde_json::from_str(trimmed).unwrap_or_else(|_| raw.to_owned())),
        _ => Some(raw.to_owned()),
    }
}

/// A value that is no text without the quotes that Compose leaves around it in `- NAME='value'`.
pub(in crate::config) fn unquoted(value: &str) -> &str {
    let inner = value.trim().strip_prefix('\'').and_then(|inner| inner.strip_suffix('\''));
    inner.unwrap_or(value)
}

/// Whether two values mean the same, as `FALSE` and `false` do.
fn same(a: &str, b: &str) -> bool {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    a.trim() == b || (boolean(b).is_some() && boolean(a) == boolean(b)) || (json(b).is_some() && json(a) == json(b))
}
