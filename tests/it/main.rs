//! Tests from outside: real servers on free ports, real sockets, exact wire text. `G-n` in a comment names
//! the item of the conformance checklist that a test covers.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod wire;

mod addresses;
mod api_events;
mod api_queries;
mod api_signature;
mod arrivals;
mod authentication;
mod bad_input;
mod cache;
mod channels;
mod checklist;
mod client_events;
mod cluster;
mod cluster_numbers;
mod cluster_presence;
mod cluster_snapshots;
mod cluster_traffic;
mod cluster_webhooks;
mod compression;
mod connection;
mod dashboard;
mod dashboard_cluster;
mod dashboard_input;
mod drain;
mod flow;
mod flow_input;
mod flow_nodes;
mod fuzz;
mod handshake;
mod harness;
mod history;
mod idempotency;
mod ingest;
mod isolation;
mod libraries;
mod limits;
mod liveness;
mod memory;
mod metrics;
mod nginx;
mod policy;
mod presence;
mod proxy_protocol;
mod raw_clients;
mod refusals;
mod reload;
mod restart;
mod slow_link;
mod slow_readers;
mod smoke;
mod smuggling;
mod soketi_wire;
mod tls;
mod users;
mod views;
mod webhook_changes;
mod webhook_faults;
mod webhook_queue;
mod webhooks;
