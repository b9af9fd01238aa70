//! gema: a WebSocket server that speaks the Pusher protocol.

pub mod cli;
pub mod config;
pub mod http;
pub mod limiter;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod registry;
pub mod server;
pub mod session;
pub mod shard;
pub mod tasks;
pub mod telemetry;
