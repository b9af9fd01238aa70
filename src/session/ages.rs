//! How long a connection has had the channels that nobody may have for ever.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;

/// When each of them was joined first. A signature holds as long as its connection, so who leaves and comes back with
/// it must not begin anew.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<ChannelName, Instant>);

impl Ages {
    /// What is left at `now` of the time that a subscription may last. Nothing, too, when more than `channels_max` would
    /// have to be remembered.
    pub(super) fn left(
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
