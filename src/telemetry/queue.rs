//! The queue and thread between the log and its output: no thread waits for a slow reader of the log.
//! `telemetry` starts it.

use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;

use std::time::Duration;
use std::time::Instant;

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::Unwritten;
use crate::metrics::count_unwritten;
use crate::telemetry::repeats::RepeatFilter;

/// Bytes that may wait for the output; further lines are dropped and counted.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Memory of a line besides its text.
const LINE_COST: usize = 64;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How often lost lines are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the output.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// The sending end: puts lines in without waiting.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    lines: Sender<Entry>,
    counters: Arc<QueueCounters>,
}

#[derive(Debug, Default)]
struct QueueCounters {
    waiting_bytes: AtomicUsize,
    /// Lines dropped and not reported yet.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// The process ends.
    End,
}

/// Keeps the log alive. Dropping it waits until all lines are written, for half a second at most.
#[derive(Debug)]
pub struct LogGuard {
    lines: Sender<Entry>,
    ended: Receiver<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if self.lines.send(Entry::End).is_ok() {
            // The thread drops its end when it is done.
            let _ = self.ended.recv_timeout(FLUSH_TIME);
        }
    }
}

/// Starts the queue and the thread that writes it. `report` is called about once a second, and may log.
pub(super) fn start(
    output: impl Write + Send + 'static,
    report: impl Fn() + Send + 'static,
) -> io::Result<(Queue, LogGuard)> {
    let (lines, entries) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let counters = Arc::<QueueCounters>::default();
    let thread = LogThread {
        entries,
        counters: Arc::clone(&counters),
        output,
        lines: RepeatFilter::default(),
        batch: Vec::new(),
    };
    std::thread::Builder::new().name("gema-log".to_owned()).spawn(move || {
        let _end = end;
        thread.run(report);
    })?;
    Ok((Queue { lines: lines.clone(), counters }, LogGuard { lines, ended }))
}

impl Queue {
    /// Whether the thread has taken all lines.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counters.waiting_bytes.load(Ordering::Relaxed) == 0
    }

    fn put(&self, line: &[u8]) {
        let cost = line.len() + LINE_COST;
        let before = self.counters.waiting_bytes.fetch_add(cost, Ordering::Relaxed);
        let fits = before + cost <= WAITING_BYTES_MAX;
        if !fits || self.lines.send(Entry::Line(line.to_vec())).is_err() {
            self.counters.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            count_unwritten(Unwritten::QueueFull, 1);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each write is a whole line, as the `fmt` layer makes them.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes the lines.
struct LogThread<W> {
    entries: Receiver<Entry>,
    counters: Arc<QueueCounters>,
    output: W,
    lines: RepeatFilter,
    batch: Vec<u8>,
}

impl<W: Write> LogThread<W> {
    fn run(mut self, report: impl Fn()) {
        let mut reported = Instant::now();
        loop {
            let ends = match self.entries.recv_timeout(REPORT_EVERY) {
                Ok(entry) => self.take(entry) || self.take_waiting(),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            self.write();
            if ends || reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                report();
                self.report_dropped();
                self.lines.flush_repeats(&mut self.batch, ends, reported);
            }
            if ends {
                self.take_waiting();
                self.lines.flush_repeats(&mut self.batch, ends, reported);
                self.write();
                return;
            }
        }
    }

    /// Takes further lines, up to the size of one write. Returns whether the log ends.
    fn take_waiting(&mut self) -> bool {
        while self.batch.len() < BATCH_BYTES {
            match self.entries.try_recv() {
                Ok(entry) => {
                    if self.take(entry) {
                        return true;
                    }
                }
                Err(_) => break,
            }
        }
        false
    }

    fn take(&mut self, entry: Entry) -> bool {
        let Entry::Line(line) = entry else { return true };
        self.counters.waiting_bytes.fetch_sub(line.len() + LINE_COST, Ordering::Relaxed);
        self.lines.put(&line, &mut self.batch, Instant::now());
        false
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let written = self.output.write_all(&self.batch).and_then(|()| self.output.flush());
        if written.is_err() {
            // Only the metrics can report it.
            let lines = self.batch.iter().filter(|&&byte| byte == b'\n').count();
            count_unwritten(Unwritten::Failed, lines as u64);
        }
        self.batch.clear();
    }

    fn report_dropped(&self) {
        let lines = self.counters.dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines of the log are lost, because whoever reads it does not keep up");
        }
    }
}
