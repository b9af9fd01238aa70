//! While the database is away one lookup at a time finds out whether it still is; the others do not wait for that.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How long after a failure the database is left alone.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Whether the database is away.
#[derive(Debug)]
pub(super) struct Outage {
    /// Host and port.
    place: String,
    state: Mutex<State>,
    tried: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    away: Option<Away>,
    /// It has answered at least once.
    has_answered: bool,
}

#[derive(Debug)]
struct Away {
    reason: Arc<str>,
    ask_again: Instant,
}

/// How things are between us and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// It has not answered since the start, so no app is known.
    NeverAnswered,
    /// It is away; the apps that are known are served.
    Away,
    /// It answers.
    Answers,
}

impl Outage {
    /// None so far.
    pub(super) fn new(place: String) -> Self {
        Self { place, state: Mutex::default(), tried: CancellationToken::new() }
    }

    /// Whether to ask the database, which takes so long at most; otherwise why not.
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

    /// Whoever was to find out has not asked.
    pub(super) fn was_not_asked(&self) {
        if let Some(away) = &mut self.state.lock().away {
            away.ask_again = Instant::now();
        }
    }

    /// The database has not answered. Logged once.
    pub(super) fn goes_on(&self, reason: &Arc<str>, stale: Duration) {
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
                "the app store does not answer, so no app is known and nobody can connect; correct host, port, \
                 username, password, database or table, or start the database; it is tried again"
            ),
            (false, _) => (),
        }
    }

    /// The database has answered.
    pub(super) fn is_over(&self) {
        let mut state = self.state.lock();
        let (was_away, had_answered) = (state.away.take().is_some(), state.has_answered);
        state.has_answered = true;
        drop(state);
        if was_away || !had_answered {
            tracing::info!(place = self.place, "the app store answers");
        }
    }

    /// Whether the database answers, as far as is known.
    pub(super) fn is_settled(&self) -> bool {
        self.state() == StoreState::Answers
    }

    pub(super) fn state(&self) -> StoreState {
        match &*self.state.lock() {
            State { has_answered: false, .. } => StoreState::NeverAnswered,
            State { away: Some(_), .. } => StoreState::Away,
            State { away: None, .. } => StoreState::Answers,
        }
    }

    /// The database has been asked, whatever came of it.
    pub(super) fn was_tried(&self) {
        self.tried.cancel();
    }

    /// Ends when it has been.
    pub(super) async fn tried(&self) {
        self.tried.cancelled().await;
    }
}
