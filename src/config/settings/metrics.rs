//! The second port: metrics and memory use.

use std::net::IpAddr;

use crate::config::fault::FaultList;
use crate::config::settings::section;
use crate::config::settings::values;

section! {
    /// The second port: metrics and memory use.
    pub struct Metrics {
        /// Whether `/metrics` is served; `/usage` always is.
        pub enabled: bool = false,
        /// Address of the metrics port.
        #[serde(deserialize_with = "values::address")]
        pub host: IpAddr = IpAddr::from([0, 0, 0, 0]),
        /// The metrics port; 0 takes any free one.
        pub port: u16 = 9601,
        /// Put before the names that Soketi has, too.
        pub prefix: String = "soketi_".to_owned(),
    }
}

impl Metrics {
    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("metrics", faults);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        if self.prefix.starts_with(|first: char| first.is_ascii_digit()) || !self.prefix.bytes().all(allowed) {
            let prefix = &self.prefix;
            faults.add(
                "metrics.prefix",
                format!("is {prefix:?}; Prometheus wants only letters, digits, _ and :, and no digit first"),
            );
        }
    }
}
