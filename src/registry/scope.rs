//! The context of a change under the lock of a channel or of the users. `channels` and `users` make one for each change.

use std::sync::Arc;
use std::time::Instant;

use crate::history::reader::Reader;
use crate::protocol::channel::ChannelName;
use crate::protocol::webhook;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::InboxWriter;
use crate::registry::inbox::ShardMessage;
use crate::registry::webhook_events::Change;
use crate::registry::webhook_events::WebhookEvent;

/// The app of a change, and what is left to do once the lock is released.
pub(crate) struct Scope<'a> {
    pub(crate) app: &'a AppState,
    pub(crate) now: Instant,
    /// Shards that get messages are woken after the lock.
    pub(crate) inboxes: InboxWriter<'a>,
    /// The channel publishes its number of subscribers later.
    pub(crate) count_later: bool,
    /// The channel has to be reconciled with the other nodes.
    pub(crate) needs_reconcile: bool,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(app: &'a AppState, now: Instant) -> Self {
        Self { app, now, inboxes: app.inboxes.writer(), count_later: false, needs_reconcile: false }
    }

    /// Makes the shard of a connection ask the client which events of a channel have arrived.
    pub(super) fn track(&mut self, address: Address, id: ChannelId, reader: Arc<Reader>) {
        self.inboxes.put_to(address, |slot| ShardMessage::Track(slot, id, reader));
    }

    /// Records a webhook event if its kind is wanted.
    pub(crate) fn record(&self, channel: &ChannelName, event: webhook::Event) {
        if self.app.records_webhook(event.kind()) {
            self.record_change(channel, Change::Event(event));
        }
    }

    /// Records a change for the webhooks. A user's own channel has none.
    pub(crate) fn record_change(&self, channel: &ChannelName, change: Change) {
        if channel.user().is_none() {
            let app = self.app.id.clone();
            self.app.webhooks.put(WebhookEvent { app, channel: channel.clone(), change });
        }
    }
}
