//! A problem as the page shows it, and as the nodes of a cluster tell each other.
//! `state` and `stream` show it; `status` carries it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::watch::problems::Problem;

/// Bytes of a name, such as a channel's.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes of a sentence, a remedy or a detail.
const TEXT_BYTES_MAX: usize = 2048;
/// Names that say where it happened. gema's own have fewer.
const PLACES_MAX: usize = 16;
/// The level of an error.
const ERROR: &str = "error";
/// The level of everything else.
const WARN: &str = "warn";

/// A problem of some node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ShownProblem {
    /// Two nodes that have the same problem give it two ids.
    pub(super) id: String,
    pub(super) code: String,
    pub(super) level: String,
    pub(super) count: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) resolved: bool,
    pub(super) sentence: String,
    pub(super) remedy: String,
    #[serde(rename = "where")]
    pub(super) place: BTreeMap<String, String>,
    pub(super) detail: String,
    pub(super) live: String,
}

impl ShownProblem {
    /// A problem of the node with this id.
    pub(super) fn of(problem: &Problem, node: &str) -> Self {
        let place = problem.place.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let mut place: BTreeMap<String, String> = place.collect();
        place.entry("node".to_owned()).or_insert_with(|| node.to_owned());
        Self {
            id: format!("{}|{node}", problem.id()),
            code: problem.code.clone(),
            level: if problem.is_error { ERROR } else { WARN }.to_owned(),
            count: problem.count,
            first_ms: problem.first_ms,
            last_ms: problem.last_ms,
            resolved: problem.is_resolved,
            sentence: problem.sentence.clone(),
            remedy: problem.remedy.clone(),
            place,
            detail: problem.detail.clone(),
            live: problem.live.clone(),
        }
        .bounded()
    }

    /// Cuts whatever is longer than a page can show.
    pub(super) fn bounded(mut self) -> Self {
        for name in [&mut self.code, &mut self.live] {
            cut(name, NAME_BYTES_MAX);
        }
        for text in [&mut self.id, &mut self.sentence, &mut self.remedy, &mut self.detail] {
            cut(text, TEXT_BYTES_MAX);
        }
        let place = std::mem::take(&mut self.place).into_iter().take(PLACES_MAX);
        self.place = place.map(|(name, value)| (shortened(name), shortened(value))).collect();
        if self.level != ERROR {
            WARN.clone_into(&mut self.level);
        }
        self
    }
}

/// A name that is no longer than a page can show.
pub(super) fn shortened(mut name: String) -> String {
    cut(&mut name, NAME_BYTES_MAX);
    name
}

/// Cuts a text to so many bytes, between two characters.
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_cut_between_characters() {
        let place = (0..100).map(|number| (format!("{number}"), "é".repeat(5000))).collect();
        let hostile = ShownProblem {
            sentence: format!("x{}", "é".repeat(5000)),
            level: "<b>".repeat(1000),
            place,
            ..ShownProblem::default()
        };
        let bounded = hostile.bounded();
        assert_eq!((bounded.sentence.len(), &*bounded.level), (TEXT_BYTES_MAX - 1, "warn"));
        assert_eq!(bounded.place.len(), PLACES_MAX);
        assert!(bounded.place.values().all(|value| value.len() <= NAME_BYTES_MAX));
    }
}
