//! Limits the log to some lines per second and cause: a client that can cause a line can cause it often.

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
use crate::watch::verbosity::Verbosity;

/// Lines per second of one cause: as many as a person can read.
const LINES_MAX: u32 = 10;
/// Like `LINES_MAX`, but at `debug`, which an operator switches on to find one event among others.
const DEBUG_LINES_MAX: u32 = 100;
/// Causes per place in the source that are counted apart.
const CAUSES_MAX: usize = 256;
/// The command line has no limit: it reports all faults of a configuration.
const OPERATORS: &str = "gema::cli";
/// The budget's own lines have no limit.
const OWN: &str = "gema::telemetry";

/// The budgets, by place in the source and by the line's field `cause`.
#[derive(Debug, Clone, Default)]
pub(super) struct LogBudget(Arc<Mutex<HashMap<Identifier, Causes>>>);

type Causes = HashMap<Box<str>, CauseBudget>;

#[derive(Debug)]
struct CauseBudget {
    left: Bucket,
    /// Lines left out and not reported yet.
    left_out: u64,
    target: &'static str,
}

impl LogBudget {
    fn try_take(&self, metadata: &'static Metadata<'static>, cause: &str, now: Instant) -> bool {
        let mut places = self.0.lock();
        let causes = places.entry(metadata.callsite()).or_default();
        let cause = if causes.len() < CAUSES_MAX || causes.contains_key(cause) { cause } else { "" };
        if !causes.contains_key(cause) {
            let lines_max = if *metadata.level() >= Level::DEBUG { DEBUG_LINES_MAX } else { LINES_MAX };
            let cause_budget = CauseBudget { left: Bucket::of(lines_max, now), left_out: 0, target: metadata.target() };
            causes.insert(cause.into(), cause_budget);
        }
        let Some(cause_budget) = causes.get_mut(cause) else { return true };
        let is_left = cause_budget.left.take(1, now).is_ok();
        cause_budget.left_out += u64::from(!is_left);
        is_left
    }

    fn allows(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == OWN || metadata.target().starts_with(OPERATORS) {
            return true;
        }
        let mut cause = CauseField(String::new());
        event.record(&mut cause);
        let is_allowed = self.try_take(metadata, &cause.0, Instant::now());
        if !is_allowed {
            count_unwritten(Unwritten::LeftOut, 1);
        }
        is_allowed
    }

    /// Logs how many lines have been left out since the last report.
    pub(super) fn report(&self) {
        let mut all = Vec::new();
        for (cause, cause_budget) in self.0.lock().values_mut().flatten() {
            if cause_budget.left_out > 0 {
                all.push((cause.clone(), cause_budget.target, std::mem::take(&mut cause_budget.left_out)));
            }
        }
        for (cause, of, lines) in all {
            let cause = (!cause.is_empty()).then_some(&*cause);
            tracing::warn!(target: OWN, lines, of, cause, "further lines of this kind are left out");
        }
    }
}

/// A layer that passes on no more events than its budget allows. It is not one of tracing's filters: those decide for a
/// whole callsite, or leave state of their thread behind when they reject an event.
pub(super) struct BudgetLayer<L> {
    pub(super) layer: L,
    pub(super) budget: LogBudget,
    pub(super) verbosity: Arc<Verbosity>,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for BudgetLayer<L> {
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
        if self.verbosity.allows(event) && self.budget.allows(event) {
            self.layer.on_event(event, context);
        }
    }
}

/// The field `cause` of an event.
struct CauseField(String);

impl Visit for CauseField {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "cause" {
            self.0.push_str(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
