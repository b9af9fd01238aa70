//! How many lines a second the log has for one cause. Whoever may bring about a line may bring it about very often.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::callsite::Identifier;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::span::Attributes;
use tracing::span::Id;
use tracing::span::Record;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::Layer;

use crate::limiter::Bucket;
use crate::metrics::Unwritten;
use crate::metrics::count_unwritten;

/// Lines a second of one cause: as many as a person can read.
const LINES_MAX: u32 = 10;
/// The same at `debug`, which somebody has switched on to find one event among others.
const DEBUG_LINES_MAX: u32 = 100;
/// Causes of one place in the source that are told apart.
const CAUSES_MAX: usize = 256;
/// Lines of the command line are the operator's own: all faults of a configuration are told.
const OPERATORS: &str = "gema::cli";
/// What the budget itself tells has none.
const OWN: &str = "gema::telemetry";

/// What each cause has used up: a place in the source, and the field `cause` where a line has one.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<Mutex<HashMap<Identifier, Causes>>>);

type Causes = HashMap<Box<str>, Spent>;

#[derive(Debug)]
struct Spent {
    left: Bucket,
    /// Lines left out, and not told yet.
    left_out: u64,
    target: &'static str,
}

impl Budget {
    fn takes(&self, metadata: &'static Metadata<'static>, cause: &str, now: Instant) -> bool {
        let mut places = self.0.lock();
        let causes = places.entry(metadata.callsite()).or_default();
        let cause = if causes.len() < CAUSES_MAX || causes.contains_key(cause) { cause } else { "" };
        if !causes.contains_key(cause) {
            let lines_max = if *metadata.level() >= Level::DEBUG { DEBUG_LINES_MAX } else { LINES_MAX };
            let spent = Spent { left: Bucket::of(lines_max, now), left_out: 0, target: metadata.target() };
            causes.insert(cause.into(), spent);
        }
        let Some(spent) = causes.get_mut(cause) else { return true };
        let is_left = spent.left.take(1, now).is_ok();
        spent.left_out += u64::from(!is_left);
        is_left
    }

    fn allows(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == OWN || metadata.target().starts_with(OPERATORS) {
            return true;
        }
        let mut cause = CauseOf(String::new());
        event.record(&mut cause);
        let takes = self.takes(metadata, &cause.0, Instant::now());
        if !takes {
            count_unwritten(Unwritten::LeftOut, 1);
        }
        takes
    }

    /// Logs how many lines have been left out since the last time.
    pub(super) fn report(&self) {
        let mut all = Vec::new();
        for (cause, spent) in self.0.lock().values_mut().flatten() {
            if spent.left_out > 0 {
                all.push((cause.clone(), spent.target, std::mem::take(&mut spent.left_out)));
            }
        }
        for (cause, of, lines) in all {
            let cause = (!cause.is_empty()).then_some(&*cause);
            tracing::warn!(target: OWN, lines, of, cause, "further lines of this kind are left out");
        }
    }
}

/// A layer that is told of no more events than its budget allows. It is no filter of tracing's own, since those hold for
/// a whole callsite, or leave their thread's state behind when they refuse an event.
pub(super) struct Budgeted<L> {
    pub(super) layer: L,
    pub(super) budget: Budget,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Budgeted<L> {
    fn on_layer(&mut self, subscriber: &mut S) {
        self.layer.on_layer(subscriber);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.layer.on_new_span(attributes, id, context);
    }

    fn on_record(&self, span: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.layer.on_record(span, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.budget.allows(event) {
            self.layer.on_event(event, context);
        }
    }
}

/// The field `cause` of an event.
struct CauseOf(String);

impl Visit for CauseOf {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "cause" {
            self.0.push_str(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
