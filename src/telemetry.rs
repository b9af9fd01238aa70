//! The log: its format, its level, and where its lines go.
//! `cli` sets it up at the start.

mod budget;
mod queue;
mod repeats;

use std::io;
use std::sync::Arc;

use anyhow::Context;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing_subscriber::layer::{Context as LayerContext, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

pub use queue::LogGuard;

use crate::config::Log;
use crate::config::LogFormat;
use crate::config::LogLevel;
use crate::telemetry::budget::BudgetLayer;
use crate::telemetry::budget::LogBudget;
use crate::telemetry::queue::Queue;
use crate::watch::Watch;
use crate::watch::source::PAGE_ONLY;
use crate::watch::source::Source;
use crate::watch::source::SourceFilter;
use crate::watch::verbosity::Verbosity;

/// Logs to stdout from now on, until the returned guard is dropped. The operator's page gets the events, too, if there is
/// one.
///
/// # Errors
/// If the process already logs elsewhere, or the system has no thread for it.
pub fn init(log: &Log, watch: Option<Arc<Watch>>) -> anyhow::Result<(LogGuard, Arc<Verbosity>)> {
    let budget = LogBudget::default();
    let reported = budget.clone();
    let (queue, writer) = queue::start(io::stdout(), move || reported.report())?;
    let verbosity = Verbosity::new(level(log.level));
    let lines = subscriber(log, queue, budget, Arc::clone(&verbosity));
    let outcome = match watch {
        Some(watch) => lines.with(Source(Arc::clone(&watch)).with_filter(SourceFilter::new(watch))).try_init(),
        None => lines.try_init(),
    };
    outcome.context("the log cannot be set up")?;
    Ok((writer, verbosity))
}

/// The filter for a level of the settings.
pub fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Decides which events the log gets, by a level that may change.
struct LogFilter(Arc<Verbosity>);

impl LogFilter {
    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let level = self.0.level();
        // Debug and trace lines of libraries may quote input of clients, secrets included.
        let is_ours = metadata.target().starts_with("gema");
        metadata.target() != PAGE_ONLY
            && *metadata.level() <= if is_ours { level } else { level.min(LevelFilter::WARN) }
    }
}

impl<S> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &LayerContext<'_, S>) -> bool {
        self.allows(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        // `Verbosity` has the places asked again when it changes.
        if self.allows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.level())
    }
}

/// One line per event: text, or JSON with the event's fields at the top level.
fn subscriber(
    log: &Log,
    queue: Queue,
    budget: LogBudget,
    verbosity: Arc<Verbosity>,
) -> impl Subscriber + Send + Sync + for<'a> LookupSpan<'a> {
    // Without colours the output has no escape sequences of its own, so all of them can be escaped.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(queue);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let filter = LogFilter(Arc::clone(&verbosity));
    tracing_subscriber::registry().with(BudgetLayer { layer: lines, budget, verbosity }.with_filter(filter))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;
    use std::time::Instant;

    use parking_lot::Mutex;
    use tracing::{debug, info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn of_level(log: &Log, queue: Queue, budget: LogBudget) -> impl Subscriber + Send + Sync {
        subscriber(log, queue, budget, Verbosity::new(super::level(log.level)))
    }

    fn logged(level: LogLevel, format: LogFormat, act: impl FnOnce()) -> String {
        let (memory, budget) = (Memory::default(), LogBudget::default());
        let (queue, writer) = queue::start(memory.clone(), || ()).unwrap();
        tracing::subscriber::with_default(of_level(&Log { level, format }, queue, budget.clone()), || {
            act();
            budget.report();
        });
        drop(writer);
        let bytes = memory.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_has_the_fields_at_the_top_level() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            let _span = info_span!("connection", socket_id = "1.2").entered();
            info!(workers = 4, "ready");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["workers"]), (&"ready".into(), &4.into()));
        assert_eq!((&line["level"], &line["span"]["socket_id"]), (&"INFO".into(), &"1.2".into()));
    }

    #[test]
    fn repeats_are_counted_instead_of_printed() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(LogLevel::Info, format, || {
                (0..5).for_each(|_| warn!(app = "a", "wrong key"));
                warn!(app = "b", "wrong key");
            });
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[1].contains("repeated") && lines[1].contains('4'), "{text}");
            assert!(lines[2].contains('b'), "{text}");
        }
    }

    #[test]
    fn no_value_can_forge_a_line_or_steer_a_terminal() {
        let evil = "x\n\r\u{1b}[2J\u{9b}2J\u{7f}";
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(LogLevel::Info, format, || warn!(%evil, debugged = ?evil, "refused {evil}"));
            assert!(text.ends_with('\n'));
            assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
            assert_eq!(text.lines().count(), 1);
            if format == LogFormat::Json {
                let line: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert!(line["evil"].as_str().unwrap().starts_with("x\n\r"));
            }
        }
    }

    #[test]
    fn less_serious_events_and_chatty_libraries_are_left_out() {
        let text = logged(LogLevel::Info, LogFormat::Text, || debug!("detail"));
        assert_eq!(text, "");
        let text = logged(LogLevel::Trace, LogFormat::Text, || {
            debug!(target: "hyper", "bytes");
            debug!("detail");
        });
        assert!(text.contains("detail") && !text.contains("bytes"));
    }

    #[test]
    fn a_cause_has_so_many_lines_and_then_a_number() {
        let began = Instant::now();
        let text = logged(LogLevel::Debug, LogFormat::Text, || {
            for number in 0..500 {
                let name = number % 2;
                warn!(cause = "a", name, number, "refused");
                debug!(number, "published");
            }
            warn!(cause = "b", "refused");
        });
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        let seconds = began.elapsed().as_secs() as usize;
        assert!((10..10 * (seconds + 3)).contains(&count("refused cause=\"a\"")), "{text}");
        assert!((100..100 * (seconds + 2)).contains(&count("published")), "{text}");
        assert_eq!(count("refused cause=\"b\""), 1, "{text}");
        let left_out: usize =
            text.lines().filter_map(|line| line.split_once("lines=")?.1.split(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(left_out + count("refused cause=\"a\"") + count("published"), 1000, "{text}");
    }

    #[test]
    fn nobody_waits_for_an_output_that_stops() {
        /// Accepts nothing while the gate is locked.
        struct Stuck(Arc<Mutex<()>>, Memory);

        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _open = self.0.lock();
                self.1.write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (gate, memory) = (Arc::new(Mutex::new(())), Memory::default());
        let closed = gate.lock();
        let (queue, writer) = queue::start(Stuck(Arc::clone(&gate), memory.clone()), || ()).unwrap();
        let all_taken = queue.clone();
        let log = Log { level: LogLevel::Info, format: LogFormat::Text };
        let long = "x".repeat(1000);
        tracing::subscriber::with_default(of_level(&log, queue, LogBudget::default()), || {
            for number in 0..10_000 {
                // Logged as the command line does: without a budget.
                warn!(target: "gema::cli", number, long);
            }
        });
        drop(closed);
        // The guard alone waits for half a second only.
        let until = Instant::now() + Duration::from_secs(30);
        let written = || memory.0.lock().iter().filter(|byte| **byte == b'\n').count();
        while !all_taken.is_empty() || written() < 3000 {
            assert!(Instant::now() < until, "the log is not written");
            std::thread::yield_now();
        }
        drop(writer);
        let text = String::from_utf8(memory.0.lock().clone()).unwrap();
        assert!(text.lines().next().unwrap().contains("number=0 "), "the beginning is lost");
        let lines = text.lines().count();
        assert!((3000..6000).contains(&lines), "{lines} lines have been kept");
    }
}
