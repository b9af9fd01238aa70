//! Identities: members of presence channels and signed-in users (Pusher protocol, "Presence: members" and "Sign-in").
//! `grant` parses them out of signed texts.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexSet;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::json;
use crate::protocol::socket_id::SocketId;

/// A distinct user on one presence channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Always text, even if the application sent a number.
    pub user_id: Arc<str>,
    /// The `user_info` of the application, as JSON in its shortest form, which the limit measures.
    pub user_info: Arc<str>,
}

/// Sizes that a member must keep to.
#[derive(Debug, Clone, Copy)]
pub struct MemberLimits {
    /// Characters of a `user_id`.
    pub user_id_length_max: usize,
    /// Bytes of a `user_info`, as JSON.
    pub user_info_bytes_max: usize,
}

/// Why an identity cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a JSON object with a usable id.
    #[error("Invalid {field}")]
    Invalid {
        /// `channel_data` or `user_data`.
        field: &'static str,
    },
    /// The watchlist is no list of ids.
    #[error("watchlist must be an array of user-id strings")]
    NoWatchlist,
    /// A `user_id` or `user_info` beyond its limit.
    #[error("The {field} of a {whose} must not exceed {limit}")]
    TooLarge {
        /// `presence member` or `user`.
        whose: &'static str,
        /// `user_id` or `user_info`.
        field: &'static str,
        /// The limit with its unit.
        limit: String,
    },
}

impl Member {
    /// Reads `channel_data`; a numeric `user_id` becomes its literal text.
    ///
    /// ```
    /// use gema::protocol::identity::{Member, MemberLimits};
    /// let limits = MemberLimits { user_id_length_max: 128, user_info_bytes_max: 1024 };
    /// let member = Member::parse(r#"{"user_id":12345678901234567890}"#, limits).unwrap();
    /// assert_eq!((&*member.user_id, &*member.user_info), ("12345678901234567890", "null"));
    /// ```
    pub fn parse(channel_data: &str, limits: MemberLimits) -> Result<Self, IdentityError> {
        #[derive(Deserialize)]
        struct ChannelData<'a> {
            #[serde(borrow)]
            user_id: &'a RawValue,
            #[serde(borrow)]
            user_info: Option<&'a RawValue>,
        }
        let invalid = IdentityError::Invalid { field: "channel_data" };
        let data: ChannelData<'_> = json::object(channel_data).ok_or_else(|| invalid.clone())?;
        let user_id = text_or_number(data.user_id).ok_or_else(|| invalid.clone())?;
        let user_info = data.user_info.map_or("null".into(), json::minimal);
        let member = Self { user_id: user_id.into(), user_info: user_info.into() };
        if member.user_id.is_empty() {
            return Err(invalid);
        }
        member.check(limits)
    }

    /// A signed-in user as a member.
    pub fn from_user(user: &User, limits: MemberLimits) -> Result<Self, IdentityError> {
        Self { user_id: Arc::clone(&user.id), user_info: Arc::clone(&user.info) }.check(limits)
    }

    fn check(self, limits: MemberLimits) -> Result<Self, IdentityError> {
        check_length(&self.user_id, "presence member", limits)?;
        if self.user_info.len() > limits.user_info_bytes_max {
            let limit = format!("{} bytes", limits.user_info_bytes_max);
            return Err(IdentityError::TooLarge { whose: "presence member", field: "user_info", limit });
        }
        Ok(self)
    }
}

/// A connection of a user whose id the application has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownUser {
    /// The user's id.
    pub id: Arc<str>,
    /// The connection.
    pub socket_id: SocketId,
}

impl KnownUser {
    /// The `user_id` in the `channel_data` of a private channel, if there is one.
    pub fn id_in(channel_data: &str) -> Option<Arc<str>> {
        #[derive(Deserialize)]
        struct ChannelData<'a> {
            #[serde(borrow)]
            user_id: &'a RawValue,
        }
        let data: ChannelData<'_> = json::object(channel_data)?;
        text_or_number(data.user_id).filter(|id| !id.is_empty()).map(Arc::from)
    }

    /// Checks the length of the id.
    pub fn check(&self, limits: MemberLimits) -> Result<(), IdentityError> {
        check_length(&self.id, "user", limits)
    }
}

fn check_length(id: &str, whose: &'static str, limits: MemberLimits) -> Result<(), IdentityError> {
    if id.chars().count() > limits.user_id_length_max {
        let limit = format!("{} characters", limits.user_id_length_max);
        return Err(IdentityError::TooLarge { whose, field: "user_id", limit });
    }
    Ok(())
}

/// An identity bound to a connection by `pusher:signin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// 1 to 200 characters, no control characters.
    pub id: Arc<str>,
    /// `user_info`, as JSON in its shortest form; `null` when left out.
    pub info: Arc<str>,
    /// The ids of users whose presence this connection watches, each once.
    pub watchlist: Vec<Arc<str>>,
}

/// Characters of a signed-in user's id.
const USER_ID_LENGTH_MAX: usize = 200;

impl User {
    /// Reads `user_data`; a numeric `id`, such as PHP signs for `['id' => 7]`, becomes its literal text.
    ///
    /// ```
    /// use gema::protocol::identity::User;
    /// assert_eq!(&*User::parse(r#"{"id":12345678901234567890}"#).unwrap().id, "12345678901234567890");
    /// ```
    pub fn parse(user_data: &str) -> Result<Self, IdentityError> {
        #[derive(Deserialize)]
        struct UserData<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
            #[serde(borrow)]
            user_info: Option<&'a RawValue>,
            #[serde(borrow)]
            watchlist: Option<&'a RawValue>,
        }
        let invalid = || IdentityError::Invalid { field: "user_data" };
        let data: UserData<'_> = json::object(user_data).ok_or_else(invalid)?;
        let id = text_or_number(data.id).ok_or_else(invalid)?;
        let length = id.chars().count();
        if !(1..=USER_ID_LENGTH_MAX).contains(&length) || id.chars().any(char::is_control) {
            return Err(invalid());
        }
        let info = data.user_info.map_or("null".into(), json::minimal);
        let watchlist = data.watchlist.map_or(Some(Vec::new()), watchlist).ok_or(IdentityError::NoWatchlist)?;
        Ok(Self { id: id.into(), info: info.into(), watchlist })
    }
}

/// The ids of a list, each of them once; numbers become their literal text.
fn watchlist(list: &RawValue) -> Option<Vec<Arc<str>>> {
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).ok()?;
    let ids: IndexSet<Arc<str>> =
        list.into_iter().map(|id| text_or_number(id).map(Arc::from)).collect::<Option<_>>()?;
    Some(ids.into_iter().collect())
}

/// The characters of a string, or the literal text of a number.
fn text_or_number(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get() {
        number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => Some(number.into()),
        _ => json::text(raw),
    }
}
