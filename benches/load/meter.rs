//! Watches the server while a scenario runs.

use std::ops::Range;

use crate::clock::{self, SECOND};
use crate::process::{self, Cpu, Process};
use crate::report::Report;

/// How often memory is noted.
const SAMPLE_EVERY: u64 = SECOND / 5;
/// So many numbers of a series are printed.
const SERIES_MAX: usize = 30;

/// Resources used up to one moment.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    at: u64,
    server: Cpu,
    own: f64,
    machine: f64,
    count: u64,
}

impl Usage {
    /// As of now; `count` is what the scenario has counted.
    pub(crate) fn now(process: Process, count: u64) -> Self {
        Self {
            at: clock::now(),
            server: process.cpu(),
            own: process::own_cpu(),
            machine: process::machine_busy(),
            count,
        }
    }

    /// Seconds since `earlier`.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at) as f64 / SECOND as f64
    }

    /// The server's CPU seconds since `earlier`.
    pub(crate) fn server_cpu_since(&self, earlier: &Self) -> f64 {
        self.server.since(earlier.server).total()
    }

    /// The tool's CPU seconds since `earlier`.
    pub(crate) fn own_cpu_since(&self, earlier: &Self) -> f64 {
        self.own - earlier.own
    }
}

/// Usage at both ends of the measured time, and memory all along.
pub(crate) struct Meter {
    process: Process,
    measured: Range<u64>,
    begin: Option<Usage>,
    end: Option<Usage>,
    next_sample: u64,
    rss_kib: Vec<u64>,
    tcp_kib: Vec<u64>,
}

impl Meter {
    /// Measures within this time.
    pub(crate) fn new(process: Process, measured: Range<u64>) -> Self {
        Self { process, measured, begin: None, end: None, next_sample: 0, rss_kib: Vec::new(), tcp_kib: Vec::new() }
    }

    /// To be called often; takes what is due.
    pub(crate) fn tick(&mut self, count: impl Fn() -> u64) {
        let now = clock::now();
        if self.begin.is_none() && now >= self.measured.start {
            self.begin = Some(Usage::now(self.process, count()));
        }
        if self.end.is_none() && now >= self.measured.end {
            self.end = Some(Usage::now(self.process, count()));
        }
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE_EVERY;
            self.rss_kib.push(self.process.rss_kib());
            self.tcp_kib.push(process::tcp_buffers_kib());
        }
    }

    /// Nanoseconds until the next end of the measured time.
    pub(crate) fn due_in(&self) -> u64 {
        let next = if self.begin.is_none() { self.measured.start } else { self.measured.end };
        if self.finished() { u64::MAX } else { next.saturating_sub(clock::now()) }
    }

    /// Whether the measured time is over.
    pub(crate) fn finished(&self) -> bool {
        self.end.is_some()
    }

    /// Rates and CPU for each `unit` within the measured time.
    pub(crate) fn report(&self, report: &mut Report, unit: &str) {
        let (Some(begin), Some(end)) = (&self.begin, &self.end) else { return };
        let seconds = end.seconds_since(begin);
        let count = (end.count - begin.count) as f64;
        report.measured("measured_s", seconds).measured(&format!("{unit}_per_s"), count / seconds);
        if self.process.known() {
            let cpu = end.server.since(begin.server);
            report
                .measured("server_cpu_s", cpu.total())
                .measured("server_cpu_user_s", cpu.user)
                .measured("server_cpu_sys_s", cpu.system)
                .measured("server_cores", cpu.total() / seconds)
                .measured(&format!("server_cpu_us_per_{unit}"), cpu.total() * 1e6 / count)
                .measured(&plural_per_cpu(unit), count / cpu.total());
        }
        let own = end.own_cpu_since(begin);
        report
            .measured("tool_cpu_s", own)
            .measured(&format!("tool_cpu_us_per_{unit}"), own * 1e6 / count)
            .measured("machine_busy_s", end.machine - begin.machine);
    }

    /// The highest memory of the server and of the kernel's buffers.
    pub(crate) fn report_peaks(&self, report: &mut Report) {
        report.put("tcp_mem_kib_peak", self.tcp_kib.iter().copied().max());
        if self.process.known() {
            let sampled = self.rss_kib.iter().copied().max().unwrap_or(0);
            report.put("rss_kib_peak", sampled.max(self.process.rss_kib_peak()));
        }
    }

    /// Memory over time.
    pub(crate) fn report_series(&self, report: &mut Report) {
        report.put("rss_kib_series", thinned(&self.rss_kib)).put("tcp_mem_kib_series", thinned(&self.tcp_kib));
    }
}

/// The field that states how much a CPU second achieves.
pub(crate) fn plural_per_cpu(unit: &str) -> String {
    match unit.strip_suffix('y') {
        Some(stem) => format!("{stem}ies_per_server_cpu_s"),
        None => format!("{unit}es_per_server_cpu_s"),
    }
}

fn thinned(series: &[u64]) -> Vec<u64> {
    let step = series.len().div_ceil(SERIES_MAX).max(1);
    series.iter().copied().step_by(step).collect()
}
