//! A hash table of channels in parts with a lock each. An operation hashes the channel's name once.

use std::hash::BuildHasher;
use std::hash::RandomState;

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::protocol::channel::ChannelName;
use crate::registry::channel::Channel;

/// Parts with a lock each.
pub(crate) const PARTS: usize = 32;

type Part = HashTable<Channel>;

/// Channels by their names.
#[derive(Debug, Default)]
pub(crate) struct ChannelTable {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

/// The place of one channel, under the lock of its part. There may be no channel yet.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    name: &'a str,
    hash: u64,
    hasher: &'a RandomState,
    part: &'a mut Part,
}

impl ChannelTable {
    /// Runs `f` on the channel called `name`. The lock never leaves this function, so no caller can hold it across an
    /// `.await`.
    pub(crate) fn with<R>(&self, name: &str, f: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        let hash = self.hasher.hash_one(name);
        // A part finds a channel by the other bits.
        let mut part = self.parts[(hash >> 32) as usize % PARTS].lock();
        f(&mut Entry { name, hash, hasher: &self.hasher, part: &mut part })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.lock().is_empty())
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// The results of `f` for all channels, one part after the other.
    pub(crate) fn collect<T>(&self, f: impl Fn(&Channel) -> Option<T>) -> Vec<T> {
        self.parts.iter().flat_map(|part| part.lock().iter().filter_map(&f).collect::<Vec<_>>()).collect()
    }

    /// The names of the channels that `is_wanted` chooses.
    pub(crate) fn names(&self, is_wanted: impl Fn(&Channel) -> bool) -> Vec<ChannelName> {
        self.collect(|channel| is_wanted(channel).then(|| channel.name.clone()))
    }

    /// Removes channels from one part.
    pub(crate) fn retain(&self, part: usize, is_wanted: impl FnMut(&mut Channel) -> bool) {
        self.parts[part % PARTS].lock().retain(is_wanted);
    }
}

impl Entry<'_> {
    /// The channel, if there is one.
    pub(crate) fn get(&mut self) -> Option<&mut Channel> {
        self.part.find_mut(self.hash, |channel| channel.name.as_str() == self.name)
    }

    /// The channel, or a new one.
    pub(crate) fn get_or_insert_with(&mut self, new: impl FnOnce() -> Channel) -> &mut Channel {
        let hash_of = |channel: &Channel| self.hasher.hash_one(channel.name.as_str());
        let entry = self.part.entry(self.hash, |channel| channel.name.as_str() == self.name, hash_of);
        entry.or_insert_with(new).into_mut()
    }

    /// Removes the channel.
    pub(crate) fn remove(&mut self) {
        if let Ok(entry) = self.part.find_entry(self.hash, |channel| channel.name.as_str() == self.name) {
            entry.remove();
        }
    }
}
