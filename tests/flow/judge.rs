//! The judge of one channel: takes in turn each thing that happens and what comes out, and says what is wrong with it.

use std::collections::HashMap;
use std::collections::HashSet;

use gema::flow::channel::ChannelFlow;
use gema::flow::thinning::Outcome;
use gema::protocol::event;
use gema::protocol::event::Event;
use gema::protocol::frame::Frame;

use crate::history::History;
use crate::history::Input;
use crate::history::Kind;
use crate::history::MS;
use crate::history::Spec;
use crate::judge_aggregate::AggregateJudge;
use crate::judge_conflate::ConflateJudge;
use crate::judge_rate::RateJudge;
use crate::judge_sample::SampleJudge;
use crate::run::since;

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// The name of an event and its key.
pub type Id = (String, String);

pub enum Done<'a> {
    Publish(&'a Input, Event, usize),
    Run,
    Flush,
}

/// A published event that a rule was chosen for.
#[derive(Debug, Clone)]
pub struct Published {
    pub event: Event,
    pub input: Input,
}

/// Something that came out of a rule.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The published event itself.
    pub published: Option<usize>,
    pub name: String,
    pub data: String,
    pub frame: Frame,
    /// Name and key; the judge of `emit = "map"` has keys of its own.
    pub id: Id,
}

/// What a rule gets in one step.
pub struct Turn<'a> {
    pub at: u64,
    /// The event that the rule thins.
    pub input: Option<(usize, &'a Published)>,
    /// Whether everything is flushed in this step.
    pub flushes: bool,
    /// Whether keys cannot be read.
    pub is_encrypted: bool,
}

/// How often something was seen. The judges of the kinds count on.
#[derive(Debug, Default)]
pub struct Seen {
    /// Events or readings for which the rule was chosen.
    pub chosen: u64,
    pub delivered: u64,
    pub made: u64,
    pub skipped: u64,
    pub key_missing: u64,
    pub except_passes: u64,
    pub early: u64,
    /// Keys that may have been forgotten although nothing of them came out.
    pub maybe_early: u64,
}

pub enum KindJudge {
    Conflate(ConflateJudge),
    Aggregate(AggregateJudge),
    Rate(RateJudge),
    Sample(SampleJudge),
    Pass,
}

/// The event that a joiner gets of a key.
struct Last {
    id: Id,
    frame: Frame,
    /// The last of its inputs.
    sequence: usize,
    at: u64,
    accepted: u64,
    /// The order among all rules.
    order: usize,
    /// It was too old for a rule before.
    may_be_gone: bool,
}

struct RuleJudge {
    spec: Spec,
    kind: KindJudge,
    seen: Seen,
    counted: HashMap<Outcome, u64>,
    last: Vec<Last>,
    /// The newest input of each key that has been delivered.
    newest: HashMap<Id, usize>,
}

/// Somebody who joined, and what he has.
struct Joiner {
    newest: HashMap<(usize, Id), usize>,
    seen: HashSet<usize>,
}

pub struct Judge {
    channel: &'static str,
    rules: Vec<RuleJudge>,
    published: Vec<Published>,
    joiners: Vec<Joiner>,
    deliveries: usize,
    /// Rules that are gone are counted all the same.
    gone: Vec<RuleJudge>,
}

enum Choice {
    Thins(usize),
    Excepted(usize),
    Unnamed,
    Untouched,
}

impl RuleJudge {
    fn new(spec: &Spec) -> Self {
        let kind = match &spec.kind {
            Kind::Conflate { window_ms, merge } => {
                KindJudge::Conflate(ConflateJudge::new(window_ms * MS, *merge, spec.keys_max))
            }
            Kind::Aggregate(aggregate) => KindJudge::Aggregate(AggregateJudge::new(aggregate, spec)),
            Kind::Rate { halves_per_second, burst, drop } => {
                KindJudge::Rate(RateJudge::new(*halves_per_second, *burst, *drop, spec.keys_max))
            }
            Kind::Sample { every, trailing } => KindJudge::Sample(SampleJudge::new(*every, *trailing, spec.keys_max)),
            Kind::Pass => KindJudge::Pass,
        };
        let (seen, counted) = (Seen::default(), HashMap::new());
        Self { spec: spec.clone(), kind, seen, counted, last: Vec::new(), newest: HashMap::new() }
    }
}

