//! The history of a channel against a model: users with several tabs join, confirm, are cut off, come back and leave,
//! while events are published. For each user nothing is missing that no gap tells, and each connection is in order.
//!
//! A failure prints its seed. `GEMA_HISTORY_SEED=… cargo test --test history` repeats it;
//! `GEMA_HISTORY_HISTORIES=…` runs more.

#![expect(clippy::disallowed_methods, reason = "a seed comes by the environment, to repeat a failure")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use gema::history::channel::ChannelHistory;
use gema::history::channel::Welcome;
use gema::history::reader::Reader;
use gema::history::rule::HistoryRule;
use gema::history::totals::HistoryTotals;
use gema::protocol::event;
use gema::protocol::frame::Frame;
use gema::protocol::identity::KnownUser;
use gema::protocol::socket_id::SocketId;
use rand::RngExt as _;
use rand::SeedableRng;
use rand::rngs::StdRng;

const USERS: usize = 3;
const SECONDS: u64 = 20;

/// A tab of a user: connected, or cut off and not back.
struct Tab {
    user: usize,
    socket_id: SocketId,
    reader: Option<Arc<Reader>>,
    /// The events that were sent to it and did not arrive so far, in order.
    sent: Vec<u64>,
    /// The events that the page has shown.
    arrived: BTreeSet<u64>,
    /// Events that must have arrived or be told as missing once it is back.
    due: BTreeSet<u64>,
    cut_at: Option<Instant>,
}

struct World {
    rng: StdRng,
    history: ChannelHistory,
    rule: HistoryRule,
    totals: Arc<HistoryTotals>,
    now: Instant,
    /// The time in which somebody may not have answered.
    unanswered: Duration,
    tabs: Vec<Tab>,
    published: u64,
    /// Events that users have seen in tabs that are closed.
    seen: BTreeMap<usize, BTreeSet<u64>>,
    /// Prints what happens, to find out why a history fails.
    is_told: bool,
    /// Events that everybody may be told to have missed, by the last gap of each user.
    told: BTreeMap<usize, u64>,
}

fn number_of(frame: &Frame) -> u64 {
    event::name_and_data(frame).unwrap().1.parse().unwrap()
}

