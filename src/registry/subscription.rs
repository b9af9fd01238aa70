//! Requests to join and to leave a channel. `node` makes them, `channel` carries them out.

use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::identity::KnownUser;
use crate::protocol::identity::Member;
use crate::protocol::socket_id::SocketId;
use crate::protocol::view::View;
use crate::registry::address::Address;

/// The rules for a subscription: those of its app, and how its connection wants events.
#[derive(Debug, Clone, Copy)]
pub struct JoinRules {
    /// Distinct users of a presence channel.
    pub members_max: usize,
    /// Whether subscribers get the number of subscribers.
    pub counted: bool,
    /// Whether the connection does not speak the protocol: it gets events in their raw form, and no answer.
    pub raw: bool,
}

/// A connection that joins a channel.
#[derive(Debug)]
pub(crate) struct Joiner {
    pub(crate) address: Address,
    /// On a presence channel.
    pub(crate) member: Option<Member>,
    pub(crate) view: Option<View>,
    pub(crate) user: Option<KnownUser>,
    pub(crate) rules: JoinRules,
    pub(crate) came: Instant,
}

/// A connection that leaves a channel.
#[derive(Debug, Clone, Copy)]
pub struct Unsubscribe<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The connection.
    pub address: Address,
    /// The user as whom it joined, on a presence channel.
    pub user_id: Option<&'a str>,
    /// As in [`JoinRules`].
    pub raw: bool,
    /// The connection's public id.
    pub socket_id: SocketId,
    /// Whether it was cut off, so that its user may come back.
    pub is_cut: bool,
}

/// Why a connection cannot join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The presence channel has as many members as it may have.
    Members,
    /// The process has as many channels as it may have.
    Channels,
}
