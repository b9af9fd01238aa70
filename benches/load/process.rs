//! Reads `/proc` about the server under test, this tool and the machine.

use std::fs;

/// Linux gives CPU times to user space in hundredths of a second, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// In the program.
    pub(crate) user: f64,
    /// In the kernel for it.
    pub(crate) system: f64,
}

impl Cpu {
    /// Both together.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// The CPU time between `earlier` and this.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// The server's process and all its living descendants, or nothing if its id was not given.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: Option<u32>,
}

impl Process {
    /// Looks at the process with this id.
    pub(crate) fn new(pid: Option<u32>) -> Self {
        Self { pid }
    }

    /// Whether there is anything to look at.
    pub(crate) fn known(self) -> bool {
        self.pid.is_some()
    }

    /// CPU time so far, with that of children that have ended.
    pub(crate) fn cpu(self) -> Cpu {
        self.tree().into_iter().fold(Cpu::default(), |sum, pid| {
            let cpu = cpu_of(&pid.to_string());
            Cpu { user: sum.user + cpu.user, system: sum.system + cpu.system }
        })
    }

    /// Resident memory.
    pub(crate) fn rss_kib(self) -> u64 {
        self.status("VmRSS:")
    }

    /// Highest resident memory since [`Process::reset_peak`].
    pub(crate) fn rss_kib_peak(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Lets the kernel note the peak anew. Where that is not allowed the peak is the process's whole life's.
    pub(crate) fn reset_peak(self) {
        for pid in self.tree() {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// Open files. Slow with many of them, so for before and after only.
    pub(crate) fn open_files(self) -> usize {
        self.tree().iter().filter_map(|pid| Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())).sum()
    }

    /// The CPUs on which the process may run, as `taskset -c` understands them.
    pub(crate) fn cpus(self) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(list.trim().to_owned())
    }

    fn tree(self) -> Vec<u32> {
        let mut pids = Vec::from_iter(self.pid);
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            next += 1;
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        pids
    }

    fn status(self, field: &str) -> u64 {
        self.tree().iter().map(|pid| kib(&format!("/proc/{pid}/status"), field)).sum()
    }
}

/// CPU time of this tool so far, in seconds.
pub(crate) fn own_cpu() -> f64 {
    cpu_of("self").total()
}

/// Kernel objects that cannot be reclaimed, sockets among them: of the whole machine.
pub(crate) fn kernel_slab_kib() -> u64 {
    kib("/proc/meminfo", "SUnreclaim:")
}

/// Busy seconds of all CPUs together since boot.
pub(crate) fn machine_busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let times = line.split_whitespace().skip(1).map(|time| time.parse::<f64>().unwrap_or(0.0));
    // user, nice, system, (idle, iowait,) irq, softirq
    times.take(7).enumerate().filter(|(place, _)| ![3, 4].contains(place)).map(|(_, time)| time).sum::<f64>()
        / TICKS_PER_SECOND
}

/// Bytes in the TCP buffers of the whole machine, in KiB.
pub(crate) fn tcp_buffers_kib() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = text.lines().find(|line| line.starts_with("TCP:")).and_then(|line| line.split(" mem ").nth(1));
    pages.and_then(|pages| pages.trim().parse::<u64>().ok()).unwrap_or(0) * 4
}

fn cpu_of(pid: &str) -> Cpu {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name may hold blanks and brackets; the numbers begin behind its last bracket.
    let numbers = text.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| numbers.split_whitespace().nth(field).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    Cpu { user: (ticks(11) + ticks(13)) / TICKS_PER_SECOND, system: (ticks(12) + ticks(14)) / TICKS_PER_SECOND }
}

fn kib(path: &str, field: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
