//! Errors of NATS by kind, and remedies for the log.
//! The link and `gema doctor` call it.

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

    /// The kind of the error, by its text; `None` if it is another one.
    pub fn kind(&self) -> Option<NatsErrorKind> {
        let text = self.0.to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        Some(match () {
            () if has(&["jetstream not enabled", "jetstream resource does not exist", "no responders"]) => {
                NatsErrorKind::NoJetStream
            }
            () if has(&["authorization", "authentication"]) => NatsErrorKind::Password,
            () if has(&["permissions violation"]) => NatsErrorKind::Rights,
            () if has(&["unknownissuer"]) => NatsErrorKind::Certificate,
            () if has(&["insufficient", "resource limits exceeded", "maximum bytes exceeded"]) => NatsErrorKind::Full,
            () if has(&["replicas"]) => NatsErrorKind::TooManyCopies,
            () if has(&["refused", "does not answer", "lookup", "unreachable", "timed out"]) => {
                NatsErrorKind::Unreachable
            }
            () => return None,
        })
    }

    /// A remedy for an error whose text helps only those who know NATS well.
    pub fn advice(&self) -> Option<&'static str> {
        match self.kind()? {
            NatsErrorKind::NoJetStream => {
                Some("gema needs JetStream: start nats-server with -js, or with jetstream {} in its configuration")
            }
            NatsErrorKind::Password => Some("check nats.user and nats.password, or nats.token"),
            NatsErrorKind::Rights => Some("docs/several-nodes.md lists the subjects that the user needs"),
            NatsErrorKind::Certificate => Some(
                "SSL_CERT_FILE may name a file with the authority's certificate; nats.tls_verify = false takes any, which \
                 is safe on a network of your own only",
            ),
            NatsErrorKind::Full => {
                Some("JetStream has no memory left: raise max_memory_store in the configuration of nats-server")
            }
            NatsErrorKind::TooManyCopies => Some("a single nats-server has one copy: set nats.replicas = 1"),
            NatsErrorKind::Unreachable => None,
        }
    }
}

/// The kinds of errors that have different remedies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsErrorKind {
    /// NATS runs without JetStream.
    NoJetStream,
    /// Name, password or token are wrong.
    Password,
    /// The user may not do this.
    Rights,
    /// Nobody whom this machine trusts vouches for the server's certificate.
    Certificate,
    /// JetStream has no place left.
    Full,
    /// There are fewer servers than copies are wanted.
    TooManyCopies,
    /// Nobody answers.
    Unreachable,
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
