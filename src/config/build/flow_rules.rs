//! Flow rules: a list of groups that have groups of their own. Each value is checked alone.
//! `build` calls it.

use config::{Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::json;

use crate::flow::rule::{Aggregate, Conflate, FlowRule, Rate, Sample, Snapshot, ViewWindow};
use crate::protocol::pattern::EventPattern;

use crate::config::build::{Build, LIST, accepts, shown, text};
use crate::config::fault::Subject;
use crate::config::schema::{Object, object};
use crate::config::settings::flow_rules::RULES_MAX;
use crate::config::suggest::nearest;
use crate::config::tree;
use crate::config::tree::sorted;

impl Build {
    /// A list of rules, or one as JSON, as variables have it.
    pub(super) fn flow_rules(&mut self, subject: &Subject, mut value: Value) -> Json {
        tree::unfold(&mut value);
        let value = tree::inherit(value, None);
        self.note(&subject.key, &value);
        let rules = match value.kind {
            ValueKind::Array(rules) => rules,
            ValueKind::Nil => Vec::new(),
            _ => {
                self.faults.push(subject.fault("must be a list of rules, each a group of settings"));
                return json!([]);
            }
        };
        if rules.len() > RULES_MAX {
            self.faults.push(subject.fault(format!("has {} rules; at most {RULES_MAX} are possible", rules.len())));
        }
        let like = like();
        let rules = rules.into_iter().take(RULES_MAX).enumerate();
        rules.map(|(index, rule)| self.flow_rule(&member(subject, &index.to_string(), &rule), rule, &like)).collect()
    }

    /// One rule. A value that is missing or wrong is as in `like`, so that the rest can be checked.
    fn flow_rule(&mut self, subject: &Subject, rule: Value, like: &Object) -> Json {
        self.note(&subject.key, &rule);
        let mut good = required::<FlowRule>(like);
        let ValueKind::Table(table) = rule.kind else {
            self.faults.push(subject.fault("must be a group of settings"));
            good.insert("sample".to_owned(), like["sample"].clone());
            return Json::Object(good);
        };
        if !table.contains_key("match") {
            let subject = Subject { key: format!("{}.match", subject.key), origin: subject.origin.clone() };
            self.faults.push(subject.fault("is missing; a rule says which channels it is for"));
        }
        let given: Vec<String> = table.keys().cloned().collect();
        for (name, value) in sorted(table) {
            let subject = member(subject, &name, &value);
            let built = match (&*name, like.get(&name)) {
                ("events" | "except", _) => Some(self.texts(&subject, value, |text| EventPattern::parse(text).err())),
                ("views", _) => Some(self.texts(&subject, value, |text| ViewWindow::parse(text).err())),
                ("conflate", Some(Json::Object(like))) => self.group::<Conflate>(&subject, value, like),
                ("aggregate", Some(Json::Object(like))) => self.group::<Aggregate>(&subject, value, like),
                ("rate", Some(Json::Object(like))) => self.group::<Rate>(&subject, value, like),
                ("sample", Some(Json::Object(like))) => self.group::<Sample>(&subject, value, like),
                ("snapshot", Some(Json::Object(like))) => self.group::<Snapshot>(&subject, value, like),
                (_, Some(default)) => {
                    self.leaf(&subject, &value, default, &|leaf| accepts::<FlowRule>(like)(&name, leaf))
                }
                (_, None) => {
                    // A value that belongs into a group often stands beside it.
                    let has = |group: &&String| like.get(*group).is_some_and(|group| group.get(&name).is_some());
                    let all: Vec<String> = like.keys().cloned().collect();
                    let group = given.iter().find(has).or_else(|| all.iter().find(has));
                    self.unknown_in(&subject, &all, group.map(|group| format!("{group}.{name}")));
                    None
                }
            };
            good.extend(built.map(|built| (name, built)));
        }
        Json::Object(good)
    }

    /// A group of a rule, such as `conflate`.
    fn group<T: DeserializeOwned>(&mut self, subject: &Subject, value: Value, like: &Object) -> Option<Json> {
        self.note(&subject.key, &value);
        let mut good = required::<T>(like);
        let table = match value.kind {
            ValueKind::Nil => return None,
            ValueKind::Table(table) => table,
            _ => {
                let example: Vec<String> = good.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                self.faults.push(subject.fault(format!(
                    "is {}; it must be a group of settings, such as {{ {} }}",
                    shown(&value.kind),
                    example.join(", ")
                )));
                return Some(Json::Object(good));
            }
        };
        for name in good.keys().filter(|name| !table.contains_key(*name)) {
            let origin = subject.origin.clone();
            let missing = Subject { key: format!("{}.{name}", subject.key), origin };
            self.faults.push(missing.fault(format!("is missing; {}", meaning(name))));
        }
        for (name, value) in sorted(table) {
            let subject = member(subject, &name, &value);
            let built = match like.get(&name) {
                Some(default) => self.leaf(&subject, &value, default, &|leaf| accepts::<T>(like)(&name, leaf)),
                None => {
                    let of_rule = self::like().contains_key(&name).then(|| format!("..{name}"));
                    self.unknown_in(&subject, &like.keys().cloned().collect::<Vec<_>>(), of_rule);
                    None
                }
            };
            good.extend(built.map(|built| (name, built)));
        }
        Some(Json::Object(good))
    }

    /// A list of texts, or one text, for each of which `wrong` says what it must be instead, if it is wrong.
    fn texts(&mut self, subject: &Subject, value: Value, wrong: impl Fn(&str) -> Option<&'static str>) -> Json {
        self.note(&subject.key, &value);
        let items = match value.kind {
            ValueKind::Nil => Vec::new(),
            ValueKind::Array(items) => items,
            ValueKind::String(_) => vec![value],
            kind => {
                self.faults.push(subject.fault(format!("is {}; it must be {LIST}", shown(&kind))));
                Vec::new()
            }
        };
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let must = match text(&item) {
                Ok(text) => {
                    let must = wrong(text.as_str().unwrap_or_default());
                    good.extend(must.is_none().then_some(text));
                    must
                }
                Err(must) => Some(must),
            };
            let subject = member(subject, &index.to_string(), &item);
            self.faults.extend(must.map(|must| subject.fault(format!("is {}; it must be {must}", shown(&item.kind)))));
        }
        Json::Array(good)
    }

    /// An unknown name. A known one beside it may be meant, or `elsewhere`, seen from the group around it.
    fn unknown_in(&mut self, subject: &Subject, known: &[String], elsewhere: Option<String>) {
        let group = subject.key.rsplit_once('.').map_or("", |(group, _)| group);
        let known: Vec<String> = known.iter().map(|name| format!("{group}.{name}")).collect();
        let elsewhere = elsewhere.map(|name| match name.strip_prefix("..") {
            Some(name) => format!("{}.{name}", group.rsplit_once('.').map_or("", |(rule, _)| rule)),
            None => format!("{group}.{name}"),
        });
        let meant = elsewhere.or_else(|| nearest(&subject.key, known.iter().map(String::as_str)));
        let remedy = meant.map_or_else(|| "remove it".to_owned(), |meant| format!("did you mean {meant}?"));
        self.faults.push(subject.fault(format!("is not a setting; {remedy}")));
    }
}

