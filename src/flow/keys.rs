//! The keys of one rule on one channel, each with its state, found by name and in the order of their deadlines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use slotmap::SlotMap;
use slotmap::new_key_type;

new_key_type! {
    /// A key that is present.
    pub(super) struct KeySlot;
}

/// Keys with their states and deadlines. Each key has one deadline. Of keys with the same deadline, the one that got it
/// first comes first.
#[derive(Debug)]
pub(super) struct Keys<T> {
    slots: HashMap<Arc<str>, KeySlot>,
    states: SlotMap<KeySlot, (Arc<str>, T)>,
    deadlines: BinaryHeap<Reverse<(Instant, u64, KeySlot)>>,
    /// Deadlines so far.
    count: u64,
}

impl<T> Keys<T> {
    pub(super) fn new() -> Self {
        Self { slots: HashMap::new(), states: SlotMap::with_key(), deadlines: BinaryHeap::new(), count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The state of a key.
    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        let slot = *self.slots.get(id)?;
        self.states.get_mut(slot).map(|(_, state)| state)
    }

    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.states.get(*self.slots.get(id)?).map(|(_, state)| state)
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, id: Arc<str>, state: T, deadline: Instant) {
        let slot = self.states.insert((Arc::clone(&id), state));
        self.slots.insert(id, slot);
        self.count += 1;
        self.deadlines.push(Reverse((deadline, self.count, slot)));
    }

    /// Takes the key with the earliest deadline out.
    pub(super) fn remove_first(&mut self) -> Option<(Arc<str>, T)> {
        while let Some(Reverse((.., slot))) = self.deadlines.pop() {
            if let Some((id, state)) = self.states.remove(slot) {
                self.slots.remove(&id);
                return Some((id, state));
            }
        }
        None
    }

    /// Calls `f` for each key whose deadline has come. It returns the key's next deadline, or `None` to remove the key.
    pub(super) fn run_due(&mut self, now: Instant, mut f: impl FnMut(&Arc<str>, &mut T, Instant) -> Option<Instant>) {
        while let Some(&Reverse((deadline, _, slot))) = self.deadlines.peek().filter(|Reverse((at, ..))| *at <= now) {
            self.deadlines.pop();
            let Some((id, state)) = self.states.get_mut(slot) else { continue };
            match f(id, state, deadline) {
                Some(next) => {
                    self.count += 1;
                    self.deadlines.push(Reverse((next, self.count, slot)));
                }
                None => {
                    self.slots.remove(id);
                    self.states.remove(slot);
                }
            }
        }
    }

    /// Takes the keys out whose deadline has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Arc<str>, T)> {
        let mut due = Vec::new();
        while self.deadlines.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            due.extend(self.remove_first());
        }
        due
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, ..))| *deadline)
    }

    /// All keys, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut T)> {
        self.states.values_mut().map(|(id, state)| (&*id, state))
    }

    /// Takes all keys out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Arc<str>, T)> {
        self.slots.clear();
        self.deadlines.clear();
        self.states.drain().map(|(_, entry)| entry)
    }
}
