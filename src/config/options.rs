//! What Soketi's words mean, whether a variable or a file says them.

mod ioredis;
mod table;

use std::collections::BTreeMap;

use config::Value;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::Value as Json;

pub(super) use self::table::{BROADCASTER, LARAVEL, Means, TABLE, option, options};
use super::suggest::nearest;
use super::values::boolean;

/// With it Soketi looks for a Redis Cluster.
pub(super) const CLUSTER_MODE: &str = "SOKETI_ADAPTER_REDIS_CLUSTER_MODE";

/// Why a name that nobody reads has no effect.
pub(super) const UNREAD: &str = "has no effect, because neither Soketi nor gema reads it";

/// Why options of Redis that say how hard to try have no effect.
const OWN_LINK: &str = "gema's link to Redis has times and retries of its own";

/// What is not written as it is in the path of a URL.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A variable or an option with its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    /// As a sentence calls it.
    pub(super) name: &'a str,
    /// Its file and line, or the variable itself.
    pub(super) origin: &'a str,
    /// As text, as a variable has it.
    pub(super) value: &'a str,
}

impl Setting<'_> {
    fn value(&self, kind: impl Into<config::ValueKind>) -> Value {
        Value::new(Some(&self.origin.to_owned()), kind)
    }
}

/// What the environment or a file says.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Our keys, such as `server.port` and `apps.0.id`, with their values.
    pub(super) values: BTreeMap<String, Value>,
    /// Who says each of them, for a sentence.
    pub(super) names: BTreeMap<String, String>,
    /// Keys with the values that they have if nothing else gives them one.
    pub(super) fallbacks: Vec<(&'static str, Value)>,
    /// Whether Soketi would look for a Redis Cluster, and who says so.
    pub(super) cluster_mode: Option<(bool, String)>,
    /// Whether Laravel broadcasts by way of Redis, and who says so.
    pub(super) broadcaster: Option<(bool, String)>,
    /// Who names the nodes of a Redis Cluster in Soketi's way, which counts in that mode only.
    pub(super) cluster_nodes: Option<String>,
    /// Whether it may have been written for Soketi, which ignores what it does not know.
    pub(super) is_soketis: bool,
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// Warnings about names that neither Soketi nor gema reads.
    pub(super) ignored: Vec<String>,
    /// Who names an app where none is read, with the place where it belongs.
    pub(super) unread_apps: Vec<(String, &'static str)>,
}

impl Said {
    /// A name that nobody reads: a mistake, unless Soketi would serve it.
    pub(super) fn unknown(&mut self, name: &str, meant: Option<&str>) {
        let remedy = meant.map_or_else(|| "remove it".to_owned(), |meant| format!("did you mean {meant}?"));
        match self.is_soketis {
            true => self.ignored.push(format!("{name} {UNREAD}; {remedy}")),
            false => self.faults.push(format!("{name} is not a setting; {remedy}")),
        }
    }

    /// Does what `setting` says, which is not empty.
    pub(super) fn apply(&mut self, mut setting: Setting<'_>, means: &Means<'_>) {
        if !matches!(means, Means::Key(_) | Means::Fallback(_)) {
            setting.value = unquoted(setting.value);
        }
        let Setting { name, value, .. } = setting;
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return self.faults.push(format!("{name} is not UTF-8 text; set it anew"));
        }
        match *means {
            // Soketi's default, which is no name.
            Means::Key("cluster.name") if value.is_empty() => (),
            // Soketi's users write them for Redis Cluster; gema puts its own where they are needed.
            Means::Untagged(key) => {
                let value = value.replace(['{', '}'], "");
                if key != "cluster.name" || !value.is_empty() {
                    self.set(setting, key, setting.value(value));
                }
            }
            Means::Key(key) => self.set(setting, key, setting.value(value)),
            Means::Fallback(key) => self.fallbacks.push((key, setting.value(value))),
            Means::Choice(key, choices, _) if choices.contains(&value.trim()) => {
                self.set(setting, key, setting.value(value.trim()));
            }
            Means::Choice(_, choices, because) => {
                self.faults.push(format!("{name} must be {} or left out: {because}", choices.join(" or ")));
            }
            Means::Nodes(key, port) => self.nodes(setting, key, port),
            Means::Options => self.ioredis(setting, value),
            Means::Ioredis(option) => self.ioredis_option(setting, option),
            Means::ClusterMode => {
                let another = self.cluster_mode.as_ref().is_some_and(|(mode, _)| *mode);
                if let Some(mode) = self.truth(setting).filter(|_| !another) {
                    self.cluster_mode = Some((mode, name.to_owned()));
                }
            }
            Means::Broadcaster => drop(self.broadcaster.get_or_insert((value.trim() == "redis", name.to_owned()))),
            Means::Milliseconds(key) => match value.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => self.set(setting, key, setting.value(number / 1000.0)),
                _ => self.faults.push(format!("{name} is {value:?}; it must be a number of milliseconds")),
            },
            Means::Mebibytes(key) => match value.trim().parse::<f64>() {
                // Cut off well beyond what any key takes.
                Ok(number) if number >= 0.0 => {
                    self.set(setting, key, setting.value((number * 1024.0 * 1024.0).min(1e15) as i64));
                }
                _ => self.faults.push(format!("{name} is {value:?}; it must be a number of megabytes")),
            },
            Means::Lifetime(key) => match value.trim().parse::<f64>() {
                Ok(number) if number < 0.0 => (),
                _ => self.set(setting, key, setting.value(value)),
            },
            Means::Tls(key, verify) => self.tls(setting, key, verify),
            // With Soketi any other word switches it on.
            Means::Talkative if boolean(value) == Some(false) => (),
            Means::Talkative => self.set(setting, "log.level", setting.value("debug")),
            Means::Only(works, _) if works.iter().any(|works| same(value, works)) => (),
            Means::Only([], because) => self.faults.push(format!("{name} must be left out: {because}")),
            Means::Only(works, because) => {
                self.faults.push(format!("{name} must be {} or left out: {because}", works.join(" or ")));
            }
            Means::Parameter(default, _) if same(value, default) => (),
            Means::Parameter(_, because) => {
                self.warnings.push(format!("{name} has no effect, because {because}"));
            }
        }
    }

    /// Sets `key`; two that say the same do not contradict each other.
    pub(super) fn set(&mut self, setting: Setting<'_>, key: &str, value: Value) {
        let kind = value.kind.clone();
        let before = self.values.insert(key.to_owned(), value).filter(|before| before.kind != kind);
        let other = self.names.insert(key.to_owned(), setting.name.to_owned());
        if let (Some(_), Some(other)) = (before, other) {
            self.warnings.push(format!("{other} has no effect, because {} sets {key}, too", setting.name));
        }
    }

    fn truth(&mut self, Setting { name, value, .. }: Setting<'_>) -> Option<bool> {
        let truth = boolean(value);
        if truth.is_none() {
            self.faults.push(format!("{name} is {value:?}; it must be true or false"));
        }
        truth
    }

    fn tls(&mut self, setting: Setting<'_>, key: &str, verify: &str) {
        let Setting { name, value, .. } = setting;
        match serde_json::from_str(value).unwrap_or_default() {
            Json::Bool(false) => (),
            Json::Bool(true) => self.set(setting, key, setting.value("true")),
            Json::Object(details) if details.iter().all(ioredis::says_whom_to_trust) => {
                self.set(setting, key, setting.value("true"));
                if details.values().any(|trusts| *trusts == Json::Bool(false)) {
                    self.set(setting, verify, setting.value("false"));
                }
            }
            _ => self.faults.push(format!(
                "{name} must be true, false, {{}} or {{\"rejectUnauthorized\":false}}: gema trusts the system's \
                 certificate authorities; add yours to them"
            )),
        }
    }

    fn nodes(&mut self, setting: Setting<'_>, key: &str, port: u16) {
        let Setting { name, value, .. } = setting;
        match ioredis::nodes(value, port) {
            Some(nodes) if nodes.is_empty() => (),
            Some(nodes) => {
                self.set(setting, key, setting.value(nodes));
                if key == "redis.cluster_nodes" {
                    self.cluster_nodes = Some(name.to_owned());
                }
            }
            None => self.faults.push(format!(
                "{name} must be a JSON array of hosts and ports, such as [{{\"host\":\"redis-1\",\"port\":{port}}}]"
            )),
        }
    }

    fn ioredis(&mut self, setting: Setting<'_>, options: &str) {
        let name = setting.name;
        let options = ioredis::options(options);
        self.faults.extend(options.faults.into_iter().map(|fault| format!("{name} {fault}")));
        let idle = options.idle.into_iter();
        self.warnings.extend(idle.map(|idle| format!("{name} has {idle}, which has no effect, because {OWN_LINK}")));
        if options.tls {
            self.set(setting, "redis.tls", setting.value("true"));
        }
        if options.unverified {
            self.set(setting, "redis.tls_verify", setting.value("false"));
        }
    }

    fn ioredis_option(&mut self, setting: Setting<'_>, option: &str) {
        let Setting { name, value, .. } = setting;
        match option {
            "path" => {
                let path = percent_encoding::utf8_percent_encode(value, IN_PATH);
                self.set(setting, "redis.url", setting.value(format!("unix://{path}")));
            }
            "tls" => {
                let value: Json = serde_json::from_str(value).unwrap_or_default();
                self.ioredis(setting, &serde_json::json!({ "tls": value }).to_string());
            }
            _ if ioredis::is_idle(option) => {
                self.warnings.push(format!("{name} has no effect, because {OWN_LINK}"));
            }
            "natMap" => self.faults.push(format!(
                "{name} is not there: gema connects to the addresses that Redis names; let it name reachable ones, or \
                 leave it out"
            )),
            _ => self.unknown(name, nearest(&format!("database.redis.{option}"), options()).as_deref()),
        }
    }

    /// Soketi looks at its cluster nodes in cluster mode only; for us it is the list that counts.
    pub(super) fn settle_cluster_mode(&mut self, cluster_mode: bool) {
        let Some(name) = self.cluster_nodes.take_if(|_| !cluster_mode) else { return };
        let mode = if name.starts_with("SOKETI_") { CLUSTER_MODE } else { "adapter.redis.clusterMode" };
        self.warnings.push(format!("{name} has no effect, because {mode} is not true"));
        self.values.remove("redis.cluster_nodes");
    }
}

/// A value as Soketi reads it: empty and `null` are none, quotes around it belong to JSON.
pub(super) fn given(raw: &str) -> Option<String> {
    match raw.trim() {
        "" | "null" => None,
        trimmed if trimmed.starts_with('"') => Some(serde_json::from_str(trimmed).unwrap_or_else(|_| raw.to_owned())),
        _ => Some(raw.to_owned()),
    }
}

/// A value that is no text without the quotes that Compose leaves around it in `- NAME='value'`.
pub(super) fn unquoted(value: &str) -> &str {
    let inner = value.trim().strip_prefix('\'').and_then(|inner| inner.strip_suffix('\''));
    inner.unwrap_or(value)
}

/// Whether two values mean the same, as `FALSE` and `false` do.
fn same(a: &str, b: &str) -> bool {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    a.trim() == b || (boolean(b).is_some() && boolean(a) == boolean(b)) || (json(b).is_some() && json(a) == json(b))
}
