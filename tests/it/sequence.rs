//! Numbered events: what was accepted arrives in its order, all of it, and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
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

    /// Publishes until then, one event after each pause.
    pub async fn publish_until(&mut self, until: impl Future, pause: Duration) {
        let mut until = Box::pin(until);
        let mut ticks = tokio::time::interval(pause);
        loop {
            tokio::select! {
                _ = &mut until => return,
                _ = ticks.tick() => self.publish().await,
            };
        }
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

/// Hears numbered events on a connection that has subscribed already.
pub struct Listener {
    task: JoinHandle<(Client, Vec<String>)>,
}

impl Listener {
    /// Listens until so many sources have ended.
    pub fn start(mut client: Client, sources: usize) -> Self {
        let task = tokio::spawn(async move {
            let mut heard = Vec::new();
            let mut ended = 0;
            while ended < sources {
                let frame = client.next_within(SILENCE_MAX).await;
                let data = frame["data"].as_str().unwrap().to_owned();
                match frame["event"].as_str().unwrap() {
                    "n" => heard.push(data),
                    END => ended += 1,
                    other => panic!("{other} was not expected"),
                }
            }
            (client, heard)
        });
        Self { task }
    }

    /// Everything it has heard, once all sources have ended.
    pub async fn heard(self) -> (Client, Heard) {
        let (client, heard) = self.task.await.unwrap();
        (client, Heard(heard))
    }
}

/// What one listener has heard.
pub struct Heard(Vec<String>);

impl Heard {
    /// It has heard exactly these of one source, in their order.
    #[track_caller]
    pub fn assert_exactly(&self, source: &str, numbers: &[u64]) {
        let start = format!("{source}:");
        let heard = self.0.iter().filter_map(|data| data.strip_prefix(&start));
        let heard: Vec<u64> = heard.map(|number| number.parse().unwrap()).collect();
        if heard == numbers {
            return;
        }
        let (expected, got): (BTreeSet<u64>, BTreeSet<u64>) =
            (numbers.iter().copied().collect(), heard.iter().copied().collect());
        let missing: Vec<_> = expected.difference(&got).collect();
        let unexpected: Vec<_> = got.difference(&expected).collect();
        let doubled = heard.len() - got.len();
        let turns: Vec<_> = heard.windows(2).filter(|two| two[1] <= two[0]).collect();
        panic!(
            "of {} events of {source:?} {} are missing {missing:?}, {doubled} came twice, out of order {turns:?}, \
             unexpected {unexpected:?}",
            numbers.len(),
            missing.len()
        );
    }
}
