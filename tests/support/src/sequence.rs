//! Numbered events: what was accepted arrives in its order, all of it, and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::http::Api;
use crate::http::Connection;

/// The event behind the last one of each source.
const END: &str = "end";

/// The longest that a listener waits for the next event: longer than Redis is away in any test.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Publishes `source:0`, `source:1`, … on one channel, over one connection to one node.
pub struct Publisher {
    connection: Connection,
    api: Api,
    channel: String,
    source: String,
    next: u64,
    /// The numbers of events that were answered with 200.
    pub accepted: Vec<u64>,
    /// Those that were answered with 503.
    pub refused: Vec<u64>,
}

impl Publisher {
    /// `api` must be that of the node at this address.
    pub async fn new(address: SocketAddr, api: Api, channel: &str, source: &str) -> Self {
        Self {
            connection: Connection::open(address).await,
            api,
            channel: channel.to_owned(),
            source: source.to_owned(),
            next: 0,
            accepted: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Publishes the next event; tells whether it was accepted.
    pub async fn publish(&mut self) -> bool {
        let number = self.next;
        self.next += 1;
        let accepted = self.post("/events", &self.event("n", number)).await;
        (if accepted { &mut self.accepted } else { &mut self.refused }).push(number);
        accepted
    }

    /// Publishes the next events in one request, which must be accepted.
    pub async fn publish_batch(&mut self, count: u64) {
        let numbers = self.next..self.next + count;
        let batch: Vec<Value> = numbers.clone().map(|number| self.event("n", number)).collect();
        assert!(self.post("/batch_events", &json!({ "batch": batch })).await, "a batch is refused");
        self.next = numbers.end;
        self.accepted.extend(numbers);
    }

    /// Goes on publishing, one event after each pause, until the flow is stopped.
    pub fn flow(mut self, pause: Duration) -> Flow {
        let (stop, stopped) = oneshot::channel();
        let at = Arc::new(AtomicU64::new(self.next));
        let progress = Arc::clone(&at);
        let task = tokio::spawn(async move {
            let mut stopped = stopped;
            let mut ticks = tokio::time::interval(pause);
            loop {
                tokio::select! {
                    _ = &mut stopped => return self,
                    _ = ticks.tick() => self.publish().await,
                };
                progress.store(self.next, Ordering::Relaxed);
            }
        });
        Flow { stop, task, at }
    }

    /// Publishes what tells listeners that nothing more comes from here.
    pub async fn end(&mut self) {
        assert!(self.post("/events", &self.event(END, self.next)).await, "the last event is refused");
    }

    fn event(&self, name: &str, number: u64) -> Value {
        json!({ "name": name, "channel": self.channel, "data": format!("{}:{number}", self.source) })
    }

    async fn post(&mut self, path: &str, body: &Value) -> bool {
        self.connection.send(self.api.post_bytes(path, &body.to_string())).await;
        let answer = self.connection.answer().await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        answer.status == 200
    }
}

/// A publisher at work.
pub struct Flow {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Publisher>,
    at: Arc<AtomicU64>,
}

impl Flow {
    /// The number of the next event.
    pub fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been published.
    pub async fn goes_on(&self, events: u64) {
        let until = self.at() + events;
        while self.at() < until {
            assert!(!self.task.is_finished(), "the publisher has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(self) -> Publisher {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}

/// Hears numbered events on a connection that has subscribed already.
pub struct Listener {
    task: JoinHandle<Client>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Listens until so many sources have ended.
    pub fn start(mut client: Client, sources: usize) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let mut ended = 0;
            while ended < sources {
                let frame = client.next_within(SILENCE_MAX).await;
                let data = frame["data"].as_str().unwrap().to_owned();
                match frame["event"].as_str().unwrap() {
                    "n" => hearing.lock().unwrap().push(data),
                    END => ended += 1,
                    other => panic!("{other} was not expected"),
                }
            }
            client
        });
        Self { task, heard }
    }

    /// Behind the last event of this source that it has heard so far.
    pub fn at(&self, source: &str) -> u64 {
        let start = format!("{source}:");
        let heard = self.heard.lock().unwrap();
        let last = heard.iter().rev().find_map(|data| data.strip_prefix(&start));
        last.map_or(0, |number| number.parse::<u64>().unwrap() + 1)
    }

    /// Everything it has heard, once all sources have ended.
    pub async fn heard(self) -> (Client, Heard) {
        let client = self.task.await.unwrap();
        (client, Heard(std::mem::take(&mut self.heard.lock().unwrap())))
    }
}

/// What one listener has heard.
pub struct Heard(Vec<String>);

impl Heard {
    /// It has heard exactly these of one source, in their order.
    #[track_caller]
    pub fn assert_exactly(&self, source: &str, numbers: &[u64]) {
        let missing = self.missing(source, numbers);
        assert!(
            missing.is_empty(),
            "{} of {} events of {source:?} are missing: {missing:?}",
            missing.len(),
            numbers.len()
        );
    }

    /// Those of these that it has not heard. It has heard no others, none twice, and all in their order.
    #[track_caller]
    pub fn missing(&self, source: &str, numbers: &[u64]) -> Vec<u64> {
        let start = format!("{source}:");
        let heard = self.0.iter().filter_map(|data| data.strip_prefix(&start));
        let heard: Vec<u64> = heard.map(|number| number.parse().unwrap()).collect();
        let turns: Vec<_> = heard.windows(2).filter(|two| two[1] <= two[0]).collect();
        assert!(turns.is_empty(), "events of {source:?} came twice or out of order: {turns:?}");
        let (expected, got): (BTreeSet<u64>, BTreeSet<u64>) =
            (numbers.iter().copied().collect(), heard.into_iter().collect());
        let unexpected: Vec<_> = got.difference(&expected).collect();
        assert!(
            unexpected.is_empty(),
            "events of {source:?} were delivered although they were refused: {unexpected:?}"
        );
        expected.difference(&got).copied().collect()
    }
}
