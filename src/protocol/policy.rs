//! Rules for channels by their names: the kind that a channel must have, and what its clients may do.
//! `node` asks the policy of an app before each join, publish and client event.

use serde::Deserialize;
use serde::Serialize;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::channel::ChannelName;
use crate::protocol::pattern::ChannelPattern;
use crate::protocol::pattern::rule_base;
use crate::protocol::pattern::strip_any_case;

/// A rule for the channels whose [`rule_base`] name matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRule {
    /// The base names that it matches.
    #[serde(rename = "match")]
    pub pattern: ChannelPattern,
    /// The kind that these channels must have.
    #[serde(default)]
    pub require: Require,
    /// The handling of an event for a public channel that must have another kind.
    #[serde(default)]
    pub on_public_publish: OnPublicPublish,
    /// Whether its clients may send events.
    #[serde(default)]
    pub client_events: Decision,
    /// Seconds after which a subscription needs a new authorization; 0 for never.
    #[serde(default)]
    pub max_subscription_age_seconds: u32,
}

/// The kind that a channel must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Any kind.
    #[default]
    Any,
    /// A kind with signatures: private, presence or encrypted.
    Private,
    /// Presence.
    Presence,
    /// Encrypted end to end.
    Encrypted,
}

/// The handling of an event for a public channel that must have another kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPublicPublish {
    /// It is refused, with the name to use.
    #[default]
    Reject,
    /// It is delivered on the channel of that name.
    Upgrade,
}

/// A decision about an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is allowed.
    #[default]
    Allow,
    /// It is forbidden.
    Deny,
}

/// Why a rule, or the lack of one, forbids something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No rule matches the channel, and the default forbids it.
    #[error("No rule allows the channel {channel}; the operator may add one that matches {}", rule_base(.channel.as_str()))]
    NoRule {
        /// The channel asked for.
        channel: ChannelName,
    },
    /// The channel has the wrong kind.
    #[error("The rule {rule} does not allow the channel {channel}; use {instead}")]
    Kind {
        /// The pattern of the rule.
        rule: ChannelPattern,
        /// The channel asked for.
        channel: ChannelName,
        /// The channel's name with the right kind.
        instead: String,
    },
    /// Clients may not send events.
    #[error("The rule {rule} allows no client events on {channel}")]
    ClientEvents {
        /// The pattern of the rule.
        rule: ChannelPattern,
        /// The channel.
        channel: ChannelName,
    },
}

impl PolicyError {
    /// The channel of the request.
    pub fn channel(&self) -> &ChannelName {
        match self {
            Self::NoRule { channel } | Self::Kind { channel, .. } | Self::ClientEvents { channel, .. } => channel,
        }
    }

    /// The pattern of the rule; empty without one.
    pub fn rule(&self) -> &str {
        match self {
            Self::NoRule { .. } => "",
            Self::Kind { rule, .. } | Self::ClientEvents { rule, .. } => rule.as_str(),
        }
    }
}

/// The rules of an app. The first one that matches decides.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The rules in order.
    pub rules: &'a [ChannelRule],
    /// For channels that no rule matches.
    pub default: Decision,
}

