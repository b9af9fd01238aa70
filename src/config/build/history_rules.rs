//! History rules: a list of groups, of which `replay` may be a word or a group.
//! `build` calls it.

use config::{Value, ValueKind};
use serde_json::Value as Json;
use serde_json::json;

use crate::history::rule::HistoryRule;

use crate::config::build::flow_rules::{member, required};
use crate::config::build::{Build, accepts, coerce, shown};
use crate::config::fault::Subject;
use crate::config::schema::{Object, object};
use crate::config::tree::sorted;

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
            if !table.contains_key(name) {
                let missing = Subject { key: format!("{}.{name}", subject.key), origin: subject.origin.clone() };
                self.faults.push(missing.fault(format!("is missing; {meaning}")));
            }
        }
        for (name, value) in sorted(table) {
            let subject = member(subject, &name, &value);
            let built = match (&*name, like.get(&name)) {
                ("replay", _) => self.replay(&subject, &value),
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
    fn replay(&mut self, subject: &Subject, value: &Value) -> Option<Json> {
        const MUST: &str = "\"returning\" or { last = 10 }";
        self.note(&subject.key, value);
        let replay = match &value.kind {
            ValueKind::Nil => return None,
            ValueKind::String(text) if text == "returning" => Some(json!(text)),
            ValueKind::Table(table) if table.len() == 1 => table
                .get("last")
                .and_then(|last| coerce(last, &json!(1)).ok())
                .filter(|last| last.as_u64().is_some())
                .map(|last| json!({ "last": last })),
            _ => None,
        };
        if replay.is_none() {
            self.faults.push(subject.fault(format!("is {}; it must be {MUST}", shown(&value.kind))));
        }
        replay
    }
}

/// A rule that has everything.
fn like() -> Object {
    let all = json!({ "match": "*", "seconds": 120 });
    serde_json::from_value::<HistoryRule>(all).map(|rule| object(&rule)).unwrap_or_default()
}
