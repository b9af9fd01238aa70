//! Connections: how fast they come, and what each of them costs.

use std::time::Duration;

use anyhow::Result;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::fanout::channel;
use crate::http::Pool;
use crate::hub::{Hub, Nobody, Receiver};
use crate::mark::{Mark, Payload};
use crate::meter::Usage;
use crate::options::{ConnectOptions, bounded};
use crate::process::{self, Process};
use crate::report::Report;

/// Bytes of a broadcast's data.
const TOUCH_BYTES: usize = 256;
/// Broadcasts that have not come after this will not come.
const TOUCH_PATIENCE: u64 = 10 * SECOND;
/// Servers free memory some time after clients have left.
const AFTERWARDS_S: f64 = 2.0;

/// Counts broadcasts.
#[derive(Default)]
struct Touched {
    place: usize,
    frames: u64,
}

impl Receiver for Touched {
    fn text(&mut self, _client: usize, text: &[u8], _now: u64) -> bool {
        let marked = Mark::find(text, &mut self.place).is_some();
        self.frames += u64::from(marked);
        marked
    }
}

/// Connects, holds, touches, leaves.
pub(crate) fn run(options: &ConnectOptions) -> Result<Report> {
    let ConnectOptions { server, conns, channels, hold, touch, compression } = options;
    let channels = (*channels).max(1);
    bounded(*conns, *hold)?;
    let process = server.process()?;
    process.reset_peak();
    let mut report = Report::default();
    report.put("scenario", "connect").put("label", server.label.as_str());
    report.put("server", server.target()?.address.to_string());
    let before = Snapshot::now(process);

    let mut hub = Hub::new(&server.target()?)?;
    hub.compressed = *compression;
    let subscriptions = (0..*conns).map(|n| Subscription { channel: channel(n % channels), data: None });
    let ready = hub.open_all(subscriptions, State::Ready, server.pace(), &mut Nobody)?;
    let connected = Usage::now(process, ready as u64);
    report.put("wanted", *conns).put("ready", ready).put("channels", channels).put("inflight", server.inflight);
    report_speed(&mut report, &hub, process, [&before.usage, &connected], ready);

    let mut touched = Touched::default();
    hub.poll_for(*hold, &mut touched)?;
    let held = Snapshot::now(process);
    report
        .measured("kernel_tcp_kib_per_connection", before.each(&held, ready, |snapshot| snapshot.tcp_kib))
        .measured("kernel_slab_kib_per_connection_both_ends", before.each(&held, ready, |snapshot| snapshot.slab_kib));
    if process.known() {
        report
            .put("rss_kib_before", before.rss_kib)
            .put("rss_kib_connected", held.rss_kib)
            .measured("rss_kib_per_connection", before.each(&held, ready, |snapshot| snapshot.rss_kib))
            .measured("idle_cpu_s", held.usage.server_cpu_since(&connected));
    }
    if *touch > 0 {
        broadcast(options, &mut hub, &mut touched, ready)?;
        let after = Snapshot::now(process);
        report.put("touch", *touch).put("touch_frames", touched.frames);
        report.put("touch_frames_expected", ready as u64 * u64::from(*touch));
        report.measured("rss_kib_per_connection_touched", before.each(&after, ready, |snapshot| snapshot.rss_kib));
    }
    report_end(&mut report, &mut hub, process, before.open_files)?;
    Ok(report)
}

fn report_speed(report: &mut Report, hub: &Hub, process: Process, [before, connected]: [&Usage; 2], ready: usize) {
    let seconds = connected.seconds_since(before);
    report
        .measured("connect_s", seconds)
        .measured("connections_per_s", ready as f64 / seconds)
        .put("latency_ms", hub.ready_times().summary())
        .measured("tool_cpu_s", connected.own_cpu_since(before));
    if process.known() {
        let cpu = connected.server_cpu_since(before);
        report.measured("server_cpu_s", cpu).measured("server_cpu_us_per_connection", cpu * 1e6 / ready as f64);
    }
}

fn report_end(report: &mut Report, hub: &mut Hub, process: Process, open_files_before: usize) -> Result<()> {
    hub.report(report);
    hub.leave_all();
    hub.poll_for(AFTERWARDS_S, &mut Touched::default())?;
    if process.known() {
        report
            .put("rss_kib_peak", process.rss_kib_peak())
            .put("rss_kib_after", process.rss_kib())
            .put("fds_before", open_files_before)
            .put("fds_after", process.open_files());
    }
    Ok(())
}

/// Publishes to every channel, `touch` times, and waits until everybody has everything.
fn broadcast(options: &ConnectOptions, hub: &mut Hub, touched: &mut Touched, ready: usize) -> Result<()> {
    let mut pool = Pool::new(&options.server.target()?, true)?;
    pool.connect(1)?;
    let mut payload = Payload::new(TOUCH_BYTES);
    for number in 0..options.touch {
        let data = String::from_utf8_lossy(payload.with(Mark { sent: 0, stream: 0, number })).into_owned();
        for channel in (0..options.channels.max(1)).map(channel) {
            let body = format!(r#"{{"name":"touch","data":"{data}","channels":["{channel}"]}}"#);
            pool.post_and_wait("/events", body.as_bytes(), || hub.poll(Duration::ZERO, touched))?;
        }
    }
    let deadline = clock::now() + TOUCH_PATIENCE;
    while touched.frames < ready as u64 * u64::from(options.touch) && clock::now() < deadline {
        hub.poll(Duration::from_millis(50), touched)?;
    }
    // Servers may give buffers back, or write what they put off.
    hub.poll_for(1.0, touched)
}

/// Memory and usage at one moment.
struct Snapshot {
    usage: Usage,
    rss_kib: u64,
    tcp_kib: u64,
    slab_kib: u64,
    open_files: usize,
}

impl Snapshot {
    fn now(process: Process) -> Self {
        Self {
            rss_kib: process.rss_kib(),
            tcp_kib: process::tcp_buffers_kib(),
            slab_kib: process::kernel_slab_kib(),
            open_files: process.open_files(),
            usage: Usage::now(process, 0),
        }
    }

    /// The increase until `later`, per connection.
    fn each(&self, later: &Self, connections: usize, field: impl Fn(&Self) -> u64) -> f64 {
        field(later).saturating_sub(field(self)) as f64 / connections as f64
    }
}