impl<'a> Policy<'a> {
    /// The rule for a channel, if there is one.
    fn rule(self, channel: &ChannelName) -> Result<Option<&'a ChannelRule>, PolicyError> {
        // A user's own channel needs no rule: only the user may join.
        let is_free = self.rules.is_empty() && self.default == Decision::Allow;
        if is_free || channel.kind().access == Access::User {
            return Ok(None);
        }
        let base = rule_base(channel.as_str());
        match self.rules.iter().find(|rule| rule.pattern.matches(base)) {
            None if self.default == Decision::Deny => Err(PolicyError::NoRule { channel: channel.clone() }),
            rule => Ok(rule),
        }
    }

    /// The pattern of the rule for a channel, if there is one.
    pub fn rule_of(self, channel: &ChannelName) -> Option<&'a str> {
        self.rule(channel).ok()?.map(|rule| rule.pattern.as_str())
    }

    /// Whether a channel may be joined.
    pub fn subscribe(self, channel: &ChannelName) -> Result<(), PolicyError> {
        match self.rule(channel)? {
            Some(rule) if !rule.require.is_met_by(channel.kind()) => Err(rule.wrong_kind(channel)),
            _ => Ok(()),
        }
    }

    /// The channel for an event on `channel`: the same, or its twin of the right kind.
    pub fn publish(self, channel: &ChannelName, length_max: usize) -> Result<Option<ChannelName>, PolicyError> {
        let Some(rule) = self.rule(channel)? else { return Ok(None) };
        if rule.require.is_met_by(channel.kind()) {
            return Ok(None);
        }
        let is_public = channel.kind().access == Access::Public;
        let upgrades = rule.on_public_publish == OnPublicPublish::Upgrade && rule.require != Require::Encrypted;
        if !is_public || !upgrades {
            return Err(rule.wrong_kind(channel));
        }
        ChannelName::parse(&rule.require.twin(channel), length_max).map(Some).map_err(|_| rule.wrong_kind(channel))
    }

    /// Whether clients may send events on a channel that they have joined.
    pub fn client_event(self, channel: &ChannelName) -> Result<(), PolicyError> {
        match self.rule(channel)? {
            Some(rule) if rule.client_events == Decision::Deny => {
                Err(PolicyError::ClientEvents { rule: rule.pattern.clone(), channel: channel.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The seconds that a subscription may last, if limited.
    pub fn subscription_age_max(self, channel: &ChannelName) -> Option<u32> {
        let rule = self.rule(channel).ok()??;
        Some(rule.max_subscription_age_seconds).filter(|&seconds| seconds > 0)
    }

    /// The decisions for a channel and their rule, in a sentence. `client_events` tells whether the app allows client
    /// events there.
    pub fn explain(self, channel: &ChannelName, length_max: usize, client_events: &Result<(), &str>) -> String {
        let by = match self.rule(channel) {
            Ok(Some(rule)) => format!("rule {}", rule.pattern),
            _ => "no rule".to_owned(),
        };
        let subscribe =
            self.subscribe(channel).map_or_else(|why| format!("refused ({why})"), |()| "allowed".to_owned());
        let publish = match self.publish(channel, length_max) {
            Ok(None) => "allowed".to_owned(),
            Ok(Some(twin)) => format!("delivered on {twin}"),
            Err(_) => "refused".to_owned(),
        };
        let client_events = match client_events {
            Ok(()) if self.client_event(channel).is_ok() => "allowed".to_owned(),
            Ok(()) => "refused".to_owned(),
            Err(why) => format!("refused ({why})"),
        };
        format!("{channel}: {by}; subscribing {subscribe}; publishing {publish}; client events {client_events}")
    }
}

impl ChannelRule {
    /// A rule for all channels that forbids nothing.
    pub fn for_all() -> Self {
        Self {
            pattern: ChannelPattern::all(),
            require: Require::default(),
            on_public_publish: OnPublicPublish::default(),
            client_events: Decision::default(),
            max_subscription_age_seconds: 0,
        }
    }

    fn wrong_kind(&self, channel: &ChannelName) -> PolicyError {
        let instead = self.require.twin(channel);
        PolicyError::Kind { rule: self.pattern.clone(), channel: channel.clone(), instead }
    }
}

impl Require {
    fn is_met_by(self, kind: ChannelKind) -> bool {
        match self {
            Self::Any => true,
            Self::Private => kind.access == Access::Signed,
            Self::Presence => kind.presence,
            Self::Encrypted => kind.encrypted,
        }
    }

    /// The channel's name with the right kind.
    fn twin(self, channel: &ChannelName) -> String {
        let name = channel.as_str();
        let prefixes = ["private-encrypted-", "private-", "presence-", "encrypted-"];
        let rest = prefixes.iter().find_map(|prefix| strip_any_case(name, prefix));
        let prefix = match self {
            Self::Any => "",
            Self::Private => "private-",
            Self::Presence => "presence-",
            Self::Encrypted => "private-encrypted-",
        };
        format!("{prefix}{}", rest.unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH_MAX: usize = 200;

    fn rule(text: &str) -> ChannelRule {
        serde_json::from_str(text).unwrap()
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::parse(text, LENGTH_MAX).unwrap()
    }

    fn subscribe(rules: &[ChannelRule], channel: &str) -> Result<(), String> {
        Policy { rules, default: Decision::Allow }.subscribe(&name(channel)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [rule(r#"{"match":"orders.public"}"#), rule(r#"{"match":"orders.*","require":"private"}"#)];
        assert_eq!(subscribe(&rules, "orders.public"), Ok(()));
        assert_eq!(subscribe(&rules, "other"), Ok(()));
        let refused = "The rule orders.* does not allow the channel orders.7; use private-orders.7";
        assert_eq!(subscribe(&rules, "orders.7"), Err(refused.to_owned()));
    }

    #[test]
    fn kinds_that_are_asked_for_are_the_only_ones() {
        let kinds = ["", "cache-", "private-", "private-cache-", "presence-", "presence-cache-", "private-encrypted-"];
        for (require, met) in
            [("any", &kinds[..]), ("private", &kinds[2..]), ("presence", &kinds[4..6]), ("encrypted", &kinds[6..])]
        {
            let rules = [rule(&format!(r#"{{"match":"a","require":"{require}"}}"#))];
            for kind in kinds {
                let allowed = subscribe(&rules, &format!("{kind}a")).is_ok();
                assert_eq!(allowed, met.contains(&kind), "{require} {kind}");
            }
        }
    }

    #[test]
    fn events_for_the_wrong_kind_are_refused_or_go_to_the_right_one() {
        let publish = |require: &str, on_public: &str, channel: &str| {
            let text = format!(r#"{{"match":"*","require":"{require}","on_public_publish":"{on_public}"}}"#);
            let published =
                Policy { rules: &[rule(&text)], default: Decision::Deny }.publish(&name(channel), LENGTH_MAX);
            published.map(|twin| twin.map(|twin| twin.to_string())).map_err(|error| error.to_string())
        };
        let use_instead = |channel: &str, instead: &str| {
            Err(format!("The rule * does not allow the channel {channel}; use {instead}"))
        };
        assert_eq!(publish("private", "reject", "a"), use_instead("a", "private-a"));
        assert_eq!(publish("private", "upgrade", "a"), Ok(Some("private-a".to_owned())));
        assert_eq!(publish("private", "upgrade", "cache-a"), Ok(Some("private-cache-a".to_owned())));
        assert_eq!(publish("presence", "upgrade", "a"), Ok(Some("presence-a".to_owned())));
        assert_eq!(publish("presence", "upgrade", "private-a"), use_instead("private-a", "presence-a"));
        // Only the publisher can encrypt.
        assert_eq!(publish("encrypted", "upgrade", "a"), use_instead("a", "private-encrypted-a"));
        assert_eq!(publish("private", "upgrade", "presence-a"), Ok(None));
        let long = "a".repeat(LENGTH_MAX);
        assert_eq!(publish("private", "upgrade", &long), use_instead(&long, &format!("private-{long}")));
    }

    #[test]
    fn without_a_rule_the_default_decides_for_all_but_users_own_channels() {
        let policy = Policy { rules: &[], default: Decision::Deny };
        let refused = policy.subscribe(&name("private-a")).unwrap_err();
        let sentence = "No rule allows the channel private-a; the operator may add one that matches a";
        assert_eq!(refused.to_string(), sentence);
        assert!(policy.publish(&name("a"), LENGTH_MAX).is_err());
        assert!(policy.client_event(&name("private-a")).is_err());
        assert_eq!(policy.subscribe(&name("#server-to-user-1")), Ok(()));
    }

    proptest! {
        /// No public channel is a variant of a protected name, in any case.
        #[test]
        fn no_variant_of_a_name_slips_past_a_rule(
            prefixes in prop::collection::vec(
                prop::sample::select(vec![
                    "private-", "presence-", "cache-", "private-encrypted-", "encrypted-", "PRIVATE-", "Presence-", "Cache-",
                    "Private-encrypted-", "ENCRYPTED-",
                ]), 0..5),
            upper in any::<bool>(), tail in "[A-Za-z0-9_.;-]{0,20}",
        ) {
            let stem = if upper { "PERMINTAAN-Barang." } else { "permintaan-barang." };
            let channel = name(&(prefixes.concat() + stem + &tail));
            let rules = [rule(r#"{"match":"permintaan-barang.*","require":"private"}"#)];
            let policy = Policy { rules: &rules, default: Decision::Allow };
            prop_assert_eq!(policy.subscribe(&channel).is_ok(), channel.kind().access == Access::Signed);
        }
    }
}
