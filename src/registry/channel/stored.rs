//! The snapshot of a channel in Redis: stores the last events of keys for nodes that open the channel, and takes over what
//! Redis has stored.

use std::time::Duration;

use crate::flow::channel::StoredEvent;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::registry::channel::Channel;
use crate::registry::deadlines::Receivers;
use crate::registry::flow::Flow;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::channel::RemoteEvents;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::StoreEvents;
use crate::registry::scope::Scope;

/// How often events of a channel are stored.
const PAUSE: Duration = Duration::from_secs(1);
/// The time in which each node stores what comes out there, the way to Redis included.
const STORE_TIME: Duration = Duration::from_secs(3);
/// Bytes of events that are stored at once. The rest is stored next time.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of events in one command.
const COMMAND_BYTES_MAX: usize = 256 * 1024;

impl Channel {
    /// Stores what Redis may lack of the snapshot, now or when it is time.
    pub(super) fn store_events(&mut self, scope: &Scope<'_>) {
        let Some(flow) = self.flow.as_deref_mut().filter(|flow| flow.has_unstored()) else { return };
        let remote = self.remote.get_or_insert_default();
        if !scope.is_linked() || remote.topic.is_opening() || remote.stored.storing > 0 {
            // Comes back when the topic is open, or the last ones are stored.
            return;
        }
        let at = flow.storing.last.map_or(scope.now, |last| last + PAUSE);
        if at > scope.now {
            flow.storing.at = Some(at);
            return;
        }
        (flow.storing.at, flow.storing.last) = (None, Some(scope.now));
        for command in store(flow, remote) {
            remote.stored.storing += 1;
            scope.command(Topic::Channel(self.name.clone()), command);
        }
        if remote.stored.storing == 0 {
            // Other nodes store the rest, or this one next time.
            flow.storing.at = flow.has_unstored().then_some(scope.now + PAUSE);
        }
    }

    /// The command to store events has ended.
    pub(crate) fn on_stored(&mut self, scope: &Scope<'_>) {
        let storing = &mut self.remote_mut().stored.storing;
        *storing = storing.saturating_sub(1);
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }

    /// The rules change, and this channel may have no snapshot any more: it is forgotten, or stored for the other nodes
    /// if this one stops.
    pub(super) fn end_storing(&mut self, scope: &Scope<'_>) {
        let Some(flow) = self.flow.as_deref_mut().filter(|flow| flow.stored_max().is_some()) else { return };
        if !scope.app.flow.is_ended() {
            let is_kept = scope.app.snapshot_max(&self.name).is_some();
            return if !is_kept {
                scope.command(Topic::Channel(self.name.clone()), Operation::ForgetEvents)
            };
        }
        let remote = self.remote.get_or_insert_default();
        while flow.has_unstored() {
            for command in store(flow, remote) {
                scope.command(Topic::Channel(self.name.clone()), command);
            }
        }
    }

    /// Takes over what Redis has stored, when the topic has been opened. Subscribers from before a lost link get what
    /// they have missed.
    pub(super) fn restore_events(&mut self, stored: Vec<StoredEvent>, scope: &mut Scope<'_>) {
        let Some(rules) = scope.app.flow.rules() else { return };
        if self.flow.as_ref().is_some_and(|flow| flow.is_outdated(&rules)) {
            self.update_flow(scope);
        }
        let RemoteEvents { known, received_since, fetches, .. } = &mut self.remote.get_or_insert_default().stored;
        for StoredEvent { origin, .. } in &stored {
            note(known, *origin);
        }
        *fetches += 1;
        let (received_since, fetches) = (received_since.unwrap_or(scope.now), *fetches);
        if fetches == 1 && self.subscriptions() > 0 {
            // Pending events are older than those that were missed.
            self.flush_flow(scope);
        }
        let flow = self.flow.get_or_insert_with(|| {
            Box::new(Flow::new(&self.name, Receivers::Subscribers, rules, scope.app, scope.now))
        });
        let events = flow.restore(stored, received_since, scope.now);
        let time = match fetches {
            1 => Some(STORE_TIME),
            2 => flow.stored_delay().filter(|delay| *delay > PAUSE),
            _ => None,
        };
        flow.storing.fetch_again_at = time.map(|time| scope.now + time);
        flow.storing.last = None;
        for event in events {
            self.announce(&event, scope);
        }
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }

    /// Fetches once more what Redis has stored: events that were accepted before this node opened the topic, and stored
    /// after it.
    pub(super) fn fetch_again(&mut self, scope: &Scope<'_>) {
        let at = self.flow.as_mut().and_then(|flow| flow.storing.fetch_again_at.take_if(|at| *at <= scope.now));
        if at.is_some() {
            self.open(scope);
        }
    }

    /// A node stores no events any more.
    pub(super) fn on_storer_gone(&mut self, node: NodeId, scope: &Scope<'_>) {
        let Some(flow) = &mut self.flow else { return };
        let remote = self.remote.get_or_insert_default();
        if let Some(last) = remote.dedup.origins().find(|origin| origin.node == node) {
            note(&mut remote.stored.known, last);
        }
        flow.on_node_gone(node);
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }
}

/// Takes events to store out of a flow, a few in each command.
fn store(flow: &mut Flow, remote: &RemoteChannel) -> Vec<Operation> {
    let Some((time, keys_max)) = flow.stored_max() else { return Vec::new() };
    let known: Vec<Origin> = remote.dedup.origins().chain(remote.stored.known.iter().copied()).collect();
    let (mut commands, mut bytes): (Vec<StoreEvents>, usize) = (Vec::new(), COMMAND_BYTES_MAX);
    for event in flow.take_unstored(BYTES_MAX) {
        if bytes >= COMMAND_BYTES_MAX {
            commands.push(StoreEvents { events: Vec::new(), time, keys_max, known: known.clone() });
            bytes = 0;
        }
        bytes += event.frame.bytes().len();
        if let Some(command) = commands.last_mut() {
            command.events.push(event);
        }
    }
    commands.into_iter().map(|command| Operation::StoreEvents(Box::new(command))).collect()
}

/// Notes the last event of a node.
fn note(known: &mut Vec<Origin>, origin: Origin) {
    match known.iter_mut().find(|last| last.node == origin.node) {
        Some(last) => last.number = last.number.max(origin.number),
        None => {
            known.drain(..(known.len() + 1).saturating_sub(NODES_MAX));
            known.push(origin);
        }
    }
}
