//! Where a value was set.
//! Each source gives its values one; faults, warnings and `gema config` show it.

use std::fmt;

use config::{Value, ValueKind};
use serde::{Deserialize, Serialize};

/// Where a value was set.
///
/// ```
/// use gema::config::Origin;
///
/// let (file, line, name) = (".env".to_owned(), 3, "SOKETI_PORT".to_owned());
/// assert_eq!(Origin::Variable(name.clone()).to_string(), "SOKETI_PORT");
/// assert_eq!(Origin::Line { file: file.clone(), line }.to_string(), ".env:3");
/// assert_eq!(Origin::VariableInLine { file, line, name }.to_string(), ".env:3, SOKETI_PORT");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A line of a file.
    Line {
        /// The file as the operator named it.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// An option of the command line.
    Option(String),
    /// A variable that a line of `.env` sets, or that a line of `soketi.config.js` reads.
    VariableInLine {
        /// The file as the operator named it.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The variable.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Variable(name) | Self::Option(name) => f.write_str(name),
            Self::VariableInLine { file, line, name } => write!(f, "{file}:{line}, {name}"),
        }
    }
}

impl Origin {
    /// The variable that set the value, in whichever way.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) | Self::VariableInLine { name, .. } => Some(name),
            Self::Line { .. } | Self::Option(_) => None,
        }
    }

    pub(super) fn line(file: &str, line: usize) -> Self {
        Self::Line { file: file.to_owned(), line }
    }

    /// A value that was set here. The crate `config` stores an origin as text: JSON, which only [`Origin::of`] reads.
    pub(super) fn value(&self, kind: impl Into<ValueKind>) -> Value {
        Value::new(serde_json::to_string(self).ok().as_ref(), kind)
    }

    /// Where a value was set. A merged group has the origin of its first member.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let of_member = || match &value.kind {
            ValueKind::Table(table) => table.values().find_map(Self::of),
            ValueKind::Array(items) => items.iter().find_map(Self::of),
            _ => None,
        };
        Self::of_itself(value).or_else(of_member)
    }

    /// Where a value itself was set, whatever its members say.
    pub(super) fn of_itself(value: &Value) -> Option<Self> {
        serde_json::from_str(value.origin()?).ok()
    }
}
