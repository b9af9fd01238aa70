//! No thinning, for rules with a snapshot alone.

use std::time::Instant;

use crate::flow::thinning::Buffered;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;

/// Delivers each event at once.
#[derive(Debug)]
pub(super) struct Pass;

impl Thinning for Pass {
    fn push(&mut self, item: &Item<'_>, _now: Now, sink: &mut Sink) {
        sink.deliver(&item.id.into(), Buffered::of(item));
    }

    fn run_due(&mut self, _now: Now, _sink: &mut Sink) {}

    fn flush(&mut self, _now: Now, _sink: &mut Sink) {}

    fn next(&self) -> Option<Instant> {
        None
    }

    fn is_idle(&self) -> bool {
        true
    }
}
