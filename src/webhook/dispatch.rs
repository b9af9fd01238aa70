//! The dispatcher: takes events from the registry, debounces them, drops duplicates and passes the rest to the
//! endpoints.
//! `Webhooks::run` runs it as one task.

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
use crate::webhook::debounce::Debounce;
use crate::webhook::debounce::Occupancy;
use crate::webhook::delivery;
use crate::webhook::directory::Directory;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::notification::Notification;
use crate::webhook::notification::Outcome;
use crate::webhook::notification::Transition;

/// Notifications in one round trip to Redis.
const ROUND_MAX: usize = 1000;
/// How long to wait before Redis is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often to look for apps that can be forgotten.
const APP_CHECK: Duration = Duration::from_secs(1);
/// How long to wait before the next look for events of apps that are not known here.
const TAKEOVER_RETRY: Duration = Duration::from_secs(10);
/// Cache misses that are remembered; beyond it some may be sent twice.
const MISSES_MAX: usize = 100_000;

/// The task between the registry's queue and the endpoints.
pub(super) struct Dispatcher {
    webhooks: Arc<Webhooks>,
    tasks: Tasks,
    debounce: Debounce,
    /// Cache channels that were missed, and until when a further miss is the same.
    missed: HashMap<(Arc<str>, ChannelName), Instant>,
    /// The occupancies of all nodes, in a cluster.
    directory: Option<Directory>,
    /// The first attempt to reach Redis is over.
    is_redis_tried: bool,
    /// When to look for apps that can be forgotten.
    next_app_check: Instant,
    /// When to look for events in Redis for apps that are not known here: at the start, and after a node crashed.
    next_takeover: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(webhooks: Arc<Webhooks>, tasks: Tasks) -> Self {
        let debounce = Debounce::new(webhooks.options.leave_delay_seconds.duration());
        let directory = Directory::of(&webhooks);
        let (missed, is_redis_tried, next_app_check) = (HashMap::new(), false, Instant::now());
        let next_takeover = Some(next_app_check);
        Self { webhooks, tasks, debounce, missed, directory, is_redis_tried, next_app_check, next_takeover }
    }

    /// Dispatches events until `stop`, then those that were debounced.
    pub(super) async fn run(mut self) {
        let (webhooks, stop) = (Arc::clone(&self.webhooks), self.tasks.stop().clone());
        self.check_nodes().await;
        while !stop.is_cancelled() {
            let node_check = self.directory.as_ref().map(Directory::next);
            let next = [self.debounce.next_due(), node_check, self.next_retry()]
                .into_iter()
                .flatten()
                .fold(self.next_app_check, Instant::min);
            tokio::select! {
                () = webhooks.events.filled() => (),
                () = tokio::time::sleep_until(next.into()) => (),
                () = webhooks.changed.notified() => self.start_consumers(),
                () = stop.cancelled() => (),
            }
            self.sort(Instant::now());
            // Redis may be back.
            self.check_nodes().await;
            self.send_backlog().await;
            self.check_apps().await;
        }
        // All connections have ended by now.
        self.sort(Instant::now());
        self.send_backlog().await;
        let delay = self.webhooks.options.leave_delay_seconds.duration();
        if let Some(directory) = &mut self.directory
            && directory.hand_over(delay).await
        {
            return;
        }
        for occupancy in self.debounce.drain() {
            self.on_transition(occupancy, Transition::Ended);
        }
        self.send_backlog().await;
        if let Some(directory) = &mut self.directory {
            directory.leave().await;
        }
    }

    /// Takes the new events, and the debounced ones that are due.
    fn sort(&mut self, now: Instant) {
        for WebhookEvent { app, channel, change } in self.webhooks.events.take() {
            match change {
                Change::Event(event) => self.on_event(app, channel, event, now),
                Change::CacheFilled => drop(self.missed.remove(&(app, channel))),
            }
        }
        while let Some(occupancy) = self.debounce.pop_due(now) {
            self.on_transition(occupancy, Transition::Ended);
        }
    }

    fn on_event(&mut self, app: Arc<str>, channel: ChannelName, event: Event, now: Instant) {
        let user_id = match &event {
            Event::MemberAdded(user_id) | Event::MemberRemoved(user_id) => Some(Arc::clone(user_id)),
            _ => None,
        };
        let occupancy = Occupancy { app, channel, user_id };
        match event {
            Event::ChannelVacated | Event::MemberRemoved(_) => {
                if let Some(first) = self.debounce.delay(occupancy, now) {
                    self.on_transition(first, Transition::Ended);
                }
            }
            Event::ChannelOccupied | Event::MemberAdded(_) => {
                if !self.debounce.cancel(&occupancy) {
                    self.on_transition(occupancy, Transition::Began);
                }
            }
            Event::CacheMiss if !self.is_first_miss(&occupancy, now) => (),
            event => self.add(Notification::new(occupancy, &event, &self.webhooks)),
        }
    }

    /// Adds a notification that this node begins or ceases to have a channel or member.
    fn on_transition(&mut self, occupancy: Occupancy, transition: Transition) {
        self.add(Notification::of_transition(occupancy, transition, &self.webhooks));
    }

