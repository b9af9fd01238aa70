//! The part of an app's channels that other nodes have: `cluster` asks for it, and tells what happens there.

use std::sync::Arc;
use std::time::Instant;

use crate::flow::channel::StoredEvent;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::registry::AppState;
use crate::registry::channels::table::Entry;
use crate::registry::remote::message::LocalTopic;

impl AppState {
    pub(crate) fn local_channel(&self, name: &ChannelName) -> LocalTopic {
        let local = |entry: &mut Entry<'_>| entry.get().map(|channel| channel.local_topic());
        let local = self.channels.table.with(name.as_str(), local).unwrap_or_default();
        LocalTopic { snapshot: self.snapshot_max(name), ..local }
    }

    /// A command to store events of a channel has ended.
    pub fn on_stored(&self, name: &ChannelName, is_stored: bool, now: Instant) {
        self.change_channel(name, now, |channel, scope| channel.on_stored(is_stored, scope));
    }

    /// The command of this number has fetched what Redis has stored of a channel's snapshot, or has failed.
    pub fn on_fetched(&self, name: &ChannelName, number: u64, stored: Option<Vec<StoredEvent>>, now: Instant) {
        self.change_channel(name, now, |channel, scope| channel.on_fetched(number, stored, scope));
    }

    /// The number of connections on a channel here, and whether other nodes have to get it.
    pub fn take_count(&self, name: &ChannelName) -> (usize, bool) {
        let count = |entry: &mut Entry<'_>| entry.get().map(|channel| channel.take_count());
        self.channels.table.with(name.as_str(), count).unwrap_or_default()
    }

    /// Events of other nodes come for more views: lets in the joiners of these channels.
    pub(crate) fn admit_arriving(&self, names: impl IntoIterator<Item = ChannelName>, now: Instant) {
        for name in names {
            self.change_channel(&name, now, |channel, scope| channel.admit_arriving(scope));
        }
    }

    /// The link is up: opens the topics of all channels.
    pub(crate) fn open_channels(&self, now: Instant) {
        for name in self.channels.table.names(|_| true) {
            self.change(&name, now, |entry, scope| {
                let Some(channel) = entry.get() else { return };
                if channel.is_idle(scope) {
                    entry.remove();
                } else {
                    channel.open(scope);
                }
            });
        }
    }

    /// The link is lost: this node decides alone.
    pub(crate) fn unlink_channels(&self, now: Instant) {
        for name in self.channels.table.names(|_| true) {
            self.change_channel(&name, now, |channel, scope| channel.on_unlinked(scope));
        }
    }

    /// Nodes have crashed or left; each comes with whether it has left.
    pub fn remove_nodes(&self, nodes: &[(NodeId, bool)], now: Instant) {
        for name in self.channels.table.names(|channel| channel.knows(nodes)) {
            self.change_channel(&name, now, |channel, scope| {
                for &(node, has_left) in nodes {
                    channel.remove_node(node, has_left, scope);
                }
            });
        }
    }

    /// The users of a presence channel that left this node and are on no other node, while their removal is on its way.
    pub fn pending_departures(&self, name: &str) -> Vec<Arc<str>> {
        self.channels.table.with(name, |entry| {
            let members = entry.get().and_then(|channel| channel.members.as_ref());
            members.map_or_else(Vec::new, |members| members.pending_departures(self.node()))
        })
    }
}
