//! The events of all cache channels of the process, up to a number of bytes. Beyond it the oldest are evicted.
//! `channel` stores events here, and decides with its handle when one expires.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;

/// The memory of a cached event besides its frame and its channel's name: an entry here, and a channel without
/// subscribers.
const OVERHEAD: usize = 512;

/// The cached events of all channels of all apps.
#[derive(Debug)]
pub struct EventCache {
    bytes_max: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Frames and their cost in bytes. The oldest has the least number.
    events: BTreeMap<u64, (Frame, usize)>,
    bytes: usize,
    last: u64,
    evicted: u64,
}

/// One cached event. To drop it removes the event.
#[derive(Debug)]
pub(super) struct CachedEvent {
    number: u64,
    cache: Arc<EventCache>,
}

impl EventCache {
    /// An empty cache for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, entries: Mutex::default() }
    }

    /// Bytes of the cached events.
    pub fn bytes(&self) -> usize {
        self.entries.lock().bytes
    }

    /// Events evicted since the last call.
    pub fn take_evicted(&self) -> u64 {
        std::mem::take(&mut self.entries.lock().evicted)
    }

    /// Stores an event of a channel, and evicts the oldest ones beyond the bound, which may be this very event.
    pub(super) fn store(self: &Arc<Self>, channel: &ChannelName, frame: &Frame) -> CachedEvent {
        let bytes = frame.bytes().len() + channel.as_str().len() + OVERHEAD;
        let mut entries = self.entries.lock();
        entries.last += 1;
        entries.bytes += bytes;
        let number = entries.last;
        entries.events.insert(number, (frame.clone(), bytes));
        while entries.bytes > self.bytes_max {
            let Some((_, (_, oldest_bytes))) = entries.events.pop_first() else { break };
            entries.bytes -= oldest_bytes;
            entries.evicted += 1;
        }
        CachedEvent { number, cache: Arc::clone(self) }
    }
}

impl CachedEvent {
    /// The event's frame, unless the event was evicted.
    pub(super) fn frame(&self) -> Option<Frame> {
        self.cache.entries.lock().events.get(&self.number).map(|(frame, _)| frame.clone())
    }
}

impl Drop for CachedEvent {
    fn drop(&mut self) {
        let mut entries = self.cache.entries.lock();
        if let Some((_, bytes)) = entries.events.remove(&self.number) {
            entries.bytes -= bytes;
        }
    }
}
