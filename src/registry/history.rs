//! The history rules of an app, and what its channels keep by them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::history::channel::ChannelHistory;
use crate::history::log::HistoryBytes;
use crate::history::rule::HistoryRules;
use crate::metrics::HistoryMeters;
use crate::protocol::channel::ChannelName;
use crate::protocol::identity::KnownUser;
use crate::registry::AppState;
use crate::registry::address::Address;

/// The history rules of an app.
#[derive(Debug, Default)]
pub(super) struct AppHistory {
    rules: ArcSwap<HistoryRules>,
    /// There are rules. Without any, nothing else is asked.
    is_on: AtomicBool,
    /// There have been rules, so that there is something to report.
    was_on: AtomicBool,
    bytes: Arc<HistoryBytes>,
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
        Some(Box::new(ChannelHistory::new(Arc::clone(rule), Arc::clone(&self.bytes))))
    }

    /// Whether a channel keeps events although nobody may come back.
    pub(super) fn replays_last(&self, name: &ChannelName) -> bool {
        self.is_on.load(Ordering::Acquire) && self.rules.load().of_channel(name).is_some_and(|rule| rule.last() > 0)
    }
}

impl AppState {
    /// Takes history rules, and how many bytes all channels of the app may keep.
    pub fn set_history_rules(&self, rules: HistoryRules, bytes_max: usize, now: Instant) {
        self.history.bytes.set_max(bytes_max);
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

    /// A connection on a channel has signed in as this user.
    pub fn identify(&self, name: &ChannelName, address: Address, user: &KnownUser, now: Instant) {
        if self.history.is_on.load(Ordering::Acquire) {
            self.change_channel(name, now, |channel, scope| channel.identify(address, user, scope));
        }
    }

    /// Reports the bytes of the app's histories, and the events that were dropped for want of them.
    pub fn report_history(&self) {
        if let Some(meters) = self.history.meters.as_ref().filter(|_| self.history.was_on.load(Ordering::Relaxed)) {
            meters.report(self.history.bytes.used(), self.history.bytes.take_evicted());
        }
    }
}
