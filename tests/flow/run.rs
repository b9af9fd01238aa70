//! Runs histories, and finds the shortest one that fails.

use std::collections::HashMap;
use std::env;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use gema::flow::channel::ChannelFlow;
use gema::flow::rule::FlowRule;
use gema::flow::thinning::Now;
use gema::protocol::channel::ChannelName;
use gema::protocol::event;
use gema::protocol::event::Event;
use gema::protocol::socket_id::SocketId;

use crate::history::History;
use crate::history::Input;
use crate::history::MS;
use crate::history::Op;
use crate::history::Rng;
use crate::history::Spec;
use crate::history::Step;
use crate::judge::Done;
use crate::judge::Judge;

/// Histories of each test: 13,000 together, in a build without optimization some 20 seconds of one core.
const HISTORIES: u64 = 1000;

/// The time of day when each history begins.
pub const UNIX_MS: u64 = 1_800_000_000_000;

static BASE: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_secs(60));

pub fn instant(at: u64) -> Instant {
    *BASE + Duration::from_nanos(at)
}

/// Nanoseconds since the history began.
pub fn since(instant: Instant) -> u64 {
    instant.saturating_duration_since(*BASE).as_nanos() as u64
}

pub fn now(at: u64) -> Now {
    Now { instant: instant(at), unix_ms: UNIX_MS + at / MS }
}

/// Each published event has a time of its own, by which it is known again.
pub fn accepted(at: u64, sequence: usize) -> Instant {
    instant(at) - Duration::from_millis(1) + Duration::from_nanos(sequence as u64)
}

pub fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

pub fn seeds(name: &str) -> impl Iterator<Item = u64> {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let first = number("GEMA_FLOW_SEED");
    let seed = first.unwrap_or_else(|| Rng(since_1970).next());
    let histories = number("GEMA_FLOW_HISTORIES").unwrap_or(HISTORIES);
    println!("{name}: {histories} histories, GEMA_FLOW_SEED={seed}");
    (0..histories).map(move |index| seed.wrapping_add(index))
}

/// Judges thousands of histories.
pub fn hold(name: &str, make: impl Fn(&mut Rng) -> History) {
    judge_all(name, make, |history| run(history).map(|_| ()));
}

/// Judges thousands of histories on two nodes, which get the events of different keys in different orders.
pub fn hold_on_two_nodes(name: &str, make: impl Fn(&mut Rng) -> History) {
    judge_all(name, make, |history| {
        let here = run(history)?;
        let there = run(&delayed(history)).map_err(|error| format!("the other node: {error}"))?;
        // A key that keeps its place is never flushed for want of it, so both nodes have the last of each key.
        for (key, last) in &here {
            if there.get(key) != Some(last) {
                return Err(format!("{key:?} ends with {last:?} here and {:?} there", there.get(key)));
            }
        }
        Ok(())
    });
}

fn judge_all(name: &str, make: impl Fn(&mut Rng) -> History, judge: impl Fn(&History) -> Result<(), String>) {
    let judge = |history: &History| {
        let outcome = catch_unwind(AssertUnwindSafe(|| judge(history)));
        outcome.unwrap_or_else(|_| Err("it panics".to_owned()))
    };
    for seed in seeds(name) {
        let history = make(&mut Rng(seed));
        if let Err(error) = judge(&history) {
            let (history, error) = shortest(history, error, &judge);
            let rules: Vec<_> = history.sets.iter().map(|set| set.iter().map(Spec::json).collect::<Vec<_>>()).collect();
            let mut text = format!("{error}\nGEMA_FLOW_SEED={seed}\n{}: {rules:#?}\n", history.channel);
            for Step { at, late, op } in &history.steps {
                let op = match op {
                    Op::Publish(Input { name, data, except, .. }) => format!("{name} {data} {except}"),
                    other => format!("{other:?}"),
                };
                text += &format!("{:>12} ns, late {late:?}: {op}\n", at);
            }
            panic!("{text}");
        }
    }
}

/// Leaves out steps as long as it still fails.
fn shortest(
    mut history: History,
    mut error: String,
    judge: &impl Fn(&History) -> Result<(), String>,
) -> (History, String) {
    loop {
        let length = history.steps.len();
        for index in (0..length).rev() {
            let mut less = history.clone();
            less.steps.remove(index);
            if let Err(other) = judge(&less) {
                (history, error) = (less, other);
            }
        }
        if history.steps.len() == length {
            return (history, error);
        }
    }
}

