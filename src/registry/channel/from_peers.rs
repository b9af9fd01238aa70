//! Messages of other nodes, as a channel applies them.

use std::time::Duration;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::registry::channel::Channel;
use crate::registry::channel::is_counted;
use crate::registry::inbox::Event;
use crate::registry::remote::dedup::Arrival;
use crate::registry::remote::message::NodeMessage;
use crate::registry::scope::Scope;

impl Channel {
    /// A message has come. Returns false for a duplicate.
    pub(in crate::registry) fn on_message(
        &mut self,
        name: &ChannelName,
        message: NodeMessage,
        scope: &mut Scope<'_>,
    ) -> bool {
        let remote = self.remote.get_or_insert_default();
        match message {
            NodeMessage::Event(event) => return self.on_event(name, event, scope),
            message if remote.topic.is_opening() => remote.topic.buffer(message),
            NodeMessage::Member(change) => self.on_change(name, change, scope),
            NodeMessage::Count(node, count) => {
                if remote.counts.set(node, count) {
                    self.announce_count(name, scope);
                }
            }
        }
        true
    }

    /// An event comes to its own node, too, if the channel caches it: then all nodes cache it in one order.
    fn on_event(&mut self, name: &ChannelName, event: RemoteEvent, scope: &mut Scope<'_>) -> bool {
        let is_own = event.node == scope.node();
        if !is_own {
            match self.remote_mut().dedup.check(event.node, event.number) {
                Arrival::New => (),
                Arrival::Duplicate => return false,
                Arrival::Implausible => scope.report_implausible(),
            }
        }
        if event.cached_for_ms > 0 {
            let until = scope.now + Duration::from_millis(event.cached_for_ms);
            self.cache(name, (&event.frame, until, false), scope);
        }
        if !is_own {
            self.announce(&Event { frame: event.frame, except: event.except, accepted: scope.now }, scope);
        }
        true
    }

    fn on_change(&mut self, name: &ChannelName, change: Change, scope: &mut Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        let own = (change.node == scope.node()).then(|| change.user_id.clone());
        let effect = remote.topic.apply(&mut members.roster, change, &Topic::Channel(name.clone()), scope);
        if let Some(user_id) = own {
            members.check_departing(scope.node(), &user_id);
        }
        self.announce_effect(name, effect, scope);
        self.admit_updated(name, scope);
    }

    /// The number of connections here, and whether other nodes have to get it.
    pub(in crate::registry) fn take_count(&mut self, name: &ChannelName) -> (usize, bool) {
        let counts = &mut self.remote_mut().counts;
        counts.is_publishing = false;
        let is_announced = counts.are_announced && is_counted(name);
        (self.subscriptions(), is_announced)
    }

    /// Whether anything of one of these nodes is known.
    pub(in crate::registry) fn knows(&self, nodes: &[(NodeId, bool)]) -> bool {
        let Some(remote) = &self.remote else { return false };
        nodes.iter().any(|(node, _)| remote.dedup.knows(*node) || remote.counts.has(*node))
    }

    /// A node has crashed or left: its connections no longer count.
    pub(in crate::registry) fn remove_node(
        &mut self,
        name: &ChannelName,
        node: NodeId,
        has_left: bool,
        scope: &mut Scope<'_>,
    ) {
        let remote = self.remote_mut();
        // A node that was only cut off repeats events.
        if has_left {
            remote.dedup.forget(node);
        }
        if remote.counts.set(node, 0) {
            self.announce_count(name, scope);
        }
    }
}
