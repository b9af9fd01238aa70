//! The data of the operator's page: problems, live rows, the history of figures, and the sentence at the top.
//! `telemetry` feeds it with events of the log; `dashboard` reads it. Everything is bounded.

pub mod filter;
pub mod glance;
pub mod history;
mod kinds;
pub mod live;
pub mod problems;
mod record;
pub mod source;
pub mod verbosity;

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;

use crate::watch::history::History;
use crate::watch::live::Live;
use crate::watch::problems::Problems;

/// The data of the page, which the log's events and the samples of the metrics fill.
#[derive(Debug, Default)]
pub struct Watch {
    /// The rows for whoever watches.
    pub live: Live,
    /// The problems of this node.
    pub problems: Mutex<Problems>,
    /// The figures of the last 15 minutes and 24 hours of this node.
    pub history: Mutex<History>,
    /// Like `history`, of all nodes together.
    pub history_of_all: Mutex<History>,
    /// Rows of events come with their data.
    pub payloads: bool,
}

impl Watch {
    /// The memory that the rings may take at most now, in bytes.
    pub fn bytes(&self) -> usize {
        self.live.bytes() + self.problems.lock().bytes() + 2 * History::BYTES
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
