//! Publishing: accepts an event and hands it to the registry.
//! `http::events`, `ingest` and client events call it.

use std::sync::Arc;
use std::time::Instant;

use crate::limiter::Allowance;
use crate::limiter::TooFast;
use crate::node::App;
use crate::node::Node;
use crate::node::Rules;
use crate::protocol::channel::ChannelName;
use crate::protocol::event;
use crate::protocol::socket_id::SocketId;
use crate::protocol::webhook::ClientEvent;
use crate::protocol::webhook::Kind;
use crate::registry::inbox::Event;
use crate::watch::source::PAGE_ONLY;

/// A publisher's event that has been checked.
#[derive(Debug)]
pub struct Publication<'a> {
    /// The event's name.
    pub name: &'a str,
    /// A JSON string with its quotes, as the publisher wrote it.
    pub data: &'a str,
    /// The connection that must not get the event.
    pub except: Option<SocketId>,
}

/// A client's event that has been checked.
#[derive(Debug)]
pub struct RelayedEvent<'a> {
    /// The event's name.
    pub name: &'a str,
    /// A JSON string with its quotes.
    pub data: &'a str,
    /// The sending connection, which does not get the event.
    pub sender: SocketId,
    /// The sender's user id, on a presence channel.
    pub user_id: Option<&'a str>,
}

/// Why an event is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// A shard's inbox is full.
    #[error("The server cannot keep up with what is published, try again")]
    Overloaded,
    /// The other nodes cannot be reached, or too much waits for them.
    #[error("The other nodes cannot be reached now, because the way to them is closed or too slow; try again")]
    CutOff,
    /// The app exceeds its rate of events.
    #[error("{}", too_fast(*.0))]
    TooFast(TooFast),
}

fn too_fast(TooFast { asked, retry_after, allowance }: TooFast) -> String {
    match (retry_after, allowance.limit) {
        (Some(wait), _) => format!("The app publishes more than it may, try again in {} ms", wait.as_millis()),
        (None, 0) => "The app may publish nothing: its max_backend_events_per_second is 0".to_owned(),
        (None, limit) => format!(
            "This request counts as {asked} events, but the app may publish {limit} in a second; \
             send fewer at once, or raise max_backend_events_per_second"
        ),
    }
}

/// The text of a JSON string, for the operator.
fn decoded(data: &str) -> String {
    serde_json::from_str(data).unwrap_or_else(|_| data.to_owned())
}

impl Node {
    /// Checks whether events can be accepted, and takes `events` from the app's rate. Returns the rest of that.
    pub async fn admit(&self, rules: &Rules, events: usize) -> Result<Option<Allowance>, PublishError> {
        if self.inboxes.is_full() {
            return Err(PublishError::Overloaded);
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.outgoing().is_full()) {
            return Err(PublishError::CutOff);
        }
        rules.take_backend_events(events).await.map_err(PublishError::TooFast)
    }

    /// Whether the server can keep up with another client event.
    pub fn has_capacity(&self) -> bool {
        !self.inboxes.is_full() && !self.cluster.as_ref().is_some_and(|cluster| cluster.outgoing().is_full())
    }
}

impl App {
    /// Delivers a publisher's event on all nodes. A cache channel stores it.
    pub fn publish(&self, rules: &Rules, channel: &ChannelName, publication: &Publication<'_>, accepted: Instant) {
        let event = self.accept(channel, publication, accepted);
        self.state.publish(channel, &event, rules.cache_time(channel));
        for (view, event) in self.views(rules, channel, &event) {
            self.state.publish(&view, &event, rules.cache_time(&view));
        }
        self.log_published(channel, publication);
    }

    /// Like `publish`, but on this node only: the other nodes receive the event themselves.
    pub fn publish_here(&self, rules: &Rules, channel: &ChannelName, publication: &Publication<'_>, accepted: Instant) {
        let event = self.accept(channel, publication, accepted);
        self.state.publish_here(channel, &event, rules.cache_time(channel));
        for (view, event) in self.views(rules, channel, &event) {
            self.state.publish_here(&view, &event, rules.cache_time(&view));
        }
        self.log_published(channel, publication);
    }

    /// The views of a channel that may matter to somebody, each with the event under its name. Each view is a channel of
    /// its own.
    fn views(&self, rules: &Rules, channel: &ChannelName, event: &Event) -> impl Iterator<Item = (ChannelName, Event)> {
        rules.flow().views_of(channel).into_iter().filter_map(|name| {
            let view = ChannelName::parse(&name, usize::MAX).ok()?;
            if !self.state.may_matter(&view, rules.cache_time(&view).is_some()) {
                return None;
            }
            let frame = event::under(&name, &event.frame, None)?;
            Some((view, Event { frame, ..event.clone() }))
        })
    }

    /// Logs how many connections get the event here.
    fn log_published(&self, channel: &ChannelName, publication: &Publication<'_>) {
        tracing::debug!(
            app = self.id,
            channel = channel.as_str(),
            event = publication.name,
            bytes = publication.data.len(),
            subscribers = self.subscribers(channel),
            "published"
        );
        if self.shows_payloads {
            tracing::debug!(
                target: PAGE_ONLY,
                app = self.id,
                channel = channel.as_str(),
                event = publication.name,
                data = decoded(publication.data),
                subscribers = self.subscribers(channel),
                "published"
            );
        }
    }

    /// Connections to this node that are subscribed to a channel.
    pub fn subscribers(&self, channel: &ChannelName) -> usize {
        self.state.channel(channel.as_str(), Instant::now()).subscriptions
    }

    fn accept(&self, channel: &ChannelName, publication: &Publication<'_>, accepted: Instant) -> Event {
        self.meters.event(publication.name);
        let frame = event::published(channel.as_str(), publication.name, publication.data);
        Event::new(frame, publication.except, accepted)
    }

    /// Delivers a client's event to the other connections on the channel.
    pub fn relay(&self, channel: &ChannelName, relayed: &RelayedEvent<'_>, accepted: Instant) {
        self.meters.client_event();
        let &RelayedEvent { name, data, sender, user_id } = relayed;
        let frame = event::client_event(channel.as_str(), name, data, user_id);
        let webhook = self.state.records_webhook(Kind::ClientEvent).then(|| ClientEvent {
            name: name.to_owned(),
            data: data.to_owned(),
            socket_id: sender,
            user_id: user_id.map(Arc::from),
        });
        self.state.relay(channel, &Event::new(frame, Some(sender), accepted), webhook);
        if self.shows_payloads {
            tracing::debug!(
                target: PAGE_ONLY,
                app = self.id,
                channel = channel.as_str(),
                event = name,
                socket_id = %sender,
                user = user_id,
                data = decoded(data),
                // The sender does not get it.
                subscribers = self.subscribers(channel).saturating_sub(1),
                "client event"
            );
        }
    }
}
