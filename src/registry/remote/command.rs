//! Commands of the registry to the cluster. `Outgoing` queues them, and `cluster/over_redis/commands.rs` carries them out.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::flow::channel::StoredEvent;
use crate::history::numbers::PlaceChange;
use crate::history::numbers::Places;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::protocol::identity::KnownUser;
use crate::registry::address::Address;
use crate::registry::inbox::Event;

/// The bytes that the snapshot of a flow rule has in the answer when it is fetched, as far as is known before.
const SNAPSHOT_COST: usize = 256 * 1024;

/// Something for the cluster to do.
#[derive(Debug)]
pub struct Command {
    /// The app's id.
    pub app: Arc<str>,
    /// The topic.
    pub topic: Topic,
    /// The operation on it.
    pub operation: Operation,
}

/// The kinds of [`Command`].
#[derive(Debug)]
pub enum Operation {
    /// Publish an event to the nodes with subscribers.
    Publish(Publish),
    /// Subscribe to the topic and fetch its state.
    Open {
        /// Relates the answer to this command.
        number: u64,
        /// Whether the state has a flow rule's snapshot.
        has_snapshot: bool,
    },
    /// Unsubscribe from the topic.
    Close,
    /// Add, change or remove a user of this node.
    UpdateMember(MemberUpdate),
    /// Publish how many connections the channel has on this node.
    PublishCount,
    /// Store events of the channel's snapshot, for who joins at another node.
    StoreEvents(Box<StoreEvents>),
    /// Fetch the channel's snapshot once more. The topic is open.
    FetchEvents {
        /// Relates the answer to this command.
        number: u64,
    },
    /// Forget the channel's snapshot: no rule keeps one any more.
    ForgetEvents,
    /// Fetch the events of the channel's history that this node lacks. The topic is open.
    CatchUp {
        /// Relates the answer to this command.
        number: u64,
    },
    /// Look for the place of an earlier connection of a user, and take it for this one.
    TakePlace {
        /// Relates the answer to this command.
        number: u64,
        /// The connection.
        user: KnownUser,
        /// Where it is.
        address: Address,
        /// It has joined already.
        is_late: bool,
    },
    /// Write places of users.
    WritePlaces(Box<Places>),
    /// Report to the other nodes how many events they miss.
    ReportMissed {
        /// How many they are.
        events: u64,
        /// When the first one was accepted.
        since: Instant,
        /// They were on several channels of the app, of which the topic is one.
        of_several: bool,
    },
}

impl Operation {
    /// Opens a topic, whose state may have a flow rule's snapshot; returns the number of the command, too.
    pub(crate) fn open(has_snapshot: bool) -> (u64, Self) {
        let number = next_number();
        (number, Self::Open { number, has_snapshot })
    }

    /// Fetches what is missing of a history; returns the number of the command, too.
    pub(crate) fn catch_up() -> (u64, Self) {
        let number = next_number();
        (number, Self::CatchUp { number })
    }

    /// Looks for a user's place; returns the number of the command, too.
    pub(crate) fn take_place(user: KnownUser, address: Address, is_late: bool) -> (u64, Self) {
        let number = next_number();
        (number, Self::TakePlace { number, user, address, is_late })
    }

    /// Fetches a channel's snapshot; returns the number of the command, too.
    pub(crate) fn fetch_events() -> (u64, Self) {
        let number = next_number();
        (number, Self::FetchEvents { number })
    }
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An event for other nodes.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Grows with each event of this node.
    pub number: u64,
    /// The event.
    pub event: Event,
    /// How long a cache channel remembers it.
    pub cache_for: Option<Duration>,
}

/// Events of a channel's snapshot.
#[derive(Debug)]
pub struct StoreEvents {
    /// The last events of some keys.
    pub events: Vec<StoredEvent>,
    /// How long the snapshot is stored from now on.
    pub time: Duration,
    /// The most keys of the channel.
    pub keys_max: usize,
    /// The last event of each node that this one knows of. It may replace those.
    pub known: Vec<Origin>,
}

/// A user's first connection on this node, a new `user_info`, or the end of the last connection.
#[derive(Debug)]
pub struct MemberUpdate {
    /// Relates the answer to the joiners that wait for it.
    pub number: u64,
    /// The user.
    pub user_id: Arc<str>,
    /// The `user_info` as JSON; none to remove the user.
    pub user_info: Option<Arc<str>>,
    /// See [`crate::protocol::envelope::Change::since`]; 0 for a new one.
    pub since: u64,
    /// Distinct users that the channel may have; more are refused.
    pub members_max: usize,
}

impl Command {
    /// Whether it publishes an event.
    pub fn is_event(&self) -> bool {
        matches!(self.operation, Operation::Publish(_))
    }

    /// Whether it publishes an event that was accepted longer ago than this.
    pub(super) fn has_waited_for(&self, time: Duration) -> bool {
        matches!(&self.operation, Operation::Publish(publish) if publish.event.accepted.elapsed() > time)
    }

    /// Whether it waits, after a lost link, until the other nodes listen again.
    pub fn waits_for_nodes(&self) -> bool {
        matches!(
            self.operation,
            Operation::Publish(_)
                | Operation::StoreEvents(_)
                | Operation::TakePlace { .. }
                | Operation::ReportMissed { .. }
        )
    }

    /// Bytes of events and snapshots on the way to Redis and back, about.
    pub(super) fn round_cost(&self) -> usize {
        match &self.operation {
            Operation::Open { has_snapshot: true, .. } | Operation::FetchEvents { .. } | Operation::CatchUp { .. } => {
                SNAPSHOT_COST
            }
            Operation::WritePlaces(places) => places.changes.len() * size_of::<PlaceChange>(),
            Operation::StoreEvents(store) => store.events.iter().map(|event| event.frame.bytes().len()).sum(),
            _ => self.event_cost(),
        }
    }

    /// Bytes of memory that an event takes while it waits.
    pub(super) fn event_cost(&self) -> usize {
        match &self.operation {
            Operation::Publish(Publish { event, .. }) => {
                let partial = event.partial.as_ref().map_or(0, |partial| partial.cost());
                size_of::<Self>() + event.frame.bytes().len() + partial
            }
            _ => 0,
        }
    }
}
