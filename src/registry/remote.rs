//! Everything that channels and users have to do with other nodes. `cluster` carries out the commands in [`outgoing`],
//! and calls the methods below with the answers and with messages of other nodes.

pub(crate) mod channel;
pub mod command;
pub(crate) mod dedup;
pub mod history;
pub(crate) mod joiners;
pub(crate) mod marked;
pub mod message;
mod missed;
pub mod outgoing;
pub mod roster;
pub(crate) mod topic;

use std::time::Duration;
use std::time::Instant;

use crate::history::channel::Missed;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::registry::AppState;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;
use crate::registry::remote::outgoing::Outgoing;
use crate::registry::scope::Scope;

/// Within this time after a lost link the other nodes are back, and have sent what Redis may have lost.
const YOUNG: Duration = Duration::from_secs(5);

impl AppState {
    /// The link to the other nodes is up: publishes the state of this node, and opens the topics that matter here.
    pub fn on_linked(&self, now: Instant) {
        self.open_channels(now);
        self.open_users();
    }

    /// The link is lost: this node decides alone.
    pub fn on_unlinked(&self, now: Instant) {
        self.unlink_views();
        self.unlink_channels(now);
        self.unlink_users();
    }

    /// The part of a topic that is on this node, for the other nodes.
    pub fn local_topic(&self, topic: &Topic) -> LocalTopic {
        match topic {
            Topic::Channel(name) => self.local_channel(name),
            Topic::User(user_id) => self.local_user(user_id),
        }
    }

    /// The command of this number has opened a topic. Without a snapshot the state of the other nodes is unknown.
    pub fn on_opened(&self, topic: &Topic, number: u64, snapshot: Option<Snapshot>, now: Instant) {
        match topic {
            Topic::Channel(name) => {
                self.change_channel(name, now, |channel, scope| channel.on_opened(number, snapshot, scope));
            }
            Topic::User(id) => {
                self.change_users(|users, scope| users.on_opened(id, number, snapshot.as_ref(), scope));
            }
        }
    }

    /// The command to update a member has ended.
    pub fn on_updated(&self, topic: &Topic, update: &MemberUpdate, outcome: UpdateOutcome, now: Instant) {
        match (topic, outcome) {
            (Topic::Channel(name), _) => {
                self.change_channel(name, now, |channel, scope| channel.on_updated(update, outcome, scope));
            }
            (Topic::User(id), UpdateOutcome::Failed) => self.change_users(|users, scope| users.reset(id, scope)),
            (Topic::User(_), UpdateOutcome::Applied(_) | UpdateOutcome::Full) => (),
        }
    }

    /// A message has come on an open topic. Returns false for a duplicate.
    pub fn on_message(&self, topic: &Topic, message: NodeMessage, now: Instant) -> bool {
        let mut is_new = true;
        match (topic, message) {
            (Topic::Channel(name), message) => {
                self.change_channel(name, now, |channel, scope| is_new = channel.on_message(message, scope));
            }
            (Topic::User(id), NodeMessage::Member(change)) => {
                self.change_users(|users, scope| users.on_change(id, change, scope));
            }
            (Topic::User(_), _) => (),
        }
        is_new
    }

    /// Another node has dropped events on some channels.
    pub fn on_missed(&self, since: Instant, now: Instant) {
        for name in self.channels.table.names(|channel| channel.history_rule().is_some()) {
            self.change_channel(&name, now, |channel, scope| channel.announce_missed(Missed::Unknown, since, scope));
        }
    }

    /// This node's id.
    pub(super) fn node(&self) -> NodeId {
        self.outgoing.as_ref().map_or_else(NodeId::default, |outgoing| outgoing.node())
    }
}

impl Scope<'_> {
    fn outgoing(&self) -> Option<&Outgoing> {
        self.app.outgoing.as_deref()
    }

    /// This node's id.
    pub(super) fn node(&self) -> NodeId {
        self.app.node()
    }

    /// The number of the last event of this node.
    pub(super) fn last_number(&self) -> u64 {
        self.outgoing().map_or(0, Outgoing::last_number)
    }

    /// Whether there is a link to the other nodes. Without one this node decides alone.
    pub(super) fn is_linked(&self) -> bool {
        self.outgoing().is_some_and(Outgoing::is_linked)
    }

    /// Whether there are no other nodes, or nothing waits for the link to them.
    pub(super) fn is_settled(&self) -> bool {
        self.outgoing().is_none_or(|outgoing| outgoing.is_linked() && !self.is_link_young())
    }

    /// Whether the link is so young that other nodes may not have sent everything.
    pub(super) fn is_link_young(&self) -> bool {
        let linked_at = self.outgoing().and_then(Outgoing::linked_at);
        linked_at.is_some_and(|at| self.now.saturating_duration_since(at) < YOUNG)
    }

    /// Counts an implausible message.
    pub(super) fn report_implausible(&self) {
        self.outgoing().inspect(|outgoing| outgoing.report_implausible());
    }

    /// Gives the cluster a command.
    pub(super) fn command(&self, topic: Topic, operation: Operation) {
        if let Some(outgoing) = self.outgoing() {
            outgoing.push(Command { app: self.app.id.clone(), topic, operation });
        }
    }
}
