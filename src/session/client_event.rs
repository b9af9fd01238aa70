//! Events that clients send to each other.

use std::time::Instant;

use crate::limiter::Bucket;
use crate::node::Node;
use crate::node::Said;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::json;
use crate::protocol::message::ClientEvent;
use crate::refusal::Cause;
use crate::session::Session;

impl Session {
    /// Relays a client's event, or says why not (Pusher protocol, "Client events").
    pub(super) fn client_event(
        &mut self,
        node: &Node,
        event: &ClientEvent<'_>,
        now: Instant,
    ) -> Result<(), (Cause, String)> {
        let refuse = |cause, message: &str| Err((cause, message.to_owned()));
        let rules = self.app.rules();
        let limits = &rules.said.limits;
        let Some(channel) = &event.channel else {
            return refuse(Cause::ClientEventName, "Invalid client event (must contain channel and data)");
        };
        if !event.name.starts_with("client-") {
            return refuse(Cause::ClientEventName, "Client event rejected - event name must start with 'client-'");
        }
        if !limits.enable_client_messages {
            return refuse(
                Cause::ClientEventsDisabled,
                "Client events are not enabled for this app; set enable_client_messages to allow them",
            );
        }
        let kind = ChannelKind::of(channel);
        let public_allowed = limits.allow_public_client_events && kind.access == Access::Public;
        if !(kind.access == Access::Signed || public_allowed) || kind.encrypted {
            return refuse(
                Cause::ClientEventChannel,
                "Client event rejected - only supported on private and presence channels",
            );
        }
        let Ok(place) = self.find(channel) else {
            return refuse(
                Cause::ClientEventNotSubscribed,
                &format!("Client event rejected - not subscribed to {channel}"),
            );
        };
        if let Err(why) = self.app.may_send(&self.subscriptions[place].name) {
            return refuse(Cause::ClientEventForbidden, &why.to_string());
        }
        if event.name.chars().count() > limits.max_event_name_length {
            return refuse(Cause::ClientEventNameTooLong, "Event name too long");
        }
        let data = event.data.map_or(r#""null""#.into(), json::data_string);
        let limit = limits.event_bytes_max();
        if event.data.is_some_and(|raw| json::data_is_longer(raw, &data, limit)) {
            let message = format!("The data content of this event exceeds the allowed maximum ({limit} bytes)");
            return refuse(Cause::ClientEventTooLarge, &message);
        }
        if !node.has_room() {
            return refuse(Cause::ClientEventOverload, "The server cannot keep up with what is published, try again");
        }
        Bucket::follow(&mut self.client_events, limits.max_client_events_per_second, now);
        if self.client_events.as_mut().is_some_and(|bucket| bucket.take(1, now).is_err()) {
            return refuse(Cause::ClientEventRate, "Client event rejected due to rate limit");
        }
        let subscription = &self.subscriptions[place];
        let user_id = subscription.user_id.as_deref();
        let said = Said { name: &event.name, data: &data, sender: self.socket_id, user_id };
        self.app.relay(&subscription.name, &said, now);
        tracing::debug!(
            app = self.app.id,
            channel = subscription.name.as_str(),
            event = &*event.name,
            socket_id = %self.socket_id,
            // The sender does not get it.
            subscribers = self.app.subscribers(&subscription.name).saturating_sub(1),
            "client event"
        );
        Ok(())
    }
}
