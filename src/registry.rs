//! The state of each app in this process: its channels with their members, its signed-in users and its connections.
//! Synchronous, locked in parts, shared by all shards. `node` makes one [`AppState`] for each app.
//!
//! Invariant: the announcements of a change are put into the shards' inboxes under the lock of the change. So every shard
//! gets changes and events in the order in which they happened, and a new subscriber's list and the announcements after
//! it neither overlap nor leave a gap. Commands for other nodes are put into the outgoing queue under that lock, too.

pub mod address;
pub mod cache;
mod channel;
mod channels;
pub mod connections;
pub mod deadlines;
mod flow;
mod history;
pub mod inbox;
mod members;
pub mod remote;
mod scope;
mod subscription;
mod total;
mod users;
mod views;
pub mod webhook_events;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

pub use channel::Activity;
pub use channels::ChannelInfo;
pub use subscription::Full;
pub use subscription::JoinRules;
pub use subscription::Unsubscribe;
pub use total::ChannelTotal;

use crate::metrics::FlowMeters;
use crate::metrics::HistoryMeters;
use crate::protocol::webhook::Kind;
use crate::protocol::webhook::Kinds;
use crate::registry::cache::EventCache;
use crate::registry::channels::Channels;
use crate::registry::deadlines::Deadlines;
use crate::registry::flow::AppFlow;
use crate::registry::history::AppHistory;
use crate::registry::inbox::Inboxes;
use crate::registry::remote::outgoing::Outgoing;
use crate::registry::users::Users;
use crate::registry::views::Views;
use crate::registry::webhook_events::WebhookQueue;

/// The state of one app in this process.
#[derive(Debug)]
pub struct AppState {
    id: Arc<str>,
    inboxes: Arc<Inboxes>,
    /// Commands for the other nodes, if there may be any.
    outgoing: Option<Arc<Outgoing>>,
    webhooks: Arc<WebhookQueue>,
    total: Arc<ChannelTotal>,
    /// The [`Kinds`] of webhook events that are recorded.
    wanted: AtomicU8,
    channels: Channels,
    /// Channels count their events, for the operator's page.
    counts_activity: bool,
    cache: Arc<EventCache>,
    flow: AppFlow,
    history: AppHistory,
    users: Mutex<Users>,
    views: Views,
    connections: AtomicUsize,
}

impl AppState {
    /// An app that nobody is connected to.
    pub fn new(
        id: &str,
        inboxes: Arc<Inboxes>,
        outgoing: Option<Arc<Outgoing>>,
        webhooks: Arc<WebhookQueue>,
        cache: Arc<EventCache>,
    ) -> Self {
        Self {
            id: id.into(),
            inboxes,
            outgoing,
            webhooks,
            total: ChannelTotal::new(usize::MAX),
            wanted: AtomicU8::new(0),
            channels: Channels::default(),
            counts_activity: false,
            cache,
            flow: AppFlow::default(),
            history: AppHistory::default(),
            users: Mutex::default(),
            views: Views::default(),
            connections: AtomicUsize::new(0),
        }
    }

    /// Counts the channels together with those of other apps.
    pub fn counted_in(self, total: Arc<ChannelTotal>) -> Self {
        Self { total, ..self }
    }

    /// Has the channels count their events, for the operator's page.
    pub fn counting_activity(self, counts_activity: bool) -> Self {
        Self { counts_activity, ..self }
    }

    /// Runs the app's flow rules by these deadlines, and counts what becomes of its events.
    pub fn thinned_by(self, deadlines: Arc<Deadlines>, meters: FlowMeters) -> Self {
        Self { flow: AppFlow::new(deadlines, meters), ..self }
    }

    /// Counts what users get of the history.
    pub fn remembered_by(self, meters: HistoryMeters) -> Self {
        Self { history: AppHistory::new(meters), ..self }
    }

    /// The app's id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Records the webhook events that these kinds need, from now on.
    pub fn set_webhook_kinds(&self, kinds: Kinds) {
        self.wanted.store(webhook_events::recorded_kinds(kinds).0, Ordering::Relaxed);
    }

    /// Whether webhook events of this kind are recorded.
    pub fn records_webhook(&self, kind: Kind) -> bool {
        Kinds(self.wanted.load(Ordering::Relaxed)).contains(kind)
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

    /// Whether there is no channel, and no user signed in or watched.
    pub fn is_idle(&self) -> bool {
        self.channels.table.is_empty() && self.users.lock().is_idle() && self.flow.before_nodes.lock().is_empty()
    }
}
