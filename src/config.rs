//! What the operator may say, parsed and checked once. Parts receive their own section, never the whole.

mod apps;
mod values;

pub use apps::{App, AppEntry, KeyPair, Limits};
pub use values::{Seconds, Secret};

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// Everything an operator can say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses, threads and the way of leaving.
    pub server: Server,
    /// What holds for each WebSocket connection.
    pub connections: Connections,
    /// The signed HTTP API.
    pub http: Http,
    /// The second port: metrics and memory use.
    pub metrics: Metrics,
    /// What is logged, and how.
    pub log: Log,
    /// What holds for every app that does not say otherwise.
    pub limits: Limits,
    /// The apps; without any, Soketi's default app.
    pub apps: Vec<AppEntry>,
}

/// Addresses, threads and the way of leaving.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address of the main port: IPv4 or IPv6.
    pub host: IpAddr,
    /// Main port, for WebSockets and the HTTP API; 0 takes any free one.
    pub port: u16,
    /// Put before every path of both ports, such as `/ws`; empty for none.
    pub path_prefix: String,
    /// Threads that serve connections; 0 takes one per core.
    pub workers: usize,
    /// Connections that the kernel may hold until they are accepted.
    pub backlog: u32,
    /// Networks whose `X-Forwarded-Proto` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Time to leave in; connections are closed spread over the first half of it.
    pub drain_seconds: Seconds,
    /// `/accept-traffic` answers 503 above this share of the machine's (or container's) memory.
    pub accept_traffic_memory_percent: f64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 6001,
            path_prefix: String::new(),
            workers: 0,
            backlog: 4096,
            trusted_proxies: Vec::new(),
            drain_seconds: Seconds(3.0),
            accept_traffic_memory_percent: 85.0,
        }
    }
}

/// What holds for each WebSocket connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Told to clients: after so long without a message they send a ping. In whole seconds.
    pub activity_timeout_seconds: u32,
    /// Silence after which the server sends a WebSocket ping.
    pub ping_seconds: Seconds,
    /// Time for the answer to that ping; then the connection is closed with 4201.
    pub pong_seconds: Seconds,
    /// Time for the peer's close frame; then the connection is dropped.
    pub close_seconds: Seconds,
    /// Largest message from a client, in bytes; more closes the connection with 1009.
    pub message_bytes_max: usize,
    /// Bytes that may wait for one slow client; more closes its connection with 4100.
    pub outbox_bytes_max: usize,
    /// Channels that one connection may join.
    pub channels_max: usize,
    /// WebSocket connections of the whole process; more are refused with 4100. 0 takes what the
    /// limit of open files allows, less a reserve for the HTTP API.
    pub connections_max: usize,
    /// Refuses connections without a `protocol` (4008) or with an odd `version` (4006).
    pub strict_protocol: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            activity_timeout_seconds: 30,
            ping_seconds: Seconds(120.0),
            pong_seconds: Seconds(30.0),
            close_seconds: Seconds(5.0),
            message_bytes_max: 256 * 1024,
            outbox_bytes_max: 1024 * 1024,
            channels_max: 10_000,
            connections_max: 0,
            strict_protocol: false,
        }
    }
}

/// The signed HTTP API.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Largest request body, in bytes.
    pub request_bytes_max: usize,
    /// Time for a request's head, and again for its body.
    pub request_seconds: Seconds,
    /// How far `auth_timestamp` may be from this machine's clock, in seconds.
    pub timestamp_tolerance_seconds: u64,
    /// Origins that browsers may call the API from; `*` for all.
    pub cors_origins: Vec<String>,
    /// Methods that browsers may use.
    pub cors_methods: Vec<String>,
    /// Request headers that browsers may send.
    pub cors_headers: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            request_bytes_max: 10 * 1024 * 1024,
            request_seconds: Seconds(30.0),
            timestamp_tolerance_seconds: 600,
            cors_origins: list(&["*"]),
            cors_methods: list(&["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
            cors_headers: list(&[
                "Origin",
                "Content-Type",
                "X-Auth-Token",
                "X-Requested-With",
                "Accept",
                "Authorization",
                "X-CSRF-TOKEN",
                "XSRF-TOKEN",
                "X-Socket-Id",
            ]),
        }
    }
}

/// The second port: metrics and memory use.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether `/metrics` is served; `/usage` always is.
    pub enabled: bool,
    /// Address of the metrics port.
    pub host: IpAddr,
    /// The metrics port; 0 takes any free one.
    pub port: u16,
    /// Put before the names that Soketi has, too.
    pub prefix: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: false, host: IpAddr::from([0, 0, 0, 0]), port: 9601, prefix: "soketi_".to_owned() }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least serious level that is printed.
    pub level: LogLevel,
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
}

/// How serious an event must be to be printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Degraded, going on.
    Warn,
    /// Start, ready, stop.
    #[default]
    Info,
    /// Per connection.
    Debug,
    /// Per frame.
    Trace,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object per line.
    Json,
}

impl Config {
    /// The apps with every limit resolved; Soketi's default app where none is configured.
    pub fn apps(&self) -> Vec<App> {
        if self.apps.is_empty() {
            return vec![AppEntry::soketi_default().resolve(&self.limits)];
        }
        self.apps.iter().map(|entry| entry.resolve(&self.limits)).collect()
    }

    /// Every fault of the values, each a sentence that names its key and the remedy.
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.server.validate(&mut faults);
        self.connections.validate(&mut faults);
        self.http.validate(&mut faults);
        self.limits.validate(&mut faults);
        apps::validate(&self.apps, &mut faults);
        faults
    }
}

impl Server {
    fn validate(&self, faults: &mut Vec<String>) {
        let prefix = &self.path_prefix;
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
            faults.push(format!(
                "server.path_prefix is {prefix:?}; it must start with a slash and not end with one, such as \"/ws\""
            ));
        }
        if self.backlog == 0 {
            faults.push("server.backlog must be at least 1".to_owned());
        }
        if !(1.0..=100.0).contains(&self.accept_traffic_memory_percent) {
            faults.push("server.accept_traffic_memory_percent must be between 1 and 100".to_owned());
        }
        self.drain_seconds.validate("server.drain_seconds", 0.0, faults);
    }
}

impl Connections {
    fn validate(&self, faults: &mut Vec<String>) {
        if self.activity_timeout_seconds == 0 {
            faults.push(
                "connections.activity_timeout_seconds must be at least 1: pusher-js never gets ready with 0".to_owned(),
            );
        }
        if self.message_bytes_max < 32 * 1024 {
            faults.push(
                "connections.message_bytes_max must be at least 32768, the largest legitimate message".to_owned(),
            );
        }
        if self.outbox_bytes_max < 4 * 1024 {
            faults.push("connections.outbox_bytes_max must be at least 4096".to_owned());
        }
        if self.channels_max == 0 {
            faults.push("connections.channels_max must be at least 1".to_owned());
        }
        self.ping_seconds.validate("connections.ping_seconds", 1.0, faults);
        self.pong_seconds.validate("connections.pong_seconds", 1.0, faults);
        self.close_seconds.validate("connections.close_seconds", 1.0, faults);
    }
}

impl Http {
    fn validate(&self, faults: &mut Vec<String>) {
        if self.request_bytes_max < 1024 {
            faults.push("http.request_bytes_max must be at least 1024".to_owned());
        }
        if self.timestamp_tolerance_seconds == 0 {
            faults.push("http.timestamp_tolerance_seconds must be at least 1".to_owned());
        }
        self.request_seconds.validate("http.request_seconds", 1.0, faults);
    }
}
