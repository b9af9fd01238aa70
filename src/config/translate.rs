//! From the names in a file to ours: Soketi's options, wherever they stand beside our own.

use std::collections::{BTreeMap, HashSet};

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::AppEntry;
use super::Config;
use super::foreign;
use super::options;
use super::options::{Means, Said, Setting};
use super::suggest::nearest;
use super::tree;

/// Where files have apps in Soketi's way, and in the way of many that were written for it.
const APPS: [&str; 2] = ["appManager.array.apps", "appManager.apps"];

/// What Soketi's options in a file say, and the settings that are ours already. `is_soketis` tells whether Soketi
/// reads files of that format.
pub(super) fn translate(settings: Map<String, Value>, is_soketis: bool) -> (Said, Map<String, Value>) {
    let sections = tree::object(&Config::default()).into_iter().map(|(section, _)| section).collect();
    let mut file = File { said: Said { is_soketis, ..Said::default() }, apps: None, sections };
    let mut own = file.group("", settings);
    if is_soketis {
        foreign::remove(&mut own, &mut file.said);
    }
    for apps in own.remove("apps").into_iter().chain(file.apps.take()) {
        file.list(apps, &mut own);
    }
    file.outweigh(&own);
    (file.said, own)
}

struct File {
    said: Said,
    /// The list that stands under one of `APPS`.
    apps: Option<Value>,
    /// The names of our own groups.
    sections: HashSet<String>,
}

impl File {
    /// Takes Soketi's options out of a group and returns what is left.
    fn group(&mut self, place: &str, settings: Map<String, Value>) -> Map<String, Value> {
        let mut own = Map::new();
        // In a fixed order, so that messages are.
        for (name, value) in settings.into_iter().collect::<BTreeMap<_, _>>() {
            let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            let is_group = options::options().any(|option| option.starts_with(&format!("{key}.")));
            match value.kind {
                _ if APPS.contains(&key.as_str()) => self.apps(&key, value),
                _ if options::option(&key).is_some() => self.option(&key, &value, options::option(&key)),
                ValueKind::Table(table) if is_group => {
                    let rest = self.group(&key, table);
                    if !rest.is_empty() {
                        own.insert(name, Value::new(None, ValueKind::Table(rest)));
                    }
                }
                ValueKind::Nil => (),
                // As Soketi has it: nothing is set.
                ValueKind::Boolean(false) if key == "ssl" => (),
                _ if is_group && !self.sections.contains(&key) => {
                    let from = from(&value);
                    self.said.faults.push(format!("{key}{from} must be a group of settings"));
                }
                _ if place.is_empty() || self.sections.contains(place) => drop(own.insert(name, value)),
                _ => self.option(&key, &value, options::option(&format!("{place}.*"))),
            }
        }
        own
    }

    fn option(&mut self, key: &str, value: &Value, means: Option<Means<'_>>) {
        let name = format!("{key}{}", from(value));
        let setting = |text| Setting { name: &name, origin: value.origin().unwrap_or(key), value: text };
        match (means, text(value)) {
            (None, _) => {
                foreign::note_app(key, value, &mut self.said);
                self.said.unknown(&name, nearest(key, options::options()).as_deref());
            }
            (_, None) => (),
            // What would be handed on to a client of a database, but is another option's name.
            (Some(Means::Parameter("", _)), _) if options::option(key).is_none() && meant(key).is_some() => {
                self.said.unknown(&name, meant(key).as_deref());
            }
            (Some(Means::Key(key)), Some(text)) if key != "cluster.name" || !text.is_empty() => {
                self.said.set(setting(&text), key, value.clone());
            }
            (_, Some(text)) if text.trim().is_empty() => (),
            (Some(Means::Ioredis(_)), Some(text)) => {
                let option = key.rsplit('.').next().unwrap_or(key);
                self.said.apply(setting(&text), &Means::Ioredis(option));
            }
            (Some(means), Some(text)) => self.said.apply(setting(&text), &means),
        }
    }

    fn apps(&mut self, key: &str, value: Value) {
        if value.kind == ValueKind::Nil {
            return;
        }
        if let Some(other) = &self.apps {
            let (other, from) = (from(other), from(&value));
            self.said.faults.push(format!("{key}{from} is a second list of apps, beside the one{other}; keep one"));
        }
        self.apps = Some(value);
    }