impl Judge {
    pub fn new(history: &History) -> Self {
        let rules = history.sets[0].iter().map(RuleJudge::new).collect();
        let (published, joiners, gone) = (Vec::new(), Vec::new(), Vec::new());
        Self { channel: history.channel, rules, published, joiners, deliveries: 0, gone }
    }

    /// The first rule whose `events` or `except` names the event decides.
    fn choose(&self, name: &str) -> Choice {
        if name.starts_with("pusher:") {
            return Choice::Untouched;
        }
        let is_client_event = name.starts_with("client-");
        for (index, RuleJudge { spec, .. }) in self.rules.iter().enumerate() {
            if is_client_event && !spec.client_events {
                continue;
            }
            if Spec::names(&spec.except, name) {
                return Choice::Excepted(index);
            }
            if spec.events.is_empty() || Spec::names(&spec.events, name) {
                return Choice::Thins(index);
            }
        }
        if is_client_event { Choice::Untouched } else { Choice::Unnamed }
    }

    fn is_encrypted(&self) -> bool {
        self.channel.starts_with("private-encrypted-")
    }

    /// The key under a rule, for an event without a list.
    fn key(&self, spec: &Spec, input: &Input) -> Option<String> {
        match spec.key {
            Some(_) if !self.is_encrypted() => input.single.key.clone(),
            _ => Some(input.name.to_owned()),
        }
    }

    /// Judges one thing that happened.
    pub fn after(&mut self, at: u64, done: Done<'_>, out: &[Event], flow: &mut ChannelFlow) -> Result<(), String> {
        let is_run = matches!(done, Done::Run);
        let mut flushes = vec![matches!(done, Done::Flush); self.rules.len()];
        let (mut thins, mut passes) = (None, None);
        if let Done::Publish(input, event, sequence) = done {
            self.published.push(Published { event, input: input.clone() });
            let by_rule: Vec<bool> = self.rules.iter().map(|rule| rule.spec.flush_before).collect();
            passes = Some(sequence);
            match self.choose(input.name) {
                Choice::Untouched => (),
                Choice::Unnamed => flushes = by_rule,
                Choice::Excepted(index) if by_rule[index] => flushes = by_rule,
                Choice::Excepted(_) => (),
                Choice::Thins(index) => {
                    match self.passes_by(index, input) {
                        Some(Outcome::ExceptPasses) => {
                            flushes = if by_rule[index] { by_rule } else { flushes };
                            // Otherwise what is pending of its key would come after it.
                            flushes[index] = true;
                            self.rules[index].seen.except_passes += 1;
                            self.rules[index].seen.chosen += 1;
                        }
                        Some(_) => {
                            flushes = if by_rule[index] { by_rule } else { flushes };
                            self.rules[index].seen.key_missing += 1;
                            self.rules[index].seen.chosen += 1;
                        }
                        None => {
                            passes = None;
                            thins = Some((index, sequence));
                        }
                    }
                }
            }
        }
        let mut out = out;
        if let Some(sequence) = passes {
            let Published { event, input } = &self.published[sequence];
            // It is for all, although it has no key.
            let for_all = thins_for_all(&self.rules, &self.choose(input.name), input);
            let event = Event { except: event.except.filter(|_| !for_all), ..event.clone() };
            let Some((last, before)) = out.split_last() else { return Err("an event that passes is lost".to_owned()) };
            ensure!(same(last, &event), "an event that passes is not the last, or is changed: {last:?}");
            out = before;
        }
        let deliveries = self.decode(out)?;
        let mut sequences: Vec<(usize, usize, Delivery)> = Vec::new();
        let mut place = vec![Vec::new(); self.rules.len()];
        for (index, delivery) in deliveries {
            place[index].push(delivery);
        }
        let order: Vec<*const u8> = out.iter().map(|event| event.frame.bytes().as_ptr()).collect();
        for (index, deliveries) in place.into_iter().enumerate() {
            let input =
                thins.filter(|&(rule, _)| rule == index).map(|(_, sequence)| (sequence, &self.published[sequence]));
            let turn = Turn { at, input, flushes: flushes[index], is_encrypted: self.is_encrypted() };
            let rule = &mut self.rules[index];
            let with_sequence = rule
                .judge(&turn, deliveries, &self.published)
                .map_err(|error| format!("{error}, at {at} ns under {}", rule.spec.json()))?;
            sequences.extend(with_sequence.into_iter().map(|(sequence, delivery)| (index, sequence, delivery)));
        }
        // In the order in which they came out.
        sequences
            .sort_by_key(|(_, _, delivery)| order.iter().position(|&there| there == delivery.frame.bytes().as_ptr()));
        for pair in sequences.windows(2) {
            let ([(_, before, _), (_, after, _)], true) = (pair, pair.len() == 2) else { unreachable!() };
            ensure!(before <= after, "event {before} comes after event {after} at one instant, {at} ns");
        }
        for (index, sequence, delivery) in sequences {
            self.delivered(index, sequence, &delivery, at)?;
        }
        if let (Some(sequence), Some(passed)) = (passes, self.published.last()) {
            self.passed(sequence, &passed.clone(), at)?;
        }
        self.next_is_right(at, is_run, flow)
    }

