//! Counts what subscribers receive: how much, in which order, how late.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::histogram::Histogram;
use crate::hub::Receiver;
use crate::mark::Mark;
use crate::publisher::Progress;
use crate::report::Report;

/// So many skipped numbers are remembered for one subscriber and stream. More is a broken server.
const SKIPPED_MAX: usize = 100_000;

/// Checks every delivery to every subscriber.
pub(crate) struct Subscribers {
    progress: Arc<Progress>,
    streams: usize,
    /// The number expected next, by subscriber and stream.
    next: Vec<u32>,
    /// Numbers that were skipped and may still come, by place in `next`.
    skipped: HashMap<usize, Vec<u32>>,
    place: usize,
    measured: Range<u64>,
    pub(crate) latency: Histogram,
    pub(crate) received: u64,
    duplicates: u64,
    out_of_order: u64,
    text_bytes: u64,
    /// A rule of the server leaves events out.
    pub(crate) thinned: bool,
    /// Deliveries between two wakings of the publisher; one for each delivery would be its whole work.
    wake_each: u64,
    woken_at: u64,
    /// The subscriber that stops reading. It is counted apart.
    stalled: Option<usize>,
    /// The deliveries to that one.
    pub(crate) received_by_stalled: u64,
}

impl Subscribers {
    /// Nothing received so far.
    pub(crate) fn new(progress: Arc<Progress>, subscribers: usize, streams: usize, measured: Range<u64>) -> Self {
        Self {
            progress,
            streams,
            next: vec![0; subscribers * streams],
            skipped: HashMap::new(),
            place: 0,
            measured,
            latency: Histogram::new(),
            received: 0,
            duplicates: 0,
            out_of_order: 0,
            text_bytes: 0,
            thinned: false,
            wake_each: u64::MAX,
            woken_at: 0,
            stalled: None,
            received_by_stalled: 0,
        }
    }

    /// Wakes the publisher each time that so many deliveries have come.
    pub(crate) fn wake_publisher_each(&mut self, deliveries: u64) {
        self.wake_each = deliveries.max(1);
    }

    /// Counts this subscriber apart.
    pub(crate) fn set_stalled(&mut self, client: usize) {
        self.stalled = Some(client);
    }

    /// A number that is not the next one. True if it is received for the first time.
    #[cold]
    fn unexpected(&mut self, place: usize, number: u32) -> bool {
        if self.thinned {
            return self.newer(place, number);
        }
        let skipped = self.skipped.entry(place).or_default();
        let next = &mut self.next[place];
        if number > *next {
            let room = SKIPPED_MAX.saturating_sub(skipped.len());
            skipped.extend((*next..number).take(room));
            *next = number + 1;
            return true;
        }
        if let Some(place) = skipped.iter().position(|skipped| *skipped == number) {
            skipped.swap_remove(place);
            self.out_of_order += 1;
            return true;
        }
        self.duplicates += 1;
        false
    }

    /// Whether a number that is not the next one is newer than all before. Numbers that a rule left out do not come.
    fn newer(&mut self, place: usize, number: u32) -> bool {
        let next = &mut self.next[place];
        if number > *next {
            *next = number + 1;
            return true;
        }
        match number + 1 == *next {
            true => self.duplicates += 1,
            false => self.out_of_order += 1,
        }
        false
    }

    /// Counts and latencies; `expected` is what was acknowledged, times its subscribers.
    pub(crate) fn report(&self, report: &mut Report, expected: u64) {
        report
            .put("deliveries", self.received)
            .put("expected", expected)
            .put(if self.thinned { "thinned" } else { "lost" }, expected.saturating_sub(self.received))
            .put("duplicates", self.duplicates)
            .put("out_of_order", self.out_of_order)
            .measured("frame_bytes", self.text_bytes as f64 / self.received as f64)
            .put("latency_ms", self.latency.summary());
    }
}

impl Receiver for Subscribers {
    #[inline]
    fn text(&mut self, client: usize, text: &[u8], now: u64) -> bool {
        let Some(mark) = Mark::find(text, &mut self.place) else { return false };
        let place = client * self.streams + mark.stream as usize;
        let Some(next) = self.next.get_mut(place) else { return false };
        if *next == mark.number {
            *next += 1;
        } else if !self.unexpected(place, mark.number) {
            return true;
        }
        if self.stalled == Some(client) {
            self.received_by_stalled += 1;
            return true;
        }
        self.received += 1;
        self.text_bytes += text.len() as u64;
        if self.measured.contains(&mark.sent) {
            self.latency.record(now.saturating_sub(mark.sent));
        }
        true
    }

    fn read_done(&mut self, _now: u64) {
        self.progress.set_delivered(self.received);
        if self.received - self.woken_at >= self.wake_each && self.progress.wake() {
            self.woken_at = self.received;
        }
    }
}
