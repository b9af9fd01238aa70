//! History rules: a list of groups, of which `replay` may be a word or a group.
//! `build` calls it.

use config::{Value, ValueKind};
use serde_json::Value as Json;
use serde_json::json;

use crate::history::rule::HistoryRule;

use crate::config::build::flow_rules::{member, required};
use crate::config::build::{Build, accepts, shown};
use crate::config::fault::Subject;
use crate::config::schema::{Object, object};
use crate::config::tree::{Group, sorted};

impl Build {
    /// A list of rules, or one as JSON, as variables have it.
    pub(super) fn history_rules(&mut self, subject: &Subject, value: Value) -> Json {
        let like = like();
        let rules = self.list_of_rules(subject, value).into_iter().enumerate();
        rules.map(|(index, rule)| self.history_rule(&member(subject, &index.to_string(), &rule), rule, &like)).collect()
    }

    /// One rule. A value that is missing or wrong is as in `like`, so that the rest can be checked.
    fn history_rule(&mut self, subject: &Subject, rule: Value, like: &Object) -> Json {
        self.note(&subject.key, &rule);
        let mut good = required::<HistoryRule>(like);
        let ValueKind::Table(table) = rule.kind else {
            self.faults
                .push(subject.fault("must be a group of settings, such as { match = \"orders.*\", seconds = 120 }"));
            return Json::Object(good);
        };
        for (name, meaning) in [
            ("match", "a rule says which channels it is for"),
            ("seconds", "it is how long an event is kept, such as 120"),
        ] {
            self.miss(subject, &table, name, meaning);
        }
        for (name, value) in sorted(table) {
            let subject = member(subject, &name, &value);
            let built = match (&*name, like.get(&name)) {
                ("replay", _) => self.replay(&subject, value),
                (_, Some(default)) => {
                    self.leaf(&subject, &value, default, &|leaf| accepts::<HistoryRule>(like)(&name, leaf))
                }
                (_, None) => {
                    self.unknown_in(&subject, &like.keys().cloned().collect::<Vec<_>>(), None);
                    None
                }
            };
            good.extend(built.map(|built| (name, built)));
        }
        Json::Object(good)
    }

    /// `"returning"`, or `{ last = 10 }`.
    fn replay(&mut self, subject: &Subject, value: Value) -> Option<Json> {
        self.note(&subject.key, &value);
        let table = match value.kind {
            ValueKind::Nil => return None,
            ValueKind::String(text) if text == "returning" => return Some(json!(text)),
            ValueKind::Table(table) => table,
            kind => {
                let shown = shown(&kind);
                self.faults.push(subject.fault(format!("is {shown}; it must be \"returning\" or {{ last = 10 }}")));
                return None;
            }
        };
        self.miss(subject, &table, "last", "it is how many of the last events everybody gets who joins, such as 10");
        let mut last = None;
        for (name, value) in sorted(table) {
            let subject = member(subject, &name, &value);
            if name == "last" {
                let is_count = |leaf: &Json| serde_json::from_value::<usize>(leaf.clone()).map(drop);
                last = self.leaf(&subject, &value, &json!(1), &is_count);
            } else {
                self.unknown_in(&subject, &["last".to_owned()], None);
            }
        }
        last.map(|last| json!({ "last": last }))
    }

    /// Adds a fault if a group lacks a setting.
    fn miss(&mut self, subject: &Subject, table: &Group, name: &str, meaning: &str) {
        if table.get(name).is_none_or(|value| value.kind == ValueKind::Nil) {
            let missing = Subject { key: format!("{}.{name}", subject.key), origin: subject.origin.clone() };
            self.faults.push(missing.fault(format!("is missing; {meaning}")));
        }
    }
}