    /// Whether an event that a rule names passes all the same, and why.
    fn passes_by(&self, index: usize, input: &Input) -> Option<Outcome> {
        let spec = &self.rules[index].spec;
        let is_client_event = input.name.starts_with("client-");
        let is_mixed = matches!(spec.kind, Kind::Aggregate(_) | Kind::Conflate { merge: true, .. });
        let may_hold = if is_client_event { !is_mixed } else { spec.ignore_except };
        if input.except && !may_hold {
            return Some(Outcome::ExceptPasses);
        }
        let has_key = match &spec.kind {
            Kind::Aggregate(aggregate) if aggregate.lists => input.list.is_some(),
            _ => self.key(spec, input).is_some(),
        };
        (!has_key).then_some(Outcome::KeyMissing)
    }

    /// The rule and the meaning of each event that came out of a rule.
    fn decode(&self, out: &[Event]) -> Result<Vec<(usize, Delivery)>, String> {
        let mut deliveries = Vec::new();
        for event in out {
            let Some((name, data)) = event::name_and_data(&event.frame) else {
                return Err(format!("no event: {:?}", event.frame));
            };
            let published = self.published.iter().position(|published| {
                published.event.accepted == event.accepted && published.event.frame == event.frame
            });
            let index = if name == "figures" {
                self.rules
                    .iter()
                    .position(|rule| matches!(&rule.spec.kind, Kind::Aggregate(figures) if figures.rename.is_some()))
            } else {
                match self.choose(&name) {
                    Choice::Thins(index) => Some(index),
                    _ => None,
                }
            };
            let Some(index) = index else { return Err(format!("an event from nowhere: {:?}", event.frame)) };
            let spec = &self.rules[index].spec;
            let mut id = (name.to_string(), String::new());
            if let Some(sequence) = published {
                let Published { input, event: before, .. } = &self.published[sequence];
                let except = before.except.filter(|_| input.name.starts_with("client-") || !spec.ignore_except);
                ensure!(event.except == except, "the excluded connection is {:?}", event.except);
                id.1 = self.key(spec, input).unwrap_or_default();
            } else {
                ensure!(event.except.is_none(), "an event that was made excludes a connection");
            }
            let delivery =
                Delivery { published, data: data.to_string(), name: name.to_string(), frame: event.frame.clone(), id };
            deliveries.push((index, delivery));
        }
        Ok(deliveries)
    }

