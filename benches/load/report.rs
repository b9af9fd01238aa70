//! The one line of JSON that a run prints.

use serde_json::{Map, Value};

/// Fields in the order in which they were put.
#[derive(Default)]
pub(crate) struct Report(Map<String, Value>);

impl Report {
    /// Adds a field as it is.
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a measured number; null when it is not finite, as after a division by nothing.
    pub(crate) fn measured(&mut self, name: &str, value: f64) -> &mut Self {
        self.put(name, rounded(value))
    }

    /// Reads a number back, to set it in relation to another run's.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// The field as it was put, null if it was not.
    pub(crate) fn value(&self, name: &str) -> Value {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Value::Object(self.0.clone()))
    }
}

/// Four decimals: more than any of these measurements is good for.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
