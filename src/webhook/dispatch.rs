//! From facts to endpoints: what is held back, what has been said already, and who wants to hear the rest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::Event;
use crate::registry::facts::Fact;
use crate::registry::facts::What;
use crate::tasks::Tasks;
use crate::webhook::Webhooks;
use crate::webhook::delivery;
use crate::webhook::directory::Directory;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::leaving::Leaving;
use crate::webhook::leaving::Left;
use crate::webhook::news::News;
use crate::webhook::news::Outcome;

/// Events that one round trip to Redis carries.
const ROUND_MAX: usize = 1000;
/// Misses that are remembered; beyond it some may be told twice.
const MISSES_MAX: usize = 100_000;

/// See the module.
pub(super) struct Dispatcher {
    webhooks: Arc<Webhooks>,
    tasks: Tasks,
    leaving: Leaving,
    /// Cache channels that were found empty, until when that is no news.
    missed: HashMap<(Arc<str>, ChannelName), Instant>,
    /// Where other nodes have a say.
    directory: Option<Directory>,
    /// What has been sorted and not been told.
    sorted: Vec<News>,
}

impl Dispatcher {
    pub(super) fn new(webhooks: Arc<Webhooks>, tasks: Tasks) -> Self {
        let leaving = Leaving::new(webhooks.options.leave_delay_seconds.duration());
        let directory = webhooks.cluster.clone().map(|cluster| Directory::new(Arc::clone(&webhooks), cluster));
        Self { webhooks, tasks, leaving, missed: HashMap::new(), directory, sorted: Vec::new() }
    }

    /// Hands on what comes until it is time to end, then what was held back.
    pub(super) async fn run(mut self) {
        let (webhooks, stop) = (Arc::clone(&self.webhooks), self.tasks.stop().clone());
        // What has happened by now waits until it is known what the other nodes have.
        self.look_after_nodes().await;
        while !stop.is_cancelled() {
            let next = self.leaving.next().into_iter().chain(self.directory.as_ref().map(Directory::next)).min();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = webhooks.facts.filled() => (),
                () = due => (),
                () = webhooks.changed.notified() => self.begin_to_consume(),
                () = stop.cancelled() => (),
            }
            self.sort(Instant::now());
            self.tell_sorted().await;
            self.look_after_nodes().await;
        }
        // All connections have ended by now.
        self.sort(Instant::now());
        self.tell_sorted().await;
        let delay = self.webhooks.options.leave_delay_seconds.duration();
        if let Some(directory) = &mut self.directory
            && directory.hand_over(delay).await
        {
            return;
        }
        for left in self.leaving.end() {
            self.turn(left, false);
        }
        self.tell_sorted().await;
        if let Some(directory) = &mut self.directory {
            directory.leave().await;
        }
    }

    /// Sorts what has come, and what is no longer to be held back.
    fn sort(&mut self, now: Instant) {
        for Fact { app, channel, what } in self.webhooks.facts.take() {
            match what {
                What::Event(event) => self.on_event(app, channel, event, now),
                What::CacheFilled => drop(self.missed.remove(&(app, channel))),
            }
        }
        while let Some(left) = self.leaving.due(now) {
            self.turn(left, false);
        }
    }

    fn on_event(&mut self, app: Arc<str>, channel: ChannelName, event: Event, now: Instant) {
        let user_id = match &event {
            Event::MemberAdded(user_id) | Event::MemberRemoved(user_id) => Some(Arc::clone(user_id)),
            _ => None,
        };
        let what = Left { app, channel, user_id };
        match event {
            Event::ChannelVacated | Event::MemberRemoved(_) => {
                if let Some(first) = self.leaving.hold(what, now) {
                    self.turn(first, false);
                }
            }
            Event::ChannelOccupied | Event::MemberAdded(_) => {
                if !self.leaving.is_back(&what) {
                    self.turn(what, true);
                }
            }
            Event::CacheMiss if !self.is_news(&what, now) => (),
            event => self.sorted.push(News::of(what, &event, &self.webhooks)),
        }
    }

    /// This node begins or ceases to have something.
    fn turn(&mut self, what: Left, begins: bool) {
        self.sorted.push(News::of_turn(what, begins, &self.webhooks));
    }

    /// Tells what has been sorted; of several nodes that have the same only one.
    async fn tell_sorted(&mut self) {
        let sorted = std::mem::take(&mut self.sorted);
        for round in sorted.chunks(ROUND_MAX) {
            let outcomes = match (&mut self.directory, &self.webhooks.streams) {
                (Some(directory), _) => directory.decide(round).await,
                (None, Some(streams)) => streams.put(round, self.webhooks.options.queue_events_max).await,
                (None, None) => vec![Outcome::Ours; round.len()],
            };
            for (news, outcome) in round.iter().zip(outcomes) {
                self.hand_on(news, &outcome);
            }
        }
    }

    /// Tells what dead nodes have left behind.
    async fn look_after_nodes(&mut self) {
        let Some(directory) = self.directory.as_mut().filter(|directory| directory.next() <= Instant::now()) else {
            return;
        };
        for (news, outcome) in directory.tick().await {
            self.hand_on(&news, &outcome);
        }
    }

    /// Each endpoint has somebody who delivers what Redis has for it.
    fn begin_to_consume(&self) {
        if self.webhooks.streams.is_none() {
            return;
        }
        for endpoint in self.webhooks.endpoints() {
            if endpoint.begins_to_consume() {
                self.tasks.spawn(delivery::consume(endpoint, Arc::clone(&self.webhooks), self.tasks.stop().clone()));
            }
        }
    }

    /// Endpoints learn what there is for them, here or in Redis.
    fn hand_on(&self, news: &News, outcome: &Outcome) {
        for (index, endpoint) in news.endpoints.iter().enumerate() {
            match outcome {
                Outcome::Old => (),
                Outcome::Stored(dropped) => endpoint.put(dropped.get(index).copied().unwrap_or_default()),
                Outcome::Refused => endpoint.meters.dropped_events.inc(),
                Outcome::Ours => self.push(Arc::clone(endpoint), Arc::clone(&news.text)),
            }
        }
    }

    /// Puts an event into an endpoint's own queue.
    fn push(&self, endpoint: Arc<Endpoint>, text: Arc<str>) {
        if endpoint.push(text, self.webhooks.options.queue_bytes_max) {
            self.tasks.spawn(delivery::deliver(endpoint, Arc::clone(&self.webhooks), self.tasks.stop().clone()));
        }
    }

    /// Whether a miss is the first one since the cache was filled, or for some time.
    fn is_news(&mut self, missed: &Left, now: Instant) -> bool {
        if self.missed.len() >= MISSES_MAX {
            self.missed.clear();
        }
        let until = now + self.webhooks.options.cache_miss_seconds.duration();
        match self.missed.entry((Arc::clone(&missed.app), missed.channel.clone())) {
            Entry::Occupied(known) if *known.get() > now => false,
            entry => {
                entry.insert_entry(until);
                true
            }
        }
    }
}
