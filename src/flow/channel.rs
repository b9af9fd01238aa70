//! The flow of one channel: chooses the rule of each event, finds its key, and keeps the order of what is delivered.

mod stored;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use crate::flow::aggregate::Aggregation;
use crate::flow::aggregate::Part;
pub use crate::flow::channel::stored::Received;
pub use crate::flow::channel::stored::StoredEvent;
use crate::flow::conflate::Conflation;
use crate::flow::pass::Pass;
use crate::flow::rate::RateLimit;
use crate::flow::rule::At;
use crate::flow::rule::Emit;
use crate::flow::rule::FlowRule;
use crate::flow::rules::Choice;
use crate::flow::rules::choose;
use crate::flow::sample::Sampling;
use crate::flow::snapshot::LastEvent;
use crate::flow::snapshot::LastEvents;
use crate::flow::thinning::Buffered;
use crate::flow::thinning::Counts;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;
use crate::flow::thinning::id;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::event;
use crate::protocol::event::Event;
use crate::protocol::event::FlowKey;
use crate::protocol::frame::Frame;
use crate::protocol::json;
use crate::protocol::partial::Partial;

/// The state of a channel that has flow rules. Times that are given to it never go back.
#[derive(Debug)]
pub struct ChannelFlow {
    rules: Vec<RuleFlow>,
    stage: Option<At>,
    is_encrypted: bool,
    /// Events so far.
    sequence: u64,
    /// Events so far that were remembered for new subscribers.
    remembered: u64,
    /// This node, if snapshots are stored for other nodes.
    node: Option<NodeId>,
    /// The last event that was published has taken along what was pending.
    has_flushed: bool,
}

/// The state of one rule.
#[derive(Debug)]
struct RuleFlow {
    rule: Arc<FlowRule>,
    /// Whether what becomes of events is counted here, and not at another stage.
    is_counted: bool,
    /// `None` if nothing is thinned, so that a reader that is behind needs every event.
    pattern: Option<Arc<str>>,
    thinning: Box<dyn Thinning>,
    last_events: Option<LastEvents>,
    sink: Sink,
}

/// One call: its time, and what is to be delivered.
struct Round<'a> {
    now: Now,
    out: &'a mut Vec<Event>,
}

impl ChannelFlow {
    /// The flow of a channel under the rules that match it. `stage` tells which of them thin; the others let events
    /// pass, or merge figures of the stage before. `None` stands for all, where there are no other nodes.
    pub fn new(channel: &ChannelName, rules: Vec<Arc<FlowRule>>, stage: Option<At>, now: Instant) -> Self {
        let is_encrypted = channel.kind().encrypted;
        let (rules_before, node, has_flushed) = (Vec::new(), None, false);
        let mut flow = Self { rules: rules_before, stage, is_encrypted, sequence: 0, remembered: 0, node, has_flushed };
        flow.replace_rules(channel, rules, now);
        flow
    }

    /// Takes a published event or a client event. Appends what is to be delivered now to `out`, in order.
    pub fn publish(&mut self, event: &Event, now: Now, out: &mut Vec<Event>) {
        // Delivered together with what the event flushes, in the order of publishing.
        self.take_due(now);
        let round = &mut Round { now, out };
        self.sequence += 1;
        self.has_flushed = false;
        if let Some(partial) = &event.partial {
            return self.merge(event, partial, round);
        }
        let Some((name, data)) = event::name_and_data(&event.frame) else {
            // Data with half of a character has no key.
            return self.pass(event, true, round);
        };
        match choose(self.rules.iter().map(|flow| &flow.rule), &name) {
            Choice::Untouched => self.pass(event, false, round),
            Choice::Unnamed => self.pass(event, true, round),
            Choice::Excepted(_, rule) => {
                let flushes = rule.flush_before;
                self.pass(event, flushes, round);
            }
            Choice::Thins(index, _) => self.thin(index, event, (&name, &data), round),
        }
    }

    /// Delivers what is due.
    pub fn run_due(&mut self, now: Now, out: &mut Vec<Event>) {
        if self.take_due(now) {
            self.deliver(&mut Round { now, out });
        }
    }

