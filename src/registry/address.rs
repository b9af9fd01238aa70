//! The address of a connection inside this process: its shard, and its place there.
//! Messages between registry and shards carry it.

/// A shard: one thread with its own connections. At most [`SHARDS_MAX`] of them.
pub type ShardIndex = usize;

/// Shards are also bits of a `u64`.
pub const SHARDS_MAX: usize = 64;

slotmap::new_key_type! {
    /// A connection's key in its shard's table. It never finds a later connection in the same place.
    pub struct Slot;
}

/// A connection of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The shard that it lives on.
    pub shard: u16,
    /// Its place there.
    pub slot: Slot,
}
