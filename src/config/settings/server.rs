//! Addresses, threads and the shutdown.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::fault::FaultList;
use crate::config::settings::section;
use crate::config::settings::values;
use crate::config::settings::values::{DAY, Seconds};

section! {
    /// Addresses, threads and the way of leaving.
    pub struct Server {
        /// Address of the main port: IPv4 or IPv6.
        #[serde(deserialize_with = "values::address")]
        pub host: IpAddr = IpAddr::from([0, 0, 0, 0]),
        /// Main port, for WebSockets and the HTTP API; 0 takes any free one.
        pub port: u16 = 6001,
        /// The node's name on the operator's page and in the log; empty for the name of the machine or of the pod.
        pub name: String = String::new(),
        /// Put before every path of both ports, such as `/ws`, where all of them move; empty for none.
        pub path_prefix: String = String::new(),
        /// Threads that serve connections; 0 takes one per core.
        // As many as the registry can address (`SHARDS_MAX`).
        pub workers: usize = 0 => 0..=64,
        /// Connections that the kernel may hold until they are accepted.
        // The kernel cuts it to net.core.somaxconn.
        pub backlog: u32 = 4096 => 1..=65_535,
        /// Networks whose `X-Forwarded-Proto` and `X-Forwarded-For` are believed.
        #[serde(deserialize_with = "values::networks")]
        pub trusted_proxies: Vec<IpNet> = Vec::new(),
        /// Whether trusted proxies put a PROXY protocol header before each connection to the main port.
        pub proxy_protocol: bool = false,
        /// Whether another server may listen on the same ports, as its successor does before this one leaves.
        pub share_port: bool = false,
        /// Time to leave in; where other nodes take over, connections are closed spread over the first half of it.
        pub drain_seconds: Seconds = Seconds(3.0) => 0.0..=DAY,
        /// How much of it connections are still taken, so that balancers hear from `/ready` first.
        pub drain_notice_seconds: Seconds = Seconds(0.0) => 0.0..=DAY,
        /// Bytes that all cache channels together remember here. Beyond it the oldest events are forgotten.
        // From some events of the largest kind to what a large machine can spare.
        pub cached_events_bytes_max: usize = 128 * 1024 * 1024 => 1024 * 1024..=1024 * 1024 * 1024 * 1024,
        /// `/accept-traffic` answers 503 above this share of the machine's (or container's) memory.
        pub accept_traffic_memory_percent: f64 = 85.0 => 1.0..=100.0,
    }
}

impl Server {
    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("server", faults);
        let prefix = &self.path_prefix;
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._~/".contains(letter);
        let around = prefix.is_empty() || (prefix.starts_with('/') && !prefix.ends_with('/'));
        faults.add_if(
            !around || prefix.contains("//") || !prefix.chars().all(allowed),
            "server.path_prefix",
            format!(
                "is {prefix:?}; it must start with a slash, not end with one and hold only letters, \
                 digits and - . _ ~ between, such as \"/ws\""
            ),
        );
        // As long as Kubernetes allows a pod's.
        faults.add_if(self.name.len() > 253, "server.name", "is too long; use at most 253 bytes");
        faults.add_if(
            self.proxy_protocol && self.trusted_proxies.is_empty(),
            "server.proxy_protocol",
            "is true, but server.trusted_proxies is empty, so nobody would be believed; name \
                 the proxies there",
        );
        let notice = self.drain_notice_seconds.0;
        faults.add_if(
            notice > 0.0 && notice >= self.drain_seconds.0,
            "server.drain_notice_seconds",
            format!(
                "is {notice}; it must be less than server.drain_seconds, so that time is \
                 left to close the connections"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn proxies_that_are_believed_must_be_named() {
        let mut config = Config::default();
        config.server.proxy_protocol = true;
        let faults = config.validate();
        assert_eq!(faults[0].subject.key, "server.proxy_protocol");
        assert!(faults[0].text.starts_with("is true, but server.trusted_proxies is empty"), "{faults:?}");
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(config.validate(), [""; 0]);
    }
}
