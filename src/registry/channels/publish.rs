//! The way of an event to a channel's subscribers, to views and to the other nodes. Flow rules with `at = "ingest"` thin it
//! before that.

use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;
use crate::protocol::webhook;
use crate::protocol::webhook::ClientEvent;
use crate::registry::AppState;
use crate::registry::channel::Channel;
use crate::registry::channel::Source;
use crate::registry::channels::open_entry;
use crate::registry::channels::table::Entry;
use crate::registry::deadlines::Receivers;
use crate::registry::flow::Flow;
use crate::registry::inbox::Event;
use crate::registry::scope::Scope;

/// An event for a channel.
#[derive(Clone, Copy)]
struct Publish<'a> {
    name: &'a ChannelName,
    event: &'a Event,
    /// How long a cache channel keeps it.
    cache_for: Option<Duration>,
    /// All nodes, or this one.
    receivers: Receivers,
}

impl AppState {
    /// Sends an event to the subscribers of a channel on all nodes. A cache channel stores it for `cache_for`, if given.
    pub fn publish(&self, name: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        self.change(name, event.accepted, |entry, scope| {
            publish(entry, Publish { name, event, cache_for, receivers: Receivers::Nodes }, scope)
        });
    }

    /// Sends a client's event to the other subscribers of a channel. The application gets it as `webhook`.
    pub fn relay(&self, name: &ChannelName, event: &Event, webhook: Option<ClientEvent>) {
        self.change(name, event.accepted, |entry, scope| {
            if let Some(webhook) = webhook {
                scope.record(name, webhook::Event::ClientEvent(Box::new(webhook)));
            }
            publish(entry, Publish { name, event, cache_for: None, receivers: Receivers::Nodes }, scope);
        });
    }

    /// Like [`Self::publish`], for an event that each node gets by itself.
    pub fn publish_here(&self, name: &ChannelName, event: &Event, cache_for: Option<Duration>) {
        self.note_unnumbered();
        self.change(name, event.accepted, |entry, scope| {
            publish(entry, Publish { name, event, cache_for, receivers: Receivers::Here }, scope);
        });
    }
}

/// The flow rules of channels.
impl AppState {
    /// Whether an event of a channel may matter to somebody, here or on another node.
    pub fn may_matter(&self, name: &ChannelName, is_cached: bool) -> bool {
        let is_there = || self.channels.table.with(name.as_str(), |entry| entry.get().is_some());
        self.outgoing.is_some() || is_cached || self.has_snapshot(name) || self.history.replays_last(name) || is_there()
    }

    /// Whether a rule keeps the last events of a channel, even if nobody listens.
    fn has_snapshot(&self, name: &ChannelName) -> bool {
        self.flow.rules().is_some_and(|rules| rules.have_snapshot(name))
    }

    /// Ends all flows before the nodes: what is pending is delivered.
    pub(crate) fn end_node_flows(&self, now: Instant) {
        let keys: Vec<_> = self.flow.before_nodes.lock().keys().cloned().collect();
        for (name, receivers) in keys {
            self.change(&name, now, |entry, scope| self.end_node_flow(entry, &name, receivers, scope));
        }
    }

    fn end_node_flow(&self, entry: &mut Entry<'_>, name: &ChannelName, receivers: Receivers, scope: &mut Scope<'_>) {
        let flow = self.flow.before_nodes.lock().remove(&(name.clone(), receivers));
        let Some(mut flow) = flow else { return };
        let cache_for = flow.cache.map(|(cache_for, _)| cache_for);
        for event in flow.flush(scope.now) {
            deliver(entry, Publish { name, event: &event, cache_for, receivers }, scope);
        }
    }

    /// Forgets the flows before the nodes that have nothing pending.
    pub(super) fn tick_node_flows(&self, now: Instant) {
        self.flow.before_nodes.lock().retain(|_, flow| !flow.is_idle(now));
    }

    pub(crate) fn run_node_flow(&self, name: &ChannelName, receivers: Receivers, now: Instant) {
        self.change(name, now, |entry, scope| {
            let mut flows = self.flow.before_nodes.lock();
            let Some(flow) = flows.get_mut(&(name.clone(), receivers)) else { return };
            let cache_for = flow.cache.map(|(cache_for, _)| cache_for);
            for event in flow.run_due(now) {
                deliver(entry, Publish { name, event: &event, cache_for, receivers }, scope);
            }
            flow.schedule(name, self);
        });
    }

    pub(crate) fn run_channel_flow(&self, name: &ChannelName, now: Instant) {
        self.change_channel(name, now, Channel::run_flow);
    }

    pub(crate) fn update_channel_flows(&self, now: Instant) {
        for name in self.channels.table.names(|channel| channel.flow.is_some()) {
            self.change_channel(&name, now, Channel::update_flow);
        }
    }
}

