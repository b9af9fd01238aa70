//! The session of one connection: what a client's message means, and what the client is subscribed to. Holds no socket.
//! The shard calls it with each message and performs the [`Action`]s that it returns.

mod client_event;
mod info;
mod join_times;
mod quota;
mod raw;
mod refuse;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crate::limiter::Bucket;
use crate::limiter::Pace;
use crate::metrics::AppMeters;
use crate::node::App;
use crate::node::Connected;
use crate::node::Node;
use crate::node::Rules;
use crate::node::Unauthorized;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;
use crate::protocol::code::Close;
use crate::protocol::code::VIEW_ENDED;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::grant::Grant;
use crate::protocol::grant::SubscribeError;
use crate::protocol::grant::Verifier;
use crate::protocol::identity::User;
use crate::protocol::message::ClientMessage;
use crate::protocol::message::MessageError;
use crate::protocol::message::SignIn;
use crate::protocol::message::Subscribe;
use crate::protocol::socket_id::SocketId;
use crate::refusal::Cause;
use crate::registry::Unsubscribe;
use crate::registry::address::Address;
use crate::session::info::Details;
use crate::session::join_times::JoinTimes;

/// Subscriptions that may be pending at once: their answers come together and must fit into the outbox.
const JOINING_MAX: u32 = 8;

/// From this protocol version on, a close frame needs no `pusher:error` before it.
const CLOSE_CODE_ALONE: u8 = 6;

/// An established connection: its identity and its subscriptions.
#[derive(Debug)]
pub struct Session {
    app: Arc<App>,
    address: Address,
    socket_id: SocketId,
    /// The client's address, from trusted proxies where there are any.
    client_address: IpAddr,
    protocol: u8,
    /// Whether it does not speak the protocol: it gets events of its app's raw channels, and is not listened to.
    is_raw: bool,
    /// It has left everything.
    is_ended: bool,
    /// Whether the connection counts towards the app's quota, which begins when it is authorized.
    in_quota: bool,
    /// Counts the connection while it has public channels without being authorized.
    unauthorized: Option<Unauthorized>,
    /// Sorted by name.
    subscriptions: Vec<Subscription>,
    join_times: Option<Box<JoinTimes>>,
    /// Limits subscriptions per second.
    subscribing: Pace,
    /// Subscriptions without an answer so far: it may depend on other nodes.
    joining: u32,
    /// A message that has to wait for those answers.
    deferred: Option<Box<str>>,
    user: Option<Box<User>>,
    client_events: Option<Box<Bucket>>,
    /// There where there is an operator's page.
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Subscription {
    name: ChannelName,
    /// The member, on a presence channel.
    user_id: Option<Arc<str>>,
}

/// A step that the shard takes for the connection; in order.
#[derive(Debug)]
pub enum Action {
    /// Send this frame.
    Send(Frame),
    /// Take the messages of the shard's inbox now. The registry has put the result of a join, leave or sign-in there,
    /// under the lock of the channel.
    /// It cannot be returned directly: in the inbox it stands behind the events that the connection must still get and
    /// before those that it must get once. Reading it now spares the client's next message a wait.
    ReadInbox,
}

impl Session {
    /// Establishes a connection, or refuses it with a close code. Returns the first frame for the client, if it is to get
    /// one.
    pub fn open(node: &Node, request: &ConnectRequest, address: Address) -> Result<(Self, Option<Frame>), Close> {
        let Connected { app, protocol, in_quota, raw } = node.connect(request)?;
        let socket_id = SocketId::random();
        let client_events = app.rules().limits().max_client_events_per_second;
        let mut session = Self {
            is_raw: raw.is_some(),
            is_ended: false,
            in_quota,
            unauthorized: None,
            client_events: Bucket::new(client_events, Instant::now()).map(Box::new),
            app,
            address,
            socket_id,
            client_address: request.address,
            protocol,
            subscriptions: Vec::new(),
            join_times: None,
            subscribing: Pace::default(),
            joining: 0,
            deferred: None,
            user: None,
            details: node.has_dashboard().then(|| Box::new(Details::of(request))),
        };
        tracing::debug!(
            app = session.app.id,
            %socket_id,
            address = %session.client_address,
            origin = request.origin,
            protocol,
            library = session.details.as_ref().and_then(|details| details.library.as_deref()),
            raw = session.is_raw.then_some(true),
            "connected"
        );
        let Some(channels) = raw else {
            let timeout = node.connections().activity_timeout_seconds;
            return Ok((session, Some(event::connection_established(socket_id, timeout))));
        };
        session.join_raw(node, channels)?;
        Ok((session, None))
    }

