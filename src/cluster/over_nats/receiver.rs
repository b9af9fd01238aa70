//! Subscribes to subjects, and passes their messages to the listener in the order in which they come.
//! The bus owns it.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::cluster::listener::Listener;
use crate::cluster::over_nats::records::CHANGE;
use crate::cluster::over_nats::records::read_change;
use crate::cluster::way::NatsWay;
use crate::nats::error::NatsError;
use crate::nats::subscriber::Subscriber;
use crate::nats::wire::Message;

/// The connection that receives.
pub(super) struct Receiver {
    subscriber: Subscriber,
    subscriptions: Mutex<Subscriptions>,
}

/// The numbers of subscriptions, by subject.
#[derive(Debug, Default)]
struct Subscriptions {
    /// Even numbers: messages between nodes, and for the subscribers of a channel.
    topics: HashMap<String, u64>,
    /// Odd numbers: messages for views.
    mirrored: HashMap<String, u64>,
    /// How many there have been.
    made: u64,
}

impl Receiver {
    /// Connects. Messages go to the listener on this runtime.
    pub(super) async fn open(
        way: &Arc<NatsWay>,
        listener: &Arc<Listener>,
        runtime: &Handle,
    ) -> Result<Self, NatsError> {
        let (names, listener) = (Arc::clone(way), Arc::clone(listener));
        let lost = listener.lost.clone();
        let pass_on = move |message: &Message<'_>| match message.subscription % 2 {
            0 => pass_on(&listener, message),
            _ => mirror(&names, &listener, message),
        };
        let subscriber = Subscriber::open_on(runtime, &way.options, "receiver", lost, pass_on).await?;
        Ok(Self { subscriber, subscriptions: Mutex::default() })
    }

    /// Receives the messages of a subject from the next [`Receiver::settled`] on.
    pub(super) fn listen(&self, subject: &str) {
        let mut subscriptions = self.subscriptions.lock();
        if !subscriptions.topics.contains_key(subject) {
            let number = 2 * subscriptions.next();
            subscriptions.topics.insert(subject.to_owned(), number);
            self.subscriber.subscribe(subject, number);
        }
    }

    /// Receives the messages of a subject no longer.
    pub(super) fn leave(&self, subject: &str) {
        if let Some(number) = self.subscriptions.lock().topics.remove(subject) {
            self.subscriber.unsubscribe(number);
        }
    }

    /// Receives the messages of these subjects for views, and of no others.
    pub(super) async fn mirror(&self, subjects: &BTreeSet<String>) -> Result<(), NatsError> {
        {
            let mut subscriptions = self.subscriptions.lock();
            for subject in subjects {
                if !subscriptions.mirrored.contains_key(subject) {
                    let number = 2 * subscriptions.next() + 1;
                    subscriptions.mirrored.insert(subject.clone(), number);
                    self.subscriber.subscribe(subject, number);
                }
            }
            subscriptions.mirrored.retain(|subject, number| {
                let is_wanted = subjects.contains(subject);
                if !is_wanted {
                    self.subscriber.unsubscribe(*number);
                }
                is_wanted
            });
        }
        self.settled().await
    }

    /// Waits until the server knows all subscriptions.
    pub(super) async fn settled(&self) -> Result<(), NatsError> {
        self.subscriber.settled().await
    }
}

impl Subscriptions {
    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

fn pass_on(listener: &Listener, message: &Message<'_>) {
    let (name, is_lost) = (message.subject.as_bytes(), listener.lost.is_cancelled());
    let mut changes = message.headers(CHANGE).peekable();
    let is_event = changes.peek().is_none() && !listener.is_control(name);
    // Nobody sends events again that had come before; the next link asks for all else.
    if is_lost && !is_event {
        return;
    }
    if changes.peek().is_none() {
        listener.on_message(name, &Bytes::copy_from_slice(message.payload));
    }
    changes.for_each(|change| listener.on_message(name, &read_change(change)));
}

fn mirror(way: &NatsWay, listener: &Listener, message: &Message<'_>) {
    // Views have no members.
    if message.headers(CHANGE).next().is_none() {
        let payload = Bytes::copy_from_slice(message.payload);
        listener.on_mirrored(way.names.read(message.subject), message.subject.as_bytes(), &payload);
    }
}
