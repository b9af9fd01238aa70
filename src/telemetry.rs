//! Where log lines go and what they look like.

use std::io;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;
use crate::config::LogFormat;
use crate::config::LogLevel;

/// Prints what happens to stdout from now on.
///
/// # Errors
/// If the process already logs elsewhere.
pub fn init(log: &Log) -> anyhow::Result<()> {
    subscriber(log, io::stdout).try_init().context("the log cannot be set up")
}

/// One line per event: text, or JSON with the event's fields at the top level.
fn subscriber<W: Write + 'static>(
    log: &Log,
    output: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What libraries tell at debug and trace may quote what strangers sent, secrets included.
    let filter = Targets::new().with_target("gema", level).with_default(level.min(LevelFilter::WARN));
    // Without colours no escape sequence in the output is meant, so all of them can be defused.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false);
    let repeats = Arc::new(Mutex::new(Repeats::default()));
    let lines = lines.with_writer(move || Lines { output: output(), repeats: Arc::clone(&repeats) });
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(filter)
}

/// Writes log lines with their control characters escaped, so that no value can forge a line or
/// steer a terminal. Each write is a whole line, as the `fmt` layer makes them.
struct Lines<W> {
    output: W,
    repeats: Arc<Mutex<Repeats>>,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lines = self.repeats.lock().collapse(escaped(&String::from_utf8_lossy(line)), Instant::now());
        self.output.write_all(lines.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn escaped(line: &str) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut escaped = String::with_capacity(line.len() + 8);
    for letter in line.chars() {
        match letter {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            // This form is right in JSON, too.
            control if control.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => escaped.push(other),
        }
    }
    escaped
}

/// How often a line that repeats itself is printed.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// The last line, and how often it has come again without being printed.
#[derive(Default)]
struct Repeats {
    last: String,
    printed: Option<Instant>,
    count: u64,
}

impl Repeats {
    /// What to print for this line: itself, nothing, or the line before with its count.
    fn collapse(&mut self, line: String, now: Instant) -> String {
        let repeated = content(&line) == content(&self.last);
        self.count += u64::from(repeated);
        if repeated && self.printed.is_some_and(|printed| now.duration_since(printed) < REPEATS_EVERY) {
            self.last = line;
            return String::new();
        }
        let mut lines = match std::mem::take(&mut self.count) {
            0 => String::new(),
            count if repeated => with_count(&line, count),
            count => with_count(&self.last, count),
        };
        if !repeated {
            lines.push_str(&line);
            lines.push('\n');
        }
        self.last = line;
        self.printed = Some(now);
        lines
    }
}

/// A line without its time, which ends in the first `Z`.
fn content(line: &str) -> &str {
    line.split_once('Z').map_or(line, |(_, content)| content)
}

fn with_count(line: &str, count: u64) -> String {
    match line.strip_suffix('}') {
        Some(object) if line.starts_with('{') => format!("{object},\"repeated\":{count}}}\n"),
        _ => format!("{line} repeated={count}\n"),
    }
}

#[cfg(test)]
mod tests {
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

    fn logged(level: LogLevel, format: LogFormat, act: impl FnOnce()) -> String {
        let memory = Memory::default();
        let output = memory.clone();
        tracing::subscriber::with_default(subscriber(&Log { level, format }, move || output.clone()), act);
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
}
