//! Several nodes as one server, and the rate limits that they share.

use serde::{Deserialize, Serialize};

use crate::config::fault::FaultList;
use crate::config::settings::section;
use crate::config::settings::values::Seconds;

section! {
    /// Several nodes as one server.
    pub struct Cluster {
        /// How the nodes hear of each other.
        pub driver: ClusterDriver = ClusterDriver::Local,
        /// Nodes with the same name on the same Redis or NATS are one server; others never hear them.
        pub name: String = "gema".to_owned(),
        /// Events that may wait for Redis or NATS, in bytes. `outage` says what happens beyond it.
        // From an ordinary batch of events to what a small machine can spare.
        pub buffer_bytes_max: usize = 32 * 1024 * 1024 => 1024 * 1024..=1024 * 1024 * 1024,
        /// How long events may wait for Redis or NATS. `outage` says what happens beyond it.
        // Events that are older than ten minutes are no news.
        pub buffer_seconds: Seconds = Seconds(5.0) => 0.1..=600.0,
        /// The fate of events when more would wait than may.
        pub outage: Outage = Outage::Buffer,
        /// Whether `/ready` answers 503 while Redis or NATS is away.
        pub strict: bool = false,
    }
}

/// How nodes hear of each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterDriver {
    /// There is this node only.
    #[default]
    Local,
    /// By way of Redis, which `[redis]` describes.
    Redis,
    /// By way of NATS, which `[nats]` describes.
    Nats,
}

impl ClusterDriver {
    /// The program in which the nodes meet, for people; none on a node alone.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Local => None,
            Self::Redis => Some("Redis"),
            Self::Nats => Some("NATS"),
        }
    }
}

/// The fate of events when more would wait than may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outage {
    /// Publishers are told to come back later.
    #[default]
    Buffer,
    /// This node delivers to its own connections. The other nodes miss the oldest events.
    Local,
}

/// Limits per second of several nodes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limiter {
    /// For whom a limit holds.
    pub driver: LimiterDriver,
}

/// For whom a limit per second holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimiterDriver {
    /// For each node by itself.
    #[default]
    Local,
    /// For all nodes together that have the same `cluster.name` in the Redis of `[redis]`.
    Redis,
}

impl Cluster {
    /// A line about events without Redis or NATS, if the operator has chosen their fate.
    pub fn explain_outage(&self) -> Option<String> {
        let program = self.driver.program().filter(|_| self.outage == Outage::Local)?;
        let ready = if self.strict { "503, because cluster.strict is true" } else { "200" };
        Some(format!(
            "without {program}, publishers are never refused: each node delivers to its own connections; for the other \
             nodes it keeps the events of the last {} s, at most {} bytes, and drops older ones; /ready answers {ready}",
            self.buffer_seconds.0, self.buffer_bytes_max
        ))
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("cluster", faults);
        let name = &self.name;
        // Braces choose the slot in a Redis Cluster; the others are for patterns.
        let odd = |letter: char| letter.is_whitespace() || letter.is_control() || "{}*?[]\\".contains(letter);
        faults.add_if(
            name.is_empty() || name.chars().count() > 64 || name.contains(odd),
            "cluster.name",
            format!("is {name:?}; it must have 1 to 64 characters, without white space and {{ }} * ? [ ] \\"),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::fault::sentences;

    use super::*;

    fn faults(change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config.cluster);
        sentences(&config.validate())
    }

    #[test]
    fn the_defaults_have_no_faults() {
        assert_eq!(faults(|_| ()), [""; 0]);
    }

    #[test]
    fn a_cluster_has_a_plain_name() {
        let long = "x".repeat(65);
        for name in ["", "{shop}", "a b", "a*", "a?", "a[b", "a\\", "a\u{7}", &long] {
            let found = faults(|cluster| cluster.name = name.to_owned());
            assert_eq!(found.len(), 1, "{name:?}");
            assert!(found[0].starts_with("cluster.name is "), "{found:?}");
        }
        for name in ["shop", "shop:eu-1#x", "toko-\u{e9}", &long[1..]] {
            assert_eq!(faults(|cluster| cluster.name = name.to_owned()), [""; 0]);
        }
    }

    #[test]
    fn an_outage_is_explained_where_it_is_no_default() {
        let mut cluster = Cluster { outage: Outage::Local, ..Cluster::default() };
        assert_eq!(cluster.explain_outage(), None);
        cluster.driver = ClusterDriver::Nats;
        assert!(cluster.explain_outage().unwrap().starts_with("without NATS, "));
        cluster.driver = ClusterDriver::Redis;
        let explained = cluster.explain_outage().unwrap();
        assert!(explained.contains("the last 5 s, at most 33554432 bytes") && explained.ends_with("answers 200"));
        cluster.strict = true;
        assert!(cluster.explain_outage().unwrap().ends_with("answers 503, because cluster.strict is true"));
        cluster.outage = Outage::Buffer;
        assert_eq!(cluster.explain_outage(), None);
    }

    #[test]
    fn what_waits_for_redis_is_bounded() {
        let found = faults(|cluster| {
            cluster.buffer_bytes_max = 1;
            cluster.buffer_seconds = Seconds(0.0);
        });
        assert_eq!(
            found,
            [
                "cluster.buffer_bytes_max is 1; it must be between 1048576 and 1073741824",
                "cluster.buffer_seconds is 0; it must be between 0.1 and 600 seconds",
            ]
        );
        assert_eq!(faults(|cluster| cluster.buffer_seconds = Seconds(f64::NAN)).len(), 1);
    }
}