    /// The connection's public id.
    pub fn socket_id(&self) -> SocketId {
        self.socket_id
    }

    /// The app that it is connected to.
    pub fn app_id(&self) -> &str {
        &self.app.id
    }

    /// The counters of the app.
    pub fn meters(&self) -> &Arc<AppMeters> {
        &self.app.meters
    }

    /// The number of its channels.
    pub fn channel_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// How long the connection may stay unauthorized; `None` when it is authorized or need not be.
    pub fn authorization_timeout(&self) -> Option<std::time::Duration> {
        (!self.in_quota).then(|| self.app.rules().limits().user_authentication_timeout_seconds.duration())
    }

    /// The frames that close the connection from our side.
    pub fn closing_frames(&self, close: &Close) -> Vec<Frame> {
        tracing::debug!(
            app = self.app.id,
            socket_id = %self.socket_id,
            address = self.shown_address(),
            user = self.shown_user(None),
            code = close.code.number(),
            reason = &*close.reason,
            "closed by the server"
        );
        let error = event::error(Some(close.code.number()), &close.reason);
        let before = (self.protocol < CLOSE_CODE_ALONE).then_some(error);
        before.into_iter().chain([Frame::close(close)]).collect()
    }

    /// Acts on a text message, or defers it.
    pub fn on_text(&mut self, node: &Node, text: &str, now: Instant, actions: &mut Vec<Action>) -> ControlFlow<Close> {
        self.app.meters.messages_received.inc();
        self.app.meters.received_bytes.inc_by(text.len() as u64);
        if self.is_raw {
            self.app.meters.raw_ignored();
            return ControlFlow::Continue(());
        }
        let message = ClientMessage::parse(text);
        if self.joining > 0 && !self.may_overtake(&message) {
            self.deferred = Some(text.into());
            return ControlFlow::Continue(());
        }
        self.act(node, message, now, actions)
    }

    /// Acts on the deferred message.
    pub fn on_deferred(&mut self, node: &Node, now: Instant, actions: &mut Vec<Action>) -> ControlFlow<Close> {
        match self.deferred.take() {
            Some(text) => self.act(node, ClientMessage::parse(&text), now, actions),
            None => ControlFlow::Continue(()),
        }
    }

    /// Whether a deferred message still has to wait; the shard must not read on then.
    pub fn is_waiting(&self) -> bool {
        self.deferred.is_some() && self.joining > 0
    }

    /// Whether there is a deferred message.
    pub fn has_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Notes that a subscription has its answer.
    pub fn on_joined(&mut self) {
        self.joining = self.joining.saturating_sub(1);
    }

    /// Whether a message may go before pending answers: pings, and some more subscriptions.
    fn may_overtake(&self, message: &Result<ClientMessage<'_>, MessageError>) -> bool {
        match message {
            Ok(ClientMessage::Subscribe(subscribe)) => {
                self.joining < JOINING_MAX && self.find(&subscribe.channel).is_err()
            }
            Ok(ClientMessage::Ping | ClientMessage::Pong) => true,
            _ => false,
        }
    }

