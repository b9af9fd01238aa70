//! One endpoint: a URL, its settings, the key that signs its requests, and the events that wait for it in memory.
//! `dispatch` appends events, `delivery` takes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config;
use crate::config::KeyPair;
use crate::metrics::AppWebhookMeters;
use crate::protocol::signature::Signer;
use crate::protocol::signature::body_md5;
use crate::protocol::webhook;
use crate::protocol::webhook::Kind;
use crate::webhook::attempts::Attempts;
use crate::webhook::batch::Batch;

/// Memory of a waiting event besides its text: a place in a queue that grows by doubling, and an allocation.
const OVERHEAD: usize = 2 * size_of::<QueuedEvent>() + 32;

/// Where events go, and the key that signs them.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) webhook: config::Webhook,
    pub(super) key: KeyPair,
}

/// An endpoint of an app.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The present settings.
    target: ArcSwap<Target>,
    pub(super) app: Arc<str>,
    pub(super) meters: AppWebhookMeters,
    queue: Mutex<Queue>,
    /// Its identity: the name of its stream in Redis, the same on all nodes.
    stream_name: String,
    /// A task delivers its stream.
    has_consumer: AtomicBool,
    /// How the attempts went, for the operator.
    pub(super) attempts: Mutex<Attempts>,
    /// Notified when this node puts an event into its stream.
    pub(super) filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<QueuedEvent>,
    bytes: usize,
    /// The request that is being sent. It is not dropped for newer events.
    in_flight: Option<InFlight>,
    /// The events in Redis, if this node delivers them.
    stored: Option<InFlight>,
    /// Events that this node has put into Redis, …
    puts: u64,
    /// … and how many of these `stored` includes.
    known_puts: u64,
    /// A task delivers the queue.
    is_delivering: bool,
}

#[derive(Debug)]
struct InFlight {
    events: usize,
    bytes: usize,
    since: Instant,
}

#[derive(Debug)]
struct QueuedEvent {
    text: Arc<str>,
    since: Instant,
}

impl QueuedEvent {
    fn bytes(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BacklogSize {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// The age of the oldest event.
    pub(super) oldest: Duration,
}

/// One request. Its body is the same at every attempt.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    pub(super) events: u64,
    pub(super) created: Instant,
}

impl Endpoint {
    /// An endpoint with this stream. If events are `stored` in Redis, some may wait there already.
    pub(super) fn new(
        stream_name: String,
        target: Target,
        app: Arc<str>,
        meters: AppWebhookMeters,
        stored: bool,
    ) -> Self {
        let queue = Mutex::new(Queue { puts: stored.into(), ..Queue::default() });
        let (target, has_consumer) = (ArcSwap::from_pointee(target), AtomicBool::new(false));
        let attempts = Mutex::default();
        Self { target, app, meters, queue, stream_name, has_consumer, attempts, filled: Notify::new() }
    }

    pub(super) fn target(&self) -> Arc<Target> {
        self.target.load_full()
    }

    /// Takes changed settings.
    pub(super) fn set_target(&self, target: Target) {
        self.target.store(Arc::new(target));
    }

    /// Whether it wants such events of this channel.
    pub(super) fn wants(&self, kind: Kind, channel: &str) -> bool {
        let webhook = &self.target.load().webhook;
        webhook.event_types.contains(&kind) && webhook.filter.matches(channel)
    }

    /// Appends an event. Beyond `bytes_max` the oldest are dropped. True when the caller must start a task that
    /// delivers.
    pub(super) fn push(&self, text: Arc<str>, bytes_max: usize) -> bool {
        let mut queue = self.queue.lock();
        let waiting = QueuedEvent { text, since: Instant::now() };
        queue.bytes += waiting.bytes();
        queue.events.push_back(waiting);
        while queue.bytes > bytes_max {
            let Some(oldest) = queue.events.pop_front() else { break };
            queue.bytes -= oldest.bytes();
            self.meters.dropped_events.inc();
        }
        !std::mem::replace(&mut queue.is_delivering, true)
    }

