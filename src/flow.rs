//! Flow rules: what becomes of a flood of events on a channel. Pure: events and times go in, events and the next
//! deadline come out. `registry` holds the state of each channel that has a rule.

pub mod path;
pub mod rule;
