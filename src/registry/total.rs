//! The number of channels of all apps. `node` makes one total; each channel has a guard that counts it. Flows of channels
//! have a total of their own.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// The number of channels in the process, and its limit.
#[derive(Debug)]
pub struct ChannelTotal {
    channels: AtomicUsize,
    max: usize,
}

/// Counts one channel until it is dropped.
#[derive(Debug)]
pub(super) struct ChannelGuard(Arc<ChannelTotal>);

impl ChannelTotal {
    /// No channels, of `max` at most.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { channels: AtomicUsize::new(0), max })
    }

    /// Channels now.
    pub fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether there may be no further channel.
    pub(super) fn is_full(&self) -> bool {
        self.channels() >= self.max
    }

    /// Counts one more channel.
    pub(super) fn add(self: &Arc<Self>) -> ChannelGuard {
        self.channels.fetch_add(1, Ordering::Relaxed);
        ChannelGuard(Arc::clone(self))
    }
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
