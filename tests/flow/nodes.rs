//! Aggregation on several nodes: each makes partial figures of what it accepts, and each merges those of all. The model
//! knows which readings are in which partial figures, and works everything else out from the readings.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use gema::flow::channel::ChannelFlow;
use gema::flow::rule::At;
use gema::flow::rule::FlowRule;
use gema::protocol::channel::ChannelName;
use gema::protocol::envelope::Envelope;
use gema::protocol::envelope::NodeId;
use gema::protocol::envelope::RemoteEvent;
use gema::protocol::event;
use gema::protocol::event::Event;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::history::MS;
use crate::history::Rng;
use crate::judge::ensure;
use crate::numbers::Exact;
use crate::numbers::ulp;
use crate::run::UNIX_MS;
use crate::run::instant;
use crate::run::now;
use crate::run::seeds;

const CHANNEL: &str = "flood";
const KEYS: [&str; 4] = ["a", "b", "7", "é \"\\\u{1}"];

/// A published reading.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: u64,
    key: usize,
    /// `None` is skipped.
    number: Option<f64>,
}

#[derive(Debug, Clone)]
enum Op {
    Publish(usize, Reading),
    /// An event that passes, and takes along what is pending.
    Alarm(usize),
    /// A node stops: it delivers what is pending.
    Drain(usize),
}

#[derive(Debug)]
struct Cluster {
    window: u64,
    is_map: bool,
    is_list: bool,
    values_max: usize,
    nodes: usize,
    /// How long a message of each node is on its way to the others.
    delays: Vec<u64>,
    steps: Vec<(u64, Op)>,
}

/// Messages on their way from one node to another.
struct Message {
    at: u64,
    from: usize,
    to: usize,
    bytes: Bytes,
    /// The readings of each key that it is made of; none for an alarm.
    parts: HashMap<usize, Part>,
}

/// The readings of one key in partial figures.
#[derive(Clone)]
struct Part(Vec<Reading>);

/// A node as the model sees it.
struct Node {
    before: ChannelFlow,
    after: ChannelFlow,
    /// The readings of each key since it sent figures.
    accepted: HashMap<usize, Vec<Reading>>,
    /// The figures of each key since its subscribers got some, in the order in which they came.
    merged: HashMap<usize, Vec<Part>>,
    /// When its subscribers got figures of a key, unless an alarm came since.
    last_out: HashMap<usize, u64>,
    alarms: u64,
    got: HashMap<usize, u64>,
}

fn cluster(rng: &mut Rng) -> Cluster {
    let window = rng.pick(&[1, 10, 250, 1000]) * MS;
    let nodes = 2 + rng.below(2) as usize;
    let is_map = rng.one_in(3);
    let mut at = 0;
    let mut draining = vec![false; nodes];
    let large = rng.one_in(10);
    let steps = (0..rng.below(40)).map(|_| {
        at += rng.pick(&[0, 1, window / 7, window / 2, window, window * 5]);
        let node = rng.below(nodes as u64) as usize;
        let op = match rng.below(30) {
            0 => Op::Alarm(node),
            1 if !std::mem::replace(&mut draining[node], true) => Op::Drain(node),
            _ => Op::Publish(node, reading(rng, at, large)),
        };
        (at, op)
    });
    let steps = steps.collect();
    let delays = (0..nodes).map(|_| rng.pick(&[0, 1, MS, window / 3])).collect();
    let values_max = if is_map { rng.pick(&[0, 2, 1000]) } else { 0 };
    Cluster { window, is_map, is_list: rng.one_in(3), values_max, nodes, delays, steps }
}

fn reading(rng: &mut Rng, at: u64, large: bool) -> Reading {
    let number = match rng.below(8) {
        0 => None,
        1 if large => Some(f64::MAX),
        2 => Some(0.1 * rng.below(100) as f64),
        3 => Some(-1e16),
        4 => Some(1e16),
        _ => Some(rng.below(2000) as f64 / 8.0 - 125.0),
    };
    Reading { at, key: rng.below(KEYS.len() as u64) as usize, number }
}

