//! An app from a row of a database, checked like one from a file.

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::apps;
use super::tree;
use super::{App, AppEntry, Limits};

impl App {
    /// The app of a row, columns by name; what the row lacks comes from `limits`. Otherwise every fault, as a
    /// sentence that begins with the names of table and column.
    ///
    /// ```
    /// use gema::config::{App, Limits};
    /// use serde_json::json;
    ///
    /// let row = json!({ "id": 7, "key": "k", "secret": "s", "enabled": 1, "max_connections": null });
    /// let app = App::from_row("apps", row.as_object().unwrap(), &Limits::default()).unwrap();
    /// assert_eq!((app.id.as_str(), app.limits.max_connections), ("7", -1));
    /// ```
    pub fn from_row(table: &str, row: &serde_json::Map<String, Json>, limits: &Limits) -> Result<Self, Vec<String>> {
        let known = tree::app_fields();
        let mut fields = Map::new();
        for (column, value) in row {
            let field = AppEntry::field(column);
            // A row is found by its one key.
            let Some(like) = known.get(&field).filter(|_| field != "keys") else { continue };
            // As with Soketi, empty is not set. MySQL has a null of JSON as text.
            let is_set = match value {
                Json::Null => false,
                Json::String(text) => !text.is_empty() && (text != "null" || like.is_string()),
                _ => true,
            };
            if is_set {
                fields.insert(field, plain(value));
            }
        }
        let entry = tree::check_app(table, fields, &known)?;
        let mut faults = Vec::new();
        apps::validate_alone(table, &entry, &mut faults);
        if faults.is_empty() { Ok(entry.resolve(limits)) } else { Err(faults) }
    }
}

fn plain(value: &Json) -> Value {
    let kind = match value {
        Json::Bool(truth) => ValueKind::Boolean(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => ValueKind::I64(number),
            (_, Some(number)) => ValueKind::U64(number),
            _ => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => ValueKind::String(text.clone()),
        other => ValueKind::String(other.to_string()),
    };
    Value::new(None, kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn app(columns: &Json) -> Result<App, Vec<String>> {
        let mut row = json!({ "id": "a", "key": "k", "secret": "hush" }).as_object().unwrap().clone();
        row.extend(columns.as_object().unwrap().clone());
        App::from_row("apps", &row, &Limits { max_event_batch_size: 77, ..Limits::default() })
    }

    #[test]
    fn soketis_columns_are_understood_whatever_their_types() {
        for (number, truth) in [(json!(3), json!(1)), (json!("3"), json!("true")), (json!(3.0), json!(true))] {
            let found = app(&json!({
                "max_connections": number,
                "enabled": json!(0),
                "enable_client_messages": truth,
                "enable_user_authentication": truth,
                "max_backend_events_per_sec": number,
                "max_client_events_per_sec": number,
                "max_read_req_per_sec": number,
                "max_event_payload_in_kb": "0.5",
                "created_at": "2024-01-01",
            }))
            .unwrap();
            let limits = &found.limits;
            assert!(!found.enabled && limits.enable_client_messages && limits.enable_user_authentication);
            assert_eq!((limits.max_connections, limits.max_backend_events_per_second), (3, 3));
            assert_eq!((limits.max_client_events_per_second, limits.max_read_requests_per_second), (3, 3));
            assert_eq!((limits.event_bytes_max(), limits.max_event_batch_size), (512, 77));
        }
    }

    #[test]
    fn null_and_empty_are_not_set() {
        let found = app(&json!({ "max_event_batch_size": null, "enabled": "", "allowed_origins": null })).unwrap();
        assert!(found.enabled);
        assert_eq!(found.limits.max_event_batch_size, 77);
    }

    #[test]
    fn a_row_that_makes_no_app_is_told_by_table_and_column() {
        for (columns, begins) in [
            (json!({ "secret": "" }), "apps.secret is missing"),
            (json!({ "key": null }), "apps.key is missing"),
            (json!({ "key": "a b" }), "apps.key is \"a b\""),
            (json!({ "max_connections": "many" }), "apps.max_connections is \"many\"; it must be a whole number"),
            (json!({ "max_channel_name_length": -1 }), "apps.max_channel_name_length is -1"),
            (json!({ "max_event_batch_size": 0 }), "apps.max_event_batch_size must be at least 1"),
            (json!({ "enabled": "perhaps" }), "apps.enabled is \"perhaps\"; it must be true or false"),
            (json!({ "secret": true }), "apps.secret must be text"),
        ] {
            let faults = app(&columns).unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].starts_with(begins) && !faults[0].contains("hush"), "{faults:?}");
        }
    }
}
