//! Where a connection lives.

/// A shard: one thread with its own connections. At most [`SHARDS_MAX`] of them.
pub type ShardIndex = usize;

/// Shards are also bits of a `u64`.
pub const SHARDS_MAX: usize = 64;

/// A connection's place in its shard's table. The generation distinguishes it from earlier connections in that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Place in the table.
    pub index: u32,
    /// Counts the connections that had this place.
    pub generation: u32,
}

/// A connection of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The shard that it lives on.
    pub shard: u16,
    /// Its place there.
    pub slot: Slot,
}
