//! History: what known users of a channel may have missed. Pure: events, positions and times go in, replays come out.
//! `registry` holds a [`channel::ChannelHistory`] for each channel that has a rule.

pub mod channel;
mod explain;
pub mod log;
pub mod numbers;
pub mod reader;
pub mod rule;
pub mod shared;
pub mod totals;