    fn add(&self, notification: Notification) {
        self.webhooks.backlog.lock().push(notification);
    }

    /// Announces the backlog and passes it to the endpoints. While Redis is away, events that belong into it wait here,
    /// so that they overtake none that wait there; a draining node does not wait.
    async fn send_backlog(&mut self) {
        loop {
            let round = self.webhooks.backlog.lock().take(ROUND_MAX);
            if round.is_empty() {
                return;
            }
            let outcomes = self.announce(&round).await;
            if outcomes.is_none() && self.webhooks.streams.is_some() && !self.tasks.stop().is_cancelled() {
                return self.restore(round);
            }
            let outcomes = outcomes.unwrap_or_else(|| vec![Outcome::Local; round.len()]);
            self.webhooks.backlog.lock().remove(&round);
            self.record_occupancy(&round);
            for (notification, outcome) in round.iter().zip(outcomes) {
                self.pass_to_endpoints(notification, &outcome);
            }
        }
    }

    /// The outcome of each notification. `None` without Redis.
    async fn announce(&mut self, round: &[Notification]) -> Option<Vec<Outcome>> {
        match (&mut self.directory, &self.webhooks.streams) {
            (Some(directory), _) => directory.announce(round).await,
            (None, Some(streams)) => streams.put(round, self.webhooks.stream_bounds()).await,
            (None, None) => None,
        }
    }

    /// Puts notifications back that could not be announced. Drops what exceeds the limit.
    fn restore(&mut self, round: Vec<Notification>) {
        let dropped = self.webhooks.backlog.lock().restore(round, self.webhooks.options.queue_bytes_max);
        for endpoint in dropped.iter().flat_map(|notification| &notification.endpoints) {
            endpoint.meters.dropped_events.inc();
        }
        self.record_occupancy(&dropped);
    }

    fn record_occupancy(&mut self, notifications: &[Notification]) {
        if let Some(directory) = &mut self.directory {
            directory.record(notifications);
        }
    }

    /// When to announce the backlog again.
    fn next_retry(&self) -> Option<Instant> {
        (!self.webhooks.backlog.lock().is_empty()).then(|| Instant::now() + RETRY)
    }

    /// Renews the lease, and passes on what crashed nodes had.
    async fn check_nodes(&mut self) {
        let is_first = !self.is_redis_tried;
        if let Some(redis) = self.webhooks.redis.as_ref().filter(|redis| is_first && redis.is_needed()) {
            // Events wait until this node knows what its peers have.
            redis.link.tried().await;
            self.is_redis_tried = true;
        }
        let is_due = |directory: &&mut Directory| is_first || directory.next() <= Instant::now();
        let Some(directory) = self.directory.as_mut().filter(is_due) else { return };
        let left_behind = directory.tick().await;
        if directory.has_cleaned_up() {
            self.next_takeover = Some(Instant::now());
        }
        for (notification, outcome) in left_behind {
            self.pass_to_endpoints(&notification, &outcome);
        }
    }

    /// Forgets unused apps, and adds apps for which events wait in Redis.
    async fn check_apps(&mut self) {
        if self.next_app_check > Instant::now() {
            return;
        }
        self.next_app_check = Instant::now() + APP_CHECK;
        self.webhooks.forget_unused(|app| self.debounce.has_app(app));
        if self.next_takeover.is_some_and(|next| next <= Instant::now()) {
            let is_known = self.webhooks.look_up_waiting().await;
            self.next_takeover = (!is_known).then(|| Instant::now() + TAKEOVER_RETRY);
        }
    }

    /// Spawns a consumer for each endpoint that has none.
    fn start_consumers(&self) {
        if self.webhooks.streams.is_none() {
            return;
        }
        for endpoint in self.webhooks.endpoints() {
            if endpoint.claim_consumer() {
                self.tasks.spawn(delivery::consume(endpoint, Arc::clone(&self.webhooks), self.tasks.stop().clone()));
            }
        }
    }

    /// Passes a notification to its endpoints, or notes that it is in Redis.
    fn pass_to_endpoints(&self, notification: &Notification, outcome: &Outcome) {
        for (index, endpoint) in notification.endpoints.iter().enumerate() {
            match outcome {
                Outcome::Duplicate => (),
                Outcome::Stored(dropped) => endpoint.on_stored(dropped.get(index).copied().unwrap_or_default()),
                Outcome::Rejected => endpoint.meters.dropped_events.inc(),
                Outcome::Local => self.push(Arc::clone(endpoint), Arc::clone(&notification.text)),
            }
        }
    }

    /// Appends an event to an endpoint's queue in memory.
    fn push(&self, endpoint: Arc<Endpoint>, text: Arc<str>) {
        if endpoint.push(text, self.webhooks.options.queue_bytes_max) {
            self.tasks.spawn(delivery::deliver(endpoint, Arc::clone(&self.webhooks), self.tasks.stop().clone()));
        }
    }

    /// Whether a cache miss is the first since the cache was filled, or since `cache_miss_seconds`.
    fn is_first_miss(&mut self, missed: &Occupancy, now: Instant) -> bool {
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
