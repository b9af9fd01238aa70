//! What is measured each second: of the nodes by Linux and by their own figures, of Redis by itself.

use std::fs;
use std::time::Duration;

use support::barrier::Figures;
use support::process::Process;
use support::redis_server::run;

use crate::drift::Tolerance;
use crate::drift::median;

/// CPU times of `/proc` are in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is measured, in the order in which a sample has it. The node that is restarted begins a new series each hour:
/// it is not judged.
pub const MEASURES: [Measure; 14] = [
    Measure { name: "lasting node: memory", unit: "MiB", tolerance: Some(grown(0.05, 3.0)) },
    Measure { name: "restarted node: memory", unit: "MiB", tolerance: None },
    Measure { name: "lasting node: open files that are no clients", unit: "", tolerance: Some(grown(0.0, 3.0)) },
    Measure { name: "restarted node: open files that are no clients", unit: "", tolerance: None },
    Measure { name: "lasting node: threads", unit: "", tolerance: Some(grown(0.0, 0.5)) },
    Measure { name: "restarted node: threads", unit: "", tolerance: None },
    Measure { name: "lasting node: CPU", unit: "ms in a second", tolerance: None },
    Measure { name: "restarted node: CPU", unit: "ms in a second", tolerance: None },
    Measure { name: "lasting node: CPU for a message", unit: "µs", tolerance: Some(grown(0.25, 3.0)) },
    Measure { name: "connections, as both nodes say", unit: "", tolerance: None },
    Measure { name: "events that browsers got", unit: "in a second", tolerance: None },
    Measure { name: "events lost, doubled or out of order so far", unit: "", tolerance: None },
    Measure { name: "keys of Redis", unit: "", tolerance: Some(grown(0.05, 5.0)) },
    Measure { name: "memory of Redis", unit: "MiB", tolerance: Some(grown(0.05, 0.5)) },
];

/// One of the things that are measured.
pub struct Measure {
    pub name: &'static str,
    pub unit: &'static str,
    /// By how much it may grow, if it must not.
    pub tolerance: Option<Tolerance>,
}

const fn grown(part: f64, least: f64) -> Tolerance {
    Tolerance { part, least }
}

/// The values of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// NaN where there was nothing to measure.
    pub values: [f64; MEASURES.len()],
}

/// The median of each hour of one measure.
pub fn hours(samples: &[Sample], measure: usize, hour: Duration) -> Vec<f64> {
    let mut hours: Vec<Vec<f64>> = Vec::new();
    for sample in samples {
        let number = (sample.at / hour.as_secs_f64()) as usize;
        hours.resize_with(hours.len().max(number + 1), Vec::new);
        hours[number].extend(Some(sample.values[measure]).filter(|value| value.is_finite()));
    }
    hours.into_iter().filter(|hour| !hour.is_empty()).map(median).collect()
}

/// What Linux says of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub mebibytes: f64,
    pub files: usize,
    pub threads: f64,
    pub cpu_seconds: f64,
}

impl Usage {
    /// Of a process that may have ended.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |field: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, which may have spaces, ends with the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
        Some(Self {
            mebibytes: number("VmRSS:")? / 1024.0,
            files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: number("Threads:")?,
            cpu_seconds: ticks / TICKS_PER_SECOND,
        })
    }
}

/// What a node is at one moment, by Linux and by itself.
#[derive(Debug, Clone, Copy)]
pub struct NodeUsage {
    pub process: Usage,
    pub connections: f64,
    /// To clients, since its start.
    pub messages: f64,
}

impl NodeUsage {
    /// Of a node that may have ended.
    pub async fn of(node: &Process) -> Option<Self> {
        let figures = Figures::try_of(node.metrics_address, Duration::from_secs(5)).await?;
        let process = Usage::of(node.child.id()?)?;
        let connections = figures.sum("soketi_connected", "");
        Some(Self { process, connections, messages: figures.sum("soketi_ws_messages_sent_total", "") })
    }

    /// Files that are no connections of clients.
    pub fn own_files(&self) -> f64 {
        self.process.files as f64 - self.connections
    }
}

/// What Redis says of itself.
#[derive(Debug, Clone, Copy)]
pub struct RedisUsage {
    pub keys: f64,
    /// Those that do not expire by themselves.
    pub lasting_keys: f64,
    pub mebibytes: f64,
}

impl RedisUsage {
    pub async fn of(redis: &mut redis::aio::MultiplexedConnection) -> Self {
        let info: String = run(redis, &["INFO"]).await;
        let value = |start: &str| -> f64 {
            let rest = info.split_once(start).map_or("0", |(_, rest)| rest);
            rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let keys = value("db0:keys=");
        Self { keys, lasting_keys: keys - value(",expires="), mebibytes: value("used_memory:") / 1024.0 / 1024.0 }
    }
}
