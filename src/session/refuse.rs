//! The refusals of a session: the cause to count, the explanation for the operator and the error for the client.
//! `Session` and the shard call it whenever they refuse something or close the connection.

use std::fmt::Display;

use crate::node::Node;
use crate::protocol::event;
use crate::protocol::frame::FrameError;
use crate::protocol::grant::AuthError;
use crate::protocol::grant::SignInError;
use crate::protocol::grant::SubscribeError;
use crate::protocol::identity::IdentityError;
use crate::protocol::message::SignIn;
use crate::protocol::message::Subscribe;
use crate::protocol::signature::Signer;
use crate::protocol::view::ViewError;
use crate::refusal::Cause;
use crate::refusal::LazyText;
use crate::refusal::Subject;
use crate::session::Action;
use crate::session::Session;

impl Session {
    /// The connection, as the log names it.
    fn subject(&self) -> Subject<'_> {
        Subject {
            app: &self.app.id,
            address: Some(self.client_address),
            socket_id: Some(self.socket_id),
            ..Subject::default()
        }
    }

    /// Counts and logs a refusal, or the reason of a close.
    pub fn count_refusal(&self, cause: Cause, channel: Option<&str>, detail: &dyn Display) {
        self.app.refusals().add(cause, &Subject { channel, detail: Some(detail), ..self.subject() });
    }

    /// Counts a connection that broke the WebSocket protocol.
    pub fn on_broken(&self, error: FrameError) {
        let cause = match error {
            FrameError::Protocol(_) => Cause::BrokenFrame,
            FrameError::NotUtf8 => Cause::MessageNotUtf8,
            FrameError::NotDeflate => Cause::MessageNotDeflate,
            FrameError::TooBig(_) => Cause::MessageTooBig,
        };
        self.count_refusal(cause, None, &error);
    }

    /// Refuses a message with an error for the client.
    pub(super) fn refuse(&self, cause: Cause, channel: Option<&str>, message: &str, actions: &mut Vec<Action>) {
        self.count_refusal(cause, channel, &message);
        actions.push(Action::Send(event::error(cause.code().filter(|code| *code >= 4000), message)));
    }

    /// Refuses a subscription, with two events: for the channel, and for listeners of connection errors.
    pub(super) fn refuse_subscribe(
        &self,
        node: &Node,
        subscribe: &Subscribe,
        error: &SubscribeError,
        actions: &mut Vec<Action>,
    ) {
        let channel = &*subscribe.channel;
        self.count_refusal(
            subscribe_cause(error),
            Some(channel),
            &LazyText(|| self.explain_subscribe(node, subscribe, error)),
        );
        actions.push(Action::Send(event::subscription_error(channel, error)));
        actions.push(Action::Send(event::error(None, &error.to_string())));
    }

    /// Refuses a sign-in.
    pub(super) fn refuse_sign_in(&self, node: &Node, sign_in: &SignIn, error: &SignInError, actions: &mut Vec<Action>) {
        let signed = format!("{}::user::{}", self.socket_id, sign_in.user_data);
        let explain = || match error {
            SignInError::Auth(error) => self.explain_auth(node, error, &sign_in.auth, &signed),
            error => error.to_string(),
        };
        self.count_refusal(sign_in_cause(error), None, &LazyText(explain));
        actions.push(Action::Send(event::error(None, &error.to_string())));
    }

    fn explain_subscribe(&self, node: &Node, subscribe: &Subscribe, error: &SubscribeError) -> String {
        let SubscribeError::Auth(error) = error else { return error.to_string() };
        let auth = subscribe.auth.as_deref().unwrap_or_default();
        let bare = format!("{}:{}", self.socket_id, subscribe.channel);
        let Some(data) = subscribe.channel_data.as_deref().filter(|data| !data.is_empty()) else {
            return self.explain_auth(node, error, auth, &bare);
        };
        let rules = self.app.rules();
        let is_bare =
            |(key, signature): (&str, &str)| rules.keys.signer(key).is_some_and(is_signature_of(signature, &bare));
        if auth.split_once(':').is_some_and(is_bare) {
            return "it is signed without its channel_data".to_owned();
        }
        self.explain_auth(node, error, auth, &format!("{bare}:{data}"))
    }

    /// How a token differs from the right one; never the token itself.
    fn explain_auth(&self, node: &Node, error: &AuthError, auth: &str, signed: &str) -> String {
        let (key, signature) = auth.split_once(':').unwrap_or_default();
        match error {
            AuthError::UnknownKey { key } => node.explain_key(key),
            AuthError::BadSignature { .. } => {
                node.explain_signature(&self.app, key, is_signature_of(signature, signed))
            }
            AuthError::Missing { .. } | AuthError::Format => error.to_string(),
        }
    }
}

/// A check whether a signer made this signature of this text.
fn is_signature_of<'a>(signature: &'a str, signed: &'a str) -> impl Fn(&Signer) -> bool + 'a {
    move |signer| signer.verify(&[signed.as_bytes()], signature)
}

pub(super) fn subscribe_cause(error: &SubscribeError) -> Cause {
    match error {
        SubscribeError::Name(_) => Cause::SubscribeName,
        SubscribeError::Auth(AuthError::Missing { .. }) => Cause::SubscribeNoAuth,
        SubscribeError::Auth(AuthError::Format) => Cause::SubscribeFormat,
        SubscribeError::Auth(AuthError::UnknownKey { .. }) => Cause::SubscribeUnknownKey,
        SubscribeError::Auth(AuthError::BadSignature { .. }) => Cause::SubscribeSignature,
        SubscribeError::Identity(IdentityError::TooLarge { .. }) => Cause::SubscribeMemberTooLarge,
        SubscribeError::Identity(_) => Cause::SubscribeMember,
        SubscribeError::View(ViewError::TooLarge) => Cause::SubscribeGrantTooLarge,
        SubscribeError::View(_) => Cause::SubscribeGrant,
        SubscribeError::NotAuthorized { .. } => Cause::SubscribeNotAuthorized,
        SubscribeError::Policy(_) => Cause::SubscribeForbidden,
        SubscribeError::Full => Cause::SubscribeFull,
        SubscribeError::TooManyChannels { .. } => Cause::SubscribeTooMany,
        SubscribeError::TooFast { .. } => Cause::SubscribeRate,
        SubscribeError::ServerFull => Cause::SubscribeServerFull,
    }
}

fn sign_in_cause(error: &SignInError) -> Cause {
    match error {
        SignInError::Auth(AuthError::UnknownKey { .. }) => Cause::SignInUnknownKey,
        SignInError::Auth(AuthError::BadSignature { .. }) => Cause::SignInSignature,
        SignInError::Auth(AuthError::Missing { .. } | AuthError::Format) => Cause::SignInFormat,
        SignInError::Identity(_) => Cause::SignInUser,
        SignInError::AnotherUser => Cause::SignInAnother,
    }
}
