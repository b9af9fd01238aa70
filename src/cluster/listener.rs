//! Receives the messages of other nodes over one link, checks them and passes them to the registry. None is trusted.
//! The bus calls it on the receiver's thread, which may block.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::history::channel::Missed;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::EnvelopeError;
use crate::protocol::envelope::MAGIC;
use crate::protocol::envelope::MissedEvents;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::protocol::numbered::EventNumber;
use crate::registry::AppState;
use crate::registry::remote::message::NodeMessage;

/// An event that was longer on its way than events may wait for Redis has a wrong time.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// How often the log mentions malformed messages.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// Receives what comes over one link.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) cluster: Arc<Cluster>,
    /// The topics of messages between nodes: for all, and for this one.
    control: [String; 2],
    /// The beginning of this node's own events, which come back from the topics that it listens to.
    pub(super) own_event: String,
    topics: Mutex<HashMap<Vec<u8>, OpenTopic>>,
    /// The topics, or patterns of topics, that are mirrored to group views.
    pub(super) mirrored: Mutex<BTreeSet<String>>,
    /// Cancelled when the link is lost.
    pub(super) lost: CancellationToken,
    /// The reason, if it is another than the end of a connection or subscription.
    reason: OnceLock<String>,
    /// Notified when this node has received its own hello.
    pub(super) own_hello: Notify,
    /// When malformed messages were last logged, and how many have come since.
    malformed: Mutex<(Option<Instant>, u64)>,
}

/// A topic that this node listens to.
#[derive(Debug, Clone)]
pub(super) struct OpenTopic {
    pub(super) app: Arc<AppState>,
    pub(super) topic: Topic,
}

