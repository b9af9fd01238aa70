//! Questions about the connections of a shard, and their answers.
//! `dashboard` asks through the inbox, in slices, so that no delivery waits for a long list.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::protocol::socket_id::SocketId;
use crate::registry::address::Address;

/// The connections that somebody looks for. Each condition must hold; without any, all are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// The app's id.
    pub app: Option<String>,
    /// The user that the connection has signed in as, or is on a presence channel.
    pub user: Option<String>,
    /// The connection's public id.
    pub socket: Option<String>,
    /// The beginning of the client's address.
    pub address: Option<String>,
    /// A channel that the connection has joined.
    pub channel: Option<String>,
}

/// A question to a shard about a slice of its connections.
#[derive(Debug)]
pub struct ConnectionQuery {
    /// Which connections.
    pub wanted: Arc<Wanted>,
    /// The place in the shard's table where the slice begins.
    pub from: u32,
    /// As many as the answer may have.
    pub limit: usize,
    /// Where the answer goes.
    pub reply: oneshot::Sender<ConnectionSlice>,
}

/// The answer about a slice.
#[derive(Debug, Default)]
pub struct ConnectionSlice {
    /// The connections found.
    pub found: Vec<ConnectionInfo>,
    /// How many there are, also beyond the limit.
    pub total: usize,
    /// Where the next slice begins, unless this was the last.
    pub next: Option<u32>,
}

/// A connection, as the operator sees it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its address in this process.
    pub place: Address,
    /// The app's id.
    pub app: String,
    /// Its public id.
    pub socket_id: SocketId,
    /// The user.
    pub user: Option<String>,
    /// The client's address.
    pub address: IpAddr,
    /// The client's library with its version.
    pub library: Option<String>,
    /// The protocol version that it speaks.
    pub protocol: u8,
    /// The page's origin.
    pub origin: Option<String>,
    /// How long it has been open.
    pub age_seconds: u64,
    /// Its channels, and how many there are.
    pub channels: (Vec<String>, usize),
    /// Bytes that wait for its socket.
    pub waiting_bytes: usize,
}
