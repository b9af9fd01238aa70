//! One URL and what waits for it.

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
use crate::webhook::stream::Taken;

/// Bytes of one request; a single event may be larger.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What an event that waits costs besides its text: a place in a queue that grows by doubling, and an allocation.
const OVERHEAD: usize = 2 * size_of::<Waiting>() + 32;

/// Where events go, and with whose signature.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) webhook: config::Webhook,
    pub(super) signs: KeyPair,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What the operator says now.
    target: ArcSwap<Target>,
    pub(super) app: Arc<str>,
    pub(super) meters: AppWebhookMeters,
    queue: Mutex<Queue>,
    /// What tells it from others: the name of its stream in Redis, the same on all nodes.
    stream: String,
    /// Somebody delivers what is in Redis.
    is_consumed: AtomicBool,
    /// Something has been put into Redis.
    pub(super) filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Waiting>,
    bytes: usize,
    /// What is being sent: it is not dropped for something newer.
    under_way: Option<UnderWay>,
    /// What is in Redis, where this node delivers it.
    stored: Option<UnderWay>,
    /// How often something has been put into Redis, …
    puts: u64,
    /// … and how much of it `stored` knows of.
    seen: u64,
    /// Somebody delivers what is here.
    busy: bool,
}

#[derive(Debug)]
struct UnderWay {
    events: usize,
    bytes: usize,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    text: Arc<str>,
    since: Instant,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

/// What waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// How long the first has been waiting.
    pub(super) oldest: Duration,
}

/// One request, the same at every try as long as the operator says the same.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    pub(super) events: u64,
    pub(super) made: Instant,
}

impl Endpoint {
    /// One with this stream, where something may wait already if events are `stored` there.
    pub(super) fn new(stream: String, target: Target, app: Arc<str>, meters: AppWebhookMeters, stored: bool) -> Self {
        let queue = Mutex::new(Queue { puts: stored.into(), ..Queue::default() });
        let (target, is_consumed) = (ArcSwap::from_pointee(target), AtomicBool::new(false));
        Self { target, app, meters, queue, stream, is_consumed, filled: Notify::new() }
    }

    pub(super) fn target(&self) -> Arc<Target> {
        self.target.load_full()
    }

    /// From now on the operator says this.
    pub(super) fn aim(&self, target: Target) {
        self.target.store(Arc::new(target));
    }

    /// Whether it is to hear of such events on this channel.
    pub(super) fn wants(&self, kind: Kind, channel: &str) -> bool {
        let webhook = &self.target.load().webhook;
        webhook.event_types.contains(&kind) && webhook.filter.matches(channel)
    }

    /// Adds an event. Beyond `bytes_max` the oldest are dropped. True when somebody has to begin to deliver.
    pub(super) fn push(&self, text: Arc<str>, bytes_max: usize) -> bool {
        let mut queue = self.queue.lock();
        let waiting = Waiting { text, since: Instant::now() };
        queue.bytes += waiting.bytes();
        queue.events.push_back(waiting);
        while queue.bytes > bytes_max {
            let Some(oldest) = queue.events.pop_front() else { break };
            queue.bytes -= oldest.bytes();
            self.meters.dropped_events.inc();
        }
        !std::mem::replace(&mut queue.busy, true)
    }

    /// Events that have been pushed and not been taken.
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().events.len()
    }

    pub(super) fn waiting(&self) -> Waits {
        let queue = self.queue.lock();
        let queued = queue.events.front().map(|first| first.since);
        let queued = queued.map(|since| UnderWay { events: queue.events.len(), bytes: queue.bytes, since });
        let mut waits = Waits::default();
        for part in [&queued, &queue.under_way, &queue.stored].into_iter().flatten() {
            waits.events += part.events;
            waits.bytes += part.bytes;
            waits.oldest = waits.oldest.max(part.since.elapsed());
        }
        waits
    }

    /// Whether nothing is to be delivered here.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        !queue.busy && queue.stored.is_none() && queue.seen == queue.puts
    }

    /// The next request, of so many events at most; nothing when there are none, and nobody delivers any more.
    pub(super) fn next(&self, events_max: usize) -> Option<Request> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.bytes();
            bytes <= BATCH_BYTES_MAX
        };
        let count = queue.events.iter().take(events_max).take_while(fits).count().max(1).min(queue.events.len());
        let events: Vec<Waiting> = queue.events.drain(..count).collect();
        let bytes = events.iter().map(Waiting::bytes).sum();
        queue.bytes -= bytes;
        queue.busy = !events.is_empty();
        queue.under_way = events.first().map(|first| UnderWay { events: count, bytes, since: first.since });
        drop(queue);
        let texts: Vec<Arc<str>> = events.into_iter().map(|waiting| waiting.text).collect();
        (!texts.is_empty()).then(|| Request::new(&texts))
    }
}

impl Request {
    /// One with these events, made now.
    pub(super) fn new(texts: &[Arc<str>]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = webhook::body(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), texts);
        Self { body: body.into(), events: texts.len() as u64, made: Instant::now() }
    }
}

/// What there is only where events outlive this node.
impl Endpoint {
    /// The name of its stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// True once: somebody has to deliver what is in Redis.
    pub(super) fn begins_to_consume(&self) -> bool {
        !self.is_consumed.swap(true, Ordering::Relaxed)
    }

    /// An event has been put into its stream, in the place of so many.
    pub(super) fn put(&self, dropped: u64) {
        self.meters.dropped_events.inc_by(dropped);
        self.queue.lock().puts += 1;
        self.filled.notify_one();
    }

    /// How often something has been put into its stream.
    pub(super) fn puts(&self) -> u64 {
        self.queue.lock().puts
    }

    /// What is in its stream, as far as it is for this node to deliver, after so many puts.
    pub(super) fn store(&self, taken: Option<&Taken>, puts: u64) {
        let stored = taken.filter(|taken| taken.waiting > 0);
        let stored = stored.map(|taken| UnderWay { events: taken.waiting, bytes: 0, since: taken.since() });
        let mut queue = self.queue.lock();
        (queue.stored, queue.seen) = (stored, puts);
    }
}

impl Target {
    /// Where it is, for the log: the rest of the URL may hold a token.
    pub(super) fn host(&self) -> &str {
        let (_, rest) = self.webhook.url.expose_text().split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    /// The name of its endpoint's stream, after so many with the same URL: what else the operator says may change while
    /// something waits.
    pub(super) fn stream(&self, app: &str, before: usize) -> String {
        body_md5(serde_json::json!([app, self.webhook.url.expose_text(), before]).to_string().as_bytes())
    }

    /// What its key signs a body with.
    pub(super) fn signature(&self, body: &[u8]) -> String {
        Signer::new(self.signs.secret.expose()).sign(&[body])
    }
}
