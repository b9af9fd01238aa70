//! Live rows: each watcher has a filter, a queue of rows and so many rows a second; the rest is counted.
//! `source` offers events; the stream of `dashboard` takes the rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::watch::Watch;
use crate::watch::filter::Filter;
use crate::watch::kinds;
use crate::watch::now_ms;
use crate::watch::record::Record;

/// Rows a second of one watcher: more than a person can read.
pub const ROWS_PER_SECOND: u64 = 50;
/// Events a second that are looked at for all watchers together. A filter must see an event to know it; a flood of
/// events must not cost more.
const LOOKS_PER_SECOND: u64 = 2000;
/// A thread that looks at the clock may be so much later with its event.
const LATE_SECONDS_MAX: u64 = 2;
/// Rows that wait for a watcher who does not read; further ones are counted.
const WAITING_MAX: usize = 150;
/// Watchers of live rows at once.
pub const WATCHERS_MAX: usize = 64;

/// A row.
#[derive(Debug)]
pub struct Row {
    /// Grows with each row.
    pub id: u64,
    /// The kind of event.
    pub kind: &'static str,
    /// The event.
    pub record: Record,
}

/// The watchers.
#[derive(Debug)]
pub struct Live {
    watchers: ArcSwap<Vec<Arc<Watcher>>>,
    /// Whether there are any.
    is_watched: AtomicBool,
    /// Serialises changes of the watchers.
    change: Mutex<()>,
    next: AtomicU64,
    /// The events that are looked at.
    looks: Quota,
}

/// One who watches.
#[derive(Debug)]
pub struct Watcher {
    filter: Filter,
    rows: Mutex<VecDeque<Arc<Row>>>,
    /// The rows.
    rows_taken: Quota,
    left_out: AtomicU64,
}

/// So many of something a second: the second in the upper half, and its number in the lower one.
#[derive(Debug, Default)]
struct Quota(AtomicU64);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watching {
    watch: Arc<Watch>,
    watcher: Arc<Watcher>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            watchers: ArcSwap::default(),
            is_watched: AtomicBool::new(false),
            change: Mutex::new(()),
            next: AtomicU64::new(1),
            looks: Quota::default(),
        }
    }
}

impl Live {
    /// Adds a watcher, unless as many watch as may.
    fn add(&self, filter: Filter) -> Option<Arc<Watcher>> {
        let (rows, rows_taken, left_out) = (Mutex::default(), Quota::default(), AtomicU64::new(0));
        let watcher = Arc::new(Watcher { filter, rows, rows_taken, left_out });
        let change = self.change.lock();
        let watchers = self.watchers.load();
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        self.set(watchers.iter().cloned().chain([Arc::clone(&watcher)]).collect());
        drop(change);
        Some(watcher)
    }

