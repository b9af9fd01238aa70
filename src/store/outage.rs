//! While the database is away one lookup at a time finds out whether it still is; the others do not wait for that.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

/// How long after a failure the database is left alone.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Whether the database is away.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Away>>);

#[derive(Debug)]
struct Away {
    reason: Arc<str>,
    ask_again: Instant,
}

impl Outage {
    /// Whether to ask the database, which takes so long at most; otherwise why not.
    pub(super) fn may_ask(&self, at_most: Duration) -> Result<(), Arc<str>> {
        let now = Instant::now();
        match &mut *self.0.lock() {
            Some(away) if now < away.ask_again => Err(Arc::clone(&away.reason)),
            Some(away) => {
                away.ask_again = now + at_most;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The database has not answered. Logged once.
    pub(super) fn goes_on(&self, reason: &Arc<str>, stale: Duration) {
        let away = Away { reason: Arc::clone(reason), ask_again: Instant::now() + RETRY_WAIT };
        if self.0.lock().replace(away).is_none() {
            let stale = humantime::format_duration(stale);
            tracing::warn!(%reason, "the app store does not answer; apps are served as they were, for {stale} at most");
        }
    }

    /// The database has answered.
    pub(super) fn is_over(&self) {
        if self.0.lock().take().is_some() {
            tracing::info!("the app store answers again");
        }
    }
}
