//! The attempts to deliver to an endpoint, for the operator's page.
//! `delivery` notes each of them.

use std::fmt::Display;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Characters of an error.
const ERROR_CHARS_MAX: usize = 300;

/// The attempts of an endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts {
    pub(super) last_status: Option<u16>,
    pub(super) last_ms: Option<u64>,
    pub(super) next_try_ms: Option<u64>,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) given_up: u64,
    pub(super) error: Option<String>,
}

impl Attempts {
    /// Notes that a request was accepted.
    pub(super) fn note_delivered(&mut self, status: u16) {
        self.delivered += 1;
        (self.last_status, self.last_ms, self.next_try_ms, self.error) = (Some(status), Some(now_ms()), None, None);
    }

    /// Notes that a request was not accepted, and when it is sent again.
    pub(super) fn note_failed(&mut self, status: Option<u16>, error: &dyn Display, again: Duration) {
        self.failed += 1;
        self.last_status = status;
        self.last_ms = Some(now_ms());
        self.next_try_ms = Some(now_ms() + u64::try_from(again.as_millis()).unwrap_or(u64::MAX / 2));
        self.error = Some(error.to_string().chars().take(ERROR_CHARS_MAX).collect());
    }

    /// Notes that a request is given up with its events.
    pub(super) fn note_given_up(&mut self, events: u64) {
        self.given_up += events;
        self.next_try_ms = None;
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