/// Publishes an event, or what rules with `at = "ingest"` make of it.
fn publish(entry: &mut Entry<'_>, publish: Publish<'_>, scope: &mut Scope<'_>) {
    let (app, Publish { name, event, cache_for, receivers }) = (scope.app, publish);
    let rules = app.flow.rules().filter(|rules| app.outgoing.is_some() && rules.thin_at_ingest(name));
    if app.flow.is_changing() {
        app.end_node_flow(entry, name, receivers, scope);
    }
    let Some(rules) = rules else { return deliver(entry, publish, scope) };
    let mut flows = app.flow.before_nodes.lock();
    let key = (name.clone(), receivers);
    if !flows.contains_key(&key)
        && let Some(flow) = Flow::bounded(name, receivers, rules, app, scope.now)
    {
        flows.insert(key.clone(), flow);
    }
    let (events, has_flushed) = match flows.get_mut(&key) {
        Some(flow) => (flow.publish(event, scope.now), flow.has_flushed()),
        None => (vec![event.clone()], true),
    };
    // Events that each node gets by itself and events for all nodes wait apart, but nothing overtakes them.
    let other = if receivers == Receivers::Here { Receivers::Nodes } else { Receivers::Here };
    if has_flushed && let Some(flow) = flows.get_mut(&(name.clone(), other)) {
        let cache_for = flow.cache.map(|(cache_for, _)| cache_for);
        for event in flow.flush_before(scope.now) {
            deliver(entry, Publish { name, event: &event, cache_for, receivers: other }, scope);
        }
        flow.schedule(name, app);
    }
    for event in &events {
        deliver(entry, Publish { event, ..publish }, scope);
    }
    if let Some(flow) = flows.get_mut(&key) {
        if let Some(cache_for) = cache_for {
            flow.cache = Some((cache_for, receivers == Receivers::Here));
        }
        flow.schedule(name, app);
    }
}

