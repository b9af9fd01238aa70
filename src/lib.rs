//! gema: a WebSocket server that speaks the Pusher protocol, in the place of Soketi.
//!
//! # Layers
//! The lower ones: `protocol`, `metrics`, `tasks` · `flow`, `history`, `watch` · `config`, `refusal` · `redis`, `aws` · `registry`, `limiter`,
//! `idempotency`, `store`, `tls` · `cluster`. The upper ones: `webhook` · `node` · `session`, `http`, `ingest` · `shard`, `dashboard` · `server`,
//! `telemetry` · `cli`. A module uses only those before it; ARCHITECTURE.md says why.
//!
//! # The way of a message
//! [`http`] checks a publisher's request, [`node`] builds one WebSocket frame from it, and the [`registry`] puts the
//! frame into the inbox of each [`shard`] with subscribers. At the end of its turn the shard writes all pending events
//! of a channel to each subscriber in one write. A client's message goes from its shard to its [`session`], which
//! answers. Messages for other nodes go from the [`registry`] to the [`cluster`], and come back the same way.
//!
//! # Invariants
//! * Announcements enter the inboxes under the lock of the change that they announce.
//! * A channel is joined with a [`protocol::grant::Grant`], which only a checked signature gives.
//! * A connection belongs to one shard and is touched on its thread alone.
//! * Every end of a connection ends its session in one place, `shard/closing.rs`.
//! * Every queue is bounded, and the overflow has a name and a counter.
//!
//! # Words
//! * *app*: an id for the HTTP API, one or more pairs of key and secret, and its own limits.
//! * *node*: this process. *peer*: another node. *shard*: a thread with its connections.
//! * *connection*: one WebSocket. *session*: its identity and subscriptions, once established.
//! * *member*: a distinct user on a presence channel. *user*: the identity that a connection has signed in with.
//! * *topic*: a channel or a user, as the nodes share it. *roster*: its users on all nodes. *command*: a request of the
//!   registry to the cluster.
//! * *view*: other channels whose events a subscription gets by a signed grant, under its own channel's name.
//! * *raw client*: a connection that does not speak the protocol and gets the channels that its app lists.
//! * *history*: the last events of a channel, for users whose connection was cut off. *mark*: a ping with a number, whose
//!   pong says how far a connection has got them.
//! * *inbox*: the messages for a shard. *outbox*: the frames for a connection.
//! * *webhook event*: something that a webhook may report. *endpoint*: a URL that it is sent to.
//! * *shard message*: one entry of an inbox. *turn*: one round of a shard's loop.
//! * *refusal*: anything that the server does not accept, with its *cause*.

#[cfg(feature = "aws")]
mod aws;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dashboard;
pub mod flow;
pub mod history;
pub mod http;
pub mod idempotency;
pub mod ingest;
pub mod limiter;
pub mod link;
pub mod metrics;
pub mod nats;
pub mod node;
pub mod protocol;
pub mod redis;
pub mod refusal;
pub mod registry;
pub mod server;
pub mod session;
pub mod shard;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod watch;
pub mod webhook;