impl Cluster {
    fn rule(&self) -> Arc<FlowRule> {
        let (ms, emit) = (self.window / MS, if self.is_map { "map" } else { "each" });
        let each = if self.is_list { r#""each":"list","# } else { "" };
        let values_max = self.values_max;
        let rule = format!(
            r#"{{"match":"*","events":["reading"],"at":"ingest","aggregate":{{{each}"key":"k","value":"v",
            "window_ms":{ms},"emit":"{emit}","values_max":{values_max},"as":"figures","value_is":"sum"}}}}"#
        );
        Arc::new(serde_json::from_str(&rule).unwrap())
    }

    fn data(&self, reading: &Reading) -> String {
        let value = reading.number.map_or("null".to_owned(), |number| format!("{number:?}"));
        let one = format!(r#"{{"k":{},"v":{value},"at":{}}}"#, Value::from(KEYS[reading.key]), reading.at);
        if self.is_list { format!(r#"{{"list":[{one}],"of":{}}}"#, reading.at) } else { one }
    }
}

/// Figures as they are written.
type Figures = HashMap<String, Box<RawValue>>;

/// A reading with figures.
#[derive(Deserialize)]
struct One {
    k: String,
    v: Box<RawValue>,
    at: u64,
    aggregate: Figures,
}

/// Data with a list of readings.
#[derive(Deserialize)]
struct Several {
    list: Vec<One>,
    of: u64,
}

/// The run of a cluster.
struct Run<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    sent: u64,
    ids: Vec<NodeId>,
}

fn run(cluster: &Cluster) -> Result<(), String> {
    let channel = ChannelName::parse(CHANNEL, 200).unwrap();
    let flow = |at| ChannelFlow::new(&channel, vec![cluster.rule()], Some(at), instant(0));
    let node = |_| Node {
        before: flow(At::Ingest),
        after: flow(At::Delivery),
        accepted: HashMap::new(),
        merged: HashMap::new(),
        last_out: HashMap::new(),
        alarms: 0,
        got: HashMap::new(),
    };
    let ids = (0..cluster.nodes).map(|_| NodeId::random()).collect();
    let nodes = (0..cluster.nodes).map(node).collect();
    let mut run = Run { cluster, nodes, messages: Vec::new(), sent: 0, ids };
    let mut published: HashMap<usize, Vec<f64>> = HashMap::new();
    let mut alarms = 0;
    for (at, op) in &cluster.steps {
        run.until(*at)?;
        let mut out = Vec::new();
        match op {
            Op::Publish(node, reading) => {
                let frame =
                    event::published(CHANNEL, "reading", &serde_json::to_string(&cluster.data(reading)).unwrap());
                let target = &mut run.nodes[*node];
                target.before.publish(&Event::new(frame, None, instant(*at)), now(*at), &mut out);
                target.accepted.entry(reading.key).or_default().push(*reading);
                published.entry(reading.key).or_default().extend(reading.number);
                run.send(*at, *node, &out)?;
            }
            Op::Alarm(node) => {
                let frame = event::published(CHANNEL, "alarm", "\"{}\"");
                alarms += 1;
                run.nodes[*node].before.publish(&Event::new(frame, None, instant(*at)), now(*at), &mut out);
                run.send(*at, *node, &out)?;
            }
            Op::Drain(node) => {
                run.nodes[*node].before.flush(now(*at), &mut out);
                run.send(*at, *node, &out)?;
                ensure!(run.nodes[*node].before.is_idle(instant(*at)), "something is pending after a drain");
            }
        }
    }
    run.until(u64::MAX / 2)?;
    for (index, node) in run.nodes.iter().enumerate() {
        ensure!(node.alarms == alarms, "node {index} got {} of {alarms} alarms", node.alarms);
        for (key, numbers) in &published {
            let got = node.got.get(key).copied().unwrap_or_default();
            ensure!(got == numbers.len() as u64, "node {index}: {got} of {} numbers of {key}", numbers.len());
        }
    }
    Ok(())
}

impl Run<'_> {
    /// Does what is due until then.
    fn until(&mut self, until: u64) -> Result<(), String> {
        loop {
            let message = self.messages.iter().map(|message| message.at).min();
            let of = |flow: &ChannelFlow| flow.next().map(crate::run::since);
            let flows = self.nodes.iter().flat_map(|node| [of(&node.before), of(&node.after)]).flatten().min();
            let Some(at) = message.into_iter().chain(flows).min().filter(|at| *at <= until) else { return Ok(()) };
            for index in 0..self.nodes.len() {
                let mut out = Vec::new();
                self.nodes[index].before.run_due(now(at), &mut out);
                self.send(at, index, &out)?;
            }
            while let Some(next) = self.messages.iter().position(|message| message.at <= at) {
                let message = self.messages.remove(next);
                self.receive(at, message)?;
            }
            for index in 0..self.nodes.len() {
                let mut out = Vec::new();
                self.nodes[index].after.run_due(now(at), &mut out);
                self.delivered(at, index, &out)?;
            }
        }
    }

    /// Sends what a node makes of what it has accepted to all nodes, itself included.
    fn send(&mut self, at: u64, from: usize, events: &[Event]) -> Result<(), String> {
        for event in events {
            let mut parts = HashMap::new();
            if let Some(partial) = &event.partial {
                ensure!(partial.event == "reading", "figures of {}", partial.event);
                for figures in &partial.keys {
                    let key = KEYS.iter().position(|key| *key == figures.key).ok_or("an unknown key")?;
                    let mut readings = self.nodes[from].accepted.remove(&key).unwrap_or_default();
                    let count = readings.iter().filter(|reading| reading.number.is_some()).count();
                    ensure!(figures.count == count as u64, "{} instead of {count} numbers are sent", figures.count);
                    // A window without a number sends nothing, so readings before the first number may be gone.
                    let before = readings.iter().take_while(|reading| reading.number.is_none()).count();
                    let skipped = (readings.len() - count) as u64;
                    let gone = skipped.checked_sub(figures.skipped).ok_or("more are skipped than were published")?;
                    ensure!(gone <= before as u64, "{} instead of {skipped} are skipped", figures.skipped);
                    readings.drain(..gone as usize);
                    let oldest = readings.iter().map(|reading| reading.at).min().unwrap_or(at);
                    ensure!(at - oldest <= self.cluster.window, "figures are sent after more than a window");
                    parts.insert(key, Part(readings));
                }
            }
            self.sent += 1;
            let sent = RemoteEvent {
                node: self.ids[from],
                number: self.sent,
                accepted_micros: 0,
                except: event.except,
                cached_for_ms: 0,
                frame: event.frame.clone(),
                partial: event.partial.clone(),
            };
            let bytes = Bytes::from(sent.encode());
            for to in 0..self.nodes.len() {
                let at = if to == from { at } else { at + self.cluster.delays[from] };
                self.messages.push(Message { at, from, to, bytes: bytes.clone(), parts: parts.clone() });
            }
        }
        Ok(())
    }

    fn receive(&mut self, at: u64, message: Message) -> Result<(), String> {
        let Message { from, to, bytes, parts, .. } = message;
        let Ok(Envelope::Event(received)) = Envelope::decode(&bytes) else { return Err("a message is refused".into()) };
        ensure!(received.node == self.ids[from], "of another node");
        let event = Event { partial: received.partial, ..Event::new(received.frame, received.except, instant(at)) };
        let (node, mut out) = (&mut self.nodes[to], Vec::new());
        node.after.publish(&event, now(at), &mut out);
        let is_alarm = parts.is_empty();
        if !is_alarm && !out.is_empty() {
            // Windows that have just ended.
            self.delivered(at, to, &out)?;
            out.clear();
        }
        for (key, part) in parts {
            self.nodes[to].merged.entry(key).or_default().push(part);
        }
        if is_alarm {
            let last = out.pop().ok_or("an alarm does not pass")?;
            ensure!(event::name_and_data(&last.frame).unwrap().0 == "alarm", "something comes behind an alarm");
            self.nodes[to].alarms += 1;
            self.nodes[to].last_out.clear();
            self.delivered(at, to, &out)?;
            ensure!(self.nodes[to].merged.is_empty(), "an alarm is ahead of what is pending");
            self.nodes[to].last_out.clear();
        }
        Ok(())
    }

    /// The events that subscribers of a node get.
    fn delivered(&mut self, at: u64, index: usize, events: &[Event]) -> Result<(), String> {
        for event in events {
            ensure!(event.partial.is_none(), "subscribers get partial figures");
            let text = std::str::from_utf8(event.frame.payload()).unwrap();
            ensure!(!text.contains(r#""partial":"#), "subscribers see partial figures: {text}");
            let (name, data) = event::name_and_data(&event.frame).unwrap();
            ensure!(name == "figures", "its name is {name}");
            if self.cluster.is_map {
                for (key, figures) in serde_json::from_str::<HashMap<String, Figures>>(&data).unwrap() {
                    self.judge(at, index, &key, &figures, None)?;
                }
            } else {
                let one: One = match self.cluster.is_list {
                    true => serde_json::from_str::<Several>(&data).unwrap().list.pop().unwrap(),
                    false => serde_json::from_str(&data).unwrap(),
                };
                self.judge(at, index, &one.k, &one.aggregate, Some((&data, &one)))?;
            }
        }
        Ok(())
    }

    fn judge(
        &mut self,
        at: u64,
        index: usize,
        key: &str,
        figures: &Figures,
        template: Option<(&str, &One)>,
    ) -> Result<(), String> {
        let (node, window) = (&mut self.nodes[index], self.cluster.window);
        let key = KEYS.iter().position(|one| *one == key).ok_or("an unknown key")?;
        let parts = node.merged.remove(&key).ok_or("the same figures come again")?;
        if let Some(last) = node.last_out.insert(key, at) {
            ensure!(at - last >= window, "{key} comes after {} ns again", at - last);
        }
        let readings: Vec<Reading> = parts.iter().flat_map(|part| part.0.iter().copied()).collect();
        let oldest = readings.iter().map(|reading| reading.at).min().unwrap();
        let slowest = self.cluster.delays.iter().max().unwrap();
        ensure!(at - oldest <= 2 * window + slowest, "a reading comes after {} ns", at - oldest);
        let numbers: Vec<f64> = readings.iter().filter_map(|reading| reading.number).collect();
        *node.got.entry(key).or_default() += numbers.len() as u64;
        let is = |name: &str, expected: f64| {
            let got = figures.get(name).map_or("missing", |raw| raw.get());
            ensure!(got.parse() == Ok(expected), "{name} is {got} instead of {expected:?} of {numbers:?}");
            Ok(())
        };
        is("count", numbers.len() as f64)?;
        is("min", numbers.iter().copied().fold(f64::INFINITY, f64::min))?;
        is("max", numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max))?;
        sum_is_right(&numbers, figures["sum"].get())?;
        if self.cluster.is_map {
            let values = figures.get("values").map_or("[]", |raw| raw.get());
            let values = serde_json::from_str::<Vec<&RawValue>>(values).unwrap().len();
            let expected =
                parts.iter().map(|part| numbers_of(part).count().min(self.cluster.values_max)).sum::<usize>();
            ensure!(values == expected.min(self.cluster.values_max), "{values} values");
            return Ok(());
        }
        is("skipped", readings.iter().filter(|reading| reading.number.is_none()).count() as f64)?;
        let time = |reading: &Reading| UNIX_MS + reading.at / MS;
        is("from", readings.iter().map(time).min().unwrap() as f64)?;
        is("to", readings.iter().map(time).max().unwrap() as f64)?;
        // The clocks of the nodes decide. Of the same millisecond the figures that came first have the first number, and
        // those that came last the last.
        let first =
            parts.iter().filter_map(|part| numbers_of(part).next()).min_by_key(|reading| time(reading)).unwrap();
        let last = parts.iter().filter_map(|part| numbers_of(part).last()).max_by_key(|reading| time(reading)).unwrap();
        is("first", first.number.unwrap())?;
        is("last", last.number.unwrap())?;
        let (data, one) = template.unwrap();
        ensure!(one.at == last.at, "it is not made of the last event: {data}");
        ensure!(one.v.get() == figures["sum"].get(), "its value is {}", one.v);
        let of = if self.cluster.is_list { serde_json::from_str::<Several>(data).unwrap().of } else { last.at };
        ensure!(of == last.at, "it is not made of the last event: {data}");
        Ok(())
    }
}

fn numbers_of(part: &Part) -> impl Iterator<Item = &Reading> {
    part.0.iter().filter(|reading| reading.number.is_some())
}

fn sum_is_right(numbers: &[f64], sum: &str) -> Result<(), String> {
    let (exact, count) = (Exact::sum(numbers), numbers.len() as f64);
    if numbers.iter().map(|number| number.abs() / 4.0).sum::<f64>() > f64::MAX / 4.0 {
        ensure!(sum == "null" || exact.value().is_finite(), "the sum of {numbers:?} is {sum}");
        return Ok(());
    }
    let value = exact.value();
    let all = numbers.iter().map(|number| number.abs() / count).sum::<f64>();
    let slack = count * ulp(value) + count * count * count * f64::EPSILON * f64::EPSILON * all;
    let got: f64 = sum.parse().map_err(|error| format!("the sum of {numbers:?} is {sum}: {error}"))?;
    ensure!(exact.distance(got) <= slack, "the sum of {numbers:?} is {got} instead of {value}");
    Ok(())
}

/// Judges thousands of clusters.
pub fn hold(name: &str) {
    for seed in seeds(name) {
        let mut cluster = cluster(&mut Rng(seed));
        let Err(mut error) = run(&cluster) else { continue };
        for index in (0..cluster.steps.len()).rev() {
            let step = cluster.steps.remove(index);
            match run(&cluster) {
                Err(other) => error = other,
                Ok(()) => cluster.steps.insert(index, step),
            }
        }
        panic!("{error}\nGEMA_FLOW_SEED={seed}\n{cluster:#?}");
    }
}

/// A flow for subscribers under other rules than those of the node that has sent figures.
fn passes(rule: &str, partial: &Event) -> Vec<Event> {
    let channel = ChannelName::parse(CHANNEL, 200).unwrap();
    let rules = vec![Arc::new(serde_json::from_str(rule).unwrap())];
    let mut flow = ChannelFlow::new(&channel, rules, Some(At::Delivery), instant(0));
    let mut out = Vec::new();
    flow.publish(partial, now(1), &mut out);
    out
}

/// The figures of one reading.
fn figures(cluster: &Cluster) -> Event {
    let channel = ChannelName::parse(CHANNEL, 200).unwrap();
    let mut flow = ChannelFlow::new(&channel, vec![cluster.rule()], Some(At::Ingest), instant(0));
    let data = cluster.data(&Reading { at: 0, key: 0, number: Some(1.5) });
    let frame = event::published(CHANNEL, "reading", &serde_json::to_string(&data).unwrap());
    let mut out = Vec::new();
    flow.publish(&Event::new(frame, None, instant(0)), now(0), &mut out);
    flow.flush(now(1), &mut out);
    assert_eq!(out.len(), 1);
    out.remove(0)
}

#[test]
fn where_no_rule_merges_figures_they_pass_as_an_event() {
    let cluster = |is_map| Cluster {
        window: MS,
        is_map,
        is_list: false,
        values_max: 0,
        nodes: 1,
        delays: Vec::new(),
        steps: Vec::new(),
    };
    let aggregate = r#""aggregate":{"key":"k","value":"v","window_ms":60000"#;
    for (is_map, rule, is_merged) in [
        (false, r#"{"match":"*","conflate":{"key":"k","window_ms":60000}}"#.to_owned(), false),
        (false, r#"{"match":"*","events":["other"],"sample":{"every":2}}"#.to_owned(), false),
        (false, r#"{"match":"*","except":["reading"],"rate":{"per_second":0.5}}"#.to_owned(), false),
        (false, format!(r#"{{"match":"*",{aggregate}}}}}"#), true),
        (false, format!(r#"{{"match":"*","at":"ingest",{aggregate}}}}}"#), true),
        (false, format!(r#"{{"match":"*","at":"ingest",{aggregate},"emit":"map"}}}}"#), true),
        (true, format!(r#"{{"match":"*","at":"ingest",{aggregate},"emit":"map"}}}}"#), true),
        // An event with a map has no value in its place.
        (true, format!(r#"{{"match":"*","at":"ingest",{aggregate}}}}}"#), false),
        (false, format!(r#"{{"match":"*","at":"ingest",{aggregate},"each":"list"}}}}"#), false),
    ] {
        let partial = figures(&cluster(is_map));
        let frames: Vec<_> = passes(&rule, &partial).into_iter().map(|event| event.frame).collect();
        assert_eq!(frames, if is_merged { vec![] } else { vec![partial.frame] }, "{rule}");
    }
}