    /// Delivers everything that is pending.
    pub fn flush(&mut self, now: Now, out: &mut Vec<Event>) {
        // Windows that have ended already end as usual, and the next ones open.
        self.take_due(now);
        for flow in &mut self.rules {
            flow.thinning.flush(now, &mut flow.sink);
        }
        self.deliver(&mut Round { now, out });
    }

    /// Whether the last event that was published has taken along what was pending.
    pub fn has_flushed(&self) -> bool {
        self.has_flushed
    }

    /// Delivers what an event that passes takes along.
    pub fn flush_before(&mut self, now: Now, out: &mut Vec<Event>) {
        self.take_due(now);
        self.flush_rules_before(now);
        self.deliver(&mut Round { now, out });
    }

    fn flush_rules_before(&mut self, now: Now) {
        for flow in self.rules.iter_mut().filter(|flow| flow.rule.flush_before) {
            flow.thinning.flush(now, &mut flow.sink);
        }
    }

    /// When [`ChannelFlow::run_due`] may have something to do.
    pub fn next(&self) -> Option<Instant> {
        self.rules.iter().filter_map(|flow| flow.thinning.next()).min()
    }

    /// The last event of each key, for who joins now: the oldest first.
    pub fn snapshot(&mut self, now: Instant) -> Vec<Frame> {
        let last_events = self.rules.iter_mut().filter_map(|flow| flow.last_events.as_mut());
        let mut events: Vec<LastEvent> = last_events.flat_map(|last| last.events(now)).collect();
        events.sort_by_key(|event| event.place);
        events.into_iter().map(|event| event.frame).collect()
    }

    /// Whether a rule of the channel keeps a snapshot.
    pub fn has_snapshot(&self) -> bool {
        self.rules.iter().any(|flow| flow.last_events.is_some())
    }

