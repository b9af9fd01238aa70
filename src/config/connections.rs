//! What holds for each WebSocket connection, and for all of them together.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::config::MESSAGE_BYTES;
use crate::config::Seconds;
use crate::config::fault::Fault;
use crate::config::within;

/// How many seconds' worth of subscriptions a connection may ask for at once: a page joins all its channels when it
/// opens, and again when it returns.
const BURST_SECONDS: u32 = 40;

/// What holds for each WebSocket connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Bytes that may wait for one client for a while: above it time counts.
    pub outbox_bytes_max: usize,
    /// How long a client above [`Connections::outbox_bytes_max`] may take nothing; then it is closed with 4100.
    pub slow_seconds: Seconds,
    /// Bytes that may wait for one client at all; more closes its connection with 4100.
    pub backlog_bytes_max: usize,
    /// Memory that may be held for all slow clients of the process together; beyond it the slowest are closed with
    /// 4100.
    pub waiting_bytes_max: usize,
    /// Channels that one connection may join.
    pub channels_max: usize,
    /// Channels that one connection may join in a second, or 40 seconds' worth of them at once; more are refused.
    /// 0 for no limit.
    pub subscriptions_per_second: u32,
    /// Channels of the whole process.
    pub channels_total_max: usize,
    /// WebSocket connections of the whole process; more are refused with 4100. 0 takes what the
    /// limit of open files allows, less a reserve for the HTTP API.
    pub connections_max: usize,
    /// WebSocket connections of one client address, or of one /64 of IPv6; more are refused with 4100. 0 for no limit.
    pub per_address_max: usize,
    /// WebSocket handshakes of one client address; more are answered with 429. 0 for no limit.
    pub handshakes_per_address_per_second: u32,
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
            slow_seconds: Seconds(10.0),
            backlog_bytes_max: 16 * 1024 * 1024,
            waiting_bytes_max: 256 * 1024 * 1024,
            channels_max: 10_000,
            subscriptions_per_second: 50,
            channels_total_max: 1_000_000,
            connections_max: 0,
            per_address_max: 0,
            handshakes_per_address_per_second: 0,
            strict_protocol: false,
        }
    }
}

impl Connections {
    /// Bytes that may wait for one client at all. Who sets the smaller bound above the larger one means it.
    pub fn hard_bytes_max(&self) -> usize {
        self.backlog_bytes_max.max(self.outbox_bytes_max)
    }

    /// For how long a connection may ask for subscriptions as fast as it can, measured by what it may ask for.
    pub fn subscriptions_burst(&self) -> Duration {
        Duration::from_secs(BURST_SECONDS.into())
    }

    pub(super) fn validate(&self, faults: &mut Vec<Fault>) {
        // pusher-js never gets ready with 0.
        within("connections.activity_timeout_seconds", self.activity_timeout_seconds, 1..=86_400, faults);
        within("connections.message_bytes_max", self.message_bytes_max, MESSAGE_BYTES, faults);
        within("connections.outbox_bytes_max", self.outbox_bytes_max, 4 * 1024..=1024 * 1024 * 1024, faults);
        within("connections.backlog_bytes_max", self.backlog_bytes_max, 64 * 1024..=1024 * 1024 * 1024, faults);
        within("connections.waiting_bytes_max", self.waiting_bytes_max, 1024 * 1024..=1 << 40, faults);
        within("connections.channels_max", self.channels_max, 1..=10_000_000, faults);
        within("connections.channels_total_max", self.channels_total_max, 1..=100_000_000, faults);
        self.slow_seconds.validate("connections.slow_seconds", 1.0, faults);
        self.ping_seconds.validate("connections.ping_seconds", 1.0, faults);
        self.pong_seconds.validate("connections.pong_seconds", 1.0, faults);
        self.close_seconds.validate("connections.close_seconds", 1.0, faults);
    }
}
