//! One URL and what waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

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
/// What an event that waits costs besides its text.
const OVERHEAD: usize = 64;

/// Where events go, and with whose signature.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) webhook: config::Webhook,
    pub(super) signs: KeyPair,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoint {
    target: Target,
    pub(super) app: Arc<str>,
    pub(super) meters: AppWebhookMeters,
    queue: Mutex<Queue>,
    /// The name of its stream in Redis: the same on all nodes.
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

/// One request, the same at every try.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) target: &'a Target,
    pub(super) body: Bytes,
    pub(super) signature: String,
    pub(super) events: u64,
    pub(super) made: Instant,
}

impl Endpoint {
    pub(super) fn new(target: Target, app: Arc<str>, meters: AppWebhookMeters) -> Self {
        let (stream, is_consumed) = (target.stream(&app), AtomicBool::new(false));
        Self { target, app, meters, queue: Mutex::default(), stream, is_consumed, filled: Notify::new() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is to hear of such events on this channel.
    pub(super) fn wants(&self, kind: Kind, channel: &str) -> bool {
        self.target.webhook.event_types.contains(&kind) && self.target.webhook.filter.matches(channel)
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

    /// The next request, of so many events at most; nothing when there are none, and nobody delivers any more.
    pub(super) fn next(&self, events_max: usize) -> Option<Request<'_>> {
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
        (!texts.is_empty()).then(|| self.request(&texts))
    }

    /// A request with these events, made now.
    pub(super) fn request(&self, texts: &[Arc<str>]) -> Request<'_> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = webhook::body(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), texts);
        let signature = Signer::new(self.target.signs.secret.expose()).sign(&[body.as_bytes()]);
        let (events, made) = (texts.len() as u64, Instant::now());
        Request { target: &self.target, body: body.into(), signature, events, made }
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
        self.filled.notify_one();
    }

    /// What is in its stream, as far as it is for this node to deliver.
    pub(super) fn store(&self, taken: Option<&Taken>) {
        let stored = taken.filter(|taken| taken.waiting > 0);
        let stored = stored.map(|taken| UnderWay { events: taken.waiting, bytes: 0, since: taken.since() });
        self.queue.lock().stored = stored;
    }
}

impl Target {
    /// Where it is, for the log: the rest of the URL may hold a token.
    pub(super) fn host(&self) -> &str {
        let (_, rest) = self.webhook.url.expose_text().split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    /// What tells the endpoint from others, on every node alike.
    fn stream(&self, app: &str) -> String {
        let config::Webhook { url, event_types, filter, headers } = &self.webhook;
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name, value.expose_text())).collect();
        let text = serde_json::json!([app, url.expose_text(), event_types, filter, headers]).to_string();
        body_md5(text.as_bytes())
    }
}
