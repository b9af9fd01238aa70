//! Reads values that Redis answers. Anybody who can write to Redis may have written anything, so nothing is trusted.
//! `cluster` and `lease` call it.

use redis::Value;

/// A value as text, if it is text.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The values of a list or set that are text.
pub fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) | Value::Set(values) => values.iter().filter_map(text).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
