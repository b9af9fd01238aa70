//! The common frame of all kinds of thinning: what goes in, what comes out, and what is counted.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::protocol::event::Event;
use crate::protocol::partial::Partial;

/// A moment: by the clock for intervals, and as the time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For windows and ages.
    pub instant: Instant,
    /// Milliseconds since 1970, for people.
    pub unix_ms: u64,
}

/// The fate of an event that a rule thins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is delivered, at once or at the end of its window.
    Delivered,
    /// A newer one of its key took its place.
    Replaced,
    /// It became a part of another event.
    Merged,
    /// The rate or the sample leaves it out.
    Dropped,
    /// Its value is no finite number.
    Skipped,
    /// It has no key, and passes.
    KeyMissing,
    /// It excludes a connection, and passes.
    ExceptPasses,
    /// An event of figures that the rule has made.
    Made,
    /// A key was flushed before its time, because there were `keys_max`.
    Early,
    /// It passes, because too many channels have something pending.
    ChannelsFull,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Delivered,
        Self::Replaced,
        Self::Merged,
        Self::Dropped,
        Self::Skipped,
        Self::KeyMissing,
        Self::ExceptPasses,
        Self::Made,
        Self::Early,
        Self::ChannelsFull,
    ];

    /// The values of the label `outcome`, in the same order.
    pub const LABELS: [&str; Self::ALL.len()] = [
        "delivered",
        "replaced",
        "merged",
        "dropped",
        "skipped",
        "key_missing",
        "except_passes",
        "made",
        "early",
        "channels_full",
    ];
}

/// How often each outcome has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts([u64; Outcome::ALL.len()]);

impl Counts {
    /// The count of one outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// The counts where another stage counts the events. Only here a key can have been flushed here.
    pub(super) fn of_later_stage(&self) -> Self {
        let mut counts = Self::default();
        counts.0[Outcome::Early as usize] = self.of(Outcome::Early);
        counts
    }

    /// Counts one.
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }
}

/// An event that a rule thins, with its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) event: &'a Event,
    /// Its place among all events of the channel.
    pub(super) sequence: u64,
    /// The event's name.
    pub(super) name: &'a str,
    /// The event's data.
    pub(super) data: &'a str,
    /// The key in the data; the event's name without one.
    pub(super) key: &'a str,
    /// Name and key: the state is one for each of these.
    pub(super) id: &'a str,
}

/// The name of a key's state.
pub(super) fn id(name: &str, key: &str) -> String {
    format!("{name}\0{key}")
}

/// An event that waits.
#[derive(Debug, Clone)]
pub(super) struct Buffered {
    pub(super) sequence: u64,
    pub(super) event: Event,
}

impl Buffered {
    pub(super) fn of(item: &Item<'_>) -> Self {
        Self { sequence: item.sequence, event: item.event.clone() }
    }
}

/// The events that are to be delivered, with their ids, and the counts.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) ready: Vec<(Arc<str>, Buffered)>,
    pub(super) counts: Counts,
}

impl Sink {
    /// Delivers an event as it came.
    pub(super) fn deliver(&mut self, id: &Arc<str>, buffered: Buffered) {
        self.counts.add(Outcome::Delivered);
        self.ready.push((Arc::clone(id), buffered));
    }

    /// Delivers an event that the rule has made.
    pub(super) fn make(&mut self, id: &Arc<str>, buffered: Buffered) {
        self.counts.add(Outcome::Made);
        self.ready.push((Arc::clone(id), buffered));
    }
}

/// A kind of thinning, for one rule on one channel. The caller runs what is due before it gives the next event.
pub(super) trait Thinning: fmt::Debug + Send {
    /// Takes an event.
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink);

    /// Takes the figures that an event is made of. Returns false if the kind has no use for them.
    fn merge(&mut self, _figures: (&Partial, &Buffered), _now: Now, _sink: &mut Sink) -> bool {
        false
    }

    /// Delivers what is due.
    fn run_due(&mut self, now: Now, sink: &mut Sink);

    /// Delivers everything that is pending.
    fn flush(&mut self, now: Now, sink: &mut Sink);

    /// When something may be due next.
    fn next(&self) -> Option<Instant>;

    /// Whether an event of a key, or figures for it, wait to be delivered.
    fn is_pending(&self, _id: &str) -> bool {
        false
    }

    /// Whether nothing is pending, and no window is open.
    fn is_idle(&self) -> bool;
}
