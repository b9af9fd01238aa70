//! What webhooks tell of what happens here: one queue, filled under the locks of the channels. So an application
//! hears of a channel in the order in which things happened.

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
pub struct Fact {
    /// The app's id.
    pub app: Arc<str>,
    /// The channel; never a user's own.
    pub channel: ChannelName,
    /// What happened.
    pub what: What,
}

/// See [`Fact`].
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// An application may hear of it. Coming and going is that of this node, and not held back.
    Event(Event),
    /// A cache channel remembers something again.
    CacheFilled,
}

/// Bytes of facts that may wait. They are taken within milliseconds, or in seconds where Redis does not answer.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a fact costs besides its texts: a place in a queue that grows by doubling.
const OVERHEAD: usize = 2 * size_of::<Fact>();
/// What a client's event costs besides its texts and that: it has four allocations.
const CLIENT_EVENT_OVERHEAD: usize = size_of::<ClientEvent>() + 64;

/// What waits to be told; beyond the bound the oldest is dropped and counted.
#[derive(Debug, Default)]
pub struct Facts {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    facts: VecDeque<Fact>,
    bytes: usize,
    dropped: u64,
}

impl Fact {
    fn bytes(&self) -> usize {
        let texts = match &self.what {
            What::Event(Event::ClientEvent(event)) => CLIENT_EVENT_OVERHEAD + event.name.len() + event.data.len(),
            _ => 0,
        };
        OVERHEAD + self.channel.as_str().len() + texts
    }
}

impl Facts {
    /// Puts in a fact.
    pub(super) fn put(&self, fact: Fact) {
        let mut queue = self.queue.lock();
        let first = queue.facts.is_empty();
        queue.bytes += fact.bytes();
        queue.facts.push_back(fact);
        while queue.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = queue.facts.pop_front() else { break };
            queue.bytes -= oldest.bytes();
            queue.dropped += 1;
        }
        drop(queue);
        if first {
            self.filled.notify_one();
        }
    }

    /// Takes all that waits.
    pub fn take(&self) -> VecDeque<Fact> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        std::mem::take(&mut queue.facts)
    }

    /// Whether something of this app waits.
    pub fn has(&self, app: &str) -> bool {
        self.queue.lock().facts.iter().any(|fact| *fact.app == *app)
    }

    /// Facts dropped since the last time.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().dropped)
    }

    /// Ends when there has been something to take since the last time.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// The facts that matter when these kinds are to be told: whoever hears that somebody has left, or has come, hears
/// nothing when it was for a moment only.
pub(super) fn needed_for(kinds: Kinds) -> Kinds {
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
        let facts = Facts::default();
        let channel = ChannelName::parse("private-a", 200).unwrap();
        for number in 0..5 {
            let data = "x".repeat(WAITING_BYTES_MAX / 4);
            let said = ClientEvent { name: number.to_string(), data, socket_id: SocketId::random(), user_id: None };
            let what = What::Event(Event::ClientEvent(Box::new(said)));
            facts.put(Fact { app: "app".into(), channel: channel.clone(), what });
        }
        let left = facts.take();
        assert_eq!((left.len(), facts.take_dropped(), facts.take().len()), (3, 2, 0));
        let What::Event(Event::ClientEvent(first)) = &left[0].what else { panic!("not a client event") };
        assert_eq!(first.name, "2");
    }

    #[test]
    fn who_hears_of_leaving_needs_to_know_of_coming() {
        let needed = |kind| needed_for([kind].into_iter().collect());
        let both = [Kind::ChannelOccupied, Kind::ChannelVacated].into_iter().collect();
        assert_eq!((needed(Kind::ChannelVacated), needed(Kind::ChannelOccupied)), (both, both));
        assert_eq!(needed(Kind::CacheMiss), [Kind::CacheMiss].into_iter().collect());
    }
}
