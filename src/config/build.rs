//! Makes the typed configuration of the merged values. It checks each value, so one mistake does not hide the next.
//! `load` builds a `Config`, and `row` builds one app.
//!
//! The kind of a key is that of its default. The values that a key takes are those that its type deserialises. There is
//! no second list to maintain.

mod flow_rules;
mod history_rules;
mod webhooks;

use std::collections::BTreeMap;

use config::{Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::json;

use crate::protocol::policy::ChannelRule;

use crate::config::AppEntry;
use crate::config::Config;
use crate::config::KeyPair;
use crate::config::RawClients;
use crate::config::fault::{Fault, Subject};
use crate::config::origin::Origin;
use crate::config::schema;
use crate::config::schema::{Object, object};
use crate::config::settings::values::boolean;
use crate::config::settings::webhooks::LeftOut;
use crate::config::sources::soketi;
use crate::config::suggest::{did_you_mean, snake_case};
use crate::config::tree;
use crate::config::tree::{Group, sorted};

/// Faults, warnings and origins of a build.
#[derive(Default)]
pub(super) struct Build {
    pub(super) faults: Vec<Fault>,
    /// About values without an effect.
    pub(super) warnings: Vec<Fault>,
    /// The webhooks that cannot be used, where that is no fault.
    pub(super) left_out: Option<Vec<LeftOut>>,
    /// Where each key was set.
    pub(super) origins: BTreeMap<String, Origin>,
}

/// Builds what files and environment say; keys that are missing or wrong keep their defaults.
pub(super) fn config(merged: Group) -> (Config, Build) {
    let mut build = Build::default();
    let good = build.root(merged);
    let config = serde_json::from_value(Json::Object(good)).unwrap_or_else(|error| {
        build.faults.push(error.to_string().into());
        Config::default()
    });
    (config, build)
}

/// Builds one app that stands in no file. No webhook of it is a fault.
pub(super) fn row(place: &str, fields: Group) -> Result<(AppEntry, Build), Vec<Fault>> {
    let mut build = Build { left_out: Some(Vec::new()), ..Build::default() };
    let good = build.app(place, Value::new(None, fields)).unwrap_or_default();
    if !build.faults.is_empty() {
        return Err(build.faults);
    }
    let entry = serde_json::from_value(good).map_err(|error| vec![error.to_string().into()])?;
    Ok((entry, build))
}

impl Build {
    fn root(&mut self, merged: Group) -> Object {
        let (known, mut good) = (object(&Config::default()), Object::new());
        for (name, value) in sorted(merged) {
            let subject = Subject::of(&*name, &value);
            let built = match (known.get(&name), value.kind) {
                (_, ValueKind::Nil) => continue,
                (Some(Json::Array(_)), kind) => self.apps(&subject, kind),
                (Some(Json::Object(like)), ValueKind::Table(table)) => {
                    let accepts = |field: &str, leaf: &Json| {
                        serde_json::from_value(json!({ &*name: { field: leaf } })).map(|_: Config| ())
                    };
                    Json::Object(self.fields(&name, table, like, &accepts))
                }
                (Some(_), _) => {
                    self.faults.push(subject.fault("must be a group of settings"));
                    continue;
                }
                (None, _) => {
                    self.unknown(&subject, &known.keys().cloned().chain(settings()).collect::<Vec<_>>());
                    continue;
                }
            };
            good.insert(name, built);
        }
        good
    }

    fn apps(&mut self, subject: &Subject, kind: ValueKind) -> Json {
        let ValueKind::Array(apps) = kind else {
            self.faults.push(subject.fault("must be a list of apps"));
            return json!([]);
        };
        if apps.is_empty() {
            self.faults.push(subject.fault("is an empty list; add an app, or leave apps out for Soketi's own"));
        }
        let apps = apps.into_iter().enumerate();
        apps.filter_map(|(index, app)| self.app(&format!("apps.{index}"), app)).collect()
    }

    fn app(&mut self, place: &str, app: Value) -> Option<Json> {
        let subject = Subject::of(place, &app);
        let ValueKind::Table(table) = app.kind else {
            self.faults.push(subject.fault("must be an app: a group of settings with id, key and secret"));
            return None;
        };
        // A missing one stays empty, which validation then reports.
        let mut good = object(&json!({ "id": "", "key": "", "secret": "" }));
        for field in good.keys() {
            let given = table.get(field);
            if given.is_none_or(|value| value.kind == ValueKind::Nil) {
                let origin = given.and_then(Origin::of_itself).or_else(|| subject.origin.clone());
                self.origins.extend(origin.map(|origin| (format!("{place}.{field}"), origin)));
            }
        }
        let empty = good.clone();
        good.extend(self.fields(place, table, &schema::app_fields(), &accepts::<AppEntry>(&empty)));
        Some(Json::Object(good))
    }

    /// The good fields of a group. `like` has all that there may be.
    fn fields(&mut self, place: &str, table: Group, like: &Object, accepts: Accepts<'_>) -> Object {
        let mut good = Object::new();
        for (name, value) in sorted(table) {
            let subject = Subject::of(format!("{place}.{name}"), &value);
            let Some(default) = like.get(&name) else {
                // A wrong name in a section may belong to another section, or be Soketi's.
                let fields = || like.keys().map(|field| format!("{place}.{field}")).collect();
                self.unknown(&subject, &if place.contains('.') { fields() } else { settings() });
                continue;
            };
            let built = match &*name {
                "keys" => {
                    let empty = object(&json!({ "key": "", "secret": "" }));
                    Some(self.groups::<KeyPair>(&subject, value, &empty, "a list of keys with their secrets"))
                }
                "channel_rules" => Some(self.rules(&subject, value)),
                "history_rules" => Some(self.history_rules(&subject, value)),
                "flow_rules" => Some(self.flow_rules(&subject, value)),
                "raw_clients" => self.raw_clients(&subject, value),
                "webhooks" => Some(self.webhooks(&subject, value)),
                _ => self.leaf(&subject, &value, default, &|leaf| accepts(&name, leaf)),
            };
            good.extend(built.map(|built| (name, built)));
        }
        good
    }

    fn rules(&mut self, subject: &Subject, mut value: Value) -> Json {
        tree::unfold(&mut value);
        if let ValueKind::Array(rules) = &value.kind {
            let lacks = |rule: &Value| matches!(&rule.kind, ValueKind::Table(table) if !table.contains_key("match"));
            for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| lacks(rule)) {
                let Subject { key, origin } = Subject::of(format!("{}.{index}.match", subject.key), rule);
                let from = origin.map(|origin| format!(" (from {origin})")).unwrap_or_default();
                self.faults.push(Fault::new(key, format!("is missing{from}; a rule says which channels it is for")));
            }
        }
        let like = object(&ChannelRule::for_all());
        self.groups::<ChannelRule>(subject, value, &like, "a list of rules, each a group of settings")
    }

    fn raw_clients(&mut self, subject: &Subject, mut value: Value) -> Option<Json> {
        self.note(&subject.key, &value);
        let origin = Origin::of_itself(&value);
        tree::unfold(&mut value);
        let table = match value.kind {
            ValueKind::Nil => return None,
            ValueKind::Table(table) => table.into_iter().map(|member| of_group(member, origin.as_ref())).collect(),
            // PHP makes a list of an empty group.
            ValueKind::Array(items) if items.is_empty() => Group::new(),
            _ => {
                self.faults.push(subject.fault("must be a group of settings with channels and accept_id"));
                return None;
            }
        };
        let (is_set, before) = (!table.is_empty(), self.faults.len());
        let like = object(&json!({ "channels": [], "accept_id": false }));
        let good = self.fields(&subject.key, table, &like, &accepts::<RawClients>(&like));
        let names = good.get("channels").and_then(Json::as_array).map_or(0, Vec::len);
        if is_set && names == 0 && self.faults.len() == before {
            let text =
                "lists no channel; list the public channels that raw clients get, or set raw_clients = {} for none";
            self.faults.push(Subject { key: format!("{}.channels", subject.key), ..subject.clone() }.fault(text));
        }
        Some(Json::Object(good))
    }

    /// A list of groups of settings; what a group leaves out is as in `like`.
    fn groups<T: DeserializeOwned>(&mut self, subject: &Subject, value: Value, like: &Object, must: &str) -> Json {
        let place = &subject.key;
        self.note(place, &value);
        let ValueKind::Array(items) = value.kind else {
            self.faults.push(subject.fault(format!("must be {must}")));
            return json!([]);
        };
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let place = format!("{place}.{index}");
            let ValueKind::Table(table) = item.kind else {
                let subject = Subject { key: place, origin: subject.origin.clone() };
                self.faults.push(subject.fault("must be a group of settings"));
                continue;
            };
            let mut group = like.clone();
            group.extend(self.fields(&place, table, like, &accepts::<T>(like)));
            good.push(Json::Object(group));
        }
        Json::Array(good)
    }

    /// Remembers where a value itself was set.
    fn note(&mut self, key: &str, value: &Value) {
        self.origins.extend(Origin::of_itself(value).map(|origin| (key.to_owned(), origin)));
    }

    fn leaf(
        &mut self,
        subject: &Subject,
        value: &Value,
        like: &Json,
        accepts: &dyn Fn(&Json) -> serde_json::Result<()>,
    ) -> Option<Json> {
        if value.kind == ValueKind::Nil {
            return None;
        }
        let key = &subject.key;
        let (shown, must) = match coerce(value, like) {
            Ok(leaf) => match accepts(&leaf) {
                Ok(()) => {
                    self.note(key, value);
                    return Some(leaf);
                }
                Err(error) => (leaf.to_string(), expectation(key, &error.to_string())),
            },
            Err(must) => (shown(&value.kind), must.to_owned()),
        };
        self.faults.push(subject.fault(match is_secret(key) {
            true => format!("must be {must}"),
            false => format!("is {shown}; it must be {must}"),
        }));
        None
    }

    fn unknown(&mut self, subject: &Subject, known: &[String]) {
        let meant = did_you_mean(&subject.key, known.iter().map(String::as_str), "remove it");
        self.faults.push(subject.fault(format!("is not a setting; {meant}")));
    }
}

