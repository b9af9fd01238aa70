//! Clients that do not speak Pusher's protocol: the channels that they get, and how they may name their app.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::protocol::channel::{Access, ChannelName, NameError};
use crate::protocol::policy::Policy;

use crate::config::fault::FaultList;

/// The channels of clients that name no protocol. Without channels there are no such clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawClients {
    /// Public channels, which they are subscribed to without asking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Whether they may name the app by its id instead of its key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_id: bool,
}

impl RawClients {
    /// Whether there are such clients.
    pub fn is_on(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Adds a fault for each channel that they cannot have, whatever the other limits are.
    pub(super) fn validate(&self, place: &str, faults: &mut FaultList) {
        let mut seen = HashSet::new();
        for name in &self.channels {
            let text = match ChannelName::parse(name, usize::MAX) {
                Err(_) => "which is no name of a channel; use letters, digits and _-=@.;",
                Ok(channel) if channel.kind().access != Access::Public => {
                    "which is not public; only channels that everybody may join can be listed"
                }
                Ok(_) if name.contains(',') => "whose comma separates names in channels= of a URL; rename the channel",
                Ok(_) if !seen.insert(name) => "twice; list it once",
                Ok(_) => continue,
            };
            faults.add(format!("{place}.raw_clients.channels"), format!("lists {name:?}, {text}"));
        }
    }

    /// Why they could not join or stay, if so: by the length of a name, by these rules, or because the app wants everybody
    /// to sign in. `ruled` makes of a channel's name the one that the rules are asked about.
    pub(super) fn conflict(
        &self,
        length_max: usize,
        policy: Policy<'_>,
        ruled: impl Fn(&str) -> String,
        needs_sign_in: bool,
    ) -> Option<String> {
        if self.is_on() && needs_sign_in {
            let text = "has no use beside enable_user_authentication, since raw clients cannot sign in and would be \
                        closed; unset one of the two";
            return Some(text.to_owned());
        }
        // Names that are none for another reason have a fault already.
        let is_too_long = |name: &&String| matches!(ChannelName::parse(name, length_max), Err(NameError::TooLong));
        if let Some(name) = self.channels.iter().find(is_too_long) {
            return Some(format!("lists {name:?}, which is longer than max_channel_name_length, {length_max}"));
        }
        let channels = self.channels.iter().filter_map(|name| ChannelName::parse(&ruled(name), usize::MAX).ok());
        let mut refused = channels.filter_map(|channel| policy.subscribe(&channel).err());
        refused.next().map(|why| format!("lists a channel that channel_rules forbid: {why}"))
    }
}