    fn act(
        &mut self,
        node: &Node,
        message: Result<ClientMessage<'_>, MessageError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> ControlFlow<Close> {
        match message {
            Ok(ClientMessage::Ping) => actions.push(Action::Send(event::pong())),
            Ok(ClientMessage::Pong) => (),
            Ok(ClientMessage::Subscribe(subscribe)) => return self.subscribe(node, &subscribe, now, actions),
            Ok(ClientMessage::Unsubscribe(channel)) => self.unsubscribe(&channel, now, actions),
            Ok(ClientMessage::SignIn(sign_in)) => return self.sign_in(node, &sign_in, now, actions),
            Ok(ClientMessage::Event(event)) => {
                if let Err(error) = self.client_event(node, &event, now) {
                    self.refuse(error.cause(), event.channel.as_deref(), &error.to_string(), actions);
                }
            }
            Ok(ClientMessage::Foreign) => {
                self.refuse(Cause::ForeignMessage, None, &MessageError::NoEvent.to_string(), actions);
            }
            Err(error) => self.refuse(Cause::InvalidMessage, None, &error.to_string(), actions),
        }
        ControlFlow::Continue(())
    }

    /// Refuses a binary message: this protocol has none.
    pub fn on_binary(&mut self, actions: &mut Vec<Action>) {
        self.app.meters.messages_received.inc();
        if self.is_raw {
            return self.app.meters.raw_ignored();
        }
        self.refuse(Cause::InvalidMessage, None, "Binary messages are not supported", actions);
    }

    /// Undoes a subscription because the channel has too many members. Returns the frames for the client.
    pub fn on_refused(&mut self, channel: &ChannelName, now: Instant) -> Vec<Frame> {
        self.on_joined();
        let Ok(index) = self.find(channel.as_str()) else { return Vec::new() };
        let subscription = self.subscriptions.remove(index);
        self.leave(&subscription, false, now);
        let error = SubscribeError::Full;
        self.count_refusal(Cause::SubscribeFull, Some(channel.as_str()), &error);
        vec![event::subscription_error(channel.as_str(), &error), event::error(None, &error.to_string())]
    }

    /// Leaves all channels and signs out. If the connection was cut off, its user may come back for what it misses.
    /// Events from before are still in the inbox.
    pub fn end(&mut self, node: &Node, is_cut: bool, now: Instant) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        for subscription in std::mem::take(&mut self.subscriptions) {
            self.leave(&subscription, is_cut, now);
        }
        if self.is_raw {
            self.app.meters.raw_closed();
        }
        tracing::debug!(
            app = self.app.id,
            socket_id = %self.socket_id,
            address = %self.client_address,
            user = self.shown_user(None),
            "disconnected"
        );
        if let Some(user) = self.user.take() {
            self.app.sign_out(self.address, &user);
        }
        self.unauthorized = None;
        node.disconnect(&self.app, self.in_quota);
    }