    /// Keeps the order of each key, and what a joiner must get.
    fn delivered(&mut self, index: usize, sequence: usize, delivery: &Delivery, at: u64) -> Result<(), String> {
        self.deliveries += 1;
        let order = self.deliveries;
        let rule = &mut self.rules[index];
        let id = delivery.id.clone();
        let accepted = since(self.published[sequence].event.accepted);
        // A map has several keys, and each has its order.
        let is_map = matches!(&rule.spec.kind, Kind::Aggregate(figures) if figures.map);
        if let (Some(&newest), false) = (rule.newest.get(&id), is_map) {
            // Of one list of readings there may be several events.
            let is_newer = newest < sequence || (newest == sequence && delivery.published.is_none());
            ensure!(is_newer, "of {id:?} comes event {sequence} after {newest}");
        }
        rule.newest.insert(id.clone(), sequence);
        rule.keep(Last {
            id: id.clone(),
            frame: delivery.frame.clone(),
            sequence,
            at,
            accepted,
            order,
            may_be_gone: false,
        });
        for joiner in &mut self.joiners {
            if let (Some(newest), false) = (joiner.newest.insert((index, id.clone()), sequence), is_map) {
                let is_newer = newest < sequence || (newest == sequence && delivery.published.is_none());
                ensure!(is_newer, "a joiner gets event {sequence} of {id:?} after {newest}");
            }
            if delivery.published.is_some() {
                ensure!(joiner.seen.insert(sequence), "a joiner gets event {sequence} twice");
            }
        }
        Ok(())
    }

    /// An event that passed because it excludes a connection is the last of its key, too.
    fn passed(&mut self, sequence: usize, passed: &Published, at: u64) -> Result<(), String> {
        let Choice::Thins(index) = self.choose(passed.input.name) else { return Ok(()) };
        let spec = &self.rules[index].spec;
        if self.passes_by(index, &passed.input) != Some(Outcome::ExceptPasses) {
            return Ok(());
        }
        let is_of_keys = !matches!(&spec.kind, Kind::Aggregate(aggregate) if aggregate.lists || aggregate.map);
        let Some(key) = self.key(spec, &passed.input).filter(|_| is_of_keys) else { return Ok(()) };
        let name = passed.input.name.to_owned();
        let delivery = Delivery {
            published: Some(sequence),
            id: (name.clone(), key),
            name,
            data: String::new(),
            frame: passed.event.frame.clone(),
        };
        self.delivered(index, sequence, &delivery, at)
    }

