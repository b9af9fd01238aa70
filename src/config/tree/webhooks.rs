//! The webhooks of an app. In a file a mistake is a fault like any other; of a row it costs the webhook, not the app.

use config::{Value, ValueKind};
use serde_json::Value as Json;
use serde_json::json;

use super::super::translate;
use super::super::webhooks;
use super::super::webhooks::LeftOut;
use super::super::webhooks::Webhook;
use super::super::webhooks::Written;
use super::Check;
use super::origin;

impl Check {
    /// A list, or one as JSON, as variables have it. As with Soketi, whatever is empty is none.
    pub(super) fn webhooks(&mut self, place: &str, mut value: Value) -> Json {
        let from = origin(&value);
        // Some write the text of a list where the list itself belongs.
        for _ in 0..2 {
            if let ValueKind::String(text) = &value.kind
                && let Ok(Value { kind, .. }) = serde_json::from_str(text)
            {
                value.kind = kind;
            }
        }
        self.note(place, &value, None);
        let list_origin = value.origin().map(str::to_owned);
        let items = match value.kind {
            ValueKind::Array(items) => items,
            ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
            _ => match webhooks::items(translate::json(&value)) {
                Some(items) => items.into_iter().map(|item| Value::new(None, json_value(item))).collect(),
                None => {
                    let must = format!("{place}{from} must be a list of webhooks, each with url and event_types");
                    self.unusable(place, &Json::Null, must);
                    return json!([]);
                }
            },
        };
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate().filter(|(_, item)| item.kind != ValueKind::Nil) {
            let place = format!("{place}.{index}");
            let from = if item.origin().is_some() { origin(&item) } else { from.clone() };
            if let Some(webhook) = self.webhook(&place, &from, &translate::json(&item)) {
                self.note(&place, &item, list_origin.as_deref());
                good.push(webhook);
            }
        }
        Json::Array(good)
    }

    fn webhook(&mut self, place: &str, from: &str, item: &Json) -> Option<Json> {
        let Written { webhook, typos, foreign } = match webhooks::read(place, from, item.clone()) {
            Ok(written) => written,
            Err(fault) => {
                self.unusable(place, item, fault);
                return None;
            }
        };
        self.warnings.extend(foreign);
        if self.left_out.is_none() {
            typos.into_iter().for_each(|typo| self.fault(place, typo));
            return Some(webhook);
        }
        self.warnings.extend(typos);
        let mut faults = Vec::new();
        match serde_json::from_value::<Webhook>(webhook.clone()) {
            Ok(webhook) => webhook.validate(place, &mut faults),
            Err(error) => faults.push(format!("{place} cannot be used: {error}")),
        }
        if faults.is_empty() {
            return Some(webhook);
        }
        self.unusable(place, item, faults.join("; "));
        None
    }

    /// A webhook, or all of them, cannot be used.
    fn unusable(&mut self, place: &str, item: &Json, why: String) {
        match &mut self.left_out {
            Some(left_out) => left_out.push(LeftOut::new(item, why)),
            None => self.fault(place, why),
        }
    }
}

/// A value of JSON as one of a file.
fn json_value(value: Json) -> ValueKind {
    serde_json::from_value::<Value>(value).map_or(ValueKind::Nil, |value| value.kind)
}
