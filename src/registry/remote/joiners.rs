//! Connections that wait to join a channel until the other nodes know. `channel` adds them and lets them in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::registry::address::Address;
use crate::registry::subscription::Joiner;

/// How long a joiner waits for the other nodes before the next check, which makes two seconds at most.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(800);

/// The joiners of one channel.
#[derive(Debug, Default)]
pub(crate) struct Joiners {
    /// They join when the topic is open and events for their views come.
    pub(crate) arriving: Vec<Joiner>,
    /// Updates of members by their numbers, with the joiners that wait for them.
    updates: BTreeMap<u64, PendingUpdate>,
    /// They were refused, but their shard has not left the channel yet.
    refused: Vec<Address>,
    last_update: u64,
}

/// A command to add a member, or to change its `user_info`.
#[derive(Debug)]
pub(crate) struct PendingUpdate {
    pub(crate) user_id: Arc<str>,
    /// The version of the roster that has the update.
    version: Option<u64>,
    pub(crate) joiners: Vec<Joiner>,
}

impl Joiners {
    /// A joiner waits for the update of this number, or for the topic.
    pub(crate) fn wait(&mut self, joiner: Joiner, update: Option<u64>) {
        match update.and_then(|number| self.updates.get_mut(&number)) {
            Some(update) => update.joiners.push(joiner),
            None => self.arriving.push(joiner),
        }
    }

    /// Whether nobody waits, and nobody was refused.
    pub(crate) fn is_empty(&self) -> bool {
        self.arriving.is_empty() && self.updates.is_empty() && self.refused.is_empty()
    }

    /// Whether somebody has waited long enough.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        let first = self.updates.values().find_map(|update| update.joiners.first());
        let oldest = self.arriving.first().into_iter().chain(first);
        oldest.into_iter().any(|joiner| now.saturating_duration_since(joiner.came) >= WAIT_MAX)
    }

    /// The member limit of the last joiner that waits.
    pub(crate) fn members_max(&self) -> Option<usize> {
        let pending = self.updates.values().flat_map(|update| &update.joiners);
        pending.chain(&self.arriving).last().map(|joiner| joiner.rules.members_max)
    }

    /// Removes a joiner. False when it does not wait.
    pub(crate) fn remove(&mut self, address: Address) -> bool {
        self.lists().any(|joiners| {
            let found = joiners.iter().position(|joiner| joiner.address == address);
            found.map(|place| joiners.swap_remove(place)).is_some()
        })
    }

    /// Removes a refused joiner. False when this one was not refused.
    pub(crate) fn remove_refused(&mut self, address: Address) -> bool {
        let found = self.refused.iter().position(|refused| *refused == address);
        found.map(|place| self.refused.swap_remove(place)).is_some()
    }

    /// Refuses the joiners of these users, and returns them.
    pub(crate) fn refuse(&mut self, users: &[Arc<str>]) -> Vec<Joiner> {
        let of_users = |joiner: &mut Joiner| joiner.member.as_ref().is_some_and(|one| users.contains(&one.user_id));
        let refused: Vec<_> = self.lists().flat_map(|joiners| joiners.extract_if(.., of_users)).collect();
        self.refused.extend(refused.iter().map(|joiner| joiner.address));
        refused
    }

    /// Takes all joiners.
    pub(crate) fn take_all(&mut self) -> Vec<Joiner> {
        let mut joiners = std::mem::take(&mut self.arriving);
        joiners.extend(std::mem::take(&mut self.updates).into_values().flat_map(|update| update.joiners));
        joiners
    }

    /// The number of a new update.
    pub(crate) fn next_update(&mut self) -> u64 {
        self.last_update += 1;
        self.last_update
    }

    /// Joiners may wait for this update of a user.
    pub(crate) fn add_update(&mut self, number: u64, user_id: Arc<str>) {
        self.updates.insert(number, PendingUpdate { user_id, version: None, joiners: Vec::new() });
    }

    /// The roster of this version has an update.
    pub(crate) fn on_applied(&mut self, number: u64, version: u64) {
        if let Some(update) = self.updates.get_mut(&number) {
            update.version = Some(version);
        }
    }

    /// Removes a refused update. Returns whether a later one of the user is on its way.
    pub(crate) fn remove_update(&mut self, number: u64, user_id: &str) -> bool {
        self.updates.remove(&number);
        self.updates.range(number..).any(|(_, update)| *update.user_id == *user_id)
    }

    /// Takes the first update if the roster of this version has it.
    pub(crate) fn pop_applied(&mut self, version: u64) -> Option<(u64, PendingUpdate)> {
        let first = self.updates.first_entry()?;
        let is_applied = first.get().version.is_some_and(|applied| applied <= version);
        is_applied.then(|| first.remove_entry())
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<Joiner>> {
        self.updates.values_mut().map(|update| &mut update.joiners).chain([&mut self.arriving])
    }
}