    /// Judges what somebody gets who joins now.
    pub fn joined(&mut self, at: u64, frames: &[Frame]) -> Result<(), String> {
        let mut all: Vec<(usize, &Last, bool)> = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(seconds) = rule.spec.snapshot else { continue };
            let ago = at.saturating_sub(seconds * 1000 * MS);
            // Between the age of the event and the age of its delivery either is right.
            let kept = rule.last.iter().filter(|last| last.at + MS >= ago);
            all.extend(kept.map(|last| (index, last, last.at > ago && last.accepted > ago && !last.may_be_gone)));
        }
        all.sort_by_key(|(_, last, _)| last.order);
        let mut joiner = Joiner { newest: HashMap::new(), seen: HashSet::new() };
        let mut frames = frames.iter().peekable();
        for (index, last, is_needed) in all {
            if frames.next_if(|frame| **frame == last.frame).is_some() {
                joiner.newest.insert((index, last.id.clone()), last.sequence);
                if self.published.get(last.sequence).is_some_and(|published| published.event.frame == last.frame) {
                    joiner.seen.insert(last.sequence);
                }
            } else {
                ensure!(!is_needed, "a joiner at {at} ns does not get {:?}", last.frame);
            }
        }
        ensure!(frames.peek().is_none(), "a joiner at {at} ns gets {:?}", frames.peek());
        self.joiners.push(joiner);
        Ok(())
    }

    /// `next` is never later than what is pending, and has come on after a run.
    fn next_is_right(&self, at: u64, is_run: bool, flow: &mut ChannelFlow) -> Result<(), String> {
        let next = flow.next().map(since);
        let due = self.rules.iter().filter_map(|rule| match &rule.kind {
            KindJudge::Conflate(judge) => judge.due(),
            KindJudge::Aggregate(judge) => judge.due(),
            KindJudge::Rate(judge) => judge.due(),
            KindJudge::Sample(judge) => judge.due(),
            KindJudge::Pass => None,
        });
        if let Some(due) = due.min() {
            ensure!(next.is_some_and(|next| next <= due), "something is due at {due} ns, but next() is {next:?}");
            ensure!(!flow.is_idle(crate::run::instant(at)), "it is idle although something is pending");
        }
        ensure!(!is_run || next.is_none_or(|next| next > at), "after a run at {at} ns next() is {next:?}");
        Ok(())
    }

    /// Other rules. What stays the same is kept.
    pub fn replaced(&mut self, at: u64, specs: &[Spec]) -> Result<(), String> {
        self.nothing_is_pending()?;
        let mut old: Vec<Option<RuleJudge>> = std::mem::take(&mut self.rules).into_iter().map(Some).collect();
        for spec in specs {
            let same = old.iter().position(|rule| rule.as_ref().is_some_and(|rule| rule.spec == *spec));
            if let Some(same) = same {
                self.rules.push(old[same].take().unwrap());
                continue;
            }
            self.rules.push(RuleJudge::new(spec));
        }
        // Whoever joins still gets the last events, each from the rule that now thins it.
        let mut last = Vec::new();
        for rule in self.rules.iter_mut().chain(old.iter_mut().flatten()) {
            let (key, seconds) = (rule.spec.key, rule.spec.snapshot);
            last.extend(rule.last.drain(..).filter_map(|mut last| {
                last.may_be_gone |= last.accepted + seconds? * 1000 * MS <= at;
                Some((key, last))
            }));
        }
        last.sort_by_key(|(_, last)| last.order);
        for (key, last) in last {
            let Choice::Thins(index) = self.choose(&last.id.0) else { continue };
            let rule = &mut self.rules[index];
            if rule.spec.snapshot.is_some() && rule.spec.key == key {
                rule.keep(last);
            }
        }
        self.gone.extend(old.into_iter().flatten());
        self.joiners.clear();
        Ok(())
    }

    pub fn nothing_is_pending(&self) -> Result<(), String> {
        for rule in &self.rules {
            let is_pending = match &rule.kind {
                KindJudge::Conflate(judge) => judge.due().is_some(),
                KindJudge::Aggregate(judge) => judge.due().is_some(),
                KindJudge::Rate(judge) => judge.due().is_some(),
                KindJudge::Sample(judge) => judge.due().is_some(),
                KindJudge::Pass => false,
            };
            ensure!(!is_pending, "something is lost under {}", rule.spec.json());
        }
        Ok(())
    }

    /// Whether a rule remembers how many events of a key have come, however long ago.
    pub fn counts_silent_keys(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.spec.kind, Kind::Sample { .. }))
    }

    /// The newest frame of each rule and key.
    pub fn last_of_each_key(&self) -> HashMap<(usize, String), String> {
        let mut all = HashMap::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for ((name, key), &sequence) in &rule.newest {
                let text = String::from_utf8(self.published[sequence].event.frame.payload().to_vec()).unwrap();
                all.insert((index, format!("{name} {key}")), text);
            }
        }
        all
    }

    /// Takes over what the engine has counted.
    pub fn count(&mut self, flow: &mut ChannelFlow) {
        for ((_, counts), rule) in flow.take_counts().zip(&mut self.rules) {
            for outcome in Outcome::ALL {
                *rule.counted.entry(outcome).or_default() += counts.of(outcome);
            }
        }
    }

    pub fn counts_are_right(&self) -> Result<(), String> {
        self.rules.iter().chain(&self.gone).try_for_each(RuleJudge::counts_are_right)
    }
}

