//! fanout, firehose, publish, slow and floor: subscribers on one side, a publisher on the other.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::hub::{Hub, Nobody};
use crate::meter::Meter;
use crate::options::{Fan, ServerOptions};
use crate::process::Process;
use crate::publisher::{Pace, Published, Publisher, Publishing};
use crate::report::Report;
use crate::subscribers::Subscribers;

/// Between the last subscription and the first event.
const PAUSE: u64 = SECOND / 5;
/// The longest wait for deliveries, so that the end is noticed.
const WAIT_MAX: u64 = SECOND / 50;
/// Memory is looked at again so long after everybody has left.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// The n-th channel of all scenarios on public channels. The names have one length.
pub(crate) fn channel(n: usize) -> String {
    format!("bench-{n:05}")
}

impl Fan {
    /// The n-th channel. Those with a flow rule have another name, of the same length.
    pub(crate) fn channel(&self, n: usize) -> String {
        if self.ruled { format!("flood-{n:05}") } else { channel(n) }
    }
}

/// Runs the scenario against a server.
pub(crate) fn run(server: &ServerOptions, fan: &Fan) -> Result<Report> {
    let process = server.process()?;
    process.reset_peak();
    let mut report = Report::default();
    head(&mut report, server, fan)?;
    report.put("rss_kib_before", process.known().then(|| process.rss_kib()));

    let mut hub = Hub::new(&server.target()?)?;
    hub.compressed = fan.compressed;
    let stalled = (fan.scenario == "slow").then_some(fan.subs);
    let clients = fan.subs + usize::from(stalled.is_some());
    let subscriptions = (0..clients).map(|n| Subscription { channel: fan.channel(n % fan.channels), data: None });
    let begin = clock::now();
    let ready = hub.open_all(subscriptions, State::Ready, server.pace(), &mut Nobody)?;
    report.measured("connect_s", (clock::now() - begin) as f64 / SECOND as f64);
    if ready < clients {
        report.put("failed", "not all subscribers connected").put("ready", ready);
        hub.report(&mut report);
        return Ok(report);
    }
    report.put("rss_kib_connected", process.known().then(|| process.rss_kib()));

    let viewers = server.open_viewers()?;
    let start = clock::now() + PAUSE;
    let order = publishing(fan, start);
    let publisher = Publisher::new(&server.publish_target()?, order.clone())?;
    let progress = publisher.progress();
    let mut subscribers = Subscribers::new(progress, clients, fan.http_conns * fan.keys.max(1), order.measured.clone());
    subscribers.thinned = fan.ruled;
    if let Pace::Window(window) = fan.pace {
        subscribers.wake_publisher_each(order.listeners * window / 4);
    }
    if let Some(stalled) = stalled {
        subscribers.set_stalled(stalled);
        hub.stall(stalled)?;
    }
    let meter = Meter::new(process, order.measured.clone());
    let connecting = hub.bytes_read();
    let mut load = Load { fan, order, meter, hub, subscribers };
    let published = load.receive(publisher)?;
    load.report(&mut report, &published);
    let bytes = load.hub.bytes_read() - connecting;
    report.put("viewers", server.viewers).put("viewer_bytes", viewers.bytes());
    drop(viewers);
    report.measured("wire_bytes_per_delivery", bytes as f64 / load.subscribers.received as f64);
    if let Some(stalled) = stalled {
        load.read_what_is_left(stalled, process, &mut report)?;
    }
    report.put("rss_kib_loaded", process.known().then(|| process.rss_kib()));
    load.meter.report_peaks(&mut report);
    load.hub.report(&mut report);
    load.hub.leave_all();
    thread::sleep(AFTERWARDS);
    report.put("rss_kib_after", process.known().then(|| process.rss_kib()));
    Ok(report)
}

fn head(report: &mut Report, server: &ServerOptions, fan: &Fan) -> Result<()> {
    report
        .put("scenario", fan.scenario)
        .put("label", server.label.as_str())
        .put("server", server.target()?.address.to_string())
        .put("subs", fan.subs)
        .put("channels", fan.channels)
        .put("payload_bytes", fan.payload);
    match fan.pace {
        Pace::Rate(rate) => report.put("mode", "open").put("rate", rate),
        Pace::Window(window) => report.put("mode", "window").put("window", window),
        Pace::Answers => report.put("mode", "answers"),
    };
    report
        .put("http_conns", fan.http_conns)
        .put("batch", fan.batch)
        .put("keep_alive", fan.keep_alive)
        .put("secs", fan.secs)
        .put("warmup", fan.warmup)
        .put("nap_us", fan.nap_us);
    Ok(())
}

