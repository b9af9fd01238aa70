//! From facts to endpoints: what is held back, what has been said already, and who wants to hear the rest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::Event;
use crate::registry::webhook_events::Change;
use crate::registry::webhook_events::WebhookEvent;
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
/// Until Redis is tried again for what waits here.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is asked which apps have nothing to tell any more.
const LOOK: Duration = Duration::from_secs(1);
/// After this time it is tried again to find out what waits for apps that are not known here.
const TAKE_OVER: Duration = Duration::from_secs(10);
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
    /// When to look for apps with nothing to tell.
    next_look: Instant,
    /// When to look for what waits in Redis for apps that are not known here: at the start, and when a node has died.
    next_take_over: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(webhooks: Arc<Webhooks>, tasks: Tasks) -> Self {
        let leaving = Leaving::new(webhooks.options.leave_delay_seconds.duration());
        let directory = webhooks.cluster.clone().map(|cluster| Directory::new(Arc::clone(&webhooks), cluster));
        let (missed, next_look) = (HashMap::new(), Instant::now());
        Self { webhooks, tasks, leaving, missed, directory, next_look, next_take_over: Some(next_look) }
    }

    /// Hands on what comes until it is time to end, then what was held back.
    pub(super) async fn run(mut self) {
        let (webhooks, stop) = (Arc::clone(&self.webhooks), self.tasks.stop().clone());
        // What has happened by now waits until it is known what the other nodes have.
        self.look_after_nodes().await;
        while !stop.is_cancelled() {
            let look = self.directory.as_ref().map(Directory::next);
            let next =
                [self.leaving.next(), look, self.next_try()].into_iter().flatten().fold(self.next_look, Instant::min);
            tokio::select! {
                () = webhooks.facts.filled() => (),
                () = tokio::time::sleep_until(next.into()) => (),
                () = webhooks.changed.notified() => self.begin_to_consume(),
                () = stop.cancelled() => (),
            }
            self.sort(Instant::now());
            // Redis may be back.
            self.look_after_nodes().await;
            self.tell_sorted().await;
            self.look_after_apps().await;
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
        for WebhookEvent { app, channel, change } in self.webhooks.facts.take() {
            match change {
                Change::Event(event) => self.on_event(app, channel, event, now),
                Change::CacheFilled => drop(self.missed.remove(&(app, channel))),
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
            event => self.add(News::of(what, &event, &self.webhooks)),
        }
    }

    /// This node begins or ceases to have something.
    fn turn(&mut self, what: Left, begins: bool) {
        self.add(News::of_turn(what, begins, &self.webhooks));
    }

    fn add(&self, news: News) {
        self.webhooks.room.lock().push(news);
    }

    /// Tells what has been sorted; of several nodes that have the same only one. What is to wait in Redis waits here while
    /// Redis is away, so that it overtakes nothing that waits there; unless this node leaves.
    async fn tell_sorted(&mut self) {
        loop {
            let round = self.webhooks.room.lock().take(ROUND_MAX);
            if round.is_empty() {
                return;
            }
            let outcomes = self.say(&round).await;
            if outcomes.is_none() && self.webhooks.streams.is_some() && !self.tasks.stop().is_cancelled() {
                return self.wait(round);
            }
            let outcomes = outcomes.unwrap_or_else(|| vec![Outcome::Ours; round.len()]);
            self.webhooks.room.lock().told(&round);
            self.is_over(&round);
            for (news, outcome) in round.iter().zip(outcomes) {
                self.hand_on(news, &outcome);
            }
        }
    }

    /// What becomes of news. Nothing without Redis.
    async fn say(&mut self, round: &[News]) -> Option<Vec<Outcome>> {
        match (&mut self.directory, &self.webhooks.streams) {
            (Some(directory), _) => directory.decide(round).await,
            (None, Some(streams)) => streams.put(round, self.webhooks.stored_max()).await,
            (None, None) => None,
        }
    }

    /// Nothing has become of these yet. What there is no room for never will be told.
    fn wait(&mut self, round: Vec<News>) {
        let dropped = self.webhooks.room.lock().put_back(round, self.webhooks.options.queue_bytes_max);
        for endpoint in dropped.iter().flat_map(|news| &news.endpoints) {
            endpoint.meters.dropped_events.inc();
        }
        self.is_over(&dropped);
    }

    fn is_over(&mut self, news: &[News]) {
        if let Some(directory) = &mut self.directory {
            directory.note(news);
        }
    }

    /// When to look whether Redis takes what waits here.
    fn next_try(&self) -> Option<Instant> {
        (!self.webhooks.room.lock().is_empty()).then(|| Instant::now() + RETRY)
    }

    /// Tells what dead nodes have left behind.
    async fn look_after_nodes(&mut self) {
        let Some(directory) = self.directory.as_mut().filter(|directory| directory.next() <= Instant::now()) else {
            return;
        };
        let left_behind = directory.tick().await;
        if directory.has_buried() {
            self.next_take_over = Some(Instant::now());
        }
        for (news, outcome) in left_behind {
            self.hand_on(&news, &outcome);
        }
    }

    /// Apps that are not in use go when all has been told, and come when there is something to deliver to them.
    async fn look_after_apps(&mut self) {
        if self.next_look > Instant::now() {
            return;
        }
        self.next_look = Instant::now() + LOOK;
        self.webhooks.forget_unused(|app| self.leaving.holds(app));
        if self.next_take_over.is_some_and(|next| next <= Instant::now()) {
            let is_known = self.webhooks.look_up_waiting().await;
            self.next_take_over = (!is_known).then(|| Instant::now() + TAKE_OVER);
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
