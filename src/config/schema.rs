//! The names of all settings with their kinds, derived from the serialised defaults.
//! `sources` and `build` compare names and values with it.

use serde::Serialize;
use serde_json::Value as Json;

use crate::config::AppEntry;
use crate::config::Config;
use crate::config::Limits;

pub(super) type Object = serde_json::Map<String, Json>;

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
