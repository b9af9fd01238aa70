//! A configuration that may be served, and how it is shown.
//! `load` makes it; `cli` shows it and starts the server with it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value as Json;
use serde_json::json;

use crate::config::AppEntry;
use crate::config::Config;
use crate::config::Secret;
use crate::config::StoreDriver;
use crate::config::fault::{Fault, Subject};
use crate::config::origin::Origin;
use crate::config::schema;

/// A configuration that may be served.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// For the operator to know.
    pub warnings: Vec<Fault>,
    /// For each key that was set, the file or variable that set it.
    pub origins: BTreeMap<String, Origin>,
    /// Where clients connect, by Reverb's variables, each with its value and its place. gema only shows them.
    pub clients: Vec<(String, String, Origin)>,
}

/// Why a configuration may not be served: every mistake, not just the first.
#[derive(Debug, thiserror::Error)]
pub struct Faults {
    /// Each with the file or variable, the key and the remedy.
    pub faults: Vec<Fault>,
    /// The values that are right all the same, with the warnings about them.
    pub good: Box<Loaded>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.iter().map(|fault| format!("fault: {fault}"));
        let warnings = self.good.warnings.iter().map(|warning| format!("warning: {warning}"));
        f.write_str(&faults.chain(warnings).collect::<Vec<_>>().join("\n"))
    }
}

impl Loaded {
    /// A line for each value: key, value and who set it. Secrets are masked.
    pub fn settings(&self) -> Vec<String> {
        let line =
            |(key, value, origin): (String, Json, String)| format!("{:<60} # {origin}", format!("{key} = {value}"));
        self.listed().into_iter().map(line).collect()
    }

    /// Each value with its key and who set it. Secrets are masked.
    pub fn listed(&self) -> Vec<(String, Json, String)> {
        let origin = |key: &str| self.origins.get(key).map_or_else(|| "default".to_owned(), Origin::to_string);
        let values = self.values(|_| true).into_iter().map(|(key, value)| (key.clone(), value, origin(&key)));
        let clients = self.clients.iter().map(|(name, value, origin)| (name.clone(), json!(value), origin.to_string()));
        values.chain(clients).collect()
    }

    /// A line about the names that configure this server, if they are Reverb's.
    pub fn explain_reverb(&self) -> Option<String> {
        let variable = |key: &str| self.origins.get(key)?.variable().filter(|name| name.starts_with("REVERB_APP_"));
        let name = variable("apps.0.key")?;
        let port = match variable("server.port") {
            Some(_) => format!("port {}, Reverb's own, because nothing sets another", self.config.server.port),
            None => format!("port {}", self.config.server.port),
        };
        Some(format!("Reverb's variables such as {name} configure this server: it listens on {port}"))
    }

    /// A fault of a key, or of an app, with its origin.
    pub fn locate(&self, mut fault: Fault) -> Fault {
        let key = &fault.subject.key;
        let of_app = |(index, app): (usize, &AppEntry)| {
            self.origins.get(&format!("apps.{index}.id")).filter(|_| *key == format!("app {:?}", app.id))
        };
        // A missing value has the origin of the group around it.
        let mut groups = std::iter::successors(Some(&**key), |key| Some(key.rsplit_once('.')?.0));
        let of_key = || groups.find_map(|group| self.origins.get(group));
        fault.subject.origin = self.config.apps.iter().enumerate().find_map(of_app).or_else(of_key).cloned();
        fault
    }

    /// The same, unless there is a name that nobody reads: then a fault for each.
    ///
    /// # Errors
    /// If anything was ignored.
    pub fn strict(mut self) -> Result<Self, Faults> {
        let (faults, warnings): (Vec<_>, Vec<_>) = self.warnings.into_iter().partition(|warning| warning.unread);
        self.warnings = warnings;
        if faults.is_empty() { Ok(self) } else { Err(Faults { faults, good: Box::new(self) }) }
    }

    /// Values that follow from others where nobody says them.
    pub(super) fn complete(&mut self) {
        self.config.redis.complete_scheme();
        let needed = self.config.message_bytes_needed();
        let key = "connections.message_bytes_max";
        if !self.origins.contains_key(key) && self.config.connections.message_bytes_max < needed {
            self.config.connections.message_bytes_max = needed;
        }
    }

    /// Why this must not be served: an app is named where none is read, so that everybody's app would go live.
    pub(super) fn refuse_default_app(&mut self, unread: &[(Subject, &'static str)]) -> Vec<Fault> {
        let Some(app) = self.config.with_public_secret() else { return Vec::new() };
        self.warnings.retain(|warning| unread.iter().all(|(subject, _)| warning.subject != *subject));
        let fault = |(subject, place): &(Subject, &'static str)| {
            subject.fault(format!(
                "names an app where none is read, and app {app:?} with the secret that everybody knows would be \
                 served; {place}"
            ))
        };
        unread.iter().map(fault).collect()
    }

    /// The values of some sections by key. Secrets are masked.
    pub(super) fn values(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Json)> {
        let mut sections = schema::object(&self.config);
        if self.config.apps.is_empty() && self.config.app_store.driver == StoreDriver::Config {
            sections.insert("apps".to_owned(), json!([AppEntry::soketi_default()]));
        }
        let mut values = Vec::new();
        for (section, value) in sections.into_iter().filter(|(section, _)| wanted(section)) {
            flatten(&section, value, &mut values);
        }
        values
    }
}

/// The keys of the secrets that are not the same in both: their serialised form does not show it.
pub(super) fn secrets_that_differ(one: &Config, other: &Config) -> impl Iterator<Item = &'static str> {
    let pairs = secrets(one).into_iter().zip(secrets(other));
    pairs.filter(|((_, one), (_, other))| one != other).map(|((key, _), _)| key)
}

fn secrets(config: &Config) -> [(&'static str, &Secret); 9] {
    let (redis, nats) = (&config.redis, &config.nats);
    [
        ("redis.url", &redis.url),
        ("redis.password", &redis.password),
        ("redis.sentinel_password", &redis.sentinel_password),
        ("nats.password", &nats.password),
        ("nats.token", &nats.token),
        ("mysql.password", &config.mysql.password),
        ("postgres.password", &config.postgres.password),
        ("dashboard.token", &config.dashboard.token),
        ("dashboard.operator_token", &config.dashboard.operator_token),
    ]
}

fn flatten(key: &str, value: Json, values: &mut Vec<(String, Json)>) {
    match value {
        // Limits that an app leaves out are in the section of limits.
        Json::Null => (),
        Json::Object(fields) => fields.into_iter().for_each(|(name, value)| {
            flatten(&format!("{key}.{name}"), value, values);
        }),
        Json::Array(items) if items.iter().any(Json::is_object) => {
            items.into_iter().enumerate().for_each(|(index, item)| flatten(&format!("{key}.{index}"), item, values));
        }
        value => values.push((key.to_owned(), value)),
    }
}
