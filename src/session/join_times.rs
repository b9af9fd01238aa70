//! When a connection joined the channels that a rule limits in time.
//! `Session` asks it at each subscription to such a channel.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;

/// When each channel was joined first. A signature is valid as long as its connection, so leaving and joining again
/// must not start a new period.
#[derive(Debug, Default)]
pub(super) struct JoinTimes(BTreeMap<ChannelName, Instant>);

impl JoinTimes {
    /// The time that a subscription may still last; zero, too, when `channels_max` channels are remembered already.
    pub(super) fn time_left(
        &mut self,
        channel: &ChannelName,
        age_max: Duration,
        channels_max: usize,
        now: Instant,
    ) -> Duration {
        if self.0.len() >= channels_max && !self.0.contains_key(channel) {
            return Duration::ZERO;
        }
        let joined = *self.0.entry(channel.clone()).or_insert(now);
        age_max.saturating_sub(now.saturating_duration_since(joined))
    }
}