    fn set(&self, watchers: Vec<Arc<Watcher>>) {
        let is_watched = !watchers.is_empty();
        self.watchers.store(Arc::new(watchers));
        if self.is_watched.swap(is_watched, Ordering::Relaxed) != is_watched {
            // Places that nobody watches cost one atomic load from then on, and are asked again from now on.
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.watchers.load().len()
    }

    /// Whether anybody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Whether an event is looked at, since some watcher may want it. Otherwise each watcher gets a number only, and the
    /// event need not even be formatted. Those who see everything want no more than their rows; a filter may want each
    /// event.
    pub(super) fn has_capacity(&self) -> bool {
        let (watchers, second) = (self.watchers.load(), now_ms() / 1000);
        let may_want = watchers.iter().any(|watcher| !watcher.filter.is_empty() || watcher.has_capacity(second));
        if may_want && self.looks.take(second, LOOKS_PER_SECOND) {
            return true;
        }
        for watcher in &**watchers {
            watcher.left_out.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Offers an event to all watchers.
    pub(super) fn offer(&self, record: Record) {
        // The second that the row shows, so that no second has more rows than a watcher may get.
        let (watchers, second) = (self.watchers.load(), record.at_ms / 1000);
        let kind = kinds::kind(&record);
        let is_filtered = watchers.iter().any(|watcher| !watcher.filter.is_empty());
        let sentence = if is_filtered { record.text.to_lowercase() } else { String::new() };
        let mut wanted = watchers.iter().filter(|watcher| {
            watcher.filter.matches(&record, kind, &sentence) && {
                let is_taken = watcher.rows_taken.take(second, ROWS_PER_SECOND);
                watcher.left_out.fetch_add(u64::from(!is_taken), Ordering::Relaxed);
                is_taken
            }
        });
        let Some(first) = wanted.next() else { return };
        let others: Vec<&Arc<Watcher>> = wanted.collect();
        let row = Arc::new(Row { id: self.next.fetch_add(1, Ordering::Relaxed), kind, record });
        for watcher in others.into_iter().chain([first]) {
            watcher.push(Arc::clone(&row));
        }
    }

    /// The memory of all rows that wait.
    pub(super) fn bytes(&self) -> usize {
        self.watchers.load().iter().map(|watcher| watcher.bytes()).sum()
    }
}

impl Watcher {
    fn has_capacity(&self, second: u64) -> bool {
        self.rows_taken.is_left(second, ROWS_PER_SECOND)
    }

    fn push(&self, row: Arc<Row>) {
        let mut rows = self.rows.lock();
        if rows.len() < WAITING_MAX {
            rows.push_back(row);
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn bytes(&self) -> usize {
        self.rows.lock().iter().map(|row| row.record.bytes()).sum()
    }
}

impl Quota {
    fn is_left(&self, second: u64, most: u64) -> bool {
        let (_, used) = Self::used(self.0.load(Ordering::Relaxed), second);
        used < most
    }

    /// Takes one of this second's.
    fn take(&self, second: u64, most: u64) -> bool {
        let next = |value: u64| {
            let (second, used) = Self::used(value, second);
            (used < most).then_some(second << 32 | (used + 1))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// The second that counts, and how many are used in it. Another thread may be a little late; a clock that was set
    /// back begins anew.
    fn used(value: u64, second: u64) -> (u64, u64) {
        let (counted, used) = (value >> 32, value & u64::from(u32::MAX));
        let is_late = (counted.saturating_sub(LATE_SECONDS_MAX)..=counted).contains(&second);
        if is_late { (counted, used) } else { (second, 0) }
    }
}

impl Watch {
    /// Watches from now on. `None` if as many watch as may.
    pub fn view(self: &Arc<Self>, filter: Filter) -> Option<Watching> {
        Some(Watching { watcher: self.live.add(filter)?, watch: Arc::clone(self) })
    }
}

impl Watching {
    /// The rows since the last call, and how many more there would have been.
    pub fn take(&self) -> (Vec<Arc<Row>>, u64) {
        let rows = std::mem::take(&mut *self.watcher.rows.lock());
        (rows.into(), self.watcher.left_out.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let live = &self.watch.live;
        let _change = live.change.lock();
        let others = live.watchers.load().iter().filter(|other| !Arc::ptr_eq(other, &self.watcher)).cloned().collect();
        live.set(others);
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn record(app: &str) -> Record {
        let fields = vec![("app", app.to_owned())];
        Record { at_ms: 1, level: Level::DEBUG, target: "gema::session", text: "connected".to_owned(), fields }
    }

    #[test]
    fn a_viewer_gets_so_many_rows_a_second_and_the_rest_as_a_number() {
        let watch = Arc::new(Watch::default());
        let (live, watching) = (&watch.live, watch.view(Filter::default()).unwrap());
        for _ in 0..500 {
            live.offer(record("a"));
        }
        let (rows, left_out) = watching.take();
        assert_eq!((rows.len(), left_out), (50, 450));
        // One that is late takes a row of the second that has begun, and the next second has rows of its own.
        let at = |second: u64| Record { at_ms: second * 1000, ..record("a") };
        for second in [7, 6, 7, 8, 9] {
            (0..30).for_each(|_| live.offer(at(second)));
        }
        let (rows, left_out) = watching.take();
        let of = |second: u64| rows.iter().filter(|row| row.record.at_ms == second * 1000).count();
        assert_eq!(([6, 7, 8, 9].map(of), left_out), ([20, 30, 30, 30], 40));
        // The clock is set back.
        live.offer(at(2));
        assert_eq!(watching.take().0.len(), 1);
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(rows[0].kind, "connect");
    }

    #[test]
    fn a_filter_looks_at_so_many_events_a_second_and_the_rest_are_a_number() {
        let watch = Arc::new(Watch::default());
        let (live, watching) = (&watch.live, watch.view(Filter::parse("app:nobody")).unwrap());
        let second = now_ms() / 1000;
        let looked = (0..10_000).filter(|_| live.has_capacity()).inspect(|_| live.offer(record("a"))).count() as u64;
        let seconds = now_ms() / 1000 - second + 1;
        assert!((LOOKS_PER_SECOND..=LOOKS_PER_SECOND * seconds).contains(&looked), "{looked} in {seconds} s");
        let (rows, left_out) = watching.take();
        assert_eq!((rows.len(), left_out), (0, 10_000 - looked));
    }

    #[test]
    fn a_viewer_who_never_reads_holds_a_bounded_number_of_rows() {
        let watch = Arc::new(Watch::default());
        let (live, watching) = (&watch.live, watch.view(Filter::default()).unwrap());
        for second in 1..1000 {
            let row = Arc::new(Row { id: second, kind: "log", record: record("a") });
            let take = || watching.watcher.rows_taken.take(second, ROWS_PER_SECOND);
            (0..ROWS_PER_SECOND).for_each(|_| assert!(take()));
            assert!(!take());
            watching.watcher.push(row);
        }
        assert_eq!(watching.take().0.len(), WAITING_MAX);
        assert!(live.bytes() == 0);
    }

    #[test]
    fn each_viewer_has_a_filter_of_its_own_and_leaves_nothing_behind() {
        let watch = Arc::new(Watch::default());
        let live = &watch.live;
        let (a, b) = (watch.view(Filter::parse("app:a")).unwrap(), watch.view(Filter::parse("app:b")).unwrap());
        live.offer(record("a"));
        live.offer(record("c"));
        assert_eq!((a.take().0.len(), b.take().0.len()), (1, 0));
        drop(a);
        assert!(live.is_watched());
        drop(b);
        assert!(!live.is_watched() && live.watchers() == 0);
        let many: Vec<_> = std::iter::from_fn(|| watch.view(Filter::default())).collect();
        assert_eq!(many.len(), WATCHERS_MAX);
    }
}
