//! Channel names and the kinds of channels (Pusher protocol, "Channels").
//! All modules use [`ChannelName`]: a value of it is valid.

use std::fmt;
use std::sync::Arc;

/// The name of a user's own channel starts with this; the user's id follows.
pub const USER_CHANNEL_PREFIX: &str = "#server-to-user-";

/// `private-orders.17`, `presence-room`, … Never empty, within the length limit, allowed characters only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a text is not a channel name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or a character that is not allowed.
    #[error("Invalid channel name: {name}")]
    Invalid {
        /// The name as given, cut to a printable length.
        name: String,
    },
    /// More characters than the app allows.
    #[error("Channel name too long")]
    TooLong,
}

/// The kind of a channel, by the start of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelKind {
    /// The access that it needs.
    pub access: Access,
    /// Whether its subscribers are members that see each other.
    pub presence: bool,
    /// Whether it stores its last event.
    pub cached: bool,
    /// Whether its events are encrypted end to end.
    pub encrypted: bool,
}

/// The access that a channel needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Public: no signature is needed.
    Public,
    /// A signature is needed.
    Signed,
    /// Only the signed-in user whose channel it is.
    User,
}

impl ChannelName {
    /// Checks `name`: 1 to `length_max` characters of `A–Z a–z 0–9 _ - = @ , . ;`, or a user's own channel.
    pub fn parse(name: &str, length_max: usize) -> Result<Self, NameError> {
        let user = name.strip_prefix(USER_CHANNEL_PREFIX);
        if name.len() > length_max && name.chars().count() > length_max + user.map_or(0, |_| USER_CHANNEL_PREFIX.len())
        {
            return Err(NameError::TooLong);
        }
        let allowed = match user {
            Some(user) => !user.is_empty() && !user.chars().any(char::is_control),
            None => !name.is_empty() && name.bytes().all(is_allowed),
        };
        if allowed {
            return Ok(Self(name.into()));
        }
        Err(NameError::Invalid { name: name.chars().take(64).collect() })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind of the channel.
    pub fn kind(&self) -> ChannelKind {
        ChannelKind::of(&self.0)
    }

    /// The user whose own channel this is.
    pub fn user(&self) -> Option<&str> {
        self.0.strip_prefix(USER_CHANNEL_PREFIX)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl ChannelKind {
    /// Decides by the start of the name; the hyphen belongs to the prefix, so `privateer` is public.
    ///
    /// ```
    /// use gema::protocol::channel::ChannelKind;
    /// assert!(ChannelKind::of("private-cache-prices").cached);
    /// assert!(!ChannelKind::of("presence-encrypted-x").encrypted);
    /// ```
    pub fn of(name: &str) -> Self {
        let plain = Self { access: Access::Public, presence: false, cached: false, encrypted: false };
        if name.starts_with(USER_CHANNEL_PREFIX) {
            return Self { access: Access::User, ..plain };
        }
        if let Some(rest) = name.strip_prefix("presence-") {
            return Self { access: Access::Signed, presence: true, cached: rest.starts_with("cache-"), ..plain };
        }
        if let Some(rest) = name.strip_prefix("private-") {
            let encrypted = rest.strip_prefix("encrypted-");
            let cached = encrypted.unwrap_or(rest).starts_with("cache-");
            return Self { access: Access::Signed, cached, encrypted: encrypted.is_some(), ..plain };
        }
        Self { cached: name.starts_with("cache-"), ..plain }
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hyphen_belongs_to_the_prefix() {
        for name in ["privateer", "presenceful", "cached", "my-private-x"] {
            assert_eq!(ChannelKind::of(name).access, Access::Public, "{name}");
            assert!(!ChannelKind::of(name).cached, "{name}");
        }
    }

    #[test]
    fn names_are_limited_in_length_and_characters() {
        assert!(ChannelName::parse("aZ9_-=@,.;", 200).is_ok());
        assert_eq!(ChannelName::parse(&"x".repeat(201), 200), Err(NameError::TooLong));
        for name in ["", "a b", "a:b", "a/b", "#a", "é", "a\n", "#server-to-user-"] {
            assert!(matches!(ChannelName::parse(name, 200), Err(NameError::Invalid { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_users_channel_may_hold_any_id() {
        assert_eq!(ChannelName::parse("#server-to-user-a b/ö", 200).unwrap().user(), Some("a b/ö"));
    }
}
