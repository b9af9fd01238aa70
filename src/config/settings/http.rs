//! The signed HTTP API.

use crate::config::fault::FaultList;
use crate::config::settings::is_token;
use crate::config::settings::section;
use crate::config::settings::values::{DAY, Seconds};

section! {
    /// The signed HTTP API.
    pub struct Http {
        /// Largest request body, in bytes.
        pub request_bytes_max: usize = 10 * 1024 * 1024 => 1..=1024 * 1024 * 1024,
        /// Time for a request's head, and again for its body.
        pub request_seconds: Seconds = Seconds(30.0) => 1.0..=DAY,
        /// How far `auth_timestamp` may be from this machine's clock, in seconds.
        // A century is as good as no limit.
        pub timestamp_tolerance_seconds: u64 = 600 => 1..=3_153_600_000,
        /// Origins that browsers may call the API from; `*` for all.
        pub cors_origins: Vec<String> = list(["*"]),
        /// Methods that browsers may use.
        pub cors_methods: Vec<String> = list(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
        /// Request headers that browsers may send.
        pub cors_headers: Vec<String> = list([
            "Origin", "Content-Type", "X-Auth-Token", "X-Requested-With", "Accept", "Authorization", "X-CSRF-TOKEN",
            "XSRF-TOKEN", "X-Socket-Id",
        ]),
    }
}

fn list<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

impl Http {
    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("http", faults);
        faults.add_if(
            self.cors_origins.len() > 1 && self.cors_origins.iter().any(|origin| origin == "*"),
            "http.cors_origins",
            "has * beside others; * allows all, so leave it or them out",
        );
        let is_origin = |origin: &String| {
            let host = origin.split_once("://").map(|(_, host)| host);
            let clean =
                |host: &str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
            origin == "*" || host.is_some_and(clean)
        };
        if let Some(odd) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            faults.add(
                "http.cors_origins",
                format!("has {odd:?}; an origin is as in https://example.com, without a path"),
            );
        }
        for (key, names) in [("http.cors_methods", &self.cors_methods), ("http.cors_headers", &self.cors_headers)] {
            if let Some(odd) = names.iter().find(|name| !is_token(name)) {
                faults.add(key, format!("has {odd:?}; a name has only letters, digits and - between"));
            }
        }
    }
}
