//! Conflation: of each key at most one event in a window, the newest.
//!
//! An idle key delivers at once and opens a window. At the end of the window its newest event is delivered, and the next
//! window opens. Keys join the beat of their channel, so that their events share a write: an event waits for the beat
//! if it is not older than a window then. So a key's first window may be longer than the others, but no event that is
//! the newest of its key waits longer than a window.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::flow::beat::Beat;
use crate::flow::edit;
use crate::flow::keys::Keys;
use crate::flow::rule::Conflate;
use crate::flow::thinning::Buffered;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;
use crate::protocol::event;

/// The open windows of a channel.
#[derive(Debug)]
pub(super) struct Conflation {
    channel: Arc<str>,
    window: Duration,
    merges: bool,
    keys_max: usize,
    keys: Keys<Window>,
    beat: Beat,
}

/// The window of a key.
#[derive(Debug)]
struct Window {
    /// When the key's next event may be delivered.
    end: Instant,
    pending: Option<Pending>,
}

/// The newest event of a window.
#[derive(Debug)]
struct Pending {
    buffered: Buffered,
    came: Instant,
    /// The name, and the data of several events in one, if they are merged.
    merged: Option<(Box<str>, String)>,
}

impl Conflation {
    pub(super) fn new(channel: &Arc<str>, rule: &Conflate, keys_max: usize, now: Instant) -> Self {
        let window = Duration::from_millis(rule.window_ms.max(1).into());
        Self {
            channel: Arc::clone(channel),
            window,
            merges: rule.merge,
            keys_max,
            keys: Keys::new(),
            beat: Beat::new(now, window),
        }
    }

    /// Opens the window of an idle key, whose event is delivered at once.
    fn open(&mut self, item: &Item<'_>, now: Instant, sink: &mut Sink) {
        if self.keys.len() >= self.keys_max
            && let Some((id, window)) = self.keys.remove_first()
        {
            sink.counts.add(Outcome::Early);
            deliver(&self.channel, &id, window.pending, sink);
        }
        if self.keys.len() == 0 {
            self.beat = Beat::new(now, self.window);
        }
        let (id, end) = (Arc::from(item.id), now + self.window);
        sink.deliver(&id, Buffered::of(item));
        self.keys.insert(id, Window { end, pending: None }, end);
    }
}

impl Thinning for Conflation {
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) {
        let Some(window) = self.keys.get_mut(item.id) else { return self.open(item, now.instant, sink) };
        let old = window.pending.take();
        let merged = old.as_ref().filter(|_| self.merges).and_then(|old| old.with(item));
        if old.is_some() {
            sink.counts.add(if merged.is_some() { Outcome::Merged } else { Outcome::Replaced });
        }
        window.pending = Some(Pending { buffered: Buffered::of(item), came: now.instant, merged });
    }

    fn run_due(&mut self, now: Now, sink: &mut Sink) {
        let Self { channel, window: length, keys, beat, .. } = self;
        keys.run_due(now.instant, |id, window, _| {
            let pending = window.pending.as_ref()?;
            let due = beat.at_or_after(window.end).min(window.end.max(pending.came + *length));
            if due > now.instant {
                return Some(due);
            }
            // The window begins when it should, not when the timer ran, unless that was long ago.
            let is_late = now.instant.saturating_duration_since(due) >= *length;
            window.end = if is_late { now.instant } else { due } + *length;
            deliver(channel, id, window.pending.take(), sink);
            Some(window.end)
        });
    }

    fn flush(&mut self, _now: Now, sink: &mut Sink) {
        for (id, window) in self.keys.iter_mut() {
            deliver(&self.channel, id, window.pending.take(), sink);
        }
    }

    fn next(&self) -> Option<Instant> {
        self.keys.next()
    }

    fn is_pending(&self, id: &str) -> bool {
        self.keys.get(id).is_some_and(|window| window.pending.is_some())
    }

    fn is_idle(&self) -> bool {
        self.keys.len() == 0
    }
}

impl Pending {
    /// The name of this event, and its data with the fields of a newer one; `None` if they cannot be merged.
    fn with(&self, newer: &Item<'_>) -> Option<(Box<str>, String)> {
        let data = match &self.merged {
            Some((_, data)) => edit::merged(data, newer.data),
            None => {
                let (_, data) = event::name_and_data(&self.buffered.event.frame)?;
                edit::merged(&data, newer.data)
            }
        };
        data.map(|data| (newer.name.into(), data))
    }
}

fn deliver(channel: &str, id: &Arc<str>, pending: Option<Pending>, sink: &mut Sink) {
    let Some(Pending { mut buffered, merged, .. }) = pending else { return };
    if let Some((name, data)) = merged {
        buffered.event.frame = edit::frame(channel, &name, &data);
    }
    sink.deliver(id, buffered);
}
