//! The limit of open files of the running server.
//! `doctor` runs it where the configuration is known.

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::report::Step;
use crate::config::Config;

const STEP: &str = "files";
/// Fewer are too few for a server that many pages use.
const FILES_MIN: u64 = 4096;

/// Tests whether there are enough for the connections that the configuration allows.
pub(super) fn check(config: &Config) -> Step {
    let Some(limit) = limit_of_server(config.server.port) else {
        let reason = "no server that this user may look at listens on server.port; on its machine, root may";
        return Step::skipped(STEP, reason);
    };
    let connections_max = u64::try_from(config.connections.connections_max).unwrap_or(u64::MAX);
    if limit <= connections_max {
        let detail =
            format!("the running server may open {limit}, and connections.connections_max is {connections_max}");
        return Step::failed(STEP, Cause::OpenFiles, detail);
    }
    if limit < FILES_MIN {
        return Step::failed(STEP, Cause::OpenFiles, format!("the running server may open {limit}"));
    }
    Step::passed(STEP, format!("the running server may open {limit}"))
}

/// The limit of the process that listens on this port. `None` if there is none, or it belongs to somebody else.
#[cfg(target_os = "linux")]
fn limit_of_server(port: u16) -> Option<u64> {
    use procfs::net::TcpState;
    use procfs::process::FDTarget;
    use procfs::process::LimitValue;

    let entries = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
    let listens =
        |entry: &procfs::net::TcpNetEntry| entry.state == TcpState::Listen && entry.local_address.port() == port;
    let inodes: Vec<u64> = entries.filter(listens).map(|entry| entry.inode).collect();
    if inodes.is_empty() {
        return None;
    }
    let is_owner = |process: &procfs::process::Process| {
        process.fd().is_ok_and(|files| {
            files.flatten().any(|file| matches!(file.target, FDTarget::Socket(inode) if inodes.contains(&inode)))
        })
    };
    let owner = procfs::process::all_processes().ok()?.flatten().find(is_owner)?;
    match owner.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit),
        LimitValue::Unlimited => Some(u64::MAX),
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_of_server(_: u16) -> Option<u64> {
    None
}