    fn find(&self, channel: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|subscription| subscription.name.as_str().cmp(channel))
    }

    fn verifier<'a>(&'a self, rules: &'a Rules) -> Verifier<'a> {
        Verifier { keys: &rules.keys, socket_id: self.socket_id, user: self.user.as_deref() }
    }

    fn subscribe(
        &mut self,
        node: &Node,
        subscribe: &Subscribe,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> ControlFlow<Close> {
        let Err(index) = self.find(&subscribe.channel) else {
            let message = format!("Existing subscription to channel {}", subscribe.channel);
            self.refuse(Cause::SubscribeTwice, Some(&subscribe.channel), &message, actions);
            return ControlFlow::Continue(());
        };
        let granted = self.grant(node, subscribe, now);
        if granted.as_ref().is_ok_and(Grant::is_over) {
            return ControlFlow::Break(VIEW_ENDED);
        }
        match granted.and_then(|grant| self.join(grant, index, now)) {
            Ok(authorized) => {
                actions.push(Action::ReadInbox);
                if authorized { self.count_authorized(node) } else { self.count_unauthorized(node) }
            }
            Err(error) => {
                self.refuse_subscribe(node, subscribe, &error, actions);
                ControlFlow::Continue(())
            }
        }
    }

    /// Checks the right to join a channel. It may have expired already.
    fn grant(&mut self, node: &Node, subscribe: &Subscribe, now: Instant) -> Result<Grant, SubscribeError> {
        let settings = node.connections();
        let (limit, per_second) = (settings.channels_max, settings.subscriptions_per_second);
        if per_second > 0 && !self.subscribing.take(per_second, settings.subscriptions_burst(), now) {
            return Err(SubscribeError::TooFast { per_second });
        }
        if self.subscriptions.len() >= limit {
            return Err(SubscribeError::TooManyChannels { limit });
        }
        self.grant_lasting(subscribe, limit, now)
    }

    /// Checks the right to join a channel, apart from how many there are.
    fn grant_lasting(&mut self, subscribe: &Subscribe, limit: usize, now: Instant) -> Result<Grant, SubscribeError> {
        let rules = self.app.rules();
        let mut grant = self.app.grant(&rules, self.verifier(&rules), subscribe)?;
        if let Some(age_max) = rules.subscription_age_max(grant.channel()) {
            grant.end_after(self.join_times.get_or_insert_default().time_left(grant.channel(), age_max, limit, now));
        }
        Ok(grant)
    }

    /// Joins a channel. Returns whether that authorizes the connection.
    fn join(&mut self, grant: Grant, index: usize, now: Instant) -> Result<bool, SubscribeError> {
        let name = grant.channel().clone();
        let user_id = grant.member().map(|member| Arc::clone(&member.user_id));
        self.app.join(grant, self.address, self.is_raw, now)?;
        tracing::debug!(
            app = self.app.id,
            channel = name.as_str(),
            socket_id = %self.socket_id,
            address = self.shown_address(),
            user = self.shown_user(user_id.as_deref()),
            "subscribed"
        );
        self.joining += 1;
        let authorized = name.kind().access == Access::Signed;
        if self.subscriptions.is_empty() {
            self.subscriptions.reserve_exact(1);
        }
        self.subscriptions.insert(index, Subscription { name, user_id });
        Ok(authorized)
    }

    fn leave(&self, subscription: &Subscription, is_cut: bool, now: Instant) {
        let (channel, user_id) = (&subscription.name, subscription.user_id.as_deref());
        let (address, socket_id, raw) = (self.address, self.socket_id, self.is_raw);
        self.app.leave(&Unsubscribe { channel, address, user_id, raw, socket_id, is_cut }, now);
    }

    fn unsubscribe(&mut self, channel: &str, now: Instant, actions: &mut Vec<Action>) {
        let Ok(index) = self.find(channel) else {
            let message = format!("No current subscription to channel {channel}, or subscription in progress");
            return self.refuse(Cause::UnsubscribeUnknown, Some(channel), &message, actions);
        };
        let subscription = self.subscriptions.remove(index);
        tracing::debug!(
            app = self.app.id,
            channel,
            socket_id = %self.socket_id,
            address = self.shown_address(),
            user = self.shown_user(subscription.user_id.as_deref()),
            "unsubscribed"
        );
        self.leave(&subscription, false, now);
        actions.push(Action::ReadInbox);
    }

    fn sign_in(
        &mut self,
        node: &Node,
        sign_in: &SignIn,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> ControlFlow<Close> {
        let signed_in = self.verifier(&self.app.rules()).sign_in(sign_in);
        match signed_in {
            Ok(user) => {
                let user = self.app.sign_in(self.address, &sign_in.user_data, user, self.user.as_deref());
                let channels = self.subscriptions.iter().map(|subscription| &subscription.name);
                self.app.identify(channels, (self.address, self.socket_id), &user, now);
                self.user = Some(Box::new(user));
                tracing::debug!(
                    app = self.app.id,
                    socket_id = %self.socket_id,
                    address = self.shown_address(),
                    user = self.shown_user(None),
                    "signed in"
                );
                actions.push(Action::ReadInbox);
                self.count_authorized(node)
            }
            Err(error) => {
                self.refuse_sign_in(node, sign_in, &error, actions);
                ControlFlow::Continue(())
            }
        }
    }
}

/// The frames of a refused connection: the error as an event, for clients that ignore close codes, and the close.
pub fn refusal(close: &Close) -> [Frame; 2] {
    [event::error(Some(close.code.number()), &close.reason), Frame::close(close)]
}
