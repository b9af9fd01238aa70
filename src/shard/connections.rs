//! The table of a shard's connections, by slot.
//! Every other file of the shard looks connections up here.

use crate::registry::address::Slot;

/// A slab whose slots carry a generation: the slot of a removed connection finds nothing, even if its index is used
/// again.
#[derive(Debug)]
pub(super) struct ConnectionTable<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> ConnectionTable<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Inserts the value that `make` creates for its slot.
    pub(super) fn insert(&mut self, make: impl FnOnce(Slot) -> T) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            u32::try_from(self.entries.len() - 1).expect("a shard has fewer connections than u32 counts")
        });
        let entry = &mut self.entries[index as usize];
        let slot = Slot { index, generation: entry.generation };
        entry.value = Some(make(slot));
        slot
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        if entry.generation == slot.generation { entry.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        if entry.generation != slot.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(value)
    }

    /// The number of values.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The slots in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.value.is_some()).map(|(index, entry)| Slot {
            index: u32::try_from(index).expect("an index made from a u32"),
            generation: entry.generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_find_the_newcomer() {
        let mut table = ConnectionTable::new();
        let old = table.insert(|_| "old");
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert(|_| "new");
        assert_eq!(old.index, new.index);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.len(), 1);
    }
}
