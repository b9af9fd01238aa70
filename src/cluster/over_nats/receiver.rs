//! Subscribes to subjects, and passes their messages to the listener.
//! The bus owns it.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use async_nats::Message;
use async_nats::Subscriber;
use futures_util::FutureExt;
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

/// Messages that are passed on before one between nodes, however fast they come.
const PASSED_MAX: usize = 100_000;
/// New subscriptions that may wait.
const NEW_MAX: usize = 1024;

/// The connection that receives.
pub(super) struct Receiver {
    connection: NatsConnection,
    control: String,
    /// Takes new subscriptions. The task that receives ends with it.
    new: mpsc::Sender<(Abortable<Subscriber>, Purpose)>,
    /// The subscriptions, by subject.
    topics: Mutex<HashMap<String, AbortHandle>>,
    /// The subscriptions for views, by subject.
    mirrored: Mutex<HashMap<String, AbortHandle>>,
}

/// The messages of a subscription are between nodes, for the subscribers of one channel, or for views.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Control,
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
        let (control, topics, mirrored) = (way.names.control(), Mutex::default(), Mutex::default());
        Ok(Self { connection, control, new, topics, mirrored })
    }

    /// Receives the messages of a subject from now on.
    pub(super) async fn listen(&self, subject: String) -> Result<(), NatsError> {
        if !self.topics.lock().contains_key(&subject) {
            let purpose = if subject == self.control { Purpose::Control } else { Purpose::Topic };
            let handle = self.subscribe(&subject, purpose).await?;
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

/// Passes messages on until the receiver is dropped. The library has a queue for each subscription. So a message between
/// nodes waits until all others are passed on: those that came before it are among them.
async fn receive(
    way: Arc<NatsWay>,
    listener: Arc<Listener>,
    mut subscriptions: mpsc::Receiver<(Abortable<Subscriber>, Purpose)>,
) {
    let (mut control, mut others) = (SelectAll::new(), SelectAll::new());
    let mut passed = 0;
    let pass_on = |(message, purpose): (Message, Purpose)| pass_on(&way, &listener, &message, purpose);
    loop {
        tokio::select! {
            biased;
            new = subscriptions.recv() => {
                let Some((subscriber, purpose)) = new else { break };
                let all = if matches!(purpose, Purpose::Control) { &mut control } else { &mut others };
                all.push(subscriber.map(move |message| (message, purpose)));
            }
            Some(next) = others.next() => {
                pass_on(next);
                passed += 1;
            }
            Some(next) = control.next() => pass_on(next),
        }
        if passed == PASSED_MAX {
            passed = 0;
            control.next().now_or_never().flatten().map(pass_on);
        }
    }
    // Nobody sends again what had come before the link was lost.
    while let Some(next) = others.next().now_or_never().flatten() {
        pass_on(next);
    }
}

fn pass_on(way: &NatsWay, listener: &Listener, message: &Message, purpose: Purpose) {
    let (name, is_lost) = (message.subject.as_bytes(), listener.lost.is_cancelled());
    let changes = message.headers.iter().flat_map(|headers| headers.get_all(CHANGE));
    match purpose {
        // The next link asks for all else.
        Purpose::Control if is_lost => (),
        Purpose::Control | Purpose::Topic => {
            let mut changes = changes.peekable();
            if changes.peek().is_none() {
                return listener.on_message(name, &message.payload);
            }
            if is_lost {
                return;
            }
            changes.for_each(|change| listener.on_message(name, &read_change(change.as_str())));
        }
        // Views have no members.
        Purpose::View if changes.count() > 0 => (),
        Purpose::View => listener.on_mirrored(way.names.read(&message.subject), name, &message.payload),
    }
}
