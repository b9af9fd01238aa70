//! Escapes control characters in log lines, and prints equal lines in a row once, with their number.
//! `queue` passes each line through it.

use std::time::Duration;
use std::time::Instant;

/// How often a repeated line is printed.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// The last line, and how often it was repeated without being printed.
#[derive(Debug, Default)]
pub(super) struct RepeatFilter {
    last: String,
    printed: Option<Instant>,
    count: u64,
}

impl RepeatFilter {
    /// Appends the output for a line: the line, nothing, or the line before with its count. Control characters are
    /// escaped, so that no value can forge a line or control a terminal.
    pub(super) fn put(&mut self, line: &[u8], output: &mut Vec<u8>, now: Instant) {
        let line = escaped(&String::from_utf8_lossy(line));
        let repeated = content(&line) == content(&self.last);
        self.count += u64::from(repeated);
        if repeated && self.printed.is_some_and(|printed| now.duration_since(printed) < REPEATS_EVERY) {
            self.last = line;
            return;
        }
        match std::mem::take(&mut self.count) {
            0 => (),
            count if repeated => output.extend_from_slice(with_count(&line, count).as_bytes()),
            count => output.extend_from_slice(with_count(&self.last, count).as_bytes()),
        }
        if !repeated {
            output.extend_from_slice(line.as_bytes());
            output.push(b'\n');
        }
        self.last = line;
        self.printed = Some(now);
    }

    /// Appends the last line with its count, if it was repeated and the interval is over or the log ends.
    pub(super) fn flush_repeats(&mut self, output: &mut Vec<u8>, is_end: bool, now: Instant) {
        let is_due = is_end || self.printed.is_none_or(|printed| now.duration_since(printed) >= REPEATS_EVERY);
        if self.count > 0 && is_due {
            output.extend_from_slice(with_count(&self.last, std::mem::take(&mut self.count)).as_bytes());
            self.printed = Some(now);
        }
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
            // This form is also valid in JSON.
            control if control.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => escaped.push(other),
        }
    }
    escaped
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
