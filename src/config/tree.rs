//! The merged values, checked one by one, so that one mistake does not hide the next.
//!
//! What keys there are, and of which kind, is read off the serialised defaults; what values a key
//! takes is asked of its type by deserialising that one value. There is no second list to maintain.

mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use config::{Map, Value, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::json;

use crate::protocol::policy::ChannelRule;

use super::AppEntry;
use super::Config;
use super::KeyPair;
use super::Limits;
use super::options;
use super::suggest::{did_you_mean, snake_case};
use super::values::boolean;
use super::webhooks::LeftOut;

pub(super) type Object = serde_json::Map<String, Json>;

/// The good values as a `Config`, the others as faults.
pub(super) struct Checked {
    pub(super) config: Config,
    pub(super) faults: Vec<String>,
    /// What has no effect, a sentence each.
    pub(super) warnings: Vec<String>,
    /// The keys that the faults are about.
    pub(super) faulty: BTreeSet<String>,
    /// Who set each key.
    pub(super) origins: BTreeMap<String, String>,
}

/// Checks what files and environment say; keys that are missing keep their defaults.
pub(super) fn check(merged: Map<String, Value>) -> Checked {
    let mut check = Check { keys: keys(), ..Check::default() };
    let good = check.root(merged);
    let config = serde_json::from_value(Json::Object(good)).unwrap_or_else(|error| {
        check.faults.push(error.to_string());
        Config::default()
    });
    let Check { faults, warnings, faulty, origins, .. } = check;
    Checked { config, faults, warnings, faulty, origins }
}

/// One app that stands in no file.
pub(super) struct CheckedRow {
    pub(super) entry: AppEntry,
    /// What has no effect, a sentence each.
    pub(super) warnings: Vec<String>,
    /// The webhooks that the app is without.
    pub(super) left_out: Vec<LeftOut>,
}

/// Checks the fields of one app that stands in no file. No webhook of it is a fault.
pub(super) fn check_row(place: &str, fields: Map<String, Value>, known: &Object) -> Result<CheckedRow, Vec<String>> {
    let mut check = Check { left_out: Some(Vec::new()), ..Check::default() };
    let good = check.app(place, Value::new(None, fields), known).unwrap_or_default();
    if !check.faults.is_empty() {
        return Err(check.faults);
    }
    let entry = serde_json::from_value(good).map_err(|error| vec![error.to_string()])?;
    Ok(CheckedRow { entry, warnings: check.warnings, left_out: check.left_out.unwrap_or_default() })
}

/// Every key of every section except `apps`, such as `server.port`.
pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for (section, values) in object(&Config::default()) {
        keys.extend(values.as_object().into_iter().flatten().map(|(key, _)| format!("{section}.{key}")));
    }
    keys
}

/// Every field of an app with its default, as far as it has one.
pub(super) fn app_fields() -> Object {
    let limits = object(&Limits::default());
    let mut fields = object(&AppEntry::new("", "", ""));
    for (field, value) in &mut fields {
        if let (Json::Null, Some(default)) = (&value, limits.get(field)) {
            *value = default.clone();
        }
    }
    fields
}

/// A struct as an object.
pub(super) fn object(value: &impl Serialize) -> Object {
    match serde_json::to_value(value) {
        Ok(Json::Object(object)) => object,
        _ => Object::new(),
    }
}

#[derive(Default)]
struct Check {
    keys: Vec<String>,
    faults: Vec<String>,
    warnings: Vec<String>,
    /// The webhooks that cannot be used, where that is no fault.
    left_out: Option<Vec<LeftOut>>,
    faulty: BTreeSet<String>,
    origins: BTreeMap<String, String>,
}

impl Check {
    fn root(&mut self, merged: Map<String, Value>) -> Object {
        let (known, mut good) = (object(&Config::default()), Object::new());
        for (name, value) in sorted(merged) {
            let origin = origin(&value);
            let checked = match (known.get(&name), value.kind) {
                (_, ValueKind::Nil) => continue,
                (Some(Json::Array(_)), kind) => self.apps(kind, &origin),
                (Some(Json::Object(keys)), ValueKind::Table(table)) => self.section(&name, table, keys),
                (Some(_), _) => {
                    self.fault(&name, format!("{name}{origin} must be a group of settings"));
                    continue;
                }
                (None, _) => {
                    let known = known.keys().chain(&self.keys).map(String::as_str).chain(options::options());
                    let meant = did_you_mean(&name, known, "remove it");
                    self.fault(&name, format!("{name}{origin} is not a setting; {meant}"));
                    continue;
                }
            };
            good.insert(name, checked);
        }
        good
    }