impl Listener {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            control: cluster.way.control(cluster.node()),
            own_event: format!("{MAGIC}event {} ", cluster.node()),
            cluster,
            topics: Mutex::default(),
            mirrored: Mutex::default(),
            lost: CancellationToken::new(),
            reason: OnceLock::new(),
            own_hello: Notify::new(),
            malformed: Mutex::default(),
        }
    }

    /// Ends the link for this reason.
    pub(super) fn lose(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.lost.cancel();
    }

    /// Why the link has ended.
    pub(super) fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_else(|| "the connection, or a subscription, was ended".to_owned())
    }

    /// Accepts messages on a topic from now on.
    pub(super) fn add(&self, name: &str, topic: OpenTopic) {
        self.topics.lock().insert(name.as_bytes().to_vec(), topic);
    }

    /// Ignores messages on a topic from now on.
    pub(super) fn remove(&self, name: &str) {
        self.topics.lock().remove(name.as_bytes());
    }

    /// Whether messages on the topic of this name are accepted.
    pub(super) fn listens_to(&self, name: &[u8]) -> bool {
        self.is_control(name) || self.topics.lock().contains_key(name)
    }

    /// Whether messages between nodes come on the topic of this name.
    pub(super) fn is_control(&self, name: &[u8]) -> bool {
        self.control.iter().any(|control| control.as_bytes() == name)
    }

    /// Handles a message on a topic.
    pub(super) fn on_message(&self, topic: &[u8], message: &Bytes) {
        let open = self.topics.lock().get(topic).cloned();
        let numbered = EventNumber::taken_from(message);
        let (number, message) = match &numbered {
            Some((number, message)) => (Some(*number), message),
            None => (None, message),
        };
        if let Some(rest) = message.strip_prefix(self.own_event.as_bytes())
            && open.as_ref().is_none_or(|open| !open.is_cached())
        {
            if let (Some(number), Some(open), Some(own)) = (number, open, envelope::first_number(rest)) {
                open.app.on_message(&open.topic, NodeMessage::OwnNumber(own, number), Instant::now());
            }
            return;
        }
        let envelope = match Envelope::decode(message) {
            Ok(envelope) => envelope,
            Err(error) => return self.reject(topic, error),
        };
        match (envelope, open) {
            (Envelope::Event(event), Some(open)) => self.on_event(&open, event, number),
            (_, Some(_)) if number.is_some() => self.reject(topic, EnvelopeError::Malformed),
            (Envelope::Member(change), Some(open)) => {
                open.app.on_message(&open.topic, NodeMessage::Member(change), Instant::now());
            }
            (Envelope::Count(node, count), Some(OpenTopic { app, topic: topic @ Topic::Channel(_) })) => {
                if node != self.cluster.node() && self.cluster.believes_count(node) {
                    app.on_message(&topic, NodeMessage::Count(node, count), Instant::now());
                }
            }
            (Envelope::Mark(node, number), Some(OpenTopic { app, topic })) => {
                if node == self.cluster.node() {
                    app.on_message(&topic, NodeMessage::Mark(number), Instant::now());
                }
            }
            (Envelope::Missed(missed), Some(OpenTopic { app, topic })) if missed.of_app.is_none() => {
                if missed.node != self.cluster.node() {
                    let (now, events) = (Instant::now(), Missed::Events(missed.events));
                    app.on_message(&topic, NodeMessage::Missed { missed: events, since: since(&missed, now) }, now);
                }
            }
            (envelope, None) if self.is_control(topic) => self.on_control(envelope),
            // The topic was closed.
            (_, None) => (),
            _ => self.reject(topic, EnvelopeError::Malformed),
        }
    }

    /// Counts and logs a message that does not fit.
    pub(super) fn reject(&self, topic: &[u8], error: EnvelopeError) {
        let cause = match error {
            EnvelopeError::Version => PeerDropCause::Version,
            EnvelopeError::Malformed => PeerDropCause::Malformed,
        };
        self.cluster.meters.dropped(cause, 1);
        let mut malformed = self.malformed.lock();
        malformed.1 += 1;
        if malformed.0.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
            return;
        }
        let (topic, messages) = (String::from_utf8_lossy(topic), malformed.1);
        *malformed = (Some(Instant::now()), 0);
        tracing::warn!(
            %topic,
            messages,
            "a message on a topic of this cluster is {error}; give each cluster a name of its own"
        );
    }

    fn on_event(&self, open: &OpenTopic, event: RemoteEvent, number: Option<EventNumber>) {
        if matches!(open.topic, Topic::User(_)) {
            return;
        }
        let meters = &self.cluster.meters;
        // Meanwhile further messages wait in Redis or NATS, or of a Redis Cluster in the library.
        if !self.cluster.inboxes.wait_for_capacity() {
            meters.dropped(PeerDropCause::Overloaded, 1);
            return;
        }
        let is_own = event.node == self.cluster.node();
        let accepted = Duration::from_micros(event.accepted_micros);
        if !open.app.on_message(&open.topic, NodeMessage::Event(event, number), Instant::now()) {
            meters.dropped(PeerDropCause::Duplicate, 1);
        } else if !is_own {
            meters.received(1);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let took = now.saturating_sub(accepted);
            if took < LATENCY_MAX {
                meters.latency.observe(took.as_secs_f64());
            }
        }
    }

    fn on_control(&self, envelope: Envelope) {
        let cluster = &self.cluster;
        let me = cluster.node();
        match envelope {
            Envelope::Hello(node, _) if node == me => self.own_hello.notify_one(),
            Envelope::Hello(node, _) => cluster.on_hello(node),
            Envelope::Here(node, of) if node != me && (of == me || of == node) => {
                cluster.update_peers(|peers| {
                    peers.joined(node);
                    peers.listening(node);
                });
            }
            Envelope::Draining(node, _) if node != me => cluster.update_peers(|peers| peers.draining(node)),
            Envelope::Gone(by, node) if node != me => cluster.on_gone(by, node),
            Envelope::Missed(missed) if missed.node != me => {
                if let Some(app) = missed.of_app.as_deref().and_then(|app| cluster.app(app)) {
                    let now = Instant::now();
                    app.on_missed(since(&missed, now), now);
                }
            }
            Envelope::Terminate(request) if request.node != me => cluster.on_terminate(request),
            Envelope::Terminated(answer) if answer.node != me => cluster.on_terminated(&answer),
            Envelope::Ask(question) if question.node != me => cluster.on_ask(question),
            Envelope::Answer(answer) if answer.node != me => cluster.on_answer(answer),
            _ => (),
        }
    }
}

/// The time before the first of these events; now if that cannot be.
fn since(missed: &MissedEvents, now: Instant) -> Instant {
    now.checked_sub(Duration::from_millis(missed.since_ms)).unwrap_or(now)
}

impl OpenTopic {
    fn is_cached(&self) -> bool {
        matches!(&self.topic, Topic::Channel(name) if name.kind().cached)
    }
}
