//! Takes the page's data from the log's events: warnings become problems always, all others rows while somebody watches.
//! `telemetry` puts the layer beside the log's.
//!
//! Without a watcher an event of `debug` costs two atomic loads: the level, and the interest that its place in the source
//! has cached. The places are asked again when the first watcher comes and the last one goes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::Filter;
use tracing_subscriber::layer::Layer;

use crate::watch::Watch;
use crate::watch::kinds;
use crate::watch::now_ms;
use crate::watch::record::Record;

/// Refusals a second whose details reach the problems: an attack must not cost more.
const DETAILS_PER_SECOND: u64 = 50;
/// The module that logs refusals. Only the first of a cause is a warning there.
const REFUSALS: &str = "gema::refusal";
/// The log's own lines about lines that are left out: no problem of the server.
const LEFT_OUT: &str = "gema::telemetry";

/// The target of events that only the page shows: rows with data, and each attempt of a webhook. The log never has them.
pub const PAGE_ONLY: &str = "gema::page";

/// The layer.
#[derive(Debug)]
pub struct Source(pub Arc<Watch>);

/// Decides which events reach the layer.
#[derive(Debug)]
pub struct SourceFilter {
    watch: Arc<Watch>,
    /// The second in the upper half, and the details of that second in the lower one.
    details: AtomicU64,
}

impl SourceFilter {
    /// A filter for the layer.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { watch, details: AtomicU64::new(0) }
    }

    fn takes_detail(&self) -> bool {
        let second = now_ms() / 1000;
        let next = |used: u64| match used >> 32 == second {
            true if used & u64::from(u32::MAX) >= DETAILS_PER_SECOND => None,
            true => Some(used + 1),
            false => Some(second << 32 | 1),
        };
        self.details.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && metadata.target().starts_with("gema") && metadata.target() != LEFT_OUT
}

impl<S> Filter<S> for SourceFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        if !is_ours(metadata) || *metadata.level() > Level::DEBUG {
            return false;
        }
        let is_watched = self.watch.live.is_watched();
        *metadata.level() <= Level::WARN
            || (metadata.target() == REFUSALS && self.takes_detail())
            || (is_watched && self.watch.live.has_capacity())
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match *metadata.level() {
            _ if !is_ours(metadata) => Interest::never(),
            Level::ERROR | Level::WARN => Interest::always(),
            Level::TRACE => Interest::never(),
            _ if self.watch.live.is_watched() || metadata.target() == REFUSALS => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Refusals after the first are at `debug`.
        Some(LevelFilter::DEBUG)
    }
}

impl<S: Subscriber> Layer<S> for Source {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (watch, metadata) = (&self.0, event.metadata());
        let record = Record::of(event, now_ms());
        if *metadata.level() <= Level::WARN || metadata.target() == REFUSALS {
            watch.problems.lock().add(&record);
        }
        if watch.live.is_watched() {
            let comes_with_data = watch.payloads && metadata.target() != PAGE_ONLY && kinds::has_data(&record);
            if !comes_with_data {
                watch.live.offer(record);
            }
        }
    }
}
