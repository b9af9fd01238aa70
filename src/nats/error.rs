//! Errors of NATS, and remedies for the log.
//! The link calls it.

use std::fmt::Display;

use async_nats::jetstream::ErrorCode;

/// An error on a connection to NATS. Its text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NatsError(pub String);

impl NatsError {
    /// The error of something that this was for.
    pub fn of(purpose: &str, error: impl Display) -> Self {
        Self(format!("{purpose}: {error}"))
    }

    /// A remedy for an error whose text helps only those who know NATS well.
    pub fn advice(&self) -> Option<&'static str> {
        let text = self.0.to_lowercase();
        let has = |part: &str| text.contains(part);
        match () {
            () if has("jetstream not enabled") || has("jetstream resource does not exist") || has("no responders") => {
                Some("gema needs JetStream: start nats-server with -js, or with jetstream {} in its configuration")
            }
            () if has("authorization") || has("authentication") => {
                Some("check nats.user and nats.password, or nats.token")
            }
            () if has("permissions violation") => Some("docs/several-nodes.md lists the subjects that the user needs"),
            () if has("unknownissuer") => Some(
                "SSL_CERT_FILE may name a file with the authority's certificate; nats.tls_verify = false takes any, which \
                 is safe on a network of your own only",
            ),
            () if has("insufficient") || has("exceeded") => {
                Some("JetStream has no memory left: raise max_memory_store in the configuration of nats-server")
            }
            () if has("replicas") => Some("a single nats-server has one copy: set nats.replicas = 1"),
            () => None,
        }
    }
}

/// Whether JetStream has no place left for what it is to store.
pub(super) fn is_full(code: ErrorCode) -> bool {
    let full = [
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
        ErrorCode::STREAM_LIMITS,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
        ErrorCode::STREAM_STORE_FAILED,
    ];
    full.contains(&code)
}
