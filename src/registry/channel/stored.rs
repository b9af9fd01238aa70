//! The snapshot of a channel in Redis: stores the last events of keys for nodes that open the channel, and takes over what
//! Redis has stored.

use std::time::Duration;

use crate::flow::channel::Received;
use crate::flow::channel::StoredEvent;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NUMBER_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::registry::channel::Channel;
use crate::registry::deadlines::Receivers;
use crate::registry::flow::Flow;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::channel::RemoteEvents;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::StoreEvents;
use crate::registry::remote::message::FetchedEvents;
use crate::registry::scope::Scope;

/// How often events of a channel are stored.
const PAUSE: Duration = Duration::from_secs(1);
/// The time in which each node stores what comes out there, the way to Redis included.
const STORE_TIME: Duration = Duration::from_secs(3);
/// The time over which channels fetch again what has been stored.
const SPREAD: Duration = Duration::from_secs(1);
/// Bytes of events that are stored at once. The rest is stored next time.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of events in one command.
const COMMAND_BYTES_MAX: usize = 256 * 1024;

impl Channel {
    /// Stores what Redis may lack of the snapshot, now or when it is time.
    pub(super) fn store_events(&mut self, scope: &Scope<'_>) {
        let Some(flow) = self.flow.as_deref_mut().filter(|flow| flow.has_unstored()) else { return };
        let remote = self.remote.get_or_insert_default();
        if !scope.is_linked() || remote.topic.is_opening() || remote.stored.storing > 0 {
            // Comes back when the topic is open, or the last ones are stored.
            return;
        }
        let at = flow.storing.last.map_or(scope.now, |last| last + PAUSE);
        if at > scope.now {
            flow.storing.at = Some(at);
            return;
        }
        (flow.storing.at, flow.storing.last) = (None, Some(scope.now));
        for command in store(flow, remote, scope.node()) {
            remote.stored.storing += 1;
            scope.command(Topic::Channel(self.name.clone()), command);
        }
        if remote.stored.storing == 0 {
            // Other nodes store the rest, or this one next time.
            flow.storing.at = flow.has_unstored().then_some(scope.now + PAUSE);
        }
    }

    /// The command to store events has ended. After a failure the topic is opened again: then Redis tells what it lacks.
    pub(crate) fn on_stored(&mut self, is_stored: bool, scope: &mut Scope<'_>) {
        let remote = self.remote_mut();
        remote.stored.storing = remote.stored.storing.saturating_sub(1);
        if !is_stored {
            remote.topic.reopen_later(scope);
        }
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }

    /// The rules change, and this channel may have no snapshot any more: it is forgotten, or stored for the other nodes
    /// if this one stops.
    pub(super) fn end_storing(&mut self, scope: &Scope<'_>) {
        let Some(flow) = self.flow.as_deref_mut().filter(|flow| flow.stored_max().is_some()) else { return };
        if !scope.app.flow.is_ended() {
            let is_kept = scope.app.snapshot_max(&self.name).is_some();
            return if !is_kept {
                scope.command(Topic::Channel(self.name.clone()), Operation::ForgetEvents)
            };
        }
        let remote = self.remote.get_or_insert_default();
        while flow.has_unstored() {
            for command in store(flow, remote, scope.node()) {
                scope.command(Topic::Channel(self.name.clone()), command);
            }
        }
    }

