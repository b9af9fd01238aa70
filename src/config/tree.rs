//! Values as the sources give them: a tree of the crate `config`, in which each value has its origin.
//! `sources` make such trees, and `build` makes a `Config` of them.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

pub(super) type Group = Map<String, Value>;

/// In a fixed order, so that messages are.
pub(super) fn sorted(table: Group) -> BTreeMap<String, Value> {
    table.into_iter().collect()
}

/// A value of a section; none if it is not set.
pub(super) fn setting<'a>(root: &'a Group, section: &str, field: &str) -> Option<&'a Value> {
    match &root.get(section)?.kind {
        ValueKind::Table(table) => table.get(field).filter(|value| value.kind != ValueKind::Nil),
        _ => None,
    }
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

/// Gives the origin of a list or group to those of its members that have none, as those from JSON.
pub(super) fn inherit(value: Value, around: Option<&String>) -> Value {
    let own = value.origin().map(str::to_owned);
    let origin = own.as_ref().or(around);
    let kind = match value.kind {
        ValueKind::Table(table) => {
            ValueKind::Table(table.into_iter().map(|(name, value)| (name, inherit(value, origin))).collect())
        }
        ValueKind::Array(items) => ValueKind::Array(items.into_iter().map(|item| inherit(item, origin)).collect()),
        kind => kind,
    };
    Value::new(origin, kind)
}

/// Reads a list or group from a text that holds it as JSON, as variables do. Other values stay.
pub(super) fn unfold(value: &mut Value) {
    if let ValueKind::String(text) = &value.kind
        && let Ok(Value { kind, .. }) = serde_json::from_str(text)
    {
        value.kind = kind;
    }
}
