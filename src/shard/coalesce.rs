//! Waits a little before a flush to many subscribers in a flood, so that one write takes several events.
//! The shard calls it between reading and flushing.

use std::time::Duration;
use std::time::Instant;

use crate::shard::Shard;
use crate::shard::channel::Channel;

/// With fewer subscribers a wait saves too little.
const SUBSCRIBERS_MIN: usize = 100;
/// How long to wait for the next event, per subscriber: a fraction of the microseconds that a write takes.
const NEXT: Duration = Duration::from_nanos(125);
/// Like `NEXT`, but for all events together.
const ALL: Duration = Duration::from_nanos(1000);

impl Shard {
    /// Lets the publishers on this thread add events. A single event does not wait.
    pub(super) async fn coalesce(&mut self, messages: usize) {
        let pending = self.pending.iter().filter_map(|id| self.channels.get(id));
        let subscribers = pending.map(Channel::subscriber_count).max().unwrap_or_default();
        if messages < 2 || subscribers < SUBSCRIBERS_MIN {
            return;
        }
        let subscribers = u32::try_from(subscribers).unwrap_or(u32::MAX);
        let (next, all) = (NEXT * subscribers, ALL * subscribers);
        let began = Instant::now();
        let mut last = began;
        while last.elapsed() < next && began.elapsed() < all {
            tokio::task::yield_now().await;
            if self.take_inbox() > 0 {
                last = Instant::now();
            }
        }
    }
}
