//! TOML, with the line of every value.
//! `file` calls it.

use std::ops::Range;

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::origin::Origin;

/// The settings of `text`. Messages quote nothing of it, since that may be a secret.
pub(in crate::config) fn read(name: &str, text: &str) -> Result<Map<String, Value>, String> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message: Vec<&str> = error.message().lines().collect();
        format!("{name}:{}: {}", line(text, at), message.join(": "))
    })?;
    File { name, text }.table(table.into_inner())
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn table(&self, table: DeTable<'_>) -> Result<Map<String, Value>, String> {
        table.into_iter().map(|(key, value)| Ok((key.into_inner().into_owned(), self.value(value)?))).collect()
    }

    fn value(&self, value: Spanned<DeValue<'_>>) -> Result<Value, String> {
        let origin = self.origin(value.span());
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(ValueKind::I64)
                .map_err(|_| format!("{origin}: this number is too large"))?,
            DeValue::Float(number) => {
                number.as_str().parse().map(ValueKind::Float).map_err(|_| format!("{origin}: this is not a number"))?
            }
            DeValue::Boolean(truth) => ValueKind::Boolean(truth),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(items) => {
                ValueKind::Array(items.into_iter().map(|item| self.value(item)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => ValueKind::Table(self.table(table)?),
        };
        Ok(origin.value(kind))
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::line(self.name, line(self.text, span.start))
    }
}

/// The number of the line in which byte `at` of `text` is.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}
