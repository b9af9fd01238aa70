//! The CPU time and the memory of the process, for the page of figures.
//! `dashboard` reads them once a second.

/// The use of the system by the process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time since the start.
    pub cpu_seconds: f64,
    /// Memory in use.
    pub memory_bytes: u64,
}

/// The use so far, if the system tells.
#[cfg(target_os = "linux")]
pub fn usage() -> Option<Usage> {
    let process = procfs::process::Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let cpu_seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Some(Usage { cpu_seconds, memory_bytes: stat.rss * procfs::page_size() })
}

/// The use so far, if the system tells.
#[cfg(not(target_os = "linux"))]
pub fn usage() -> Option<Usage> {
    None
}