    fn section(&mut self, section: &str, table: Map<String, Value>, known: &Object) -> Json {
        let mut good = Object::new();
        for (name, value) in sorted(table) {
            let key = format!("{section}.{name}");
            let Some(like) = known.get(&name) else {
                let known = self.keys.iter().map(String::as_str).chain(options::options());
                let meant = did_you_mean(&key, known, "remove it");
                self.fault(&key, format!("{key}{} is not a setting; {meant}", origin(&value)));
                continue;
            };
            let try_alone =
                |leaf: &Json| serde_json::from_value(json!({ section: { &name: leaf } })).map(|_: Config| ());
            let leaf = match &*name {
                "channel_rules" => Some(self.rules(&key, value)),
                _ => self.leaf(&key, &value, like, &try_alone),
            };
            good.extend(leaf.map(|leaf| (name, leaf)));
        }
        Json::Object(good)
    }

    fn apps(&mut self, kind: ValueKind, origin: &str) -> Json {
        let ValueKind::Array(apps) = kind else {
            self.fault("apps", format!("apps{origin} must be a list of apps"));
            return json!([]);
        };
        if apps.is_empty() {
            self.fault(
                "apps",
                format!("apps{origin} is an empty list; add an app, or leave apps out for Soketi's own"),
            );
        }
        let known = app_fields();
        let apps = apps.into_iter().enumerate();
        apps.filter_map(|(index, app)| self.app(&format!("apps.{index}"), app, &known)).collect()
    }

    fn app(&mut self, place: &str, app: Value, known: &Object) -> Option<Json> {
        let (from, app_origin) = (origin(&app), source(&app).map(str::to_owned));
        let ValueKind::Table(table) = app.kind else {
            self.fault(place, format!("{place}{from} must be an app: a group of settings with id, key and secret"));
            return None;
        };
        // What is missing stays empty, which validation then reports.
        let mut good = object(&json!({ "id": "", "key": "", "secret": "" }));
        for field in good.keys() {
            let given = table.get(field);
            if given.is_none_or(|value| value.kind == ValueKind::Nil) {
                let origin = given.and_then(Value::origin).or(app_origin.as_deref());
                self.origins.extend(origin.map(|origin| (format!("{place}.{field}"), origin.to_owned())));
            }
        }
        for (field, value) in sorted(table) {
            let key = format!("{place}.{field}");
            let try_alone = |leaf: &Json| {
                let mut app = object(&json!({ "id": "", "key": "", "secret": "" }));
                app.insert(field.clone(), leaf.clone());
                serde_json::from_value(Json::Object(app)).map(|_: AppEntry| ())
            };
            let leaf = match known.get(&field) {
                None => {
                    self.unknown_in(place, &field, &value, known.keys());
                    None
                }
                Some(_) if field == "keys" => Some(self.key_pairs(&key, value)),
                Some(_) if field == "channel_rules" => Some(self.rules(&key, value)),
                Some(_) if field == "webhooks" => Some(self.webhooks(&key, value)),
                Some(like) => self.leaf(&key, &value, like, &try_alone),
            };
            good.extend(leaf.map(|leaf| (field.clone(), leaf)));
        }
        Some(Json::Object(good))
    }

    fn key_pairs(&mut self, place: &str, value: Value) -> Json {
        let empty = object(&json!({ "key": "", "secret": "" }));
        self.groups::<KeyPair>(place, value, &empty, "a list of keys with their secrets")
    }

