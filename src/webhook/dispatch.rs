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
use crate::webhook::directory::Turn;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::leaving::Leaving;
use crate::webhook::leaving::Left;

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
    sorted: Vec<Sorted>,
    /// What has to be put into Redis.
    outbound: Vec<(Arc<Endpoint>, Arc<str>)>,
}

/// Something to tell, in order.
enum Sorted {
    /// Whatever the other nodes do.
    Event(Arc<str>, ChannelName, Event),
    /// If no other node has the same.
    Turn(Turn),
}

impl Dispatcher {
    pub(super) fn new(webhooks: Arc<Webhooks>, tasks: Tasks) -> Self {
        let leaving = Leaving::new(webhooks.options.leave_delay_seconds.duration());
        let directory = webhooks.cluster.clone().map(Directory::new);
        Self { webhooks, tasks, leaving, missed: HashMap::new(), directory, sorted: Vec::new(), outbound: Vec::new() }
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
        let left = self.leaving.end();
        self.sorted.extend(left.into_iter().map(gone));
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
            self.sorted.push(gone(left));
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
                self.sorted.extend(self.leaving.hold(what, now).map(gone));
            }
            Event::ChannelOccupied | Event::MemberAdded(_) => {
                if !self.leaving.is_back(&what) {
                    self.sorted.push(Sorted::Turn(Turn { what, begins: true }));
                }
            }
            Event::CacheMiss if !self.is_news(&what, now) => (),
            event => self.sorted.push(Sorted::Event(what.app, what.channel, event)),
        }
    }

    /// Tells what has been sorted; of several nodes that have the same only one.
    async fn tell_sorted(&mut self) {
        let sorted = std::mem::take(&mut self.sorted);
        let mut news = Vec::new().into_iter();
        if let Some(directory) = &mut self.directory {
            let turn = |sorted: &Sorted| match sorted {
                Sorted::Turn(turn) => Some(turn.clone()),
                Sorted::Event(..) => None,
            };
            news = directory.decide(&sorted.iter().filter_map(turn).collect::<Vec<_>>()).await.into_iter();
        }
        for sorted in sorted {
            match sorted {
                Sorted::Event(app, channel, event) => self.tell(&app, &channel, &event),
                Sorted::Turn(turn) if news.next().unwrap_or(true) => self.tell_turn(&turn),
                Sorted::Turn(_) => (),
            }
        }
        self.put_outbound().await;
    }

    /// Tells what dead nodes have left behind.
    async fn look_after_nodes(&mut self) {
        let Some(directory) = self.directory.as_mut().filter(|directory| directory.next() <= Instant::now()) else {
            return;
        };
        for turn in directory.tick().await {
            self.tell_turn(&turn);
        }
        self.put_outbound().await;
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

    /// Puts events where they outlive this node; without Redis they wait here.
    async fn put_outbound(&mut self) {
        let (outbound, options) = (std::mem::take(&mut self.outbound), &self.webhooks.options);
        let Some(streams) = self.webhooks.streams.as_ref().filter(|_| !outbound.is_empty()) else { return };
        for round in outbound.chunks(ROUND_MAX) {
            let events: Vec<(&str, &str)> = round.iter().map(|(endpoint, text)| (endpoint.stream(), &**text)).collect();
            let put = streams.put(&events, options.queue_events_max).await;
            for (index, (endpoint, text)) in round.iter().enumerate() {
                match &put {
                    Some(dropped) => endpoint.put(dropped.get(index).copied().unwrap_or_default()),
                    None => self.push(Arc::clone(endpoint), Arc::clone(text)),
                }
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

    fn tell_turn(&mut self, turn: &Turn) {
        self.tell(&turn.what.app, &turn.what.channel, &turn.event());
    }

    /// Hands an event to those endpoints of the app that want it.
    fn tell(&mut self, app: &Arc<str>, channel: &ChannelName, event: &Event) {
        let mut text: Option<Arc<str>> = None;
        for endpoint in self.webhooks.endpoints_of(app) {
            if !endpoint.wants(event.kind(), channel.as_str()) {
                continue;
            }
            let text = Arc::clone(text.get_or_insert_with(|| event.encode(channel.as_str()).into()));
            match self.webhooks.streams {
                Some(_) => self.outbound.push((endpoint, text)),
                None => self.push(endpoint, text),
            }
        }
    }
}

fn gone(what: Left) -> Sorted {
    Sorted::Turn(Turn { what, begins: false })
}
