//! What goes to many in a flood waits a little for what comes right behind it, since one write takes both.

use std::time::Duration;
use std::time::Instant;

use crate::shard::Shard;
use crate::shard::channel::Channel;

/// Below so many subscribers there is too little to save.
const SUBSCRIBERS_MIN: usize = 100;
/// How long to wait for the next event, for each subscriber: a little of the microseconds that it takes to write to it.
const NEXT: Duration = Duration::from_nanos(125);
/// The same for all events together.
const ALL: Duration = Duration::from_nanos(1000);

impl Shard {
    /// Lets the publishers on this thread add to what is pending. An event that has come alone does not wait.
    pub(super) async fn gather(&mut self, messages: usize) {
        let pending = self.pending.iter().filter_map(|id| self.channels.get(id));
        let subscribers = pending.map(Channel::width).max().unwrap_or_default();
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
