//! The applications' back ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;
use serde_json::json;
use support::http::try_request;
use tokio::sync::watch;

use crate::check::LARAVEL;
use crate::history::Event;
use crate::history::Name;
use crate::history::Place;
use crate::history::What;
use crate::world::APPS;
use crate::world::LARAVELS;
use crate::world::World;

/// Time for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Texts that must arrive as they are.
const FILLERS: [&str; 6] = ["", " two  spaces\tand a tab", "é 😀 \u{2028}", "\"\\/ {\"a\":1.0}", "<&>'", "0000000000"];

/// The data of an event, which shows whose it is, and that nothing was changed.
pub fn data(app: usize, event: Event) -> String {
    let filler = FILLERS[event.number as usize % FILLERS.len()];
    format!("{app} {} {} {filler}", event.publisher, event.number)
}

/// The event that has this data, if somebody of this app has made it.
pub fn event(app: usize, text: &str) -> Option<Event> {
    // Laravel's data is an object.
    let inner = serde_json::from_str::<Value>(text).ok().and_then(|data| data["text"].as_str().map(str::to_owned));
    let text = inner.as_deref().unwrap_or(text);
    let mut words = text.splitn(4, ' ').map(str::parse::<u32>);
    let (_, publisher, number) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    let event = Event { publisher, number };
    (data(app, event) == text).then_some(event)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Node(usize),
    Nginx,
    /// Laravel's `redis` broadcaster.
    Redis,
}

pub struct Publisher {
    id: u32,
    app: usize,
    door: Door,
    world: Arc<World>,
    random: StdRng,
    number: u32,
}

impl Publisher {
    pub fn new(id: u32, app: usize, door: Door, world: &Arc<World>) -> Self {
        let random = StdRng::seed_from_u64(world.seed ^ u64::from(id));
        Self { id, app, door, world: Arc::clone(world), random, number: 0 }
    }

    /// Publishes, with these pauses on average, until it is to stop.
    pub async fn run(mut self, channels: Vec<Name>, pause: Duration, mut stop: watch::Receiver<bool>) {
        loop {
            let millis = self.random.random_range(0..2 * pause.as_millis() as u64);
            let pause = tokio::time::sleep(Duration::from_millis(millis));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = pause => (),
            }
            let count = if self.random.random_bool(0.2) && self.door != Door::Redis { 2 } else { 1 };
            let chosen: Vec<Name> = channels.sample(&mut self.random, count).cloned().collect();
            match self.door {
                Door::Redis => self.broadcast(&chosen[0]).await,
                _ if self.random.random_bool(0.1) => self.publish_batch(&chosen[0]).await,
                _ => drop(self.publish(&chosen).await),
            }
        }
    }

    fn address(&self) -> SocketAddr {
        match self.door {
            Door::Node(node) => self.world.places.addresses[node],
            Door::Nginx | Door::Redis => self.world.nginx.address,
        }
    }

    /// The process that it publishes to, if it knows.
    fn place(&self) -> Option<Place> {
        match self.door {
            Door::Node(node) => Some(self.world.places.now(node)),
            Door::Nginx => None,
            Door::Redis => Some(LARAVEL),
        }
    }

    /// The next event, which is on its way from now on.
    fn next(&mut self, channels: &[Name]) -> Event {
        self.number += 1;
        let event = Event { publisher: self.id, number: self.number };
        let channels = channels.to_vec();
        self.world.recorder.record(What::Sent { event, app: self.app, channels, to: self.place() });
        event
    }

    /// Publishes the next event on these channels; tells its number if it was accepted.
    pub async fn publish(&mut self, channels: &[Name]) -> Option<u32> {
        let event = self.next(channels);
        let body = json!({ "name": "n", "channels": channels, "data": data(self.app, event) });
        self.post("/events", &body, &[event]).await.then_some(event.number)
    }

    /// Publishes the next events in one request.
    async fn publish_batch(&mut self, channel: &Name) {
        let events: Vec<Event> = (0..3).map(|_| self.next(std::slice::from_ref(channel))).collect();
        let one = |event: &Event| json!({ "name": "n", "channel": channel, "data": data(self.app, *event) });
        let batch: Vec<Value> = events.iter().map(one).collect();
        self.post("/batch_events", &json!({ "batch": batch }), &events).await;
    }

    /// Takes down what becomes of these events; tells whether they were accepted.
    async fn post(&self, rest: &str, body: &Value, events: &[Event]) -> bool {
        let (to, body) = (self.place(), body.to_string());
        let target = APPS[self.app].api().signed("POST", rest, &[], &body);
        let answer = try_request(self.address(), "POST", &target, body.as_bytes(), PATIENCE).await;
        let Some(answer) = answer else { return false };
        let by = match self.door {
            // Another process may have taken its place.
            Door::Node(_) | Door::Redis => self.place().filter(|place| Some(*place) == to),
            Door::Nginx => answer.header("x-upstream").and_then(|upstream| self.world.places.named(upstream)),
        };
        for event in events.iter().copied() {
            match answer.status {
                200 => self.world.recorder.record(What::Accepted { event, by }),
                // nginx' own.
                500 | 502 | 504 => (),
                status => self.world.recorder.record(What::Refused { event, status }),
            }
        }
        answer.status == 200
    }

    /// Publishes the next event as Laravel does in Redis.
    async fn broadcast(&mut self, channel: &Name) {
        let event = self.next(std::slice::from_ref(channel));
        let message = json!({ "event": "n", "data": { "text": data(self.app, event) }, "socket": null }).to_string();
        let publish = async {
            let port = self.world.redis_port.expect("there is one Redis");
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut command = redis::cmd("PUBLISH");
            command.arg(format!("{LARAVELS}{channel}")).arg(message);
            command.query_async::<u64>(&mut connection).await
        };
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, publish).await {
            self.world.recorder.record(What::Accepted { event, by: Some(LARAVEL) });
        }
    }
}