    /// Takes over what Redis has stored, when the topic has been opened. Subscribers from before a lost link get what
    /// they have missed.
    pub(super) fn restore_events(&mut self, mut stored: Vec<StoredEvent>, scope: &mut Scope<'_>) {
        let Some(rules) = scope.app.flow.rules() else { return };
        if self.flow.as_ref().is_some_and(|flow| flow.is_outdated(&rules)) {
            self.update_flow(scope);
        }
        // A number that this node has not given yet is somebody else's.
        let last_own = scope.last_number();
        stored.retain(|StoredEvent { origin, .. }| origin.node != scope.node() || origin.number.get() <= last_own);
        let remote = &mut self.remote.get_or_insert_default().stored;
        let RemoteEvents { known, received_since, unlinked_at, fetches, .. } = remote;
        for StoredEvent { origin, .. } in &stored {
            note(known, *origin);
        }
        *fetches += 1;
        let received = Received { since: received_since.unwrap_or(scope.now), unlinked_at: *unlinked_at };
        let fetches = *fetches;
        if fetches == 1 && !stored.is_empty() {
            // Pending events are older than those that were missed.
            self.flush_flow(scope);
        }
        let flow = self.flow.get_or_insert_with(|| {
            Box::new(Flow::new(&self.name, Receivers::Subscribers, rules, scope.app, scope.now))
        });
        let events = flow.restore(stored, received, scope.now);
        let time = match fetches {
            1 => Some(STORE_TIME),
            2 => flow.stored_delay().filter(|delay| *delay > PAUSE),
            _ => None,
        };
        // Not all channels at once.
        let time = time.map(|time| time + SPREAD.mul_f64(rand::random_range(0.0..1.0)));
        flow.storing.fetch_again_at = time.map(|time| scope.now + time);
        flow.storing.last = None;
        for event in events {
            self.announce(&event, scope);
        }
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }

    /// Fetches once more what Redis has stored: events that were accepted before this node opened the topic, and stored
    /// after it. Without a link, or while the topic opens, they come with its state.
    pub(super) fn fetch_again(&mut self, scope: &mut Scope<'_>) {
        let at = self.flow.as_mut().and_then(|flow| flow.storing.fetch_again_at.take_if(|at| *at <= scope.now));
        let remote = self.remote.get_or_insert_default();
        if at.is_none() || !scope.is_linked() || remote.topic.is_opening() {
            return;
        }
        if remote.stored.received_since.is_none() {
            return self.open(scope);
        }
        let (number, operation) = Operation::fetch_events();
        remote.stored.fetch(number);
        scope.command(Topic::Channel(self.name.clone()), operation);
    }

    /// The command of this number has fetched what Redis has stored, or has failed.
    pub(crate) fn on_fetched(&mut self, number: u64, stored: Option<Vec<StoredEvent>>, scope: &mut Scope<'_>) {
        let has_failed = stored.is_none();
        let events = stored.map(|last_events| FetchedEvents { last_events, cached: None });
        if let Some(events) = self.remote_mut().stored.on_fetched(number, events) {
            self.take_over(events, scope);
        } else if let Some(flow) = self.flow.as_mut().filter(|_| has_failed) {
            flow.storing.fetch_again_at = Some(scope.now + STORE_TIME);
            flow.schedule(&self.name, scope.app);
        }
    }

    /// Takes over fetched events. Everything has come that was published before them.
    pub(super) fn take_over(&mut self, FetchedEvents { last_events, cached }: FetchedEvents, scope: &mut Scope<'_>) {
        if let Some((frame, until)) = cached
            && self.cached(scope.now).is_none()
        {
            self.cache((&frame, until, false), scope);
        }
        self.restore_events(last_events, scope);
    }

    /// A node stores no events any more.
    pub(super) fn on_storer_gone(&mut self, node: NodeId, scope: &Scope<'_>) {
        let Some(flow) = &mut self.flow else { return };
        let remote = self.remote.get_or_insert_default();
        if let Some(last) = remote.dedup.origins().find(|origin| origin.node == node) {
            note(&mut remote.stored.known, last);
        }
        flow.on_node_gone(node, scope.now);
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }
}

/// Takes events to store out of a flow, a few in each command.
fn store(flow: &mut Flow, remote: &RemoteChannel, node: NodeId) -> Vec<Operation> {
    let Some((time, keys_max)) = flow.stored_max() else { return Vec::new() };
    // This node knows all of its own.
    let own = Origin::new(node, NUMBER_MAX);
    let known: Vec<Origin> = remote.dedup.origins().chain(remote.stored.known.iter().copied()).chain(own).collect();
    let (mut commands, mut bytes): (Vec<StoreEvents>, usize) = (Vec::new(), COMMAND_BYTES_MAX);
    for event in flow.take_unstored(BYTES_MAX) {
        if bytes >= COMMAND_BYTES_MAX {
            commands.push(StoreEvents { events: Vec::new(), time, keys_max, known: known.clone() });
            bytes = 0;
        }
        bytes += event.frame.bytes().len();
        if let Some(command) = commands.last_mut() {
            command.events.push(event);
        }
    }
    commands.into_iter().map(|command| Operation::StoreEvents(Box::new(command))).collect()
}

