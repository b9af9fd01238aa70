//! How much the log says, which can change while the process runs: for good, or for some minutes and one app, channel
//! or user.
//! `telemetry` asks it for each event; `cli` and `dashboard` change it.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use arc_swap::ArcSwapOption;
use tracing::Event;
use tracing::level_filters::LevelFilter;

use crate::watch::filter;
use crate::watch::record::Record;

/// How much the log says.
#[derive(Debug)]
pub struct Verbosity {
    base: ArcSwap<LevelFilter>,
    detour: ArcSwapOption<Detour>,
}

/// Another level for some time.
#[derive(Debug, Clone)]
pub struct Detour {
    /// The level.
    pub level: LevelFilter,
    /// When it ends.
    pub until: Instant,
    /// Only events of this app.
    pub app: Option<String>,
    /// Only events of channels that match this pattern.
    pub channel: Option<String>,
    /// Only events of this user.
    pub user: Option<String>,
}

impl Verbosity {
    /// A log of this level.
    pub fn new(level: LevelFilter) -> Arc<Self> {
        Arc::new(Self { base: ArcSwap::from_pointee(level), detour: ArcSwapOption::empty() })
    }

    /// Changes the level for good.
    pub fn set_level(&self, level: LevelFilter) {
        self.base.store(Arc::new(level));
        tracing::callsite::rebuild_interest_cache();
    }

    /// Changes the level for some time; call [`Verbosity::tick`] for its end.
    pub fn set_detour(&self, detour: Detour) {
        self.detour.store(Some(Arc::new(detour)));
        tracing::callsite::rebuild_interest_cache();
    }

    /// Ends the detour whose time is over. Returns when the present one ends.
    pub fn tick(&self, now: Instant) -> Option<Duration> {
        let detour = self.detour.load_full()?;
        let left = detour.until.saturating_duration_since(now);
        if left.is_zero() {
            self.detour.store(None);
            tracing::callsite::rebuild_interest_cache();
            return None;
        }
        Some(left)
    }

    /// The level of events that may be logged.
    pub fn level(&self) -> LevelFilter {
        let base = **self.base.load();
        self.detour.load().as_ref().map_or(base, |detour| detour.level.max(base))
    }

    /// Whether an event of that level is logged.
    pub fn allows(&self, event: &Event<'_>) -> bool {
        if *event.metadata().level() <= **self.base.load() || !event.metadata().target().starts_with("gema") {
            return true;
        }
        let detour = self.detour.load();
        detour.as_ref().is_some_and(|detour| detour.is_for_all() || detour.matches(&Record::of(event, 0)))
    }
}

impl Detour {
    fn is_for_all(&self) -> bool {
        self.app.is_none() && self.channel.is_none() && self.user.is_none()
    }

    fn matches(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, name| {
            wanted.as_ref().is_none_or(|wanted| record.field(name).is_some_and(|value| filter::matches(wanted, value)))
        };
        is(&self.app, "app") && is(&self.channel, "channel") && is(&self.user, "user")
    }
}
