//! The prefixes of Laravel's Redis channels, each with its app.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::config::App;
use crate::config::fault::FaultList;

/// Events of Laravel's `redis` broadcaster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// Beginnings of the names of Redis channels, and the app whose events they carry: `PREFIX=APP` with the app's id.
    /// Any of them switches it on.
    pub prefixes: Vec<String>,
}

impl Ingest {
    /// Whether any events are wanted.
    pub fn is_on(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Each prefix with the id of its app.
    ///
    /// ```
    /// let ingest = gema::config::Ingest { prefixes: vec!["laravel_database_=app-id".to_owned()] };
    /// assert_eq!(ingest.owners().collect::<Vec<_>>(), [("laravel_database_", "app-id")]);
    /// ```
    pub fn owners(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prefixes.iter().filter_map(|entry| entry.rsplit_once('='))
    }

    /// `apps` are those that there are, if that is known: a database may have others.
    pub(in crate::config) fn validate(&self, apps: Option<&[App]>, faults: &mut FaultList) {
        if let Some(odd) = self.prefixes.iter().find(|entry| !entry.contains('=')) {
            faults.add("ingest.prefixes", format!("has {odd:?}; each is PREFIX=APP, such as laravel_database_=app-id"));
        }
        let mut seen = HashSet::new();
        for (prefix, id) in self.owners() {
            faults.add_if(
                apps.is_some_and(|apps| apps.iter().all(|app| app.id != id)),
                "ingest.prefixes",
                format!("gives {prefix:?} to {id:?}, which is no app; behind the last = must be an app's id"),
            );
            faults.add_if(
                !seen.insert(prefix),
                "ingest.prefixes",
                format!("has {prefix:?} twice; an event belongs to one app"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::fault::Fault;

    use super::*;
    use crate::config::{AppEntry, Limits};

    fn faults(prefixes: &[&str]) -> Vec<Fault> {
        let mut faults = FaultList::default();
        let prefixes = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
        let apps = ["a", "b"].map(|id| AppEntry::new(id, id, "s").resolve(&Limits::default()));
        Ingest { prefixes }.validate(Some(&apps), &mut faults);
        faults.0
    }

    #[test]
    fn a_prefix_may_be_anything_and_belongs_to_one_app() {
        assert_eq!(faults(&[]), [""; 0]);
        assert_eq!(faults(&["=a", "x*[=]=b", "x=a", "é =a"]), [""; 0]);
        assert_eq!(
            faults(&["laravel_database_", "x=c", "y=a", "y=b"]),
            [
                "ingest.prefixes has \"laravel_database_\"; each is PREFIX=APP, such as laravel_database_=app-id",
                "ingest.prefixes gives \"x\" to \"c\", which is no app; behind the last = must be an app's id",
                "ingest.prefixes has \"y\" twice; an event belongs to one app",
            ]
        );
    }
}
