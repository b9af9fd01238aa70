//! The part of a snapshot that Redis stores, so that who joins at another node gets it, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::flow::channel::ChannelFlow;
use crate::flow::channel::RuleFlow;
use crate::flow::rule::Emit;
use crate::flow::rule::FlowRule;
use crate::flow::rules::Choice;
use crate::flow::rules::choose;
use crate::flow::snapshot::LastEvent;
use crate::flow::snapshot::LastEvents;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::event::Event;
use crate::protocol::frame::Frame;

/// A number this far below the last one of its node is not of an event before that.
const REPEATED_MAX: u64 = 1 << 16;
/// In this time what a node has delivered has been stored, if the node was there.
const STORED_TIME: Duration = Duration::from_secs(30);

/// The last event of a key, as Redis stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The path of the rule's key, the event's name and its key, with zeros in between.
    pub field: String,
    /// The event's place in the cluster.
    pub origin: Origin,
    /// When it was delivered.
    pub since: Instant,
    /// The event.
    pub frame: Frame,
}

/// Times of the last link to the others, by which a node tells older events from newer ones.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Since when it has received everything that was published.
    pub since: Instant,
    /// From here until then its own events waited for the link, and come after what others have published meanwhile.
    pub unlinked_at: Option<Instant>,
}

impl ChannelFlow {
    /// Has the snapshots stored for other nodes, as this node.
    pub fn stored_by(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// How long events of snapshots are stored, and how many; `None` if none are.
    pub fn stored_max(&self) -> Option<(Duration, usize)> {
        self.node?;
        let last_events = || self.rules.iter().filter_map(|flow| flow.last_events.as_ref());
        let time = last_events().map(LastEvents::max_age).max()?;
        Some((time, last_events().map(LastEvents::keys_max).sum()))
    }

    /// How long an event usually waits at most before it comes out and is stored, if events are stored.
    pub fn stored_delay(&self) -> Option<Duration> {
        let of_rule = |flow: &RuleFlow| flow.last_events.as_ref().map(|_| flow.rule.delay());
        self.node?;
        self.rules.iter().filter_map(of_rule).max()
    }

    /// Whether Redis may lack a part of the snapshot.
    pub fn has_unstored(&self) -> bool {
        self.node.is_some()
            && self.rules.iter().any(|flow| flow.last_events.as_ref().is_some_and(LastEvents::has_unstored))
    }

    /// Takes events to store, about so many bytes at most.
    pub fn take_unstored(&mut self, mut bytes: usize) -> Vec<StoredEvent> {
        let Some(node) = self.node else { return Vec::new() };
        let mut taken = Vec::new();
        for flow in &mut self.rules {
            let path = path(&flow.rule);
            let events = flow.last_events.as_mut().map(|last| last.take_unstored(node, &mut bytes)).unwrap_or_default();
            taken.extend(events.into_iter().filter_map(|(id, LastEvent { frame, since, origin, .. })| {
                Some(StoredEvent { field: format!("{path}\0{id}"), origin: origin?, since, frame })
            }));
        }
        taken
    }

    /// Another node does not store its events any more.
    pub fn on_node_gone(&mut self, node: NodeId, now: Instant) {
        for last_events in self.rules.iter_mut().filter_map(|flow| flow.last_events.as_mut()) {
            last_events.mark_where(|_, event| {
                event.since + STORED_TIME > now && event.origin.is_some_and(|origin| origin.node == node)
            });
        }
    }

    /// Takes over what Redis has stored and this node has missed. An event that has come here since this node receives
    /// everything is the newer one of its key. So is one of its own that has waited for the link. Returns what is new
    /// here, the oldest first.
    pub fn restore(&mut self, stored: Vec<StoredEvent>, received: Received, now: Instant) -> Vec<Event> {
        let has_waited = |local: &LastEvent| {
            let is_own = local.origin.is_some_and(|origin| Some(origin.node) == self.node);
            is_own && received.unlinked_at.is_some_and(|at| local.accepted >= at)
        };
        let (mut known, mut older, mut new) = (HashSet::new(), HashSet::new(), Vec::new());
        for event in stored {
            let Some((index, id)) = self.place_of(&event, now) else { continue };
            let last_events = self.rules[index].last_events.as_mut();
            let local = last_events.as_ref().and_then(|last_events| last_events.get(&id));
            let is_new = match local {
                Some(local) => local.accepted < received.since && !has_waited(local) && is_newer(&event, local),
                // One that was forgotten for want of room stays so.
                None => last_events.as_ref().and_then(|last| last.oldest_if_full()).is_none_or(|at| event.since > at),
            };
            if is_new || local.is_some_and(|local| local.origin == Some(event.origin)) {
                known.insert((index, Arc::clone(&id)));
            } else if local.is_some() {
                older.insert((index, Arc::clone(&id)));
            }
            if let Some(last_events) = last_events.filter(|_| is_new) {
                last_events.remove(&id);
                let StoredEvent { origin, since, frame, .. } = event;
                let (since, origin) = (since.min(now), Some(origin));
                new.push((index, id, LastEvent { frame, since, accepted: since, place: 0, origin }));
            }
        }
        new.sort_by_key(|(_, _, event)| event.since);
        let event = |(index, id, last): &(usize, Arc<str>, LastEvent)| Event {
            flow_key: self.rules[*index].flow_key(id),
            origin: last.origin,
            ..Event::new(last.frame.clone(), None, now)
        };
        let events = new.iter().map(event).collect();
        self.put_sorted(new);
        for (index, RuleFlow { thinning, last_events, .. }) in self.rules.iter_mut().enumerate() {
            let Some(last_events) = last_events else { continue };
            // Redis may have what is pending here. That is stored when it comes out.
            let waits = |place: &(usize, Arc<str>)| older.contains(place) && thinning.is_pending(&place.1);
            last_events.mark_where(|id, _| {
                let place = (index, Arc::clone(id));
                !known.contains(&place) && !waits(&place)
            });
            older.iter().filter(|(of, _)| *of == index).for_each(|(_, id)| last_events.accept(id));
        }
        events
    }

    /// The rule and the key of a stored event, unless it is too old, or of a rule that there is no more.
    fn place_of(&self, event: &StoredEvent, now: Instant) -> Option<(usize, Arc<str>)> {
        let (path_before, id) = event.field.split_once('\0')?;
        let name = id.split('\0').next()?;
        let Choice::Thins(index, rule) = choose(self.rules.iter().map(|flow| &flow.rule), name) else { return None };
        let max_age = self.rules[index].last_events.as_ref()?.max_age();
        (path(rule) == path_before && event.since + max_age > now).then(|| (index, id.into()))
    }

    /// Adds events to the snapshots, which stay in the order of delivery.
    fn put_sorted(&mut self, new: Vec<(usize, Arc<str>, LastEvent)>) {
        if new.is_empty() {
            return;
        }
        let mut all = new;
        for (index, flow) in self.rules.iter_mut().enumerate() {
            let local = flow.last_events.iter_mut().flat_map(LastEvents::drain);
            all.extend(local.map(|(id, event)| (index, id, event)));
        }
        all.sort_by_key(|(_, _, event)| (event.since, event.place));
        for (index, id, event) in all {
            self.remembered += 1;
            if let Some(last_events) = &mut self.rules[index].last_events {
                last_events.put(&id, LastEvent { place: self.remembered, ..event });
            }
        }
    }

    /// Whether an event that was pending has been delivered already, because another node had stored it.
    pub(super) fn has_come(&self, index: usize, id: &str, event: &Event) -> bool {
        let RuleFlow { rule, last_events: Some(last_events), .. } = &self.rules[index] else { return false };
        // Figures of one event may come several times, of other readings.
        let is_it = |last: &LastEvent| last.origin == event.origin && last.frame == event.frame;
        event.origin.is_some() && rule.aggregate.is_none() && last_events.get(id).is_some_and(is_it)
    }

    /// Notes an event of a key. Returns false if it has come in another way: this one, or a later one of its node, was
    /// stored.
    pub(super) fn accept(&mut self, index: usize, (id, name): (&str, &str), event: &Event) -> bool {
        let (Some(node), Some(Origin { node: by, number })) = (self.node, event.origin) else { return true };
        let RuleFlow { rule, last_events: Some(last_events), .. } = &mut self.rules[index] else { return true };
        // One event has the figures of all keys.
        let id = if rule.aggregate.as_ref().is_some_and(|rule| rule.emit == Emit::Map) { name } else { id };
        // While this node is about to store an event of the key, another node may store this one before that.
        if by == node || last_events.is_unstored(id) {
            last_events.accept(id);
        }
        if by == node {
            return true;
        }
        let last = last_events.get(id).and_then(|last| last.origin).filter(|last| last.node == by);
        // A number far below the last one is a new event: the last one was somebody else's.
        last.is_none_or(|last| number > last.number || last.number.get() - number.get() > REPEATED_MAX)
    }
}

/// Whether a stored event is newer than the one that is here.
fn is_newer(stored: &StoredEvent, local: &LastEvent) -> bool {
    match local.origin {
        Some(origin) if origin.node == stored.origin.node => stored.origin.number > origin.number,
        _ => stored.since > local.accepted,
    }
}

fn path(rule: &FlowRule) -> &str {
    rule.key().map_or("", |key| key.as_str())
}
