//! Helpers of all test binaries: gema as a process or inside the test, clients of it, and the services around it.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]

pub mod attempts;
pub mod barrier;
pub mod bus;
pub mod certificates;
pub mod client;
pub mod http;
pub mod nats_server;
pub mod nginx;
pub mod node;
pub mod observer;
pub mod pace;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod redis_kinds;
pub mod redis_server;
pub mod sequence;
pub mod server;
pub mod tunnel;
