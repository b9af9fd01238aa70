//! Client events: checks an event that a client sends to others on its channel, and relays it.
//! `Session` calls it for each message whose name is not Pusher's own.

use std::time::Instant;

use crate::limiter::Bucket;
use crate::node::Node;
use crate::node::RelayedEvent;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::json;
use crate::protocol::message::ClientEvent;
use crate::protocol::policy::PolicyError;
use crate::refusal::Cause;
use crate::session::Session;

/// Why a client event is refused. The text goes to the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientEventError {
    #[error("Invalid client event (must contain channel and data)")]
    NoChannel,
    #[error("Client event rejected - event name must start with 'client-'")]
    Name,
    #[error("Client events are not enabled for this app; set enable_client_messages to allow them")]
    Disabled,
    #[error("Client event rejected - only supported on private and presence channels")]
    Channel,
    #[error("Client event rejected - not subscribed to {channel}")]
    NotSubscribed { channel: String },
    #[error(transparent)]
    Forbidden(#[from] PolicyError),
    #[error("Event name too long")]
    NameTooLong,
    #[error("The data content of this event exceeds the allowed maximum ({limit} bytes)")]
    TooLarge { limit: usize },
    #[error("The server cannot keep up with what is published, try again")]
    Overloaded,
    #[error("Client event rejected due to rate limit")]
    TooFast,
}

impl ClientEventError {
    /// How the refusal is counted and logged, with its code on the wire.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::NoChannel | Self::Name => Cause::ClientEventName,
            Self::Disabled => Cause::ClientEventsDisabled,
            Self::Channel => Cause::ClientEventChannel,
            Self::NotSubscribed { .. } => Cause::ClientEventNotSubscribed,
            Self::Forbidden(_) => Cause::ClientEventForbidden,
            Self::NameTooLong => Cause::ClientEventNameTooLong,
            Self::TooLarge { .. } => Cause::ClientEventTooLarge,
            Self::Overloaded => Cause::ClientEventOverload,
            Self::TooFast => Cause::ClientEventRate,
        }
    }
}

impl Session {
    /// Relays a client's event if it passes all checks (Pusher protocol, "Client events").
    pub(super) fn client_event(
        &mut self,
        node: &Node,
        event: &ClientEvent<'_>,
        now: Instant,
    ) -> Result<(), ClientEventError> {
        let rules = self.app.rules();
        let limits = rules.limits();
        let channel = event.channel.as_ref().ok_or(ClientEventError::NoChannel)?;
        if !event.name.starts_with("client-") {
            return Err(ClientEventError::Name);
        }
        if !limits.enable_client_messages {
            return Err(ClientEventError::Disabled);
        }
        let kind = ChannelKind::of(channel);
        let public_allowed = limits.allow_public_client_events && kind.access == Access::Public;
        if !(kind.access == Access::Signed || public_allowed) || kind.encrypted {
            return Err(ClientEventError::Channel);
        }
        let Ok(index) = self.find(channel) else {
            return Err(ClientEventError::NotSubscribed { channel: channel.to_string() });
        };
        let allowed = limits.policy().client_event(&rules.ruled(&self.subscriptions[index].name));
        allowed.inspect_err(|why| self.app.count_forbidden("client_event", why))?;
        if event.name.chars().count() > limits.max_event_name_length {
            return Err(ClientEventError::NameTooLong);
        }
        let data = event.data.map_or(r#""null""#.into(), json::data_string);
        let limit = limits.event_bytes_max();
        if event.data.is_some_and(|raw| json::data_is_longer(raw, &data, limit)) {
            return Err(ClientEventError::TooLarge { limit });
        }
        if !node.has_capacity() {
            return Err(ClientEventError::Overloaded);
        }
        Bucket::update_limit(&mut self.client_events, limits.max_client_events_per_second, now);
        if self.client_events.as_mut().is_some_and(|bucket| bucket.take(1, now).is_err()) {
            return Err(ClientEventError::TooFast);
        }
        let subscription = &self.subscriptions[index];
        let user_id = subscription.user_id.as_deref();
        let relayed = RelayedEvent { name: &event.name, data: &data, sender: self.socket_id, user_id };
        self.app.relay(&subscription.name, &relayed, now);
        tracing::debug!(
            app = self.app.id,
            channel = subscription.name.as_str(),
            event = &*event.name,
            socket_id = %self.socket_id,
            address = self.shown_address(),
            user = self.shown_user(user_id),
            // The sender does not get it.
            subscribers = self.app.subscribers(&subscription.name).saturating_sub(1),
            "client event"
        );
        Ok(())
    }
}
