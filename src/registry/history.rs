//! The history rules of an app, and what its channels keep by them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::history::channel::ChannelHistory;
use crate::history::numbers::Found;
use crate::history::rule::HistoryRule;
use crate::history::rule::HistoryRules;
use crate::history::totals::HistoryTotals;
use crate::metrics::HistoryMeters;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Origin;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered::EventNumber;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::channel::Channel;
use crate::registry::remote::history::CaughtUp;

/// The history rules of an app.
#[derive(Debug, Default)]
pub(super) struct AppHistory {
    rules: ArcSwap<HistoryRules>,
    /// There are rules. Without any, nothing else is asked.
    is_on: AtomicBool,
    /// Events have come that each node gets by itself: they have no numbers.
    is_fed_here: AtomicBool,
    /// There have been rules, so that there is something to report.
    was_on: AtomicBool,
    totals: Arc<HistoryTotals>,
    pub(super) meters: Option<HistoryMeters>,
}

impl AppHistory {
    pub(super) fn new(meters: HistoryMeters) -> Self {
        Self { meters: Some(meters), ..Self::default() }
    }

    /// An empty history for a channel that has a rule.
    pub(super) fn of_channel(&self, name: &ChannelName) -> Option<Box<ChannelHistory>> {
        if !self.is_on.load(Ordering::Acquire) {
            return None;
        }
        let rules = self.rules.load();
        let rule = rules.of_channel(name)?;
        Some(Box::new(ChannelHistory::new(Arc::clone(rule), &self.totals)))
    }

    /// Whether a rule matches a channel.
    pub(super) fn has_rule(&self, name: &ChannelName) -> bool {
        self.is_on.load(Ordering::Acquire) && self.rules.load().of_channel(name).is_some()
    }

    /// Whether a channel keeps events although nobody may come back.
    pub(super) fn replays_last(&self, name: &ChannelName) -> bool {
        self.is_on.load(Ordering::Acquire) && self.rules.load().of_channel(name).is_some_and(|rule| rule.last() > 0)
    }
}

impl AppState {
    /// Takes history rules, and how many bytes all channels of the app may keep.
    pub fn set_history_rules(&self, rules: HistoryRules, bytes_max: usize, now: Instant) {
        self.history.totals.set_bytes_max(bytes_max);
        if **self.history.rules.load() == rules {
            return;
        }
        let is_on = !rules.is_empty();
        self.history.was_on.fetch_or(is_on, Ordering::Relaxed);
        self.history.rules.store(Arc::new(rules));
        self.history.is_on.store(is_on, Ordering::Release);
        for name in self.channels.table.names(|_| true) {
            self.change_channel(&name, now, |channel, scope| channel.follow_history_rule(scope));
        }
    }

    /// The rule of a channel whose events all nodes send alike, so that Redis can number and store them for all.
    pub fn numbering_rule(&self, name: &ChannelName) -> Option<Arc<HistoryRule>> {
        if !self.history.is_on.load(Ordering::Acquire) {
            return None;
        }
        let rule = self.history.rules.load().of_channel(name).cloned()?;
        self.numbers_events(name).then_some(rule)
    }

    /// An event has come that each node gets by itself.
    pub(super) fn note_unnumbered(&self) {
        if self.history.is_on.load(Ordering::Acquire) {
            self.history.is_fed_here.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the numbers of a channel say everything about what somebody has missed.
    pub(super) fn numbers_all(&self, name: &ChannelName) -> bool {
        self.numbers_events(name) && !self.history.is_fed_here.load(Ordering::Relaxed)
    }

    /// Whether all nodes send the same events of a channel: no flow rule thins them on each node by itself.
    fn numbers_events(&self, name: &ChannelName) -> bool {
        self.flow.rules().is_none_or(|rules| rules.of_channel(name).is_empty())
    }

    /// The rule of a channel's history, and the last number that has come here with its event, if this node follows the
    /// numbers.
    pub fn history_of(&self, name: &ChannelName) -> Option<(Arc<HistoryRule>, Option<EventNumber>, Option<Origin>)> {
        self.channels.table.with(name.as_str(), |entry| entry.get().and_then(|channel| channel.history_rule()))
    }

    /// The command of this number has caught up with a channel's history, or has failed.
    pub fn on_caught_up(&self, name: &ChannelName, number: u64, answer: Option<CaughtUp>, now: Instant) {
        self.change_channel(name, now, |channel, scope| channel.on_caught_up(number, answer, scope));
    }

    /// Redis has refused to write places.
    pub fn on_places_refused(&self, name: &ChannelName, now: Instant) {
        self.change_channel(name, now, Channel::on_places_refused);
    }

    /// The command of this number has looked for a user's place, or has failed.
    pub fn on_found(
        &self,
        name: &ChannelName,
        command: (u64, &KnownUser, Address),
        found: Option<Option<Found>>,
        now: Instant,
    ) {
        self.change_channel(name, now, |channel, scope| channel.on_found(command, found, scope));
    }

    /// A connection on a channel has signed in as this user.
    pub fn identify(&self, name: &ChannelName, address: Address, user: &KnownUser, now: Instant) {
        if self.history.is_on.load(Ordering::Acquire) {
            self.change_channel(name, now, |channel, scope| channel.identify(address, user, scope));
        }
    }

    /// Reports the bytes of the app's histories, and the events that were dropped for want of them.
    pub fn report_history(&self) {
        if let Some(meters) = self.history.meters.as_ref().filter(|_| self.history.was_on.load(Ordering::Relaxed)) {
            meters.report(self.history.totals.bytes(), self.history.totals.take_evicted());
        }
    }
}
