//! Tasks: the only place that spawns. Every task ends by the same token and is waited for.
//! Modules with background work spawn through it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one shard's runtime.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop }
    }

    /// Cancelled when the tasks have to end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a task on the current runtime.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Waits for all tasks for this time at most. Returns how many are left.
    pub async fn finish(&self, at_most: Duration) -> usize {
        self.tracker.close();
        let _ = tokio::time::timeout(at_most, self.tracker.wait()).await;
        self.tracker.len()
    }
}