fn publishing(fan: &Fan, start: u64) -> Publishing {
    let from = start + clock::nanos(fan.warmup);
    Publishing {
        pace: fan.pace,
        http_conns: fan.http_conns,
        keep_alive: fan.keep_alive,
        batch: fan.batch,
        payload: fan.payload,
        readings: fan.scenario == "compression",
        keys: fan.keys,
        channels: (0..fan.channels).map(|n| fan.channel(n)).collect(),
        listeners: (fan.subs / fan.channels) as u64,
        start,
        measured: from..from + clock::nanos(fan.secs),
    }
}

/// A run under way.
struct Load<'a> {
    fan: &'a Fan,
    order: Publishing,
    meter: Meter,
    hub: Hub,
    subscribers: Subscribers,
}

impl Load<'_> {
    /// Receives until the publisher has ended and everything has come, or nothing comes any more.
    fn receive(&mut self, publisher: Publisher) -> Result<Published> {
        let progress = publisher.progress();
        let sender: JoinHandle<Result<Published>> = thread::spawn(move || publisher.run());
        let nap = Duration::from_micros(self.fan.nap_us);
        let (mut seen, mut last_news) = (0, clock::now());
        loop {
            // A receiver that sleeps in the poll makes the server pay for waking it.
            let wait = if nap.is_zero() { self.meter.due_in().min(WAIT_MAX) } else { 0 };
            self.hub.poll(Duration::from_nanos(wait), &mut self.subscribers)?;
            thread::sleep(nap);
            let received = self.subscribers.received;
            let silent = self.fan.subs == 0;
            self.meter.tick(|| if silent { progress.acknowledged() } else { received });
            let now = clock::now();
            if received != seen {
                (seen, last_news) = (received, now);
            }
            let complete = received >= self.expected(progress.acknowledged());
            // A moment more, for what comes twice.
            let patience = if complete { SECOND / 5 } else { clock::nanos(self.fan.drain) };
            if sender.is_finished() && now > last_news + patience && self.meter.finished() {
                break;
            }
        }
        sender.join().map_err(|_| anyhow!("the publisher panicked"))?
    }

    fn expected(&self, acknowledged: u64) -> u64 {
        acknowledged * self.order.listeners
    }

    fn report(&self, report: &mut Report, published: &Published) {
        let acknowledged = published.sent - published.failed;
        report
            .put("published", published.sent)
            .put("failed", published.failed)
            .measured("published_per_s", published.acknowledged_measured as f64 / self.fan.secs);
        self.subscribers.report(report, self.expected(acknowledged));
        self.meter.report(report, if self.fan.subs == 0 { "publish" } else { "delivery" });
        report
            .put("post_ms", published.answer_times.summary())
            .put("post_behind_schedule_ms", published.behind_schedule.summary())
            .put("post_statuses", json!(published.statuses))
            .put("post_reconnects", published.reconnects);
    }

    /// Reads everything that the server still has for the stalled subscriber.
    fn read_what_is_left(&mut self, stalled: usize, process: Process, report: &mut Report) -> Result<()> {
        let before = self.subscribers.received_by_stalled;
        report.put("rss_kib_end_of_stall", process.known().then(|| process.rss_kib()));
        self.meter.report_series(report);
        self.hub.resume(stalled)?;
        let (mut seen, mut last_news) = (before, clock::now());
        let deadline = clock::now() + 5 * SECOND;
        while clock::now() < deadline.min(last_news + SECOND) && self.hub.clients[stalled].state != State::Closed {
            self.hub.poll(Duration::from_millis(50), &mut self.subscribers)?;
            if self.subscribers.received_by_stalled != seen {
                (seen, last_news) = (self.subscribers.received_by_stalled, clock::now());
            }
        }
        let client = &self.hub.clients[stalled];
        report.put(
            "slow",
            json!({
                "sent_to_its_channel": report.number("expected").unwrap_or(0.0) as u64 / self.order.listeners,
                "received_before_resume": before,
                "received_after_resume": seen - before,
                "closed": client.state == State::Closed,
                "close_code": (client.state == State::Closed).then_some(client.close_code),
            }),
        );
        Ok(())
    }
}

/// Disconnects all clients and reports the memory that remains, for scenarios without a publisher.
pub(crate) fn leave(hub: &mut Hub, process: Process, seconds: f64, report: &mut Report) -> Result<()> {
    hub.leave_all();
    hub.poll_for(seconds, &mut Nobody)?;
    report.put("rss_kib_after", process.known().then(|| process.rss_kib()));
    Ok(())
}
