//! The wire: names, frames, events, codes and signatures, of clients, publishers, proxies and other nodes.
//! Every other module uses it. It has no I/O and no clock.

pub mod broadcast;
pub mod channel;
pub mod code;
pub mod connect;
pub mod deflate;
pub mod envelope;
pub mod event;
pub mod extension;
pub mod frame;
pub mod grant;
pub mod idempotency;
pub mod identity;
pub mod json;
pub mod message;
pub mod numbered;
pub mod partial;
pub mod pattern;
pub mod policy;
pub mod proxy;
pub mod publish;
pub mod request;
pub mod signature;
pub mod socket_id;
pub mod view;
pub mod webhook;
