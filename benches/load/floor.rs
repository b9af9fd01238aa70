//! The floor: the same load against a bare loop of `send`, in a process of its own so that its CPU time can be
//! read and its cores chosen as those of a server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fanout;
use crate::meter::plural_per_cpu;
use crate::options::{Fan, FanOptions};
use crate::report::Report;

/// Fields of the floor's run that a comparison shows.
const SHOWN: [&str; 7] = [
    "delivery_per_s",
    "server_cpu_us_per_delivery",
    "server_cores",
    "lost",
    "published_per_s",
    "server_cpu_us_per_publish",
    "latency_ms",
];

/// A running floor server; ends with this value.
struct FloorServer {
    child: Child,
    port: u16,
}

impl FloorServer {
    fn start(cpus: Option<&str>) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = match cpus {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut child = command.arg("floor-server").stdout(Stdio::piped()).spawn().context("cannot start the floor")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let port = line.trim().parse().context("the floor did not say its port")?;
        Ok(Self { child, port })
    }
}

impl Drop for FloorServer {
    fn drop(&mut self) {
        // Nothing can be done about a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the fan-out against the floor.
pub(crate) fn run(options: &FanOptions, fan: &Fan) -> Result<Report> {
    let server = options.server.process()?;
    let cpus = options.floor_cpus.clone().or_else(|| server.cpus());
    let floor = FloorServer::start(cpus.as_deref())?;
    fanout::run(&options.server.redirected(floor.port, floor.child.id()), fan)
}

/// Adds to a server's report how near it came to the floor: 1 is the floor itself, 0.5 half as many deliveries
/// for the same CPU time.
pub(crate) fn compare(options: &FanOptions, fan: &Fan, report: &mut Report) -> Result<()> {
    let floor = run(options, fan)?;
    let field = plural_per_cpu(if fan.subs == 0 { "publish" } else { "delivery" });
    if let (Some(server), Some(bare)) = (report.number(&field), floor.number(&field)) {
        report.measured("ratio_to_floor", server / bare);
    }
    let shown: Value = SHOWN.iter().chain([&field.as_str()]).map(|name| (*name, floor.value(name))).collect();
    report.put("floor", json!(shown));
    Ok(())
}
