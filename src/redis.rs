//! Redis: connections, links that are opened again when they are lost, scripts, leases and the names of keys.
//! The cluster, webhooks, shared rate limits and Laravel's events use it; it knows none of them.

pub mod connection;
pub mod error;
pub mod lease;
pub mod link;
pub mod names;
pub mod script;
pub mod sentinel;
pub mod value;
