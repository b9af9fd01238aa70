//! Notifications that wait for `dispatch` to announce them, in order and within a limit per app.
//! `dispatch` fills and empties it; it grows while Redis is away.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::webhook::endpoint::BacklogSize;
use crate::webhook::notification::Notification;

/// Memory of a notification besides its text.
const OVERHEAD: usize = 256;

/// The waiting notifications of all apps.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    apps: HashMap<Arc<str>, AppBacklog>,
}

/// The notifications of one app. The sums include those that [`Backlog::take`] has handed out.
#[derive(Debug, Default)]
struct AppBacklog {
    notifications: VecDeque<Notification>,
    events: usize,
    bytes: usize,
}

impl Backlog {
    /// Appends a notification.
    pub(super) fn push(&mut self, notification: Notification) {
        let backlog = self.apps.entry(Arc::clone(&notification.occupancy.app)).or_default();
        backlog.events += notification.endpoints.len();
        backlog.bytes += bytes(&notification);
        backlog.notifications.push_back(notification);
    }

    /// Hands out the oldest, at most `max`. They count until [`Backlog::remove`].
    pub(super) fn take(&mut self, max: usize) -> Vec<Notification> {
        let mut taken = Vec::new();
        for backlog in self.apps.values_mut() {
            let count = backlog.notifications.len().min(max - taken.len());
            taken.extend(backlog.notifications.drain(..count));
        }
        taken
    }

    /// Ceases to count these.
    pub(super) fn remove(&mut self, taken: &[Notification]) {
        for notification in taken {
            self.subtract(notification);
        }
    }

    /// Puts these back. Drops the oldest of each app that has more than `bytes_max`, and returns them.
    pub(super) fn restore(&mut self, taken: Vec<Notification>, bytes_max: usize) -> Vec<Notification> {
        for notification in taken.into_iter().rev() {
            if let Some(backlog) = self.apps.get_mut(&notification.occupancy.app) {
                backlog.notifications.push_front(notification);
            }
        }
        let mut dropped = Vec::new();
        for backlog in self.apps.values_mut() {
            let mut left = backlog.bytes;
            while left > bytes_max {
                let Some(oldest) = backlog.notifications.pop_front() else { break };
                left -= bytes(&oldest);
                dropped.push(oldest);
            }
        }
        self.remove(&dropped);
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Whether a notification of this app waits.
    pub(super) fn has(&self, app: &str) -> bool {
        self.apps.contains_key(app)
    }

    /// How much waits for an app's endpoints.
    pub(super) fn size(&self, app: &str) -> BacklogSize {
        let Some(backlog) = self.apps.get(app) else { return BacklogSize::default() };
        let oldest = backlog.notifications.front().map(|oldest| oldest.since.elapsed()).unwrap_or_default();
        BacklogSize { events: backlog.events, bytes: backlog.bytes, oldest }
    }

    /// Events that wait, counted once for each endpoint.
    pub(super) fn events(&self) -> usize {
        self.apps.values().map(|backlog| backlog.events).sum()
    }

    fn subtract(&mut self, notification: &Notification) {
        let Some(backlog) = self.apps.get_mut(&notification.occupancy.app) else { return };
        backlog.events -= notification.endpoints.len();
        backlog.bytes -= bytes(notification);
        if backlog.bytes == 0 {
            self.apps.remove(&notification.occupancy.app);
        }
    }
}

fn bytes(notification: &Notification) -> usize {
    notification.text.len() + OVERHEAD
}