/// A rule that has everything.
fn like() -> Object {
    let all = json!({ "match": "*", "seconds": 120 });
    serde_json::from_value::<HistoryRule>(all).map(|rule| object(&rule)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::config::settings::flow_rules::RULES_MAX;
    use crate::config::{App, Limits, Loaded, Origin};
    use crate::history::rule::HistoryRules;
    use crate::protocol::channel::ChannelName;

    const VARIABLE: &str = "GEMA_LIMITS_HISTORY_RULES";
    const NAMES: [&str; 9] =
        ["match", "seconds", "events_max", "bytes_max", "replay", "last", "returning", "flow_rules", "Match"];

    /// Loads rules from the variable, or returns the keys of the faults. Each must be about the rules of the variable.
    fn load(rules: &Json) -> Result<Loaded, Vec<String>> {
        let environment = [(VARIABLE.to_owned(), rules.to_string())];
        crate::config::load(&[], environment).map_err(|faults| {
            let variable = Origin::Variable(VARIABLE.to_owned());
            for fault in &faults.faults {
                assert!(fault.subject.key.starts_with("limits.history_rules"), "{fault}");
                assert_eq!(fault.subject.origin, Some(variable.clone()), "{fault}");
            }
            faults.faults.into_iter().map(|fault| fault.subject.key).collect()
        })
    }

    /// Asks the rules for everything that can be asked of them.
    fn use_rules(rules: &[HistoryRule]) {
        let rules = HistoryRules::new(rules);
        for channel in ["orders.1", "presence-orders.1", "private-encrypted-a", "#server-to-user-1"] {
            let channel = ChannelName::parse(channel, 200).unwrap();
            assert!(rules.explain(&channel).len() > 10);
        }
    }

    /// Any JSON, more often one that is nearly a list of rules.
    fn anything() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (0..5000u32).prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            select(vec!["orders.*", "*", "returning", "last", "120", "7", ""]).prop_map(Json::from),
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
        let pattern = select(vec!["orders.*", "request-*", "a"]);
        (pattern, 1..=3600u32, 1..=100_000u32, 4096..=67_108_864u32, any::<Option<prop::sample::Index>>()).prop_map(
            |(pattern, seconds, events, bytes, last)| {
                let last = last.map(|last| json!({ "last": 1 + last.index(events as usize) }));
                json!({ "match": pattern, "seconds": seconds, "events_max": events, "bytes_max": bytes,
                    "replay": last.unwrap_or_else(|| json!("returning")) })
            },
        )
    }

    proptest! {
        #[test]
        fn any_json_gives_rules_or_faults_with_their_place(rules in anything()) {
            let of_row = json!({ "id": "a", "key": "k", "secret": "s", "history_rules": rules });
            let row = App::from_row("apps", of_row.as_object().unwrap(), &Limits::default()).unwrap();
            use_rules(&row.app.limits.history_rules);
            match load(&rules) {
                Ok(loaded) => use_rules(&loaded.config.limits.history_rules),
                Err(keys) => prop_assert!(!keys.is_empty()),
            }
        }

        #[test]
        fn good_rules_are_taken_as_they_are_and_one_mistake_is_one_fault(
            rules in prop::collection::vec(good_rule(), 1..5),
            wrong in select(vec!["match", "seconds", "events_max", "bytes_max", "replay", "other"]),
            index in any::<prop::sample::Index>(),
        ) {
            let rules = Json::from(rules);
            let loaded = load(&rules).unwrap();
            let expected: Vec<HistoryRule> = serde_json::from_value(rules.clone()).unwrap();
            prop_assert_eq!(&loaded.config.limits.history_rules, &expected);
            use_rules(&expected);
            let (mut rules, index) = (rules, index.index(expected.len()));
            if wrong == "events_max" {
                rules[index]["replay"] = json!("returning");
            }
            rules[index][wrong] = json!("");
            prop_assert_eq!(load(&rules).unwrap_err(), [format!("limits.history_rules.{index}.{wrong}")]);
        }
    }

    #[test]
    fn there_is_a_most_of_rules() {
        let rules = |count: usize| Json::from(vec![json!({ "match": "a", "seconds": 2 }); count]);
        assert_eq!(load(&rules(RULES_MAX)).unwrap().config.limits.history_rules.len(), RULES_MAX);
        assert_eq!(load(&rules(RULES_MAX + 1)).unwrap_err(), ["limits.history_rules"]);
    }

    #[test]
    fn the_kind_of_every_setting_is_known() {
        let like = like();
        let names = |names: &Object| names.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&like), ["match", "seconds", "events_max", "bytes_max", "replay"]);
        assert_eq!(names(&required::<HistoryRule>(&like)), ["match", "seconds"]);
    }
}
