//! gema: a WebSocket server that speaks the Pusher protocol.

pub mod config;