/// A member of an app's group under gema's name, which may be in camelCase like those of the app. A member of a text has
/// the origin of the text.
fn of_group((name, value): (String, Value), origin: Option<&Origin>) -> (String, Value) {
    let ours = Some(snake_case(&name)).filter(|ours| ours == "accept_id");
    let own = origin.filter(|_| Origin::of(&value).is_none());
    (ours.unwrap_or(name), own.map(|origin| origin.value(value.kind.clone())).unwrap_or(value))
}

/// Whether the type of a field takes a value.
type Accepts<'a> = &'a dyn Fn(&str, &Json) -> serde_json::Result<()>;

/// Whether a `T` may have a value in this field, if all others are as in `like`.
fn accepts<T: DeserializeOwned>(like: &Object) -> impl Fn(&str, &Json) -> serde_json::Result<()> {
    move |field, leaf| {
        let mut alone = like.clone();
        alone.insert(field.to_owned(), leaf.clone());
        serde_json::from_value(Json::Object(alone)).map(|_: T| ())
    }
}

/// Every name that a file may have for one value outside of apps.
fn settings() -> Vec<String> {
    schema::keys().into_iter().chain(soketi::options().map(str::to_owned)).collect()
}
/// The value as the kind that `like` has, or what it must be. Variables are text, whatever they mean.
fn coerce(value: &Value, like: &Json) -> Result<Json, &'static str> {
    let written = || soketi::unquoted(&value.kind.to_string()).trim().to_owned();
    match like {
        Json::Bool(_) => boolean(&written()).map(Json::Bool).ok_or("true or false"),
        Json::Number(number) if number.is_f64() => {
            written().parse().ok().filter(|number: &f64| number.is_finite()).map(Json::from).ok_or("a number")
        }
        Json::Number(_) => {
            let (signed, unsigned) = (written().parse::<i64>(), written().parse::<u64>());
            signed.map(Json::from).or(unsigned.map(Json::from)).map_err(|_| "a whole number")
        }
        Json::Array(_) => match &value.kind {
            ValueKind::Array(items) => items.iter().map(text).collect(),
            ValueKind::String(text) if text.trim_start().starts_with('[') => {
                let words: Vec<String> = serde_json::from_str(text).map_err(|_| LIST)?;
                Ok(json!(words))
            }
            ValueKind::String(text) => Ok(text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()),
            _ => Err(LIST),
        },
        _ => text(value),
    }
}

const LIST: &str = r#"a list of texts, such as ["a", "b"]"#;

/// Text, or a whole number that was meant as text: ids, keys and secrets may be all digits.
fn text(value: &Value) -> Result<Json, &'static str> {
    match &value.kind {
        ValueKind::String(text) => Ok(json!(text)),
        ValueKind::I64(_) | ValueKind::U64(_) => Ok(json!(value.kind.to_string())),
        _ => Err("text in quotes"),
    }
}

/// The value that serde expected, in the operator's words.
fn expectation(key: &str, error: &str) -> String {
    match error.rsplit_once("expected ").map(|(_, expected)| expected) {
        // Rust's names of numbers mean nothing to an operator.
        Some("u16") if key.ends_with(".port") => "a whole number from 0 to 65535".to_owned(),
        Some("u8" | "u16" | "u32" | "u64" | "usize" | "i64") | None => {
            "a whole number, not negative and not this large".to_owned()
        }
        Some(expected) => expected.to_owned(),
    }
}

fn shown(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Table(_) => "a group of settings".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// Whether no message may show the key's value.
fn is_secret(key: &str) -> bool {
    ["secret", "password", "passphrase", "url", "token", "nats.servers"].iter().any(|word| key.ends_with(word))
}
