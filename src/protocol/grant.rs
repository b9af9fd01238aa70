//! The right to join a channel, and the check of signatures that gives it (Pusher protocol, "Authentication").
//! `session` calls [`Verifier`]; the registry joins channels by a [`Grant`] only.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::channel::NameError;
use crate::protocol::identity::IdentityError;
use crate::protocol::identity::KnownUser;
use crate::protocol::identity::Member;
use crate::protocol::identity::MemberLimits;
use crate::protocol::identity::User;
use crate::protocol::message::SignIn;
use crate::protocol::message::Subscribe;
use crate::protocol::policy::PolicyError;
use crate::protocol::signature::Signer;
use crate::protocol::socket_id::SocketId;
use crate::protocol::view::View;
use crate::protocol::view::ViewError;
use crate::protocol::view::ViewLimits;

/// The right to join one channel. Only [`Verifier::grant`] makes one, so no channel is joined unchecked.
#[derive(Debug, Clone)]
pub struct Grant {
    channel: ChannelName,
    member: Option<Member>,
    view: Option<View>,
    user: Option<KnownUser>,
}

impl Grant {
    /// The channel that may be joined.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The member, on a presence channel.
    pub fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// The user, if the application has signed one: a member, the `user_id` in the `channel_data` of a private channel,
    /// or the user that has signed in.
    pub fn user(&self) -> Option<&KnownUser> {
        self.user.as_ref()
    }

    /// Limits the right to this time.
    pub fn end_after(&mut self, time: Duration) {
        let view = self.view.get_or_insert_with(|| View::lasting(time));
        view.lasts = view.lasts.min(time);
    }

    /// Whether the right has ended.
    pub fn is_over(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.lasts.is_zero())
    }

    /// The channel, the member, the view and the user.
    pub fn into_parts(self) -> (ChannelName, Option<Member>, Option<View>, Option<KnownUser>) {
        (self.channel, self.member, self.view, self.user)
    }
}

/// Why a subscription is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// Not a channel name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The token is missing or wrong.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The member cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its view cannot be granted.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The channel belongs to another user.
    #[error("Not authorized to subscribe to {channel}")]
    NotAuthorized {
        /// The channel asked for, cut to a printable length.
        channel: String,
    },
    /// A rule of the app forbids it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The presence channel has as many members as allowed.
    #[error("Presence channel member limit reached")]
    Full,
    /// The server has as many channels as allowed.
    #[error("The server has as many channels as it may, try again")]
    ServerFull,
    /// The connection joins too many channels at once.
    #[error("A connection may join {per_second} channels per second, try again")]
    TooFast {
        /// Channels that one connection may join per second.
        per_second: u32,
    },
    /// The connection has as many channels as allowed.
    #[error("A connection may join at most {limit} channels")]
    TooManyChannels {
        /// Channels that one connection may join.
        limit: usize,
    },
}

impl SubscribeError {
    /// `type` and `status` of `pusher:subscription_error`.
    pub fn kind(&self) -> (&'static str, u16) {
        match self {
            Self::Name(_) => ("InvalidChannel", 400),
            Self::Identity(IdentityError::TooLarge { .. }) | Self::View(ViewError::TooLarge) => ("LimitReached", 413),
            Self::Auth(_) | Self::NotAuthorized { .. } | Self::Identity(_) | Self::View(_) => ("AuthError", 401),
            Self::Policy(_) => ("Forbidden", 403),
            Self::Full | Self::TooManyChannels { .. } => ("LimitReached", 403),
            Self::TooFast { .. } => ("LimitReached", 429),
            Self::ServerFull => ("LimitReached", 503),
        }
    }
}

/// Why a token is refused. The text names what should have been signed, never the right signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A channel that needs a token, without one.
    #[error("Auth info required to subscribe to {channel}")]
    Missing {
        /// The channel.
        channel: ChannelName,
    },
    /// No colon in the token.
    #[error("Invalid format: auth must have the format key:signature")]
    Format,
    /// The key is not one of the app's.
    #[error("Invalid key in subscription auth data: '{key}'")]
    UnknownKey {
        /// The key as given, cut to a printable length.
        key: String,
    },
    /// The signature is wrong.
    #[error("Invalid signature: Expected HMAC SHA256 hex digest of {signed}")]
    BadSignature {
        /// The text that should have been signed, cut to a printable length.
        signed: String,
    },
}

/// Why a sign-in is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// The token is wrong.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The user cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The connection is signed in as another user already.
    #[error("Connection is already signed in as another user")]
    AnotherUser,
}

/// Characters of a string to sign that an error shows.
const SHOWN_MAX: usize = 1024;

/// An app's active keys with their signers.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(String, Signer)>);

