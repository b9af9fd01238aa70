//! Recent requests to publish that had an idempotency key, with their answers: a repeated request gets the same answer
//! and delivers nothing.
//! `http::idempotency` asks here first; `cluster::idempotency` asks for all nodes.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::metrics::IdempotencyMeters;
use crate::protocol::idempotency::BodyHash;
use crate::protocol::idempotency::RequestId;

/// How long an answer is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// Memory for the answers of one process: some 50,000 requests with short keys.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most requests that are carried out at a time: each goes on when its publisher has gone.
const RUNNING_MAX: usize = 4096;
/// The cost of an entry besides its texts and its answer: two places in tables, with room to grow, and the hash.
const ENTRY_BYTES: usize = 256;

/// The recent requests of this process.
#[derive(Debug)]
pub struct RecentRequests {
    table: Mutex<RequestTable>,
    bytes_max: usize,
    running_max: usize,
    meters: IdempotencyMeters,
}

#[derive(Debug, Default)]
struct RequestTable {
    entries: HashMap<Arc<RequestId>, RequestEntry>,
    /// The answered ones, each once, by the time of their answers.
    answered: VecDeque<(Instant, Arc<RequestId>)>,
    /// Memory of the answered ones.
    bytes: usize,
}

#[derive(Debug)]
struct RequestEntry {
    hash: BodyHash,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// Cancelled at the end of the request.
    Running(CancellationToken),
    Answered(Bytes),
}

/// How a request stands.
#[derive(Debug)]
pub enum Found {
    /// Nobody knows it: it is to be carried out.
    New(RunningRequest),
    /// It has been answered, with this body.
    Answered(Bytes),
    /// It is being carried out until this token is cancelled. Ask again then.
    Running(CancellationToken),
    /// The key belongs to a request with another body.
    OtherBody,
    /// Nobody knows it, but too many are being carried out.
    Full,
}

/// A request that is being carried out. Without an answer it is forgotten when this is dropped.
#[derive(Debug)]
pub struct RunningRequest {
    requests: Arc<RecentRequests>,
    id: Arc<RequestId>,
    ended: CancellationToken,
}

impl RecentRequests {
    /// An empty memory.
    pub fn new(meters: IdempotencyMeters) -> Self {
        Self { table: Mutex::default(), bytes_max: BYTES_MAX, running_max: RUNNING_MAX, meters }
    }

    /// Finds a request. One that is new counts as running from now on.
    pub fn find(self: &Arc<Self>, id: &RequestId, hash: BodyHash, now: Instant) -> Found {
        let mut table = self.table.lock();
        table.forget_expired(now);
        match table.entries.get(id) {
            Some(entry) if entry.hash != hash => Found::OtherBody,
            Some(RequestEntry { progress: Progress::Running(ended), .. }) => Found::Running(ended.clone()),
            Some(RequestEntry { progress: Progress::Answered(answer), .. }) => {
                self.meters.repeated.inc();
                Found::Answered(answer.clone())
            }
            None if table.running() >= self.running_max => Found::Full,
            None => {
                let (id, ended) = (Arc::new(id.clone()), CancellationToken::new());
                let progress = Progress::Running(ended.clone());
                table.entries.insert(Arc::clone(&id), RequestEntry { hash, progress });
                Found::New(RunningRequest { requests: Arc::clone(self), id, ended })
            }
        }
    }

    /// Forgets answers whose time is over, and gives back the memory of a peak.
    pub fn tick(&self, now: Instant) {
        let mut table = self.table.lock();
        table.forget_expired(now);
        if table.entries.capacity() / 4 > table.entries.len() {
            table.entries.shrink_to_fit();
            table.answered.shrink_to_fit();
        }
    }

    /// Counts a repeated request that another node has answered.
    pub fn count_repeated(&self) {
        self.meters.repeated.inc();
    }

    /// Counts a request that this node knows alone, because Redis is away.
    pub fn count_local(&self) {
        self.meters.local.inc();
    }
}

impl RunningRequest {
    /// The request.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// Remembers the answer.
    pub fn answer(self, answer: &[u8], now: Instant) {
        let (requests, id) = (&self.requests, &self.id);
        let mut table = requests.table.lock();
        let Some(entry) = table.entries.get_mut(id) else { return };
        // Copied: the memory that an answer was written into may be larger.
        entry.progress = Progress::Answered(Bytes::copy_from_slice(answer));
        table.bytes += cost(id, answer);
        table.answered.push_back((now, Arc::clone(id)));
        while table.bytes > requests.bytes_max && table.forget_oldest() {
            requests.meters.forgotten.inc();
        }
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut table = self.requests.table.lock();
        let own = table.entries.get_key_value(&self.id).filter(|(id, _)| Arc::ptr_eq(id, &self.id));
        if own.is_some_and(|(_, entry)| matches!(entry.progress, Progress::Running(_))) {
            table.entries.remove(&self.id);
        }
        drop(table);
        self.ended.cancel();
    }
}

