//! What a flow rule saves and costs: the same flood on a channel with a rule and on one without, in turns, to many
//! subscribers and to one; and what thinning alone costs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use gema::flow::channel::ChannelFlow;
use gema::flow::rule::FlowRule;
use gema::flow::thinning::Now;
use gema::protocol::channel::ChannelName;
use gema::protocol::event::{self, Event};
use serde_json::{Value, json};

use crate::fanout;
use crate::mark::{Mark, Payload};
use crate::options::{Fan, ServerOptions};
use crate::report::{Report, rounded};

/// The server's rule, as `GEMA_LIMITS_FLOW_RULES` has it. The other channels of this tool begin with `bench-`.
const RULE: &str = r#"{"match":"flood-*","conflate":{"key":"key","window_ms":250}}"#;
/// Each kind of run once is one turn.
const TURNS: usize = 2;
/// Events of one measurement of thinning alone.
const EVENTS: usize = 20_000;
/// The least of so many measurements counts: others were interrupted.
const MEASUREMENTS: usize = 10;

/// Runs of one kind.
struct Runs {
    name: &'static str,
    reports: Vec<Report>,
}

impl Runs {
    fn new(name: &'static str) -> Self {
        Self { name, reports: Vec::new() }
    }

    fn mean(&self, field: &str) -> f64 {
        let values: Vec<f64> = self.reports.iter().filter_map(|run| run.number(field)).collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// The server's CPU for one published event, however many it took.
    fn cpu_us_per_event(&self) -> f64 {
        self.mean("server_cores") * 1e6 / self.mean("published_per_s")
    }

    fn details(&self) -> Vec<Value> {
        let fields = [
            "published_per_s",
            "delivery_per_s",
            "server_cores",
            "deliveries",
            "thinned",
            "lost",
            "duplicates",
            "out_of_order",
            "latency_ms",
            "dropped_conns",
            "close_codes",
            "failed",
            "errors",
            "post_behind_schedule_ms",
            "machine_busy_s",
        ];
        self.reports.iter().map(|run| fields.iter().map(|field| (*field, run.value(field))).collect()).collect()
    }
}

/// Runs the scenario.
pub(crate) fn run(server: &ServerOptions, fan: &Fan) -> Result<Report> {
    let mut kinds = ["plain", "ruled", "one_plain", "one_ruled"].map(Runs::new);
    for _ in 0..TURNS {
        for (place, runs) in kinds.iter_mut().enumerate() {
            let (ruled, subs) = (place % 2 == 1, if place < 2 { fan.subs } else { 1 });
            let report = fanout::run(server, &Fan { ruled, subs, ..fan.clone() })?;
            ensure!(
                !ruled || report.number("thinned").is_some_and(|thinned| thinned > 0.0),
                "nothing was thinned; start the server with GEMA_LIMITS_FLOW_RULES='[{RULE}]', and publish more than \
                 four events a second for each key"
            );
            runs.reports.push(report);
        }
    }
    let [plain, ruled, one_plain, one_ruled] = &kinds;
    let ratio = |field: &str| ruled.mean(field) / plain.mean(field);
    let mut report = Report::default();
    report.put("scenario", "flow").put("label", server.label.as_str()).put("subs", fan.subs).put("keys", fan.keys);
    report
        .measured("plain_deliveries_per_s", plain.mean("delivery_per_s"))
        .measured("ruled_deliveries_per_s", ruled.mean("delivery_per_s"))
        .measured("plain_server_cores", plain.mean("server_cores"))
        .measured("ruled_server_cores", ruled.mean("server_cores"))
        .measured("server_cpu_ratio", ratio("server_cores"))
        .measured("server_cpu_ratio_per_event", ruled.cpu_us_per_event() / plain.cpu_us_per_event())
        .put("staleness_ms", ruled.reports.last().map(|run| run.value("latency_ms")))
        .measured("one_plain_cpu_us_per_event", one_plain.cpu_us_per_event())
        .measured("one_ruled_cpu_us_per_event", one_ruled.cpu_us_per_event())
        .put("thinning_us_per_event", thinning_us(fan)?);
    for runs in &kinds {
        report.put(runs.name, runs.details());
    }
    Ok(report)
}

/// Microseconds of the rule alone for one event, without server: the data is read, the key found, the event kept or
/// delivered. Time passes as at 10,000 events per second.
fn thinning_us(fan: &Fan) -> Result<Value> {
    let rule: FlowRule = serde_json::from_str(RULE)?;
    let channel = ChannelName::parse(&fan.channel(0), 200)?;
    let began = Instant::now();
    let mut payload = Payload::keyed(fan.payload);
    let events: Vec<Event> = (0..fan.keys)
        .map(|key| {
            payload.set_key(key);
            let data = String::from_utf8_lossy(payload.with(Mark { sent: 0, stream: 0, number: 0 })).into_owned();
            Event::new(event::published(channel.as_str(), "order.shipped", &format!("\"{data}\"")), None, began)
        })
        .collect();
    let mut flow = ChannelFlow::new(&channel, vec![Arc::new(rule)], None, began);
    let (mut out, mut number, mut least) = (Vec::new(), 0, f64::INFINITY);
    for _ in 0..MEASUREMENTS {
        let start = Instant::now();
        for _ in 0..EVENTS {
            let instant = began + Duration::from_micros(100 * number as u64);
            flow.publish(black_box(&events[number % events.len()]), Now { instant, unix_ms: 0 }, &mut out);
            black_box(&mut out).clear();
            number += 1;
        }
        least = least.min(start.elapsed().as_secs_f64() * 1e6 / EVENTS as f64);
    }
    Ok(json!(rounded(least)))
}
