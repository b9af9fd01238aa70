//! gema: a WebSocket server that speaks the Pusher protocol, in the place of Soketi.
//!
//! # Layers
//! `protocol`, `metrics`, `tasks` · `config`, `refusal` · `registry`, `limiter`, `store`, `tls` · `cluster` · `webhook` · `node` ·
//! `session`, `http`, `ingest` · `shard` · `server`, `telemetry` · `cli`. A module uses only what stands before it;
//! ARCHITECTURE.md says why.
//!
//! # The way of a message
//! A publisher's request is checked in [`http`], becomes one WebSocket frame in [`node`], and is put by the
//! [`registry`] into the inbox of each [`shard`] that has subscribers. The shard hands what is pending on a
//! channel to every subscriber in one write at the end of its turn. A client's message goes from its shard's
//! socket loop to its [`session`], which decides what it means and answers. What other nodes have to hear goes
//! from the [`registry`] to the [`cluster`], and comes back the same way.
//!
//! # Invariants
//! * Announcements enter the inboxes under the lock of the change that they announce.
//! * A channel is joined with a [`protocol::grant::Grant`], which only a checked signature gives.
//! * A connection belongs to one shard and is touched on its thread alone.
//! * Whatever ends a connection ends its session in one place, `shard/closing.rs`.
//! * Every queue is bounded, and what happens beyond the bound has a name and a counter.
//!
//! # Words
//! * *app*: an id for the HTTP API, one or more pairs of key and secret, limits of its own.
//! * *node*: this process. *shard*: one of its threads with its connections.
//! * *connection*: one WebSocket. *session*: what it may and listens to, once established.
//! * *member*: a distinct user on a presence channel. *user*: who is signed in on a connection.
//! * *view*: other channels that a subscription sees by a signed grant, under its own channel's name.
//! * *inbox*: what waits for a shard. *outbox*: what waits for a connection.
//! * *webhook event*: something that a webhook may report. *endpoint*: a URL that it is sent to.
//! * *shard message*: one entry of an inbox. *turn*: one round of a shard's loop.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod http;
pub mod ingest;
pub mod limiter;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod refusal;
pub mod registry;
pub mod server;
pub mod session;
pub mod shard;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod webhook;
