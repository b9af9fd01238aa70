//! An event of the log with its fields as text.
//! `source` makes records; `live` and `problems` keep them.

use std::fmt;
use std::fmt::Write;

use tracing::Event;
use tracing::Level;
use tracing::field::Field;
use tracing::field::Visit;

/// Bytes of one field, such as an event's data; the rest of a longer text is left out.
const FIELD_BYTES_MAX: usize = 2048;
/// Fields of one event; none of gema's own has as many.
const FIELDS_MAX: usize = 24;

/// An event of the log.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// How serious it is.
    pub level: Level,
    /// The module.
    pub target: &'static str,
    /// The sentence.
    pub text: String,
    /// The other fields, in the order of the event.
    pub fields: Vec<(&'static str, String)>,
}

impl Record {
    /// The event with its fields, each cut to a length that a page can show.
    pub(super) fn of(event: &Event<'_>, at_ms: u64) -> Self {
        let metadata = event.metadata();
        let mut record = Self {
            at_ms,
            level: *metadata.level(),
            target: metadata.target(),
            text: String::new(),
            fields: Vec::with_capacity(8),
        };
        event.record(&mut record);
        record
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| *own == name).map(|(_, value)| &**value)
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(_, value)| value.len() + size_of::<(&str, String)>()).sum();
        size_of::<Self>() + self.text.len() + fields
    }

    fn add(&mut self, field: &Field, value: &dyn fmt::Display) {
        let mut cut = Cut::default();
        // Fails at the limit.
        let _ = write!(cut, "{value}");
        if field.name() == "message" {
            self.text = cut.text;
        } else if self.fields.len() < FIELDS_MAX {
            self.fields.push((field.name(), cut.text));
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }
}

/// The beginning of a text.
#[derive(Default)]
struct Cut {
    text: String,
    /// The limit is reached: nothing is added any more, also for one who overlooks the error.
    is_full: bool,
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_full {
            return Err(fmt::Error);
        }
        let rest = FIELD_BYTES_MAX.saturating_sub(self.text.len());
        if text.len() <= rest {
            self.text.push_str(text);
            return Ok(());
        }
        let end = (0..=rest).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
        self.text.push_str(&text[..end]);
        self.text.push('…');
        self.is_full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_once_whatever_its_writer_does() {
        let mut cut = Cut::default();
        let long = "ä".repeat(FIELD_BYTES_MAX);
        for _ in 0..3 {
            let _ = cut.write_str(&long);
        }
        assert_eq!(cut.text, format!("{}…", "ä".repeat(FIELD_BYTES_MAX / 2)));
    }
}