/// Notes the last event of a node.
fn note(known: &mut Vec<Origin>, origin: Origin) {
    match known.iter_mut().find(|last| last.node == origin.node) {
        Some(last) => last.number = last.number.max(origin.number),
        None => {
            known.drain(..(known.len() + 1).saturating_sub(NODES_MAX));
            known.push(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::flow::rules::FlowRules;
    use crate::protocol::channel::ChannelName;
    use crate::protocol::envelope::RemoteEvent;
    use crate::protocol::event;
    use crate::protocol::frame::Frame;
    use crate::registry::AppState;
    use crate::registry::address::Address;
    use crate::registry::address::Slot;
    use crate::registry::cache::EventCache;
    use crate::registry::deadlines::Due;
    use crate::registry::inbox::Event;
    use crate::registry::inbox::Inboxes;
    use crate::registry::inbox::ShardMessage;
    use crate::registry::remote::message::NodeMessage;
    use crate::registry::remote::message::Snapshot;
    use crate::registry::remote::outgoing::BufferLimits;
    use crate::registry::remote::outgoing::Outgoing;
    use crate::registry::subscription::JoinRules;
    use crate::registry::subscription::Joiner;

    const RULE: &str = r#"{"match":"*","conflate":{"key":"k","window_ms":60000},"snapshot":{"max_age_seconds":600}}"#;

    struct Node {
        app: AppState,
        outgoing: Arc<Outgoing>,
        topic: Topic,
        name: ChannelName,
    }

    /// Commands for the cluster: openings and fetches by their numbers, and the events to store.
    #[derive(Debug, Default, PartialEq)]
    struct Commands {
        opened: Vec<u64>,
        fetched: Vec<u64>,
        stored: Vec<Frame>,
    }

    /// One of several nodes, with a link to the others.
    fn node(now: Instant) -> Node {
        node_with("scada", now)
    }

    fn node_with(channel: &str, now: Instant) -> Node {
        let limits = BufferLimits { bytes_max: 1 << 20, time: Duration::from_secs(1) };
        let outgoing = Arc::new(Outgoing::new(NodeId::random(), limits));
        outgoing.link();
        let cache = Arc::new(EventCache::new(1 << 20));
        let app =
            AppState::new("app-id", Arc::new(Inboxes::new(1)), Some(Arc::clone(&outgoing)), Arc::default(), cache);
        app.set_flow_rules(FlowRules::new(&[serde_json::from_str(RULE).unwrap()]), now);
        let name = ChannelName::parse(channel, 200).unwrap();
        Node { app, outgoing, topic: Topic::Channel(name.clone()), name }
    }

    fn frame(value: u64) -> Frame {
        event::published("scada", "e", &format!(r#""{{\"k\":1,\"v\":{value}}}""#))
    }

    fn stored(origin: Option<Origin>, since: Instant) -> StoredEvent {
        let origin = origin.unwrap();
        StoredEvent { field: "k\0e\x001".to_owned(), origin, since, frame: frame(origin.number.get()) }
    }

    impl Node {
        fn commands(&self) -> Commands {
            let mut commands = Commands::default();
            for command in self.outgoing.take() {
                match command.operation {
                    Operation::Open { number, .. } => commands.opened.push(number),
                    Operation::FetchEvents { number } => commands.fetched.push(number),
                    Operation::StoreEvents(store) => {
                        commands.stored.extend(store.events.into_iter().map(|event| event.frame));
                    }
                    _ => (),
                }
            }
            commands
        }

        /// Redis answers with these events when the topic is opened. Returns the number of the opening.
        fn answer(&self, stored: Vec<StoredEvent>, now: Instant) -> u64 {
            let number = *self.commands().opened.last().unwrap();
            let snapshot = Snapshot { last_events: Some(stored), ..Snapshot::default() };
            self.app.on_opened(&self.topic, number, Some(snapshot), now);
            number
        }

        /// The mark of the command with this number has come: events published before it are here.
        fn mark(&self, number: u64, now: Instant) {
            self.app.on_message(&self.topic, NodeMessage::Mark(number), now);
        }

        /// The topic is open, and Redis stores these events.
        fn open(&self, stored: Vec<StoredEvent>, now: Instant) {
            let number = self.answer(stored, now);
            self.mark(number, now);
        }

        /// Runs the channel's flow at this time.
        fn run(&self, now: Instant) {
            let (channel, receivers) = (self.name.clone(), Receivers::Subscribers);
            self.app.run_flow(&Due { app: "app-id".into(), channel, receivers }, now);
        }

        fn join(&self, slot: u64, now: Instant) {
            let address = Address { shard: 0, slot: Slot::from(slotmap::KeyData::from_ffi(slot)) };
            let rules = JoinRules { members_max: 100, counted: false, raw: false };
            let joiner = Joiner { address, member: None, view: None, user: None, rules, came: now };
            self.app.change_channel(&self.name, now, |channel, scope| channel.join(joiner, scope));
        }

        /// The frames for each joiner, and the events for all, since the last call.
        fn inbox(&self) -> Vec<Vec<Frame>> {
            let frames = |message| match message {
                ShardMessage::Joined(_, _, frames) => Some(frames),
                ShardMessage::Event(_, event) => Some(vec![event.frame]),
                _ => None,
            };
            self.app.inboxes.take(0, Vec::new()).into_iter().filter_map(frames).collect()
        }

        /// The link is lost, and later it is back.
        fn relink(&self, lost_at: Instant, back_at: Instant) {
            self.outgoing.unlink(Vec::new());
            self.app.on_unlinked(lost_at);
            self.outgoing.link();
            self.app.on_linked(back_at);
        }

        /// The events for a page that joins.
        fn snapshot(&self, now: Instant) -> Vec<Frame> {
            let mut frames = Vec::new();
            self.app.change_channel(&self.name, now, |channel, _| {
                frames = channel.flow.as_mut().unwrap().snapshot(now);
            });
            frames
        }

        fn receive(&self, node: NodeId, number: u64, now: Instant) {
            let (frame, partial) = (frame(number), None);
            let event =
                RemoteEvent { node, number, accepted_micros: 0, except: None, cached_for_ms: 0, frame, partial };
            self.app.on_message(&self.topic, NodeMessage::Event(event, None), now);
        }
    }

    #[test]
    fn what_was_pending_is_older_than_what_was_missed_even_without_subscribers() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (node, [one, other]) = (node(now), [NodeId::random(), NodeId::random()]);
        node.app.publish(&node.name, &Event::new(frame(1), None, now), None);
        node.open(Vec::new(), now);
        node.receive(one, 2, now);
        node.relink(now + second, now + 3 * second);
        node.open(vec![stored(Origin::new(other, 9), now + 2 * second)], now + 3 * second);
        node.run(now + 61 * second);
        assert_eq!(node.snapshot(now + 62 * second), [frame(9)]);
    }

    #[test]
    fn what_redis_refuses_to_store_is_stored_later() {
        let (now, pause) = (Instant::now(), Duration::from_secs(3));
        let node = node(now);
        node.app.publish(&node.name, &Event::new(frame(1), None, now), None);
        let stores = |frames: &[Frame]| Commands { stored: frames.to_vec(), ..Commands::default() };
        node.open(Vec::new(), now);
        assert_eq!(node.commands(), stores(&[frame(1)]));
        node.app.on_stored(&node.name, false, now);
        node.app.tick(now + pause);
        node.open(Vec::new(), now + pause);
        assert_eq!(node.commands(), stores(&[frame(1)]));
        node.app.on_stored(&node.name, true, now + pause);
        node.app.tick(now + 2 * pause);
        assert_eq!(node.commands(), stores(&[]));
    }

    /// A node that has delivered an event, and then lost the link for two seconds. Another node has stored a later one.
    fn relinked(channel: &str, now: Instant) -> (Node, StoredEvent) {
        let (node, second) = (node_with(channel, now), Duration::from_secs(1));
        node.app.publish(&node.name, &Event::new(frame(1), None, now), None);
        node.open(Vec::new(), now);
        node.relink(now + second, now + 3 * second);
        (node, stored(Origin::new(NodeId::random(), 9), now + 2 * second))
    }

    #[test]
    fn what_is_fetched_again_counts_from_its_mark_on_and_the_topic_stays_open() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (node, missed) = relinked("presence-scada", now);
        node.open(Vec::new(), at(3));
        node.commands();
        node.run(at(8));
        let Commands { opened, fetched, .. } = node.commands();
        assert_eq!((opened.len(), fetched.len()), (0, 1));
        node.join(1, at(8));
        assert_eq!(node.inbox().len(), 1, "nobody waits");
        node.app.on_fetched(&node.name, fetched[0], None, at(8));
        node.run(at(12));
        let fetched = node.commands().fetched;
        assert_eq!(fetched.len(), 1, "after a failure it is tried again");
        node.app.on_fetched(&node.name, fetched[0], Some(vec![missed]), at(12));
        assert_eq!((node.inbox(), node.snapshot(at(12))), (vec![], vec![frame(1)]));
        node.mark(fetched[0], at(12));
        assert_eq!((node.inbox(), node.snapshot(at(12))), (vec![vec![frame(9)]], vec![frame(9)]));
        node.mark(fetched[0], at(12));
        assert_eq!(node.inbox(), Vec::<Vec<Frame>>::new());
    }

    #[test]
    fn joiners_do_not_wait_for_a_mark_that_is_late_and_nothing_older_comes_after_newer() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for live in [None, Some(5), Some(9)] {
            let (node, missed) = relinked("scada", now);
            let by = if live == Some(9) { missed.origin.node } else { NodeId::random() };
            node.join(1, at(3));
            let number = node.answer(vec![missed], at(3));
            assert_eq!(node.inbox(), Vec::<Vec<Frame>>::new());
            node.app.tick(at(5));
            // The answer, then what the node has.
            let joined = node.inbox();
            assert_eq!((joined.len(), &joined[0][1..]), (1, &[frame(1)][..]));
            node.join(2, at(5));
            assert_eq!(node.inbox().len(), 1, "the next one does not wait at all");
            // An event that was published before the mark, such as the one that is stored.
            if let Some(value) = live {
                node.receive(by, value, at(6));
            }
            assert_eq!(node.inbox(), Vec::<Vec<Frame>>::new());
            node.mark(number, at(7));
            assert_eq!(node.inbox(), [[frame(live.unwrap_or(9))]], "{live:?}");
            assert_eq!(node.snapshot(at(7)), [frame(live.unwrap_or(9))]);
        }
    }

    #[test]
    fn a_cached_event_waits_for_a_late_mark_too() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (node, missed) = relinked("cache-scada", now);
        node.join(1, at(3));
        let number = node.commands().opened[0];
        let (node_of, number_of) = (missed.origin.node, missed.origin.number.get());
        let event = RemoteEvent {
            node: node_of,
            number: number_of,
            accepted_micros: 0,
            except: None,
            cached_for_ms: 1,
            frame: frame(9),
            partial: None,
        };
        let cached = Some((event, Duration::from_secs(3600)));
        let snapshot = Snapshot { cached, last_events: Some(vec![missed]), ..Snapshot::default() };
        node.app.on_opened(&node.topic, number, Some(snapshot), at(3));
        let cached = |seconds| node.app.channel("cache-scada", at(seconds)).cached.map(|(frame, _)| frame);
        node.app.tick(at(5));
        assert_eq!((node.inbox().len(), cached(5)), (1, None));
        node.mark(number, at(6));
        assert_eq!((node.inbox(), cached(6)), (vec![vec![frame(9)]], Some(frame(9))));
    }

    #[test]
    fn an_event_that_this_node_never_accepted_is_left_out() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let node = node(now);
        node.app.publish(&node.name, &Event::new(frame(1), None, now), None);
        node.open(Vec::new(), now);
        node.relink(now + second, now + 3 * second);
        node.open(vec![stored(Origin::new(node.outgoing.node(), 1000), now + 2 * second)], now + 3 * second);
        assert_eq!(node.snapshot(now + 4 * second), [frame(1)]);
    }
}