    /// Gives apps our names, and their members by number those of single values.
    fn list(&mut self, apps: Value, own: &mut Map<String, Value>) {
        let is_number = |name: &String| name.parse::<u16>().is_ok();
        let origin = apps.origin().map(str::to_owned);
        match apps.kind {
            ValueKind::Table(members) if !members.is_empty() && members.keys().all(is_number) => {
                for (index, member) in members.into_iter().collect::<BTreeMap<_, _>>() {
                    let ValueKind::Table(fields) = member.kind else { continue };
                    for (field, value) in self.app(&index, fields) {
                        self.said.values.insert(format!("apps.{index}.{field}"), value);
                    }
                }
            }
            ValueKind::Array(items) => {
                let mut unified = Vec::new();
                for (index, mut item) in items.into_iter().enumerate() {
                    if let ValueKind::Table(fields) = item.kind {
                        item.kind = ValueKind::Table(self.app(&index.to_string(), fields));
                    }
                    unified.push(item);
                }
                if let Some(other) = own.get("apps") {
                    let (one, other) = (origin.unwrap_or_default(), from(other));
                    self.said.faults.push(format!("apps (from {one}) are given twice, as well{other}; keep one"));
                } else {
                    own.insert("apps".to_owned(), Value::new(origin.as_ref(), ValueKind::Array(unified)));
                }
            }
            kind => drop(own.insert("apps".to_owned(), Value::new(origin.as_ref(), kind))),
        }
    }

    /// One spelling for each field, so that files and variables meet in it. As with Soketi, empty is not set.
    fn app(&mut self, index: &str, fields: Map<String, Value>) -> Map<String, Value> {
        let known = tree::app_fields();
        let mut unified: Map<String, Value> = Map::new();
        for (name, value) in fields.into_iter().collect::<BTreeMap<_, _>>() {
            if let Some(means) = options::option(&format!("appManager.array.apps.*.{name}")) {
                self.option(&format!("apps.{index}.{name}"), &value, Some(means));
                continue;
            }
            // What is unknown keeps its spelling, so that the operator finds it.
            let field = Some(AppEntry::field(&name)).filter(|field| known.contains_key(field)).unwrap_or(name);
            if self.said.is_soketis && !known.contains_key(&field) && value.kind != ValueKind::Nil {
                if foreign::is_ours(&field, known.keys()) {
                    unified.insert(field, value);
                } else {
                    let meant = foreign::near_field(&field, known.keys());
                    let name = format!("apps.{index}.{field}{}", from(&value));
                    self.said.unknown(&name, meant.map(|meant| format!("apps.{index}.{meant}")).as_deref());
                }
                continue;
            }
            let is_empty = text(&value).is_none_or(|text| text.is_empty());
            if is_empty && known.get(&field).is_some_and(|like| !like.is_string() && !like.is_array()) {
                continue;
            }
            if let Some(other) = unified.get(&field) {
                let lines = [other, &value].map(|value| value.origin().unwrap_or_default().to_owned());
                self.said.faults.push(format!(
                    "apps.{index}.{field} is given twice (in {} and {}), in two spellings; keep one",
                    lines[0], lines[1]
                ));
            }
            unified.insert(field, value);
        }
        unified
    }

    /// Our own names win over Soketi's, and say so where they differ.
    fn outweigh(&mut self, own: &Map<String, Value>) {
        for (key, soketis) in &self.said.values {
            let Some((section, field)) = key.split_once('.') else { continue };
            let Some(ValueKind::Table(table)) = own.get(section).map(|section| &section.kind) else { continue };
            let ours = table.get(field).filter(|ours| ours.kind != soketis.kind && ours.kind != ValueKind::Nil);
            if let (Some(ours), Some(theirs)) = (ours, self.said.names.get(key)) {
                let ours = from(ours);
                self.said.warnings.push(format!("{theirs} has no effect, because {key}{ours} says it, too"));
            }
        }
    }
}

/// The option of a database whose name is nearly `key`, if that is probably meant.
fn meant(key: &str) -> Option<String> {
    nearest(key, options::options())
}

/// A value as a variable would have it; none for null, as a word or as a value.
pub(super) fn text(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Nil => None,
        ValueKind::String(text) => Some(text.clone()).filter(|text| text.trim() != "null"),
        ValueKind::Array(_) | ValueKind::Table(_) => Some(json(value).to_string()),
        kind => Some(kind.to_string()),
    }
}

/// A value as JSON.
pub(super) fn json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(truth) => Json::Bool(*truth),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::Float(number) => Json::from(*number),
        ValueKind::Array(items) => items.iter().map(json).collect(),
        ValueKind::Table(table) => table.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        kind => Json::String(kind.to_string()),
    }
}

/// Who set a value, for a sentence.
pub(super) fn from(value: &Value) -> String {
    tree::source(value).map(|origin| format!(" (from {origin})")).unwrap_or_default()
}
