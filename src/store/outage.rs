//! Outages of the database: while it is away, one lookup at a time tries it, and the others fail at once.
//! `Store` asks before each query, and reports its result.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How long to wait after a failure before the next attempt.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// The state of the database.
#[derive(Debug)]
pub(super) struct Outage {
    /// Host and port.
    place: String,
    state: Mutex<OutageState>,
    tried: CancellationToken,
}

#[derive(Debug, Default)]
struct OutageState {
    away: Option<Away>,
    /// It has answered at least once.
    has_answered: bool,
}

#[derive(Debug)]
struct Away {
    reason: Arc<str>,
    ask_again: Instant,
}

/// The state of the database, as `/ready` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// It has not answered since the start, so no app is known.
    NeverAnswered,
    /// It is away; known apps are served.
    Away,
    /// It answers.
    Answers,
}

impl Outage {
    /// No outage so far.
    pub(super) fn new(place: String) -> Self {
        Self { place, state: Mutex::default(), tried: CancellationToken::new() }
    }

    /// Whether to query the database, which takes `at_most`; otherwise the error of the last attempt.
    pub(super) fn may_ask(&self, at_most: Duration) -> Result<(), Arc<str>> {
        let now = Instant::now();
        match &mut self.state.lock().away {
            Some(away) if now < away.ask_again => Err(Arc::clone(&away.reason)),
            Some(away) => {
                away.ask_again = now + at_most;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Notes that an allowed query was not sent.
    pub(super) fn cancel_attempt(&self) {
        if let Some(away) = &mut self.state.lock().away {
            away.ask_again = Instant::now();
        }
    }

    /// Notes that the database has not answered. Logged once.
    pub(super) fn failed(&self, reason: &Arc<str>, stale: Duration) {
        let away = Away { reason: Arc::clone(reason), ask_again: Instant::now() + RETRY_WAIT };
        let (is_new, has_answered) = {
            let mut state = self.state.lock();
            (state.away.replace(away).is_none(), state.has_answered)
        };
        let (place, stale) = (&self.place, humantime::format_duration(stale));
        match (is_new, has_answered) {
            (true, true) => tracing::warn!(
                place,
                %reason,
                "the app store does not answer; apps are served as they were, for {stale} at most"
            ),
            (true, false) => tracing::error!(
                place,
                %reason,
                "the app store does not answer, so no app is known and nobody can connect; correct its section of the \
                 configuration by the reason, such as host, password or table, or start the database; it is tried again"
            ),
            (false, _) => (),
        }
    }

    /// Notes that the database has answered.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        let (was_away, had_answered) = (state.away.take().is_some(), state.has_answered);
        state.has_answered = true;
        drop(state);
        if was_away || !had_answered {
            tracing::info!(place = self.place, "the app store answers");
        }
    }

    /// Whether the database answered last time.
    pub(super) fn is_settled(&self) -> bool {
        self.state() == StoreState::Answers
    }

    pub(super) fn state(&self) -> StoreState {
        match &*self.state.lock() {
            OutageState { has_answered: false, .. } => StoreState::NeverAnswered,
            OutageState { away: Some(_), .. } => StoreState::Away,
            OutageState { away: None, .. } => StoreState::Answers,
        }
    }

    /// Notes that the database has been tried, with any result.
    pub(super) fn mark_tried(&self) {
        self.tried.cancel();
    }

    /// Waits until the database has been tried.
    pub(super) async fn tried(&self) {
        self.tried.cancelled().await;
    }
}
