//! A variable of the environment or of `.env`.
//! `sources` makes them, and `variables` reads them.

use crate::config::fault::Subject;
use crate::config::origin::Origin;

/// A variable and where it stands.
#[derive(Debug, Clone)]
pub(in crate::config) struct Variable {
    pub(in crate::config) name: String,
    pub(in crate::config) value: String,
    /// Its line in `.env`, unless the process was started with it.
    pub(in crate::config) line: Option<usize>,
}

impl Variable {
    /// For a sentence.
    pub(in crate::config) fn subject(&self) -> Subject {
        Subject { key: self.name.clone(), origin: self.line.map(|line| Origin::line(".env", line)) }
    }

    /// For the value that it sets.
    pub(in crate::config) fn origin(&self) -> Origin {
        let (file, name) = (".env".to_owned(), self.name.clone());
        self.line.map_or(Origin::Variable(name.clone()), |line| Origin::VariableInLine { file, line, name })
    }
}