impl Keys {
    /// From pairs of key and secret.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        Self(pairs.into_iter().map(|(key, secret)| (key.to_owned(), Signer::new(secret))).collect())
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Signer)> {
        self.0.iter().map(|(key, signer)| (&**key, signer))
    }

    /// The signer of this key, if it is one of the app's.
    pub fn signer(&self, key: &str) -> Option<&Signer> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, signer)| signer)
    }
}

/// Checks the signatures for one connection.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The keys of the connection's app.
    pub keys: &'a Keys,
    /// The connection.
    pub socket_id: SocketId,
    /// The signed-in user.
    pub user: Option<&'a User>,
}

/// The limits of a subscription.
#[derive(Debug, Clone, Copy)]
pub struct SubscribeLimits {
    /// Characters of a channel's name.
    pub name_length_max: usize,
    /// Sizes of a member.
    pub member: MemberLimits,
    /// The limits of a view.
    pub view: ViewLimits,
}

impl Verifier<'_> {
    /// Checks a subscription. Returns the right to join its channel.
    pub fn grant(&self, subscribe: &Subscribe, limits: SubscribeLimits) -> Result<Grant, SubscribeError> {
        let channel = match ChannelName::parse(&subscribe.channel, limits.name_length_max) {
            Err(NameError::Invalid { name }) if name.starts_with('#') => {
                return Err(SubscribeError::NotAuthorized { channel: name });
            }
            parsed => parsed?,
        };
        let kind = channel.kind();
        let channel_data = subscribe.channel_data.as_deref().filter(|data| !data.is_empty());
        match kind.access {
            Access::Public => (),
            Access::User if channel.user() == self.user.map(|user| &*user.id) => (),
            Access::User => return Err(SubscribeError::NotAuthorized { channel: channel.to_string() }),
            Access::Signed => self.check_channel(&channel, subscribe)?,
        }
        let member = match (kind.presence, channel_data, self.user) {
            (false, ..) => None,
            (true, Some(data), _) => Some(Member::parse(data, limits.member)?),
            (true, None, Some(user)) => Some(Member::from_user(user, limits.member)?),
            (true, None, None) => return Err(IdentityError::Invalid { field: "channel_data" }.into()),
        };
        let view = match channel_data.filter(|_| kind.access == Access::Signed && !kind.presence) {
            Some(data) => View::parse(data, limits.view)?,
            None => None,
        };
        if view.is_some() && kind.encrypted {
            return Err(ViewError::Encrypted.into());
        }
        let of_member = member.as_ref().map(|member| Arc::clone(&member.user_id));
        let signed = || channel_data.filter(|_| kind.access == Access::Signed).and_then(KnownUser::id_in);
        let id = of_member.or_else(signed).or_else(|| self.user.map(|user| Arc::clone(&user.id)));
        let user = id.map(|id| KnownUser { id, socket_id: self.socket_id });
        Ok(Grant { channel, member, view, user })
    }

    /// Checks a sign-in. Returns its user.
    pub fn sign_in(&self, sign_in: &SignIn) -> Result<User, SignInError> {
        let signed = format!("{}::user::{}", self.socket_id, sign_in.user_data);
        self.check(&sign_in.auth, &signed)?;
        let user = User::parse(&sign_in.user_data)?;
        match self.user {
            Some(known) if known.id != user.id => Err(SignInError::AnotherUser),
            _ => Ok(user),
        }
    }

    fn check_channel(&self, channel: &ChannelName, subscribe: &Subscribe) -> Result<(), AuthError> {
        let auth = subscribe.auth.as_deref().filter(|auth| !auth.is_empty());
        let auth = auth.ok_or_else(|| AuthError::Missing { channel: channel.clone() })?;
        let signed = format!("{}:{channel}", self.socket_id);
        match subscribe.channel_data.as_deref() {
            None => self.check(auth, &signed),
            // Some libraries sign an empty text like any other, most sign it like none. A channel's name has no colon,
            // so neither can be taken for another channel's.
            Some("") => {
                self.check(auth, &signed).or_else(|error| self.check(auth, &format!("{signed}:")).map_err(|_| error))
            }
            Some(data) => self.check(auth, &format!("{signed}:{data}")),
        }
    }

    fn check(&self, auth: &str, signed: &str) -> Result<(), AuthError> {
        let (key, signature) = auth.split_once(':').ok_or(AuthError::Format)?;
        let unknown = || AuthError::UnknownKey { key: key.chars().take(64).collect() };
        let signer = self.keys.signer(key).ok_or_else(unknown)?;
        if signer.verify(&[signed.as_bytes()], signature) {
            return Ok(());
        }
        let signed = signed.chars().take(SHOWN_MAX).collect();
        Err(AuthError::BadSignature { signed })
    }
}