/// Whether the rule that was chosen thins events that exclude a connection.
fn thins_for_all(rules: &[RuleJudge], choice: &Choice, input: &Input) -> bool {
    matches!(choice, Choice::Thins(index) if rules[*index].spec.ignore_except && !input.name.starts_with("client-"))
}

fn same(one: &Event, other: &Event) -> bool {
    one.frame == other.frame && one.except == other.except && one.accepted == other.accepted
}

impl RuleJudge {
    /// The last event of a key, for who joins.
    fn keep(&mut self, new: Last) {
        self.last.retain(|last| last.id != new.id);
        self.last.push(new);
        let excess = self.last.len().saturating_sub(self.spec.keys_max);
        self.last.drain(..excess);
    }

    /// Judges one step. Returns what came out with the place of its last input.
    fn judge(
        &mut self,
        turn: &Turn<'_>,
        deliveries: Vec<Delivery>,
        published: &[Published],
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let Self { kind, seen, spec, .. } = self;
        if turn.input.is_some() && !matches!(&spec.kind, Kind::Aggregate(aggregate) if aggregate.lists) {
            seen.chosen += 1;
        }
        let id = turn.input.map(|(_, Published { input, .. })| {
            let key = if spec.key.is_none() || turn.is_encrypted {
                Some(input.name.to_owned())
            } else {
                input.single.key.clone()
            };
            (input.name.to_owned(), key.unwrap_or_default())
        });
        match kind {
            KindJudge::Conflate(judge) => judge.judge(turn, id, deliveries, published, seen),
            KindJudge::Aggregate(judge) => judge.judge(turn, deliveries, seen),
            KindJudge::Rate(judge) => judge.judge(turn, id, deliveries, seen),
            KindJudge::Sample(judge) => judge.judge(turn, id, deliveries, seen),
            KindJudge::Pass => {
                let expected: Vec<usize> = turn.input.iter().map(|(sequence, _)| *sequence).collect();
                let got: Vec<usize> = deliveries.iter().filter_map(|delivery| delivery.published).collect();
                ensure!(got == expected && deliveries.len() == got.len(), "{got:?} comes out instead of {expected:?}");
                seen.delivered += got.len() as u64;
                Ok(got.into_iter().zip(deliveries).collect())
            }
        }
    }

    fn counts_are_right(&self) -> Result<(), String> {
        let Self { seen, counted, spec, .. } = self;
        let of = |outcome: Outcome| counted.get(&outcome).copied().unwrap_or_default();
        let sum = [
            Outcome::Delivered,
            Outcome::Replaced,
            Outcome::Merged,
            Outcome::Dropped,
            Outcome::Skipped,
            Outcome::KeyMissing,
            Outcome::ExceptPasses,
        ]
        .map(of)
        .iter()
        .sum::<u64>();
        let rest = seen.chosen - seen.delivered - seen.skipped - seen.key_missing - seen.except_passes;
        let is_right = sum == seen.chosen
            && of(Outcome::Delivered) == seen.delivered
            && of(Outcome::Skipped) == seen.skipped
            && of(Outcome::KeyMissing) == seen.key_missing
            && of(Outcome::ExceptPasses) == seen.except_passes
            && (seen.early..=seen.early + seen.maybe_early).contains(&of(Outcome::Early))
            && match &spec.kind {
                Kind::Conflate { merge: true, .. } => of(Outcome::Dropped) == 0,
                Kind::Conflate { .. } | Kind::Rate { drop: false, .. } => of(Outcome::Replaced) == rest,
                Kind::Rate { .. } | Kind::Sample { .. } => of(Outcome::Dropped) == rest,
                Kind::Aggregate(_) => of(Outcome::Merged) == rest && of(Outcome::Made) == seen.made,
                Kind::Pass => rest == 0,
            };
        ensure!(is_right, "counted {counted:?}, but seen {seen:?} under {}", spec.json());
        Ok(())
    }
}