    /// Whether nothing is pending, and the snapshot is empty.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        let is_idle = |flow: &mut RuleFlow| {
            flow.thinning.is_idle() && flow.last_events.as_mut().is_none_or(|last_events| last_events.is_empty(now))
        };
        self.rules.iter_mut().all(is_idle)
    }

    /// The counts of each rule since the last call.
    pub fn take_counts(&mut self) -> impl Iterator<Item = (&FlowRule, Counts)> {
        self.rules.iter_mut().map(|flow| {
            let counts = std::mem::take(&mut flow.sink.counts);
            (&*flow.rule, if flow.is_counted { counts } else { counts.of_later_stage() })
        })
    }

    /// Takes other rules, once everything is flushed. Rules that stay the same are kept. A new subscriber still gets the
    /// last events, if the rule that now thins them has the same key.
    pub fn replace_rules(&mut self, channel: &ChannelName, rules: Vec<Arc<FlowRule>>, now: Instant) {
        let mut old = std::mem::take(&mut self.rules);
        let mut last_events: Vec<(Arc<FlowRule>, Arc<str>, LastEvent)> = Vec::new();
        for RuleFlow { rule, last_events: of_rule, .. } in &mut old {
            let of_rule = of_rule.iter_mut().flat_map(LastEvents::drain);
            last_events.extend(of_rule.map(|(id, event)| (Arc::clone(rule), id, event)));
        }
        last_events.sort_by_key(|(_, _, event)| event.place);
        let (name, stage) = (Arc::from(channel.as_str()), self.stage);
        let same_or_new = |rule| match old.iter().position(|flow| flow.rule == rule) {
            Some(same) => old.swap_remove(same),
            None => RuleFlow::new(&name, rule, stage, now),
        };
        self.rules = rules.into_iter().map(same_or_new).collect();
        for (rule, id, event) in last_events {
            let name = id.split('\0').next().unwrap_or_default();
            if let Choice::Thins(index, new) = choose(self.rules.iter().map(|flow| &flow.rule), name)
                && new.key() == rule.key()
                && let Some(last_events) = &mut self.rules[index].last_events
            {
                last_events.put(&id, event);
                last_events.mark_unstored(&id);
            }
        }
    }

    /// Takes what is due from the rules, for [`Self::deliver`]. Returns false if nothing can be due.
    fn take_due(&mut self, now: Now) -> bool {
        let is_due = self.next().is_some_and(|next| next <= now.instant);
        for flow in self.rules.iter_mut().filter(|_| is_due) {
            flow.thinning.run_due(now, &mut flow.sink);
        }
        is_due
    }

    /// Takes an event that is made of figures. Where no rule merges them, it passes as it is.
    fn merge(&mut self, event: &Event, partial: &Partial, round: &mut Round<'_>) {
        let is_merged = match choose(self.rules.iter().map(|flow| &flow.rule), &partial.event) {
            Choice::Thins(index, _) => {
                for key in &partial.keys {
                    self.accept(index, (&id(&partial.event, &key.key), &partial.event), event);
                }
                let RuleFlow { thinning, sink, .. } = &mut self.rules[index];
                let event = Event { partial: None, ..event.clone() };
                thinning.merge((partial, &Buffered { sequence: self.sequence, event }), round.now, sink)
            }
            _ => false,
        };
        match is_merged {
            true => self.deliver(round),
            false => self.pass(event, true, round),
        }
    }

    fn thin(&mut self, index: usize, event: &Event, (name, data): (&str, &str), round: &mut Round<'_>) {
        let rule = Arc::clone(&self.rules[index].rule);
        if self.is_encrypted && rule.aggregate.is_some() {
            return self.pass_by(index, Outcome::KeyMissing, event, round);
        }
        if event.except.is_some() && !may_buffer(&rule, name) {
            self.pass_by(index, Outcome::ExceptPasses, event, round);
            // A reading in a list has a key, and not the whole list.
            let has_keys = rule.aggregate.as_ref().is_some_and(|rule| rule.each.is_some() || rule.emit == Emit::Map);
            if let Some(key) = self.key(&rule, name, data).filter(|_| !has_keys) {
                let id: Arc<str> = id(name, &key).into();
                self.accept(index, (&id, name), event);
                self.remember(index, &id, event, round.now.instant);
            }
            return;
        }
        // Only a client event still has a sender to leave out.
        let is_for_all = event.except.is_some() && !name.starts_with("client-");
        let for_all = is_for_all.then(|| Event { except: None, ..event.clone() });
        let event = for_all.as_ref().unwrap_or(event);
        let each = rule.aggregate.as_ref().and_then(|aggregate| aggregate.each.as_ref());
        let is_taken = match each {
            Some(each) => self.push_each(index, event, (name, each.find(data)), round.now),
            None => self.push(index, event, (name, data), round.now),
        };
        match is_taken {
            true => self.deliver(round),
            false => self.pass_by(index, Outcome::KeyMissing, event, round),
        }
    }

    /// Gives an event to a rule. Returns false if it has no key.
    fn push(&mut self, index: usize, event: &Event, (name, data): (&str, &str), now: Now) -> bool {
        let Some(key) = self.key(&self.rules[index].rule, name, data) else { return false };
        let (id, sequence) = (id(name, &key), self.sequence);
        if !self.accept(index, (&id, name), event) {
            self.rules[index].sink.counts.add(Outcome::Replaced);
            return true;
        }
        let RuleFlow { thinning, sink, .. } = &mut self.rules[index];
        thinning.push(&Item { event, sequence, name, data, key: &key, id: &id }, now, sink);
        true
    }

    /// Gives each reading of a list to a rule. Returns false if there is no list. A reading without a key is skipped.
    fn push_each(&mut self, index: usize, event: &Event, (name, list): (&str, Option<&str>), now: Now) -> bool {
        let readings = list.and_then(|list| serde_json::from_str::<Vec<&RawValue>>(list).ok());
        let Some(readings) = readings else { return false };
        for reading in readings {
            if !self.push(index, event, (name, reading.get()), now) {
                self.rules[index].sink.counts.add(Outcome::Skipped);
            }
        }
        true
    }

    /// The key of an event: a text, a number, `true` or `false` of its data, or its name if the rule has no key. A number
    /// and its text are one key.
    fn key<'a>(&self, rule: &FlowRule, name: &'a str, data: &'a str) -> Option<Cow<'a, str>> {
        let Some(path) = rule.key().filter(|_| !self.is_encrypted) else { return Some(Cow::Borrowed(name)) };
        let value = path.find(data)?;
        match value.as_bytes().first()? {
            b'"' => json::text(serde_json::from_str(value).ok()?),
            b'{' | b'[' | b'n' => None,
            _ => Some(Cow::Borrowed(value)),
        }
    }

    /// An event that a rule thins passes all the same. Pending events of its key come before it.
    fn pass_by(&mut self, index: usize, outcome: Outcome, event: &Event, round: &mut Round<'_>) {
        let RuleFlow { rule, thinning, sink, .. } = &mut self.rules[index];
        sink.counts.add(outcome);
        let flushes = rule.flush_before;
        if outcome == Outcome::ExceptPasses && !flushes {
            thinning.flush(round.now, sink);
        }
        self.pass(event, flushes, round);
    }

    /// Delivers an event at once, and before it what is pending, if `flushes`.
    fn pass(&mut self, event: &Event, flushes: bool, round: &mut Round<'_>) {
        if flushes {
            self.has_flushed = true;
            self.flush_rules_before(round.now);
        }
        self.deliver(round);
        round.out.push(event.clone());
    }

    /// Delivers what the rules have given out, in the order of publishing.
    fn deliver(&mut self, round: &mut Round<'_>) {
        let mut ready: Vec<(usize, Arc<str>, Buffered)> = Vec::new();
        for (index, flow) in self.rules.iter_mut().enumerate() {
            ready.extend(flow.sink.ready.drain(..).map(|(id, buffered)| (index, id, buffered)));
        }
        ready.sort_by_key(|(_, _, buffered)| buffered.sequence);
        for (index, id, Buffered { mut event, .. }) in ready {
            if self.has_come(index, &id, &event) {
                continue;
            }
            event.flow_key = self.rules[index].flow_key(&id);
            self.remember(index, &id, &event, round.now.instant);
            round.out.push(event);
        }
    }

    /// Remembers a delivered event for new subscribers, if the rule has a snapshot.
    fn remember(&mut self, index: usize, id: &Arc<str>, event: &Event, since: Instant) {
        if let Some(last_events) = &mut self.rules[index].last_events {
            self.remembered += 1;
            let (frame, accepted, origin) = (event.frame.clone(), event.accepted, event.origin);
            last_events.put(id, LastEvent { frame, since, accepted, place: self.remembered, origin });
            last_events.come_out(id);
        }
    }
}

