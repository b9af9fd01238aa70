//! Connections to NATS, and the names of subjects and buckets there.

pub mod connection;
pub mod error;
pub mod subjects;
pub mod subscriber;
mod tls;
pub mod wire;
