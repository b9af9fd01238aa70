//! Memory, CPU and open files of the process, read from the system, under Soketi's names.
//! Prometheus' registry collects them.

use procfs::CurrentSI;
use procfs::KernelStats;
use procfs::ProcResult;
use procfs::process::LimitValue;
use prometheus::Counter;
use prometheus::Gauge;
use prometheus::Opts;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::core::Describer;
use prometheus::proto::MetricFamily;

/// Names behind the prefix, those of counters first.
const COUNTERS: [(&str, &str); 3] = [
    ("process_cpu_user_seconds_total", "CPU time spent in the program"),
    ("process_cpu_system_seconds_total", "CPU time spent in the kernel"),
    ("process_cpu_seconds_total", "CPU time spent"),
];
const GAUGES: [(&str, &str); 6] = [
    ("process_start_time_seconds", "When the process started, since 1970"),
    ("process_resident_memory_bytes", "Memory in use"),
    ("process_virtual_memory_bytes", "Address space in use"),
    ("process_heap_bytes", "Address space for data"),
    ("process_open_fds", "Open files and sockets"),
    ("process_max_fds", "Files and sockets that may be open"),
];

/// Reads from the system when collected.
pub(super) struct Process {
    counters: Vec<Opts>,
    gauges: Vec<Opts>,
    descriptions: Vec<Desc>,
}

impl Process {
    /// `port` is the main port, a label.
    pub(super) fn new(prefix: &str, port: &str) -> Self {
        let named = |(name, help): &(&str, &str)| Opts::new(format!("{prefix}{name}"), *help).const_label("port", port);
        let counters: Vec<Opts> = COUNTERS.iter().map(named).collect();
        let gauges: Vec<Opts> = GAUGES.iter().map(named).collect();
        let describe = |opts: &Opts| opts.describe().expect("names and labels are fixed and valid");
        Self { descriptions: counters.iter().chain(&gauges).map(describe).collect(), counters, gauges }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Without values from the system, such as for a moment without a free descriptor, there is nothing to collect.
        let Ok((counts, levels)) = read() else { return Vec::new() };
        let counters = self.counters.iter().zip(counts).flat_map(|(opts, value)| {
            let counter = Counter::with_opts(opts.clone()).expect("it has been described");
            counter.inc_by(value);
            counter.collect()
        });
        let gauges = self.gauges.iter().zip(levels).flat_map(|(opts, value)| {
            let gauge = Gauge::with_opts(opts.clone()).expect("it has been described");
            gauge.set(value);
            gauge.collect()
        });
        counters.chain(gauges).collect()
    }
}

/// The values of the counters and of the gauges.
fn read() -> ProcResult<([f64; 3], [f64; 6])> {
    let process = procfs::process::Process::myself()?;
    let (stat, status) = (process.stat()?, process.status()?);
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    let (user, system) = (seconds(stat.utime), seconds(stat.stime));
    // In whole seconds, like Soketi: panels take what follows the last blank for digits alone.
    let started = (KernelStats::current()?.btime as f64 + seconds(stat.starttime)).floor();
    let resident = (stat.rss * procfs::page_size()) as f64;
    let data = status.vmdata.unwrap_or_default() as f64 * 1024.0;
    let open_max = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(files) => files as f64,
    };
    let open = process.fd_count()? as f64;
    Ok(([user, system, user + system], [started, resident, stat.vsize as f64, data, open, open_max]))
}