impl RuleFlow {
    fn new(channel: &Arc<str>, rule: Arc<FlowRule>, stage: Option<At>, now: Instant) -> Self {
        let keys_max = rule.keys_max.max(1);
        let is_counted = stage.is_none_or(|stage| stage == rule.at);
        let part = match stage.filter(|_| rule.at == At::Ingest) {
            None => Part::Whole,
            Some(At::Ingest) => Part::Partial,
            Some(At::Delivery) => Part::Merged,
        };
        let merges = part == Part::Merged && rule.aggregate.is_some();
        let thinning: Box<dyn Thinning> = if !is_counted && !merges {
            Box::new(Pass)
        } else if let Some(conflate) = &rule.conflate {
            Box::new(Conflation::new(channel, conflate, keys_max, now))
        } else if let Some(aggregate) = &rule.aggregate {
            Box::new(Aggregation::new(channel, aggregate, keys_max, part))
        } else if let Some(rate) = &rule.rate {
            Box::new(RateLimit::new(rate, keys_max, now))
        } else if let Some(sample) = &rule.sample {
            Box::new(Sampling::new(sample, keys_max))
        } else {
            Box::new(Pass)
        };
        // Before the other nodes get an event, nobody joins.
        let snapshot = rule.snapshot.as_ref().filter(|_| stage != Some(At::Ingest));
        let last_events = snapshot.map(|snapshot| LastEvents::new(snapshot, keys_max));
        let pattern = rule.thins().then(|| Arc::from(rule.pattern.as_str()));
        Self { rule, is_counted, pattern, thinning, last_events, sink: Sink::default() }
    }

    fn flow_key(&self, id: &Arc<str>) -> Option<Arc<FlowKey>> {
        let rule = Arc::clone(self.pattern.as_ref()?);
        Some(Arc::new(FlowKey { rule, id: Arc::clone(id) }))
    }
}

/// Whether the rule may hold back an event that excludes a connection.
fn may_buffer(rule: &FlowRule, name: &str) -> bool {
    if name.starts_with("client-") {
        // The sender must not lose what others have sent, so each event stays what it is.
        return rule.aggregate.is_none() && rule.conflate.as_ref().is_none_or(|conflate| !conflate.merge);
    }
    rule.ignore_except
}
