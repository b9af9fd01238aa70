//! Translates Soketi's options in a file into gema's settings. gema's own may stand beside them.
//! `sources` calls it.

use std::collections::HashSet;

use config::{Map, Value, ValueKind};

use crate::config::AppEntry;
use crate::config::Config;
use crate::config::fault::{Fault, Subject};
use crate::config::origin::Origin;
use crate::config::schema;
use crate::config::sources::soketi;
use crate::config::sources::soketi::unread;
use crate::config::sources::soketi::{Means, Setting, Translation};
use crate::config::suggest::nearest;
use crate::config::tree;
use crate::config::tree::{Group, sorted, text};

/// Where files have apps in Soketi's way, and in the way of many that were written for it.
const APPS: [&str; 2] = ["appManager.array.apps", "appManager.apps"];

/// Soketi's options in a file, and the settings that are ours already. `is_soketis` tells whether Soketi
/// reads files of that format.
pub(in crate::config) fn translate(settings: Group, is_soketis: bool) -> (Translation, Group) {
    let sections = schema::object(&Config::default()).into_iter().map(|(section, _)| section).collect();
    let mut file = File { translation: Translation { is_soketis, ..Translation::default() }, apps: None, sections };
    let mut own = file.group("", settings);
    if is_soketis {
        unread::remove(&mut own, &mut file.translation);
    }
    for apps in own.remove("apps").into_iter().chain(file.apps.take()) {
        file.list(apps, &mut own);
    }
    file.outweigh(&own);
    (file.translation, own)
}

struct File {
    translation: Translation,
    /// The list that stands under one of `APPS`.
    apps: Option<Value>,
    /// The names of our own groups.
    sections: HashSet<String>,
}

