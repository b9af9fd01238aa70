//! Subscribes to subjects, and passes their messages to the listener.
//! The bus owns it.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use async_nats::Message;
use async_nats::Subscriber;
use futures_util::StreamExt;
use futures_util::stream::AbortHandle;
use futures_util::stream::Abortable;
use futures_util::stream::SelectAll;
use futures_util::stream::abortable;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::cluster::listener::Listener;
use crate::cluster::over_nats::records::CHANGE;
use crate::cluster::over_nats::records::read_change;
use crate::cluster::way::NatsWay;
use crate::nats::connection::NatsConnection;
use crate::nats::error::NatsError;

/// New subscriptions that may wait.
const NEW_MAX: usize = 1024;

/// The connection that receives.
pub(super) struct Receiver {
    connection: NatsConnection,
    /// Takes new subscriptions. The task that receives ends with it.
    new: mpsc::Sender<(Abortable<Subscriber>, Purpose)>,
    /// The subscriptions, by subject.
    topics: Mutex<HashMap<String, AbortHandle>>,
    mirrored: Mutex<HashMap<String, AbortHandle>>,
}

/// Whether a subscription is for the subscribers of one channel, or for views.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Topic,
    View,
}

impl Receiver {
    /// Connects. Messages go to the listener on this runtime.
    pub(super) async fn open(
        way: &Arc<NatsWay>,
        listener: &Arc<Listener>,
        runtime: &Handle,
    ) -> Result<Self, NatsError> {
        let connection = NatsConnection::open_on(runtime, &way.options, "receiver", listener.lost.clone()).await?;
        let (new, subscriptions) = mpsc::channel(NEW_MAX);
        runtime.spawn(receive(Arc::clone(way), Arc::clone(listener), subscriptions));
        Ok(Self { connection, new, topics: Mutex::default(), mirrored: Mutex::default() })
    }

    /// Receives the messages of a subject from now on.
    pub(super) async fn listen(&self, subject: String) -> Result<(), NatsError> {
        if !self.topics.lock().contains_key(&subject) {
            let handle = self.subscribe(&subject, Purpose::Topic).await?;
            self.topics.lock().insert(subject, handle);
        }
        Ok(())
    }

    /// Receives the messages of a subject no longer.
    pub(super) fn leave(&self, subject: &str) {
        if let Some(handle) = self.topics.lock().remove(subject) {
            handle.abort();
        }
    }

    /// Receives the messages of these subjects for views, and of no others.
    pub(super) async fn mirror(&self, subjects: BTreeSet<String>) -> Result<(), NatsError> {
        for subject in &subjects {
            if !self.mirrored.lock().contains_key(subject) {
                let handle = self.subscribe(subject, Purpose::View).await?;
                self.mirrored.lock().insert(subject.clone(), handle);
            }
        }
        self.settled().await?;
        self.mirrored.lock().retain(|subject, handle| {
            let is_wanted = subjects.contains(subject);
            if !is_wanted {
                handle.abort();
            }
            is_wanted
        });
        Ok(())
    }

    /// Waits until the server knows all subscriptions.
    pub(super) async fn settled(&self) -> Result<(), NatsError> {
        self.connection.settled().await
    }

    async fn subscribe(&self, subject: &str, purpose: Purpose) -> Result<AbortHandle, NatsError> {
        let subscriber = self.connection.subscribe(subject.to_owned()).await?;
        let (subscriber, handle) = abortable(subscriber);
        let sent = self.new.send((subscriber, purpose)).await;
        sent.map_err(|_| NatsError("nobody receives any more".to_owned()))?;
        Ok(handle)
    }
}

/// Passes messages on until the receiver is dropped.
async fn receive(
    way: Arc<NatsWay>,
    listener: Arc<Listener>,
    mut subscriptions: mpsc::Receiver<(Abortable<Subscriber>, Purpose)>,
) {
    let mut all = SelectAll::new();
    loop {
        tokio::select! {
            new = subscriptions.recv() => match new {
                Some((subscriber, purpose)) => all.push(subscriber.map(move |message| (message, purpose))),
                None => return,
            },
            Some((message, purpose)) = all.next() => {
                if !listener.lost.is_cancelled() {
                    pass_on(&way, &listener, &message, purpose);
                }
            }
        }
    }
}

fn pass_on(way: &NatsWay, listener: &Listener, message: &Message, purpose: Purpose) {
    let name = message.subject.as_bytes();
    let changes = message.headers.iter().flat_map(|headers| headers.get_all(CHANGE));
    match purpose {
        Purpose::Topic => {
            let mut changes = changes.peekable();
            if changes.peek().is_none() {
                return listener.on_message(name, &message.payload);
            }
            changes.for_each(|change| listener.on_message(name, &read_change(change.as_str())));
        }
        // Views have no members.
        Purpose::View if changes.count() > 0 => (),
        Purpose::View => listener.on_mirrored(way.names.read(&message.subject), name, &message.payload),
    }
}
