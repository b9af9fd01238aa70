//! What this process knows of one app: its channels with their members, its signed-in users, its connections.
//! Synchronous, locked in parts, shared by all shards.
//!
//! Invariant: what a change announces is put into the shards' inboxes under the same lock as the change
//! itself. So every shard hears of changes and events in the order in which they happened, and a new
//! subscriber's list and the notices behind it never overlap and never leave a gap.

pub mod address;
mod channels;
pub mod inbox;
mod members;
mod users;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

pub use channels::ChannelInfo;
pub use channels::Full;
pub use channels::JoinRules;
pub use channels::Leaver;

use crate::registry::channels::Channels;
use crate::registry::inbox::Inboxes;
use crate::registry::users::Users;

/// The state of one app in this process.
#[derive(Debug)]
pub struct AppState {
    inboxes: Arc<Inboxes>,
    channels: Channels,
    users: Mutex<Users>,
    connections: AtomicUsize,
}

impl AppState {
    /// An app that nobody is connected to.
    pub fn new(inboxes: Arc<Inboxes>) -> Self {
        Self { inboxes, channels: Channels::default(), users: Mutex::default(), connections: AtomicUsize::new(0) }
    }

    /// Counts one more connection, unless there are `max` already.
    pub fn connect(&self, max: Option<usize>) -> bool {
        let one_more = |count: usize| (max.is_none_or(|max| count < max)).then_some(count + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts one connection less.
    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Signed-in users.
    pub fn users_online(&self) -> usize {
        self.users.lock().online()
    }
}
