//! Flow rules: what becomes of a flood of events on a channel. Pure: events and times go in, events and the next
//! deadline come out. `registry` holds a [`channel::ChannelFlow`] for each channel that has a rule.

mod aggregate;
mod beat;
pub mod channel;
mod conflate;
mod edit;
mod explain;
mod figures;
mod keys;
mod pass;
pub mod path;
mod rate;
pub mod rule;
pub mod rules;
mod sample;
mod snapshot;
pub mod thinning;
pub mod window;
