//! From whoever logs to the output, by way of a queue and a thread: nobody waits for a reader of the log that stops.

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
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::Unwritten;
use crate::metrics::count_unwritten;
use crate::telemetry::lines::Lines;

/// Bytes that may wait for the output; further lines are dropped and counted.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a line costs besides its text.
const LINE_COST: usize = 64;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How often what has been left out is told.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the output.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// Where lines are put; whoever does so never waits.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    lines: Sender<Entry>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// Lines dropped, and not told yet.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// The process ends.
    End,
}

/// As long as it lives, lines are written. Its end waits until all have been, for half a second at most.
#[derive(Debug)]
pub struct Writer {
    lines: Sender<Entry>,
    ended: Receiver<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.lines.send(Entry::End).is_ok() {
            // The thread drops its end when it is done.
            let _ = self.ended.recv_timeout(FLUSH_TIME);
        }
    }
}

/// A queue and the thread that empties it. `report` is called about once a second, and may log.
pub(super) fn start(
    output: impl Write + Send + 'static,
    report: impl Fn() + Send + 'static,
) -> io::Result<(Queue, Writer)> {
    let (lines, entries) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let shared = Arc::<Shared>::default();
    let emptying =
        Emptying { entries, shared: Arc::clone(&shared), output, lines: Lines::default(), batch: Vec::new() };
    thread::Builder::new().name("gema-log".to_owned()).spawn(move || {
        let _end = end;
        emptying.run(report);
    })?;
    Ok((Queue { lines: lines.clone(), shared }, Writer { lines, ended }))
}

impl Queue {
    fn put(&self, line: &[u8]) {
        let cost = line.len() + LINE_COST;
        let before = self.shared.waiting_bytes.fetch_add(cost, Ordering::Relaxed);
        let fits = before + cost <= WAITING_BYTES_MAX;
        if !fits || self.lines.send(Entry::Line(line.to_vec())).is_err() {
            self.shared.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
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

/// The thread's part.
struct Emptying<W> {
    entries: Receiver<Entry>,
    shared: Arc<Shared>,
    output: W,
    lines: Lines,
    batch: Vec<u8>,
}

impl<W: Write> Emptying<W> {
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

    /// Takes what else waits, as far as it goes out at once. Returns whether this is the end.
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
        self.shared.waiting_bytes.fetch_sub(line.len() + LINE_COST, Ordering::Relaxed);
        self.lines.put(&line, &mut self.batch, Instant::now());
        false
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let written = self.output.write_all(&self.batch).and_then(|()| self.output.flush());
        if written.is_err() {
            // Nobody can be told but by the metrics.
            let lines = self.batch.iter().filter(|&&byte| byte == b'\n').count();
            count_unwritten(Unwritten::Failed, lines as u64);
        }
        self.batch.clear();
    }

    fn report_dropped(&self) {
        let lines = self.shared.dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines of the log are lost, because whoever reads it does not keep up");
        }
    }
}