impl RequestTable {
    /// Requests that are being carried out.
    fn running(&self) -> usize {
        self.entries.len() - self.answered.len()
    }

    fn forget_expired(&mut self, now: Instant) {
        while self.answered.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= REMEMBERED) {
            self.forget_oldest();
        }
    }

    /// Whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, id)) = self.answered.pop_front() else { return false };
        if let Some(RequestEntry { progress: Progress::Answered(answer), .. }) = self.entries.remove(&id) {
            self.bytes -= cost(&id, &answer);
        }
        true
    }
}

fn cost(id: &RequestId, answer: &[u8]) -> usize {
    ENTRY_BYTES + id.bytes() + answer.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::protocol::idempotency::IdempotencyKey;
    use crate::protocol::idempotency::PublishPath;

    fn requests(bytes_max: usize) -> Arc<RecentRequests> {
        Arc::new(RecentRequests { bytes_max, ..RecentRequests::new(meters()) })
    }

    fn meters() -> IdempotencyMeters {
        Metrics::new("soketi_", 6001, false).idempotency.clone()
    }

    fn id(key: &str) -> RequestId {
        RequestId { app: "a".to_owned(), path: PublishPath::Events, key: IdempotencyKey::parse(key).unwrap() }
    }

    #[track_caller]
    fn new(found: Found) -> RunningRequest {
        match found {
            Found::New(running) => running,
            other => panic!("{other:?}"),
        }
    }

    fn is_answered(found: &Found, expected: &str) -> bool {
        matches!(found, Found::Answered(answer) if answer == expected)
    }

    #[test]
    fn an_answer_is_remembered_for_ten_minutes() {
        let (requests, now, hash) = (requests(BYTES_MAX), Instant::now(), BodyHash::of(b"x"));
        new(requests.find(&id("k"), hash, now)).answer(b"{}", now);
        let later = now + REMEMBERED - Duration::from_millis(1);
        assert!(is_answered(&requests.find(&id("k"), hash, later), "{}"));
        assert!(matches!(requests.find(&id("k"), BodyHash::of(b"y"), later), Found::OtherBody));
        assert_eq!(requests.meters.repeated.get(), 1);
        new(requests.find(&id("k"), BodyHash::of(b"y"), now + REMEMBERED)).answer(b"[]", now + REMEMBERED);
        requests.tick(now + REMEMBERED * 2);
        let table = requests.table.lock();
        assert_eq!((table.entries.len(), table.answered.len(), table.bytes), (0, 0, 0));
        assert_eq!(requests.meters.forgotten.get(), 0, "none was forgotten before its time");
    }

    #[test]
    fn a_request_without_an_answer_is_forgotten_and_wakes_those_that_wait() {
        let (requests, now, hash) = (requests(BYTES_MAX), Instant::now(), BodyHash::of(b"x"));
        let running = new(requests.find(&id("k"), hash, now));
        let Found::Running(ended) = requests.find(&id("k"), hash, now) else { panic!("it is not running") };
        assert!(matches!(requests.find(&id("k"), BodyHash::of(b"y"), now), Found::OtherBody));
        assert!(!ended.is_cancelled());
        drop(running);
        assert!(ended.is_cancelled());
        new(requests.find(&id("k"), BodyHash::of(b"y"), now));
    }

    #[test]
    fn only_so_many_requests_run_at_a_time() {
        let requests = Arc::new(RecentRequests { running_max: 1, ..RecentRequests::new(meters()) });
        let (now, hash) = (Instant::now(), BodyHash::of(b"x"));
        let first = new(requests.find(&id("1"), hash, now));
        assert!(matches!(requests.find(&id("2"), hash, now), Found::Full));
        assert!(matches!(requests.find(&id("1"), hash, now), Found::Running(_)));
        first.answer(b"{}", now);
        new(requests.find(&id("2"), hash, now));
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let (requests, now, hash) = (requests(3 * (ENTRY_BYTES + 4)), Instant::now(), BodyHash::of(b"x"));
        for key in ["1", "2", "3", "4"] {
            new(requests.find(&id(key), hash, now)).answer(b"{}", now);
        }
        assert_eq!(requests.meters.forgotten.get(), 1);
        assert!(["2", "3", "4"].iter().all(|key| is_answered(&requests.find(&id(key), hash, now), "{}")));
        new(requests.find(&id("1"), hash, now));
        // One that is larger than everything is not remembered, and leaves nothing behind.
        new(requests.find(&id("5"), hash, now)).answer(&[b' '; 1000], now);
        let table = requests.table.lock();
        assert_eq!((table.entries.len(), table.answered.len(), table.bytes), (0, 0, 0));
    }
}
