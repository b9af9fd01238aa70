//! The level and the format of the log.

use serde::{Deserialize, Serialize};

/// The level and the format of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least serious level that is printed.
    pub level: LogLevel,
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
}

/// How serious an event must be to be printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Degraded, going on.
    Warn,
    /// Start, ready, stop.
    #[default]
    Info,
    /// Per connection.
    Debug,
    /// Per frame.
    Trace,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object per line.
    Json,
}