    /// Events in the queue that no request holds.
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().events.len()
    }

    pub(super) fn backlog(&self) -> BacklogSize {
        let queue = self.queue.lock();
        let queued = queue.events.front().map(|first| first.since);
        let queued = queued.map(|since| InFlight { events: queue.events.len(), bytes: queue.bytes, since });
        let mut backlog = BacklogSize::default();
        for part in [&queued, &queue.in_flight, &queue.stored].into_iter().flatten() {
            backlog.events += part.events;
            backlog.bytes += part.bytes;
            backlog.oldest = backlog.oldest.max(part.since.elapsed());
        }
        backlog
    }

    /// Whether nothing waits for delivery by this node.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        !queue.is_delivering && queue.stored.is_none() && queue.known_puts == queue.puts
    }

    /// The next request, with at most `events_max` events of `bytes_max` bytes; a single event may exceed them. `None`
    /// ends the delivering task.
    pub(super) fn next_request(&self, events_max: usize, bytes_max: usize) -> Option<Request> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fits = |waiting: &&QueuedEvent| {
            bytes += waiting.bytes();
            bytes <= bytes_max
        };
        let count = queue.events.iter().take(events_max).take_while(fits).count().max(1).min(queue.events.len());
        let events: Vec<QueuedEvent> = queue.events.drain(..count).collect();
        let bytes = events.iter().map(QueuedEvent::bytes).sum();
        queue.bytes -= bytes;
        queue.is_delivering = !events.is_empty();
        queue.in_flight = events.first().map(|first| InFlight { events: count, bytes, since: first.since });
        drop(queue);
        let texts: Vec<Arc<str>> = events.into_iter().map(|waiting| waiting.text).collect();
        (!texts.is_empty()).then(|| Request::new(&texts))
    }
}

impl Request {
    /// A request with these events, created now.
    pub(super) fn new(texts: &[Arc<str>]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = webhook::body(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), texts);
        Self { body: body.into(), events: texts.len() as u64, created: Instant::now() }
    }
}

/// The part for endpoints whose events wait in Redis.
impl Endpoint {
    /// The name of its stream.
    pub(super) fn stream_name(&self) -> &str {
        &self.stream_name
    }

    /// True at the first call: the caller must start the consumer.
    pub(super) fn claim_consumer(&self) -> bool {
        !self.has_consumer.swap(true, Ordering::Relaxed)
    }

    /// Notes that an event was put into the stream, and how many were dropped for it.
    pub(super) fn on_stored(&self, dropped: u64) {
        self.meters.dropped_events.inc_by(dropped);
        self.queue.lock().puts += 1;
        self.filled.notify_one();
    }

    /// Events that this node has put into the stream.
    pub(super) fn puts(&self) -> u64 {
        self.queue.lock().puts
    }

    /// Sets what waits in the stream if this node delivers it, as of so many puts.
    pub(super) fn set_stored(&self, batch: Option<&Batch>, puts: u64) {
        let stored = batch.filter(|batch| batch.waiting > 0);
        let stored = stored.map(|batch| InFlight { events: batch.waiting, bytes: 0, since: batch.oldest_since() });
        let mut queue = self.queue.lock();
        (queue.stored, queue.known_puts) = (stored, puts);
    }
}

impl Target {
    /// The host, for the log: the rest of the URL may hold a token. Of a function its name.
    pub(super) fn host(&self) -> &str {
        if let Some(function) = &self.webhook.lambda {
            return &function.name;
        }
        let (_, rest) = self.webhook.url.expose_text().split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    /// The name of the endpoint's stream; `before` counts earlier endpoints with the same URL. Only the URL, or the
    /// function, identifies it, so that other settings may change while events wait.
    pub(super) fn stream_name(&self, app: &str, before: usize) -> String {
        body_md5(serde_json::json!([app, self.webhook.identity(), before]).to_string().as_bytes())
    }

    /// The signature of a body.
    pub(super) fn signature(&self, body: &[u8]) -> String {
        Signer::new(self.key.secret.expose()).sign(&[body])
    }
}