    fn rules(&mut self, place: &str, mut value: Value) -> Json {
        // A variable holds them as JSON.
        if let ValueKind::String(text) = &value.kind
            && let Ok(Value { kind, .. }) = serde_json::from_str(text)
        {
            value.kind = kind;
        }
        let like = object(&ChannelRule::for_all());
        if let ValueKind::Array(rules) = &value.kind {
            let lacks = |rule: &Value| matches!(&rule.kind, ValueKind::Table(table) if !table.contains_key("match"));
            for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| lacks(rule)) {
                let key = format!("{place}.{index}.match");
                self.fault(&key, format!("{key} is missing{}; a rule says which channels it is for", origin(rule)));
            }
        }
        self.groups::<ChannelRule>(place, value, &like, "a list of rules, each a group of settings")
    }

    /// A list of groups of settings; what a group leaves out is as in `like`.
    fn groups<T: DeserializeOwned>(&mut self, place: &str, value: Value, like: &Object, must: &str) -> Json {
        let from = origin(&value);
        self.origins.extend(value.origin().map(|origin| (place.to_owned(), origin.to_owned())));
        let ValueKind::Array(items) = value.kind else {
            self.fault(place, format!("{place}{from} must be {must}"));
            return json!([]);
        };
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let place = format!("{place}.{index}");
            let ValueKind::Table(table) = item.kind else {
                self.fault(&place, format!("{place}{from} must be a group of settings"));
                continue;
            };
            let mut group = like.clone();
            for (field, value) in sorted(table) {
                let key = format!("{place}.{field}");
                let Some(default) = like.get(&field) else {
                    self.unknown_in(&place, &field, &value, like.keys());
                    continue;
                };
                let try_alone = |leaf: &Json| {
                    let mut alone = like.clone();
                    alone.insert(field.clone(), leaf.clone());
                    serde_json::from_value(Json::Object(alone)).map(|_: T| ())
                };
                if let Some(leaf) = self.leaf(&key, &value, default, &try_alone) {
                    group.insert(field, leaf);
                }
            }
            good.push(Json::Object(group));
        }
        Json::Array(good)
    }

    /// Remembers who set a value, and each value in a group; `from` is who set what it stands in.
    fn note(&mut self, key: &str, value: &Value, from: Option<&str>) {
        let from = value.origin().or(from);
        self.origins.extend(from.map(|origin| (key.to_owned(), origin.to_owned())));
        if let ValueKind::Table(fields) = &value.kind {
            // Names of headers are nobody's spelling but theirs.
            let ours = |name| if key.ends_with(".headers") { String::from(name) } else { snake_case(name) };
            for (name, value) in fields {
                self.note(&format!("{key}.{}", ours(name)), value, from);
            }
        }
    }

    fn leaf(&mut self, key: &str, value: &Value, like: &Json, try_alone: Try<'_>) -> Option<Json> {
        if value.kind == ValueKind::Nil {
            return None;
        }
        let (shown, must) = match coerce(value, like) {
            Ok(leaf) => match try_alone(&leaf) {
                Ok(()) => {
                    self.origins.extend(value.origin().map(|origin| (key.to_owned(), origin.to_owned())));
                    return Some(leaf);
                }
                Err(error) => (leaf.to_string(), expectation(key, &error.to_string())),
            },
            Err(must) => (shown(&value.kind), must.to_owned()),
        };
        let from = origin(value);
        self.fault(
            key,
            match is_secret(key) {
                true => format!("{key}{from} must be {must}"),
                false => format!("{key}{from} is {shown}; it must be {must}"),
            },
        );
        None
    }

    fn unknown_in<'a>(&mut self, place: &str, field: &str, value: &Value, known: impl IntoIterator<Item = &'a String>) {
        let key = format!("{place}.{field}");
        let known: Vec<String> = known.into_iter().map(|name| format!("{place}.{name}")).collect();
        let meant = did_you_mean(&key, known.iter().map(String::as_str), "remove it");
        self.fault(&key, format!("{key}{} is not a setting; {meant}", origin(value)));
    }

    fn fault(&mut self, key: &str, sentence: String) {
        self.faulty.insert(key.to_owned());
        self.faults.push(sentence);
    }
}

/// Whether the type of a key takes a value.
type Try<'a> = &'a dyn Fn(&Json) -> serde_json::Result<()>;

/// The value as the kind that `like` has, or what it must be. Variables are text, whatever they mean.
fn coerce(value: &Value, like: &Json) -> Result<Json, &'static str> {
    let written = || options::unquoted(&value.kind.to_string()).trim().to_owned();
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

/// What serde expected, in the operator's words.
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
    ["secret", "password", "passphrase", "url"].iter().any(|word| key.ends_with(word))
}

/// Who set a value, for a sentence.
fn origin(value: &Value) -> String {
    source(value).map(|origin| format!(" (from {origin})")).unwrap_or_default()
}

/// The file or variable of a value; a group that was merged only knows it of its members.
pub(super) fn source(value: &Value) -> Option<&str> {
    value.origin().or_else(|| match &value.kind {
        ValueKind::Table(table) => table.values().find_map(source),
        ValueKind::Array(items) => items.iter().find_map(source),
        _ => None,
    })
}

fn sorted(table: Map<String, Value>) -> BTreeMap<String, Value> {
    table.into_iter().collect()
}