impl World {
    fn new(seed: u64, is_told: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rule = HistoryRule {
            events_max: rng.random_range(1..30),
            bytes_max: if rng.random_bool(0.3) { rng.random_range(200..3000) } else { 1 << 20 },
            ..serde_json::from_str(&format!(r#"{{"match":"*","seconds":{SECONDS}}}"#)).unwrap()
        };
        let totals = Arc::new(HistoryTotals::default());
        let history = ChannelHistory::new(Arc::new(rule.clone()), &totals);
        let (now, tabs, told) = (Instant::now(), Vec::new(), BTreeMap::new());
        let (seen, unanswered) = (BTreeMap::new(), Duration::ZERO);
        Self { rng, history, rule, totals, now, unanswered, tabs, published: 0, seen, is_told, told }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => self.publish(),
            40..52 => self.open(),
            52..70 => self.confirm(),
            70..82 => self.cut(),
            82..92 => self.come_back(),
            92..95 => self.leave(),
            _ => self.wait(),
        }
        assert!(self.totals.bytes() <= self.rule.bytes_max, "the bound of the rule holds");
    }

    fn tell(&self, what: &str, tab: &Tab) {
        if self.is_told {
            println!("{what}: user {} {}, unconfirmed {:?}", tab.user, tab.socket_id, tab.sent);
        }
    }

    fn publish(&mut self) {
        self.published += 1;
        let frame = event::published("orders", "order", &format!("\"{}\"", self.published));
        self.history.push(&frame, None, self.now);
        for tab in &mut self.tabs {
            if let Some(reader) = &tab.reader {
                reader.ask(self.now);
                tab.sent.push(self.published);
            }
            tab.due.insert(self.published);
        }
    }

    /// Somebody opens one more tab.
    fn open(&mut self) {
        let user = self.rng.random_range(0..USERS);
        if self.tabs.iter().filter(|tab| tab.user == user).count() < 3 {
            let mut tab = Tab {
                user,
                socket_id: SocketId::random(),
                reader: None,
                sent: Vec::new(),
                arrived: BTreeSet::new(),
                due: BTreeSet::new(),
                cut_at: None,
            };
            self.join(&mut tab);
            self.tabs.push(tab);
        }
    }

    fn join(&mut self, tab: &mut Tab) {
        tab.socket_id = SocketId::random();
        let user = KnownUser { id: tab.user.to_string().into(), socket_id: tab.socket_id };
        let Welcome { gap, events, reader } = self.history.join(Some(&user), self.now);
        tab.sent = events.iter().map(number_of).collect();
        assert!(tab.sent.is_sorted(), "in order: {:?}", tab.sent);
        assert!(tab.sent.last().is_none_or(|last| *last == self.published), "up to the newest");
        assert!(tab.sent.windows(2).all(|pair| pair[0] + 1 == pair[1]), "without a hole: {:?}", tab.sent);
        assert!(tab.sent.len() <= self.rule.events_max);
        if let Some(gap) = gap {
            let first_kept = tab.sent.first().copied().unwrap_or(self.published + 1);
            let told = self.told.entry(tab.user).or_default();
            *told = (*told).max(first_kept - 1);
            let missed = gap.missed.count().unwrap();
            assert!(missed > 0 && missed < first_kept && gap.since <= self.now, "{gap:?}");
        }
        tab.reader = reader;
        tab.cut_at = None;
        self.tell("joins", tab);
    }

    /// Some of what was sent to a tab arrives, and the client confirms it.
    fn confirm(&mut self) {
        let Some(index) = self.pick(|tab| tab.reader.is_some() && !tab.sent.is_empty()) else { return };
        let count = self.rng.random_range(1..=self.tabs[index].sent.len());
        self.confirm_some(index, count);
    }

    fn confirm_some(&mut self, index: usize, count: usize) {
        let now = self.now;
        let tab = &mut self.tabs[index];
        if tab.reader.is_none() {
            return;
        }
        let arrived: Vec<u64> = tab.sent.drain(..count).collect();
        if let (Some(reader), Some(last)) = (&tab.reader, arrived.last()) {
            // Events that nobody could miss have no number.
            let unnumbered = self.published - self.history.last();
            reader.confirm(last - unnumbered, now);
        }
        tab.arrived.extend(arrived);
        self.tell("confirms", &self.tabs[index]);
    }

    /// A line is cut: some of what was sent has arrived all the same.
    fn cut(&mut self) {
        let Some(index) = self.pick(|tab| tab.reader.is_some()) else { return };
        let count = self.rng.random_range(0..=self.tabs[index].sent.len());
        // Often the server does not know it when the user comes back.
        let is_known = self.rng.random_bool(0.5);
        let tab = &mut self.tabs[index];
        tab.arrived.extend(tab.sent.drain(..count));
        (tab.reader, tab.cut_at) = (None, Some(self.now));
        if is_known {
            self.history.leave(tab.socket_id, true, self.now);
        }
        self.tell(if is_known { "is cut" } else { "is cut without the server knowing" }, &self.tabs[index]);
    }

    fn come_back(&mut self) {
        if let Some(index) = self.pick(|tab| tab.reader.is_none()) {
            let mut tab = self.tabs.remove(index);
            let before = tab.socket_id;
            self.join(&mut tab);
            if self.rng.random_bool(0.5) {
                // The server learns now that the old connection is dead.
                self.history.leave(before, true, self.now);
                self.tell("was cut before", &tab);
            }
            self.tabs.push(tab);
        }
    }

    /// A user closes a tab.
    fn leave(&mut self) {
        if let Some(index) = self.pick(|tab| tab.reader.is_some()) {
            let left = self.tabs.remove(index);
            self.history.leave(left.socket_id, false, self.now);
            self.tell("leaves", &left);
            // It may have gone on from the place of another tab, whose claim ends with it.
            let ended = self.tabs.extract_if(.., |tab| tab.user == left.user && tab.reader.is_none());
            let seen = self.seen.entry(left.user).or_default();
            seen.extend(ended.flat_map(|tab| tab.arrived));
            seen.extend(&left.arrived);
            for tab in self.tabs.iter_mut().filter(|tab| tab.user == left.user) {
                tab.due.retain(|number| !left.sent.contains(number));
            }
        }
    }

    fn wait(&mut self) {
        let time = Duration::from_millis(self.rng.random_range(0..2 * SECONDS * 1000 / 10));
        self.unanswered += time;
        if self.unanswered > Duration::from_secs(2) {
            // Those that live have answered by then.
            self.unanswered = Duration::ZERO;
            for index in 0..self.tabs.len() {
                self.confirm_some(index, self.tabs[index].sent.len());
            }
        }
        self.now += time;
        self.history.tick(self.now);
        // One that is away too long is a newcomer, which the documents say.
        let (now, limit) = (self.now, Duration::from_secs(2 * SECONDS));
        for tab in self.tabs.extract_if(.., |tab| tab.cut_at.is_some_and(|cut_at| now - cut_at >= limit)) {
            self.seen.entry(tab.user).or_default().extend(tab.arrived);
        }
    }

    fn pick(&mut self, like: impl Fn(&Tab) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.tabs.len()).filter(|index| like(&self.tabs[*index])).collect();
        (!fitting.is_empty()).then(|| fitting[self.rng.random_range(0..fitting.len())])
    }

    /// Everybody comes back, and everything arrives. Nothing is missing for a user that was there.
    fn end(mut self) {
        while let Some(index) = self.pick(|tab| tab.reader.is_none()) {
            let mut tab = self.tabs.remove(index);
            self.join(&mut tab);
            self.tabs.push(tab);
        }
        for user in 0..USERS {
            let tabs = || self.tabs.iter().filter(|tab| tab.user == user);
            let mut seen = self.seen.remove(&user).unwrap_or_default();
            seen.extend(tabs().flat_map(|tab| tab.arrived.iter().chain(&tab.sent)));
            let due: BTreeSet<u64> = tabs().flat_map(|tab| &tab.due).copied().collect();
            let told = self.told.get(&user).copied().unwrap_or_default();
            let missing: Vec<_> = due.difference(&seen).filter(|number| **number > told).collect();
            assert!(missing.is_empty(), "user {user} has missed {missing:?} and was not told");
        }
    }
}

#[test]
fn a_user_misses_nothing_that_no_gap_tells() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let histories = variable("GEMA_HISTORY_HISTORIES").unwrap_or(10_000);
    let first = variable("GEMA_HISTORY_SEED").unwrap_or_else(rand::random);
    let count = if variable("GEMA_HISTORY_SEED").is_some() { 1 } else { histories };
    println!("GEMA_HISTORY_SEED={first}, and {} after it", count - 1);
    for seed in (0..count).map(|index| first.wrapping_add(index)) {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, count == 1);
            for _ in 0..80 {
                world.step();
            }
            world.end();
        });
        assert!(run.is_ok(), "repeat it with GEMA_HISTORY_SEED={seed}");
    }
}
