//! What comes from the other nodes, by way of one link. Nothing of it is trusted.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::PushInfo;
use redis::PushKind;
use redis::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::EnvelopeError;
use crate::protocol::envelope::MAGIC;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Termination;
use crate::protocol::envelope::Topic;
use crate::registry::AppState;
use crate::registry::remote::message::NodeMessage;

/// An event that was longer on its way than events may wait for Redis has a wrong time.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// How often messages that do not fit leave a line in the log.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(2);

/// Who hears what comes over one link.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) cluster: Arc<Cluster>,
    control: String,
    /// What this node's own events begin with: they come back if it listens to their topic.
    pub(super) own_event: String,
    topics: Mutex<HashMap<Vec<u8>, Subject>>,
    /// The topics, or patterns of topics, that are listened to for views.
    pub(super) watched: Mutex<BTreeSet<String>>,
    /// Cancelled when the link is lost.
    pub(super) lost: CancellationToken,
    /// This node has heard itself.
    pub(super) greeted: Notify,
    /// When the log was last told of messages that do not fit, and how many there have been since.
    complaints: Mutex<(Option<Instant>, u64)>,
}

/// What a topic is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) app: Arc<AppState>,
    pub(super) topic: Topic,
}

impl Listener {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            control: cluster.names.control(),
            own_event: format!("{MAGIC}event {} ", cluster.node()),
            cluster,
            topics: Mutex::default(),
            watched: Mutex::default(),
            lost: CancellationToken::new(),
            greeted: Notify::new(),
            complaints: Mutex::default(),
        }
    }

    /// From now on word on this topic matters.
    pub(super) fn add(&self, name: &str, subject: Subject) {
        self.topics.lock().insert(name.as_bytes().to_vec(), subject);
    }

    /// Word on this topic no longer matters.
    pub(super) fn remove(&self, name: &str) {
        self.topics.lock().remove(name.as_bytes());
    }

    /// What Redis says unasked.
    pub(super) fn hear(&self, push: PushInfo) {
        if self.lost.is_cancelled() {
            return;
        }
        let mut data = push.data.into_iter();
        match (push.kind, data.next(), data.next()) {
            (
                PushKind::Message | PushKind::SMessage,
                Some(Value::BulkString(topic)),
                Some(Value::BulkString(message)),
            ) => {
                self.on_message(&topic, &message.into());
            }
            (PushKind::PMessage, _, Some(Value::BulkString(topic))) => {
                if let Some(Value::BulkString(message)) = data.next() {
                    self.on_seen(&topic, &message.into());
                }
            }
            (PushKind::Disconnection, ..) => self.lost.cancel(),
            // Redis has taken a subscription away, such as when a slot of a Redis Cluster moves.
            (PushKind::Unsubscribe | PushKind::SUnsubscribe, Some(Value::BulkString(topic)), _)
                if topic == self.control.as_bytes() || self.topics.lock().contains_key(&topic) =>
            {
                self.lost.cancel();
            }
            _ => (),
        }
    }

    fn on_message(&self, topic: &[u8], message: &Bytes) {
        let subject = self.topics.lock().get(topic).cloned();
        let is_own = message.starts_with(self.own_event.as_bytes());
        if is_own && subject.as_ref().is_none_or(|subject| !subject.is_cached()) {
            return;
        }
        let envelope = match Envelope::decode(message) {
            Ok(envelope) => envelope,
            Err(error) => return self.refuse(topic, error),
        };
        match (envelope, subject) {
            (Envelope::Event(event), Some(subject)) => self.on_event(&subject, event),
            (Envelope::Member(change), Some(subject)) => {
                subject.app.on_message(&subject.topic, NodeMessage::Member(change), Instant::now());
            }
            (Envelope::Count(node, count), Some(Subject { app, topic: topic @ Topic::Channel(_) })) => {
                if node != self.cluster.node() && self.cluster.lets_count(node) {
                    app.on_message(&topic, NodeMessage::Count(node, count), Instant::now());
                }
            }
            (envelope, None) if topic == self.control.as_bytes() => self.on_control(envelope),
            // It is no longer listened to.
            (_, None) => (),
            _ => self.refuse(topic, EnvelopeError::Malformed),
        }
    }

    pub(super) fn refuse(&self, topic: &[u8], error: EnvelopeError) {
        let cause = match error {
            EnvelopeError::Version => PeerDropCause::Version,
            EnvelopeError::Malformed => PeerDropCause::Malformed,
        };
        self.cluster.meters.dropped(cause, 1);
        let mut complaints = self.complaints.lock();
        complaints.1 += 1;
        if complaints.0.is_some_and(|at| at.elapsed() < COMPLAINT_PAUSE) {
            return;
        }
        let (topic, messages) = (String::from_utf8_lossy(topic), complaints.1);
        *complaints = (Some(Instant::now()), 0);
        tracing::warn!(
            %topic,
            messages,
            "a message on a topic of this cluster is {error}; give each cluster a name of its own"
        );
    }

    fn on_event(&self, subject: &Subject, event: RemoteEvent) {
        if matches!(subject.topic, Topic::User(_)) {
            return;
        }
        let meters = &self.cluster.meters;
        // While it waits, Redis keeps what is to come; of a Redis Cluster the library does.
        if !self.cluster.inboxes.wait_for_capacity() {
            meters.dropped(PeerDropCause::Overloaded, 1);
            return;
        }
        let is_own = event.node == self.cluster.node();
        let accepted = Duration::from_micros(event.accepted_micros);
        if !subject.app.on_message(&subject.topic, NodeMessage::Event(event), Instant::now()) {
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
            Envelope::Hello(node, _) if node == me => self.greeted.notify_one(),
            Envelope::Hello(node, _) => {
                cluster.meet(node);
                if cluster.listens() {
                    cluster.tell(Envelope::Here(me, node));
                }
                cluster.tell_leave();
            }
            Envelope::Here(node, of) if node != me && (of == me || of == node) => {
                cluster.meet(node);
                cluster.on_here(node);
            }
            Envelope::Draining(node, _) if node != me => cluster.on_leaving(node),
            Envelope::Gone(by, node) if node != me => cluster.on_gone(by, node),
            Envelope::Terminate(what) if what.node != me => {
                let Some(app) = cluster.app(&what.app) else { return };
                cluster.meters.query_received(&what.app);
                let closed = app.terminate(&what.user_id) as u64;
                cluster.tell(Envelope::Terminated(Termination { node: me, closed, ..what }));
            }
            Envelope::Terminated(what) => cluster.on_terminated(&what),
            _ => (),
        }
    }
}

impl Subject {
    fn is_cached(&self) -> bool {
        matches!(&self.topic, Topic::Channel(name) if name.kind().cached)
    }
}
