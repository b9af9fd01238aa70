//! The queue of webhook events: channels fill it under their locks, so an application gets the events of a channel in
//! order. `webhook/dispatch.rs` takes the events out, and sorts them into the endpoints' queues.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::ClientEvent;
use crate::protocol::webhook::Event;
use crate::protocol::webhook::Kind;
use crate::protocol::webhook::Kinds;

/// Something that happened on a channel of this node.
#[derive(Debug)]
pub struct WebhookEvent {
    /// The app's id.
    pub app: Arc<str>,
    /// The channel; never a user's own.
    pub channel: ChannelName,
    /// The change itself.
    pub change: Change,
}

/// The change that a [`WebhookEvent`] reports.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// An event for the application. `channel_occupied` and the like mean this node, and are not debounced yet.
    Event(Event),
    /// A cache channel has an event again, so the next miss is new.
    CacheFilled,
}

/// Bytes of events that may wait. The dispatcher takes them within milliseconds, or within seconds while Redis is slow.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory of an event besides its texts: a place in a queue that grows by doubling.
const OVERHEAD: usize = 2 * size_of::<WebhookEvent>();
/// Memory of a client's event besides that and its texts: it has four allocations.
const CLIENT_EVENT_OVERHEAD: usize = size_of::<ClientEvent>() + 64;

/// The events that wait for the dispatcher. Beyond the bound the oldest is dropped and counted.
#[derive(Debug, Default)]
pub struct WebhookQueue {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<WebhookEvent>,
    bytes: usize,
    dropped: u64,
}

impl WebhookEvent {
    fn bytes(&self) -> usize {
        let texts = match &self.change {
            Change::Event(Event::ClientEvent(event)) => CLIENT_EVENT_OVERHEAD + event.name.len() + event.data.len(),
            _ => 0,
        };
        OVERHEAD + self.channel.as_str().len() + texts
    }
}

impl WebhookQueue {
    /// Appends an event.
    pub(super) fn put(&self, event: WebhookEvent) {
        let mut queue = self.queue.lock();
        let first = queue.events.is_empty();
        queue.bytes += event.bytes();
        queue.events.push_back(event);
        while queue.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = queue.events.pop_front() else { break };
            queue.bytes -= oldest.bytes();
            queue.dropped += 1;
        }
        drop(queue);
        if first {
            self.filled.notify_one();
        }
    }

    /// Takes all events.
    pub fn take(&self) -> VecDeque<WebhookEvent> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        std::mem::take(&mut queue.events)
    }

    /// Whether an event of this app waits.
    pub fn has(&self, app: &str) -> bool {
        self.queue.lock().events.iter().any(|event| *event.app == *app)
    }

    /// Events dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().dropped)
    }

    /// Waits until an event has been put in since the last call.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// The kinds to record when an application wants `kinds`: both of a pair, because the debounce compares them.
pub(super) fn recorded_kinds(kinds: Kinds) -> Kinds {
    let together = |one, other| {
        let either = kinds.contains(one) || kinds.contains(other);
        [one, other].into_iter().filter(move |_| either)
    };
    let pairs = [(Kind::ChannelOccupied, Kind::ChannelVacated), (Kind::MemberAdded, Kind::MemberRemoved)];
    let single = [Kind::ClientEvent, Kind::CacheMiss, Kind::SubscriptionCount];
    let pairs = pairs.into_iter().flat_map(|(one, other)| together(one, other));
    pairs.chain(single.into_iter().filter(|kind| kinds.contains(*kind))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::socket_id::SocketId;

    #[test]
    fn beyond_the_bound_the_oldest_are_dropped_and_counted() {
        let events = WebhookQueue::default();
        let channel = ChannelName::parse("private-a", 200).unwrap();
        for number in 0..5 {
            let data = "x".repeat(WAITING_BYTES_MAX / 4);
            let event = ClientEvent { name: number.to_string(), data, socket_id: SocketId::random(), user_id: None };
            let change = Change::Event(Event::ClientEvent(Box::new(event)));
            events.put(WebhookEvent { app: "app".into(), channel: channel.clone(), change });
        }
        let left = events.take();
        assert_eq!((left.len(), events.take_dropped(), events.take().len()), (3, 2, 0));
        let Change::Event(Event::ClientEvent(first)) = &left[0].change else { panic!("not a client event") };
        assert_eq!(first.name, "2");
    }

    #[test]
    fn who_hears_of_leaving_needs_to_know_of_coming() {
        let needed = |kind| recorded_kinds([kind].into_iter().collect());
        let both = [Kind::ChannelOccupied, Kind::ChannelVacated].into_iter().collect();
        assert_eq!((needed(Kind::ChannelVacated), needed(Kind::ChannelOccupied)), (both, both));
        assert_eq!(needed(Kind::CacheMiss), [Kind::CacheMiss].into_iter().collect());
    }
}
