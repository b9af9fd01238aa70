//! The counters of repeated requests to publish.
//! `idempotency` counts here.

use prometheus::IntCounter;

use super::Registrar;

/// Requests with an idempotency key.
#[derive(Debug, Clone)]
pub struct IdempotencyMeters {
    /// Repeated requests that got the answer of the first one.
    pub repeated: IntCounter,
    /// Answers that were forgotten before their time, for lack of memory.
    pub forgotten: IntCounter,
    /// Requests that this node knows alone, because Redis was away.
    pub local: IntCounter,
}

impl IdempotencyMeters {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        let counter = |name, help| own.register(IntCounter::new(name, help));
        Self {
            repeated: counter(
                "gema_idempotency_repeated_total",
                "Repeated requests that delivered nothing, by their idempotency key",
            ),
            forgotten: counter(
                "gema_idempotency_forgotten_total",
                "Idempotency keys forgotten before their time, for lack of memory",
            ),
            local: counter(
                "gema_idempotency_local_total",
                "Requests with an idempotency key that other nodes do not know, because Redis was away",
            ),
        }
    }
}
