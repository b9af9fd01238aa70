//! Flow rules: a list of groups that have groups of their own. Each value is checked alone.
//! `build` calls it.

use config::{Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::json;

use crate::flow::rule::{Aggregate, Conflate, FlowRule, Rate, Sample, Snapshot};
use crate::flow::window::ViewWindow;
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
    pub(super) fn flow_rules(&mut self, subject: &Subject, value: Value) -> Json {
        let like = like();
        let rules = self.list_of_rules(subject, value).into_iter().enumerate();
        rules.map(|(index, rule)| self.flow_rule(&member(subject, &index.to_string(), &rule), rule, &like)).collect()
    }

    /// The items of a list of rules.
    pub(super) fn list_of_rules(&mut self, subject: &Subject, mut value: Value) -> Vec<Value> {
        tree::unfold(&mut value);
        let value = tree::inherit(value, None);
        self.note(&subject.key, &value);
        let rules = match value.kind {
            ValueKind::Array(rules) => rules,
            ValueKind::Nil => Vec::new(),
            _ => {
                self.faults.push(subject.fault("must be a list of rules, each a group of settings"));
                return Vec::new();
            }
        };
        if rules.len() > RULES_MAX {
            self.faults.push(subject.fault(format!("has {} rules; at most {RULES_MAX} are possible", rules.len())));
        }
        rules.into_iter().take(RULES_MAX).collect()
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
                ("events" | "except", _) => {
                    Some(self.texts(&subject, value, |text| EventPattern::parse(text).err().map(str::to_owned)))
                }
                ("views", _) => Some(self.texts(&subject, value, wrong_view)),
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
    fn texts(&mut self, subject: &Subject, value: Value, wrong: impl Fn(&str) -> Option<String>) -> Json {
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
                Err(must) => Some(must.to_owned()),
            };
            let subject = member(subject, &index.to_string(), &item);
            self.faults.extend(must.map(|must| subject.fault(format!("is {}; it must be {must}", shown(&item.kind)))));
        }
        Json::Array(good)
    }

    /// An unknown name. A known one beside it may be meant, or `elsewhere`, seen from the group around it.
    pub(super) fn unknown_in(&mut self, subject: &Subject, known: &[String], elsewhere: Option<String>) {
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
pub(super) fn member(around: &Subject, name: &str, value: &Value) -> Subject {
    Subject::of(format!("{}.{name}", around.key), value)
}

/// The sentence for a view's window that is none. Pages join the channel by the one name of each window.
fn wrong_view(text: &str) -> Option<String> {
    match ViewWindow::parse(text) {
        Ok(window) => Some(window.to_string()).filter(|name| name != text),
        Err(must) => Some(must.to_owned()),
    }
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
pub(super) fn required<T: DeserializeOwned>(like: &Object) -> Object {
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
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::config::{App, Limits, Loaded, Origin};
    use crate::flow::rules::FlowRules;
    use crate::protocol::channel::ChannelName;

    const VARIABLE: &str = "GEMA_LIMITS_FLOW_RULES";

    /// Loads rules from the variable, or returns the keys of the faults. Each must be about the rules of the variable.
    fn load(rules: &Json) -> Result<Loaded, Vec<String>> {
        let environment = [(VARIABLE.to_owned(), rules.to_string())];
        crate::config::load(&[], environment).map_err(|faults| {
            let variable = Origin::Variable(VARIABLE.to_owned());
            for fault in &faults.faults {
                assert!(fault.subject.key.starts_with("limits.flow_rules"), "{fault}");
                assert_eq!(fault.subject.origin, Some(variable.clone()), "{fault}");
            }
            faults.faults.into_iter().map(|fault| fault.subject.key).collect()
        })
    }

    /// Asks the rules for everything that can be asked of them.
    fn use_rules(rules: &[FlowRule]) {
        let rules = FlowRules::new(rules);
        for channel in ["scada-a", "private-encrypted-scada-a", "scada-a@1s", "debug.x"] {
            let channel = ChannelName::parse(channel, 200).unwrap();
            assert!(!rules.explain(&channel).is_empty());
            for event in ["data.channel", "client-x", "pusher:x", ""] {
                assert!(rules.explain_event(&channel, event).len() > 10);
            }
        }
    }

    const NAMES: [&str; 36] = [
        "match",
        "events",
        "except",
        "flush_before",
        "ignore_except",
        "client_events",
        "at",
        "keys_max",
        "views",
        "conflate",
        "aggregate",
        "rate",
        "sample",
        "snapshot",
        "key",
        "window_ms",
        "merge",
        "each",
        "value",
        "emit",
        "value_is",
        "as",
        "values_max",
        "per_second",
        "burst",
        "over",
        "every",
        "trailing",
        "max_age_seconds",
        "keys",
        "channel_rules",
        "webhooks",
        "flow_rules",
        "Match",
        "",
        "a.b",
    ];

    /// Any JSON, more often one that is nearly a list of rules.
    fn anything() -> impl Strategy<Value = Json> {
        let word =
            select(vec!["data.channel", "*", "scada-*", "1s", "2h", "ingest", "map", "latest", "client-x", "7", ""]);
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            (0..5000u32).prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            word.prop_map(Json::from),
            // This character stands for what is no text, and a variable with it is refused.
            "\\PC{0,12}".prop_map(|text| Json::from(text.replace('\u{fffd}', ""))),
        ];
        let value = leaf.prop_recursive(4, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::hash_map(select(NAMES.map(str::to_owned).to_vec()), inner, 0..6)
                    .prop_map(|fields| Json::Object(fields.into_iter().collect())),
            ]
        });
        prop_oneof![value.clone(), prop::collection::vec(value, 0..4).prop_map(Json::from)]
    }

    /// A rule without a mistake.
    fn good_rule() -> impl Strategy<Value = Json> {
        let key = || select(vec![json!("data.channel"), json!("0"), Json::Null]);
        let window = || 1..=3_600_000u32;
        let with_windows = prop_oneof![
            (key(), window(), any::<bool>()).prop_map(|(key, window, merge)| {
                json!({ "conflate": { "key": key, "window_ms": window, "merge": merge } })
            }),
            (key(), window(), select(vec!["average", "last", "min", "max", "sum"]), 0..=10_000u32).prop_map(
                |(key, window, value_is, values)| {
                    json!({ "aggregate": { "key": key, "value": "v", "window_ms": window, "value_is": value_is,
                        "emit": "map", "values_max": values } })
                }
            ),
        ];
        let with_windows = (with_windows, subsequence(vec!["500ms", "1s", "2m"], 0..=3), any::<bool>()).prop_map(
            |(mut rule, views, is_ingest)| {
                rule["views"] = json!(views);
                rule["at"] = json!(if is_ingest { "ingest" } else { "delivery" });
                rule
            },
        );
        let others = prop_oneof![
            (
                key(),
                (1..=400_000u32).prop_map(|quarters| f64::from(quarters) / 4.0),
                1..=1_000_000u32,
                select(vec!["latest", "drop"])
            )
                .prop_map(|(key, per_second, burst, over)| {
                    json!({ "rate": { "key": key, "per_second": per_second, "burst": burst, "over": over } })
                }),
            (key(), 2..=1_000_000u32, any::<bool>()).prop_map(|(key, every, trailing)| {
                json!({ "sample": { "key": key, "every": every, "trailing": trailing } })
            }),
            Just(json!({ "snapshot": { "max_age_seconds": 31_536_000u32, "key": "data.channel" } })),
        ];
        let events = || subsequence(vec!["a", "*.b", "c*d", "client-*"], 0..=4);
        let common =
            (select(vec!["*", "scada-*", "debug.x"]), events(), events(), 1..=1_000_000u32, any::<[bool; 3]>());
        (prop_oneof![with_windows, others], common).prop_map(
            |(mut rule, (pattern, events, except, keys_max, flags))| {
                rule["match"] = json!(pattern);
                rule["events"] = json!(events);
                rule["except"] = json!(except);
                rule["keys_max"] = json!(keys_max);
                for (name, flag) in ["flush_before", "ignore_except", "client_events"].iter().zip(flags) {
                    rule[*name] = json!(flag);
                }
                rule
            },
        )
    }

    proptest! {
        #[test]
        fn any_json_gives_rules_or_faults_with_their_place(rules in anything()) {
            let of_row = json!({ "id": "a", "key": "k", "secret": "s", "flow_rules": rules });
            let row = App::from_row("apps", of_row.as_object().unwrap(), &Limits::default()).unwrap();
            use_rules(&row.app.limits.flow_rules);
            match load(&rules) {
                Ok(loaded) => use_rules(&loaded.config.limits.flow_rules),
                Err(keys) => prop_assert!(!keys.is_empty()),
            }
        }

        #[test]
        fn good_rules_are_taken_as_they_are_and_one_mistake_is_one_fault(
            rules in prop::collection::vec(good_rule(), 1..5),
            wrong in select(vec!["match", "events", "views", "at", "keys_max", "flush_before", "other"]),
            index in any::<prop::sample::Index>(),
        ) {
            let rules = Json::from(rules);
            let loaded = load(&rules).unwrap();
            let expected: Vec<FlowRule> = serde_json::from_value(rules.clone()).unwrap();
            prop_assert_eq!(&loaded.config.limits.flow_rules, &expected);
            use_rules(&expected);
            let (mut rules, index) = (rules, index.index(expected.len()));
            let is_list = ["events", "views"].contains(&wrong);
            rules[index][wrong] = if is_list { json!([""]) } else { json!("") };
            let key = format!("limits.flow_rules.{index}.{wrong}{}", if is_list { ".0" } else { "" });
            prop_assert_eq!(load(&rules).unwrap_err(), [key]);
        }
    }

    #[test]
    fn there_is_a_most_of_rules() {
        let rules = |count: usize| Json::from(vec![json!({ "match": "a", "sample": { "every": 2 } }); count]);
        assert_eq!(load(&rules(RULES_MAX)).unwrap().config.limits.flow_rules.len(), RULES_MAX);
        assert_eq!(load(&rules(RULES_MAX + 1)).unwrap_err(), ["limits.flow_rules"]);
    }

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
