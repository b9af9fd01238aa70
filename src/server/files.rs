//! How the limit of open files is shared: by WebSockets, requests, and the streams of the operator's page.
//! `Server::start_with` asks it.

/// Descriptors that WebSockets leave to the HTTP API, files and listeners, so that publishing always works: a tenth of
/// the process' limit, within these bounds.
const RESERVE: std::ops::RangeInclusive<u64> = 64..=1024;
/// Streams of the operator's page at once, if there are files enough.
const STREAMS_MAX: usize = 100;

/// The WebSockets that may be open.
pub(super) fn sockets_max(configured: usize, open_files: u64) -> usize {
    if configured > 0 {
        return configured;
    }
    usize::try_from(open_files.saturating_sub(reserve(open_files))).unwrap_or(usize::MAX)
}

fn reserve(open_files: u64) -> u64 {
    (open_files / 10).clamp(*RESERVE.start(), *RESERVE.end())
}

/// The streams of the operator's page that may be open: most of the reserve stays for those who publish.
pub(super) fn streams_max(open_files: u64) -> usize {
    match open_files {
        // The limit is unknown.
        0 => STREAMS_MAX,
        open_files => usize::try_from(reserve(open_files) / 4).map_or(STREAMS_MAX, |streams| streams.min(STREAMS_MAX)),
    }
}

/// The files that all connections may have open. Half of the reserve is for everything else.
pub(super) fn files_max(open_files: u64) -> usize {
    match open_files {
        // The limit is unknown.
        0 => usize::MAX,
        open_files => usize::try_from(open_files.saturating_sub(reserve(open_files) / 2)).unwrap_or(usize::MAX),
    }
}
