//! Times and limits of each WebSocket connection, and of all of them together.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::settings::section;
use crate::config::settings::values::{DAY, Seconds};

/// Bounds of the largest message: from the largest legitimate one to that of Soketi with its frame.
pub(in crate::config) const MESSAGE_BYTES: RangeInclusive<usize> = 32 * 1024..=128 * 1024 * 1024;
/// Bytes that the default leaves beside twice the largest event.
pub(in crate::config) const MESSAGE_SPARE: usize = 56 * 1024;

/// How many seconds' worth of subscriptions a connection may ask for at once: a page joins all its channels when it
/// opens, and again when it returns.
const BURST_SECONDS: u32 = 40;

section! {
    /// Times and limits of each WebSocket connection.
    pub struct Connections {
        /// Told to clients: after so long without a message they send a ping. In whole seconds.
        // pusher-js never gets ready with 0.
        pub activity_timeout_seconds: u32 = 30 => 1..=86_400,
        /// Silence after which the server sends a WebSocket ping.
        pub ping_seconds: Seconds = Seconds(120.0) => 1.0..=DAY,
        /// Time for the answer to that ping; then the connection is closed with 4201.
        pub pong_seconds: Seconds = Seconds(30.0) => 1.0..=DAY,
        /// Time for the peer's close frame; then the connection is dropped.
        pub close_seconds: Seconds = Seconds(5.0) => 1.0..=DAY,
        /// Largest message from a client, in bytes; more closes the connection with 1009.
        pub message_bytes_max: usize = 256 * 1024 => MESSAGE_BYTES,
        /// Bytes that may wait for one client for a while: above it time counts.
        pub outbox_bytes_max: usize = 1024 * 1024 => 4 * 1024..=1024 * 1024 * 1024,
        /// How long a client above [`Connections::outbox_bytes_max`] may take nothing; then it is closed with 4100.
        pub slow_seconds: Seconds = Seconds(10.0) => 1.0..=DAY,
        /// Bytes that may wait for one client at all; more closes its connection with 4100.
        pub backlog_bytes_max: usize = 16 * 1024 * 1024 => 64 * 1024..=1024 * 1024 * 1024,
        /// How long a client may take nothing while it is behind on a channel with a flow rule; then it is closed with 4100.
        pub behind_seconds: Seconds = Seconds(30.0) => 1.0..=DAY,
        /// Memory that may be held for all slow clients of the process together; beyond it the slowest are closed with
        /// 4100.
        pub waiting_bytes_max: usize = 256 * 1024 * 1024 => 1024 * 1024..=1 << 40,
        /// Channels that one connection may join.
        pub channels_max: usize = 10_000 => 1..=10_000_000,
        /// Channels that one connection may join in a second, or 40 seconds' worth of them at once; more are refused.
        /// 0 for no limit.
        pub subscriptions_per_second: u32 = 50,
        /// Channels of the whole process.
        pub channels_total_max: usize = 1_000_000 => 1..=100_000_000,
        /// WebSocket connections of the whole process; more are refused with 4100. 0 takes what the
        /// limit of open files allows, less a reserve for the HTTP API.
        pub connections_max: usize = 0,
        /// WebSocket connections of one client address, or of one /64 of IPv6; more are refused with 4100. 0 for no limit.
        pub per_address_max: usize = 0,
        /// WebSocket handshakes of one client address; more are answered with 429. 0 for no limit.
        pub handshakes_per_address_per_second: u32 = 0,
        /// Refuses connections without a `protocol` (4008) or with an odd `version` (4006).
        pub strict_protocol: bool = false,
        /// Offers compression (`permessage-deflate`) to clients that ask for it.
        pub compression: bool = false,
        /// Bytes of the smallest frame that is compressed.
        pub compression_bytes_min: usize = 512 => 1..=1024 * 1024 * 1024,
    }
}

impl Connections {
    /// Bytes that may wait for one client at all. An operator may set the smaller bound above the larger one.
    pub fn hard_bytes_max(&self) -> usize {
        self.backlog_bytes_max.max(self.outbox_bytes_max)
    }

    /// Bytes of the smallest frame that is compressed; `None` if none is.
    pub fn compressed_bytes_min(&self) -> Option<usize> {
        self.compression.then_some(self.compression_bytes_min)
    }

    /// For how long a connection may ask for subscriptions as fast as it can, measured by what it may ask for.
    pub fn subscriptions_burst(&self) -> Duration {
        Duration::from_secs(BURST_SECONDS.into())
    }
}
