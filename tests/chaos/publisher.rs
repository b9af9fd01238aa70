//! The applications' back ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;
use support::http::try_request;
use tokio::sync::watch;

use crate::history::Event;
use crate::history::Name;
use crate::history::What;
use crate::world::APPS;
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
    let mut words = text.splitn(4, ' ').map(str::parse::<u32>);
    let (_, publisher, number) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    let event = Event { publisher, number };
    (data(app, event) == text).then_some(event)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Node(usize),
    Nginx,
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
            let count = if self.random.random_bool(0.2) { 2 } else { 1 };
            let chosen: Vec<Name> = channels.sample(&mut self.random, count).cloned().collect();
            self.publish(&chosen).await;
        }
    }

    fn address(&self) -> SocketAddr {
        match self.door {
            Door::Node(node) => self.world.places.addresses[node],
            Door::Nginx => self.world.nginx.address,
        }
    }

    /// Publishes the next event on these channels; tells its number if it was accepted.
    pub async fn publish(&mut self, channels: &[Name]) -> Option<u32> {
        self.number += 1;
        let event = Event { publisher: self.id, number: self.number };
        let place = || match self.door {
            Door::Node(node) => Some(self.world.places.now(node)),
            Door::Nginx => None,
        };
        let to = place();
        let recorder = &self.world.recorder;
        recorder.record(What::Sent { event, app: self.app, channels: channels.to_vec(), to });
        let body = json!({ "name": "n", "channels": channels, "data": data(self.app, event) }).to_string();
        let target = APPS[self.app].api().signed("POST", "/events", &[], &body);
        let answer = try_request(self.address(), "POST", &target, body.as_bytes(), PATIENCE).await?;
        match answer.status {
            200 => {
                let by = match self.door {
                    Door::Node(_) => place().filter(|place| Some(*place) == to),
                    Door::Nginx => answer.header("x-upstream").and_then(|upstream| self.world.places.named(upstream)),
                };
                recorder.record(What::Accepted { event, by });
                return Some(self.number);
            }
            // nginx' own.
            500 | 502 | 504 => (),
            status => {
                recorder.record(What::Refused { event, status });
            }
        }
        None
    }
}