/// The same history on a node to which the events of some keys come a little later.
fn delayed(history: &History) -> History {
    let mut steps = history.steps.clone();
    let has_keys = history.sets[0][0].key.is_some() && history.channel == "flood";
    for step in &mut steps {
        if let Op::Publish(input) = &step.op {
            let key = input.single.key.as_deref().filter(|_| has_keys);
            let publisher = key.unwrap_or(input.name).bytes().map(u64::from).sum::<u64>() % 3;
            step.at += publisher * 7 * MS;
        }
    }
    steps.sort_by_key(|step| step.at);
    History { steps, ..history.clone() }
}

fn rules(specs: &[Spec]) -> Vec<Arc<FlowRule>> {
    specs.iter().map(|spec| Arc::new(serde_json::from_str(&spec.json()).unwrap())).collect()
}

/// Runs a history under the eyes of the judge. Returns the last event of each rule and key.
pub fn run(history: &History) -> Result<HashMap<(usize, String), String>, String> {
    let channel = ChannelName::parse(history.channel, 200).unwrap();
    let mut flow = ChannelFlow::new(&channel, rules(&history.sets[0]), None, instant(0));
    let mut judge = Judge::new(history);
    let (mut out, mut sequence, mut at) = (Vec::new(), 0, 0);
    for step in &history.steps {
        if let Some(late) = step.late {
            run_due(&mut flow, &mut judge, &mut at, (late, step.at))?;
        }
        at = at.max(step.at);
        out.clear();
        match &step.op {
            Op::Publish(input) => {
                let data = serde_json::to_string(&input.data).unwrap();
                let frame = match input.name.starts_with("client-") {
                    true => event::client_event(history.channel, input.name, &data, None),
                    false => event::published(history.channel, input.name, &data),
                };
                let except = input.except.then(|| SocketId::parse("12.34").unwrap());
                let event = Event::new(frame, except, accepted(at, sequence));
                flow.publish(&event, now(at), &mut out);
                judge.after(at, Done::Publish(input, event, sequence), &out, &mut flow)?;
                sequence += 1;
            }
            Op::Run => {
                flow.run_due(now(at), &mut out);
                judge.after(at, Done::Run, &out, &mut flow)?;
            }
            Op::Flush => {
                flow.flush(now(at), &mut out);
                judge.after(at, Done::Flush, &out, &mut flow)?;
            }
            Op::Join => judge.joined(at, &flow.snapshot(instant(at)))?,
            Op::Replace(set) => {
                flow.flush(now(at), &mut out);
                judge.after(at, Done::Flush, &out, &mut flow)?;
                judge.count(&mut flow);
                flow.replace_rules(&channel, rules(&history.sets[*set]), instant(at));
                judge.replaced(at, &history.sets[*set])?;
            }
        }
    }
    end(&mut flow, judge, at)
}

/// Calls `run_due` as often as it is due, always so late, until `until`.
fn run_due(flow: &mut ChannelFlow, judge: &mut Judge, at: &mut u64, (late, until): (u64, u64)) -> Result<(), String> {
    let mut out = Vec::new();
    for _ in 0..1000 {
        let Some(due) = flow.next().map(|next| since(next) + late).filter(|&due| due <= until) else { return Ok(()) };
        *at = due.max(*at);
        out.clear();
        flow.run_due(now(*at), &mut out);
        judge.after(*at, Done::Run, &out, flow)?;
    }
    Err("next() does not come to an end".to_owned())
}

/// After long silence nothing is pending, each event is counted, and the channel can be forgotten.
fn end(flow: &mut ChannelFlow, mut judge: Judge, mut at: u64) -> Result<HashMap<(usize, String), String>, String> {
    let long = at + 3_600_000 * MS;
    run_due(flow, &mut judge, &mut at, (0, long))?;
    judge.nothing_is_pending()?;
    if let Some(next) = flow.next() {
        return Err(format!("something is due after silence, at {}", since(next)));
    }
    let last = judge.last_of_each_key();
    judge.joined(long, &flow.snapshot(instant(long)))?;
    if !judge.counts_silent_keys() && !flow.is_idle(instant(long)) {
        return Err("it is not idle after silence".to_owned());
    }
    judge.count(flow);
    judge.counts_are_right()?;
    Ok(last)
}
