//! The webhooks of an app. In a file a mistake is a fault like any other; of a row it costs the webhook, not the app.
//! `build` calls it.

use config::{Value, ValueKind};
use serde_json::Value as Json;
use serde_json::json;

use crate::config::build::Build;
use crate::config::fault::{Fault, FaultList, Subject};
use crate::config::origin::Origin;
use crate::config::settings::webhooks;
use crate::config::settings::webhooks::LeftOut;
use crate::config::settings::webhooks::Webhook;
use crate::config::settings::webhooks::Written;
use crate::config::suggest::snake_case;
use crate::config::tree;

impl Build {
    /// A list, or one as JSON, as variables have it. As with Soketi, whatever is empty is none.
    pub(super) fn webhooks(&mut self, subject: &Subject, mut value: Value) -> Json {
        // Some write the text of a list where the list itself belongs.
        tree::unfold(&mut value);
        tree::unfold(&mut value);
        self.note_all(&subject.key, &value, None);
        let list_origin = Origin::of_itself(&value);
        let items = match value.kind {
            ValueKind::Array(items) => items,
            ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
            _ => match webhooks::items(tree::json(&value)) {
                Some(items) => items.into_iter().map(|item| Value::new(None, json_value(item))).collect(),
                None => {
                    let must = subject.fault("must be a list of webhooks, each with url and event_types");
                    self.unusable(&Json::Null, must);
                    return json!([]);
                }
            },
        };
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate().filter(|(_, item)| item.kind != ValueKind::Nil) {
            let key = format!("{}.{index}", subject.key);
            let origin = if item.origin().is_some() { Origin::of(&item) } else { subject.origin.clone() };
            let subject = Subject { key, origin };
            if let Some(webhook) = self.webhook(&subject, &tree::json(&item)) {
                self.note_all(&subject.key, &item, list_origin.as_ref());
                good.push(webhook);
            }
        }
        Json::Array(good)
    }

    fn webhook(&mut self, subject: &Subject, item: &Json) -> Option<Json> {
        let Written { webhook, typos, foreign } = match webhooks::read(subject, item.clone()) {
            Ok(written) => written,
            Err(fault) => {
                self.unusable(item, fault);
                return None;
            }
        };
        self.warnings.extend(foreign);
        if self.left_out.is_none() {
            self.faults.extend(typos);
            return Some(webhook);
        }
        self.warnings.extend(typos);
        let mut faults = FaultList::default();
        match serde_json::from_value::<Webhook>(webhook.clone()) {
            Ok(webhook) => webhook.validate(&subject.key, &mut faults),
            Err(error) => faults.add(&*subject.key, format!("cannot be used: {error}")),
        }
        if faults.0.is_empty() {
            return Some(webhook);
        }
        let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        self.unusable(item, faults.join("; ").into());
        None
    }

    /// A webhook, or all of them, cannot be used.
    fn unusable(&mut self, item: &Json, why: Fault) {
        match &mut self.left_out {
            Some(left_out) => left_out.push(LeftOut::new(item, why.to_string())),
            None => self.faults.push(why),
        }
    }

    /// Remembers where a value and each value in a group was set; `around` is where the group around it was.
    fn note_all(&mut self, key: &str, value: &Value, around: Option<&Origin>) {
        let origin = Origin::of_itself(value);
        let origin = origin.as_ref().or(around);
        self.origins.extend(origin.map(|origin| (key.to_owned(), origin.clone())));
        if let ValueKind::Table(fields) = &value.kind {
            // Names of headers are nobody's spelling but theirs.
            let ours = |name| if key.ends_with(".headers") { String::from(name) } else { snake_case(name) };
            for (name, value) in fields {
                self.note_all(&format!("{key}.{}", ours(name)), value, origin);
            }
        }
    }
}

/// A value of JSON as one of a file.
fn json_value(value: Json) -> ValueKind {
    serde_json::from_value::<Value>(value).map_or(ValueKind::Nil, |value| value.kind)
}