/// A value in a group or list.
fn member(around: &Subject, name: &str, value: &Value) -> Subject {
    Subject::of(format!("{}.{name}", around.key), value)
}

/// A rule that has everything, with a value of the right kind for each name.
fn like() -> Object {
    let all = json!({
        "match": "*",
        "conflate": { "key": "data.channel", "window_ms": 250 },
        "aggregate": {
            "each": "data.readings", "key": "data.channel", "value": "data.value", "window_ms": 1000, "as": "readings",
        },
        "rate": { "per_second": 20.0, "burst": 20, "key": "data.channel" },
        "sample": { "every": 10, "key": "data.channel" },
        "snapshot": { "max_age_seconds": 600, "key": "data.channel" },
    });
    serde_json::from_value::<FlowRule>(all).map(|rule| object(&rule)).unwrap_or_default()
}

/// The values that a `T` cannot be without, as in `like`.
fn required<T: DeserializeOwned>(like: &Object) -> Object {
    let is_required = |name: &String| {
        let mut without = like.clone();
        without.remove(name);
        serde_json::from_value::<T>(Json::Object(without)).is_err()
    };
    like.iter().filter(|(name, _)| is_required(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A required value in a few words, with an example.
fn meaning(name: &str) -> &'static str {
    match name {
        "window_ms" => "it is the time in which a key gets one event, such as 250",
        "value" => "it is the path to the number in the event's data, such as data.value",
        "per_second" => "it is how many events pass in a second, such as 20",
        "every" => "one of so many events passes, such as 10",
        "max_age_seconds" => "it is how long the last event of a key is kept, such as 600",
        _ => "add it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_every_setting_is_known() {
        let like = like();
        let groups: Vec<&Object> = like.values().filter_map(Json::as_object).collect();
        assert_eq!(groups.len(), 5);
        for (name, value) in groups.into_iter().flatten().chain(&like) {
            assert!(!value.is_null(), "{name}");
        }
    }

    #[test]
    fn every_required_setting_is_explained() {
        let like = like();
        let group = |name: &str| like[name].as_object().unwrap();
        let names = |required: Object| required.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(required::<FlowRule>(&like)), ["match"]);
        for (required, expected) in [
            (required::<Conflate>(group("conflate")), &["window_ms"][..]),
            (required::<Aggregate>(group("aggregate")), &["value", "window_ms"]),
            (required::<Rate>(group("rate")), &["per_second"]),
            (required::<Sample>(group("sample")), &["every"]),
            (required::<Snapshot>(group("snapshot")), &["max_age_seconds"]),
        ] {
            let names = names(required);
            assert_eq!(names, expected);
            assert!(names.iter().all(|name| meaning(name) != "add it"));
        }
    }
}
