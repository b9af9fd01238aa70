//! A node's status, which its page writes to Redis for the pages of the others.
//! `nodes` writes and reads it. Nothing from Redis is trusted: each field has a type and a bound.

use serde::Deserialize;
use serde::Serialize;

use crate::dashboard::Dashboard;
use crate::dashboard::now::Now;
use crate::dashboard::problem::ShownProblem;
use crate::dashboard::problem::shortened;
use crate::watch::now_ms;

/// Problems in a status: the newest.
const PROBLEMS_MAX: usize = 50;
/// Bytes of all problems of a status. With everything else it stays below what a reader takes.
const PROBLEMS_BYTES_MAX: usize = 128 * 1024;

/// The status of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) version: String,
    pub(super) started_ms: u64,
    /// When it was written, by the node's own clock.
    pub(super) at_ms: u64,
    pub(super) draining: bool,
    pub(super) connections: u64,
    pub(super) channels: u64,
    pub(super) events_per_second: f64,
    pub(super) deliveries_per_second: f64,
    /// The share of a core that the process used.
    pub(super) cpu: f64,
    pub(super) memory_bytes: u64,
    pub(super) now: Now,
    pub(super) problems: Vec<ShownProblem>,
}

impl Status {
    /// Reads the status of another node. `None` if it is not one of gema's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // A list would be taken for the fields in their order.
        let mut status: Self = text.starts_with('{').then(|| serde_json::from_str(text).ok())??;
        status.problems.truncate(PROBLEMS_MAX);
        Some(Self {
            name: shortened(status.name),
            address: shortened(status.address),
            version: shortened(status.version),
            now: status.now.bounded(),
            problems: status.problems.into_iter().map(ShownProblem::bounded).collect(),
            ..status
        })
    }

    /// Whether this node runs in the place of another one, of which nothing is heard since this one has started.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.name == other.name && self.address == other.address && self.started_ms > other.at_ms
    }
}

impl Dashboard {
    /// This node for the others.
    pub(super) fn status(&self) -> Status {
        let (sampled, id) = (self.sampled(), self.id());
        let problems = self.watch().problems.lock().since(0);
        let mut bytes = 0;
        let shown = problems.iter().take(PROBLEMS_MAX).map(|one| ShownProblem::of(one, &id)).take_while(|problem| {
            bytes += serde_json::to_string(problem).map_or(0, |text| text.len());
            bytes <= PROBLEMS_BYTES_MAX
        });
        let problems = shown.collect();
        Status {
            name: self.name(),
            address: self.address(),
            version: env!("GEMA_VERSION").to_owned(),
            started_ms: self.started_ms,
            at_ms: now_ms(),
            draining: self.node().is_draining(),
            connections: sampled.own.connections,
            channels: sampled.own.channels,
            events_per_second: sampled.own.events,
            deliveries_per_second: sampled.own.deliveries,
            cpu: sampled.cpu,
            memory_bytes: sampled.memory_bytes,
            now: sampled.own.clone(),
            problems,
        }
    }

    /// The address of the main port, as far as the node knows it.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.config.server.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hostile_status_is_cut_or_refused() {
        let problem = json!({ "id": "a", "sentence": "x".repeat(100_000), "where": { "app": "y".repeat(100_000) } });
        let many = json!({ "name": "z".repeat(100_000), "problems": vec![problem; 60], "connections": u64::MAX });
        let status = Status::parse(&many.to_string()).unwrap();
        assert_eq!((status.problems.len(), status.connections), (PROBLEMS_MAX, u64::MAX));
        assert!(serde_json::to_string(&status).unwrap().len() < 256 * 1024);
        for wrong in [
            json!([]),
            json!("status"),
            json!({ "problems": ["text"] }),
            json!({ "problems": [{ "count": -1 }] }),
            json!({ "connections": "many" }),
            json!({ "now": { "events": "many" } }),
        ] {
            assert_eq!(Status::parse(&wrong.to_string()), None, "{wrong}");
        }
        assert_eq!(Status::parse(r#"{"cpu":1e999}"#), None);
    }

    #[test]
    fn only_a_later_start_at_the_same_place_replaces_a_node() {
        let status = |name: &str, address: &str, started_ms, at_ms| Status {
            name: name.to_owned(),
            address: address.to_owned(),
            started_ms,
            at_ms,
            ..Status::default()
        };
        let old = status("web-2", "0.0.0.0:6001", 10, 50);
        assert!(status("web-2", "0.0.0.0:6001", 51, 60).replaces(&old));
        for other in [
            status("web-2", "0.0.0.0:6001", 40, 60),
            status("web-3", "0.0.0.0:6001", 51, 60),
            status("web-2", "0.0.0.0:6002", 51, 60),
        ] {
            assert!(!other.replaces(&old), "{other:?}");
        }
    }
}
