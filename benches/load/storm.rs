//! All users of a channel are cut off, miss the same events, and come back at once. Another channel's publisher measures
//! meanwhile how long a request takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::histogram::Histogram;
use crate::http::Pool;
use crate::hub::{Hub, Receiver};
use crate::mark::{Mark, Payload};
use crate::meter::Usage;
use crate::options::{ServerOptions, StormOptions, bounded};
use crate::redis;
use crate::report::Report;
use crate::target::Target;

const CHANNEL: &str = "private-storm";
/// Nobody listens to it.
const BYSTANDER: &str = "private-bystander";
/// Between two requests of the bystander.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the bystander publishes while nothing else happens.
const QUIET: Duration = Duration::from_secs(3);
/// After so long without an event no more will come.
const PATIENCE: u64 = 5 * SECOND;
/// Until then the server has noticed that everybody is gone.
const GONE: u64 = 30 * SECOND;

/// Each user's events: how many came, and how many did not follow the one before.
struct Missed {
    place: usize,
    next: Vec<u32>,
    events: u64,
    out_of_order: u64,
    last: u64,
}

impl Missed {
    fn new(users: usize) -> Self {
        Self { place: 0, next: vec![0; users], events: 0, out_of_order: 0, last: clock::now() }
    }
}

impl Receiver for Missed {
    fn text(&mut self, client: usize, text: &[u8], now: u64) -> bool {
        let Some(mark) = Mark::find(text, &mut self.place) else { return false };
        self.events += 1;
        self.out_of_order += u64::from(mark.number != self.next[client]);
        self.next[client] = mark.number + 1;
        self.last = now;
        true
    }
}

/// Joins, is cut off, misses, returns.
pub(crate) fn run(options: &StormOptions) -> Result<Report> {
    let StormOptions { server, users, events, payload, redis } = options;
    bounded(*users, 0.0)?;
    let (process, target) = (server.process()?, server.target()?);
    process.reset_peak();
    let mut report = Report::default();
    report.put("scenario", "storm").put("label", server.label.as_str()).put("server", target.address.to_string());
    report.put("users", *users).put("events", *events).put("payload_bytes", *payload);
    report.put("rss_kib_before", process.known().then(|| process.rss_kib()));

    let quiet = Bystander::start(server)?;
    thread::sleep(QUIET);
    report.put("quiet_post_ms", quiet.stop()?.summary());

    let mut first = arrive(options, 0, &mut report, "join")?;
    report.put("rss_kib_joined", process.known().then(|| process.rss_kib()));
    first.cut_all()?;
    until_empty(&target)?;
    publish(&target, *events, *payload)?;
    report.put("rss_kib_missed", process.known().then(|| process.rss_kib()));

    let scripts_before = redis.map(redis::script_calls).transpose()?;
    process.reset_peak();
    let before = Usage::now(process, 0);
    let mut hub = arrive(options, u64::from(*events), &mut report, "return")?;
    let after = Usage::now(process, 0);
    if process.known() {
        report.put("return_rss_kib_peak", process.rss_kib_peak());
        report.measured("return_server_cpu_us_each", after.server_cpu_since(&before) * 1e6 / *users as f64);
    }
    if let (Some(redis), Some(calls)) = (redis, scripts_before) {
        report.measured("redis_scripts_each", (redis::script_calls(*redis)? - calls) as f64 / *users as f64);
    }
    hub.report(&mut report);
    hub.cut_all()?;
    report.put("rss_kib_after", process.known().then(|| process.rss_kib()));
    Ok(report)
}

/// All users subscribe and get so many events each, while the bystander publishes.
fn arrive(options: &StormOptions, events: u64, report: &mut Report, name: &str) -> Result<Hub> {
    let StormOptions { server, users, .. } = options;
    let mut hub = Hub::new(&server.target()?)?;
    let mut missed = Missed::new(*users);
    let expected = events * *users as u64;
    let bystander = Bystander::start(server)?;
    let begin = clock::now();
    let ready = hub.open_all((0..*users).map(user), State::Ready, server.pace(), &mut missed)?;
    while missed.events < expected && clock::now() < missed.last + PATIENCE {
        hub.poll(Duration::from_millis(50), &mut missed)?;
    }
    let seconds = (clock::now() - begin) as f64 / SECOND as f64;
    report
        .put(&format!("{name}_ready"), ready)
        .measured(&format!("{name}_s"), seconds)
        .put(&format!("{name}_latency_ms"), hub.ready_times().summary())
        .put(&format!("{name}_post_ms"), bystander.stop()?.summary());
    if events > 0 {
        report.put("received", missed.events).put("expected", expected).put("out_of_order", missed.out_of_order);
    }
    Ok(hub)
}

fn user(n: usize) -> Subscription {
    Subscription { channel: CHANNEL.to_owned(), data: Some(json!({ "user_id": format!("user-{n:06}") }).to_string()) }
}

fn until_empty(target: &Target) -> Result<()> {
    let deadline = clock::now() + GONE;
    while target.get("/channels").context("the server does not answer")?.1.contains(CHANNEL) {
        ensure!(clock::now() < deadline, "the server still counts subscribers that are gone");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn publish(target: &Target, events: u32, payload: usize) -> Result<()> {
    let mut pool = Pool::new(target, true)?;
    pool.connect(1)?;
    let mut payload = Payload::new(payload);
    for number in 0..events {
        let data = String::from_utf8_lossy(payload.with(Mark { sent: 0, stream: 0, number })).into_owned();
        let body = format!(r#"{{"name":"missed","data":"{data}","channels":["{CHANNEL}"]}}"#);
        let status = pool.post_and_wait("/events", body.as_bytes(), || Ok(()))?;
        ensure!(status == 200, "an event was answered with {status}");
    }
    Ok(())
}

/// Publishes one event after the other on a channel without subscribers.
struct Bystander {
    thread: JoinHandle<Result<Histogram>>,
    stop: Arc<AtomicBool>,
}

impl Bystander {
    fn start(server: &ServerOptions) -> Result<Self> {
        let mut pool = Pool::new(&server.publish_target()?, true)?;
        pool.connect(1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let has_stopped = Arc::clone(&stop);
        let body = format!(r#"{{"name":"bystander","data":"{{}}","channels":["{BYSTANDER}"]}}"#);
        let thread = thread::spawn(move || {
            let mut times = Histogram::new();
            while !has_stopped.load(Ordering::Relaxed) {
                let begin = clock::now();
                let status = pool.post_and_wait("/events", body.as_bytes(), || Ok(()))?;
                ensure!(status == 200, "the bystander's event was answered with {status}");
                times.record(clock::now() - begin);
                thread::sleep(PAUSE);
            }
            Ok(times)
        });
        Ok(Self { thread, stop })
    }

    fn stop(self) -> Result<Histogram> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the bystander panicked"))?
    }
}
