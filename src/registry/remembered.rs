//! What the cache channels of the whole process remember: so many bytes at most. Beyond it the events that were
//! published longest ago are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Weak;

use parking_lot::Mutex;

use crate::protocol::channel::ChannelName;
use crate::registry::channels::Channels;

/// What a remembered event costs besides its frame and its channel's name: an entry here, and a channel without
/// subscribers.
const OVERHEAD: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Remembered {
    bytes_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By the order in which they were published.
    events: BTreeMap<u64, Entry>,
    bytes: usize,
    last: u64,
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    channels: Weak<Channels>,
    name: ChannelName,
    bytes: usize,
}

/// A remembered event that counts as long as this is there.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    all: Arc<Remembered>,
}

/// An event that is to be forgotten.
#[derive(Debug)]
pub(super) struct Forgotten {
    channels: Weak<Channels>,
    name: ChannelName,
    number: u64,
}

impl Remembered {
    /// Nothing yet, and so many bytes at most.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, table: Mutex::default() }
    }

    /// Bytes that are remembered now.
    pub fn bytes(&self) -> usize {
        self.table.lock().bytes
    }

    /// Events forgotten since the last time, for want of room.
    pub fn take_forgotten(&self) -> u64 {
        std::mem::take(&mut self.table.lock().forgotten)
    }

    /// Counts an event of so many bytes. What there is no room for any more is to be forgotten once the channel's lock is
    /// gone, which may be this very event.
    pub(super) fn put(
        self: &Arc<Self>,
        channels: &Arc<Channels>,
        name: &ChannelName,
        bytes: usize,
        forgotten: &mut Vec<Forgotten>,
    ) -> Place {
        let bytes = bytes + name.as_str().len() + OVERHEAD;
        let mut table = self.table.lock();
        table.last += 1;
        table.bytes += bytes;
        let number = table.last;
        table.events.insert(number, Entry { channels: Arc::downgrade(channels), name: name.clone(), bytes });
        while table.bytes > self.bytes_max {
            let Some((number, Entry { channels, name, bytes })) = table.events.pop_first() else { break };
            table.bytes -= bytes;
            table.forgotten += 1;
            forgotten.push(Forgotten { channels, name, number });
        }
        Place { number, all: Arc::clone(self) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.all.table.lock();
        if let Some(entry) = table.events.remove(&self.number) {
            table.bytes -= entry.bytes;
        }
    }
}

impl Place {
    /// Whether it is that of this event.
    pub(super) fn is(&self, forgotten: &Forgotten) -> bool {
        self.number == forgotten.number
    }
}

impl Forgotten {
    /// Forgets it, unless its channel remembers another one by now. Takes the channel's lock.
    pub(super) fn forget(self) {
        if let Some(channels) = self.channels.upgrade() {
            channels.forget(&self.name, &self);
        }
    }
}