/// Gives an event to the subscribers and views here, and, unless it is for this node alone, to the queue for the others.
fn deliver(entry: &mut Entry<'_>, publish: Publish<'_>, scope: &mut Scope<'_>) {
    let Publish { name, event, cache_for, receivers } = publish;
    let (app, is_local) = (scope.app, receivers == Receivers::Here);
    let is_kept = || {
        (cache_for.is_some() && (is_local || !scope.is_linked()))
            || app.has_snapshot(name)
            || app.history.replays_last(name)
            || (app.history.has_rule(name) && !scope.is_settled())
    };
    if entry.get().is_none() && is_kept() {
        open_entry(entry, name, scope);
    }
    let outgoing = app.outgoing.as_ref().filter(|_| !is_local);
    let origin = outgoing.and_then(|outgoing| outgoing.publish(&app.id, name, event, cache_for));
    if let Some(channel) = entry.get() {
        channel.accept((event, Source::Here(origin)), cache_for, is_local, scope);
    }
    app.views.mirror(name, event, scope);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::flow::rules::FlowRules;
    use crate::flow::thinning::Outcome;
    use crate::metrics::Metrics;
    use crate::protocol::envelope::NodeId;
    use crate::protocol::envelope::RemoteEvent;
    use crate::protocol::envelope::Topic;
    use crate::protocol::event;
    use crate::protocol::frame::Frame;
    use crate::registry::address::Address;
    use crate::registry::address::Slot;
    use crate::registry::cache::EventCache;
    use crate::registry::channels::table::PARTS;
    use crate::registry::deadlines::Deadlines;
    use crate::registry::deadlines::FLOWS_MAX;
    use crate::registry::inbox::Inboxes;
    use crate::registry::inbox::ShardMessage;
    use crate::registry::remote::command::Operation;
    use crate::registry::remote::message::Snapshot;
    use crate::registry::remote::outgoing::BufferLimits;
    use crate::registry::remote::outgoing::Outgoing;
    use crate::registry::subscription::JoinRules;
    use crate::registry::subscription::Joiner;

    const HOUR: Duration = Duration::from_secs(3600);

    /// One of several nodes, with a link to the others.
    fn linked() -> AppState {
        let limits = BufferLimits { bytes_max: 1024, time: Duration::from_secs(1) };
        let outgoing = Arc::new(Outgoing::new(NodeId::random(), limits));
        outgoing.link();
        let cache = Arc::new(EventCache::new(1 << 20));
        AppState::new("app-id", Arc::new(Inboxes::new(1)), Some(outgoing), Arc::default(), cache)
    }

    fn name() -> ChannelName {
        ChannelName::parse("cache-x", 200).unwrap()
    }

    fn frame_of(name: &str) -> Frame {
        event::published("cache-x", name, "\"1\"")
    }

    fn cached(app: &AppState, now: Instant) -> Option<Frame> {
        app.channel("cache-x", now).cached.map(|(frame, _)| frame)
    }

    fn ingest_rules() -> FlowRules {
        let rule = r#"{"match":"*","at":"ingest","except":["alarm"],"conflate":{"window_ms":3600000}}"#;
        FlowRules::new(&[serde_json::from_str(rule).unwrap()])
    }

    /// The names and channels of the events that wait for the other nodes.
    fn sent(app: &AppState) -> Vec<String> {
        let commands = app.outgoing.as_ref().unwrap().take();
        let shown = commands.into_iter().filter_map(|command| match command.operation {
            Operation::Publish(publish) => {
                let (name, data) = event::name_and_data(&publish.event.frame)?;
                Some(format!("{name} {data}"))
            }
            _ => None,
        });
        shown.collect()
    }

    fn publish_to(app: &AppState, channel: &str, data: u32, now: Instant) {
        let frame = event::published(channel, channel, &format!("\"{data}\""));
        app.publish(&ChannelName::parse(channel, 200).unwrap(), &Event::of(frame, now), None);
    }

    #[test]
    fn flows_that_no_channel_bounds_have_a_bound_and_events_beyond_it_pass() {
        let metrics = Metrics::new("soketi_", 6001, false);
        let meters = || metrics.flow("app-id", &Outcome::LABELS);
        let (app, now) = (linked().thinned_by(Arc::default(), meters()), Instant::now());
        app.set_flow_rules(ingest_rules(), now);
        let total = Arc::clone(&app.flow.deadlines.flows);
        let others: Vec<_> = (1..FLOWS_MAX).map(|_| total.add()).collect();
        for number in 0..3 {
            for channel in ["a", "b"] {
                publish_to(&app, channel, number, now);
            }
        }
        assert_eq!(sent(&app), ["a 0", "b 0", "b 1", "b 2"], "b has no flow");
        let counts = String::from_utf8(metrics.text()).unwrap();
        let counted = counts.lines().find(|line| line.contains(r#"outcome="channels_full""#)).unwrap();
        assert!(counted.ends_with(" 3"), "{counted}");
        drop(others);
        publish_to(&app, "b", 3, now);
        publish_to(&app, "b", 4, now);
        app.set_flow_rules(FlowRules::default(), now);
        let mut rest = sent(&app);
        rest.sort_unstable();
        assert_eq!(rest, ["a 2", "b 3", "b 4"], "nothing is lost");
        assert_eq!(total.channels(), 0);
    }

    #[test]
    fn an_alarm_takes_along_what_each_node_gets_by_itself() {
        let (app, now) = (linked(), Instant::now());
        app.set_flow_rules(ingest_rules(), now);
        let channel = ChannelName::parse("cache-x", 200).unwrap();
        let here = |name: &str| app.publish_here(&channel, &Event::of(frame_of(name), now), Some(HOUR));
        here("first");
        here("first");
        let held = || {
            app.flow.before_nodes.lock().get_mut(&(channel.clone(), Receivers::Here)).map(|flow| flow.flush(now).len())
        };
        app.publish(&channel, &Event::of(frame_of("alarm"), now), Some(HOUR));
        assert_eq!(held(), Some(0), "the alarm has taken it along");
        here("first");
        app.publish(&channel, &Event::of(frame_of("reading"), now), Some(HOUR));
        assert_eq!(held(), Some(1), "a reading does not");
    }

    #[test]
    fn rules_do_not_come_back_after_their_end() {
        let deadlines = Arc::new(Deadlines::default());
        let metrics = Metrics::new("soketi_", 6001, false);
        let meters = metrics.flow("app-id", &Outcome::LABELS);
        let (app, now) = (linked().thinned_by(Arc::clone(&deadlines), meters), Instant::now());
        app.set_flow_rules(ingest_rules(), now);
        publish_to(&app, "a", 0, now);
        publish_to(&app, "a", 1, now);
        assert_eq!(sent(&app), ["a 0"]);
        deadlines.end();
        app.set_flow_rules(FlowRules::default(), now);
        app.set_flow_rules(ingest_rules(), now);
        publish_to(&app, "a", 2, now);
        publish_to(&app, "a", 3, now);
        assert_eq!(sent(&app), ["a 1", "a 2", "a 3"]);
    }

    #[test]
    fn rules_change_one_after_the_other() {
        let (app, now) = (linked(), Instant::now());
        for _ in 0..2000 {
            std::thread::scope(|scope| {
                scope.spawn(|| app.set_flow_rules(ingest_rules(), now));
                scope.spawn(|| app.set_flow_rules(FlowRules::default(), now));
            });
            publish_to(&app, "a", 0, now);
            publish_to(&app, "a", 1, now);
            let (rules, is_changing) = (app.flow.rules(), app.flow.is_changing());
            assert!(!is_changing && rules.is_none_or(|rules| !rules.is_empty()));
            assert_eq!(app.flow.rules().is_some(), sent(&app).len() == 1, "the rules hold or they do not");
            app.set_flow_rules(FlowRules::default(), now);
            sent(&app);
        }
    }

    #[test]
    fn the_time_that_a_rule_holds_an_event_back_is_no_delay() {
        let rule = r#"{"match":"*","conflate":{"window_ms":1000}}"#;
        let (app, start) = (linked(), Instant::now());
        app.set_flow_rules(FlowRules::new(&[serde_json::from_str(rule).unwrap()]), start);
        let rules = app.flow.rules().unwrap();
        let mut flow = Flow::new(&name(), Receivers::Subscribers, rules, &app, start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let times = |events: Vec<Event>| events.iter().map(|event| event.accepted).collect::<Vec<_>>();
        assert_eq!(times(flow.publish(&Event::of(frame_of("e"), at(0)), at(0))), [at(0)]);
        assert_eq!(times(flow.publish(&Event::of(frame_of("e"), at(300)), at(300))), [start; 0]);
        assert_eq!(times(flow.run_due(at(1000))), [at(1000)]);
        assert_eq!(times(flow.publish(&Event::of(frame_of("e"), at(1100)), at(1100))), [start; 0]);
        assert_eq!(times(flow.publish(&Event::of(frame_of("pusher:other"), at(1200)), at(1200))), [at(1200)]);
        assert_eq!(times(flow.flush(at(1300))), [at(1300)]);
    }

    #[test]
    fn only_events_that_are_stored_for_other_nodes_know_their_origin() {
        let (app, now) = (linked(), Instant::now());
        // Nobody waits for other nodes.
        app.outgoing.as_ref().unwrap().unlink(Vec::new());
        let rules = [
            r#"{"match":"kept","snapshot":{"max_age_seconds":60}}"#,
            r#"{"match":"thinned","conflate":{"window_ms":1000}}"#,
        ];
        app.set_flow_rules(FlowRules::new(&rules.map(|rule| serde_json::from_str(rule).unwrap())), now);
        for (channel, has_origin) in [("kept", true), ("thinned", false), ("other", false)] {
            let name = ChannelName::parse(channel, 200).unwrap();
            let rules = JoinRules { members_max: 0, counted: false, raw: false };
            let address = Address { shard: 0, slot: Slot::default() };
            let joiner = Joiner { address, member: None, view: None, user: None, rules, came: now };
            app.change(&name, now, |entry, scope| open_entry(entry, &name, scope).unwrap().join(joiner, scope));
            publish_to(&app, channel, 1, now);
            let event = |message| match message {
                ShardMessage::Event(_, event) => Some(event.origin.is_some()),
                _ => None,
            };
            let events: Vec<bool> = app.inboxes.take(0, Vec::new()).into_iter().filter_map(event).collect();
            assert_eq!(events, [has_origin], "{channel}");
        }
    }

    #[test]
    fn an_event_that_each_node_caches_stays_until_its_time() {
        let (app, now) = (linked(), Instant::now());
        app.publish_here(&name(), &Event::of(frame_of("e"), now), Some(HOUR));
        let sweep = |at: Instant| (0..PARTS).for_each(|_| app.tick(at));
        sweep(now + HOUR / 2);
        assert_eq!(cached(&app, now), Some(frame_of("e")));
        sweep(now + HOUR);
        assert!(app.is_idle());
    }

    #[test]
    fn an_event_of_redis_does_not_replace_a_later_one_of_this_node() {
        let (app, now) = (linked(), Instant::now());
        app.publish_here(&name(), &Event::of(frame_of("late"), now), Some(HOUR));
        // As when the link comes back.
        app.on_unlinked(now);
        for (name_of_redis, left, expected) in [("early", HOUR / 2, "late"), ("latest", HOUR * 2, "latest")] {
            app.on_linked(now);
            let commands = app.outgoing.as_ref().unwrap().take();
            let command = commands.last().map(|command| &command.operation);
            let Some(Operation::Open { number, .. }) = command else { panic!() };
            let (node, frame) = (NodeId::random(), frame_of(name_of_redis));
            let event = RemoteEvent {
                node,
                number: 1,
                accepted_micros: 0,
                except: None,
                cached_for_ms: 1,
                frame,
                partial: None,
            };
            let snapshot = Snapshot { cached: Some((event, left)), ..Snapshot::default() };
            app.on_opened(&Topic::Channel(name()), *number, Some(snapshot), now);
            assert_eq!(cached(&app, now), Some(frame_of(expected)));
        }
    }
}
