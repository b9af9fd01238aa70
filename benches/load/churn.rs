//! Connections that come and go at a rate. Afterwards the server should be as it was.

use std::time::Duration;

use anyhow::Result;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::fanout::channel;
use crate::histogram::Histogram;
use crate::hub::{Hub, Nobody};
use crate::meter::{Meter, Usage};
use crate::options::{ChurnOptions, bounded};
use crate::report::Report;

/// Every connection takes the next of so many channels.
const CHANNELS: u64 = 1000;
/// When so many live at once the server is too slow, and what is due is skipped.
const LIVE_MAX: usize = 15_000;
/// How long stragglers are waited for.
const LAST_ONES: u64 = 10 * SECOND;
/// After everybody has left the server gets so long to notice.
const AFTERWARDS_S: f64 = 3.0;

/// Comes and goes, then compares.
pub(crate) fn run(options: &ChurnOptions) -> Result<Report> {
    let ChurnOptions { server, rate, live_ms, secs } = options;
    bounded(LIVE_MAX, *secs)?;
    let process = server.process()?;
    process.reset_peak();
    let target = server.target()?;
    let mut report = Report::default();
    report.put("scenario", "churn").put("label", server.label.as_str()).put("server", target.address.to_string());
    report.put("rate", *rate).put("live_ms", *live_ms).put("secs", *secs);
    let channels_before = target.get("/channels")?;
    let (rss_before, files_before) = (process.rss_kib(), process.open_files());
    let before = Usage::now(process, 0);

    let start = clock::now();
    let end = start + clock::nanos(*secs);
    let mut churn = Churn {
        hub: Hub::new(&target)?,
        live: Vec::new(),
        free: Vec::new(),
        live_for: live_ms * 1_000_000,
        times: Histogram::new(),
        opened: 0,
        finished: 0,
        failed: 0,
        skipped: 0,
    };
    let mut meter = Meter::new(process, start..end);
    while clock::now() < end || !(churn.live.is_empty() || clock::now() > end + LAST_ONES) {
        let now = clock::now();
        if now < end {
            churn.open_until(((now - start) as f64 / SECOND as f64 * rate) as u64 + 1)?;
        }
        churn.hub.poll(Duration::from_millis(1), &mut Nobody)?;
        churn.leave_those_done();
        meter.tick(|| churn.finished);
    }
    let after = Usage::now(process, 0);
    churn.failed += churn.live.len() as u64;
    churn.report(&mut report, after.seconds_since(&before));
    churn.hub.report(&mut report);
    churn.hub.leave_all();
    churn.hub.poll_for(AFTERWARDS_S, &mut Nobody)?;

    let channels_after = target.get("/channels")?;
    if process.known() {
        let cpu = after.server_cpu_since(&before);
        report
            .measured("server_cpu_s", cpu)
            .measured("server_cpu_us_per_connection", cpu * 1e6 / churn.finished as f64)
            .put("rss_kib_before", rss_before)
            .put("rss_kib_after", process.rss_kib())
            .put("fds_before", files_before)
            .put("fds_after", process.open_files());
    }
    meter.report_peaks(&mut report);
    meter.report_series(&mut report);
    report
        .measured("tool_cpu_s", after.own_cpu_since(&before))
        .put("channels_status", channels_after.0.as_str())
        .put("channels_as_before", channels_before == channels_after)
        .put("channels_after", channels_after.1.chars().take(200).collect::<String>());
    Ok(report)
}

struct Churn {
    hub: Hub,
    live: Vec<usize>,
    /// Places of clients that have gone.
    free: Vec<usize>,
    live_for: u64,
    times: Histogram,
    opened: u64,
    finished: u64,
    failed: u64,
    skipped: u64,
}

impl Churn {
    fn open_until(&mut self, due: u64) -> Result<()> {
        while self.opened + self.skipped < due {
            if self.live.len() >= LIVE_MAX {
                self.skipped = due - self.opened;
                break;
            }
            let channel = channel((self.opened % CHANNELS) as usize);
            let subscription = Subscription { channel, data: None };
            let client = match self.free.pop() {
                Some(client) => {
                    self.hub.reopen(client, subscription)?;
                    client
                }
                None => self.hub.open(subscription)?,
            };
            self.live.push(client);
            self.opened += 1;
        }
        Ok(())
    }

    fn leave_those_done(&mut self) {
        let now = clock::now();
        let mut live = std::mem::take(&mut self.live);
        live.retain(|&client| {
            let peer = &self.hub.clients[client];
            match peer.state {
                State::Ready if now >= peer.ready_at + self.live_for => {
                    self.times.record(peer.ready_at - peer.started);
                    self.hub.leave(client);
                    self.finished += 1;
                }
                State::Closed => self.failed += 1,
                _ => return true,
            }
            self.free.push(client);
            false
        });
        self.live = live;
    }

    fn report(&self, report: &mut Report, seconds: f64) {
        report
            .put("opened", self.opened)
            .put("finished", self.finished)
            .put("failed", self.failed)
            .put("skipped", self.skipped)
            .measured("churned_per_s", self.finished as f64 / seconds)
            .put("latency_ms", self.times.summary());
    }
}
