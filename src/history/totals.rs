//! Bounds what all histories of an app hold together: `log` counts bytes, `reader` places.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Places of an app that connections have left. Beyond it a user that is cut off counts as a new one.
const PLACES_MAX: usize = 262_144;

/// The bytes and places of all histories of an app.
#[derive(Debug)]
pub struct HistoryTotals {
    bytes_max: AtomicUsize,
    bytes: AtomicUsize,
    evicted: AtomicU64,
    /// The highest number of a log that is gone. Shards may still know it, so a new log begins there.
    numbered: AtomicU64,
    places: AtomicUsize,
}

/// One place, counted until this is dropped.
#[derive(Debug)]
pub(super) struct CountedPlace(Arc<HistoryTotals>);

impl Default for HistoryTotals {
    fn default() -> Self {
        Self {
            bytes_max: AtomicUsize::new(usize::MAX),
            bytes: AtomicUsize::default(),
            evicted: AtomicU64::default(),
            numbered: AtomicU64::default(),
            places: AtomicUsize::default(),
        }
    }
}

impl HistoryTotals {
    /// Bounds the bytes from the next event on.
    pub fn set_bytes_max(&self, max: usize) {
        self.bytes_max.store(max, Ordering::Relaxed);
    }

    /// Bytes of the stored events, with what they cost besides their frames.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Events dropped because the app has no more bytes, since the last call.
    pub fn take_evicted(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }

    /// Whether there are too many bytes.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() > self.bytes_max.load(Ordering::Relaxed)
    }

    /// Adds the bytes of an event.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts the bytes of an event that is gone.
    pub(super) fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts an event that was dropped because the app has no more bytes.
    pub(super) fn evict(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// The number at which a new log begins.
    pub(super) fn numbered(&self) -> u64 {
        self.numbered.load(Ordering::Relaxed)
    }

    /// A log is gone that has numbered its events up to this.
    pub(super) fn set_numbered(&self, last: u64) {
        self.numbered.fetch_max(last, Ordering::Relaxed);
    }

    /// Counts a place that a connection leaves. `None` if the app has too many.
    pub(super) fn count_place(self: &Arc<Self>) -> Option<CountedPlace> {
        let place = CountedPlace(Arc::clone(self));
        (self.places.fetch_add(1, Ordering::Relaxed) < PLACES_MAX).then_some(place)
    }
}

impl Drop for CountedPlace {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_places_and_no_more_are_counted() {
        let totals = Arc::new(HistoryTotals::default());
        let mut places: Vec<_> = std::iter::from_fn(|| totals.count_place()).collect();
        assert_eq!(places.len(), PLACES_MAX);
        places.pop();
        assert!(totals.count_place().is_some_and(|_place| totals.count_place().is_none()));
        drop(places);
        assert_eq!(totals.places.load(Ordering::Relaxed), 0);
    }
}
