//! How many channels the process has, those of all apps together.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// See the module.
#[derive(Debug)]
pub struct ChannelTotal {
    channels: AtomicUsize,
    max: usize,
}

impl ChannelTotal {
    /// No channel, of so many that there may be.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { channels: AtomicUsize::new(0), max })
    }

    /// How many there are.
    pub fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether there are as many as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.channels() >= self.max
    }
}

/// One channel's place, as long as there is that channel.
#[derive(Debug)]
pub(super) struct Seat(Arc<ChannelTotal>);

impl Seat {
    pub(super) fn of(total: &Arc<ChannelTotal>) -> Self {
        total.channels.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(total))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
