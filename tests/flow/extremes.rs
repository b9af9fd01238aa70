//! Very many keys, and a time of day that jumps.

use std::collections::HashMap;
use std::sync::Arc;

use gema::flow::channel::ChannelFlow;
use gema::flow::rule::FlowRule;
use gema::flow::thinning::Now;
use gema::protocol::channel::ChannelName;
use gema::protocol::event;
use gema::protocol::event::Event;
use serde_json::Value;

use crate::history::MS;
use crate::run::UNIX_MS;
use crate::run::instant;
use crate::run::now;
use crate::run::number as number_of;

const CHANNEL: &str = "scada";
const KEYS_MAX: usize = 1000;

fn flow(rule: &str) -> ChannelFlow {
    let rule: FlowRule = serde_json::from_str(rule).unwrap();
    ChannelFlow::new(&ChannelName::parse(CHANNEL, 20).unwrap(), vec![Arc::new(rule)], None, instant(0))
}

fn event(data: &str, at: u64) -> Event {
    let literal = serde_json::to_string(data).unwrap();
    Event::new(event::published(CHANNEL, "reading", &literal), None, instant(at))
}

fn data(event: &Event) -> String {
    event::name_and_data(&event.frame).unwrap().1.into_owned()
}

/// How many keys there are: a million with `GEMA_FLOW_KEYS=1000000`, which takes a minute without optimization.
fn keys() -> usize {
    number_of("GEMA_FLOW_KEYS").map_or(50_000, |keys| keys as usize)
}

/// Publishes an event of each of very many keys. Beyond `keys_max` nothing waits, and in the end nothing is missing.
fn very_many_keys(rule: &str, of_event: impl Fn(&str) -> usize) {
    let (mut flow, all) = (flow(rule), keys());
    let (mut came, mut out) = (vec![false; all], Vec::new());
    let mut count = 0;
    for key in 0..=all {
        match key {
            _ if key == all => flow.flush(now(0), &mut out),
            _ => flow.publish(&event(&format!(r#"{{"k":"sensor-{key}","v":{key}}}"#), 0), now(0), &mut out),
        }
        for event in out.drain(..) {
            let seen = std::mem::replace(&mut came[of_event(&data(&event))], true);
            assert!(!seen, "each key comes once");
            count += 1;
        }
        assert!(key == all || key + 1 - count <= KEYS_MAX, "{} keys wait", key + 1 - count);
    }
    assert_eq!(count, all);
}

fn number(text: &str) -> usize {
    serde_json::from_str::<Value>(text).unwrap()["v"].as_u64().unwrap() as usize
}

#[test]
fn very_many_keys_that_wait_for_a_rate_are_bounded_and_complete() {
    very_many_keys(r#"{"match":"*","rate":{"per_second":0.001,"burst":1,"key":"k"}}"#, number);
}

#[test]
fn very_many_keys_of_figures_are_bounded_and_complete() {
    very_many_keys(r#"{"match":"*","aggregate":{"key":"k","value":"v","window_ms":3600000}}"#, number);
}

/// The time of day jumps by days, forwards and back: intervals do not change.
#[test]
fn jumps_of_the_time_of_day_change_no_window() {
    for rule in [
        r#"{"match":"*","conflate":{"key":"k","window_ms":250}}"#,
        r#"{"match":"*","aggregate":{"key":"k","value":"v","window_ms":250}}"#,
        r#"{"match":"*","rate":{"per_second":3,"key":"k"},"snapshot":{"max_age_seconds":1}}"#,
        r#"{"match":"*","sample":{"every":4,"key":"k","trailing":true}}"#,
    ] {
        let run = |jump: fn(u64) -> i64| {
            let (mut flow, mut came) = (flow(rule), Vec::new());
            for step in 0..400_u64 {
                let at = step * 17 * MS;
                let unix_ms = UNIX_MS.saturating_add_signed(jump(step));
                let now = Now { instant: instant(at), unix_ms };
                let mut out = Vec::new();
                if step % 3 == 0 {
                    flow.run_due(now, &mut out);
                } else {
                    flow.publish(&event(&format!(r#"{{"k":{},"v":{step}}}"#, step % 4), at), now, &mut out);
                }
                let newcomer = flow.snapshot(now.instant).len();
                for event in out {
                    let mut data: HashMap<String, Value> = serde_json::from_str(&data(&event)).unwrap();
                    if let Some(Value::Object(figures)) = data.get_mut("aggregate") {
                        // They are times of day.
                        figures.retain(|name, _| name != "from" && name != "to");
                    }
                    came.push((step, serde_json::to_value(data).unwrap(), newcomer));
                }
            }
            came
        };
        let steady = run(|step| step as i64 * 17);
        assert!(steady.len() > 20, "{rule}");
        for jump in [(|step| -(step as i64) * 86_400_000) as fn(u64) -> i64, |step| (step as i64 % 5 - 2) * 86_400_000]
        {
            assert_eq!(run(jump), steady, "{rule}");
        }
    }
}