impl File {
    /// Takes Soketi's options out of a group and returns what is left.
    fn group(&mut self, place: &str, settings: Group) -> Group {
        let mut own = Map::new();
        for (name, value) in sorted(settings) {
            let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            let is_group = soketi::options().any(|option| option.starts_with(&format!("{key}.")));
            match value.kind {
                _ if APPS.contains(&key.as_str()) => self.apps(&key, value),
                _ if soketi::option(&key).is_some() => self.option(&key, &value, soketi::option(&key)),
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
                    self.translation.faults.push(Subject::of(key, &value).fault("must be a group of settings"));
                }
                _ if place.is_empty() || self.sections.contains(place) => drop(own.insert(name, value)),
                _ => self.option(&key, &value, soketi::option(&format!("{place}.*"))),
            }
        }
        own
    }

    fn option(&mut self, key: &str, value: &Value, means: Option<Means<'_>>) {
        let subject = &Subject::of(key, value);
        let origin = &Origin::of_itself(value).unwrap_or_else(|| Origin::Variable(key.to_owned()));
        match (means, text(value)) {
            (None, _) => {
                unread::note_app(subject, value, &mut self.translation);
                self.translation.unknown(subject, nearest(key, soketi::options()).as_deref());
            }
            (_, None) => (),
            // Soketi would hand it on to a client of a database, but it is nearly another option's name.
            (Some(Means::Parameter("", _)), _) if soketi::option(key).is_none() && meant(key).is_some() => {
                self.translation.unknown(subject, meant(key).as_deref());
            }
            (Some(Means::Key(key)), Some(text)) if key != "cluster.name" || !text.is_empty() => {
                self.translation.set(subject, key, value.clone());
            }
            (_, Some(text)) if text.trim().is_empty() => (),
            (Some(Means::Ioredis(_)), Some(text)) => {
                let option = key.rsplit('.').next().unwrap_or(key);
                self.translation.apply(Setting { subject, origin, value: &text }, &Means::Ioredis(option));
            }
            (Some(means), Some(text)) => self.translation.apply(Setting { subject, origin, value: &text }, &means),
        }
    }

    fn apps(&mut self, key: &str, value: Value) {
        if value.kind == ValueKind::Nil {
            return;
        }
        if let Some(other) = &self.apps {
            let other = Subject::of("", other);
            let text = format!("is a second list of apps, beside the one{other}; keep one");
            self.translation.faults.push(Subject::of(key, &value).fault(text));
        }
        self.apps = Some(value);
    }

    /// Gives apps our names, and their members by number those of single values.
    fn list(&mut self, apps: Value, own: &mut Group) {
        let is_number = |name: &String| name.parse::<u16>().is_ok();
        let origin = apps.origin().map(str::to_owned);
        let subject = Subject { key: "apps".to_owned(), origin: Origin::of_itself(&apps) };
        match apps.kind {
            ValueKind::Table(members) if !members.is_empty() && members.keys().all(is_number) => {
                for (index, member) in sorted(members) {
                    let ValueKind::Table(fields) = member.kind else { continue };
                    for (field, value) in self.app(&index, fields) {
                        self.translation.values.insert(format!("apps.{index}.{field}"), value);
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
                    let other = Subject::of("", other);
                    let text = format!("are given twice, as well{other}; keep one");
                    self.translation.faults.push(subject.fault(text));
                } else {
                    own.insert("apps".to_owned(), Value::new(origin.as_ref(), ValueKind::Array(unified)));
                }
            }
            kind => drop(own.insert("apps".to_owned(), Value::new(origin.as_ref(), kind))),
        }
    }

    /// One spelling for each field, so that files and variables meet in it. As with Soketi, empty is not set.
    fn app(&mut self, index: &str, fields: Group) -> Group {
        let known = schema::app_fields();
        let mut unified: Group = Map::new();
        for (name, value) in sorted(fields) {
            if let Some(means) = soketi::option(&format!("appManager.array.apps.*.{name}")) {
                self.option(&format!("apps.{index}.{name}"), &value, Some(means));
                continue;
            }
            // An unknown name keeps its spelling, so that the operator finds it.
            let field = Some(AppEntry::field(&name)).filter(|field| known.contains_key(field)).unwrap_or(name);
            if self.translation.is_soketis && !known.contains_key(&field) && value.kind != ValueKind::Nil {
                if unread::is_ours(&field, known.keys()) {
                    unified.insert(field, value);
                } else {
                    let meant = unread::near_field(&field, known.keys());
                    let subject = Subject::of(format!("apps.{index}.{field}"), &value);
                    self.translation.unknown(&subject, meant.map(|meant| format!("apps.{index}.{meant}")).as_deref());
                }
                continue;
            }
            let is_empty = text(&value).is_none_or(|text| text.is_empty());
            if is_empty && known.get(&field).is_some_and(|like| !like.is_string() && !like.is_array()) {
                continue;
            }
            if let Some(other) = unified.get(&field) {
                let [one, other] = [other, &value].map(|value| Origin::of(value).map(|origin| origin.to_string()));
                let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
                let text = format!("is given twice (in {one} and {other}), in two spellings; keep one");
                self.translation.faults.push(Fault::new(format!("apps.{index}.{field}"), text));
            }
            unified.insert(field, value);
        }
        unified
    }

    /// Our own names win over Soketi's, and say so where they differ.
    fn outweigh(&mut self, own: &Group) {
        if let Some(ours) = tree::setting(own, "cluster", "name")
            && let Some((theirs, _)) = self.translation.nats_name.take()
        {
            let ours = Subject::of("cluster.name", ours);
            self.translation.warnings.push(theirs.fault(format!("has no effect, because {ours} says it, too")));
        }
        for (key, soketis) in &self.translation.values {
            let Some((section, field)) = key.split_once('.') else { continue };
            let Some(ValueKind::Table(table)) = own.get(section).map(|section| &section.kind) else { continue };
            let ours = table.get(field).filter(|ours| ours.kind != soketis.kind && ours.kind != ValueKind::Nil);
            if let (Some(ours), Some(theirs)) = (ours, self.translation.subjects.get(key)) {
                let ours = Subject::of(&**key, ours);
                self.translation.warnings.push(theirs.fault(format!("has no effect, because {ours} says it, too")));
            }
        }
    }
}

/// The option of a database whose name is nearly `key`, if that is probably meant.
fn meant(key: &str) -> Option<String> {
    nearest(key, soketi::options())
}
