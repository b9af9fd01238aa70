//! Counts log lines that were not written. The log belongs to the process, so all registries share the counter.
//! `telemetry` counts here.

use std::sync::LazyLock;

use prometheus::IntCounterVec;
use prometheus::Opts;
use prometheus::Registry;

/// Why a line was not written. The names are values of the label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// Too many of its kind within a second; their number is in the log.
    LeftOut,
    /// The reader of the log was too slow.
    QueueFull,
    /// The write failed.
    Failed,
}

impl Unwritten {
    const ALL: [Self; 3] = [Self::LeftOut, Self::QueueFull, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::LeftOut => "left_out",
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
        }
    }
}

static LINES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("gema_log_dropped_total", "Lines of the log that were not written, by cause");
    let lines = IntCounterVec::new(opts, &["cause"]).expect("names and labels are fixed and valid");
    for cause in Unwritten::ALL {
        lines.with_label_values(&[cause.label()]);
    }
    lines
});

/// Counts lines that were not written.
pub fn count_unwritten(cause: Unwritten, lines: u64) {
    LINES.with_label_values(&[cause.label()]).inc_by(lines);
}

pub(super) fn register(registry: &Registry) {
    registry.register(Box::new(LINES.clone())).expect("each name is registered once");
}
