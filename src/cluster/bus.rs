//! The seam between what the nodes say to each other and how it travels.
//! `link` serves a [`Bus`], which is `over_redis` or `over_nats`.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::cluster::listener::Listener;
use crate::flow::channel::StoredEvent;
use crate::history::numbers::Found;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::pattern::ChannelPattern;
use crate::redis::lease::Leases;
use crate::registry::AppState;
use crate::registry::remote::command::Command;
use crate::registry::remote::history::CaughtUp;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;

/// A way to the other nodes, while it is open. Messages from them go to its [`Listener`].
pub(super) trait Bus: Send + Sync + Sized {
    /// The way, as it is configured.
    type Way: Send + Sync;
    /// Answers questions beside the queue.
    type Directory;
    /// The reason why the way is closed.
    type Error: Display + Send;

    /// Connects, and makes sure that this node receives what it publishes. It receives on this runtime, whose thread may
    /// block.
    fn open(
        way: &Arc<Self::Way>,
        listener: &Arc<Listener>,
        runtime: &Handle,
    ) -> impl Future<Output = Result<(Self, Self::Directory), Self::Error>> + Send;

    /// Carries out commands of the registry, those of a topic in this order. Each has an answer of its own. An error means
    /// that any of them may or may not have been carried out.
    fn carry_out(&self, commands: &[&Command]) -> impl Future<Output = Result<Vec<Answer>, Self::Error>> + Send;

    /// Publishes a message to all nodes, or to one.
    fn announce(&self, envelope: &Envelope, to: Option<NodeId>)
    -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives the events of all channels that match, for views; and of no others from now on. Ends when that is so.
    fn mirror(&self, patterns: &[Mirrored]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Renews this node's lease, and makes sure that the way is open in both directions. Returns the leases of all nodes.
    fn renew_lease(&self) -> impl Future<Output = Result<Leases, Self::Error>> + Send;

    /// Removes what is no longer true.
    fn clear(&self, outdated: Outdated<'_>) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// How often a lease is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(2);

/// The occupied channels of a node, with its connections on them.
pub(super) type Occupied = Vec<(ChannelName, usize)>;

/// Users that this node no longer has, of whom the others may not know that yet.
pub(super) type Departures = Vec<Arc<str>>;

/// The patterns of an app that views need.
pub(super) type Mirrored = (Vec<ChannelPattern>, Arc<AppState>);

/// Something that is no longer true.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outdated<'a> {
    /// The records of nodes that have crashed. The others learn that they are gone.
    Crashed(&'a [NodeId]),
    /// Records of this node of a time before the last link was lost, or before something was refused. The registry
    /// publishes again what is true.
    Own,
    /// All records of this node, which stops.
    Left,
}

/// The answer to a command of the registry.
#[derive(Debug)]
pub(super) enum Answer {
    /// The event is published.
    Published,
    /// The state of the topic, if it could be fetched.
    Opened(Option<Snapshot>),
    Updated(UpdateOutcome),
    /// Whether the events of the snapshot are stored.
    Stored(bool),
    /// The events of the snapshot, if they could be fetched.
    Fetched(Option<Vec<StoredEvent>>),
    /// The missing events of a history, if it could be fetched.
    CaughtUp(Option<CaughtUp>),
    /// The place of a user, if there is one. The outer `None` means that nobody has answered.
    Found(Option<Option<Found>>),
    /// Whether the places are written.
    PlacesWritten(bool),
    /// Nothing to pass on.
    Nothing,
}
